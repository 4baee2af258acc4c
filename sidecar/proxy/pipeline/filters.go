package pipeline

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// run calls filters until one suspends or all are done; it is entered again when a suspended one resumes.
func (s *Stream) run() {
	if s.phase == phaseResponse {
		s.runResponse()
	} else {
		s.runRequest()
	}
}

func (s *Stream) runRequest() {
	for s.cur < len(s.chain) {
		if s.called == s.cur {
			s.called++
		}
		s.selfSuspend = false
		s.SetFilter(s.cur)
		v := s.chain[s.cur].Request(&s.Exchange)
		if s.phase != phaseRequest {
			return // the filter's own doing ended the exchange
		}
		switch v {
		case snapshot.Continue:
			s.endBuffering()
			s.cur++
		case snapshot.Respond:
			s.endBuffering()
			s.answer()
			return
		case snapshot.Suspend:
			if s.park() {
				return
			}
		}
	}
	s.proceed()
}

func (s *Stream) runResponse() {
	for s.cur >= 0 {
		s.selfSuspend = false
		s.SetFilter(s.cur)
		v := s.chain[s.cur].Response(&s.Exchange)
		if s.phase != phaseResponse {
			return
		}
		switch v {
		case snapshot.Continue:
			s.endBuffering()
			s.cur--
		case snapshot.Respond:
			s.endBuffering()
			s.dropTry(false)
			s.respHeld, s.respTrail, s.upEnd = nil, false, true
			s.localHead()
			s.cur--
		case snapshot.Suspend:
			s.detach()
			if s.park() {
				s.pauseUp(s.bufferMax < 0 || !s.bufferResp)
				return
			}
		}
	}
	s.sendResponse()
}

// park says whether the stream really waits; false: Resume has come already.
func (s *Stream) park() bool {
	if s.bufferMax >= 0 {
		s.selfSuspend = true
		if s.bufferReady() {
			return false
		}
		s.gate.Store(gateSuspended)
		if !s.bufferResp {
			s.askForBody()
			s.pauseDown(false) // more than is held while nobody asks for it may be wanted
		}
		return true
	}
	if s.gate.CompareAndSwap(gateRunning, gateSuspended) {
		return true
	}
	s.gate.Store(gateRunning)
	return false
}

// Resume wakes a suspended stream, from any goroutine; see exchange.Exchange.
func (s *Stream) Resume() {
	for {
		switch s.gate.Load() {
		case gateRunning:
			if s.gate.CompareAndSwap(gateRunning, gateResumed) {
				return
			}
		case gateSuspended:
			if s.gate.CompareAndSwap(gateSuspended, gatePosted) {
				s.w.Loop.Post(s)
				return
			}
		default:
			return
		}
	}
}

// RunOnLoop goes on after a Resume.
func (s *Stream) RunOnLoop() {
	if s.phase == phaseDone {
		return
	}
	s.gate.Store(gateRunning)
	if s.phase == phaseDemand {
		s.cancelWant = nil
		s.findRoute(false)
		return
	}
	s.run()
}

// ResumeAfter wakes the stream in so many nanoseconds.
func (s *Stream) ResumeAfter(ns int64) {
	s.selfSuspend = true
	s.wait = waitFilter
	s.w.Loop.SetTimer(&s.waitTimer, time.Duration(ns), s)
}

// Buffer collects a body for the filter that is being called.
func (s *Stream) Buffer(stage exchange.Stage, limit int) {
	s.bufferMax = limit
	s.bufferResp = stage == exchange.Response
}

// bufferReady fills in what is there of the body, and says whether the filter can go on.
func (s *Stream) bufferReady() bool {
	held, end := s.body, s.reqEnd
	if s.bufferResp {
		held, end = s.respHeld, s.upEnd
	}
	over := len(held) > s.bufferMax
	if !over && !end {
		return false
	}
	s.BodyOverflow = over
	if s.bufferResp {
		s.RespBody = held
	} else {
		s.ReqBody = held
	}
	return true
}

func (s *Stream) buffered() {
	if s.gate.Load() == gateSuspended && s.bufferReady() {
		s.gate.Store(gateRunning)
		s.run()
	}
}

func (s *Stream) endBuffering() {
	if s.bufferMax >= 0 {
		s.bufferMax = -1
		s.BodyOverflow = false
	}
	if s.wait == waitFilter { // asked to be woken and did not suspend
		s.wait = waitNone
		s.w.Loop.StopTimer(&s.waitTimer)
	}
}

// Transform puts t into the way of a body.
func (s *Stream) Transform(stage exchange.Stage, t exchange.Transformer) {
	if stage == exchange.Request {
		s.reqXform = append(s.reqXform, t)
		s.Req.Header.DelKnown(exchange.ContentLength)
		s.Req.ContentLength = -1
		if s.hasBody && (len(s.body) > 0 || s.reqEnd) { // what came of the body before now
			b, err := t.Transform(nil, s.body, s.reqEnd)
			if err != nil {
				s.fail(502, exchange.LocalReset, "request body: "+err.Error())
				return
			}
			s.body = b
		}
	} else {
		s.respXform = append(s.respXform, t)
		s.Resp.Header.DelKnown(exchange.ContentLength)
		s.Resp.ContentLength = -1
	}
}

// detach copies the response's head out of the buffer that it was parsed in.
func (s *Stream) detach() {
	if s.detached || s.Local {
		return
	}
	s.detached = true
	r := &s.Resp
	r.Reason, r.Protocol = s.Concat(r.Reason), s.Concat(r.Protocol)
	h := &r.Header
	raw := s.Alloc(len(h.Raw))
	copy(raw, h.Raw)
	for i := range h.Fields {
		f := &h.Fields[i]
		switch {
		case f.Entry != nil:
		case f.End != 0: // a line of Raw: name, colon, white space, value
			line := viewString(raw[f.Start:f.End])
			n := len(f.Name)
			v := n + 1
			for line[v] == ' ' || line[v] == '\t' {
				v++
			}
			if f.Value == "" {
				v = n + 1
			}
			f.Name, f.Value = line[:n], line[v:v+len(f.Value)]
		default:
			f.Name, f.Value = s.Concat(f.Name), s.Concat(f.Value)
		}
	}
	h.Raw = raw
}

// KeepResponse is called by an upstream codec whose buffer is needed for something else while the exchange goes on:
// what points into it, the response's head, moves to the exchange's own memory.
func (s *Stream) KeepResponse() {
	if s.phase == phaseResponse || s.phase == phaseRespond {
		s.detach()
	}
}
