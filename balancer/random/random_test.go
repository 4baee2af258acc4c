package random

import (
	"testing"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/balancertest"
)

func TestContract(t *testing.T) { balancertest.Run(t, Strategy{}, nil) }

func TestUniform(t *testing.T) {
	for _, down := range []int{0, 3, 9} { // 9 of 10: the guesses fail and the reservoir decides
		eps := balancertest.Endpoints(12)
		counts, weights := map[*balancer.Endpoint]int{}, map[*balancer.Endpoint]float64{}
		for i, e := range eps {
			e.SetWeight(uint32(1 + i))
			if i < down {
				e.Mark(balancer.Unhealthy, true)
			} else {
				weights[e] = 1
			}
		}
		p, _ := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(uint64(down)))
		for range 30_000 {
			e, err := p.Pick(&balancer.Request{})
			if err != nil {
				t.Fatal(err)
			}
			counts[e]++
		}
		balancertest.Shares(t, counts, weights)
	}
}

func TestSeeded(t *testing.T) {
	eps := balancertest.Endpoints(7)
	a, _ := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(42))
	b, _ := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(42))
	for i := range 100 {
		x, _ := a.Pick(&balancer.Request{})
		y, _ := b.Pick(&balancer.Request{})
		if x != y {
			t.Fatalf("pick %d differs under one seed", i)
		}
	}
}
