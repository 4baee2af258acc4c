package http1

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/ws"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// ClientConn is the client's side of a connection: one exchange at a time, idle in its pool between them.
type ClientConn struct {
	c     *loop.Conn
	pool  *upstream.Pool
	s     *pipeline.Stream
	timer loop.Timer
	part  []byte // the beginning of a head that is not whole

	body   Body
	frame  Framing
	method string
	key    string // the Sec-WebSocket-Key that is ours, or ""
	used   int    // exchanges so far
	oldAt  int64  // when the connection has reached its age; 0 never

	state    clientState
	reqDone  bool // the request is sent
	chunked  bool // the request goes out in chunks
	answered bool // a byte of the answer has come
	tunnel   bool
	blocked  bool
	drain    bool
	upgrade  bool
	inEnd    bool // of a tunnel: the callee has said all
}

type clientState uint8

const (
	cliDialing clientState = iota
	cliIdle
	cliHead // waiting for a response's head
	cliBody
	cliFlushing // the exchange is over, and the end of a tunnel has still to go out
	cliClosed
)

const defaultConnectTimeout = time.Second

// Dial begins a connection for a pool.
func Dial(p *upstream.Pool) (*ClientConn, error) {
	cc := &ClientConn{pool: p}
	c, err := p.Connect(snapshot.HTTP1, cc)
	if err != nil {
		return nil, err
	}
	cc.c = c
	d := p.Host.Cluster().Config().ConnectTimeout
	if d <= 0 {
		d = defaultConnectTimeout
	}
	p.Loop.SetTimer(&cc.timer, d, cc)
	return cc, nil
}

// OnConnect tells the pool.
func (cc *ClientConn) OnConnect(_ *loop.Conn, err error) {
	cc.pool.Loop.StopTimer(&cc.timer)
	if err != nil {
		cc.state = cliClosed
		cc.pool.DialFailed(snapshot.HTTP1, cc, cc.pool.Host.Address+": "+err.Error())
		return
	}
	cc.state = cliIdle
	if d := cc.pool.Host.Cluster().Config().MaxConnectionAge; d > 0 {
		now := cc.pool.Loop.Now()
		cc.oldAt = now + pipeline.Jitter(d, uint64(now)*0x9e3779b97f4a7c15)
	}
	cc.setIdle()
	cc.pool.Connected(snapshot.HTTP1, cc)
}

// OnTimer ends a connection that was not made in time, or was idle for too long.
func (cc *ClientConn) OnTimer(*loop.Timer) {
	switch cc.state {
	case cliDialing:
		cc.c.Close()
		cc.state = cliClosed
		cc.pool.DialFailed(snapshot.HTTP1, cc, cc.pool.Host.Address+": no connection within the connect timeout")
	case cliIdle, cliFlushing:
		cc.close()
	}
}

func (cc *ClientConn) setIdle() {
	d := cc.pool.Host.Cluster().Config().IdleTimeout
	if d <= 0 {
		d = defaultIdle
	}
	if cc.oldAt != 0 {
		d = max(min(d, time.Duration(cc.oldAt-cc.pool.Loop.Now())), 1)
	}
	cc.pool.Loop.SetTimer(&cc.timer, d, cc)
}

// Capacity is 1 while idle.
func (cc *ClientConn) Capacity() int {
	if cc.state == cliIdle {
		return 1
	}
	return 0
}

// Drain closes the connection when its exchange is over.
func (cc *ClientConn) Drain() {
	cc.drain = true
	if cc.state == cliIdle {
		cc.close()
	}
}

// Open gives the connection to a stream.
func (cc *ClientConn) Open(s *pipeline.Stream) pipeline.Upstream {
	cc.pool.Loop.StopTimer(&cc.timer)
	cc.s = s
	cc.state = cliHead
	cc.used++
	cc.reqDone, cc.chunked, cc.answered, cc.tunnel, cc.upgrade, cc.key = false, false, false, false, false, ""
	return cc
}

