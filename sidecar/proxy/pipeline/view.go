package pipeline

import "unsafe"

// viewString is b as a string; b must not change while the string lives.
func viewString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
