package pipeline

import (
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// A tunnel is what an accepted upgrade (101) or CONNECT (2xx) leaves: bytes both ways. An upgrade has the form that
// HTTP/1.1 gives it, whatever it came by: Head.Protocol is its token, and the answer that accepts it is a 101; the
// HTTP/2 codecs translate from and to extended CONNECT (RFC 8441). Each half ends by itself; the exchange is over when
// both have.

// connectToken is how configuration names CONNECT among upgrades.
const connectToken = "connect"

// WantsTunnel says that the request asks for one.
func (s *Stream) WantsTunnel() bool { return s.Req.Protocol != "" || s.Req.Method == "CONNECT" }

// Tunnel says that the answer opened one.
func (s *Stream) Tunnel() bool { return s.tunnel }

// Rand gives a codec random bits.
func (s *Stream) Rand() uint64 { return s.w.Rand() }

// admitTunnel decides whether a request may become a tunnel; false: it has been answered. An HTTP/1.1 upgrade that
// may not goes on as if it had not asked (RFC 9110 §7.8: a server may pass over Upgrade).
func (s *Stream) admitTunnel(r *snapshot.Route) bool {
	token := s.Req.Protocol
	if token == "" {
		token = connectToken
	}
	if s.upgradeAllowed(r, token) {
		if token == connectToken {
			s.terminate = r.Forward.TerminateConnect
		}
		return true
	}
	switch {
	case s.Req.Protocol == "":
		s.fail(405, 0, "CONNECT is not served here")
		return false
	case s.Proto == exchange.HTTP2:
		s.fail(501, 0, "the protocol "+s.Req.Protocol+" is not served here")
		return false
	}
	s.Req.Protocol = ""
	s.requestEnded()
	return true
}

func (s *Stream) upgradeAllowed(r *snapshot.Route, token string) bool {
	if r.Forward == nil {
		return false
	}
	for i := range r.Forward.Upgrades {
		if u := &r.Forward.Upgrades[i]; exchange.EqualFold(token, u.Token) {
			return !u.Off
		}
	}
	for _, u := range s.http.Upgrades {
		if exchange.EqualFold(token, u) {
			return true
		}
	}
	return false
}

// opensTunnel notes whether the answer in s.Resp accepts what the request asked for.
func (s *Stream) opensTunnel() {
	st := s.Resp.Status
	if s.Req.Protocol != "" {
		s.tunnel = st == 101
	} else if s.Req.Method == "CONNECT" {
		s.tunnel = st >= 200 && st < 300
	}
	if s.tunnel {
		s.keep, s.bodyGone = false, true
		s.Resp.Header.DelKnown(exchange.ContentLength) // RFC 9110 §9.3.6: passed over
		s.Resp.ContentLength = -1
	}
}

// tunnelEnded is told of an end of either half.
func (s *Stream) tunnelEnded() {
	if s.reqEnd && s.upEnd && s.phase == phaseRespond {
		s.complete()
	}
}
