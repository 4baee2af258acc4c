package pipeline

import (
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Begin is called by the downstream codec when s.Req is complete; end says that the request has no body.
func (s *Stream) Begin(end bool) {
	now := s.w.Loop.Now()
	s.Start, s.lastMove = now, now
	s.reqEnd = end
	s.bufferMax = -1
	s.l.Active.Add(1)
	s.ClientFromPeer()
	if ct, ok := s.Req.Header.GetKnown(exchange.ContentType); ok && len(ct) >= 16 && ct[:16] == "application/grpc" && (len(ct) == 16 || ct[16] == '+' || ct[16] == ';') {
		s.GRPC = true
	}
	if s.http.GenerateRequestID {
		s.requestID()
	} else {
		s.ID, _ = s.Req.Header.GetKnown(exchange.XRequestID)
	}
	if s.l.Refusing.Load() {
		s.fail(503, exchange.Draining, "this instance is being withdrawn")
		return
	}
	if o := s.http.Options; o != nil && !s.prepare(o) {
		return
	}
	if !s.normalize() {
		s.fail(400, exchange.DownstreamProtocolError, "malformed path")
		return
	}
	s.findRoute(true)
}

func (s *Stream) findRoute(ask bool) {
	table := s.http.Routes.Load()
	if table != nil {
		if vh := table.Host(s.Req.Authority); vh != nil {
			s.matched(vh)
			return
		}
	}
	if ask && s.http.OnDemand != nil && s.Req.Authority != "" {
		s.phase = phaseDemand
		s.gate.Store(gateSuspended)
		if s.cancelWant = s.http.OnDemand.Want(strings.Clone(strings.ToLower(snapshot.StripPort(s.Req.Authority))), s.Resume); s.cancelWant != nil {
			return
		}
		s.gate.Store(gateRunning)
	}
	if table == nil {
		s.fail(404, exchange.NoRouteFound, "no configuration yet for this listener")
		return
	}
	s.fail(404, exchange.NoRouteFound, "no service is known as "+s.Req.Authority)
}

func (s *Stream) matched(vh *snapshot.VirtualHost) {
	r := vh.Match(&s.Exchange)
	if r == nil && s.Req.Method == "CONNECT" {
		s.fail(405, exchange.NoRouteFound, "CONNECT is not served here")
		return
	}
	if r == nil {
		s.fail(404, exchange.NoRouteFound, "no route of "+vh.Name+" takes this request")
		return
	}
	s.route, s.Route = r, r
	if o := s.w.Overload; o != nil && o.Sheds(s) {
		s.shed()
		return
	}
	if s.WantsTunnel() && !s.admitTunnel(r) {
		return
	}
	s.chain = r.Filters
	if f := r.Forward; f != nil {
		s.fwd = f
		wc := s.choose(f.Clusters, f.TotalWeight)
		if wc == nil {
			s.fail(503, exchange.NoClusterFound, "the route's split has no destination")
			return
		}
		s.ref = wc.Ref
		if wc.Filters != nil {
			s.chain = wc.Filters
		}
	}
	s.ClearSlots(len(s.chain))
	s.phase = phaseRequest
	s.run()
}

// choose picks a destination by weight.
func (s *Stream) choose(cs []snapshot.WeightedCluster, total uint32) *snapshot.WeightedCluster {
	if len(cs) == 1 {
		return &cs[0]
	}
	if total == 0 {
		return nil
	}
	n := uint32(s.w.Rand() >> 32 * uint64(total) >> 32)
	for i := range cs {
		if n < cs[i].Weight {
			return &cs[i]
		}
		n -= cs[i].Weight
	}
	return nil
}

// proceed is called when all request filters have said Continue.
func (s *Stream) proceed() {
	switch {
	case s.route.Direct != nil:
		s.Exchange.Respond(s.route.Direct.Status, 0, s.route.Direct.Body)
		s.answer()
	case s.route.Redirect != nil:
		s.redirect(s.route.Redirect)
	default:
		s.forward()
	}
}

// RequestData is called by the downstream codec with a piece of the request's body.
func (s *Stream) RequestData(b []byte, end bool) {
	s.lastMove = s.w.Loop.Now()
	s.BytesIn += int64(len(b))
	s.hasBody = true
	if end {
		s.requestEnded()
	}
	if s.phase >= phaseDone {
		return
	}
	for _, t := range s.reqXform {
		var err error
		if b, err = t.Transform(nil, b, end); err != nil {
			s.fail(502, exchange.LocalReset, "request body: "+err.Error())
			return
		}
	}
	if s.up != nil {
		s.passOn(b, end)
		return
	}
	if s.phase >= phaseResponse {
		return // the answer does not wait for the body
	}
	s.body = append(s.body, b...)
	if end && s.phase >= phaseConnect {
		s.startTimeout()
	}
	if s.bufferMax >= 0 && !s.bufferResp {
		s.buffered()
		return
	}
	if len(s.body) > highWater && !end {
		s.pauseDown(true)
	}
}

// RequestTrailers is called by the downstream codec at the end of a request with trailers: s.Trailer.
func (s *Stream) RequestTrailers() {
	if len(s.reqXform) > 0 && s.phase < phaseDone {
		var tail []byte
		for _, t := range s.reqXform {
			var err error
			if tail, err = t.Transform(nil, tail, true); err != nil {
				s.fail(502, exchange.LocalReset, "request body: "+err.Error())
				return
			}
		}
		if len(tail) > 0 && s.up != nil {
			s.passOn(tail, false)
		} else {
			s.body = append(s.body, tail...)
		}
	}
	s.requestEnded()
	s.reqTrailers = true
	if s.up != nil {
		s.startTimeout()
		s.up.SendTrailers(s)
		if s.tunnel {
			s.tunnelEnded()
		}
		return
	}
	if s.phase >= phaseConnect {
		s.startTimeout()
	}
	if s.bufferMax >= 0 && !s.bufferResp {
		s.buffered()
	}
}

// passOn gives data to the try, and keeps it where another try may need it.
func (s *Stream) passOn(b []byte, end bool) {
	if s.keep {
		if len(s.body)+len(b) <= s.maxReplay() {
			s.body = append(s.body, b...)
		} else {
			s.keep, s.bodyGone, s.body = false, true, s.body[:0]
		}
	} else if len(b) > 0 {
		s.bodyGone = true
	}
	if end {
		s.startTimeout()
	}
	up := s.up
	up.SendData(s, b, end)
	if s.up == up && !end && up.Blocked() {
		s.pauseDown(true)
	}
	if end && s.tunnel {
		s.tunnelEnded()
	}
}

func (s *Stream) maxReplay() int {
	if s.fwd != nil && s.fwd.Retry != nil && s.fwd.Retry.MaxBody > 0 {
		return s.fwd.Retry.MaxBody
	}
	return defaultReplay
}

func (s *Stream) pauseDown(on bool) {
	if s.pausedDown != on {
		s.pausedDown = on
		s.down.Pause(on)
	}
}

func (s *Stream) pauseUp(on bool) {
	if s.pausedUp != on && s.up != nil {
		s.pausedUp = on
		s.up.Pause(on)
	}
}

// DownstreamWritable is called by the downstream codec when its output is no longer blocked.
func (s *Stream) DownstreamWritable() {
	if s.phase == phaseRespond {
		s.pauseUp(false)
	}
}

// DownstreamGone is called by the downstream codec when the caller has left or reset the stream.
func (s *Stream) DownstreamGone() {
	if s.phase == phaseDone {
		return
	}
	s.Flags |= exchange.DownstreamConnectionEnd
	if s.Details == "" {
		s.Details = "the caller left"
	}
	s.finish(false)
}

// DownstreamStalled is called by the downstream codec when the caller does not read and is given up. flag says
// whether for its time, or because memory is short.
func (s *Stream) DownstreamStalled(flag exchange.Flag) {
	s.Flags |= flag
	s.Details = "the caller does not read"
	s.finish(false)
}

// DownstreamMalformed is called by the downstream codec when the rest of a request cannot be read.
func (s *Stream) DownstreamMalformed(reason string) {
	s.fail(400, exchange.DownstreamProtocolError, reason)
}

// OnTimer is called by the loop.
func (s *Stream) OnTimer(t *loop.Timer) {
	switch t {
	case &s.deadline:
		s.timedOut()
		return
	case s.upload:
		s.uploadLate()
		return
	}
	k := s.wait
	s.wait = waitNone
	switch k {
	case waitFilter:
		if s.gate.CompareAndSwap(gateSuspended, gateRunning) {
			s.run()
		}
	case waitBackoff:
		s.try()
	case waitPerTry:
		s.dropTry(true)
		s.tryFailed(failure{flag: exchange.UpstreamRequestTimeout, on: snapshot.OnPerTryTimeout, executed: true, detail: "no answer within the time for one try"})
	}
}

func (s *Stream) timedOut() {
	now := s.w.Loop.Now()
	if s.idleTimer {
		if left := s.idle() - time.Duration(now-s.lastMove); left > 0 {
			s.w.Loop.SetTimer(&s.deadline, left, s)
			return
		}
		s.fail(408, exchange.StreamIdleTimeout, "nothing moved for the idle time")
		return
	}
	if s.headSent {
		s.Flags |= exchange.DurationTimeout
		s.Details = "the call's deadline passed"
		s.finish(false)
		return
	}
	s.dropTry(true)
	s.fail(504, exchange.UpstreamRequestTimeout, "no answer in time from "+s.clusterName())
}

func (s *Stream) idle() time.Duration {
	if s.fwd != nil && s.fwd.IdleTimeout > 0 {
		return s.fwd.IdleTimeout
	}
	return s.http.StreamIdleTimeout
}

func (s *Stream) clusterName() string {
	if s.ref != nil {
		return s.ref.Name
	}
	return "the upstream"
}

// finish ends the exchange. whole says that the response went out completely.
func (s *Stream) finish(whole bool) {
	if s.phase == phaseDone {
		return
	}
	waiting := s.gate.Load()
	s.phase = phaseDone
	lp := s.w.Loop
	lp.StopTimer(&s.deadline)
	lp.StopTimer(&s.waitTimer)
	s.stopUpload()
	s.wait = waitNone
	if s.cancelWant != nil {
		s.cancelWant()
		s.cancelWant = nil
	}
	s.dropTry(false)
	if s.retried {
		s.rt.LeaveRetry()
		s.retried = false
	}
	if s.admitted {
		s.rt.Leave()
		s.admitted = false
	}
	for i := range s.called {
		s.SetFilter(i)
		s.chain[i].End(&s.Exchange)
	}
	if s.w.Rec != nil {
		s.w.Rec.Record(s)
	}
	s.l.Active.Add(-1)
	down := s.down
	if !whole {
		down.Abort(s)
	}
	down.Finished(s)
	if waiting == gateRunning || waiting == gateSuspended && s.selfSuspend {
		s.w.bury(s)
	}
	// else somebody holds a Resume: the stream stays as it is, done, and goes to the collector
}
