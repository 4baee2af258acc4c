package tcp

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// ConnectConn is the upstream of a CONNECT that ends in this sidecar: the connection is the answer, and bytes go both
// ways. Each is made for one exchange.
type ConnectConn struct {
	c       *loop.Conn
	pool    *upstream.Pool
	s       *pipeline.Stream
	timer   loop.Timer
	dialing bool
	closed  bool
	inEnd   bool // the endpoint has said all
	outEnd  bool // the caller has said all
	blocked bool
	last    bool // the exchange is over, and the end has still to go out
}

// flushTime is how long an endpoint may take to read what the caller sent before its end.
const flushTime = 30 * time.Second

// DialConnect begins a connection for a pool.
func DialConnect(p *upstream.Pool) (*ConnectConn, error) {
	cc := &ConnectConn{pool: p, dialing: true}
	c, err := p.Connect(snapshot.TCP, cc)
	if err != nil {
		return nil, err
	}
	cc.c = c
	d := p.Host.Cluster().Config().ConnectTimeout
	if d <= 0 {
		d = time.Second
	}
	p.Loop.SetTimer(&cc.timer, d, cc)
	return cc, nil
}

// OnConnect tells the pool.
func (cc *ConnectConn) OnConnect(_ *loop.Conn, err error) {
	cc.pool.Loop.StopTimer(&cc.timer)
	cc.dialing = false
	if err != nil {
		cc.closed = true
		cc.pool.DialFailed(snapshot.TCP, cc, cc.pool.Host.Address+": "+err.Error())
		return
	}
	cc.pool.Connected(snapshot.TCP, cc)
}

// OnTimer ends a connection that was not made in time, or whose end does not go out.
func (cc *ConnectConn) OnTimer(*loop.Timer) {
	if cc.dialing {
		cc.dialing, cc.closed = false, true
		cc.c.Close()
		cc.pool.DialFailed(snapshot.TCP, cc, cc.pool.Host.Address+": no connection within the connect timeout")
		return
	}
	cc.close()
}

// Capacity is 1 until the connection is taken.
func (cc *ConnectConn) Capacity() int {
	if cc.s == nil && !cc.closed {
		return 1
	}
	return 0
}

// Drain closes a connection that nobody has taken; a tunnel has no place to stop at.
func (cc *ConnectConn) Drain() {
	if cc.s == nil {
		cc.close()
	}
}

// Open gives the connection to a stream.
func (cc *ConnectConn) Open(s *pipeline.Stream) pipeline.Upstream {
	cc.s = s
	return cc
}

// SendHead answers: that the connection is there is the answer.
func (cc *ConnectConn) SendHead(s *pipeline.Stream, _ bool) {
	s.Resp.Reset()
	s.Resp.Status = 200
	s.UpstreamHead(false)
}

// SendData sends bytes.
func (cc *ConnectConn) SendData(_ *pipeline.Stream, b []byte, end bool) {
	if cc.closed {
		return
	}
	if cc.c.Write(b); end && !cc.c.Closed() {
		cc.outEnd = true
		cc.c.CloseWrite()
	}
}

// SendTrailers is the end; there is no place for trailers.
func (cc *ConnectConn) SendTrailers(s *pipeline.Stream) { cc.SendData(s, nil, true) }

// Blocked says that the endpoint does not read.
func (cc *ConnectConn) Blocked() bool {
	cc.blocked = !cc.closed && cc.c.Blocked()
	return cc.blocked
}

// Pause stops reading.
func (cc *ConnectConn) Pause(on bool) {
	if !cc.closed && !cc.inEnd {
		cc.c.Pause(on)
	}
}

// Cancel closes the connection, once what the caller sent before its end has gone out.
func (cc *ConnectConn) Cancel() {
	cc.s = nil
	if cc.closed {
		return
	}
	if cc.inEnd && cc.outEnd && cc.c.Waiting() > 0 {
		cc.last = true
		cc.pool.Loop.SetTimer(&cc.timer, flushTime, cc)
		return
	}
	cc.close()
}

// OnRead passes on what is there.
func (cc *ConnectConn) OnRead(c *loop.Conn) {
	for turn := 0; turn < turnBytes; {
		if cc.closed || cc.inEnd || cc.s == nil || c.Paused() {
			return
		}
		n, r := c.Read(cc.pool.Loop.Scratch)
		switch r {
		case loop.Again:
			return
		case loop.EOF:
			cc.inEnd = true
			c.Pause(true)
			cc.s.UpstreamData(nil, true)
			return
		case loop.Error:
			cc.lost("the connection broke")
			return
		}
		turn += n
		cc.s.UpstreamData(cc.pool.Loop.Scratch[:n], false)
	}
	c.Yield()
}

// OnDrained lets the caller go on.
func (cc *ConnectConn) OnDrained(*loop.Conn) {
	switch {
	case cc.last:
		cc.close()
	case cc.blocked:
		cc.blocked = false
		if cc.s != nil {
			cc.s.UpstreamWritable()
		}
	}
}

// OnHangup notices an endpoint that has broken off while it is not read.
func (cc *ConnectConn) OnHangup(c *loop.Conn) {
	var b [1]byte
	if _, r := c.Peek(b[:]); r == loop.Error {
		cc.lost("the connection broke")
	}
}

// OnWriteError is an endpoint that has gone.
func (cc *ConnectConn) OnWriteError(*loop.Conn, error) { cc.lost("the connection broke") }

func (cc *ConnectConn) lost(detail string) {
	s := cc.s
	cc.s = nil
	cc.close()
	if s != nil {
		s.UpstreamReset(pipeline.ConnectionLost, cc.pool.Host.Address+": "+detail)
	}
}

func (cc *ConnectConn) close() {
	if cc.closed {
		return
	}
	cc.closed = true
	cc.pool.Loop.StopTimer(&cc.timer)
	cc.c.Close()
	cc.pool.Gone(snapshot.TCP, cc)
}
