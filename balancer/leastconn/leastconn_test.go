package leastconn

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/balancertest"
)

func TestContract(t *testing.T) {
	balancertest.Run(t, Strategy{}, nil)
	balancertest.Run(t, Strategy{}, Config{Choices: 4})
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Choices: 1}, {Choices: -1}, {Choices: MaxChoices + 1}} {
		if _, err := (Strategy{}).Build(c, nil, nil, balancer.Deps{}); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
	if _, err := (Strategy{}).Build(&Config{Choices: 3}, nil, nil, balancer.Deps{}); err != nil {
		t.Error(err)
	}
}

// In a small tier nobody has fewer in flight for its weight than the one picked.
func TestExactInSmallTiers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eps := balancertest.Endpoints(rapid.IntRange(1, ExactLimit).Draw(t, "endpoints"))
		for _, e := range eps {
			e.SetWeight(rapid.Uint32Range(1, 9).Draw(t, "weight"))
			e.AddInflight(rapid.Int64Range(0, 20).Draw(t, "in flight"))
		}
		p, _ := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(rapid.Uint64().Draw(t, "seed")))
		got, err := p.Pick(&balancer.Request{})
		if err != nil {
			t.Fatal(err)
		}
		load := func(e *balancer.Endpoint) float64 { return float64(e.Inflight()) / float64(e.Weight()) }
		for _, e := range eps {
			if load(e) < load(got)-1e-12 {
				t.Fatalf("picked load %v, though one has %v", load(got), load(e))
			}
		}
	})
}

// An idle cluster shares by weight, whether it is small or large.
func TestIdleSharesByWeight(t *testing.T) {
	for _, n := range []int{4, 30} {
		eps := balancertest.Endpoints(n)
		counts, weights := map[*balancer.Endpoint]int{}, map[*balancer.Endpoint]float64{}
		for i, e := range eps {
			e.SetWeight(uint32(1 + i%3))
			weights[e] = float64(e.Weight())
		}
		p, _ := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(uint64(n)))
		for range 40_000 {
			e, _ := p.Pick(&balancer.Request{})
			counts[e]++
		}
		balancertest.Shares(t, counts, weights)
	}
}

// With calls that never end, a large tier stays level: two choices keep the worst within a few of the mean.
func TestTwoChoicesLevel(t *testing.T) {
	eps := balancertest.Endpoints(100)
	p, _ := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(7))
	for range 10_000 {
		e, _ := p.Pick(&balancer.Request{})
		e.AddInflight(1)
	}
	worst := int64(0)
	for _, e := range eps {
		worst = max(worst, e.Inflight())
	}
	if worst > 100+5 { // one choice alone would give about 130
		t.Fatalf("worst has %d in flight, mean is 100", worst)
	}
}

func TestAliasDrawsByWeight(t *testing.T) {
	eps := balancertest.Endpoints(17)
	weights := map[*balancer.Endpoint]float64{}
	for i, e := range eps {
		e.SetWeight(uint32(math.Pow(3, float64(i%6))))
		weights[e] = float64(e.Weight())
	}
	a, d, counts := newAlias(eps), balancertest.Seeded(3), map[*balancer.Endpoint]int{}
	for range 100_000 {
		counts[eps[a.pick(d.Rand())]]++
	}
	balancertest.Shares(t, counts, weights)
}