// SendHead sends the request's head.
func (cc *ClientConn) SendHead(s *pipeline.Stream, end bool) {
	cc.method = "GET" // what matters of it for the answer's framing
	switch s.Req.Method {
	case "HEAD":
		cc.method = "HEAD"
	case "CONNECT":
		cc.method = "CONNECT"
	}
	how := How{Length: -1, Upgrade: s.Req.Protocol}
	cc.upgrade = s.WantsTunnel()
	if s.Proto == exchange.HTTP2 && exchange.EqualFold(how.Upgrade, ws.Token) {
		cc.keyWebSocket(s)
	}
	switch {
	case cc.upgrade:
	case end:
		cc.reqDone = true
		if s.Req.Method != "GET" && s.Req.Method != "HEAD" && s.Req.Method != "DELETE" && s.Req.Method != "OPTIONS" {
			how.Length = 0
		}
	case s.Req.ContentLength >= 0:
		how.Length = s.Req.ContentLength
	default:
		how.Chunked, cc.chunked = true, true
	}
	how.Trailers = s.GRPC && !s.Req.Header.Has(exchange.TE)
	cc.c.SetOut(AppendRequest(cc.c.Out(), &s.Req, &how))
}

// keyWebSocket adds what HTTP/1.1 begins a handshake by, where the request came over HTTP/2, which has no such field.
func (cc *ClientConn) keyWebSocket(s *pipeline.Stream) {
	if _, ok := s.Req.Header.Get(ws.KeyField); ok {
		return
	}
	key := ws.AppendKey(s.Alloc(24)[:0], s.Rand(), s.Rand())
	s.Req.Header.Add(ws.KeyField, str(key))
	cc.key = str(key)
}

// SendData sends a piece of the request's body.
func (cc *ClientConn) SendData(s *pipeline.Stream, b []byte, end bool) {
	if cc.state == cliClosed {
		return
	}
	if len(b) > 0 {
		if cc.chunked {
			cc.c.SetOut(AppendChunkHead(cc.c.Out(), len(b)))
			cc.c.Write(b)
			if cc.c.Closed() {
				return
			}
			cc.c.SetOut(append(cc.c.Out(), '\r', '\n'))
		} else {
			cc.c.Write(b)
		}
	}
	if !end || cc.c.Closed() {
		return
	}
	cc.reqDone = true
	switch {
	case cc.chunked:
		cc.c.SetOut(AppendLastChunk(cc.c.Out(), nil))
	case cc.upgrade:
		cc.c.CloseWrite()
	}
}

// BodySink is the connection, unless the body goes out in chunks.
func (cc *ClientConn) BodySink() *loop.Conn {
	if cc.state == cliClosed || cc.state == cliIdle || cc.chunked || cc.reqDone || cc.c.Closed() {
		return nil
	}
	return cc.c
}

// SendTrailers ends the request with trailers.
func (cc *ClientConn) SendTrailers(s *pipeline.Stream) {
	if cc.state == cliClosed {
		return
	}
	cc.reqDone = true
	switch {
	case cc.chunked:
		cc.c.SetOut(AppendLastChunk(cc.c.Out(), &s.Trailer))
	case cc.upgrade:
		cc.c.CloseWrite()
	}
}

// Blocked says that the callee does not read.
func (cc *ClientConn) Blocked() bool {
	if cc.state != cliClosed && cc.c.Blocked() {
		cc.blocked = true
		return true
	}
	return false
}

// Pause stops reading the response.
func (cc *ClientConn) Pause(on bool) {
	if cc.state != cliClosed {
		cc.c.Pause(on)
	}
}

// Cancel gives the exchange up, and with it the connection: what still comes on it cannot be told apart.
func (cc *ClientConn) Cancel() {
	if cc.s == nil {
		return
	}
	cc.s = nil
	if cc.inEnd && cc.reqDone && cc.c.Waiting() > 0 {
		cc.state = cliFlushing
		cc.pool.Loop.SetTimer(&cc.timer, stuckTime, cc)
		return
	}
	cc.close()
}

// OnDrained lets the request's body go on.
func (cc *ClientConn) OnDrained(*loop.Conn) {
	if cc.state == cliFlushing {
		cc.close()
		return
	}
	if cc.blocked {
		cc.blocked = false
		if cc.s != nil {
			cc.s.UpstreamWritable()
		}
	}
}

// OnWriteError: the callee has gone; what it may have answered is read first.
func (cc *ClientConn) OnWriteError(*loop.Conn, error) {
	cc.lost("the connection broke while the request was being sent")
}

