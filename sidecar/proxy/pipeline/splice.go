package pipeline

import "github.com/outrigger-mesh/outrigger/sidecar/loop"

// ResponseSink returns the socket that the response's body may be spliced to now, or nil where it has to be read: a filter
// wants to see it, or the caller's codec frames it. The upstream codec asks before each piece.
func (s *Stream) ResponseSink() *loop.Conn {
	if s.phase != phaseRespond || len(s.respXform) > 0 {
		return nil
	}
	if k, ok := s.down.(Sink); ok {
		return k.BodySink()
	}
	return nil
}

// ResponseSpliced is called by the upstream codec when n bytes of the body were spliced to ResponseSink, where 0 says that
// there was nothing to move or no room for it; end says that the response is complete.
func (s *Stream) ResponseSpliced(n int, end bool) {
	if end {
		s.upstreamEnded()
	}
	if s.phase != phaseRespond {
		return
	}
	if n > 0 {
		s.lastMove = s.w.Loop.Now()
		s.BytesOut += int64(n)
	}
	if end {
		s.complete()
	} else if s.down.Blocked() {
		s.pauseUp(true)
	}
}

// RequestSink is ResponseSink for the request's body, which must not be kept for another try either.
func (s *Stream) RequestSink() *loop.Conn {
	if s.up == nil || s.keep || len(s.reqXform) > 0 {
		return nil
	}
	if k, ok := s.up.(Sink); ok {
		return k.BodySink()
	}
	return nil
}

// RequestSpliced is ResponseSpliced for the request's body.
func (s *Stream) RequestSpliced(n int, end bool) {
	if n > 0 {
		s.lastMove = s.w.Loop.Now()
		s.BytesIn += int64(n)
		s.bodyGone = true
	}
	if end {
		s.reqEnd = true
	}
	up := s.up
	if s.phase >= phaseDone || up == nil {
		return
	}
	if end {
		s.startTimeout()
		up.SendData(s, nil, true)
	} else if up.Blocked() {
		s.pauseDown(true)
	}
}
