package proxy

import (
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func TestSniffHTTP(t *testing.T) {
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                       http11,
		"GET / HTTP/1.0\n":                         http10,
		"M-SEARCH * HTTP/1.1\r\nHost: x\r\n":       http11,
		"get / HTTP/1.1\r\n":                       http11, // for the codec to refuse
		http2.Preface:                              h2c,
		"GET key\r\n":                              "",
		"GET / HTTP/2.0\r\n":                       "",
		"PRI * HTTP/2.0\r\nwhatever":               "",
		"EHLO there\r\n":                           "",
		"SSH-2.0-x\r\n":                            "",
		"GET /\x00 HTTP/1.1\r\n":                   "",
		" GET / HTTP/1.1\r\n":                      "",
		"-X / HTTP/1.1\r\n":                        "",
		strings.Repeat("A", 40):                    "",
		"GET " + strings.Repeat("a", 17<<10):       "",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03": "",
	} {
		if got, more := sniffHTTP([]byte(in)); got != want || more {
			t.Errorf("%.30q: %q, more %v", in, got, more)
		}
	}
	for _, in := range []string{"", "P", "PRI * HTTP/2.0\r\n\r\n", "GET", "GET /", "GET / HTTP/1.1\r"} {
		if got, more := sniffHTTP([]byte(in)); got != "" || !more {
			t.Errorf("%q: %q, more %v", in, got, more)
		}
	}
}

// Whatever comes, more bytes never change what was decided.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", http2.Preface, "GET key\r\n", "\x16\x03\x01\x00\x05\x01hello", "M-SEARCH * HTTP/1.0\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var last string
		decided := false
		for i := range len(b) + 1 {
			var p snapshot.Preface
			tls, moreTLS := sniffTLS(b[:i], &p)
			v, more := sniffHTTP(b[:i])
			if tls && v != "" {
				t.Fatalf("both: %q", b[:i])
			}
			if moreTLS || more {
				if decided {
					t.Fatalf("%q was decided, with a byte more it is not", b[:i])
				}
				continue
			}
			if decided && v != last {
				t.Fatalf("%q was %q, then %q", b[:i], last, v)
			}
			decided, last = true, v
		}
	})
}
