// Package ratelimit is the compiled local rate limit: a token for each request, 429 with flag RL where there is none.
//
// Answers say when to come back (Retry-After, RFC 9110 §10.2.3) and what the limit is (RateLimit and
// RateLimit-Policy, draft-ietf-httpapi-ratelimit-headers-10). The buckets live in sidecar/limit, which this package
// knows as an interface only. For a gRPC request the data path turns the status into a code.
package ratelimit

import (
	"strconv"
	"unsafe"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Bucket gives out tokens. Durations are in nanoseconds; retryAfter is the time until there is a token, full until
// the bucket is full. It neither blocks nor allocates and is safe for concurrent use.
type Bucket interface {
	Take(now int64) (remaining, retryAfter, full int64, ok bool)
}

// Million is the whole of a share.
const Million = 1_000_000

// Config is one limit.
type Config struct {
	Bucket Bucket
	// Name names the limit in the RateLimit fields; letters, digits, - and _ only.
	Name string
	// Quota and Window (seconds) are what RateLimit-Policy tells: Quota requests in each Window.
	Quota, Window int64
	// Status is the answer's status; 0 means 429.
	Status int
	// Enabled is the share of requests that take a token, Enforced the share of those without one that are refused;
	// in parts of a million.
	Enabled, Enforced uint32
	// Announce puts the RateLimit fields on every answer, not only on refusals.
	Announce bool
	// Rand returns 64 random bits.
	Rand func() uint64
	// Refused and Passed count, Unenforced what would have been refused; nil counts nothing.
	Refused, Passed, Unenforced *stat.Counter
}

// Filter limits requests.
type Filter struct {
	snapshot.Pass
	c      Config
	policy string
}

// New makes the filter.
func New(c Config) *Filter {
	if c.Status == 0 {
		c.Status = 429
	}
	return &Filter{c: c, policy: `"` + c.Name + `";q=` + strconv.FormatInt(c.Quota, 10) + ";w=" + strconv.FormatInt(max(c.Window, 1), 10)}
}

const (
	rateLimit   = "ratelimit"
	policyField = "ratelimit-policy"
	second      = int64(1e9)
)

// What a slot's N holds between the stages: 0 for nothing to announce, else 1 + remaining; P is not used, so that
// nothing is allocated. The time until the bucket is full is asked anew.

// Request takes a token or answers.
func (f *Filter) Request(x *exchange.Exchange) snapshot.Verdict {
	if !share(f.c.Enabled, f.c.Rand) {
		return snapshot.Continue
	}
	remaining, after, full, ok := f.c.Bucket.Take(x.Now())
	if ok {
		count(f.c.Passed)
		if f.c.Announce {
			s := x.Slot()
			s.N = pack(remaining, full)
		}
		return snapshot.Continue
	}
	if !share(f.c.Enforced, f.c.Rand) {
		count(f.c.Unenforced)
		return snapshot.Continue
	}
	count(f.c.Refused)
	x.Respond(f.c.Status, exchange.RateLimited, "rate limit exceeded")
	x.Resp.Header.AddKnown(exchange.RetryAfter, number(x, seconds(after)))
	f.announce(x, 0, seconds(full))
	return snapshot.Respond
}

// Response announces what is left, where that is configured.
func (f *Filter) Response(x *exchange.Exchange) snapshot.Verdict {
	if n := x.Slot().N; n != 0 {
		remaining, full := unpack(n)
		f.announce(x, remaining, full)
	}
	return snapshot.Continue
}

// End has nothing to give back.
func (f *Filter) End(*exchange.Exchange) {}

func (f *Filter) announce(x *exchange.Exchange, remaining, reset int64) {
	if f.c.Quota == 0 {
		return
	}
	x.Resp.Header.Set(policyField, f.policy)
	b := x.Alloc(len(f.c.Name) + 48)[:0]
	b = append(b, '"')
	b = append(b, f.c.Name...)
	b = append(b, `";r=`...)
	b = strconv.AppendInt(b, remaining, 10)
	b = append(b, ";t="...)
	b = strconv.AppendInt(b, reset, 10)
	x.Resp.Header.Set(rateLimit, unsafe.String(unsafe.SliceData(b), len(b)))
}

// pack keeps remaining (up to 2^31) and seconds until full (up to 2^31) in one word that is never 0.
func pack(remaining, full int64) int64 {
	return 1<<62 | min(remaining, 1<<31-1)<<31 | min(seconds(full), 1<<31-1)
}

func unpack(n int64) (remaining, full int64) { return n >> 31 & (1<<31 - 1), n & (1<<31 - 1) }

// seconds rounds up, so that who waits so long finds a token.
func seconds(ns int64) int64 { return (ns + second - 1) / second }

func number(x *exchange.Exchange, n int64) string {
	b := x.Alloc(20)[:0]
	b = strconv.AppendInt(b, n, 10)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func share(parts uint32, rnd func() uint64) bool {
	return parts >= Million || parts > 0 && uint32((rnd()>>32)*Million>>32) < parts
}

func count(c *stat.Counter) {
	if c != nil {
		c.Inc()
	}
}
