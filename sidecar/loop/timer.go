package loop

import "math/bits"

// Timers live on a hierarchical wheel: three levels of 256 slots, of 1 ms, 256 ms and 65.5 s. Setting and
// stopping one is a few stores, so that every request can have a deadline. A timer fires up to a
// millisecond late, never early.
const (
	tick      = int64(1e6) // nanoseconds
	slotBits  = 8
	slots     = 1 << slotBits
	slotMask  = slots - 1
	levels    = 3
	maxTicks  = int64(1)<<(slotBits*levels) - 1
	noTimer   = int64(1)<<62 - 1
	neverSlot = -1
)

// TimerHandler is called on the loop when a timer fires.
type TimerHandler interface {
	OnTimer(t *Timer)
}

// Timer is one pending call, embedded in what it belongs to. The zero value is stopped. It belongs to one loop.
type Timer struct {
	next, prev *Timer
	head       *slot
	at         int64 // in ticks
	handler    TimerHandler
}

// Active says whether the timer is set.
func (t *Timer) Active() bool { return t.head != nil }

type slot struct {
	first *Timer
	level uint8
	index uint8
}

type wheel struct {
	slots  [levels][slots]slot
	bits   [levels][slots / 64]uint64
	cur    int64 // ticks that have been handled
	soonAt int64 // no timer is due before this tick
}

func (w *wheel) init(now int64) {
	w.cur = now / tick
	w.soonAt = noTimer
	for l := range w.slots {
		for i := range w.slots[l] {
			w.slots[l][i].level, w.slots[l][i].index = uint8(l), uint8(i)
		}
	}
}

// set arranges for h.OnTimer(t) at now+d nanoseconds. A timer that is set is moved.
func (w *wheel) set(t *Timer, at int64, h TimerHandler) {
	w.stop(t)
	n := (at + tick - 1) / tick
	if n <= w.cur {
		n = w.cur + 1
	}
	t.handler, t.at = h, n
	w.insert(t)
	if n < w.soonAt {
		w.soonAt = n
	}
}

func (w *wheel) insert(t *Timer) {
	d := t.at - w.cur
	if d > maxTicks {
		d = maxTicks // fires early inside the wheel and is put back: see advance
	}
	n := w.cur + d
	l := 0
	switch {
	case d < slots:
	case d < slots*slots:
		l = 1
	default:
		l = 2
	}
	i := int(n>>(slotBits*l)) & slotMask
	s := &w.slots[l][i]
	t.head, t.prev, t.next = s, nil, s.first
	if s.first != nil {
		s.first.prev = t
	}
	s.first = t
	w.bits[l][i>>6] |= 1 << (i & 63)
}

func (w *wheel) stop(t *Timer) {
	s := t.head
	if s == nil {
		return
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		s.first = t.next
		if s.first == nil {
			w.bits[s.level][s.index>>6] &^= 1 << (s.index & 63)
		}
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.next, t.prev, t.head = nil, nil, nil
}

// take empties a slot and returns its list.
func (w *wheel) take(l, i int) *Timer {
	s := &w.slots[l][i]
	t := s.first
	s.first = nil
	w.bits[l][i>>6] &^= 1 << (i & 63)
	return t
}

// advance fires what is due at now. A handler may set and stop any timer.
func (w *wheel) advance(now int64) {
	to := now / tick
	if to < w.soonAt {
		if to > w.cur && to>>slotBits == w.cur>>slotBits {
			w.cur = to
		}
		if to < w.soonAt && to>>slotBits == w.cur>>slotBits {
			return
		}
	}
	for w.cur < to {
		next := w.nextSlot0()
		if next > to {
			// nothing more on the first level: go to the end of the level or of the time
			next = to
			if end := (w.cur | slotMask) + 1; end <= to {
				next = end
			}
		}
		w.cur = next
		if w.cur&slotMask == 0 {
			w.cascade()
		}
		i := int(w.cur & slotMask)
		for t := w.slots[0][i].first; t != nil; t = w.slots[0][i].first {
			w.stop(t)
			if t.at > w.cur {
				w.insert(t)
				continue
			}
			t.handler.OnTimer(t)
		}
	}
	w.soonAt = w.soonest()
}

// nextSlot0 is the tick of the next occupied slot of the first level before it wraps, or a tick after the wrap.
func (w *wheel) nextSlot0() int64 {
	i := int(w.cur&slotMask) + 1
	if j := nextBit(&w.bits[0], i); j >= 0 {
		return w.cur&^slotMask + int64(j)
	}
	return (w.cur | slotMask) + 1
}

func (w *wheel) cascade() {
	for l := 1; l < levels; l++ {
		i := int(w.cur>>(slotBits*l)) & slotMask
		for t := w.take(l, i); t != nil; {
			n := t.next
			t.next, t.prev, t.head = nil, nil, nil
			w.insertAtLeast(t)
			t = n
		}
		if i != 0 {
			return
		}
	}
}

// insertAtLeast puts a cascaded timer on its finer level; one that is due now goes into the slot being handled.
func (w *wheel) insertAtLeast(t *Timer) {
	if t.at <= w.cur {
		at := t.at
		t.at = w.cur
		w.insert(t)
		t.at = at
		return
	}
	w.insert(t)
}

// soonest is a tick before which nothing is due: exact on the first level, the slot's start on the others.
func (w *wheel) soonest() int64 {
	if j := nextBit(&w.bits[0], int(w.cur&slotMask)+1); j >= 0 {
		return w.cur&^slotMask + int64(j)
	}
	best := noTimer
	if j := nextBit(&w.bits[0], 0); j >= 0 {
		best = (w.cur | slotMask) + 1 + int64(j)
	}
	for l := 1; l < levels; l++ {
		sh := slotBits * l
		c := w.cur >> sh
		if j := nextBit(&w.bits[l], int(c&slotMask)+1); j >= 0 {
			best = min(best, (c&^slotMask+int64(j))<<sh)
		} else if j := nextBit(&w.bits[l], 0); j >= 0 {
			best = min(best, ((c|slotMask)+1+int64(j))<<sh)
		}
	}
	return best
}

func nextBit(b *[slots / 64]uint64, from int) int {
	if from >= slots {
		return -1
	}
	k := from >> 6
	if v := b[k] >> (from & 63) << (from & 63); v != 0 {
		return k<<6 + bits.TrailingZeros64(v)
	}
	for k++; k < len(b); k++ {
		if b[k] != 0 {
			return k<<6 + bits.TrailingZeros64(b[k])
		}
	}
	return -1
}
