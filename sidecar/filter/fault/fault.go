// Package fault is the compiled fault injection: requests are delayed, refused, or both, by chance.
//
// A delayed exchange is parked by the loop's own timer; nothing waits in a goroutine. Flags DI and FI tell the
// caller and the log that it was on purpose.
package fault

import (
	"strconv"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Million is the whole of a share.
const Million = 1_000_000

// Config is what is done to requests.
type Config struct {
	// Delay is how long a share of DelayShare parts of a million is held up; 0 delays none.
	Delay      time.Duration
	DelayShare uint32
	// AbortStatus answers a share of AbortShare parts of a million; 0 aborts none. AbortGRPC, where GRPC is set, is
	// the gRPC status instead.
	AbortStatus int
	AbortGRPC   uint32
	GRPC        bool
	AbortShare  uint32
	// Headers must all hold for a request to be touched.
	Headers []snapshot.HeaderMatch
	// MaxActive bounds the exchanges that are being delayed at a time; 0 means no bound.
	MaxActive int64
	// Rand returns 64 random bits.
	Rand func() uint64
	// Active is the number of exchanges being delayed; it is to be kept over snapshots. Required where Delay is set.
	Active *stat.Gauge
	// Delayed, Aborted and Overflowed count; nil counts nothing.
	Delayed, Aborted, Overflowed *stat.Counter
}

// Filter injects faults.
type Filter struct {
	c        Config
	grpcCode string
}

// New makes the filter.
func New(c Config) *Filter {
	return &Filter{c: c, grpcCode: strconv.FormatUint(uint64(c.AbortGRPC), 10)}
}

// What a slot's N holds.
const (
	fresh   = iota
	waiting // suspended, counted in Active
	done
)

// Request delays, then aborts.
func (f *Filter) Request(x *exchange.Exchange) snapshot.Verdict {
	s := x.Slot()
	switch s.N {
	case waiting: // the time is up
		f.release(s)
		return f.abort(x)
	case done:
		return snapshot.Continue
	}
	for i := range f.c.Headers {
		if !f.c.Headers[i].Matches(x) {
			s.N = done
			return snapshot.Continue
		}
	}
	if f.c.Delay > 0 && f.share(f.c.DelayShare) {
		if n := f.c.Active.Add(1); f.c.MaxActive > 0 && n > f.c.MaxActive {
			f.c.Active.Add(-1)
			count(f.c.Overflowed)
		} else {
			s.N = waiting
			x.Flags |= exchange.DelayInjected
			count(f.c.Delayed)
			x.ResumeAfter(int64(f.c.Delay))
			return snapshot.Suspend
		}
	}
	return f.abort(x)
}

func (f *Filter) abort(x *exchange.Exchange) snapshot.Verdict {
	x.Slot().N = done
	if f.c.AbortStatus == 0 && !f.c.GRPC || !f.share(f.c.AbortShare) {
		return snapshot.Continue
	}
	count(f.c.Aborted)
	switch {
	case !f.c.GRPC:
		x.Respond(f.c.AbortStatus, exchange.FaultInjected, "fault injected")
	case x.GRPC:
		x.Respond(200, exchange.FaultInjected, "fault injected")
		x.Resp.Header.AddKnown(exchange.GRPCStatus, f.grpcCode)
	default:
		x.Respond(httpStatus(f.c.AbortGRPC), exchange.FaultInjected, "fault injected")
	}
	return snapshot.Respond
}

// Response does nothing.
func (f *Filter) Response(*exchange.Exchange) snapshot.Verdict { return snapshot.Continue }

// End gives back the place of an exchange that was cancelled while it waited.
func (f *Filter) End(x *exchange.Exchange) {
	if s := x.Slot(); s.N == waiting {
		f.release(s)
	}
}

func (f *Filter) release(s *exchange.Slot) {
	s.N = done
	f.c.Active.Add(-1)
}

func (f *Filter) share(parts uint32) bool {
	return parts >= Million || parts > 0 && uint32((f.c.Rand()>>32)*Million>>32) < parts
}

func count(c *stat.Counter) {
	if c != nil {
		c.Inc()
	}
}

// httpStatus is google.rpc.Code's mapping to HTTP.
func httpStatus(code uint32) int {
	switch code {
	case 0:
		return 200
	case 1:
		return 499
	case 3, 9, 11:
		return 400
	case 4:
		return 504
	case 5:
		return 404
	case 6, 10:
		return 409
	case 7:
		return 403
	case 8:
		return 429
	case 12:
		return 501
	case 14:
		return 503
	case 16:
		return 401
	}
	return 500
}
