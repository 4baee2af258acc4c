package http2

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2/hpack"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// ClientConn is the client's side of a connection, shared by the exchanges of a loop.
type ClientConn struct {
	conn
	pool     *upstream.Pool
	early    []uint32 // streams that wait for the peer's settings
	timer    loop.Timer
	age      loop.Timer
	used     int
	dialing  bool
	draining bool // out of the pool
}

// Dial begins a connection for a pool; streams is its loop's.
func Dial(p *upstream.Pool, streams *Streams) (*ClientConn, error) {
	cc := &ClientConn{pool: p, dialing: true}
	c, err := p.Connect(snapshot.HTTP2, cc)
	if err != nil {
		return nil, err
	}
	cc.init(c, streams, cc, false)
	d := p.Host.Cluster().Config().ConnectTimeout
	if d <= 0 {
		d = time.Second
	}
	p.Loop.SetTimer(&cc.timer, d, cc)
	return cc, nil
}

// OnConnect tells the pool.
func (cc *ClientConn) OnConnect(c *loop.Conn, err error) {
	cc.lp.StopTimer(&cc.timer)
	cc.dialing = false
	if err != nil {
		cc.closed = true
		cc.pool.DialFailed(snapshot.HTTP2, cc, cc.pool.Host.Address+": "+err.Error())
		return
	}
	c.Batch = true
	cfg := cc.pool.Host.Cluster().Config()
	cc.apply(cfg.HTTP2)
	if n := cfg.MaxResponseFields; n > 0 {
		cc.maxFields = min(n, exchange.MaxFields-8)
	}
	if n := cfg.MaxResponseHeaderBytes; n > 0 {
		cc.maxHead = n
	}
	out := append(c.Out(), Preface...)
	c.SetOut(cc.hello(out, 0))
	cc.keepAlive(cfg.HTTP2)
	if d := cfg.MaxConnectionAge; d > 0 {
		cc.lp.SetTimer(&cc.age, time.Duration(pipeline.Jitter(d, uint64(loop.Nanotime())*0x9e3779b97f4a7c15)), cc)
	}
	cc.pool.Connected(snapshot.HTTP2, cc)
	if !cc.closed && len(cc.streams) == 0 {
		cc.setIdle()
	}
}

func (cc *ClientConn) setIdle() {
	d := cc.pool.Host.Cluster().Config().IdleTimeout
	if d <= 0 {
		d = time.Hour
	}
	cc.lp.SetTimer(&cc.timer, d, cc)
}

// OnTimer ends a connection that was not made in time, or was idle for too long, or has reached its age.
func (cc *ClientConn) OnTimer(t *loop.Timer) {
	if t == &cc.age {
		cc.Drain()
		return
	}
	if cc.dialing {
		cc.dialing = false
		cc.closed = true
		cc.c.Close()
		cc.pool.DialFailed(snapshot.HTTP2, cc, cc.pool.Host.Address+": no connection within the connect timeout")
		return
	}
	if len(cc.streams) == 0 {
		cc.lost("idle")
	}
}

// Capacity is how many more streams the connection takes.
func (cc *ClientConn) Capacity() int {
	if cc.closed || cc.draining || cc.gotAway {
		return 0
	}
	cfg := cc.pool.Host.Cluster().Config()
	n := cc.maxStreams
	if cfg.HTTP2 != nil && cfg.HTTP2.MaxStreams > 0 {
		n = min(n, int(cfg.HTTP2.MaxStreams))
	}
	n -= len(cc.streams)
	if m := cfg.MaxRequestsPerConnection; m > 0 {
		n = min(n, int(m)-cc.used)
	}
	if cc.lastID > 1<<30 {
		return 0
	}
	return n
}

// Drain takes the connection out of the pool; it closes when its streams have finished.
func (cc *ClientConn) Drain() {
	if cc.closed {
		return
	}
	if !cc.draining {
		cc.draining = true
		cc.pool.Draining(snapshot.HTTP2, cc)
	}
	if len(cc.streams) == 0 {
		cc.lost("drained")
	}
}

// Open begins a stream.
func (cc *ClientConn) Open(s *pipeline.Stream) pipeline.Upstream {
	cc.lp.StopTimer(&cc.timer)
	if cc.lastID == 0 {
		cc.lastID = 1
	} else {
		cc.lastID += 2
	}
	cc.used++
	if cc.alive != nil {
		cc.alive.opening()
	}
	st := cc.newStream(cc.lastID)
	st.s = s
	if m := cc.pool.Host.Cluster().Config().MaxRequestsPerConnection; m > 0 && cc.used >= int(m) {
		cc.draining = true
		cc.pool.Draining(snapshot.HTTP2, cc)
	}
	return (*clientStream)(st)
}

