// Package balancer says which endpoint of a cluster takes the next exchange.
//
// It holds the contract between a cluster and its balancing strategy: [Strategy] turns immutable
// configuration and the current endpoints into a [Picker]; the Picker is asked once for each try. One package
// below this one holds each strategy, and builtin.All is the only list of them. What knows of connections,
// protocols or xDS does not belong here. Endpoint health and the tables that keep endpoints over
// configuration changes are in sidecar/upstream.
package balancer

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
)

// ErrNoEndpoint is what Pick returns when no endpoint is eligible. The caller answers 503 with flag UH.
var ErrNoEndpoint = errors.New("no eligible endpoint")

// Strategy builds pickers. It is stateless and safe for concurrent use.
type Strategy interface {
	// Name is the strategy's name in resources and in xDS, for example "round-robin".
	Name() string
	// Build makes a picker over eps, which it must not modify or keep a writable reference to. prev is the
	// picker that the new one replaces, or nil; a strategy may carry state over from a prev of its own type.
	// An error means that cfg does not fit the strategy; the caller keeps prev.
	Build(cfg Config, eps []*Endpoint, prev Picker, d Deps) (Picker, error)
}

// Picker chooses endpoints. Its configuration is immutable and its state atomic: all methods are safe for
// concurrent use, neither block nor allocate.
type Picker interface {
	// Pick returns an eligible endpoint, preferring those not in r.Tried, or ErrNoEndpoint. Each successful
	// Pick is followed by exactly one Observe with End set. The caller, not the picker, counts the pick in
	// Endpoint.AddInflight, so that the number is right for every strategy and over a change of strategy.
	Pick(r *Request) (*Endpoint, error)
	// Observe tells the picker what became of a pick.
	Observe(e *Endpoint, o Observation)
}

// Config is a strategy's own typed configuration, or nil for its defaults.
type Config any

// Deps are what a strategy may use besides its arguments.
type Deps struct {
	// Now returns monotonic nanoseconds.
	Now func() int64
	// Rand returns 64 random bits; it is safe for concurrent use. A test passes a seeded one.
	Rand func() uint64
}

// DefaultRand is the Rand of production: the runtime's own generator, which is per-thread.
func DefaultRand() uint64 { return rand.Uint64() }

// Phase says at which moment of an exchange an Observation is made.
type Phase uint8

// The phases, in the order in which they occur. Only End is certain to occur.
const (
	FirstByte  Phase = iota + 1 // the response's head has begun
	LoadReport                  // an ORCA report arrived
	End                         // the try is over
)

// Observation is what was learnt about one pick.
type Observation struct {
	Phase Phase
	// Failed says, at End, that the try counts against the endpoint: transport failure or 5xx.
	Failed bool
	// Elapsed is the nanoseconds since the pick.
	Elapsed int64
	// Load is a reported utilisation, 0 to 1, at LoadReport.
	Load float64
}

// MaxTried bounds the endpoints that a Request remembers; retries beyond it may meet an endpoint again.
const MaxTried = 8

// Request is what a picker may know of an exchange. It is embedded by value in exchange.Exchange.
type Request struct {
	// Hash is the consistent-hashing key's hash; valid if HasHash.
	Hash    uint64
	HasHash bool
	// Class is the priority class, 0 the most important.
	Class uint8
	// Client is the caller's address, as far as it can be trusted.
	Client netip.Addr
	// Destination is where the caller meant to connect, for pickers that send it there; else the zero value.
	Destination netip.AddrPort
	// Override, if set and eligible, is to be chosen (sticky sessions).
	Override *Endpoint
	// Tried holds the endpoints of earlier tries of the same exchange.
	Tried  [MaxTried]*Endpoint
	NTried uint8
}

// AddTried remembers e for the next Pick.
func (r *Request) AddTried(e *Endpoint) {
	if r.NTried < MaxTried {
		r.Tried[r.NTried] = e
		r.NTried++
	}
}

// WasTried says whether e was used by an earlier try.
func (r *Request) WasTried(e *Endpoint) bool {
	for i := uint8(0); i < r.NTried; i++ {
		if r.Tried[i] == e {
			return true
		}
	}
	return false
}

// Reasons for which an endpoint is not eligible; bits of its state.
const (
	Unhealthy uint32 = 1 << iota // health checking or discovery says so
	Ejected                      // outlier detection
	Draining                     // being withdrawn
	Full                         // at its limit of connections or requests
	Failing                      // active health checking says so
)

// Endpoint is one address that can take exchanges, with the counters that outlive configuration changes:
// the same *Endpoint is given to each picker built for its cluster as long as its address stays.
type Endpoint struct {
	// ID names the instance behind the endpoint; it equals Address where nothing better is known.
	ID string
	// Address is "host:port", or a path for a Unix socket.
	Address string
	// Version is the service version, or "".
	Version string
	// Region, Zone and SubZone are the endpoint's locality.
	Region, Zone, SubZone string

	weight   atomic.Uint32
	priority atomic.Uint32
	state    atomic.Uint32
	inflight atomic.Int64

	// Host is what sidecar/upstream attaches: connections, breaker, outlier state. Balancers leave it alone.
	Host any
}

// NewEndpoint makes an eligible endpoint of weight 1 and priority 0.
func NewEndpoint(id, address string) *Endpoint {
	e := &Endpoint{ID: id, Address: address}
	e.weight.Store(1)
	return e
}

// Eligible says whether a picker may choose the endpoint.
func (e *Endpoint) Eligible() bool { return e.state.Load() == 0 }

// State returns the reasons for which the endpoint is not eligible.
func (e *Endpoint) State() uint32 { return e.state.Load() }

// Mark sets or clears one of the reasons and says whether that changed anything.
func (e *Endpoint) Mark(reason uint32, on bool) bool {
	if on {
		return e.state.Or(reason)&reason == 0
	}
	return e.state.And(^reason)&reason != 0
}

// Weight is the endpoint's share relative to the others, at least 1.
func (e *Endpoint) Weight() uint32 { return e.weight.Load() }

// SetWeight sets the weight; 0 counts as 1.
func (e *Endpoint) SetWeight(w uint32) { e.weight.Store(max(w, 1)) }

// Priority is the endpoint's tier, 0 the first.
func (e *Endpoint) Priority() uint32 { return e.priority.Load() }

// SetPriority sets the tier.
func (e *Endpoint) SetPriority(p uint32) { e.priority.Store(p) }

// Inflight is the number of exchanges that the endpoint has in progress through this process.
func (e *Endpoint) Inflight() int64 { return e.inflight.Load() }

// AddInflight changes the number of exchanges in progress and returns the new one.
func (e *Endpoint) AddInflight(n int64) int64 { return e.inflight.Add(n) }
