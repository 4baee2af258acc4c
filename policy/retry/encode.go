package retry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

// MetadataKey is where a route's typed metadata holds the whole policy, an outrigger.v1.RetryPolicy.
const MetadataKey = xdsname.MetadataKey + "/retry"

// idempotent are the methods of RFC 9110 §9.2.2 that may be tried again.
const idempotent = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List {
	l := schema.Check(path, s)
	seen := map[string]bool{}
	for i, on := range s.On {
		if seen[on] {
			l.Add(violation.Index(path+".on", i), on+" is written twice", "keep one")
		}
		seen[on] = true
	}
	for i, g := range s.GRPCStatuses {
		n, ok := grpcCode(g)
		at := violation.Index(path+".grpcStatuses", i)
		switch {
		case !ok:
			l.Add(at, fmt.Sprintf("%q is no gRPC status", g), schema.DidYouMean(g, grpcCodes[:]))
		case n == 0:
			l.Add(at, "OK is no failure", "a status other than OK")
		}
	}
	if b := s.Backoff; b != nil && (b.Base != nil || b.Max != nil) {
		base, longest := steps(b)
		if base > longest {
			l.Add(path+".backoff", fmt.Sprintf("base %s is longer than max %s", schema.FormatDuration(base), schema.FormatDuration(longest)), "base at most max")
		}
	}
	return l
}

// steps is the first and the longest step.
func steps(b *Backoff) (base, longest time.Duration) {
	base, longest = DefaultBase, DefaultMax
	if b == nil {
		return base, longest
	}
	if b.Base != nil {
		base = *b.Base
		if b.Max == nil {
			longest = max(longest, base)
		}
	}
	if b.Max != nil {
		longest = *b.Max
		if b.Base == nil {
			base = min(base, longest)
		}
	}
	return base, longest
}

// Merge returns what holds where base is written for the wider scope and over for the narrower one, field by field.
// Either may be nil. The budget is base's unless over has one, as a version's policy may.
func Merge(base, over *Spec) *Spec {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	m := *base
	if over.Attempts != 0 {
		m.Attempts = over.Attempts
	}
	if over.On != nil {
		m.On = over.On
	}
	if over.Budget != nil {
		m.Budget = over.Budget
	}
	if over.Backoff != nil {
		m.Backoff = over.Backoff
	}
	if over.PerTry != nil {
		m.PerTry = over.PerTry
	}
	if over.AnyMethod != nil {
		m.AnyMethod = over.AnyMethod
	}
	if over.Statuses != nil {
		m.Statuses = over.Statuses
	}
	if over.GRPCStatuses != nil {
		m.GRPCStatuses = over.GRPCStatuses
	}
	if over.MaxBody != nil {
		m.MaxBody = over.MaxBody
	}
	return &m
}

// Encode writes the route's retry_policy, the nearest that Envoy has, and the whole policy as metadata. A nil s is the
// default; perTry is the timeout policy's, 0 for none, which holds over the spec's own. A route that does not forward
// stays as it is.
func Encode(s *Spec, perTry time.Duration, r *routev3.Route) error {
	a := r.GetRoute()
	if a == nil {
		return nil
	}
	ours, err := message(s, perTry)
	if err != nil {
		return err
	}
	if err := xdsfield.SetRouteMetadata(r, MetadataKey, ours); err != nil {
		return fmt.Errorf("retry: %w", err)
	}
	a.RetryPolicy, err = envoy(ours)
	return err
}

// message is the policy with its defaults filled in.
func message(s *Spec, perTry time.Duration) (*outriggerv1.RetryPolicy, error) {
	if s == nil {
		s = &Spec{}
	}
	base, longest := steps(s.Backoff)
	m := &outriggerv1.RetryPolicy{
		Attempts: DefaultAttempts, On: s.On, MaxBodyBytes: DefaultMaxBody,
		AnyMethod: s.AnyMethod != nil && *s.AnyMethod,
		Backoff:   outriggerv1.RetryPolicy_BACKOFF_EXPONENTIAL,
		Base:      durationpb.New(base), Max: durationpb.New(longest),
	}
	if s.Attempts != 0 {
		m.Attempts = uint32(s.Attempts)
	}
	if m.On == nil {
		m.On = DefaultOn()
	}
	if s.MaxBody != nil {
		m.MaxBodyBytes = uint64(*s.MaxBody)
	}
	if perTry == 0 && s.PerTry != nil {
		perTry = *s.PerTry
	}
	if perTry > 0 {
		m.PerTry = durationpb.New(perTry)
	}
	if s.Backoff != nil {
		switch s.Backoff.Kind {
		case "linear":
			m.Backoff = outriggerv1.RetryPolicy_BACKOFF_LINEAR
		case "fibonacci":
			m.Backoff = outriggerv1.RetryPolicy_BACKOFF_FIBONACCI
		}
	}
	if len(m.On)+len(s.Statuses)+len(s.GRPCStatuses) == 0 {
		m.Attempts = 1 // [] was written: nothing is a reason for another try
	}
	for _, st := range s.Statuses {
		m.Statuses = append(m.Statuses, uint32(st))
	}
	for _, g := range s.GRPCStatuses {
		n, ok := grpcCode(g)
		if !ok {
			return nil, fmt.Errorf("retry: unknown gRPC status %q", g)
		}
		m.GrpcStatuses = append(m.GrpcStatuses, n)
	}
	return m, nil
}

