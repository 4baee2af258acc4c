// Package stat holds counters, gauges and histograms that are cheap enough for the path of every request: one
// atomic addition, no allocation, no lookup. Labels are resolved once, when configuration is compiled, by asking
// a [Registry] for the series; what is handed back is kept and used directly.
//
// How series are exported (Prometheus, OTLP) is not known here: see sidecar/console.
package stat

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Counter only grows. The zero value is ready; it is safe for concurrent use.
type Counter struct{ v atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value is the sum so far.
func (c *Counter) Value() uint64 { return c.v.Load() }

// Gauge goes up and down. The zero value is ready; it is safe for concurrent use.
type Gauge struct{ v atomic.Int64 }

// Add changes the gauge by n and returns the new value.
func (g *Gauge) Add(n int64) int64 { return g.v.Add(n) }

// Set replaces the value.
func (g *Gauge) Set(n int64) { g.v.Store(n) }

// Value is the present value.
func (g *Gauge) Value() int64 { return g.v.Load() }

// Histograms count values in buckets of which each power of two has subBuckets: a bucket's width is at most a
// quarter of its lower bound. Values from 0 to 2^maxExp; larger ones count in the last bucket.
const (
	subBits    = 2
	subBuckets = 1 << subBits
	maxExp     = 40 // 2^40 ns is 18 minutes
	numBuckets = (maxExp-subBits+1)*subBuckets + 1
)

// Histogram counts non-negative integers, for example nanoseconds, in log-linear buckets. The zero value is ready;
// it is safe for concurrent use.
type Histogram struct {
	sum     atomic.Int64
	buckets [numBuckets]atomic.Uint64
}

// Observe counts v; a negative one counts as 0.
func (h *Histogram) Observe(v int64) {
	v = max(v, 0)
	h.sum.Add(v)
	h.buckets[bucketOf(uint64(v))].Add(1)
}

func bucketOf(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	e := bits.Len64(v) - 1 // v is in [2^e, 2^(e+1))
	if e >= maxExp {
		return numBuckets - 1
	}
	return (e-subBits)*subBuckets + int(v>>(e-subBits))
}

// upperBound is the largest value that counts in a bucket.
func upperBound(i int) uint64 {
	if i < 2*subBuckets {
		return uint64(i)
	}
	e := i/subBuckets - 1
	return (uint64(i%subBuckets+subBuckets)+1)<<e - 1
}

// Bucket is how many values were at most Upper and above the previous bucket's.
type Bucket struct {
	Upper uint64
	Count uint64
}

// HistogramValue is a histogram at one time.
type HistogramValue struct {
	Count uint64
	Sum   int64
	// Buckets holds those that are not empty, in order. The last bucket's Upper is the largest uint64 where values
	// were beyond the range.
	Buckets []Bucket
}

// Value reads the histogram. Values observed meanwhile may be in or not; Count is the sum of Buckets in any case.
func (h *Histogram) Value() HistogramValue {
	v := HistogramValue{Sum: h.sum.Load()}
	for i := range h.buckets {
		n := h.buckets[i].Load()
		if n == 0 {
			continue
		}
		b := Bucket{Upper: upperBound(i), Count: n}
		if i == numBuckets-1 {
			b.Upper = 1<<64 - 1
		}
		v.Buckets = append(v.Buckets, b)
		v.Count += n
	}
	return v
}

// Quantile estimates the value below which the share q (0 to 1) lies: the upper bound of its bucket, 0 where
// nothing was observed.
func (v HistogramValue) Quantile(q float64) uint64 {
	rank := uint64(q * float64(v.Count))
	var seen uint64
	for _, b := range v.Buckets {
		if seen += b.Count; seen > rank || seen == v.Count {
			return b.Upper
		}
	}
	return 0
}

// Label is one dimension of a series.
type Label struct{ Name, Value string }

// Kind is what a family's series are.
type Kind uint8

// Kinds.
const (
	KindCounter Kind = iota
	KindGauge
	KindHistogram
)

// MaxSeries bounds the series of one family. Further label values share one series whose values are all "other",
// so that names from outside cannot fill the memory.
const MaxSeries = 10_000

// Overflow is the label value of series beyond MaxSeries.
const Overflow = "other"

// Registry holds the series by name and labels. It is safe for concurrent use; looking up takes a lock and is for
// configuration time only.
type Registry struct {
	mu       sync.Mutex
	families map[string]*family
}

type family struct {
	name, help string
	kind       Kind
	scale      float64
	series     map[string]*Series
}

// Series is one member of a family, for exporting.
type Series struct {
	Labels    []Label
	Counter   *Counter
	Gauge     *Gauge
	Histogram *Histogram
}

// Family is all series of one name, for exporting.
type Family struct {
	Name, Help string
	Kind       Kind
	// Scale turns a histogram's values into the exported unit: 1e-9 for nanoseconds as seconds.
	Scale  float64
	Series []*Series
}

// NewRegistry makes an empty registry.
func NewRegistry() *Registry { return &Registry{families: map[string]*family{}} }

// Counter returns the counter of that name and labels, which it makes at the first call. It panics where the name
// already belongs to another kind: that is a mistake in the program.
func (r *Registry) Counter(name, help string, labels ...Label) *Counter {
	return r.get(name, help, KindCounter, 1, labels).Counter
}

// Gauge returns the gauge of that name and labels.
func (r *Registry) Gauge(name, help string, labels ...Label) *Gauge {
	return r.get(name, help, KindGauge, 1, labels).Gauge
}

// Histogram returns the histogram of that name and labels; scale as in Family.
func (r *Registry) Histogram(name, help string, scale float64, labels ...Label) *Histogram {
	return r.get(name, help, KindHistogram, scale, labels).Histogram
}

func (r *Registry) get(name, help string, kind Kind, scale float64, labels []Label) *Series {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.families[name]
	if f == nil {
		f = &family{name: name, help: help, kind: kind, scale: scale, series: map[string]*Series{}}
		r.families[name] = f
	}
	if f.kind != kind {
		panic("stat: " + name + " is of another kind")
	}
	k := key(labels)
	s := f.series[k]
	if s == nil && len(f.series) >= MaxSeries {
		labels = slices.Clone(labels)
		for i := range labels {
			labels[i].Value = Overflow
		}
		k = key(labels)
		s = f.series[k]
	}
	if s == nil {
		s = &Series{Labels: slices.Clone(labels)}
		switch kind {
		case KindCounter:
			s.Counter = new(Counter)
		case KindGauge:
			s.Gauge = new(Gauge)
		case KindHistogram:
			s.Histogram = new(Histogram)
		}
		f.series[k] = s
	}
	return s
}

func key(labels []Label) string {
	var b strings.Builder
	for _, l := range labels {
		b.WriteString(l.Name)
		b.WriteByte(0)
		b.WriteString(l.Value)
		b.WriteByte(0)
	}
	return b.String()
}

// Families returns everything, sorted by name and labels. The series are the living ones.
func (r *Registry) Families() []Family {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Family, 0, len(r.families))
	for _, name := range slices.Sorted(maps.Keys(r.families)) {
		f := r.families[name]
		e := Family{Name: f.name, Help: f.help, Kind: f.kind, Scale: f.scale}
		for _, s := range f.series {
			e.Series = append(e.Series, s)
		}
		slices.SortFunc(e.Series, func(a, b *Series) int {
			return slices.CompareFunc(a.Labels, b.Labels, func(x, y Label) int {
				return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value))
			})
		})
		out = append(out, e)
	}
	return out
}
