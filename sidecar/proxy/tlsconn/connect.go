package tlsconn

import (
	"crypto/tls"

	"github.com/outrigger-mesh/outrigger/sidecar/loop"
)

// Error is a handshake with an upstream that failed.
type Error struct {
	Reason Reason
	Text   string
}

// Error is a plain sentence.
func (e *Error) Error() string { return "TLS: " + e.Text }

// Observer is told of each handshake, on the loop.
type Observer interface {
	// Handshake is given nil, or what went wrong, and how long it took in nanoseconds.
	Handshake(err *Error, nanoseconds int64)
}

// dial is a client's connection until it is encrypted.
type dial struct {
	h     loop.Handler
	cfg   *tls.Config
	g     *Gate
	ob    Observer
	began int64
}

// Connect begins a connection with TLS on it. h learns by OnConnect how it went: the socket's part and the handshake. The
// time that both take is for h to bound.
func Connect(l *loop.Loop, to *loop.Target, cfg *tls.Config, g *Gate, ob Observer, h loop.Handler) (*loop.Conn, error) {
	return l.DialTo(to, &dial{h: h, cfg: cfg, g: g, ob: ob})
}

// OnConnect begins the handshake.
func (d *dial) OnConnect(c *loop.Conn, err error) {
	if err != nil {
		d.h.OnConnect(c, err)
		return
	}
	c.Flush() // what is to be said before the handshake
	if c.Closed() {
		return
	}
	t := &Conn{}
	t.nc.t = t
	t.tc = tls.Client(&t.nc, d.cfg)
	d.began = c.Loop().Now()
	t.start(c, d.g, 0, nil, false, func(err error) { d.done(c, err) })
}

func (d *dial) done(c *loop.Conn, err error) {
	took := c.Loop().Now() - d.began
	if err != nil {
		reason, text := Explain(err, false)
		e := &Error{Reason: reason, Text: text}
		c.Close()
		if d.ob != nil {
			d.ob.Handshake(e, took)
		}
		d.h.OnConnect(c, e)
		return
	}
	if d.ob != nil {
		d.ob.Handshake(nil, took)
	}
	c.SetHandler(d.h)
	d.h.OnConnect(c, nil)
}

// OnRead does nothing: there is no connection yet.
func (d *dial) OnRead(*loop.Conn) {}

// OnDrained does nothing: nothing is written.
func (d *dial) OnDrained(*loop.Conn) {}

// OnHangup does nothing: OnConnect tells.
func (d *dial) OnHangup(*loop.Conn) {}

// OnWriteError does nothing: nothing is written.
func (d *dial) OnWriteError(*loop.Conn, error) {}
