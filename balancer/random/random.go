// Package random is the strategy "random": every eligible endpoint with the same probability, whatever its weight.
package random

import (
	"fmt"

	"github.com/outrigger-mesh/outrigger/balancer"
)

// Name is the strategy's name.
const Name = "random"

// probes is how often a pick guesses before it counts the eligible endpoints.
const probes = 3

// Strategy builds random pickers. It takes no configuration; Deps.Rand is the source.
type Strategy struct{}

// Name returns "random".
func (Strategy) Name() string { return Name }

// Build makes a picker. It carries nothing over.
func (Strategy) Build(cfg balancer.Config, eps []*balancer.Endpoint, _ balancer.Picker, d balancer.Deps) (balancer.Picker, error) {
	if cfg != nil {
		return nil, fmt.Errorf("random takes no configuration, got %T", cfg)
	}
	return &picker{tiers: balancer.Tiers(eps), rand: d.Defaults().Rand}, nil
}

type picker struct {
	tiers [][]*balancer.Endpoint
	rand  func() uint64
}

// Pick returns any eligible endpoint; on another try, one that was not tried where there is one.
func (p *picker) Pick(r *balancer.Request) (*balancer.Endpoint, error) {
	if e := r.Override; e != nil && e.Eligible() {
		return e, nil
	}
	for _, eps := range p.tiers {
		if e := p.pick(eps, r); e != nil {
			return e, nil
		}
	}
	return nil, balancer.ErrNoEndpoint
}

func (p *picker) pick(eps []*balancer.Endpoint, r *balancer.Request) *balancer.Endpoint {
	for range probes { // guess and check again: as uniform as counting, and mostly one step
		if e := eps[balancer.Below(p.rand(), len(eps))]; e.Eligible() && !r.WasTried(e) {
			return e
		}
	}
	// Reservoir sampling in one pass: an endpoint may change its state between two passes. The k-th candidate
	// replaces the choice with probability 1/k. Tried ones have a reservoir of their own.
	var fresh, tried *balancer.Endpoint
	nFresh, nTried := 0, 0
	for _, e := range eps {
		if !e.Eligible() {
			continue
		}
		if r.WasTried(e) {
			if nTried++; balancer.Below(p.rand(), nTried) == 0 {
				tried = e
			}
		} else if nFresh++; balancer.Below(p.rand(), nFresh) == 0 {
			fresh = e
		}
	}
	if fresh != nil {
		return fresh
	}
	return tried
}

// Observe does nothing: the choice does not depend on how exchanges go.
func (*picker) Observe(*balancer.Endpoint, balancer.Observation) {}
