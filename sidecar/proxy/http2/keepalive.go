package http2

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// keepalive asks a peer for a sign of life (RFC 9113 §6.7), and ends a connection that gives none.
type keepalive struct {
	h       *conn
	o       *snapshot.HTTP2Options
	timer   loop.Timer
	heard   int64 // when something was last read
	waiting bool  // for an answer
}

var pingData = [8]byte{'o', 'u', 't', 'r', 'i', 'g', 'g', 'r'}

// keepAlive begins it, where the options ask for it.
func (h *conn) keepAlive(o *snapshot.HTTP2Options) {
	if o == nil || o.PingInterval <= 0 && o.PingIdle <= 0 {
		return
	}
	h.alive = &keepalive{h: h, o: o, heard: h.lp.Now()}
	h.alive.next()
}

// next waits for the time of the next PING.
func (k *keepalive) next() {
	k.waiting = false
	d := k.o.PingInterval
	if d <= 0 {
		k.h.lp.StopTimer(&k.timer)
		return
	}
	if k.o.PingJitter > 0 {
		x := uint64(loop.Nanotime()) * 0x9e3779b97f4a7c15 // spreads the low bits
		d += time.Duration(float64(d) * k.o.PingJitter / 100 * (float64(x>>11)/(1<<52) - 1))
	}
	k.h.lp.SetTimer(&k.timer, max(d, time.Millisecond), k)
}

// ping asks.
func (k *keepalive) ping() {
	if k.waiting {
		return
	}
	k.waiting = true
	k.h.c.SetOut(append(appendFrameHeader(k.h.c.Out(), 8, framePing, 0, 0), pingData[:]...))
	k.h.lp.SetTimer(&k.timer, k.o.PingTimeout, k)
}

// opening is told that a stream is about to be opened.
func (k *keepalive) opening() {
	now := k.h.lp.Now()
	if k.o.PingIdle > 0 && now-k.heard >= int64(k.o.PingIdle) {
		k.ping()
	}
}

// answered takes an acknowledgement.
func (k *keepalive) answered(p []byte) {
	if k.waiting && string(p) == string(pingData[:]) {
		k.next()
	}
}

// OnTimer asks, or ends a connection that has not answered.
func (k *keepalive) OnTimer(*loop.Timer) {
	if !k.waiting {
		k.ping()
		return
	}
	k.h.lost("no answer to a PING in time")
}

func (k *keepalive) stop() { k.h.lp.StopTimer(&k.timer) }
