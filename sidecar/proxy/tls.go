package proxy

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/proxyproto"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

const (
	// maxHandshakes is how many may be under way in a process, those that wait for a slow peer included.
	maxHandshakes = 4096
	// handshakeTime is how long one may take (Envoy: transport_socket_connect_timeout, which has no default).
	handshakeTime = 10 * time.Second
	// tlsLogEvery is how often a listener logs a failed handshake; those between are counted.
	tlsLogEvery = time.Second
)

// greeter waits for a ClientHello that is whole, and sees the handshake through: who sends none costs a few bytes and a
// timer, not a goroutine.
type greeter struct {
	a     *acceptor
	l     *pipeline.Listener
	c     *loop.Conn
	cfg   *snapshot.Listener
	peer  netip.AddrPort
	timer loop.Timer
	began int64
	buf   []byte
	shook bool // the handshake is under way
}

func (a *acceptor) greet(c *loop.Conn, l *pipeline.Listener, cfg *snapshot.Listener, peer netip.AddrPort) {
	g := &greeter{a: a, l: l, c: c, cfg: cfg, peer: peer, began: a.w.Loop.Now()}
	c.SetHandler(g)
	a.conns[g] = struct{}{}
	d := cfg.TLS.HandshakeTimeout
	if d <= 0 {
		d = handshakeTime
	}
	a.w.Loop.SetTimer(&g.timer, d, g)
}

// OnRead gathers the ClientHello. It reads until there is nothing: an end that came with a part of it makes no further event.
func (g *greeter) OnRead(c *loop.Conn) {
	sc := g.a.w.Loop.Scratch
	for {
		k := copy(sc, g.buf)
		n, r := c.Read(sc[k:min(len(sc), tlsconn.MaxHello+k+1)])
		if r == loop.Again {
			return
		}
		if r != loop.OK {
			g.failed(tlsconn.Gone, "the client closed the connection before it said anything of TLS")
			return
		}
		b := sc[:k+n]
		_, more, err := tlsconn.ParseHello(b)
		switch {
		case err != nil || more && len(b) > tlsconn.MaxHello:
			g.failed(tlsconn.NotTLS, tlsconn.ErrNotTLS.Error())
		case more:
			g.buf = append(g.buf[:0], b...)
			continue
		default:
			g.shake(b)
		}
		return
	}
}

func (g *greeter) shake(hello []byte) {
	cfg := g.cfg.TLS.Load()
	if cfg == nil {
		g.failed(tlsconn.NoSecret, tlsconn.ErrNoSecret.Error())
		return
	}
	g.buf, g.shook = nil, true
	lp := g.a.w.Loop
	left := max(lp.TimerLeft(&g.timer), time.Millisecond)
	lp.StopTimer(&g.timer)
	tlsconn.Accept(g.c, cfg, g.a.srv.gate, left, hello, g.done)
}

// done gives the connection to its codec.
func (g *greeter) done(t *tlsconn.Conn, err error) {
	delete(g.a.conns, g)
	if err != nil {
		reason, text := tlsconn.Explain(err, true)
		g.a.tlsFailed(reason, text, g.peer)
		return
	}
	g.a.handshake(tlsconn.OK, g.a.w.Loop.Now()-g.began)
	g.a.serve(g.c, g.l, g.cfg, g.peer, t.Info().ALPN)
}

// failed ends a connection that did not come to a handshake.
func (g *greeter) failed(reason tlsconn.Reason, text string) {
	g.a.tlsFailed(reason, text, g.peer)
	g.Shut()
}

// OnTimer drops a connection whose ClientHello did not come in time.
func (g *greeter) OnTimer(*loop.Timer) { g.failed(tlsconn.Timeout, tlsconn.ErrTimeout.Error()) }

// Drain lets the handshake go on: what the caller has begun it may finish.
func (g *greeter) Drain() {}

// Shut closes the connection.
func (g *greeter) Shut() {
	delete(g.a.conns, g)
	g.a.w.Loop.StopTimer(&g.timer)
	g.c.Close()
}

// OnDrained does nothing: nothing is written.
func (g *greeter) OnDrained(*loop.Conn) {}

