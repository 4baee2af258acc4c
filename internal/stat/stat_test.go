package stat

import (
	"fmt"
	"math"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestBucketsAreContiguousAndNarrow(t *testing.T) {
	for i := range numBuckets - 1 {
		u := upperBound(i)
		if got := bucketOf(u); got != i {
			t.Fatalf("upper bound %d of bucket %d counts in %d", u, i, got)
		}
		if got := bucketOf(u + 1); got != i+1 {
			t.Fatalf("%d, the first value after bucket %d, counts in %d", u+1, i, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64Range(8, 1<<maxExp-1).Draw(t, "v")
		u := upperBound(bucketOf(v))
		if u < v || float64(u-v) > 0.25*float64(v) {
			t.Fatalf("%d is counted as at most %d", v, u)
		}
	})
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, v := range []int64{-5, 0, 1, 1000, 1_000_000, math.MaxInt64 / 2} {
		h.Observe(v)
	}
	v := h.Value()
	if v.Count != 6 || v.Sum != 1_001_001+math.MaxInt64/2 {
		t.Fatalf("count %d, sum %d", v.Count, v.Sum)
	}
	if last := v.Buckets[len(v.Buckets)-1]; last.Upper != math.MaxUint64 || last.Count != 1 {
		t.Fatalf("last bucket %+v", last)
	}
	if q := v.Quantile(0.5); q < 1000 || q > 1250 {
		t.Fatalf("median %d", q)
	}
	if (HistogramValue{}).Quantile(0.9) != 0 {
		t.Fatal("quantile of nothing")
	}
}

func TestNoAllocation(t *testing.T) {
	r := NewRegistry()
	c, g, h := r.Counter("c", ""), r.Gauge("g", ""), r.Histogram("h", "", 1)
	if a := testing.AllocsPerRun(100, func() { c.Inc(); g.Add(1); h.Observe(12345) }); a != 0 {
		t.Fatalf("%v allocations", a)
	}
}

func TestRegistry(t *testing.T) {
	r := NewRegistry()
	a := r.Counter("requests", "help", Label{"code", "200"})
	if r.Counter("requests", "help", Label{"code", "200"}) != a {
		t.Fatal("the same labels gave another counter")
	}
	if r.Counter("requests", "help", Label{"code", "500"}) == a {
		t.Fatal("other labels gave the same counter")
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range MaxSeries {
				r.Counter("many", "", Label{"n", fmt.Sprint(i, n)}).Inc()
			}
		})
	}
	wg.Wait()
	fs := r.Families()
	if len(fs) != 2 || fs[0].Name != "many" || fs[1].Name != "requests" || len(fs[1].Series) != 2 {
		t.Fatalf("families %v", fs)
	}
	if n := len(fs[0].Series); n != MaxSeries+1 {
		t.Fatalf("%d series", n)
	}
	if v := r.Counter("many", "", Label{"n", "one more"}).Value(); v != 3*MaxSeries {
		t.Fatalf("overflow holds %d", v)
	}
	defer func() {
		if recover() == nil {
			t.Fatal("a counter was handed out as a gauge")
		}
	}()
	r.Gauge("requests", "")
}
