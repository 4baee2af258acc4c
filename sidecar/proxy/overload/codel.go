package overload

// DefaultQueueTarget is the delay that may stand, in nanoseconds; it must have stood for queueIntervals times as long, and
// for minQueueInterval.
const (
	DefaultQueueTarget = 200e6
	queueIntervals     = 5
	minQueueInterval   = 100e6
)

// Whole is the share of all.
const Whole = 1 << 16

// Codel decides from a queue's delay which share of new work is refused. As in CoDel (RFC 8289) only the least delay of an
// interval counts: a burst that drains is no overload, a queue that stands is. While it stands the share of what is
// refused grows, interval by interval; when it has drained it shrinks. It belongs to one loop.
type Codel struct {
	// Target is the delay that may stand, Interval how long a delay must have stood; nanoseconds. Target 0: never.
	Target, Interval int64

	begun, least int64
	seen, rests  bool
	share        uint32
}

// Sample notes a delay that was measured at now. Both are nanoseconds. A delay of 0 says that the queue is empty.
func (c *Codel) Sample(now, delay int64) {
	if c.Target <= 0 {
		return
	}
	if c.begun == 0 || c.rested(now) {
		c.begun, c.seen, c.share = now, false, 0
	}
	c.rests = delay == 0
	if !c.seen || delay < c.least {
		c.seen, c.least = true, delay
	}
	if now-c.begun < c.Interval {
		return
	}
	c.decide()
	c.begun, c.seen = now, false
}

func (c *Codel) decide() {
	switch {
	case c.least > 4*c.Target: // far behind: half of what is still taken
		c.share += (Whole - c.share) / 2
	case c.least > c.Target:
		c.share += (Whole - c.share) / 5
	default:
		c.share -= min(c.share, c.share/4+Whole/64)
	}
	if c.share > mostRefused {
		c.share = mostRefused
	}
}

// mostRefused leaves a part of the requests, by which it is seen that the queue drains.
const mostRefused = Whole - Whole/32

// Share is the part of new requests that is to be refused at now, of Whole.
func (c *Codel) Share(now int64) uint32 {
	if c.share != 0 && c.rested(now) {
		c.share = 0
	}
	return c.share
}

// rested says whether the queue was empty when it was last looked at, long ago: what was decided then holds no more. (A
// queue that stands may be looked at as seldom as its delay is long.)
func (c *Codel) rested(now int64) bool { return c.rests && now-c.begun > 4*c.Interval }
