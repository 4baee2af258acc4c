package pipeline

import (
	"strconv"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// UpstreamInformational is called by the upstream codec with a 1xx head in s.Resp, but 101.
func (s *Stream) UpstreamInformational() {
	s.lastMove = s.w.Loop.Now()
	if s.informational++; s.informational > maxInformational {
		s.Resp.Reset()
		s.dropTry(true)
		s.tryFailed(failure{flag: exchange.UpstreamProtocolError, executed: true, detail: "too many informational answers"})
		return
	}
	if s.phase == phaseTry && (s.Resp.Status != 100 || s.Continue == ContinueUpstream) {
		s.sendInformational()
	}
	s.Resp.Reset()
}

// UpstreamHead is called by the upstream codec when s.Resp is complete; end says that no body follows.
func (s *Stream) UpstreamHead(end bool) {
	if s.phase != phaseTry {
		return
	}
	now := s.w.Loop.Now()
	s.lastMove, s.firstByte = now, now
	if s.WantsTunnel() {
		s.opensTunnel()
	}
	if end {
		s.upstreamEnded()
	}
	if s.wait == waitPerTry {
		s.wait = waitNone
		s.w.Loop.StopTimer(&s.waitTimer)
	}
	s.lb.Observe(s.ep, balancer.Observation{Phase: balancer.FirstByte, Elapsed: now - s.pickedAt})
	var reason exchange.Flag
	h := &s.Resp.Header
	if i := h.FindKnown(exchange.OutriggerReason); i >= 0 {
		if s.cluster.Internal {
			reason = exchange.ParseFlags(h.Fields[i].Value)
		}
		if !s.cluster.Internal || s.http.StripInternal {
			h.DelKnown(exchange.OutriggerReason)
		}
	}
	status := s.Resp.Status
	if status >= 400 || s.GRPC && end {
		on, executed := s.conditions(status, reason, end)
		if on != 0 && s.retryable(on, executed) {
			s.dropTry(status >= 500)
			s.Resp.Reset()
			if s.retry(on, executed, false) {
				return
			}
			// the budget said no at the last moment and the answer is gone: say what it was
			s.fail(status, reason|exchange.UpstreamRetryLimit, s.clusterName()+" answered "+strconv.Itoa(status))
			return
		}
		if on != 0 && s.Attempts > 1 {
			s.Flags |= exchange.UpstreamRetryLimit
		}
	}
	s.Flags |= reason
	if s.fwd.HeadTimeout || s.tunnel {
		if s.expires == 0 {
			if end {
				s.w.Loop.StopTimer(&s.deadline)
			} else {
				s.startIdle()
			}
		}
	}
	s.phase = phaseResponse
	s.cur = s.called - 1
	s.run()
}

// conditions names the retry conditions that an answer fulfils, and whether the callee may have executed the request.
func (s *Stream) conditions(status int, reason exchange.Flag, end bool) (on snapshot.RetryOn, executed bool) {
	executed = true
	if reason != 0 {
		on |= snapshot.OnUnavailable
		if reason.NotExecuted() {
			executed = false
			on |= snapshot.OnConnectFailure | snapshot.OnRefusedStream
		} else if reason&(exchange.UpstreamConnectionEnd|exchange.UpstreamReset) != 0 {
			on |= snapshot.OnReset
		}
		if reason&(exchange.RateLimited|exchange.UnauthorizedExternal|exchange.FaultInjected) != 0 {
			on = 0 // refusals on purpose
		}
	}
	switch {
	case status >= 500:
		on |= snapshot.On5xx
		if status >= 502 && status <= 504 {
			on |= snapshot.OnGatewayError
		}
	case status == 409:
		on |= snapshot.OnRetriable4xx
	}
	if r := s.fwd.Retry; r != nil {
		for _, c := range r.Statuses {
			if c == status {
				on |= snapshot.OnStatus
			}
		}
		if s.GRPC && end {
			if v, ok := s.Resp.Header.GetKnown(exchange.GRPCStatus); ok {
				if v == "14" {
					on |= snapshot.OnUnavailable
				}
				if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 32 && r.GRPCStatuses&(1<<n) != 0 {
					on |= snapshot.OnGRPCStatus
				}
			}
		}
	}
	return on, executed
}

// retryable is retry without the budget: whether the answer should be thrown away for another try.
func (s *Stream) retryable(on snapshot.RetryOn, executed bool) bool {
	r := s.fwd.Retry
	return r != nil && !s.bodyGone && r.On&on != 0 && int(s.Attempts) < r.Attempts &&
		(!executed || r.AnyMethod || idempotent(s.Req.Method))
}

// UpstreamData is called by the upstream codec with a piece of the response's body.
func (s *Stream) UpstreamData(b []byte, end bool) {
	s.lastMove = s.w.Loop.Now()
	if end {
		s.upstreamEnded()
	}
	switch s.phase {
	case phaseRespond:
		s.sendData(b, end)
	case phaseResponse:
		s.respHeld = append(s.respHeld, b...)
		if s.bufferMax >= 0 && s.bufferResp {
			s.buffered()
			if s.phase == phaseResponse && s.bufferMax >= 0 && !s.upEnd {
				s.pauseUp(false) // the filter wants more of it
			}
		}
	}
}

// upstreamEnded is the end of the response: the codec has let go of s, and may have given the connection to another
// exchange already. What still comes of the request has nowhere to go.
func (s *Stream) upstreamEnded() {
	s.upEnd = true
	if !s.tunnel {
		s.up, s.pausedUp = nil, false
	}
}

// UpstreamTrailers is called by the upstream codec at the end of a response with trailers: s.RespTrailer.
func (s *Stream) UpstreamTrailers() {
	s.lastMove = s.w.Loop.Now()
	s.upstreamEnded()
	s.respTrail = true
	switch s.phase {
	case phaseRespond:
		s.sendTrailers()
	case phaseResponse:
		if s.bufferMax >= 0 && s.bufferResp {
			s.buffered()
		}
	}
}

func (s *Stream) sendData(b []byte, end bool) {
	for _, t := range s.respXform {
		var err error
		if b, err = t.Transform(nil, b, end); err != nil {
			s.Flags |= exchange.LocalReset
			s.Details = "response body: " + err.Error()
			s.finish(false)
			return
		}
	}
	s.BytesOut += int64(len(b))
	if len(b) > 0 || end {
		s.down.SendData(s, b, end)
	}
	if end {
		if s.tunnel {
			s.tunnelEnded()
			return
		}
		s.complete()
	} else if s.phase == phaseRespond && s.down.Blocked() {
		s.pauseUp(true)
	}
}

func (s *Stream) sendTrailers() {
	if len(s.respXform) > 0 {
		s.upEnd = false
		var tail []byte
		for _, t := range s.respXform {
			b, err := t.Transform(nil, tail, true)
			if err != nil {
				s.Flags |= exchange.LocalReset
				s.finish(false)
				return
			}
			tail = b
		}
		s.upEnd = true
		s.BytesOut += int64(len(tail))
		if len(s.RespTrailer.Fields) == 0 { // a transformer has put them into the body
			s.down.SendData(s, tail, true)
			s.complete()
			return
		}
		if len(tail) > 0 {
			s.down.SendData(s, tail, false)
		}
	}
	if s.phase == phaseRespond {
		s.down.SendTrailers(s)
		s.complete()
	}
}

// sendResponse sends s.Resp and what is held behind it; all response filters have said Continue.
func (s *Stream) sendResponse() {
	s.phase = phaseRespond
	s.headSent = true
	s.Status = s.Resp.Status
	if s.Status == 204 { // RFC 9110 §8.6
		s.Resp.Header.DelKnown(exchange.ContentLength)
		s.Resp.ContentLength = -1
	}
	if o := s.http.Options; o != nil {
		s.finishHead(o)
	}
	if s.Local {
		body := s.LocalBody
		if s.GRPC || s.Req.Method == "HEAD" || body == "" {
			s.down.SendHead(s, true)
		} else {
			s.down.SendHead(s, false)
			if s.phase == phaseRespond {
				s.BytesOut += int64(len(body))
				s.down.SendData(s, []byte(body), true)
			}
		}
		s.complete()
		return
	}
	held := s.respHeld
	s.respHeld = nil
	end := s.upEnd && len(held) == 0 && !s.respTrail && !s.tunnel
	s.down.SendHead(s, end)
	switch {
	case s.phase != phaseRespond:
	case end:
		s.complete()
	case s.upEnd && !s.respTrail:
		s.sendData(held, true)
	default:
		if len(held) > 0 {
			s.sendData(held, false)
		}
		if s.respTrail && s.phase == phaseRespond {
			s.sendTrailers()
		} else if s.phase == phaseRespond && !s.down.Blocked() {
			s.pauseUp(false)
		}
	}
}

// complete ends an exchange whose response has gone out.
func (s *Stream) complete() {
	if s.phase != phaseRespond {
		return
	}
	s.endTry(s.Status >= 500)
	s.finish(true)
}

// fail answers on the sidecar's own behalf: the one place from which failures become answers.
func (s *Stream) fail(status int, flags exchange.Flag, detail string) {
	if s.headSent || s.phase == phaseDone {
		s.Flags |= flags
		s.Details = detail
		s.finish(false)
		return
	}
	s.dropTry(false)
	s.Exchange.Respond(status, flags, detail)
	s.answer()
}

// answer sends what Exchange.Respond prepared, through the response filters.
func (s *Stream) answer() {
	s.w.Loop.StopTimer(&s.deadline)
	s.upEnd, s.respHeld, s.respTrail = true, nil, false
	// A filter that waits holds a Resume that must not be taken for another filter's: then the answer goes past
	// them all. Their End is called as always.
	skip := s.gate.Load() != gateRunning || s.phase == phaseResponse
	s.phase = phaseResponse
	s.cur = s.called - 1
	s.localHead()
	if skip {
		s.cur = -1
	}
	s.runResponse()
}

// localHead completes s.Resp for an answer of our own.
func (s *Stream) localHead() {
	s.tunnel = false
	h := &s.Resp.Header
	if !s.http.StripInternal && s.Flags != 0 {
		h.SetKnown(exchange.OutriggerReason, s.Flags.String())
	}
	if s.GRPC {
		code := grpcStatus(s.Resp.Status, s.Flags)
		s.Resp.Status = 200
		h.SetKnown(exchange.ContentType, "application/grpc")
		h.SetKnown(exchange.GRPCStatus, code)
		if s.LocalBody != "" {
			h.SetKnown(exchange.GRPCMessage, percentEncode(s.LocalBody))
		}
		s.Resp.ContentLength = -1
		return
	}
	if s.Flags != 0 && s.LocalBody != "" {
		s.LocalBody += " (" + s.Flags.String() + ")\n"
	}
	s.Resp.ContentLength = int64(len(s.LocalBody))
	if s.LocalBody != "" && !h.Has(exchange.ContentType) {
		h.AddKnown(exchange.ContentType, "text/plain; charset=utf-8")
	}
}

// grpcStatus maps an answer of our own to a gRPC status (grpc/doc/http-grpc-status-mapping.md, and Envoy's table).
func grpcStatus(status int, f exchange.Flag) string {
	switch {
	case f&(exchange.UpstreamRequestTimeout|exchange.DurationTimeout) != 0:
		return "4" // DEADLINE_EXCEEDED
	case f&exchange.RateLimited != 0:
		return "8" // RESOURCE_EXHAUSTED
	}
	switch status {
	case 200:
		return "0"
	case 400:
		return "13"
	case 401:
		return "16"
	case 403:
		return "7"
	case 404:
		return "12"
	case 429, 502, 503:
		return "14"
	case 504:
		return "4"
	case 413:
		return "8"
	}
	return "2"
}

// percentEncode writes a grpc-message.
func percentEncode(s string) string {
	ok := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			ok = false
		}
	}
	if ok {
		return s
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b = append(b, '%', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

func (s *Stream) redirect(r *snapshot.Redirect) {
	scheme, host := "http", s.Req.Authority
	if s.Secure || s.Req.Scheme == "https" {
		scheme = "https"
	}
	if r.HTTPSDefault {
		scheme = "https"
	}
	if r.Scheme != "" {
		scheme = r.Scheme
	}
	if r.Host != "" {
		host = r.Host
	}
	if r.Port != 0 {
		host = snapshot.StripPort(host) + ":" + strconv.Itoa(r.Port)
	}
	q := s.Req.Query()
	var path string
	switch {
	case r.Path != "":
		path = r.Path
	case r.PrefixRewrite != "":
		path = rewritePrefix(s.Req.PathOnly(), s.route.Match.Path, r.PrefixRewrite)
	default:
		path = s.Req.PathOnly()
	}
	if q != "" && !r.StripQuery {
		path += "?" + q
	}
	status := r.Status
	if status == 0 {
		status = 301
	}
	s.Exchange.Respond(status, 0, "")
	s.Resp.Header.AddKnown(exchange.Location, scheme+"://"+host+path)
	s.answer()
}
