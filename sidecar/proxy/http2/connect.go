package http2

import (
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2/hpack"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/ws"
)

// sendConnect sends the head of a CONNECT, or of an upgrade as an extended CONNECT (RFC 8441 §4). The latter must not
// go before the peer has said that it takes them.
func (cs *clientStream) sendConnect(s *pipeline.Stream) {
	st := cs.st()
	h := st.h
	if s.Req.Protocol != "" {
		if !h.settled {
			if !st.early {
				st.early = true
				cc := h.side.(*ClientConn)
				cc.early = append(cc.early, st.id)
			}
			return
		}
		if !h.connect {
			st.s = nil
			h.remove(st)
			s.UpstreamReset(pipeline.Unsupported, "the upstream takes no "+s.Req.Protocol+" over HTTP/2 (RFC 8441)")
			return
		}
	}
	key := -1
	if exchange.EqualFold(s.Req.Protocol, ws.Token) {
		if key = s.Req.Header.Find(ws.KeyField); key >= 0 { // §5: not used; but an HTTP/1.1 caller is answered by it
			s.Req.Header.Fields[key].Flags |= exchange.Dropped
		}
	}
	out := h.c.Out()
	at := len(out)
	out = appendFrameHeader(out, 0, frameHeaders, flagEndHeaders, st.id)
	out = h.enc.Start(out)
	out = h.enc.Pseudo(out, hpack.Method, "CONNECT")
	if s.Req.Protocol != "" {
		out = h.enc.Pseudo(out, hpack.Scheme, scheme(s.Req.Scheme))
		out = h.enc.Pseudo(out, hpack.Path, s.Req.Path)
		out = h.enc.Literal(out, ":protocol", s.Req.Protocol, exchange.Other, false)
	}
	out = h.enc.Pseudo(out, hpack.Authority, s.Req.Authority)
	out = h.appendFields(out, &s.Req.Header)
	h.finishHeaders(out, at, st.id)
	if key >= 0 {
		s.Req.Header.Fields[key].Flags &^= exchange.Dropped
	}
}

// sendEarly sends the heads that waited for the peer's settings. Streams must be opened in the order of their numbers
// (RFC 9113 §5.1.1), and others have been opened meanwhile: each takes a new one.
func (cc *ClientConn) sendEarly() {
	early := cc.early
	cc.early = nil
	for _, id := range early {
		st := cc.streams[id]
		if st == nil || !st.early {
			continue
		}
		delete(cc.streams, id)
		st.early = false
		cc.lastID += 2
		st.id = cc.lastID
		cc.streams[st.id], cc.last = st, nil
		(*clientStream)(st).SendHead(st.s, false)
		if cc.closed {
			return
		}
		st.pump()
	}
}