func (cc *ClientConn) headers(id uint32, st *stream, end bool, block []byte) bool {
	if st == nil || st.s == nil || st.inEnd {
		if cc.idle(id) {
			return cc.fatal(ErrProtocol, "HEADERS on an idle stream")
		}
		cc.dec.Start(block)
		cc.nonsense.Reset()
		if cc.dec.Skip(&cc.nonsense) != nil {
			return cc.fatal(ErrCompression, "header block")
		}
		if st != nil && end {
			st.inEnd = true
			st.finishIn()
		}
		return cc.calm()
	}
	s := st.s
	if !cc.useful() {
		return false
	}
	if st.head {
		ok, fatal := cc.decode(block, &s.Exchange, nil, &s.RespTrailer, false)
		if fatal {
			return cc.fatal(ErrCompression, "header block")
		}
		if !ok || !end || st.length > 0 {
			return cc.streamError(id, ErrProtocol)
		}
		st.inEnd = true
		if s.Tunnel() { // it has no place for trailers
			s.UpstreamData(nil, true)
			return !cc.closed
		}
		st.s = nil
		s.UpstreamTrailers()
		st.finishIn()
		return !cc.closed
	}
	s.Resp.Reset()
	ok, fatal := cc.decode(block, &s.Exchange, &s.Resp, &s.Resp.Header, false)
	if fatal {
		return cc.fatal(ErrCompression, "header block")
	}
	if !ok || s.Resp.Status == 101 || s.Resp.Status < 200 && end {
		return cc.streamError(id, ErrProtocol)
	}
	if s.Resp.Status < 200 {
		s.UpstreamInformational()
		return !cc.closed
	}
	if s.WantsTunnel() && s.Resp.Status < 300 {
		if end {
			return cc.streamError(id, ErrProtocol)
		}
		if s.Req.Protocol != "" {
			s.Resp.Status, s.Resp.Protocol = 101, s.Req.Protocol
		}
		s.Resp.ContentLength = -1
	}
	st.head = true
	if !st.headReq && s.Resp.Status != 304 && s.Resp.Status != 101 {
		st.length = s.Resp.ContentLength
	}
	if end {
		if st.length > 0 {
			return cc.streamError(id, ErrProtocol)
		}
		st.inEnd = true
		st.s = nil
	}
	s.UpstreamHead(end)
	if end && !cc.closed {
		st.finishIn()
	}
	return !cc.closed
}

// goAway: the peer takes nothing new; streams above last were not begun.
func (cc *ClientConn) goAway(last uint32, code ErrCode) {
	if !cc.draining {
		cc.draining = true
		cc.pool.Draining(snapshot.HTTP2, cc)
	}
	for id, st := range cc.streams {
		if id > last {
			s := st.s
			st.s = nil
			cc.remove(st)
			if s != nil {
				s.UpstreamReset(pipeline.StreamRefused, "GOAWAY "+code.String())
			}
		}
	}
	if len(cc.streams) == 0 {
		cc.lost("GOAWAY")
	}
}

func (cc *ClientConn) settings() {
	cc.sendEarly()
	if cc.closed {
		return
	}
	if !cc.draining {
		cc.pool.Freed(snapshot.HTTP2, cc)
	}
}

func (cc *ClientConn) removed() {
	if cc.closed {
		return
	}
	if cc.draining {
		if len(cc.streams) == 0 {
			cc.lp.Defer(cc)
		}
		return
	}
	cc.pool.Freed(snapshot.HTTP2, cc)
	if len(cc.streams) == 0 && !cc.closed {
		cc.setIdle()
	}
}

// RunOnLoop closes a connection that has drained.
func (cc *ClientConn) RunOnLoop() {
	if !cc.closed && len(cc.streams) == 0 {
		cc.lost("drained")
	}
}

func (cc *ClientConn) refused(ErrCode, string) {} // its exchanges tell of it

func (cc *ClientConn) ended() {
	cc.lp.StopTimer(&cc.timer)
	cc.lp.StopTimer(&cc.age)
	cc.pool.Gone(snapshot.HTTP2, cc)
}

// clientStream is a stream as a try's upstream.
type clientStream stream

func (cs *clientStream) st() *stream { return (*stream)(cs) }

// SendHead sends the request's head.
func (cs *clientStream) SendHead(s *pipeline.Stream, end bool) {
	st := cs.st()
	h := st.h
	if st.closed {
		return
	}
	if s.WantsTunnel() {
		cs.sendConnect(s)
		return
	}
	st.outEnd = end
	st.headReq = s.Req.Method == "HEAD"
	out := h.c.Out()
	at := len(out)
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	out = appendFrameHeader(out, 0, frameHeaders, flags, st.id)
	out = h.enc.Start(out)
	out = h.enc.Pseudo(out, hpack.Method, s.Req.Method)
	out = h.enc.Pseudo(out, hpack.Scheme, scheme(s.Req.Scheme))
	out = h.enc.Pseudo(out, hpack.Path, s.Req.Path)
	if s.Req.Authority != "" {
		out = h.enc.Pseudo(out, hpack.Authority, s.Req.Authority)
	}
	out = h.appendFields(out, &s.Req.Header)
	if s.GRPC && !s.Req.Header.Has(exchange.TE) {
		out = h.enc.Literal(out, "te", "trailers", exchange.TE, false)
	}
	h.finishHeaders(out, at, st.id)
}

func scheme(s string) string {
	if s == "" {
		return "http"
	}
	return s
}

// SendData sends a piece of the request's body.
func (cs *clientStream) SendData(s *pipeline.Stream, b []byte, end bool) { cs.st().SendData(s, b, end) }

// SendTrailers ends the request with trailers.
func (cs *clientStream) SendTrailers(s *pipeline.Stream) { cs.st().SendTrailers(s) }

// Blocked says that the callee does not take more.
func (cs *clientStream) Blocked() bool { return cs.st().Blocked() }

// Pause withholds credit from the callee.
func (cs *clientStream) Pause(on bool) { cs.st().Pause(on) }

// Cancel resets the stream, unless it has ended.
func (cs *clientStream) Cancel() {
	st := cs.st()
	st.s = nil
	if st.closed {
		st.h.spare.bury(st)
		return
	}
	if st.inEnd && st.outEnd {
		if len(st.q) == 0 {
			st.h.remove(st) // a tunnel; of others the last call was not this
		}
		return
	}
	if st.early { // the peer knows nothing of it
		st.h.remove(st)
		return
	}
	code := ErrCancel
	if st.inEnd {
		code = ErrNo
	}
	h := st.h
	h.c.SetOut(appendReset(h.c.Out(), st.id, code))
	h.control = max(h.control-cancelledFrames, -controlFrameBudget)
	h.remove(st)
}