// OnHangup notices a connection that ended while paused: what it still holds is read when reading goes on.
func (cc *ClientConn) OnHangup(*loop.Conn) {}

// OnRead reads the response.
func (cc *ClientConn) OnRead(c *loop.Conn) {
	turn := 0
	lp := cc.pool.Loop
	for cc.state != cliClosed && !cc.inEnd {
		if cc.state == cliBody && !cc.tunnel && cc.body.SpliceMost() > 0 {
			n, spliced := cc.splice(c)
			turn += n
			if c.Closed() || c.Paused() || spliced && n == 0 {
				return
			}
			if spliced {
				continue
			}
		}
		k := copy(lp.Scratch, cc.part)
		n, r := c.Read(lp.Scratch[k:])
		if r == loop.Again {
			return
		}
		if r != loop.OK {
			cc.eof(r == loop.EOF)
			return
		}
		if cc.s == nil { // idle: nothing is expected
			cc.close()
			return
		}
		cc.part = nil
		turn += n
		cc.answered = true
		cc.bytes(lp.Scratch[:k+n])
		if s := cc.s; s != nil && cc.state == cliBody {
			s.KeepResponse()
		}
		if c.Closed() || c.Paused() {
			return
		}
		if turn >= maxTurnBytes {
			c.Yield()
			return
		}
	}
}

// splice passes a piece of a large body on without reading it. false says that it is to be read.
func (cc *ClientConn) splice(c *loop.Conn) (int, bool) {
	s := cc.s
	if s == nil {
		return 0, false
	}
	dst := s.ResponseSink()
	if dst == nil {
		return 0, false
	}
	n, r := c.Splice(dst, cc.body.SpliceMost())
	switch r {
	case loop.Unsupported:
		return 0, false
	case loop.OK:
		end := cc.body.Skip(n)
		if end {
			cc.s = nil
			ok := cc.reusable(0)
			s.ResponseSpliced(n, true)
			cc.done(ok)
			return n, true
		}
		s.ResponseSpliced(n, false)
		return n, true
	case loop.Again:
		if cc.s == s {
			s.ResponseSpliced(0, false)
		}
		return 0, true
	}
	cc.eof(r == loop.EOF)
	return 0, true
}

// bytes takes what was read. It must be used up or kept in part before returning: the scratch is everybody's.
func (cc *ClientConn) bytes(b []byte) {
	for len(b) > 0 {
		s := cc.s
		if s == nil {
			if cc.state != cliClosed {
				cc.close() // more than the response
			}
			return
		}
		switch cc.state {
		case cliHead:
			s.Resp.Reset()
			n, err := ParseResponse(b, &s.Resp, &cc.frame, cc.limits())
			if err != nil {
				cc.s = nil
				cc.close()
				s.UpstreamReset(pipeline.ProtocolError, "the answer is not HTTP/1.1: "+err.Reason)
				return
			}
			if n == 0 {
				cc.part = append(cc.part[:0], b...)
				return
			}
			b = b[n:]
			if st := s.Resp.Status; st < 200 && st != 101 {
				s.UpstreamInformational()
				continue
			}
			cc.onHead(s, len(b))
		case cliBody:
			if cc.tunnel {
				s.UpstreamData(b, false)
				return
			}
			data, n, err := cc.body.Next(b)
			if err != nil {
				cc.s = nil
				cc.close()
				s.UpstreamReset(pipeline.ProtocolError, "the answer's body is malformed: "+err.Reason)
				return
			}
			b = b[n:]
			if !cc.body.Done() {
				if len(data) > 0 {
					s.UpstreamData(data, false)
				}
				continue
			}
			cc.s = nil // before the last call, which may end the exchange and cancel what is still open
			if cc.body.kind == chunkedBody {
				s.RespTrailer.Reset()
				if err := cc.body.Trailers(&s.RespTrailer); err != nil {
					cc.close()
					s.UpstreamReset(pipeline.ProtocolError, err.Reason)
					return
				}
			}
			ok := cc.reusable(len(b))
			if len(s.RespTrailer.Fields) > 0 {
				if len(data) > 0 {
					s.UpstreamData(data, false)
				}
				s.UpstreamTrailers()
			} else {
				s.UpstreamData(data, true)
			}
			cc.done(ok)
			return
		default:
			return
		}
	}
}

