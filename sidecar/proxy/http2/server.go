package http2

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/ws"
)

// ServerConn is the server's side of a connection.
type ServerConn struct {
	conn
	w     *pipeline.Worker
	l     *pipeline.Listener
	set   pipeline.ConnSet
	peer  netip.AddrPort
	timer loop.Timer
	age   loop.Timer
	max   int
	// headTimer runs from headSince, when the head that has not come whole began.
	headTimer loop.Timer
	headSince int64
	served    uint32
	final     bool // the last GOAWAY has been sent
	ready     bool
}

// NewServerConn takes over an accepted connection; streams is its loop's. initial is what was read from it already, the preface included.
func NewServerConn(c *loop.Conn, w *pipeline.Worker, streams *Streams, l *pipeline.Listener, set pipeline.ConnSet, peer netip.AddrPort, initial []byte) *ServerConn {
	sc := &ServerConn{w: w, l: l, set: set, peer: peer, max: defaultMaxStreams}
	set[sc] = struct{}{}
	sc.init(c, streams, sc, true)
	sc.preface = len(Preface)
	if cfg := l.Config.Load(); cfg != nil && cfg.HTTP != nil {
		if cfg.HTTP.MaxStreams > 0 {
			sc.max = int(cfg.HTTP.MaxStreams)
		}
		if n := cfg.HTTP.MaxRequestHeaderBytes; n > 0 {
			sc.maxHead = n
		}
		if n := cfg.HTTP.MaxRequestFields; n > 0 {
			sc.maxFields = min(n, exchange.MaxFields-8)
		}
		sc.connect = cfg.HTTP.AllowConnect
		sc.apply(cfg.HTTP.HTTP2)
		sc.keepAlive(cfg.HTTP.HTTP2)
	}
	c.SetHandler(sc)
	c.Batch = true
	if cfg := l.Config.Load(); cfg != nil && cfg.HTTP != nil {
		c.StallTime = cfg.HTTP.FlushTimeout
	}
	l.Connections.Add(1)
	c.SetOut(sc.hello(c.Out(), uint32(sc.max)))
	sc.idleTimer()
	if cfg := l.Config.Load(); cfg != nil && cfg.HTTP != nil && cfg.HTTP.MaxConnectionAge > 0 {
		sc.lp.SetTimer(&sc.age, time.Duration(pipeline.Jitter(cfg.HTTP.MaxConnectionAge, w.Rand())), sc)
	}
	if len(initial) > 0 {
		b := append([]byte(nil), initial...)
		rest, ok := sc.frames(b)
		if !ok && !sc.closed {
			sc.end()
		}
		if !sc.closed {
			sc.keep(rest)
		}
	}
	sc.watchHead()
	if l.LameDuck.Load() && !sc.closed {
		sc.Drain()
	}
	return sc
}

func (sc *ServerConn) idleTimer() {
	d := time.Hour
	if cfg := sc.l.Config.Load(); cfg != nil && cfg.HTTP != nil && cfg.HTTP.IdleTimeout > 0 {
		d = cfg.HTTP.IdleTimeout
	}
	sc.lp.SetTimer(&sc.timer, d, sc)
}

