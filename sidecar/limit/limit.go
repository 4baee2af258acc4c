// Package limit holds the state of rate limiters over changes of configuration: token buckets by identity.
//
// A filter is compiled anew with each snapshot; the bucket it takes tokens from is found here by what it limits, so
// that a swap neither refills it nor loses what was taken. How a limit is answered is in sidecar/filter/ratelimit;
// limits that several processes share are behind an interface of sidecar/backend.
package limit

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// unit is the resolution of a bucket's clock: parts of a nanosecond, so that intervals of high rates are not
// rounded noticeably. 64 bits of it last for 18 years.
const unit = 16

// Bucket is a token bucket as one atomic word, by the generic cell rate algorithm (ITU-T I.371): the word is the
// time at which the bucket will be full again. The zero value is a full bucket; it is safe for concurrent use.
type Bucket struct{ full atomic.Int64 }

// Rate is what a bucket is limited to. It is the filter's configuration, not the bucket's state, and may differ from
// one call to the next.
type Rate struct {
	interval int64 // between two tokens, in units
	burst    int64 // the bucket's size, in units
	tokens   int64
}

// NewRate gives tokens every per nanoseconds, at most burst at once. All are at least 1.
func NewRate(tokens, per, burst int64) Rate {
	tokens, per, burst = max(tokens, 1), max(per, 1), max(burst, 1)
	i := max(int64(float64(per)*unit/float64(tokens)), 1)
	if burst > (1<<61)/i {
		burst = (1 << 61) / i
	}
	return Rate{interval: i, burst: i * burst, tokens: burst}
}

// Burst is the number of tokens in a full bucket.
func (r Rate) Burst() int64 { return r.tokens }

// Taken is what came of a Take.
type Taken struct {
	OK bool
	// Remaining is the number of tokens left.
	Remaining int64
	// RetryAfter is the nanoseconds until there is a token, 0 where there is one.
	RetryAfter int64
	// Full is the nanoseconds until the bucket is full.
	Full int64
}

// Take takes a token if there is one. now is in monotonic nanoseconds. It does not block or allocate.
func (b *Bucket) Take(now int64, r Rate) Taken {
	now *= unit
	for {
		full := b.full.Load()
		base := max(full, now)
		if base-now > r.burst { // the rate was lowered meanwhile: never wait for longer than one whole bucket
			base = now + r.burst
		}
		next := base + r.interval
		if over := next - now - r.burst; over > 0 {
			return Taken{RetryAfter: (over + unit - 1) / unit, Full: (base - now + unit - 1) / unit}
		}
		if b.full.CompareAndSwap(full, next) {
			left := r.burst - (next - now)
			t := Taken{OK: true, Remaining: left / r.interval, Full: (next - now + unit - 1) / unit}
			if t.Remaining == 0 {
				t.RetryAfter = (r.interval - left + unit - 1) / unit
			}
			return t
		}
	}
}

// Table finds buckets by identity. The zero value is empty and ready; it is safe for concurrent use.
type Table struct {
	mu sync.Mutex
	m  map[string]weak.Pointer[Bucket]
}

// Bucket returns the bucket of that identity, a full one where there is none. It lives as long as somebody holds
// it: a limit that is no longer configured takes its bucket along.
func (t *Table) Bucket(identity string) *Bucket {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.m[identity].Value(); b != nil {
		return b
	}
	b := new(Bucket)
	w := weak.Make(b)
	if t.m == nil {
		t.m = map[string]weak.Pointer[Bucket]{}
	}
	t.m[identity] = w
	runtime.AddCleanup(b, func(id string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.m[id] == w { // a new one may have taken the place
			delete(t.m, id)
		}
	}, identity)
	return b
}

// Len is the number of buckets, those about to be let go included.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// Bound is a bucket with the rate that one configuration gives it; it fulfils ratelimit.Bucket.
type Bound struct {
	Bucket *Bucket
	Rate   Rate
}

// Take takes a token if there is one; the values are those of Taken.
func (b *Bound) Take(now int64) (remaining, retryAfter, full int64, ok bool) {
	t := b.Bucket.Take(now, b.Rate)
	return t.Remaining, t.RetryAfter, t.Full, t.OK
}
