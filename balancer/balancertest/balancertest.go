// Package balancertest is what every strategy must keep: one suite, called by each strategy's own tests. What only
// one strategy promises (an exact cycle, shares) is tested beside it.
package balancertest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/outrigger-mesh/outrigger/balancer"
)

// Endpoints makes n eligible endpoints.
func Endpoints(n int) []*balancer.Endpoint {
	eps := make([]*balancer.Endpoint, n)
	for i := range eps {
		a := fmt.Sprintf("10.0.%d.%d:80", i/250, i%250)
		eps[i] = balancer.NewEndpoint(a, a)
	}
	return eps
}

// Seeded returns dependencies whose randomness is the same in every run. They are for one goroutine.
func Seeded(seed uint64) balancer.Deps {
	r := rand.New(rand.NewPCG(seed, 1))
	return balancer.Deps{Now: func() int64 { return 0 }, Rand: r.Uint64}
}

// Shares checks that counts of picks follow weights within five standard deviations.
func Shares(t testing.TB, counts map[*balancer.Endpoint]int, weights map[*balancer.Endpoint]float64) {
	t.Helper()
	n, sum := 0, 0.0
	for _, c := range counts {
		n += c
	}
	for _, w := range weights {
		sum += w
	}
	for e, w := range weights {
		p := w / sum
		want, sigma := float64(n)*p, math.Sqrt(float64(n)*p*(1-p))
		if d := math.Abs(float64(counts[e]) - want); d > 5*sigma+1 {
			t.Errorf("%s: %d of %d picks, want %.0f ± %.0f", e.Address, counts[e], n, want, 5*sigma)
		}
	}
}

// Run checks what every strategy must keep.
func Run(t *testing.T, s balancer.Strategy, cfg balancer.Config) {
	t.Run("eligibility", func(t *testing.T) {
		for seed := range uint64(300) {
			eligibility(t, s, cfg, seed)
		}
	})
	t.Run("empty", func(t *testing.T) {
		p, err := s.Build(cfg, nil, nil, Seeded(1))
		if err != nil {
			t.Fatal(err)
		}
		if e, err := p.Pick(&balancer.Request{}); e != nil || !errors.Is(err, balancer.ErrNoEndpoint) {
			t.Fatalf("Pick of nothing: %v, %v", e, err)
		}
	})
	t.Run("configuration of another strategy", func(t *testing.T) {
		if _, err := s.Build(struct{ X int }{1}, Endpoints(1), nil, Seeded(1)); err == nil {
			t.Fatal("accepted")
		}
	})
	t.Run("override", func(t *testing.T) {
		eps := Endpoints(4)
		p, _ := s.Build(cfg, eps, nil, Seeded(1))
		for range 20 {
			if e, err := p.Pick(&balancer.Request{Override: eps[2]}); err != nil || e != eps[2] {
				t.Fatalf("picked %v, %v", e, err)
			}
		}
		eps[2].Mark(balancer.Ejected, true)
		if e, err := p.Pick(&balancer.Request{Override: eps[2]}); err != nil || e == eps[2] {
			t.Fatalf("picked an ejected override: %v, %v", e, err)
		}
	})
	for _, n := range []int{1, 5, 200} {
		t.Run(fmt.Sprintf("no allocation, %d endpoints", n), func(t *testing.T) {
			eps := Endpoints(n)
			if n > 2 {
				eps[1].Mark(balancer.Unhealthy, true)
			}
			p, err := s.Build(cfg, eps, nil, balancer.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			r := &balancer.Request{}
			r.AddTried(eps[0])
			if a := testing.AllocsPerRun(200, func() {
				e, err := p.Pick(r)
				if err != nil {
					t.Fatal(err)
				}
				p.Observe(e, balancer.Observation{Phase: balancer.End})
			}); a != 0 {
				t.Fatalf("%v allocations a pick", a)
			}
		})
	}
	t.Run("concurrent", func(t *testing.T) {
		eps := Endpoints(12)
		p, _ := s.Build(cfg, eps, nil, balancer.Deps{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 2000 {
					eps[i%11].Mark(balancer.Full, i%3 == 0) // the last stays eligible
					e, err := p.Pick(&balancer.Request{})
					if err != nil {
						t.Error(err)
						return
					}
					e.AddInflight(1)
					p.Observe(e, balancer.Observation{Phase: balancer.End})
					e.AddInflight(-1)
				}
			})
		}
		wg.Wait()
	})
}

// eligibility: a pick is eligible, of the first tier that has an eligible endpoint, and not tried if that tier has one
// that is neither tried nor ineligible; ErrNoEndpoint if and only if none is eligible.
func eligibility(t *testing.T, s balancer.Strategy, cfg balancer.Config, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	n := r.IntN(21)
	eps := Endpoints(n)
	for _, e := range eps {
		e.SetPriority(r.Uint32N(3))
		e.SetWeight(1 + r.Uint32N(100))
	}
	d := Seeded(seed)
	var p balancer.Picker
	for range 4 {
		var err error
		if p, err = s.Build(cfg, eps, p, d); err != nil {
			t.Fatal(err)
		}
		share := r.Float64()
		for _, e := range eps {
			e.Mark(balancer.Unhealthy, r.Float64() < share)
			e.AddInflight(r.Int64N(4))
		}
		req := &balancer.Request{}
		for range n + 1 {
			e, err := p.Pick(req)
			check(t, seed, eps, req, e, err)
			if e == nil {
				break
			}
			req.AddTried(e)
		}
	}
}

func check(t *testing.T, seed uint64, eps []*balancer.Endpoint, r *balancer.Request, got *balancer.Endpoint, err error) {
	tier, any, fresh := uint32(math.MaxUint32), false, false
	for _, e := range eps {
		if e.Eligible() {
			tier, any = min(tier, e.Priority()), true
		}
	}
	if !any {
		if got != nil || !errors.Is(err, balancer.ErrNoEndpoint) {
			t.Fatalf("seed %d: none is eligible, picked %v, %v", seed, got, err)
		}
		return
	}
	for _, e := range eps {
		fresh = fresh || e.Eligible() && e.Priority() == tier && !r.WasTried(e)
	}
	switch {
	case err != nil:
		t.Fatalf("seed %d: %v, though some are eligible", seed, err)
	case !got.Eligible():
		t.Fatalf("seed %d: picked %s, which is not eligible", seed, got.Address)
	case got.Priority() != tier:
		t.Fatalf("seed %d: picked priority %d before %d", seed, got.Priority(), tier)
	case fresh && r.WasTried(got):
		t.Fatalf("seed %d: picked %s again, though others were left", seed, got.Address)
	}
}