func (sc *ServerConn) headers(id uint32, st *stream, end bool, block []byte) bool {
	if st != nil {
		return sc.trailers(st, end, block)
	}
	if id&1 == 0 {
		return sc.fatal(ErrProtocol, "even stream of a client")
	}
	if id <= sc.lastID {
		// a stream of the past: keep the table in step
		sc.dec.Start(block)
		sc.nonsense.Reset()
		if sc.dec.Skip(&sc.nonsense) != nil {
			return sc.fatal(ErrCompression, "header block")
		}
		return sc.fatal(ErrStreamClosed, "HEADERS on a closed stream")
	}
	sc.lastID = id
	s := sc.w.NewStream(sc.l, nil)
	ok, fatal := sc.decode(block, &s.Exchange, &s.Req, &s.Req.Header, true)
	if fatal {
		sc.w.Discard(s)
		return sc.fatal(ErrCompression, "header block")
	}
	code, why := ErrNo, ""
	switch {
	case sc.final:
		code, why = ErrRefusedStream, "the connection drains"
	case len(sc.streams) >= sc.max:
		code, why = ErrRefusedStream, "too many streams"
	case !ok:
		code, why = ErrProtocol, "malformed request"
	case sc.tooLarge:
		s.Req.Method, s.Req.Protocol = "GET", ""
	case s.WantsTunnel() && (end || s.Req.Protocol != "" && (!sc.connect || s.Req.Method != "CONNECT")):
		code, why = ErrProtocol, "malformed CONNECT"
	case end && s.Req.ContentLength > 0:
		code, why = ErrProtocol, "no body for its Content-Length"
	}
	if code != ErrNo {
		sc.refused(code, why)
		sc.w.Discard(s)
		sc.c.SetOut(appendReset(sc.c.Out(), id, code))
		return sc.calm()
	}
	if len(sc.streams) == 0 && !sc.sentAway { // then it runs to the second GOAWAY
		sc.lp.StopTimer(&sc.timer)
	}
	if sc.w.NoKeepalive() {
		sc.Drain()
	}
	if !sc.useful() {
		sc.w.Discard(s)
		return false
	}
	st = sc.newStream(id)
	st.s = s
	st.inEnd = end
	st.head = true
	st.headReq = s.Req.Method == "HEAD"
	st.length = s.Req.ContentLength
	if s.WantsTunnel() {
		st.length, s.Req.ContentLength = -1, -1
		s.Req.Header.DelKnown(exchange.ContentLength)
		if s.Req.Protocol != "" {
			s.Req.Method = "GET" // the form that an upgrade has within the pipeline
		}
	}
	s.Bind((*serverStream)(st))
	if s.Peer, s.Secure = sc.peer, sc.c.Layer() != nil; s.Secure {
		s.TLS = tlsconn.Of(sc.c)
	}
	s.Proto = exchange.HTTP2
	if sc.tooLarge {
		st.length = -1
		s.Reject(end, 431, "head too large")
		return !sc.closed
	}
	if s.Req.Header.Has(exchange.Expect) && !end && s.ExpectContinue() {
		sc.writeHeaders(id, false, func(dst []byte) []byte { return sc.enc.Status(dst, 100) })
	}
	if o := s.HTTP().Options; o != nil && o.MaxRequests > 0 {
		if sc.served++; sc.served >= o.MaxRequests {
			sc.Drain()
		}
	}
	s.Begin(end)
	return !sc.closed
}

func (sc *ServerConn) trailers(st *stream, end bool, block []byte) bool {
	s := st.s
	if st.inEnd {
		sc.dec.Start(block)
		sc.nonsense.Reset()
		if sc.dec.Skip(&sc.nonsense) != nil {
			return sc.fatal(ErrCompression, "header block")
		}
		return sc.streamError(st.id, ErrStreamClosed)
	}
	x, hd := &sc.nonsense, &sc.nonsense.Trailer
	if s != nil {
		x, hd = &s.Exchange, &s.Trailer
	} else {
		x.Reset()
	}
	ok, fatal := sc.decode(block, x, nil, hd, true)
	if fatal {
		return sc.fatal(ErrCompression, "header block")
	}
	if !ok || !end || st.length > 0 {
		return sc.streamError(st.id, ErrProtocol)
	}
	st.inEnd = true
	if s != nil {
		s.RequestTrailers()
	}
	if !sc.closed {
		st.finishIn()
	}
	return !sc.closed
}

func (sc *ServerConn) goAway(uint32, ErrCode) {}

func (sc *ServerConn) settings() { sc.ready = true }

func (sc *ServerConn) removed() {
	if len(sc.streams) > 0 || sc.closed {
		return
	}
	if sc.final || sc.gotAway {
		sc.lp.Defer(sc)
		return
	}
	if !sc.sentAway {
		sc.idleTimer()
	}
}

// RunOnLoop closes a connection that has drained.
func (sc *ServerConn) RunOnLoop() {
	if !sc.closed && len(sc.streams) == 0 {
		sc.c.Flush()
		sc.end()
	}
}

func (sc *ServerConn) refused(code ErrCode, why string) {
	sc.w.Refuse(sc.l, pipeline.Refusal{Protocol: "http2", Code: code.String(), Flag: refusalFlag, Reason: why})
}

func (sc *ServerConn) ended() {
	sc.lp.StopTimer(&sc.timer)
	sc.lp.StopTimer(&sc.age)
	sc.lp.StopTimer(&sc.headTimer)
	sc.l.Connections.Add(-1)
	delete(sc.set, sc)
}

// Shut closes the connection.
func (sc *ServerConn) Shut() { sc.end() }

