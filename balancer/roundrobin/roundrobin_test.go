package roundrobin

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/balancertest"
)

func TestContract(t *testing.T) { balancertest.Run(t, Strategy{}, nil) }

// Between two changes of who is eligible, any k picks in a row with k eligible endpoints are k different ones.
func TestExactCycle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eps := balancertest.Endpoints(rapid.IntRange(1, 30).Draw(t, "endpoints"))
		p, err := Strategy{}.Build(nil, eps, nil, balancertest.Seeded(rapid.Uint64().Draw(t, "seed")))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			k := 0
			for _, e := range eps {
				e.Mark(balancer.Draining, rapid.Bool().Draw(t, "draining"))
				if e.Eligible() {
					k++
				}
			}
			if k == 0 {
				continue
			}
			for range 3 {
				seen := map[*balancer.Endpoint]bool{}
				for range k {
					e, err := p.Pick(&balancer.Request{})
					if err != nil {
						t.Fatal(err)
					}
					if seen[e] {
						t.Fatalf("%s twice in a cycle of %d", e.Address, k)
					}
					seen[e] = true
				}
			}
		}
	})
}

// A rebuild goes on where the old picker stopped, also where endpoints came and went.
func TestStateOverRebuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eps := balancertest.Endpoints(rapid.IntRange(2, 12).Draw(t, "endpoints"))
		d := balancertest.Seeded(1)
		p, _ := Strategy{}.Build(nil, eps, nil, d)
		var last *balancer.Endpoint
		for range rapid.IntRange(1, 20).Draw(t, "picks") {
			last, _ = p.Pick(&balancer.Request{})
		}
		at := 0
		for i, e := range eps {
			if e == last {
				at = i
			}
		}
		drop := rapid.IntRange(0, len(eps)-1).Draw(t, "dropped")
		var kept []*balancer.Endpoint
		for i, e := range eps {
			if i != drop {
				kept = append(kept, e)
			}
		}
		want := eps[(at+1)%len(eps)]
		if want == eps[drop] {
			want = eps[(at+2)%len(eps)]
		}
		p, err := Strategy{}.Build(nil, kept, p, d)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := p.Pick(&balancer.Request{}); got != want {
			t.Fatalf("picked %s after %s without %s, want %s", got.Address, last.Address, eps[drop].Address, want.Address)
		}
	})
}

func BenchmarkPick(b *testing.B) {
	p, _ := Strategy{}.Build(nil, balancertest.Endpoints(10), nil, balancer.Deps{})
	r := &balancer.Request{}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.Pick(r)
	}
}
