package runner

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// An address of /proc/net/tcp that is taken can be written as it was.
func FuzzParseHexAddr(f *testing.F) {
	for _, s := range []string{"0100007F:1F90", "00000000000000000000000001000000:0050", "0100007F", ":", "zz:zz", "0100007F:1F901"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := parseHexAddr(s)
		if !ok {
			return
		}
		b := a.Addr().AsSlice()
		for i := 0; i < len(b); i += 4 {
			binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
		}
		host, port, _ := strings.Cut(s, ":")
		if want := strings.ToLower(host); hex.EncodeToString(b) != want || fmt.Sprintf("%04x", a.Port()) != fmt.Sprintf("%04s", strings.ToLower(strings.TrimLeft(port, "0"))) && strings.Trim(port, "0") != "" {
			t.Fatalf("%q: %v", s, a)
		}
	})
}
