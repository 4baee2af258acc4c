package http1

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/ws"
)

// SendInformational sends a 1xx head.
func (sc *ServerConn) SendInformational(s *pipeline.Stream) {
	if s.Proto == exchange.HTTP10 || sc.state == srvClosed {
		return
	}
	sc.c.SetOut(AppendResponse(sc.c.Out(), &s.Resp, &How{Length: -1}))
}

// SendHead sends the response's head.
func (sc *ServerConn) SendHead(s *pipeline.Stream, end bool) {
	if sc.state == srvClosed {
		return
	}
	if sc.l.LameDuck.Load() || !sc.body.Done() && !sc.tunnel {
		sc.closeAfter = true // an answer before the end of the upload ends the connection too
	}
	h := &s.Resp
	how := How{Length: -1}
	sc.noBody = s.Req.Method == "HEAD" || h.Status == 204 || h.Status == 304
	switch {
	case s.Tunnel():
		sc.tunnel, sc.closeAfter, sc.noBody = true, true, false
		if h.Status == 101 {
			if how.Upgrade = h.Protocol; how.Upgrade == "" {
				how.Upgrade = s.Req.Protocol
			}
			acceptWebSocket(s)
		}
	case sc.noBody:
		if s.Local && s.Req.Method == "HEAD" {
			how.Length = h.ContentLength // what a GET would have got
		}
	case end:
		how.Length = 0
	case h.ContentLength >= 0 && (s.Proto == exchange.HTTP10 || !h.Header.Has(exchange.Trailer)):
		how.Length = h.ContentLength
	case s.Proto == exchange.HTTP10:
		sc.closeAfter = true
	default:
		how.Chunked, sc.chunked = true, true
	}
	how.Close = sc.closeAfter && !sc.tunnel
	how.KeepAlive = s.Proto == exchange.HTTP10 && !sc.closeAfter
	sc.c.SetOut(AppendResponse(sc.c.Out(), h, &how))
	if sc.tunnel {
		sc.c.Pause(false)
		if rest := sc.in[sc.head:sc.n]; len(rest) > 0 {
			b := append([]byte(nil), rest...)
			sc.n = sc.head
			s.RequestData(b, false)
		}
	}
}

// acceptWebSocket adds what HTTP/1.1 proves a handshake by, where the answer came over HTTP/2, which has no such field.
func acceptWebSocket(s *pipeline.Stream) {
	if !exchange.EqualFold(s.Req.Protocol, ws.Token) {
		return
	}
	key, ok := s.Req.Header.Get(ws.KeyField)
	if _, has := s.Resp.Header.Get(ws.AcceptField); has || !ok {
		return
	}
	s.Resp.Header.Add(ws.AcceptField, str(ws.AppendAccept(s.Alloc(28)[:0], key)))
}

// SendData sends a piece of the body.
func (sc *ServerConn) SendData(s *pipeline.Stream, b []byte, end bool) {
	if sc.state == srvClosed {
		return
	}
	if !sc.noBody && len(b) > 0 {
		if sc.chunked {
			sc.c.SetOut(AppendChunkHead(sc.c.Out(), len(b)))
			sc.c.Write(b)
			if !sc.c.Closed() {
				sc.c.SetOut(append(sc.c.Out(), '\r', '\n'))
			}
		} else {
			sc.c.Write(b)
		}
	}
	if !end || sc.c.Closed() {
		return
	}
	switch {
	case sc.tunnel:
		sc.c.CloseWrite()
	case sc.chunked && !sc.noBody:
		sc.c.SetOut(AppendLastChunk(sc.c.Out(), nil))
	}
}

// BodySink is the connection, unless the body goes out in chunks or not at all.
func (sc *ServerConn) BodySink() *loop.Conn {
	if sc.state != srvBusy || sc.chunked || sc.noBody || sc.c.Closed() {
		return nil
	}
	return sc.c
}

// SendTrailers ends the body with trailers, where the framing has room for them.
func (sc *ServerConn) SendTrailers(s *pipeline.Stream) {
	if sc.state == srvClosed || !sc.chunked || sc.noBody {
		return
	}
	sc.c.SetOut(AppendLastChunk(sc.c.Out(), &s.RespTrailer))
}

// Blocked says that the caller does not read.
func (sc *ServerConn) Blocked() bool {
	if sc.state != srvClosed && sc.c.Blocked() {
		sc.blocked = true
		return true
	}
	return false
}

// Pause stops reading the body.
func (sc *ServerConn) Pause(on bool) {
	if sc.state == srvBusy && (!sc.body.Done() || sc.tunnel) {
		sc.c.Pause(on)
	}
}

// Abort breaks the response off.
func (sc *ServerConn) Abort(*pipeline.Stream) {
	if sc.state != srvClosed {
		sc.c.Reset()
		sc.closed()
	}
}

// Finished goes on with the next request, or ends the connection.
func (sc *ServerConn) Finished(s *pipeline.Stream) {
	sc.s = nil
	if sc.state == srvClosed {
		sc.freeIn()
		return
	}
	if !sc.body.Done() || sc.tunnel {
		sc.n = 0
		sc.linger()
		return
	}
	rest := sc.n - sc.head
	if rest > 0 {
		copy(sc.in[:rest], sc.in[sc.head:sc.n])
	}
	sc.n = rest
	if a := sc.ahead; a != nil {
		sc.ahead = nil
		sc.need(len(a))
		sc.n += copy(sc.in[sc.n:cap(sc.in)], a)
		rest = sc.n
	}
	if sc.closeAfter {
		sc.linger()
		return
	}
	if !sc.processing && rest == 0 {
		sc.freeIn()
	}
	sc.idle()
	if rest > 0 && !sc.processing {
		// the views of the finished request point into the buffer: begin the next one when this event is over
		sc.w.Loop.Defer(sc)
		return
	}
	sc.c.Pause(false)
}

// RunOnLoop begins a pipelined request.
func (sc *ServerConn) RunOnLoop() {
	if sc.state == srvIdle || sc.state == srvHead {
		sc.process()
		if sc.state != srvClosed && (sc.state != srvBusy || !sc.body.Done()) {
			sc.c.Pause(false)
		}
	}
}

func (sc *ServerConn) lingerTime() time.Duration {
	if cfg := sc.l.Config.Load(); cfg.HTTP != nil && cfg.HTTP.Options != nil && cfg.HTTP.Options.LingerTimeout > 0 {
		return cfg.HTTP.Options.LingerTimeout
	}
	return lingerTime
}

// linger closes the writing side and reads what still comes, so that the answer is not lost to a reset.
func (sc *ServerConn) linger() {
	sc.state = srvLingering
	sc.w.Loop.SetTimer(&sc.timer, sc.lingerTime(), sc)
	sc.c.Pause(false)
	sc.c.CloseWrite()
	if sc.c.Closed() {
		sc.closed()
		return
	}
	if sc.waits = sc.c.Waiting(); sc.waits > 0 {
		sc.w.Loop.SetTimer(&sc.timer, stuckTime, sc)
	}
	if sc.c.Hangup() && sc.c.Waiting() == 0 {
		sc.close()
	}
}