// limits are those of a response's head, which has to find room in the loop's scratch.
func (cc *ClientConn) limits() Limits {
	l := Limits{Bytes: len(cc.pool.Loop.Scratch) - 1024, Fields: exchange.MaxFields - 10}
	cfg := cc.pool.Host.Cluster().Config()
	if n := cfg.MaxResponseHeaderBytes; n > 0 {
		l.Bytes = min(l.Bytes, n)
	}
	if n := cfg.MaxResponseFields; n > 0 {
		l.Fields = min(l.Fields, n)
	}
	return l
}

// onHead takes a response's head; left is how much came behind it.
func (cc *ClientConn) onHead(s *pipeline.Stream, left int) {
	st := s.Resp.Status
	if bad := cc.badUpgrade(s); bad != "" {
		cc.s = nil
		cc.close()
		s.UpstreamReset(pipeline.ProtocolError, bad)
		return
	}
	if st == 101 || cc.upgrade && s.Req.Protocol == "" && st < 300 {
		cc.tunnel = true
		cc.state = cliBody
		s.UpstreamHead(false)
		return
	}
	cc.state = cliBody
	cc.body.InitResponse(cc.method, s.Resp.Status, &cc.frame)
	if !cc.body.Done() {
		s.UpstreamHead(false)
		return
	}
	cc.s = nil
	ok := cc.reusable(left)
	s.UpstreamHead(true)
	cc.done(ok)
}

// badUpgrade says what is wrong with a 101, or "".
func (cc *ClientConn) badUpgrade(s *pipeline.Stream) string {
	if s.Resp.Status != 101 {
		return ""
	}
	if s.Req.Protocol == "" {
		return "an upgrade that was not asked for"
	}
	if cc.key != "" {
		if got, _ := s.Resp.Header.Get(ws.AcceptField); got != str(ws.AppendAccept(s.Alloc(28)[:0], cc.key)) {
			return "a WebSocket handshake that does not prove itself"
		}
	}
	return ""
}

// reusable says whether the connection can take another exchange after this response.
func (cc *ClientConn) reusable(left int) bool {
	if !cc.reqDone || cc.frame.Close || cc.drain || left > 0 || cc.body.UntilClose() || cc.upgrade {
		return false
	}
	m := cc.pool.Host.Cluster().Config().MaxRequestsPerConnection
	return m == 0 || cc.used < int(m)
}

func (cc *ClientConn) done(ok bool) {
	if cc.state == cliClosed {
		return
	}
	if !ok || cc.c.Waiting() > 0 || cc.c.Hangup() || cc.oldAt != 0 && cc.pool.Loop.Now() >= cc.oldAt {
		cc.close()
		return
	}
	cc.state = cliIdle
	cc.c.Pause(false)
	cc.setIdle()
	cc.pool.Release(cc)
}

// eof: the callee has closed the connection or, where clean is false, reset it: then nothing it sent is whole.
func (cc *ClientConn) eof(clean bool) {
	s := cc.s
	if s != nil && clean && cc.state == cliBody && cc.tunnel {
		cc.inEnd = true // what still comes from the caller has a way
		cc.c.Pause(true)
		s.UpstreamData(nil, true)
		return
	}
	if s != nil && clean && cc.state == cliBody && cc.body.UntilClose() {
		cc.s = nil
		cc.close()
		s.UpstreamData(nil, true)
		return
	}
	cc.lost("the connection ended before the answer did")
}

func (cc *ClientConn) lost(detail string) {
	s := cc.s
	cc.s = nil
	kind := pipeline.ConnectionLost
	if !cc.answered && cc.used > 1 {
		kind = pipeline.StaleConnection
	}
	cc.close()
	if s != nil {
		s.UpstreamReset(kind, cc.pool.Host.Address+": "+detail)
	}
}

func (cc *ClientConn) close() {
	if cc.state == cliClosed {
		return
	}
	cc.state = cliClosed
	cc.pool.Loop.StopTimer(&cc.timer)
	cc.c.Close()
	cc.pool.Gone(snapshot.HTTP1, cc)
}
