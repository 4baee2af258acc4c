package proxy_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Whole exchanges are counted, over real sockets: whatever the process allocates meanwhile counts. The few that are
// allowed are the runtime's own.
const (
	allocWarm     = 500
	allocMeasured = 3000
	allocAllowed  = 60
)

func countAllocs(t *testing.T, exchange func()) {
	t.Helper()
	countAllocsUpTo(t, allocAllowed, exchange)
}

func countAllocsUpTo(t *testing.T, allowed uint64, exchange func()) {
	t.Helper()
	for range allocWarm {
		exchange()
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range allocMeasured {
		exchange()
	}
	runtime.ReadMemStats(&after)
	n := after.Mallocs - before.Mallocs
	t.Logf("%d allocations in %d exchanges", n, allocMeasured)
	if raceEnabled {
		return // the detector's own are counted with them
	}
	if n > allowed {
		t.Errorf("%d allocations in %d exchanges, want at most %d", n, allocMeasured, allowed)
	}
}

// allocServer answers every connection by serve, which is to allocate nothing an exchange.
func allocServer(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return ln.Addr().String()
}

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHTTP1AllocatesNothing(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello")
	m := newMesh(t, snapshot.HTTP1, nil, allocServer(t, func(c net.Conn) {
		b := make([]byte, 8192)
		for {
			n := 0
			for !bytes.HasSuffix(b[:n], []byte("\r\n\r\nbody")) {
				k, err := c.Read(b[n:])
				if err != nil {
					return
				}
				n += k
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}))
	c := dialRaw(t, m.Addr("http"))
	req := []byte("POST /a/b?c=d HTTP/1.1\r\nHost: orders\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Length: 4\r\n\r\nbody")
	b := make([]byte, 8192)
	countAllocs(t, func() {
		if _, err := c.Write(req); err != nil {
			t.Fatal(err)
		}
		n := 0
		for !bytes.HasSuffix(b[:n], []byte("hello")) {
			k, err := c.Read(b[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	})
}

// h2frames reads frames into one buffer.
type h2frames struct {
	r io.Reader
	b [9 + 16384]byte
}

func (f *h2frames) next() (typ, flags byte, id uint32, payload []byte, err error) {
	if _, err = io.ReadFull(f.r, f.b[:9]); err != nil {
		return
	}
	n := int(f.b[0])<<16 | int(f.b[1])<<8 | int(f.b[2])
	typ, flags, id = f.b[3], f.b[4], binary.BigEndian.Uint32(f.b[5:9])
	payload = f.b[9 : 9+n]
	_, err = io.ReadFull(f.r, payload)
	return
}

func appendFrame(b []byte, typ, flags byte, id uint32, payload string) []byte {
	b = append(b, 0, byte(len(payload)>>8), byte(len(payload)), typ, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

// literal is a header field without indexing, by name.
func literal(name, value string) string {
	return "\x00" + string(rune(len(name))) + name + string(rune(len(value))) + value
}

func TestGRPCAllocatesNothing(t *testing.T) {
	message := "\x00\x00\x00\x00\x05hello"
	head := "\x88" + literal("content-type", "application/grpc")
	trailers := literal("grpc-status", "0")
	m := newMesh(t, snapshot.HTTP2, nil, allocServer(t, func(c net.Conn) {
		fr := &h2frames{r: c}
		if _, err := io.ReadFull(c, fr.b[:24]); err != nil {
			return
		}
		out := appendFrame(nil, 4, 0, 0, "")
		for {
			if len(out) > 0 {
				if _, err := c.Write(out); err != nil {
					return
				}
			}
			out = out[:0]
			typ, flags, id, payload, err := fr.next()
			if err != nil {
				return
			}
			switch {
			case typ == 4 && flags&1 == 0:
				out = appendFrame(out, 4, 1, 0, "")
			case typ == 0 && flags&1 != 0:
				// what came is given back as credit, as a real peer does
				out = append(out, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(payload)))
				out = appendFrame(out, 1, 4, id, head)
				out = appendFrame(out, 0, 0, id, message)
				out = appendFrame(out, 1, 5, id, trailers)
			}
		}
	}))
	c := dialRaw(t, m.Addr("http"))
	fr := &h2frames{r: c}
	reqHead := "\x83\x86" + literal(":path", "/shop.Orders/Get") + literal(":authority", "orders") +
		literal("content-type", "application/grpc") + literal("te", "trailers")
	out := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), appendFrame(nil, 4, 0, 0, "")...)
	id := uint32(1)
	countAllocs(t, func() {
		out = appendFrame(out, 1, 4, id, reqHead)
		out = appendFrame(out, 0, 1, id, message)
		if _, err := c.Write(out); err != nil {
			t.Fatal(err)
		}
		out = out[:0]
		for {
			typ, flags, sid, payload, err := fr.next()
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case typ == 4 && flags&1 == 0:
				out = appendFrame(out, 4, 1, 0, "")
			case typ == 3 || typ == 7:
				t.Fatalf("frame of type %d: %q", typ, payload)
			case typ == 0:
				out = append(out, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(payload)))
			}
			if sid == id && flags&1 != 0 && (typ == 0 || typ == 1) {
				id += 2
				return
			}
		}
	})
}
