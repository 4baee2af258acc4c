package loop

import "time"

// Output that its receiver does not take is memory that somebody else decides over. It is bounded twice: each receiver has
// a time in which it must take something, and all of a loop's waiting output (see Hold) has a limit, beyond which those
// who have taken nothing for longest are given up first.

// Staller is who feeds a receiver that does not read.
type Staller interface {
	// OnStall says that the receiver has taken nothing for its time or, pressed, that memory is short and this one has
	// waited longest. What waits is to be let go of at once. It is called on the loop.
	OnStall(pressed bool)
}

// StallHandler is a Handler that gives up a connection whose peer does not read; others wait for ever.
type StallHandler interface {
	// OnStalled is OnStall for the output of c.
	OnStalled(c *Conn, pressed bool)
}

// Stall is one receiver that does not read. The zero value is none. It belongs to one loop.
type Stall struct {
	timer      Timer
	next, prev *Stall
	l          *Loop
	h          Staller
	on         bool
}

// Stall notes that from now on h's receiver takes nothing; d is its time. A receiver that is noted goes to the end of
// the queue: it has taken something.
func (l *Loop) Stall(s *Stall, d time.Duration, h Staller) {
	l.Unstall(s)
	s.l, s.h, s.on = l, h, true
	s.prev = l.stalls.last
	if s.prev != nil {
		s.prev.next = s
	} else {
		l.stalls.first = s
	}
	l.stalls.last = s
	l.SetTimer(&s.timer, d, s)
}

// Unstall forgets a receiver: it has taken all, or is gone.
func (l *Loop) Unstall(s *Stall) {
	if s == nil || !s.on {
		return
	}
	l.StopTimer(&s.timer)
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.stalls.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.stalls.last = s.prev
	}
	s.next, s.prev, s.on = nil, nil, false
}

// OnTimer ends the receiver's time.
func (s *Stall) OnTimer(*Timer) {
	s.l.Unstall(s)
	s.h.OnStall(false)
}

type stallQueue struct{ first, last *Stall }

// Hold accounts for n more bytes (fewer, if negative) that wait for others: output that a peer does not take, bodies
// that an upstream is not ready for. Beyond the limit those who have waited longest are given up when the event is over.
func (l *Loop) Hold(n int) {
	l.held += int64(n)
	l.heldNow.Store(l.held)
	if n > 0 && l.heldLimit > 0 && l.held > l.heldLimit && !l.pressed {
		l.pressed = true
		l.Defer(TaskFunc(l.relieve))
	}
}

// Held is what Hold has accounted for; any goroutine may ask.
func (l *Loop) Held() int64 { return l.heldNow.Load() }

// LimitHeld sets the limit of Hold; 0 means none. It is called on the loop, or before Start.
func (l *Loop) LimitHeld(n int64) { l.heldLimit = n }

// HeldLimit is what LimitHeld set.
func (l *Loop) HeldLimit() int64 { return l.heldLimit }

// Evicted counts the receivers that were given up because memory was short; any goroutine may ask.
func (l *Loop) Evicted() uint64 { return l.evicted.Load() }

func (l *Loop) relieve() {
	l.pressed = false
	for l.held > l.heldLimit-l.heldLimit/4 {
		s := l.stalls.first
		if s == nil {
			return
		}
		l.Unstall(s)
		l.evicted.Add(1)
		s.h.OnStall(true)
	}
}

// stuck is called when the socket has taken what it can and output is left.
func (c *Conn) stuck() {
	c.wr = false
	c.hold(c.capacity())
	if c.StallTime > 0 {
		if c.stall == nil {
			c.stall = new(Stall)
		}
		c.l.Stall(c.stall, c.StallTime, c)
	}
}

// unstick is called when nothing is left.
func (c *Conn) unstick() {
	if c.held != 0 {
		c.hold(0)
		c.l.Unstall(c.stall)
	}
}

// capacity is the memory of the output that waits.
func (c *Conn) capacity() int {
	n := cap(c.out)
	if c.lay != nil {
		n += cap(c.lay.wire)
	}
	return n
}

func (c *Conn) hold(n int) {
	if n != c.held {
		c.l.Hold(n - c.held)
		c.held = n
	}
}

// OnStall tells the handler, if that wants to know.
func (c *Conn) OnStall(pressed bool) {
	if h, ok := c.h.(StallHandler); ok && !c.closed {
		h.OnStalled(c, pressed)
	}
}
