package main

import "math/bits"

// Each power of two of nanoseconds has 256 buckets: a quantile is right within 0.4 %.
const fine = 8

type histogram struct {
	buckets [(64 - fine + 1) << fine]uint32
	n       int
	max     int64
}

func (h *histogram) add(ns int64) {
	ns = max(ns, 0)
	h.n++
	h.max = max(h.max, ns)
	h.buckets[bucket(uint64(ns))]++
}

func bucket(v uint64) int {
	exp := bits.Len64(v >> fine) // 0: exact
	if exp == 0 {
		return int(v)
	}
	return exp<<fine | int(v>>(exp-1))&(1<<fine-1)
}

// lower is the least value of a bucket.
func lower(b int) uint64 {
	exp, low := b>>fine, uint64(b&(1<<fine-1))
	if exp == 0 {
		return low
	}
	return (1<<fine | low) << (exp - 1)
}

// quantile is in nanoseconds; 0 where nothing was added.
func (h *histogram) quantile(q float64) float64 {
	want, seen := int(q*float64(h.n)), 0
	for b, n := range h.buckets {
		if seen += int(n); n > 0 && seen > want {
			return float64(lower(b)+lower(b+1)) / 2
		}
	}
	return float64(h.max)
}
