// Package backoff says how long to wait before a further try. It is pure: it neither sleeps nor keeps state, and
// its randomness is the caller's, so that a seed gives the same delays again.
//
// Which failures are worth a further try, and how many, is the caller's business: restarts in supervisor/runner,
// retries in sidecar/filter.
package backoff

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Kind is how the delay grows from one try to the next.
type Kind string

// Kinds.
const (
	Linear      Kind = "linear"      // base, 2 base, 3 base, …
	Exponential Kind = "exponential" // base, 2 base, 4 base, …
	Fibonacci   Kind = "fibonacci"   // base, base, 2 base, 3 base, 5 base, …
)

// Jitter is how a delay is spread, so that many who failed together do not come back together.
type Jitter string

// Jitters.
const (
	None Jitter = "none"
	Full Jitter = "full" // uniform between 0 and the delay ("Exponential Backoff And Jitter", AWS, 2015)
)

// Policy is a way to back off. The zero Policy never waits.
type Policy struct {
	Kind   Kind          `json:"kind,omitempty"`   // default exponential
	Base   time.Duration `json:"base,omitempty"`   // ns in JSON; the first delay, at least 0
	Max    time.Duration `json:"max,omitempty"`    // ns in JSON; the longest delay; 0: no cap
	Jitter Jitter        `json:"jitter,omitempty"` // default none
}

// Validate returns what is wrong with the policy, or nil.
func (p Policy) Validate() error {
	switch p.Kind {
	case "", Linear, Exponential, Fibonacci:
	default:
		return fmt.Errorf("backoff kind %q: want linear, exponential or fibonacci", p.Kind)
	}
	switch p.Jitter {
	case "", None, Full:
	default:
		return fmt.Errorf("backoff jitter %q: want none or full", p.Jitter)
	}
	if p.Base < 0 || p.Max < 0 {
		return fmt.Errorf("backoff base %v, max %v: must not be negative", p.Base, p.Max)
	}
	if p.Max > 0 && p.Base > p.Max {
		return fmt.Errorf("backoff base %v is more than its max %v", p.Base, p.Max)
	}
	return nil
}

// Delay returns how long to wait before try n, where the first further try is 1 (less counts as 1). It never is
// negative, more than Max, or, with [Full] jitter and a nil r, jittered.
func (p Policy) Delay(n int, r *rand.Rand) time.Duration {
	d := p.whole(max(n, 1))
	if p.Jitter == Full && r != nil && d > 0 {
		if d == math.MaxInt64 {
			return time.Duration(r.Int64())
		}
		return time.Duration(r.Int64N(int64(d) + 1))
	}
	return d
}

// whole is the delay before jitter, held at the cap (or at the largest duration).
func (p Policy) whole(n int) time.Duration {
	limit := p.Max
	if limit <= 0 {
		limit = math.MaxInt64
	}
	if p.Base <= 0 {
		return 0
	}
	if p.Base >= limit {
		return limit
	}
	switch p.Kind {
	case Linear:
		if time.Duration(n) > limit/p.Base {
			return limit
		}
		return p.Base * time.Duration(n)
	case Fibonacci:
		a, b := time.Duration(0), p.Base
		for i := 1; i < n; i++ {
			if a > limit-b {
				return limit
			}
			a, b = b, a+b
		}
		return min(b, limit)
	default:
		d := p.Base
		for i := 1; i < n; i++ {
			if d > limit/2 {
				return limit
			}
			d *= 2
		}
		return d
	}
}
