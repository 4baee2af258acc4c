// Package tlsconn is TLS on an event loop: a [loop.Layer] between a socket and the codec, with the standard library's
// crypto/tls behind it.
//
// A handshake blocks and computes, so it runs on a goroutine of its own, which the loop feeds and whose answers the loop
// sends; a [Gate] bounds how many compute at once. Afterwards the connection is the loop's alone: crypto/tls reads from a
// net.Conn whose Read returns a temporary error where the socket has nothing, which leaves its state as it was, and a
// connection costs no goroutine. One read of the socket is decrypted in place; what a turn has gathered is sealed into as few
// records as hold it, and sent by one write.
//
// [Accept] is the server's side, [Connect] the client's. What certificates are shown and asked for is in the *tls.Config
// that sidecar/compile makes; which of a listener's chains a connection belongs to is told by [Hello], which reads a
// ClientHello without taking it.
package tlsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/loop"
)

// Conn is the TLS of one connection. It belongs to the connection's loop.
type Conn struct {
	c    *loop.Conn
	tc   *tls.Conn
	hs   *handshake // nil once established
	nc   socket
	rest []byte // what the handshake has read ahead
	dst  []byte // where records are sealed to
	seal bool   // Seal is at work
	cut  bool   // the socket ended without close_notify
	info Info
	// forwarded is what Forwarded has made.
	forwarded string

	in framing
	// drained: crypto/tls holds nothing that it has not given out, so that asking it before the socket has more is in vain.
	drained bool
}

// framing follows the records that are given to crypto/tls.
type framing struct {
	head  [5]byte
	n     uint8 // bytes of head that are there
	left  int   // bytes of the record's body to come
	whole int   // records that are whole, since it last had none
}

func (f *framing) add(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			k := min(f.left, len(p))
			p = p[k:]
			if f.left -= k; f.left == 0 {
				f.whole++
			}
			continue
		}
		k := copy(f.head[f.n:], p)
		p = p[k:]
		if f.n += uint8(k); int(f.n) == len(f.head) {
			f.n, f.left = 0, int(f.head[3])<<8|int(f.head[4])
			if f.left == 0 {
				f.whole++
			}
		}
	}
}

// between says that the last byte that was given ended a record.
func (f *framing) between() bool { return f.n == 0 && f.left == 0 }

// Info is what a handshake settled.
type Info struct {
	// Version and CipherSuite are crypto/tls's numbers.
	Version, CipherSuite uint16
	// ServerName is the name that the client asked for, ALPN the protocol agreed upon; "" for none.
	ServerName, ALPN string
	// Peer is the other side's certificate, or nil; Chain what it sent with it, Peer first.
	Peer  *x509.Certificate
	Chain []*x509.Certificate
	// Resumed: an earlier session goes on.
	Resumed bool
}

// Of returns the TLS of a connection, or nil where it has none.
func Of(c *loop.Conn) *Conn {
	t, _ := c.Layer().(*Conn)
	return t
}

// Info is what the handshake settled.
func (t *Conn) Info() *Info { return &t.info }

// errAgain is what crypto/tls gets where the socket has nothing now. It is temporary, so that crypto/tls does not take
// the connection for broken.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// Read decrypts.
func (t *Conn) Read(b []byte) (int, loop.ReadResult) {
	if t.hs != nil {
		return 0, loop.Again
	}
	if t.drained && t.rest == nil && !t.c.WireReadable() {
		return 0, loop.Again
	}
	n, err := t.tc.Read(b)
	if n > 0 {
		if t.drained = t.in.whole == 1 && t.in.between() && n < len(b); t.drained {
			t.in.whole = 0
		}
		return n, loop.OK
	}
	switch {
	case err == errAgain:
		t.drained, t.in.whole = t.in.between(), 0
		return 0, loop.Again
	case err == io.EOF && !t.cut:
		return 0, loop.EOF
	}
	return 0, loop.Error // the end of the socket without close_notify is one: what came may have been cut short
}

// Seal encrypts p into records of at most 16 KiB.
func (t *Conn) Seal(dst, p []byte) ([]byte, error) {
	if t.hs != nil {
		return dst, errEarly
	}
	t.dst, t.seal = dst, true
	_, err := t.tc.Write(p)
	dst = t.dst
	t.dst, t.seal = nil, false
	return dst, err
}

var errEarly = errors.New("output before the handshake is over")

// End is the close_notify alert.
func (t *Conn) End(dst []byte) []byte {
	if t.hs != nil {
		return dst
	}
	t.dst, t.seal = dst, true
	_ = t.tc.CloseWrite() // a broken connection has no end to tell of
	dst = t.dst
	t.dst, t.seal = nil, false
	return dst
}

// Closed ends a handshake that is under way.
func (t *Conn) Closed() {
	if t.hs != nil {
		t.hs.abort(net.ErrClosed)
	}
}

// socket is the connection as crypto/tls sees it.
type socket struct{ t *Conn }

func (s *socket) Read(p []byte) (int, error) {
	t := s.t
	if t.hs != nil {
		n, err := t.hs.read(p)
		t.in.add(p[:n])
		return n, err
	}
	if len(t.rest) > 0 {
		n := copy(p, t.rest)
		t.in.add(p[:n])
		if t.rest = t.rest[n:]; len(t.rest) == 0 {
			t.rest = nil
		}
		return n, nil
	}
	n, r := t.c.ReadWire(p)
	switch r {
	case loop.OK:
		t.in.add(p[:n])
		return n, nil
	case loop.Again:
		return 0, errAgain
	case loop.EOF:
		t.cut = true
		return 0, io.EOF
	}
	return 0, errBroken
}

var errBroken = errors.New("the connection is broken")

func (s *socket) Write(p []byte) (int, error) {
	t := s.t
	switch {
	case t.hs != nil:
		return t.hs.write(p)
	case t.seal:
		t.dst = append(t.dst, p...)
	default: // an answer to what is being read: a new key, an alert
		t.c.SendWire(p)
	}
	return len(p), nil
}

func (s *socket) Close() error                    { return nil }
func (s *socket) LocalAddr() net.Addr             { return nil }
func (s *socket) RemoteAddr() net.Addr            { return nil }
func (s *socket) SetDeadline(time.Time) error     { return nil }
func (s *socket) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: the loop's timers bound everything.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }
