package tlsconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// reads is a connection that gives what it holds, and then its end.
type reads struct {
	net.Conn
	r io.Reader
}

func (c reads) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c reads) Write(p []byte) (int, error)      { return len(p), nil }
func (c reads) Close() error                     { return nil }
func (c reads) SetDeadline(time.Time) error      { return nil }
func (c reads) SetReadDeadline(time.Time) error  { return nil }
func (c reads) SetWriteDeadline(time.Time) error { return nil }
func (c reads) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c reads) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

var errSeen = errors.New("seen")

// read is what crypto/tls makes of the beginning of a connection; nil where it refuses it before it looks at the names.
func read(b []byte) (h *Hello) {
	_ = tls.Server(reads{r: bytes.NewReader(b)}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		h = &Hello{ServerName: lower([]byte(i.ServerName)), ALPN: i.SupportedProtos}
		return nil, errSeen
	}}).Handshake()
	return h
}

// hello is a ClientHello as Go's client sends it.
func hello(name string, alpn ...string) []byte {
	var out bytes.Buffer
	c := tls.Client(writes{&out}, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true})
	_ = c.Handshake()
	return out.Bytes()
}

type writes struct{ w *bytes.Buffer }

func (c writes) Read([]byte) (int, error)         { return 0, io.EOF }
func (c writes) Write(p []byte) (int, error)      { return c.w.Write(p) }
func (c writes) Close() error                     { return nil }
func (c writes) SetDeadline(time.Time) error      { return nil }
func (c writes) SetReadDeadline(time.Time) error  { return nil }
func (c writes) SetWriteDeadline(time.Time) error { return nil }
func (c writes) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c writes) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// inRecords cuts the message of a record into records of n bytes.
func inRecords(record []byte, n int) (out []byte) {
	for m := record[recordHeader:]; len(m) > 0; {
		k := min(n, len(m))
		out = append(out, record[0], record[1], record[2], byte(k>>8), byte(k))
		out = append(out, m[:k]...)
		m = m[k:]
	}
	return out
}

func TestParseHello(t *testing.T) {
	whole := hello("Example.COM", "h2", "http/1.1")
	for name, b := range map[string][]byte{"whole": whole, "in records": inRecords(whole, 100), "in records of 1": inRecords(whole, 1)} {
		h, more, err := ParseHello(b)
		if err != nil || more || h.ServerName != "example.com" || !slices.Equal(h.ALPN, []string{"h2", "http/1.1"}) {
			t.Errorf("%s: %+v %v %v", name, h, more, err)
		}
		for i := range b {
			if _, more, err := ParseHello(b[:i]); !more || err != nil {
				t.Fatalf("%s: after %d of %d bytes: more %v, %v", name, i, len(b), more, err)
			}
		}
	}
	if h, more, err := ParseHello(hello("")); err != nil || more || h.ServerName != "" || h.ALPN != nil {
		t.Error(h, more, err)
	}
	for _, s := range []string{"GET / HTTP/1.1\r\n", "\x16\x02", "\x16\x03\x01\x00\x00", "\x16\x03\x01\xff\xff", "\x15\x03\x01\x00\x02\x01\x00", "\x16\x03\x01\x00\x04\x02\x00\x00\x00", "\x16\x03\x01\x00\x04\x01\xff\xff\xff", "\x80\x2e\x01"} {
		if _, more, err := ParseHello([]byte(s)); err != ErrNotTLS || more {
			t.Errorf("%q: %v %v", s, more, err)
		}
	}
}

// FuzzParseHello compares with crypto/tls: where that reads names, they are ours, and nothing panics.
func FuzzParseHello(f *testing.F) {
	f.Add(hello("example.com", "h2"))
	f.Add(hello("", "http/1.1"))
	f.Add(inRecords(hello("a.example"), 50))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, more, err := ParseHello(b)
		if err != nil {
			return
		}
		want := read(b)
		if want == nil {
			return
		}
		if more || h.ServerName != want.ServerName || !slices.Equal(h.ALPN, want.ALPN) {
			t.Fatalf("more %v, %+v, want %+v", more, h, *want)
		}
	})
}

// TestFraming follows records however they are cut.
func TestFraming(t *testing.T) {
	stream := []byte("\x17\x03\x03\x00\x03abc\x17\x03\x03\x00\x00\x17\x03\x03\x00\x01x")
	for n := 1; n <= len(stream); n++ {
		var f framing
		for c := range slices.Chunk(stream, n) {
			f.add(c)
		}
		if f.whole != 3 || !f.between() {
			t.Errorf("in pieces of %d: %+v", n, f)
		}
		f.add([]byte("\x17"))
		if f.between() {
			t.Errorf("in pieces of %d: in the middle of a record: %+v", n, f)
		}
	}
}

// TestTemporary pins what all of this stands on: crypto/tls is not harmed by a read that finds nothing, wherever in a record
// that happens. A version of Go in which it is shows here.
func TestTemporary(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cert := selfSigned(t)
		a, b := net.Pipe()
		s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
		shaken := make(chan error, 1)
		go func() { shaken <- s.Handshake() }()
		drip := &dripping{Conn: a}
		c := tls.Client(drip, &tls.Config{InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		drip.one = true
		want := strings.Repeat("hello", 100)
		go func() {
			_, _ = io.WriteString(s, want)
			_ = s.CloseWrite()
		}()
		var got []byte
		agains := 0
		p := make([]byte, 64)
		for {
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err == errAgain {
				agains++
				continue
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: after %d temporary errors: %v", tls.VersionName(version), agains, err)
			}
		}
		if string(got) != want || agains < len(want) {
			t.Errorf("%s: %d bytes, %d temporary errors", tls.VersionName(version), len(got), agains)
		}
		_, _ = a.Close(), b.Close()
	}
}

// dripping gives, once one is set, every second time nothing and else a byte.
type dripping struct {
	net.Conn
	one, nothing bool
}

func (d *dripping) Read(p []byte) (int, error) {
	if !d.one {
		return d.Conn.Read(p)
	}
	if d.nothing = !d.nothing; d.nothing {
		return 0, errAgain
	}
	return d.Conn.Read(p[:1])
}
