package ratelimit

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

// FilterName names the filter in HTTP filter chains and in typed_per_filter_config.
const FilterName = "envoy.filters.http.local_ratelimit"

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List { return schema.Check(path, s) }

// Merge returns what holds where base is written for the wider scope and over for the narrower one: a limit is one
// thing, so the narrower one. Either may be nil.
func Merge(base, over *Spec) *Spec {
	if over != nil {
		return over
	}
	return base
}

// Filter is the entry in an HTTP filter chain, which limits nothing by itself.
func Filter() (*hcmv3.HttpFilter, error) {
	a, err := xdsfield.Any(&localratelimitv3.LocalRateLimit{StatPrefix: "rate_limit"})
	if err != nil {
		return nil, fmt.Errorf("rateLimit: %w", err)
	}
	return &hcmv3.HttpFilter{Name: FilterName, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}, IsOptional: true}, nil
}

// Encode writes the filter's entry of the route's typed_per_filter_config; nothing for a nil s. instances is how many
// instances of the service are up, by which a limit of scope service is divided; less than 1 counts as 1.
func Encode(s *Spec, instances int, r *routev3.Route) error {
	if s == nil {
		return nil
	}
	a, err := xdsfield.PerFilter(config(s, instances))
	if err != nil {
		return fmt.Errorf("rateLimit: %w", err)
	}
	if r.TypedPerFilterConfig == nil {
		r.TypedPerFilterConfig = map[string]*anypb.Any{}
	}
	r.TypedPerFilterConfig[FilterName] = a
	return nil
}

func config(s *Spec, instances int) *localratelimitv3.LocalRateLimit {
	tokens, burst, window := s.Max, s.Burst, s.Window
	if burst == 0 {
		burst = tokens
	}
	if s.Scope == ScopeService && instances > 1 {
		tokens, burst, window = divide(tokens, burst, window, instances)
	}
	always := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	return &localratelimitv3.LocalRateLimit{
		StatPrefix: "rate_limit",
		TokenBucket: &typev3.TokenBucket{
			MaxTokens: uint32(burst), TokensPerFill: wrapperspb.UInt32(uint32(tokens)), FillInterval: durationpb.New(window),
		},
		FilterEnabled: always, FilterEnforced: always,
		EnableRetryAfterHeader: true,
	}
}

// divide is one instance's part, such that all parts together never exceed the whole: where there are fewer calls than
// instances, one call in a longer window.
func divide(tokens, burst int, window time.Duration, n int) (int, int, time.Duration) {
	burst = max(1, burst/n)
	if tokens >= n {
		return tokens / n, burst, window
	}
	return 1, burst, time.Duration(float64(window) * float64(n) / float64(tokens))
}
