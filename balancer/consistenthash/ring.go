// Package consistenthash is the strategy "consistent-hash": calls with the same key go to the same endpoint, and an
// endpoint that comes or goes moves its own keys only.
//
// The variant ring is here: every endpoint owns points on a circle of 64-bit hashes, as many as its weight earns, and a
// key belongs to the first point at or after its own hash. Points are placed as Envoy's ring hash places them (XXH64
// of the address and a running number), so that Envoy and this sidecar agree key by key. Points of an endpoint that is
// not eligible are passed over; they are not rebuilt away, so that its neighbours keep what they had when it returns.
package consistenthash

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/outrigger-mesh/outrigger/balancer"
)

// Name is the strategy's name.
const Name = "consistent-hash"

// Sizes of a ring, in points (Envoy's RingHash).
const (
	DefaultMinSize = 1024
	DefaultMaxSize = 8 << 20
)

// Config is the strategy's configuration.
type Config struct {
	// MinSize and MaxSize bound the number of points of a tier's ring; 0 means DefaultMinSize and DefaultMaxSize. More
	// points make shares more even.
	MinSize, MaxSize uint64
}

// Hash is XXH64 with seed 0: what a key is hashed by before it is a balancer.Request's Hash. It does not allocate.
func Hash(key string) uint64 { return xxhash.Sum64String(key) }

// Strategy builds pickers from a Config, or nil for the defaults.
type Strategy struct{}

// Name returns "consistent-hash".
func (Strategy) Name() string { return Name }

// Build makes a picker. Two that are built over the same endpoints agree, whatever the order of eps: points are
// placed by address and sorted. A changed weight takes effect with the next Build.
func (Strategy) Build(cfg balancer.Config, eps []*balancer.Endpoint, _ balancer.Picker, d balancer.Deps) (balancer.Picker, error) {
	c := Config{}
	switch v := cfg.(type) {
	case nil:
	case Config:
		c = v
	case *Config:
		c = *v
	default:
		return nil, fmt.Errorf("consistent-hash takes a consistenthash.Config, got %T", cfg)
	}
	if c.MinSize == 0 {
		c.MinSize = DefaultMinSize
	}
	if c.MaxSize == 0 {
		c.MaxSize = DefaultMaxSize
	}
	if c.MinSize > c.MaxSize || c.MaxSize > DefaultMaxSize {
		return nil, fmt.Errorf("a ring of %d to %d points cannot be: at most %d, and the least not above the most", c.MinSize, c.MaxSize, DefaultMaxSize)
	}
	p := &picker{rand: d.Defaults().Rand}
	for _, g := range balancer.Tiers(eps) {
		p.tiers = append(p.tiers, newRing(c, g))
	}
	return p, nil
}

type picker struct {
	tiers []ring
	rand  func() uint64
}

type point struct {
	hash uint64
	ep   uint32
}

type ring struct {
	eps    []*balancer.Endpoint
	points []point
}

// newRing places the points of a tier, as Envoy's RingHashLoadBalancer::Ring does: the least weight gets whole points.
func newRing(c Config, eps []*balancer.Endpoint) ring {
	sum, least := 0.0, math.MaxFloat64
	for _, e := range eps {
		w := float64(e.Weight())
		sum += w
		least = min(least, w)
	}
	least /= sum
	scale := min(math.Ceil(least*float64(c.MinSize))/least, float64(c.MaxSize))
	r := ring{eps: eps, points: make([]point, 0, int(math.Ceil(scale)))}
	var key []byte
	have, want := 0.0, 0.0
	order := make([]uint32, len(eps)) // not that of discovery, which would decide where a fraction of a point goes
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(eps[a].Address, eps[b].Address) })
	for _, k := range order {
		e := eps[k]
		want += scale * float64(e.Weight()) / sum
		for i := 0; have < want; i++ {
			key = append(append(key[:0], e.Address...), '_')
			key = strconv.AppendInt(key, int64(i), 10)
			r.points = append(r.points, point{xxhash.Sum64(key), k})
			have++
		}
	}
	slices.SortFunc(r.points, func(a, b point) int {
		if a.hash != b.hash {
			return cmp.Compare(a.hash, b.hash)
		}
		return cmp.Compare(eps[a.ep].Address, eps[b.ep].Address)
	})
	return r
}

// Pick returns the owner of the request's hash, or a random endpoint where it has none; on another try the next owner
// on the ring that was not tried.
func (p *picker) Pick(r *balancer.Request) (*balancer.Endpoint, error) {
	if e := r.Override; e != nil && e.Eligible() {
		return e, nil
	}
	h := r.Hash
	if !r.HasHash {
		h = p.rand()
	}
	for i := range p.tiers {
		if e := p.tiers[i].pick(h, r); e != nil {
			return e, nil
		}
	}
	return nil, balancer.ErrNoEndpoint
}

func (g *ring) pick(h uint64, r *balancer.Request) *balancer.Endpoint {
	from, to := 0, len(g.points)
	for from < to {
		if m := int(uint(from+to) >> 1); g.points[m].hash < h {
			from = m + 1
		} else {
			to = m
		}
	}
	var fallback, last *balancer.Endpoint
	for k := range g.points {
		i := from + k
		if i >= len(g.points) {
			i -= len(g.points)
		}
		e := g.eps[g.points[i].ep]
		if e == last || !e.Eligible() {
			continue
		}
		if r.NTried == 0 || !r.WasTried(e) {
			return e
		}
		if fallback == nil {
			fallback = e
		}
		last = e
	}
	return fallback
}

// Observe does nothing: who owns a key does not depend on how exchanges go.
func (*picker) Observe(*balancer.Endpoint, balancer.Observation) {}
