package proxy

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/proxyproto"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

const (
	// partTime is how long a connection may take that has begun to say what it is.
	partTime = 5 * time.Second
	// frontLogEvery is how often a listener logs a connection that it does not take.
	frontLogEvery = time.Second
)

// front has a connection until it is known which protocol gets it: it takes a PROXY header off, and looks at the first bytes,
// which stay in the socket.
type front struct {
	a     *acceptor
	c     *loop.Conn
	cfg   *snapshot.Listener
	p     snapshot.Preface
	timer loop.Timer
	began int64
	seen  int  // bytes that were there when last looked at
	past  bool // the PROXY header, where one is expected
	found uint8
}

// What a front found a connection to be.
const (
	foundNothing uint8 = iota
	foundBytes         // neither HTTP nor TLS
	foundHTTP1
	foundHTTP2
	foundTLS
	findings
)

func (a *acceptor) enter(c *loop.Conn, cfg *snapshot.Listener, peer netip.AddrPort) {
	f := &front{a: a, c: c, cfg: cfg, began: a.w.Loop.Now()}
	f.p.Peer, f.p.Direct, f.p.Local = peer, peer, c.Local()
	c.SetHandler(f)
	a.conns[f] = struct{}{}
	fr := cfg.Front
	if f.past = fr.ProxyProtocol == nil; f.past && !fr.SniffTLS && !fr.SniffHTTP {
		f.choose()
		return
	}
	if fr.Timeout > 0 {
		a.w.Loop.SetTimer(&f.timer, fr.Timeout, f)
	}
}

// OnRead looks at what is there.
func (f *front) OnRead(c *loop.Conn) {
	sc := f.a.w.Loop.Scratch
	n, r := c.Peek(sc[:proxyproto.Max+1])
	if r == loop.Again {
		return
	}
	if r != loop.OK {
		f.Shut()
		return
	}
	b := sc[:n]
	f.seen = n
	if !f.past {
		k, ok := f.header(b)
		if !ok {
			return
		}
		b = b[k:]
	}
	fr := f.cfg.Front
	if fr.SniffTLS || fr.SniffHTTP {
		if len(b) == 0 {
			f.seen = 0
			if !c.Hangup() {
				return
			}
		}
		if f.sniff(b) && !c.Hangup() && n <= proxyproto.Max {
			return // it may become something yet
		}
	}
	f.choose()
}

// header takes the PROXY header off, and says whether the connection goes on, and behind which byte.
func (f *front) header(b []byte) (int, bool) {
	pp := f.cfg.Front.ProxyProtocol
	h, n, err := proxyproto.Parse(b)
	switch {
	case err == proxyproto.ErrNone && pp.Optional:
		f.past = true
		return 0, true
	case err != nil:
		f.refuse("proxy_protocol", err.Error())
		return 0, false
	case n == 0:
		if f.c.Hangup() {
			f.Shut()
		}
		return 0, false
	case h.Version == 1 && pp.NoV1 || h.Version == 2 && pp.NoV2:
		f.refuse("proxy_protocol", "the PROXY header's version is not allowed here")
		return 0, false
	}
	rest := append([]byte(nil), b[n:]...)
	if k, r := f.c.Read(f.a.w.Loop.Scratch[:n]); k != n || r != loop.OK { // it was there a moment ago
		f.Shut()
		return 0, false
	}
	copy(f.a.w.Loop.Scratch[n:], rest)
	f.past = true
	if h.Source.IsValid() {
		f.p.Peer, f.p.Local = h.Source, h.Destination
		f.c.SetAddrs(h.Source, h.Destination)
	}
	return n, true
}

// sniff looks at the first bytes of the protocol, and says whether more of them could tell more.
func (f *front) sniff(b []byte) (more bool) {
	fr := f.cfg.Front
	f.found = foundBytes
	if fr.SniffTLS {
		tls, more := sniffTLS(b, &f.p)
		if tls {
			f.found = foundTLS
			f.p.TLS = true
			return more
		}
		if more {
			return true
		}
	}
	if fr.SniffHTTP {
		version, more := sniffHTTP(b)
		if version != "" {
			f.p.Protocols = []string{version}
			if f.found = foundHTTP1; version == h2c {
				f.found = foundHTTP2
			}
		}
		return more
	}
	return false
}

// choose gives the connection to the chain that takes it.
func (f *front) choose() {
	f.done()
	a, fr := f.a, f.cfg.Front
	l, cfg := &a.l.Listener, f.cfg
	if len(fr.Chains) > 0 || fr.Default != nil {
		cfg = fr.Match(&f.p)
		if l = a.l.chain(cfg); l == nil {
			a.turnedAway("no_chain", "no filter chain takes it", f.p.Peer)
			f.c.Reset()
			return
		}
	}
	if fr.SniffHTTP {
		a.foundOut(f.found)
	}
	a.begin(f.c, l, cfg, f.p.Peer)
	if !f.c.Closed() && !f.c.Paused() {
		f.c.Yield() // what was looked at is still to be read
	}
}

func (f *front) refuse(reason, text string) {
	f.done()
	f.a.turnedAway(reason, text, f.p.Peer)
	f.c.Reset()
}

func (f *front) done() {
	delete(f.a.conns, f)
	f.a.w.Loop.StopTimer(&f.timer)
}

