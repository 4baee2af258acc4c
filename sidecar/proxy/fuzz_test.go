package proxy_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Whatever frames come, the connection ends or goes on, and the process serves the next caller.
func FuzzHTTP2Frames(f *testing.F) {
	frame := func(typ, flags byte, id byte, p string) string {
		return string([]byte{0, byte(len(p) >> 8), byte(len(p)), typ, flags, 0, 0, 0, id}) + p
	}
	get := "\x82\x84\x86\x41\x01x"
	for _, s := range []string{
		frame(1, 5, 1, get),
		frame(1, 4, 1, "\x83\x84\x86\x41\x01x") + frame(0, 1, 1, "hello"),
		frame(1, 5, 1, get+"\x40\x00\x03a\r\n") + frame(1, 5, 3, get+"\xbe"),
		frame(4, 0, 0, "\x00\x04\x00\x00\x00\x00") + frame(1, 5, 1, get) + frame(8, 0, 1, "\x00\x00\x00\x05") + frame(3, 0, 1, "\x00\x00\x00\x08"),
		frame(1, 1, 1, get[:2]) + frame(9, 4, 1, get[2:]) + frame(6, 0, 0, "12345678") + frame(7, 0, 0, "\x00\x00\x00\x01\x00\x00\x00\x00"),
		frame(1, 4, 1, get) + frame(1, 5, 1, "\x40\x01a\x01b"),
	} {
		f.Add([]byte(s))
	}
	m := newMesh(f, snapshot.HTTP1, nil, backend(f, echo))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("tcp", m.Addr("http"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		go func() {
			io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(4, 0, 0, ""))
			c.Write(b)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		n, err := io.Copy(io.Discard, c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatalf("%d bytes, and then no end", n)
		}
	})
}
