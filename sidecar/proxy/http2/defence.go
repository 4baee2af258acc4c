package http2

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
)

// What keeps a connection's peer from costing more than it should, beyond the budget of control frames (calm): streams
// that come to nothing, heads that do not come, data that nobody takes, and a last word that is heard.

const (
	// resetBudget is how many streams a client may have reset, or make us reset, in a burst, and resetRate how many of
	// them a second are forgiven (CVE-2023-44487 rapid reset, CVE-2025-8671 MadeYouReset). Either way the work was begun.
	resetBudget = 4096
	resetRate   = 1000
	// cancelledFrames is how many frames a server may still send for a stream that we gave up, without blame.
	cancelledFrames = 20
	// headTime is how long a head may take from its first byte, where the configuration does not say.
	headTime = 30 * time.Second
	// lastWordTime and lastWordBytes bound how long a connection that was ended for a breach of protocol is read on: until
	// then the peer has read the GOAWAY, which a reset would take away from it.
	lastWordTime  = time.Second
	lastWordBytes = 16 << 20
	// heldShare is which part of the loop's limit of held bytes one connection may have.
	heldShare = 4
)

// wasted counts a stream that ended before it was answered, by the client's doing.
func (h *conn) wasted() bool {
	if !h.server {
		return true
	}
	if h.resets++; h.resets <= resetBudget {
		return true
	}
	now := h.lp.Now()
	if n := (now - h.resetAt) / (int64(time.Second) / resetRate); n > 0 {
		h.resets -= int(min(n, int64(h.resets)))
		h.resetAt = now
	}
	if h.resets > resetBudget {
		return h.fatal(ErrEnhanceYourCalm, "too many streams were opened and reset")
	}
	return true
}

// awaiting says whether the peer owes us the rest of a head, of a control frame, or of its first words.
func (h *conn) awaiting() bool {
	if h.preface > 0 || h.first || h.hdrID != 0 {
		return true
	}
	n := len(h.part)
	return n > 0 && (n < 4 || h.part[3] != frameData)
}

// watchHead begins the time of a head that has not come whole, and ends it when it has. The timer is left to run: it
// looks again.
func (sc *ServerConn) watchHead() {
	if sc.closed {
		return
	}
	if !sc.awaiting() {
		sc.headSince = 0
		return
	}
	if sc.headSince == 0 {
		sc.headSince = sc.lp.Now()
	}
	if !sc.headTimer.Active() {
		sc.lp.SetTimer(&sc.headTimer, sc.headTime(), sc)
	}
}

func (sc *ServerConn) headTime() time.Duration {
	if cfg := sc.l.Config.Load(); cfg != nil && cfg.HTTP != nil && cfg.HTTP.HeaderTimeout > 0 {
		return cfg.HTTP.HeaderTimeout
	}
	return headTime
}

// headLate is the head's timer.
func (sc *ServerConn) headLate() {
	if sc.headSince == 0 {
		return
	}
	if left := sc.headTime() - time.Duration(sc.lp.Now()-sc.headSince); left > 0 {
		sc.lp.SetTimer(&sc.headTimer, left, sc)
		return
	}
	sc.fatal(ErrEnhanceYourCalm, "the request's head did not come in time")
	sc.end()
}

// OnRead takes the frames that are there.
func (sc *ServerConn) OnRead(c *loop.Conn) {
	sc.conn.OnRead(c)
	if sc.headSince != 0 || len(sc.part) > 0 || sc.hdrID != 0 {
		sc.watchHead()
	}
}

// OnStalled gives up a connection whose socket takes nothing.
func (sc *ServerConn) OnStalled(_ *loop.Conn, pressed bool) {
	if sc.closed {
		return
	}
	flag := sc.w.Stalled(sc.l, "http2", pressed)
	for _, st := range sc.streams {
		if s := st.s; s != nil {
			st.s = nil
			s.DownstreamStalled(flag)
		}
	}
	sc.end()
}

// account has what waits for a window counted, and its receiver's time run.
func (st *stream) account(progress int) {
	h := st.h
	n := cap(st.q)
	if st.closed {
		n = 0
	}
	if n == 0 && st.held == 0 {
		return
	}
	if d := n - st.held; d != 0 {
		st.held = n
		h.held += d
		h.lp.Hold(d)
	}
	if n == 0 {
		h.lp.Unstall(st.stall)
		return
	}
	if !h.server || h.c.StallTime <= 0 {
		return
	}
	if st.moved += progress; st.stall == nil || st.moved >= minProgress || st.fresh {
		if st.stall == nil {
			st.stall = new(loop.Stall)
		}
		st.moved, st.fresh = 0, false
		h.lp.Stall(st.stall, h.c.StallTime, st)
	}
	if l := h.lp.HeldLimit(); l > 0 && int64(h.held) > l/heldShare {
		st.OnStall(true)
	}
}

// minProgress is how much a receiver must take for its time to begin anew: a window opened byte by byte (CVE-2019-9511) is
// none.
const minProgress = 4096

// OnStall gives the stream up: its receiver opens no window.
func (st *stream) OnStall(pressed bool) {
	h := st.h
	if st.closed || h.closed {
		return
	}
	sc, ok := h.side.(*ServerConn)
	if !ok {
		return
	}
	flag, code := sc.w.Stalled(sc.l, "http2", pressed), ErrCancel
	if pressed {
		code = ErrEnhanceYourCalm
	}
	h.c.SetOut(appendReset(h.c.Out(), st.id, code))
	s := st.s
	st.s = nil
	h.remove(st)
	if s != nil {
		s.DownstreamStalled(flag)
	}
}

// lastWord reads on after a GOAWAY for a breach, for a while, so that the peer finds it.
type lastWord struct {
	timer loop.Timer
	c     *loop.Conn
	left  int
}

func (h *conn) closeAfterLastWord() {
	w := &lastWord{c: h.c, left: lastWordBytes}
	h.c.SetHandler(w)
	h.c.CloseWrite()
	if h.c.Closed() || h.c.Hangup() {
		h.c.Close()
		return
	}
	h.lp.SetTimer(&w.timer, lastWordTime, w)
	h.c.Pause(false)
	h.c.Yield()
}

func (w *lastWord) close() {
	w.c.Loop().StopTimer(&w.timer)
	w.c.Close()
}

// OnRead throws away what comes.
func (w *lastWord) OnRead(c *loop.Conn) {
	for turn := 0; turn < 256<<10; {
		n, r := c.Read(c.Loop().Scratch)
		if r == loop.Again {
			return
		}
		if w.left -= n; r != loop.OK || w.left < 0 {
			w.close()
			return
		}
		turn += n
	}
	c.Yield()
}

// OnTimer ends it.
func (w *lastWord) OnTimer(*loop.Timer) { w.close() }

// OnDrained does nothing: the last word has gone out.
func (w *lastWord) OnDrained(*loop.Conn) {}

// OnHangup ends it.
func (w *lastWord) OnHangup(*loop.Conn) { w.close() }

// OnConnect does nothing: the connection was accepted.
func (w *lastWord) OnConnect(*loop.Conn, error) {}

// OnWriteError is told of a connection that is closed.
func (w *lastWord) OnWriteError(c *loop.Conn, _ error) { c.Loop().StopTimer(&w.timer) }

// validScheme says whether s is a scheme (RFC 3986 §3.1): anything else would be a part of a URI somewhere (CVE-2021-39240).
func validScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c|0x20 >= 'a' && c|0x20 <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != ""
}

var _ loop.StallHandler = (*ServerConn)(nil)

// refusalFlag is the flag of what a peer did.
const refusalFlag = exchange.DownstreamProtocolError
