package consistenthash_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/balancertest"
	"github.com/outrigger-mesh/outrigger/balancer/consistenthash"
)

func TestSuite(t *testing.T) {
	balancertest.Run(t, consistenthash.Strategy{}, nil)
	balancertest.Run(t, consistenthash.Strategy{}, consistenthash.Config{MinSize: 16})
}

const keys = 10_000

// owners says which address each of many keys belongs to.
func owners(t *testing.T, eps []*balancer.Endpoint) []string {
	t.Helper()
	// As many points each, however many endpoints there are: with Envoy's own sizing, which shares a fixed number out, the
	// others' points change too.
	p, err := consistenthash.Strategy{}.Build(consistenthash.Config{MinSize: 256 * uint64(len(eps))}, eps, nil, balancertest.Seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, keys)
	for i := range out {
		e, err := p.Pick(&balancer.Request{Hash: consistenthash.Hash(fmt.Sprint("key-", i)), HasHash: true})
		if err != nil {
			t.Fatal(err)
		}
		out[i] = e.Address
	}
	return out
}

// The hash is XXH64 with seed 0, of which these are published vectors.
func TestHash(t *testing.T) {
	for key, want := range map[string]uint64{"": 0xef46db3751d8e999, "a": 0xd24ec4f1a98c6e5b, "abc": 0x44bc2cf5ad770999} {
		if got := consistenthash.Hash(key); got != want {
			t.Errorf("Hash(%q) = %#x, want %#x", key, got, want)
		}
	}
}

func TestOrderOfDiscoveryDoesNotMatter(t *testing.T) {
	eps := balancertest.Endpoints(7)
	for i, e := range eps {
		e.SetWeight(uint32(i%3 + 1))
	}
	want := owners(t, eps)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		other := slices.Clone(eps)
		r.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
		if !slices.Equal(want, owners(t, other)) {
			t.Fatal("another order has other owners")
		}
	}
}

// An endpoint that joins takes keys for itself alone, and about its share; one that is not eligible for a while gets
// back just what it had.
func TestDisruption(t *testing.T) {
	eps := balancertest.Endpoints(5)
	four, five := owners(t, eps[:4]), owners(t, eps)
	moved := 0
	for i := range four {
		if four[i] == five[i] {
			continue
		}
		moved++
		if five[i] != eps[4].Address {
			t.Fatalf("key %d went from %s to %s, which was there before", i, four[i], five[i])
		}
	}
	if moved == 0 || moved > keys*26/100 {
		t.Errorf("%d of %d keys moved to the fifth endpoint", moved, keys)
	}
	eps[2].Mark(balancer.Ejected, true)
	out := owners(t, eps)
	for i := range out {
		if out[i] != five[i] && five[i] != eps[2].Address {
			t.Fatalf("key %d left %s, which is still there", i, five[i])
		}
	}
	eps[2].Mark(balancer.Ejected, false)
	if !slices.Equal(five, owners(t, eps)) {
		t.Error("the returned endpoint did not get its keys back")
	}
}

// A retry goes to the next owner on the ring.
func TestRetryGoesOn(t *testing.T) {
	eps := balancertest.Endpoints(3)
	p, err := consistenthash.Strategy{}.Build(nil, eps, nil, balancertest.Seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	r := &balancer.Request{Hash: 42, HasHash: true}
	seen := map[*balancer.Endpoint]bool{}
	for range 3 {
		e, err := p.Pick(r)
		if err != nil || seen[e] {
			t.Fatal(e, err)
		}
		seen[e] = true
		r.AddTried(e)
	}
}

func TestRefusesSizes(t *testing.T) {
	for _, c := range []consistenthash.Config{{MinSize: 2048, MaxSize: 1024}, {MaxSize: 1 << 24}} {
		if _, err := (consistenthash.Strategy{}).Build(c, balancertest.Endpoints(1), nil, balancer.Deps{}); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	p, err := consistenthash.Strategy{}.Build(nil, balancertest.Endpoints(1000), nil, balancertest.Seeded(1))
	if err != nil {
		b.Fatal(err)
	}
	r := &balancer.Request{HasHash: true}
	for b.Loop() {
		r.Hash += 0x9e3779b97f4a7c15
		if _, err := p.Pick(r); err != nil {
			b.Fatal(err)
		}
	}
}
