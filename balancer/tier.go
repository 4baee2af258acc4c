package balancer

import "slices"

// Tiers groups endpoints by priority, the first tier first; within a tier the order of eps stays. Strategies
// build on it: a tier takes exchanges only while no endpoint of a tier before it is eligible.
func Tiers(eps []*Endpoint) [][]*Endpoint {
	sorted := slices.Clone(eps)
	slices.SortStableFunc(sorted, func(a, b *Endpoint) int { return int(a.Priority()) - int(b.Priority()) })
	var tiers [][]*Endpoint
	for from := 0; from < len(sorted); {
		to := from + 1
		for to < len(sorted) && sorted[to].Priority() == sorted[from].Priority() {
			to++
		}
		tiers = append(tiers, sorted[from:to:to])
		from = to
	}
	return tiers
}

// Defaults fills in what d leaves out.
func (d Deps) Defaults() Deps {
	if d.Rand == nil {
		d.Rand = DefaultRand
	}
	if d.Now == nil {
		d.Now = func() int64 { return 0 }
	}
	return d
}

// Below maps 64 random bits to 0 … n-1 with a bias below n/2^32 (Lemire's multiplication). n is at least 1.
func Below(bits uint64, n int) int { return int((bits >> 32) * uint64(n) >> 32) }
