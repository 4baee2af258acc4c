package outlier

import (
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List {
	l := schema.Check(path, s)
	base, longest := durations(s)
	if base > longest {
		l.Add(path+".baseEjection", fmt.Sprintf("%s is longer than maxEjection %s", schema.FormatDuration(base), schema.FormatDuration(longest)),
			"at most maxEjection")
	}
	return l
}

// durations are the first and the longest ejection; where only one is written the other gives way.
func durations(s *Spec) (base, longest time.Duration) {
	base, longest = DefaultBaseEjection, DefaultMaxEjection
	switch {
	case s.BaseEjection > 0 && s.MaxEjection > 0:
		return s.BaseEjection, s.MaxEjection
	case s.BaseEjection > 0:
		return s.BaseEjection, max(longest, s.BaseEjection)
	case s.MaxEjection > 0:
		return min(base, s.MaxEjection), s.MaxEjection
	}
	return base, longest
}

// Merge returns what holds where base is written for the wider scope and over for the narrower one, field by field.
// Either may be nil.
func Merge(base, over *Spec) *Spec {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	m := *base
	if over.Consecutive != 0 {
		m.Consecutive = over.Consecutive
	}
	if over.BaseEjection != 0 {
		m.BaseEjection = over.BaseEjection
	}
	if over.MaxEjection != 0 {
		m.MaxEjection = over.MaxEjection
	}
	if over.MaxPercent != nil {
		m.MaxPercent = over.MaxPercent
	}
	return &m
}

// Encode writes c.outlier_detection; a nil s is the default, maxPercent 0 writes none. Envoy lengthens ejections by the
// base each time, our sidecar doubles them. Its success-rate detection, on by default, is switched off.
func Encode(s *Spec, c *clusterv3.Cluster) {
	if s == nil {
		s = &Spec{}
	}
	consecutive, percent := DefaultConsecutive, DefaultMaxPercent
	if s.Consecutive != 0 {
		consecutive = s.Consecutive
	}
	if s.MaxPercent != nil {
		percent = *s.MaxPercent
	}
	if percent == 0 {
		c.OutlierDetection = nil
		return
	}
	base, longest := durations(s)
	c.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx:          wrapperspb.UInt32(uint32(consecutive)),
		EnforcingConsecutive_5Xx: wrapperspb.UInt32(100),
		EnforcingSuccessRate:     wrapperspb.UInt32(0),
		// How often ejections are looked through for those that are over.
		Interval:           durationpb.New(time.Second),
		BaseEjectionTime:   durationpb.New(base),
		MaxEjectionTime:    durationpb.New(longest),
		MaxEjectionPercent: wrapperspb.UInt32(uint32(percent)),
		AlwaysEjectOneHost: wrapperspb.Bool(true),
	}
}