// envoy is the nearest that Envoy has; nil where nothing is tried again and no try is bounded. Envoy cannot tell whether
// a call was executed, so that what is not idempotent is left alone unless any method may be tried again. A sidecar's own
// 503 is known by its header.
func envoy(m *outriggerv1.RetryPolicy) (*routev3.RetryPolicy, error) {
	if m.Attempts == 1 && m.PerTry == nil {
		return nil, nil
	}
	p := &routev3.RetryPolicy{
		NumRetries:    wrapperspb.UInt32(m.Attempts - 1),
		PerTryTimeout: m.PerTry,
	}
	if m.Attempts == 1 {
		return p, nil
	}
	var on []string
	add := func(c string) {
		if !slices.Contains(on, c) {
			on = append(on, c)
		}
	}
	for _, c := range m.On {
		switch c {
		case "per-try-timeout":
			add("reset") // how Envoy sees it
		case "unavailable":
			add("unavailable")
			add("retriable-headers")
			p.RetriableHeaders = []*routev3.HeaderMatcher{{
				Name:                 ReasonHeader,
				HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
			}}
		default:
			add(c)
		}
	}
	if len(m.Statuses) > 0 {
		add("retriable-status-codes")
		p.RetriableStatusCodes = m.Statuses
	}
	for _, g := range m.GrpcStatuses {
		// These five are all that Envoy can name.
		switch name := strings.ReplaceAll(strings.ToLower(grpcCodes[g]), "_", "-"); name {
		case "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable":
			add(name)
		}
	}
	p.RetryOn = strings.Join(on, ",")
	p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: m.Base, MaxInterval: m.Max}
	if !m.AnyMethod {
		p.RetriableRequestHeaders = []*routev3.HeaderMatcher{{
			Name: ":method",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: idempotent}},
			}},
		}}
	}
	previous, err := xdsfield.Any(&previoushostsv3.PreviousHostsPredicate{})
	if err != nil {
		return nil, fmt.Errorf("retry: %w", err)
	}
	p.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
		Name:       "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: previous},
	}}
	p.HostSelectionRetryMaxAttempts = 5
	return p, nil
}

// ReasonHeader marks what a sidecar answers itself (sidecar/exchange says the same).
const ReasonHeader = "x-outrigger-reason"

// EncodeCluster writes the retry budget of the cluster's thresholds. A nil s is the default. Envoy counts the retries in
// flight: budget_percent is of the requests in flight, and min_retry_concurrency what is always allowed. Our sidecar reads
// the same two as a share of the requests of the last 10 s and a number a second.
func EncodeCluster(s *Spec, c *clusterv3.Cluster) {
	percent, perSecond := DefaultPercent, DefaultPerSecond
	if s != nil && s.Budget != nil {
		if s.Budget.Percent != nil {
			percent = *s.Budget.Percent
		}
		if s.Budget.PerSecond != nil {
			perSecond = *s.Budget.PerSecond
		}
	}
	xdsfield.Threshold(c).RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
		BudgetPercent:       &typev3.Percent{Value: percent},
		MinRetryConcurrency: wrapperspb.UInt32(uint32(perSecond)),
	}
}

var grpcCodes = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
	"ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// grpcCode reads a gRPC status by name, in any case and with - or _, or by number.
func grpcCode(s string) (uint32, bool) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && int(n) < len(grpcCodes) {
		return uint32(n), true
	}
	i := slices.Index(grpcCodes[:], strings.ToUpper(strings.ReplaceAll(s, "-", "_")))
	return uint32(max(i, 0)), i >= 0
}