// OnTimer goes on without what did not come, or drops the connection.
func (f *front) OnTimer(*loop.Timer) {
	left := partTime - time.Duration(f.a.w.Loop.Now()-f.began)
	switch {
	case !f.past && f.cfg.Front.ProxyProtocol.Optional && f.seen == 0, f.past && f.seen == 0:
		if f.cfg.Front.Continue {
			f.found = foundNothing
			f.choose()
			return
		}
	case f.past && f.cfg.Front.Continue && left > 0: // it speaks, but has not said what
		f.a.w.Loop.SetTimer(&f.timer, left, f)
		return
	case f.past && f.cfg.Front.Continue:
		f.choose()
		return
	}
	f.refuse("timeout", "what the listener has to know of it did not come in time")
}

// Drain lets the connection go on.
func (f *front) Drain() {}

// Shut closes the connection.
func (f *front) Shut() {
	f.done()
	f.c.Close()
}

// OnDrained does nothing: nothing is written.
func (f *front) OnDrained(*loop.Conn) {}

// OnHangup does nothing: reading is never paused.
func (f *front) OnHangup(*loop.Conn) {}

// OnConnect does nothing: the connection was accepted.
func (f *front) OnConnect(*loop.Conn, error) {}

// OnWriteError does nothing: nothing is written.
func (f *front) OnWriteError(*loop.Conn, error) {}

// turnedAway counts a connection that the listener did not take and, now and then, logs one.
func (a *acceptor) turnedAway(reason, text string, peer netip.AddrPort) {
	if reg := a.srv.opts.Stats; reg != nil {
		reg.Counter("outrigger_connections_refused_total", "Connections that a listener did not take.",
			stat.Label{Name: "listener", Value: a.l.name}, stat.Label{Name: "reason", Value: reason}).Inc()
	}
	now := a.w.Loop.Now()
	if a.awayLogged != 0 && now-a.awayLogged < int64(frontLogEvery) {
		a.awaySilent++
		return
	}
	a.srv.opts.Log.Warn("a connection was refused", "listener", a.l.name, "peer", peer, "reason", text, "others_since_the_last_line", a.awaySilent)
	a.awayLogged, a.awaySilent = now, 0
}

// foundOut counts what a connection to a port of unknown protocol was found to be; that nothing was said is told once.
func (a *acceptor) foundOut(what uint8) {
	if what == foundNothing && !a.l.silent.Swap(true) {
		a.srv.opts.Log.Warn("a connection said nothing and is relayed as TCP: a protocol in which the server speaks first waits so long at the beginning of each connection; write its protocol to spare it",
			"listener", a.l.name, "waited", a.l.Config.Load().Front.Timeout)
	}
	reg := a.srv.opts.Stats
	if reg == nil {
		return
	}
	if a.found[what] == nil {
		protocol, by := "tcp", "bytes"
		switch what {
		case foundNothing:
			by = "silence"
		case foundHTTP1:
			protocol = "http1"
		case foundHTTP2:
			protocol = "http2"
		case foundTLS:
			protocol = "tls"
		}
		a.found[what] = reg.Counter("outrigger_protocols_found_total", "Connections to ports that take any protocol, by what they were found to be: by their first bytes, or by their silence.",
			stat.Label{Name: "listener", Value: a.l.name}, stat.Label{Name: "protocol", Value: protocol}, stat.Label{Name: "by", Value: by})
	}
	a.found[what].Inc()
}

// chain is the living side of a chain's listener: the same over its versions.
func (l *listener) chain(cfg *snapshot.Listener) *pipeline.Listener {
	if cfg == nil {
		return nil
	}
	if m := l.chains.Load(); m != nil {
		return (*m)[cfg]
	}
	return nil
}

// configure puts a version of the listener in force, with its chains. Connections of a chain that stays follow it; those of
// one that is gone end when they are idle.
func (l *listener) configure(c *snapshot.Listener) {
	chains := map[*snapshot.Listener]*pipeline.Listener{}
	byKey := map[string]*pipeline.Listener{}
	add := func(key string, cfg *snapshot.Listener) {
		p := l.byKey[key]
		if p == nil || (p.Config.Load().HTTP == nil) != (cfg.HTTP == nil) {
			p = &pipeline.Listener{}
		}
		p.Config.Store(cfg)
		chains[cfg], byKey[key] = p, p
	}
	if f := c.Front; f != nil {
		for i := range f.Chains {
			add("="+f.Chains[i].Key, f.Chains[i].Listener)
		}
		if f.Default != nil {
			add("default", f.Default)
		}
	}
	for key, p := range l.byKey {
		if byKey[key] != p {
			p.LameDuck.Store(true)
			l.retired = append(l.retired, p)
		}
	}
	l.retired = live(l.retired)
	l.byKey = byKey
	l.chains.Store(&chains)
	l.Config.Store(c)
}

// live keeps those that still have connections.
func live(ps []*pipeline.Listener) []*pipeline.Listener {
	kept := ps[:0]
	for _, p := range ps {
		if p.Connections.Load() > 0 {
			kept = append(kept, p)
		}
	}
	clear(ps[len(kept):])
	return kept
}

// each calls f for the listener and its chains. The caller holds the server's lock.
func (l *listener) each(f func(*pipeline.Listener)) {
	f(&l.Listener)
	for _, p := range l.byKey {
		f(p)
	}
	for _, p := range l.retired {
		f(p)
	}
}
