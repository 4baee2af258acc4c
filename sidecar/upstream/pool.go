package upstream

import (
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Conn is a connection to a host, of either protocol.
type Conn interface {
	// Capacity is how many more exchanges the connection takes now.
	Capacity() int
	// Drain lets the connection finish what it has and take nothing new.
	Drain()
}

// Dialer makes connections. The new connection calls Pool.Connected or Pool.DialFailed later, never at once;
// an error means that there is none.
type Dialer interface {
	Dial(p *Pool, proto snapshot.Protocol) (Conn, error)
	// Connect begins a connection on l to a host, with TLS on it where the host's cluster has that. proto is what will be
	// spoken. h.OnConnect tells how it went, unless an error is returned at once.
	Connect(l *loop.Loop, host *Host, proto snapshot.Protocol, h loop.Handler) (*loop.Conn, error)
}

// Waiter is an exchange that wants a connection.
type Waiter interface {
	// PoolReady gives it one that has capacity.
	PoolReady(c Conn)
	// PoolFailed says that there is none, and why.
	PoolFailed(f exchange.Flag, detail string)
}

// Pool is what one loop has of connections to one host. It belongs to that loop.
type Pool struct {
	Host   *Host
	Loop   *loop.Loop
	dialer Dialer
	h1, h2 lane
	// raw is connections that carry bytes: each is made for one exchange, and ends with it.
	raw lane
}

// lane is the connections of one protocol: exclusive ones, which are idle or taken, or multiplexed ones.
type lane struct {
	pool    *Pool
	mux     bool
	idle    []Conn // exclusive and unused, the last used at the end
	conns   []Conn // multiplexed
	waiting []Waiter
	head    int // first of waiting
	live    int // of waiting, those not cancelled
	dialing int
	count   int // connections, those being made included
}

// Connect begins a connection to the host, for the pool's dialer.
func (p *Pool) Connect(proto snapshot.Protocol, h loop.Handler) (*loop.Conn, error) {
	return p.dialer.Connect(p.Loop, p.Host, proto, h)
}

func (p *Pool) lane(proto snapshot.Protocol) *lane {
	switch proto {
	case snapshot.HTTP2:
		return &p.h2
	case snapshot.TCP:
		return &p.raw
	}
	return &p.h1
}

// Acquire finds a connection for w, now or later.
func (p *Pool) Acquire(proto snapshot.Protocol, w Waiter) {
	ln := p.lane(proto)
	if ln.mux {
		for _, c := range ln.conns {
			if c.Capacity() > 0 {
				w.PoolReady(c)
				return
			}
		}
	} else if n := len(ln.idle); n > 0 {
		c := ln.idle[n-1]
		ln.idle[n-1] = nil
		ln.idle = ln.idle[:n-1]
		w.PoolReady(c)
		if cfg := p.Host.cluster.Config(); cfg.Preconnect > 1 {
			ln.ahead(proto, cfg)
		}
		return
	}
	cl := p.Host.cluster
	cfg := cl.Config()
	if cl.pending.Add(1) > limit(cfg.MaxPending) {
		cl.pending.Add(-1)
		cl.over[LimitPending].Add(1)
		w.PoolFailed(exchange.UpstreamOverflow, "too many requests are waiting for a connection (limits.pending)")
		return
	}
	ln.waiting = append(ln.waiting, w)
	ln.live++
	ln.dial(proto, cfg)
	if cfg.Preconnect > 1 {
		ln.ahead(proto, cfg)
	}
}

// aheadAtOnce bounds what one exchange begins ahead, so that a burst is not doubled at once.
const aheadAtOnce = 3

// ahead makes exclusive connections before they are wanted: Preconnect for each one that is in use or waited for. What it
// cannot have is no failure of anybody's, and counts as none. (Envoy's per_upstream_preconnect_ratio.)
func (ln *lane) ahead(proto snapshot.Protocol, cfg *snapshot.Cluster) {
	p := ln.pool
	if ln != &p.h1 || p.Host.gone.Load() {
		return
	}
	cl := p.Host.cluster
	wanted := ln.count - ln.dialing - len(ln.idle) + ln.live
	for n := 0; n < aheadAtOnce && float64(ln.count) < float64(wanted)*cfg.Preconnect; n++ {
		if cl.conns.Add(1) > limit(cfg.MaxConnections) {
			cl.conns.Add(-1)
			return
		}
		ln.dialing++
		ln.count++
		if _, err := p.dialer.Dial(p, proto); err != nil {
			ln.dialing--
			ln.count--
			cl.conns.Add(-1)
			return
		}
	}
}

// dial makes connections where those being made are too few for those that wait. Whoever waits afterwards has a
// connection to wait for: one being made, or one that will become free.
func (ln *lane) dial(proto snapshot.Protocol, cfg *snapshot.Cluster) {
	p := ln.pool
	cl := p.Host.cluster
	for ln.dialing < ln.live && !(ln.mux && ln.dialing > 0) {
		if cl.conns.Add(1) > limit(cfg.MaxConnections) {
			cl.conns.Add(-1)
			cl.over[LimitConnections].Add(1)
			if ln.count > 0 {
				return
			}
			ln.failFirst(exchange.UpstreamOverflow, "too many connections (limits.connections)")
			continue
		}
		ln.dialing++
		ln.count++
		if _, err := p.dialer.Dial(p, proto); err != nil {
			ln.dialing--
			ln.count--
			cl.conns.Add(-1)
			ln.failFirst(exchange.UpstreamConnectionFailure, err.Error())
		}
	}
}

func (ln *lane) pop() Waiter {
	for ln.head < len(ln.waiting) {
		w := ln.waiting[ln.head]
		ln.waiting[ln.head] = nil
		ln.head++
		if ln.head == len(ln.waiting) {
			ln.waiting, ln.head = ln.waiting[:0], 0
		}
		if w != nil {
			ln.live--
			ln.pool.Host.cluster.pending.Add(-1)
			return w
		}
	}
	return nil
}

func (ln *lane) failFirst(f exchange.Flag, detail string) {
	if w := ln.pop(); w != nil {
		w.PoolFailed(f, detail)
	}
}

// Cancel withdraws a waiter; false if it does not wait.
func (p *Pool) Cancel(proto snapshot.Protocol, w Waiter) bool {
	ln := p.lane(proto)
	for i := ln.head; i < len(ln.waiting); i++ {
		if ln.waiting[i] == w {
			ln.waiting[i] = nil
			if ln.live--; ln.live == 0 {
				ln.waiting, ln.head = ln.waiting[:0], 0
			}
			p.Host.cluster.pending.Add(-1)
			return true
		}
	}
	return false
}

// Connected is called by a connection that has been made.
func (p *Pool) Connected(proto snapshot.Protocol, c Conn) {
	ln := p.lane(proto)
	ln.dialing--
	if ln.mux {
		ln.conns = append(ln.conns, c)
		p.Freed(proto, c)
		return
	}
	if ln == &p.raw {
		if w := ln.pop(); w != nil {
			w.PoolReady(c)
		} else {
			c.Drain() // whom it was made for has gone
		}
		return
	}
	p.Release(c)
}

// DialFailed is called by a connection that could not be made.
func (p *Pool) DialFailed(proto snapshot.Protocol, c Conn, detail string) {
	ln := p.lane(proto)
	ln.dialing--
	ln.count--
	p.Host.cluster.conns.Add(-1)
	if !ln.mux {
		ln.failFirst(exchange.UpstreamConnectionFailure, detail)
	} else {
		// all of them waited for this one
		for n := ln.live; n > 0; n-- {
			ln.failFirst(exchange.UpstreamConnectionFailure, detail)
		}
	}
	ln.dial(proto, p.Host.cluster.Config())
}

// Release takes back an exclusive connection that is ready for the next exchange.
func (p *Pool) Release(c Conn) {
	if w := p.h1.pop(); w != nil {
		w.PoolReady(c)
		return
	}
	if p.Host.gone.Load() {
		c.Drain()
		return
	}
	p.h1.idle = append(p.h1.idle, c)
}

// Freed is called by a multiplexed connection that has capacity again.
func (p *Pool) Freed(proto snapshot.Protocol, c Conn) {
	ln := p.lane(proto)
	for c.Capacity() > 0 {
		w := ln.pop()
		if w == nil {
			break
		}
		w.PoolReady(c)
	}
	if p.Host.gone.Load() {
		c.Drain()
		return
	}
	ln.dial(proto, p.Host.cluster.Config())
}

// Draining takes a multiplexed connection that accepts nothing new out of the pool; it still counts until Gone.
func (p *Pool) Draining(proto snapshot.Protocol, c Conn) { p.lane(proto).remove(c) }

// Gone is called once by each connection that was connected and has closed.
func (p *Pool) Gone(proto snapshot.Protocol, c Conn) {
	ln := p.lane(proto)
	ln.remove(c)
	ln.count--
	p.Host.cluster.conns.Add(-1)
	ln.dial(proto, p.Host.cluster.Config())
}

func (ln *lane) remove(c Conn) {
	l := &ln.idle
	if ln.mux {
		l = &ln.conns
	}
	for i := len(*l) - 1; i >= 0; i-- {
		if (*l)[i] == c {
			copy((*l)[i:], (*l)[i+1:])
			(*l)[len(*l)-1] = nil
			*l = (*l)[:len(*l)-1]
			return
		}
	}
}

// Idle is the number of unused exclusive connections.
func (p *Pool) Idle() int { return len(p.h1.idle) }

// drain closes what is idle and lets the rest finish.
func (p *Pool) drain() {
	for len(p.h1.idle) > 0 {
		c := p.h1.idle[len(p.h1.idle)-1]
		p.h1.remove(c)
		c.Drain()
	}
	for _, c := range append([]Conn(nil), p.h2.conns...) {
		p.Draining(snapshot.HTTP2, c)
		c.Drain()
	}
}
