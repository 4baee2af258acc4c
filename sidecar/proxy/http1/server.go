package http1

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
)

// ServerConn is the server's side of a connection: requests one after another, answered in order.
type ServerConn struct {
	c  *loop.Conn
	w  *pipeline.Worker
	l  *pipeline.Listener
	s  *pipeline.Stream
	in []byte // a request's head and what came after it; nil while idle
	n  int    // bytes in in
	// ahead is what came behind the body of the request under way.
	ahead []byte
	waits int // bytes of the last answer that waited when that was last looked at
	head  int // bytes of in that the current request has used: its head, and of its body what came with it
	peer  netip.AddrPort
	set   pipeline.ConnSet

	timer loop.Timer
	state serverState
	body  Body
	frame Framing

	oldAt      int64 // when the connection has reached its age; 0 never
	closeAfter bool  // the connection ends with the current response
	served     uint32
	chunked    bool // the response goes out in chunks
	noBody     bool // the response has no body on the wire (HEAD, 204, 304)
	tunnel     bool // after 101: bytes both ways
	blocked    bool
	stalled    bool // no request is begun until the answers to those before have gone out
	ending     bool // Drain was called
	processing bool
}

type serverState uint8

const (
	srvIdle      serverState = iota // between requests
	srvHead                         // part of a head is there
	srvBusy                         // an exchange is under way
	srvLingering                    // answered early: reading what still comes, for a while
	srvClosed
)

const (
	firstBuf       = 4 << 10
	lingerTime     = 2 * time.Second
	stuckTime      = 30 * time.Second // in which nothing of the last answer went out
	maxTurnBytes   = 256 << 10
	defaultIdle    = time.Hour
	defaultHeadMax = 30 * time.Second
)

// NewServerConn takes over an accepted connection. initial is what was read from it already.
func NewServerConn(c *loop.Conn, w *pipeline.Worker, l *pipeline.Listener, set pipeline.ConnSet, peer netip.AddrPort, initial []byte) *ServerConn {
	sc := &ServerConn{c: c, w: w, l: l, set: set, peer: peer}
	set[sc] = struct{}{}
	c.SetHandler(sc)
	l.Connections.Add(1)
	if cfg := l.Config.Load(); cfg != nil && cfg.HTTP != nil && cfg.HTTP.MaxConnectionAge > 0 {
		sc.oldAt = w.Loop.Now() + pipeline.Jitter(cfg.HTTP.MaxConnectionAge, w.Rand())
	}
	if cfg := l.Config.Load(); cfg != nil && cfg.HTTP != nil {
		c.StallTime = cfg.HTTP.FlushTimeout
	}
	sc.idle()
	if len(initial) > 0 {
		sc.need(len(initial))
		sc.n = copy(sc.in[:cap(sc.in)], initial)
		sc.process()
	}
	return sc
}

// OriginalDst is where the caller meant to connect, when the kernel redirected it here.
func (sc *ServerConn) OriginalDst() netip.AddrPort { return sc.c.OriginalDst() }

func (sc *ServerConn) limits() Limits {
	lim := DefaultLimits
	if cfg := sc.l.Config.Load(); cfg != nil && cfg.HTTP != nil {
		if v := cfg.HTTP.MaxRequestHeaderBytes; v > 0 {
			lim.Bytes = v
		}
		if v := cfg.HTTP.MaxRequestFields; v > 0 {
			lim.Fields = min(v, exchange.MaxFields)
		}
	}
	return lim
}

func (sc *ServerConn) idle() {
	sc.state = srvIdle
	d := defaultIdle
	if cfg := sc.l.Config.Load(); cfg != nil && cfg.HTTP != nil && cfg.HTTP.IdleTimeout > 0 {
		d = cfg.HTTP.IdleTimeout
	}
	sc.w.Loop.SetTimer(&sc.timer, d, sc)
}

// need makes room for n more bytes behind what is in the buffer.
func (sc *ServerConn) need(n int) {
	if sc.in == nil {
		if n <= firstBuf {
			sc.in = sc.w.Loop.SmallBuf()
		} else {
			sc.in = make([]byte, 0, max(n, 2*firstBuf))
		}
		return
	}
	if cap(sc.in)-sc.n < n {
		b := make([]byte, 0, max(2*cap(sc.in), sc.n+n))
		copy(b[:sc.n], sc.in[:sc.n])
		sc.freeIn()
		sc.in = b
	}
}