// OnHangup does nothing: reading is never paused.
func (g *greeter) OnHangup(*loop.Conn) {}

// OnConnect does nothing: the connection was accepted.
func (g *greeter) OnConnect(*loop.Conn, error) {}

// OnWriteError does nothing: nothing is written.
func (g *greeter) OnWriteError(*loop.Conn, error) {}

// tlsFailed counts a failed handshake and, now and then, logs one.
func (a *acceptor) tlsFailed(reason tlsconn.Reason, text string, peer netip.AddrPort) {
	a.handshake(reason, -1)
	now := a.w.Loop.Now()
	if a.tlsLogged != 0 && now-a.tlsLogged < int64(tlsLogEvery) {
		a.tlsSilent++
		return
	}
	a.srv.opts.Log.Warn("a TLS handshake failed", "listener", a.l.name, "peer", peer, "reason", string(reason), "detail", text, "others_since_the_last_line", a.tlsSilent)
	a.tlsLogged, a.tlsSilent = now, 0
}

const (
	handshakes     = "outrigger_tls_handshakes_total"
	handshakesHelp = "TLS handshakes, by how they ended."
	shakeTime      = "outrigger_tls_handshake_duration_seconds"
	shakeTimeHelp  = "From a connection's beginning to the end of its TLS handshake, where that went well."
)

func (a *acceptor) handshake(reason tlsconn.Reason, took int64) {
	reg := a.srv.opts.Stats
	if reg == nil {
		return
	}
	l := stat.Label{Name: "listener", Value: a.l.name}
	reg.Counter(handshakes, handshakesHelp, l, stat.Label{Name: "cluster"}, stat.Label{Name: "result", Value: string(reason)}).Inc()
	if took >= 0 {
		reg.Histogram(shakeTime, shakeTimeHelp, 1e-9, l, stat.Label{Name: "cluster"}).Observe(took)
	}
}

// Connect begins an upstream connection.
func (d *dialer) Connect(l *loop.Loop, host *upstream.Host, proto snapshot.Protocol, h loop.Handler) (*loop.Conn, error) {
	cl := host.Cluster().Config()
	t := host.Target()
	if cl.TLS == nil {
		c, err := l.DialTo(&t, h)
		return introduce(c, err, cl, h)
	}
	cfg := cl.TLS.Load(proto)
	if cfg == nil {
		return nil, &tlsconn.Error{Reason: tlsconn.NoSecret, Text: tlsconn.ErrNoSecret.Error()}
	}
	c, err := tlsconn.Connect(l, &t, cfg, d.gate, &clusterObserver{d.stats, cl.Name}, h)
	return introduce(c, err, cl, h)
}

// caller is a handler whose connection carries one caller's bytes alone.
type caller interface {
	Caller() (src, dst netip.AddrPort)
}

// introduce begins a connection with a PROXY header where the cluster wants one.
func introduce(c *loop.Conn, err error, cl *snapshot.Cluster, h loop.Handler) (*loop.Conn, error) {
	if err != nil || cl.ProxyProtocol == 0 {
		return c, err
	}
	var src, dst netip.AddrPort
	if one, ok := h.(caller); ok {
		src, dst = one.Caller()
	}
	c.Write(proxyproto.Append(nil, cl.ProxyProtocol, src, dst))
	return c, nil
}

// clusterObserver counts the handshakes with a cluster's endpoints.
type clusterObserver struct {
	reg  *stat.Registry
	name string
}

// Handshake counts one.
func (o *clusterObserver) Handshake(err *tlsconn.Error, took int64) {
	if o.reg == nil {
		return
	}
	result := tlsconn.OK
	if err != nil {
		result = err.Reason
	}
	l := stat.Label{Name: "cluster", Value: o.name}
	o.reg.Counter(handshakes, handshakesHelp, stat.Label{Name: "listener"}, l, stat.Label{Name: "result", Value: string(result)}).Inc()
	if err == nil {
		o.reg.Histogram(shakeTime, shakeTimeHelp, 1e-9, stat.Label{Name: "listener"}, l).Observe(took)
	}
}