// OnTimer ends an idle connection, or the grace after the first GOAWAY.
func (sc *ServerConn) OnTimer(t *loop.Timer) {
	if sc.closed {
		return
	}
	switch t {
	case &sc.age:
		sc.Drain()
		return
	case &sc.headTimer:
		sc.headLate()
		return
	}
	if !sc.sentAway {
		sc.Drain()
		return
	}
	if !sc.final {
		sc.final = true
		sc.c.SetOut(appendGoAway(sc.c.Out(), sc.lastID, ErrNo, ""))
		if len(sc.streams) == 0 {
			sc.c.Flush()
			sc.end()
		}
	}
}

// Drain announces the connection's end (§6.8: first with the highest stream, so that none in flight is lost), and
// closes it when its streams have finished.
func (sc *ServerConn) Drain() {
	if sc.closed || sc.sentAway {
		return
	}
	sc.sentAway = true
	sc.c.SetOut(appendGoAway(sc.c.Out(), maxWindow, ErrNo, ""))
	d := goAwayGrace
	if cfg := sc.l.Config.Load(); cfg.HTTP != nil && cfg.HTTP.Options != nil && cfg.HTTP.Options.DrainTimeout > 0 {
		d = cfg.HTTP.Options.DrainTimeout
	}
	sc.lp.SetTimer(&sc.timer, d, sc)
}

// serverStream is a stream as the exchange's downstream.
type serverStream stream

func (ss *serverStream) st() *stream { return (*stream)(ss) }

// Local is the connection's own address.
func (ss *serverStream) Local() netip.AddrPort { return ss.h.c.Local() }

// OriginalDst is where the caller meant to connect, when the kernel redirected it here.
func (ss *serverStream) OriginalDst() netip.AddrPort { return ss.h.c.OriginalDst() }

// SendInformational sends a 1xx head.
func (ss *serverStream) SendInformational(s *pipeline.Stream) {
	st := ss.st()
	if st.closed {
		return
	}
	st.h.writeHeaders(st.id, false, func(dst []byte) []byte {
		return st.h.appendFields(st.h.enc.Status(dst, s.Resp.Status), &s.Resp.Header)
	})
}

// SendHead sends the response's head.
func (ss *serverStream) SendHead(s *pipeline.Stream, end bool) {
	st := ss.st()
	if st.closed {
		return
	}
	h := st.h
	st.outEnd = end
	out := h.c.Out()
	at := len(out)
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	out = appendFrameHeader(out, 0, frameHeaders, flags, st.id)
	status := s.Resp.Status
	if status == 101 { // RFC 8441 §5
		status = 200
		s.Resp.Header.Del(ws.AcceptField)
	}
	out = h.enc.Status(h.enc.Start(out), status)
	out = h.appendFields(out, &s.Resp.Header)
	if s.Resp.ContentLength >= 0 && !s.Resp.Header.Has(exchange.ContentLength) && s.Resp.Status >= 200 && s.Resp.Status != 204 {
		out = h.enc.Literal(out, "content-length", decimal(s.Resp.ContentLength), exchange.ContentLength, false)
	}
	h.finishHeaders(out, at, st.id)
	if end {
		st.sentEnd()
	}
}

// SendData sends a piece of the body.
func (ss *serverStream) SendData(s *pipeline.Stream, b []byte, end bool) { ss.st().SendData(s, b, end) }

// SendTrailers ends the response with trailers.
func (ss *serverStream) SendTrailers(s *pipeline.Stream) { ss.st().SendTrailers(s) }

// Blocked says that the caller does not take more.
func (ss *serverStream) Blocked() bool { return ss.st().Blocked() }

// Pause withholds credit from the caller.
func (ss *serverStream) Pause(on bool) { ss.st().Pause(on) }

// Abort resets the stream.
func (ss *serverStream) Abort(*pipeline.Stream) {
	st := ss.st()
	if !st.closed {
		st.h.c.SetOut(appendReset(st.h.c.Out(), st.id, ErrInternal))
		st.h.remove(st)
	}
}

// Finished lets the stream end when what waits has gone.
func (ss *serverStream) Finished(*pipeline.Stream) {
	st := ss.st()
	st.s = nil
	if st.closed {
		st.h.spare.bury(st)
		return
	}
	if st.inEnd {
		return
	}
	if st.outEnd {
		// answered before the request was whole (§8.1): tell the caller to stop
		st.h.c.SetOut(appendReset(st.h.c.Out(), st.id, ErrNo))
		st.h.remove(st)
		return
	}
	st.rst = true
}

func decimal(n int64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}
