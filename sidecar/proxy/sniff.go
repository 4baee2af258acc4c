package proxy

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http1"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
)

// sniffTime is how long a connection may stay silent before it is dropped.
const (
	sniffTime = time.Hour
	// defaultHeadTime is how long the first bytes of a head may wait for more, where the configuration does not say.
	defaultHeadTime = 30 * time.Second
)

// sniffer waits for a connection's first bytes to tell HTTP/2, which begins with its preface, from HTTP/1.1.
type sniffer struct {
	a     *acceptor
	l     *pipeline.Listener
	c     *loop.Conn
	peer  netip.AddrPort
	timer loop.Timer
	buf   []byte
}

// OnRead decides, or waits for more. It reads until there is nothing: an end that came with the bytes makes no further event.
func (sn *sniffer) OnRead(c *loop.Conn) {
	sc := sn.a.w.Loop.Scratch
	for {
		k := copy(sc, sn.buf)
		n, r := c.Read(sc[k:])
		if r == loop.Again {
			return
		}
		if r != loop.OK {
			sn.Shut()
			return
		}
		b := sc[:k+n]
		switch http2.LooksLikePreface(b) {
		case 0:
			if sn.buf == nil { // the head's time has begun
				sn.a.w.Loop.SetTimer(&sn.timer, sn.headTime(), sn)
			}
			sn.buf = append(sn.buf[:0], b...)
			continue
		case 1:
			sn.done()
			http2.NewServerConn(c, sn.a.w, sn.a.streams(), sn.l, sn.a.conns, sn.peer, b)
		default:
			sn.done()
			http1.NewServerConn(c, sn.a.w, sn.l, sn.a.conns, sn.peer, b)
		}
		if !c.Closed() && !c.Paused() {
			c.Yield() // there may be more than the scratch took
		}
		return
	}
}

func (sn *sniffer) done() {
	delete(sn.a.conns, sn)
	sn.a.w.Loop.StopTimer(&sn.timer)
}

func (sn *sniffer) headTime() time.Duration {
	if cfg := sn.l.Config.Load(); cfg.HTTP != nil && cfg.HTTP.HeaderTimeout > 0 {
		return cfg.HTTP.HeaderTimeout
	}
	return defaultHeadTime
}

// OnTimer drops a connection that is silent, or has begun something and does not go on.
func (sn *sniffer) OnTimer(*loop.Timer) {
	if sn.buf != nil {
		sn.a.w.Refuse(sn.l, pipeline.Refusal{Protocol: "unknown", Flag: exchange.DownstreamProtocolError, Reason: "the request's head did not come in time"})
	}
	sn.Shut()
}

// Drain closes the connection: nothing has come by it.
func (sn *sniffer) Drain() {}

// Shut closes the connection.
func (sn *sniffer) Shut() {
	sn.done()
	sn.c.Close()
}

// OnDrained does nothing: nothing is written.
func (sn *sniffer) OnDrained(*loop.Conn) {}

// OnHangup does nothing: reading is never paused.
func (sn *sniffer) OnHangup(*loop.Conn) {}

// OnConnect does nothing: the connection was accepted.
func (sn *sniffer) OnConnect(*loop.Conn, error) {}

// OnWriteError does nothing: nothing is written.
func (sn *sniffer) OnWriteError(*loop.Conn, error) {}
