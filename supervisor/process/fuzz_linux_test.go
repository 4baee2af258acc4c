package process

import "testing"

// A stat line that is taken names a process, whatever the process is called.
func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a b) c) S 1 2 3 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1\n"))
	f.Add([]byte("1 () Z 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 7"))
	f.Add([]byte("(("))
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := parseStat(b); err != nil && i != (Info{}) {
			t.Fatalf("%q: %+v and %v", b, i, err)
		}
	})
}
