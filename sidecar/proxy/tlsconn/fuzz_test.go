package tlsconn

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
)

// hello is what crypto/tls says first.
func hello(f *testing.F, name string, alpn ...string) []byte {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, NextProtos: alpn, MinVersion: tls.VersionTLS12}).Handshake()
		_ = a.Close()
	}()
	buf := make([]byte, 8192)
	n, err := b.Read(buf)
	if err != nil {
		f.Fatal(err)
	}
	return buf[:n]
}

// A ClientHello that is whole says the same whatever follows it, and no beginning of it is refused.
func FuzzParseHello(f *testing.F) {
	f.Add(hello(f, "orders.example", "h2", "http/1.1"))
	f.Add(hello(f, "x"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, more, err := ParseHello(slices.Clone(b))
		if err != nil || more {
			return
		}
		for i := range b {
			if _, more, err := ParseHello(slices.Clone(b[:i])); err != nil || i == 0 && !more {
				t.Fatalf("%d of %d bytes: %v %v", i, len(b), more, err)
			}
		}
		again, more, err := ParseHello(append(slices.Clone(b), "\x17\x03\x03\x00\x01x"...))
		if err != nil || more || again.ServerName != h.ServerName || !slices.Equal(again.ALPN, h.ALPN) {
			t.Fatalf("%+v, then %+v %v %v", h, again, more, err)
		}
	})
}
