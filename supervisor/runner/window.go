package runner

import "time"

// window counts restarts within a sliding interval: the intensity of Erlang/OTP. It is not safe for concurrent use.
type window struct {
	times []time.Time
}

// take asks for one more restart at now. It returns which restart within the interval it is, from 1, or false when that would be more
// than r allows.
func (w *window) take(now time.Time, r Restart) (int, bool) {
	keep := w.times[:0]
	for _, t := range w.times {
		if now.Sub(t) < r.Within {
			keep = append(keep, t)
		}
	}
	w.times = keep
	if r.Max >= 0 && len(w.times) >= r.Max {
		return 0, false
	}
	if r.Max < 0 && len(w.times) >= 64 {
		w.times = w.times[1:] // without a limit they only number the backoff
	}
	w.times = append(w.times, now)
	return len(w.times), true
}
