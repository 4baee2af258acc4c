// Package leastconn is the strategy "least-connections": the endpoint with the fewest exchanges in flight for its
// weight (Envoy's LEAST_REQUEST; the count is of exchanges, since connections are multiplexed).
//
// Up to [ExactLimit] eligible-or-not endpoints of a tier are all compared. In a larger tier a few are drawn in
// proportion to their weights and compared: Mitzenmacher's power of two choices, whose worst load is within a
// constant of the exact choice's and which does not send every sidecar to the one endpoint that is idle. Equal
// loads are decided by chance in proportion to the weights, so that an idle cluster shares by weight.
package leastconn

import (
	"fmt"

	"github.com/outrigger-mesh/outrigger/balancer"
)

// Name is the strategy's name.
const Name = "least-connections"

// ExactLimit is the size of the largest tier in which all endpoints are compared.
const ExactLimit = 8

// MaxChoices bounds Config.Choices.
const MaxChoices = 16

// Config is the strategy's configuration.
type Config struct {
	// Choices is how many endpoints of a tier larger than ExactLimit are compared, 2 to MaxChoices; 0 means 2.
	Choices int
}

// Strategy builds pickers from a Config, or nil for the defaults.
type Strategy struct{}

// Name returns "least-connections".
func (Strategy) Name() string { return Name }

// Build makes a picker. What is in flight is counted on the endpoints, so nothing need be carried over. A changed
// weight takes effect at once in comparisons and, in large tiers, at the next Build in what is drawn.
func (Strategy) Build(cfg balancer.Config, eps []*balancer.Endpoint, _ balancer.Picker, d balancer.Deps) (balancer.Picker, error) {
	c := Config{}
	switch v := cfg.(type) {
	case nil:
	case Config:
		c = v
	case *Config:
		c = *v
	default:
		return nil, fmt.Errorf("least-connections takes a leastconn.Config, got %T", cfg)
	}
	if c.Choices == 0 {
		c.Choices = 2
	}
	if c.Choices < 2 || c.Choices > MaxChoices {
		return nil, fmt.Errorf("least-connections compares 2 to %d endpoints, not %d", MaxChoices, c.Choices)
	}
	p := &picker{choices: c.Choices, rand: d.Defaults().Rand}
	for _, g := range balancer.Tiers(eps) {
		t := tier{eps: g}
		if len(g) > ExactLimit {
			t.draw = newAlias(g)
		}
		p.tiers = append(p.tiers, t)
	}
	return p, nil
}

type picker struct {
	tiers   []tier
	choices int
	rand    func() uint64
}

type tier struct {
	eps  []*balancer.Endpoint
	draw *alias // nil where all are compared
}

// Pick returns the least loaded eligible endpoint; on another try, of those that were not tried where there are any.
func (p *picker) Pick(r *balancer.Request) (*balancer.Endpoint, error) {
	if e := r.Override; e != nil && e.Eligible() {
		return e, nil
	}
	for i := range p.tiers {
		t := &p.tiers[i]
		if t.draw != nil {
			if e := p.some(t, r); e != nil {
				return e, nil
			}
		}
		if e := p.all(t.eps, r); e != nil {
			return e, nil
		}
	}
	return nil, balancer.ErrNoEndpoint
}

// some draws until it has compared the wanted number; nil where too many of those drawn could not be chosen.
func (p *picker) some(t *tier, r *balancer.Request) *balancer.Endpoint {
	best, n := (*balancer.Endpoint)(nil), 0
	var load int64
	for range 4 * p.choices {
		e := t.eps[t.draw.pick(p.rand())]
		if e == best || !e.Eligible() || r.WasTried(e) {
			continue
		}
		l := e.Inflight()
		if best == nil || l*int64(best.Weight()) < load*int64(e.Weight()) { // a tie keeps the first: both were drawn by weight
			best, load = e, l
		}
		if n++; n == p.choices {
			return best
		}
	}
	return nil
}

// all compares every endpoint.
func (p *picker) all(eps []*balancer.Endpoint, r *balancer.Request) *balancer.Endpoint {
	var best *balancer.Endpoint
	var load, weight int64
	var ties uint64 // weights of those as good as best
	tried := true
	for _, e := range eps {
		if !e.Eligible() {
			continue
		}
		again := r.WasTried(e)
		if again && !tried {
			continue
		}
		l, w := max(e.Inflight(), 0), int64(e.Weight())
		better := best == nil || tried && !again || l*weight < load*w
		switch {
		case better:
			best, load, weight, ties, tried = e, l, w, uint64(w), again
		case l*weight == load*w:
			ties += uint64(w)
			if balancer.Below(p.rand(), int(ties)) < int(w) {
				best, load, weight = e, l, w
			}
		}
	}
	return best
}

// Observe does nothing: the caller counts what is in flight on the endpoint.
func (*picker) Observe(*balancer.Endpoint, balancer.Observation) {}

// alias draws indexes in proportion to weights in constant time (Vose's alias method).
type alias struct {
	keep  []uint32 // of 2^32: the probability that a column keeps its own index
	other []uint32
}

func newAlias(eps []*balancer.Endpoint) *alias {
	n := len(eps)
	a := &alias{keep: make([]uint32, n), other: make([]uint32, n)}
	var sum float64
	for _, e := range eps {
		sum += float64(e.Weight())
	}
	scaled := make([]float64, n)
	var small, large []int
	for i, e := range eps {
		scaled[i] = float64(e.Weight()) * float64(n) / sum
		if scaled[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.keep[s], a.other[s] = uint32(scaled[s]*(1<<32-1)), uint32(l)
		if scaled[l] -= 1 - scaled[s]; scaled[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, rest := range [][]int{small, large} { // what is left is 1 but for rounding
		for _, i := range rest {
			a.keep[i], a.other[i] = 1<<32-1, uint32(i)
		}
	}
	return a
}

func (a *alias) pick(bits uint64) int {
	i := int((bits >> 32) * uint64(len(a.keep)) >> 32)
	if uint32(bits) <= a.keep[i] {
		return i
	}
	return int(a.other[i])
}
