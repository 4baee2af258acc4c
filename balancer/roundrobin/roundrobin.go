// Package roundrobin is the strategy "round-robin": each eligible endpoint in turn, whatever its weight.
//
// The cycle is exact, also while endpoints come and go: an endpoint that is passed over because it is not
// eligible does not give its turn to its neighbour twice. Weighted turns are another strategy's.
package roundrobin

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/outrigger-mesh/outrigger/balancer"
)

// Name is the strategy's name.
const Name = "round-robin"

// Strategy builds round-robin pickers. It takes no configuration.
type Strategy struct{}

// Name returns "round-robin".
func (Strategy) Name() string { return Name }

// Build makes a picker that begins where prev stopped, or, where there is no prev, at a random endpoint, so
// that many sidecars that start together do not all call the same endpoint first.
func (Strategy) Build(cfg balancer.Config, eps []*balancer.Endpoint, prev balancer.Picker, d balancer.Deps) (balancer.Picker, error) {
	if cfg != nil {
		return nil, fmt.Errorf("round-robin takes no configuration, got %T", cfg)
	}
	d = d.Defaults()
	old, _ := prev.(*picker)
	groups := balancer.Tiers(eps)
	p := &picker{tiers: make([]tier, len(groups))}
	for i, g := range groups {
		t := &p.tiers[i]
		t.eps = g
		t.next.Store(uint32(balancer.Below(d.Rand(), len(g))))
		if old != nil {
			if n, ok := old.successor(g); ok {
				t.next.Store(uint32(n))
			}
		}
	}
	return p, nil
}

type picker struct{ tiers []tier }

type tier struct {
	eps  []*balancer.Endpoint
	next atomic.Uint32 // index of the endpoint whose turn it is
}

// successor finds the endpoint of eps whose turn it is after the old picker's last pick.
func (p *picker) successor(eps []*balancer.Endpoint) (int, bool) {
	for i := range p.tiers {
		t := &p.tiers[i]
		from := int(t.next.Load())
		for k := range t.eps {
			if n := slices.Index(eps, t.eps[(from+k)%len(t.eps)]); n >= 0 {
				return n, true
			}
		}
	}
	return 0, false
}

// Pick returns the next eligible endpoint; on another try, the next that was not tried where there is one.
func (p *picker) Pick(r *balancer.Request) (*balancer.Endpoint, error) {
	if e := r.Override; e != nil && e.Eligible() {
		return e, nil
	}
	for i := range p.tiers {
		if e := p.tiers[i].pick(r); e != nil {
			return e, nil
		}
	}
	return nil, balancer.ErrNoEndpoint
}

func (t *tier) pick(r *balancer.Request) *balancer.Endpoint {
	n := uint32(len(t.eps))
	for {
		from := t.next.Load()
		found, fallback := n, n
		for k, i := uint32(0), from; k < n; k++ {
			e := t.eps[i]
			switch {
			case !e.Eligible():
			case r.NTried == 0 || !r.WasTried(e):
				found = i
			case fallback == n:
				fallback = i
			}
			if found < n {
				break
			}
			if i++; i == n {
				i = 0
			}
		}
		if found == n {
			found = fallback
		}
		if found == n {
			return nil
		}
		next := found + 1
		if next == n {
			next = 0
		}
		if t.next.CompareAndSwap(from, next) { // else another loop took the turn
			return t.eps[found]
		}
	}
}

// Observe does nothing: the cycle does not depend on how exchanges go.
func (*picker) Observe(*balancer.Endpoint, balancer.Observation) {}
