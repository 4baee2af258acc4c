package loop

import (
	"math/rand/v2"
	"testing"
)

type fired struct {
	t  *testing.T
	w  *wheel
	at int64
	n  int
}

func (f *fired) OnTimer(*Timer) {
	f.n++
	if f.w.cur < f.at {
		f.t.Fatalf("fired at tick %d, set for %d", f.w.cur, f.at)
	}
	if f.w.cur > f.at+1 {
		f.t.Fatalf("fired at tick %d, late for %d", f.w.cur, f.at)
	}
}

// The wheel is advanced by whatever soonAt says, as the loop does; every timer fires once, at its tick.
func TestWheel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		w := new(wheel)
		start := r.Int64N(1 << 40)
		w.init(start * tick)
		type pending struct {
			tm Timer
			f  fired
		}
		var ps []*pending
		now := start
		for range 300 {
			switch r.IntN(4) {
			case 0, 1:
				p := &pending{}
				d := r.Int64N([]int64{3, 300, 70_000, 20_000_000}[r.IntN(4)]) + 1
				p.f = fired{t: t, w: w, at: now + d}
				w.set(&p.tm, (now+d)*tick, &p.f)
				ps = append(ps, p)
			case 2:
				if len(ps) > 0 {
					p := ps[r.IntN(len(ps))]
					if p.tm.Active() {
						w.stop(&p.tm)
						p.f.n = 1
					}
				}
			case 3:
				to := now + r.Int64N(500)
				if r.IntN(3) == 0 {
					to = min(w.soonAt, now+1<<25)
				}
				// as the loop: never past the next due tick without a wake
				for w.soonAt <= to {
					now = max(now, w.soonAt)
					w.advance(now * tick)
				}
				now = max(now, to)
				w.advance(now * tick)
			}
		}
		for w.soonAt != noTimer {
			now = max(now, w.soonAt)
			w.advance(now * tick)
		}
		for i, p := range ps {
			if p.f.n != 1 {
				t.Fatalf("round %d: timer %d fired %d times (active %v)", round, i, p.f.n, p.tm.Active())
			}
		}
	}
}

func TestTimerAllocs(t *testing.T) {
	w := new(wheel)
	w.init(0)
	var tm Timer
	f := &fired{t: t, w: w}
	if n := testing.AllocsPerRun(100, func() { w.set(&tm, 15e9, f); w.stop(&tm) }); n != 0 {
		t.Fatal(n)
	}
}