func (sc *ServerConn) freeIn() {
	if sc.in != nil {
		sc.w.Loop.FreeSmallBuf(sc.in)
		sc.in = nil
	}
}

// OnRead reads requests, or the body of the one under way.
func (sc *ServerConn) OnRead(c *loop.Conn) {
	turn := 0
	for {
		switch sc.state {
		case srvIdle, srvHead:
			if sc.stall() {
				return
			}
			sc.need(1)
			n, r := c.Read(sc.in[sc.n:cap(sc.in)])
			if r != loop.OK {
				if r == loop.Again {
					if sc.n == 0 {
						sc.freeIn()
					}
					return
				}
				sc.eof()
				return
			}
			sc.n += n
			turn += n
			sc.process()
		case srvBusy:
			if sc.body.Done() && !sc.tunnel {
				c.Pause(true) // the next request waits in the socket
				if c.Hangup() {
					sc.OnHangup(c)
				}
				return
			}
			if sc.body.SpliceMost() > 0 {
				n, spliced := sc.splice(c)
				turn += n
				if spliced {
					if n == 0 {
						return
					}
					break
				}
			}
			n, r := c.Read(sc.w.Loop.Scratch)
			if r != loop.OK {
				if r != loop.Again {
					sc.eof()
				}
				return
			}
			turn += n
			b := sc.w.Loop.Scratch[:n]
			if used := sc.bodyBytes(b, false); used < n && sc.state != srvLingering && sc.state != srvClosed {
				sc.pipelined(b[used:])
			}
		case srvLingering:
			n, r := c.Read(sc.w.Loop.Scratch)
			if r == loop.Again {
				return
			}
			if r != loop.OK {
				sc.close()
				return
			}
			turn += n
		case srvClosed:
			return
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
func (sc *ServerConn) splice(c *loop.Conn) (int, bool) {
	s := sc.s
	dst := s.RequestSink()
	if dst == nil {
		return 0, false
	}
	n, r := c.Splice(dst, sc.body.SpliceMost())
	switch r {
	case loop.Unsupported:
		return 0, false
	case loop.OK:
		end := sc.body.Skip(n)
		if sc.s == s { // else the write told of an upstream that has gone, and the exchange has ended
			if end {
				s.Trailer.Reset()
			}
			s.RequestSpliced(n, end)
		}
	case loop.Again:
		if sc.s == s {
			s.RequestSpliced(0, false)
		}
	default:
		sc.eof()
	}
	return n, true
}

// stall says whether the caller has so much to read that it gets no more to answer for.
func (sc *ServerConn) stall() bool {
	if sc.c.Waiting() > loop.BufSize {
		sc.c.Flush()
	}
	if !sc.c.Blocked() || sc.c.Closed() {
		return sc.c.Closed()
	}
	sc.stalled = true
	sc.c.Pause(true)
	return true
}

// process begins the requests that are whole in the buffer.
func (sc *ServerConn) process() {
	if sc.processing {
		return
	}
	sc.processing = true
	for sc.n > 0 && (sc.state == srvIdle || sc.state == srvHead) {
		if sc.stall() {
			break
		}
		s := sc.w.NewStream(sc.l, sc)
		n, err := ParseRequest(sc.in[:sc.n], &s.Req, &sc.frame, sc.limits())
		if err != nil {
			s.Req.Header.Reset()
			sc.refuse(s, err)
			break
		}
		if n == 0 {
			h := s.HTTP()
			sc.w.Discard(s)
			if sc.state == srvIdle {
				sc.state = srvHead
				d := defaultHeadMax
				if h != nil && h.HeaderTimeout > 0 {
					d = h.HeaderTimeout
				}
				sc.w.Loop.SetTimer(&sc.timer, d, sc)
			}
			if sc.n == cap(sc.in) {
				sc.need(1)
			}
			break
		}
		sc.begin(s, n)
	}
	sc.processing = false
	if sc.state == srvIdle && sc.n == 0 {
		sc.freeIn()
	}
}

func (sc *ServerConn) begin(s *pipeline.Stream, n int) {
	sc.s = s
	sc.head = n
	sc.state = srvBusy
	sc.w.Loop.StopTimer(&sc.timer)
	sc.closeAfter = sc.frame.Close || sc.ending || sc.w.NoKeepalive() || sc.l.LameDuck.Load() || sc.oldAt != 0 && sc.w.Loop.Now() > sc.oldAt
	if o := s.HTTP().Options; o != nil && o.MaxRequests > 0 {
		if sc.served++; sc.served >= o.MaxRequests {
			sc.closeAfter = true
		}
	}
	sc.chunked, sc.noBody, sc.tunnel = false, false, false
	sc.body.InitRequest(&sc.frame)
	s.Peer, s.Secure = sc.peer, sc.c.Layer() != nil
	if s.Secure {
		s.TLS = tlsconn.Of(sc.c)
		s.Req.Scheme = "https"
	}
	s.Proto = exchange.HTTP11
	if sc.frame.HTTP10 {
		s.Proto = exchange.HTTP10
	}
	switch {
	case s.Req.Method == "CONNECT":
		if !sc.body.Done() { // RFC 9110 §9.3.6 gives it no meaning
			s.Req.Header.Reset()
			sc.refuse(s, bad("CONNECT with a body"))
			return
		}
		s.Req.Protocol = ""
		sc.closeAfter = true
	case !sc.frame.Upgrade || sc.frame.HTTP10 || !sc.body.Done():
		s.Req.Protocol = ""
	}
	if sc.frame.Expect && !sc.body.Done() && s.ExpectContinue() && sc.n == n && !sc.frame.HTTP10 {
		sc.c.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
	s.Begin(sc.body.Done() && !s.WantsTunnel())
	if sc.s != s {
		return
	}
	if s.WantsTunnel() {
		sc.c.Pause(true) // nothing of what may become a tunnel is read until the answer has come
		return
	}
	if sc.n > n && !sc.body.Done() {
		// the body's beginning came with the head; what is behind the body belongs to the next request
		sc.bodyBytes(sc.in[n:sc.n], true)
	}
}

// bodyBytes takes body bytes from b and returns how many belong to the current request. Where b is a part of in,
// they are counted in head before the exchange learns of them: it may end by it, and the next request begin.
func (sc *ServerConn) bodyBytes(b []byte, inHead bool) (used int) {
	s := sc.s
	if sc.tunnel {
		s.RequestData(b, false)
		return len(b)
	}
	for used < len(b) && sc.s == s && !sc.body.Done() {
		data, n, err := sc.body.Next(b[used:])
		used += n
		if inHead {
			sc.head += n
		}
		if err != nil {
			sc.malformed(s, err)
			return used
		}
		if sc.body.Done() {
			s.Trailer.Reset()
			if sc.body.kind == chunkedBody {
				if err := sc.body.Trailers(&s.Trailer); err != nil {
					sc.malformed(s, err)
					return used
				}
			}
			if len(s.Trailer.Fields) > 0 {
				if len(data) > 0 {
					s.RequestData(data, false)
				}
				if sc.s == s {
					s.RequestTrailers()
				}
			} else {
				s.RequestData(data, true)
			}
			break
		}
		if len(data) > 0 {
			s.RequestData(data, false)
		}
		if n == 0 {
			break
		}
	}
	return used
}

// malformed ends an exchange whose request's body cannot be read: nothing behind it on the connection can.
func (sc *ServerConn) malformed(s *pipeline.Stream, e *Error) {
	sc.closeAfter = true
	s.DownstreamMalformed(e.Reason)
}

// pipelined keeps what came behind the body of a request until that is answered. The buffer of the head stays
// where it is: the exchange's views point into it.
func (sc *ServerConn) pipelined(b []byte) {
	if sc.state == srvBusy {
		sc.ahead = append([]byte(nil), b...)
		return
	}
	sc.need(len(b)) // the exchange has ended meanwhile
	sc.n += copy(sc.in[sc.n:cap(sc.in)], b)
	sc.process()
}

// refuse answers a request that could not be parsed, and ends the connection.
func (sc *ServerConn) refuse(s *pipeline.Stream, e *Error) {
	sc.state = srvBusy
	sc.w.Loop.StopTimer(&sc.timer)
	sc.closeAfter = true
	sc.w.Discard(s)
	sc.s = nil
	sc.w.Refuse(sc.l, pipeline.Refusal{Protocol: "http1", Code: statusCode(e.Status), Flag: exchange.DownstreamProtocolError, Reason: e.Reason})
	text := e.Reason + " (DPE)\n"
	var h exchange.Head
	h.Status = e.Status
	h.Header.AddKnown(exchange.ContentType, "text/plain; charset=utf-8")
	out := AppendResponse(sc.c.Out(), &h, &How{Length: int64(len(text)), Close: true})
	sc.c.SetOut(append(out, text...))
	sc.linger()
}

// statusCode is the label of a refusal's status.
func statusCode(status int) string {
	switch status {
	case 400:
		return "400"
	case 405:
		return "405"
	case 408:
		return "408"
	case 431:
		return "431"
	case 501:
		return "501"
	case 505:
		return "505"
	}
	return "other"
}

// OnTimer closes a connection that has been idle, or whose head did not come, or has lingered long enough.
func (sc *ServerConn) OnTimer(*loop.Timer) {
	if sc.state == srvHead {
		e := &Error{408, "the request's head did not come in time"}
		s := sc.w.NewStream(sc.l, sc)
		sc.refuse(s, e)
		return
	}
	if w := sc.c.Waiting(); sc.state == srvLingering && w > 0 && w < sc.waits {
		sc.waits = w // slow, but alive
		sc.w.Loop.SetTimer(&sc.timer, stuckTime, sc)
		return
	}
	sc.close()
}

// OnHangup notices a caller that has left while its request is at work.
func (sc *ServerConn) OnHangup(*loop.Conn) {
	if sc.state != srvBusy || sc.s == nil {
		return
	}
	if sc.n > sc.head || sc.ahead != nil {
		return // a pipelined request is there: the caller may have closed its half after it
	}
	var b [1]byte
	if n, r := sc.c.Peek(b[:]); r == loop.OK && n > 0 {
		return
	}
	sc.eof()
}

// eof: the caller has closed or reset the connection.
func (sc *ServerConn) eof() {
	if s := sc.s; s != nil {
		if sc.tunnel {
			sc.c.Pause(true)
			s.RequestData(nil, true)
			return
		}
		sc.closeAfter = true
		s.DownstreamGone()
		return
	}
	sc.close()
}

// OnDrained lets the upstream go on.
func (sc *ServerConn) OnDrained(*loop.Conn) {
	if sc.blocked {
		sc.blocked = false
		if sc.s != nil {
			sc.s.DownstreamWritable()
		}
	}
	if sc.state == srvLingering {
		sc.w.Loop.SetTimer(&sc.timer, sc.lingerTime(), sc)
	}
	if sc.stalled {
		sc.stalled = false
		sc.c.Pause(false)
		sc.RunOnLoop()
	}
}

// Local is the connection's own address.
func (sc *ServerConn) Local() netip.AddrPort { return sc.c.Local() }

// OnConnect does nothing: the connection was accepted.
func (sc *ServerConn) OnConnect(*loop.Conn, error) {}

// OnWriteError is a caller that has gone.
func (sc *ServerConn) OnWriteError(*loop.Conn, error) {
	s := sc.s
	sc.closed()
	if s != nil {
		s.DownstreamGone()
	}
}

// OnStalled gives up a caller that does not read.
func (sc *ServerConn) OnStalled(_ *loop.Conn, pressed bool) {
	flag := sc.w.Stalled(sc.l, "http1", pressed)
	if s := sc.s; s != nil {
		sc.closeAfter = true
		s.DownstreamStalled(flag)
	}
	if sc.state != srvClosed {
		sc.c.Reset()
		sc.closed()
	}
}

func (sc *ServerConn) close() {
	if sc.state == srvClosed {
		return
	}
	sc.c.Close()
	sc.closed()
}

func (sc *ServerConn) closed() {
	if sc.state == srvClosed {
		return
	}
	sc.state = srvClosed
	sc.w.Loop.StopTimer(&sc.timer)
	sc.l.Connections.Add(-1)
	delete(sc.set, sc)
	if sc.s == nil {
		sc.freeIn()
	}
}

// Drain has the connection end with its next answer. An idle one is not closed: its caller may just be sending, and
// would not know whether that was executed.
func (sc *ServerConn) Drain() { sc.ending, sc.closeAfter = true, true }

// Shut closes the connection.
func (sc *ServerConn) Shut() {
	s := sc.s
	sc.close()
	if s != nil {
		s.DownstreamGone()
	}
}
