package fault

import (
	"fmt"
	"math"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

// FilterName names the filter in HTTP filter chains and in typed_per_filter_config.
const FilterName = "envoy.filters.http.fault"

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List {
	l := schema.Check(path, s)
	if s.Delay == nil && s.Abort == nil {
		l.Add(path, "says nothing", "delay or abort")
	}
	return l
}

// Merge returns what holds where base is written for the wider scope and over for the narrower one: delay and abort
// each from the narrower one that has it. Either may be nil.
func Merge(base, over *Spec) *Spec {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	m := *base
	if over.Delay != nil {
		m.Delay = over.Delay
	}
	if over.Abort != nil {
		m.Abort = over.Abort
	}
	return &m
}

// Filter is the entry in an HTTP filter chain, which does nothing by itself.
func Filter() (*hcmv3.HttpFilter, error) {
	a, err := xdsfield.Any(&faultv3.HTTPFault{})
	if err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	return &hcmv3.HttpFilter{Name: FilterName, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}, IsOptional: true}, nil
}

// Encode writes the filter's entry of the route's typed_per_filter_config; nothing for a nil s.
func Encode(s *Spec, r *routev3.Route) error {
	if s == nil {
		return nil
	}
	f := &faultv3.HTTPFault{}
	if d := s.Delay; d != nil {
		f.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(d.Duration)},
			Percentage:         share(d.Percent),
		}
	}
	if a := s.Abort; a != nil {
		f.Abort = &faultv3.FaultAbort{
			ErrorType:  &faultv3.FaultAbort_HttpStatus{HttpStatus: uint32(a.Status)},
			Percentage: share(a.Percent),
		}
	}
	a, err := xdsfield.PerFilter(f)
	if err != nil {
		return fmt.Errorf("fault: %w", err)
	}
	if r.TypedPerFilterConfig == nil {
		r.TypedPerFilterConfig = map[string]*anypb.Any{}
	}
	r.TypedPerFilterConfig[FilterName] = a
	return nil
}

// share is a percentage, in parts of a million where it has a fraction.
func share(percent *float64) *typev3.FractionalPercent {
	p := DefaultPercent
	if percent != nil {
		p = *percent
	}
	if p == math.Trunc(p) {
		return &typev3.FractionalPercent{Numerator: uint32(p)}
	}
	return &typev3.FractionalPercent{Numerator: uint32(math.Round(p * 10_000)), Denominator: typev3.FractionalPercent_MILLION}
}
