package retry

import (
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

func ptr[T any](v T) *T { return &v }

const previousHosts = `retry_host_predicate { name: "envoy.retry_host_predicates.previous_hosts" typed_config {
	[type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate] {} } }
host_selection_retry_max_attempts: 5 `

const (
	onlyIdempotent = `retriable_request_headers { name: ":method" string_match { safe_regex { regex: "GET|HEAD|OPTIONS|TRACE|PUT|DELETE" } } } `
	reason         = `retriable_headers { name: "x-outrigger-reason" present_match: true } `
)

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name   string
		spec   *Spec
		perTry time.Duration
		envoy  string
		ours   string
	}{
		{
			name: "default",
			envoy: `retry_on: "connect-failure,refused-stream,reset,unavailable,retriable-headers" num_retries { value: 2 }
				retry_back_off { base_interval { nanos: 25000000 } max_interval { nanos: 250000000 } } ` + reason + onlyIdempotent + previousHosts,
			ours: `attempts: 3 on: ["connect-failure", "refused-stream", "reset", "unavailable"] backoff: BACKOFF_EXPONENTIAL
				base { nanos: 25000000 } max { nanos: 250000000 } max_body_bytes: 65536`,
		},
		{
			name: "off",
			spec: &Spec{Attempts: 1},
			ours: `attempts: 1 on: ["connect-failure", "refused-stream", "reset", "unavailable"] backoff: BACKOFF_EXPONENTIAL
				base { nanos: 25000000 } max { nanos: 250000000 } max_body_bytes: 65536`,
		},
		{
			name: "no reason",
			spec: &Spec{On: []string{}},
			ours: `attempts: 1 backoff: BACKOFF_EXPONENTIAL base { nanos: 25000000 } max { nanos: 250000000 } max_body_bytes: 65536`,
		},
		{
			name:   "off, each try bounded",
			spec:   &Spec{Attempts: 1, On: []string{"reset"}},
			perTry: time.Second,
			envoy:  `num_retries {} per_try_timeout { seconds: 1 }`,
			ours: `attempts: 1 on: ["reset"] backoff: BACKOFF_EXPONENTIAL per_try { seconds: 1 }
				base { nanos: 25000000 } max { nanos: 250000000 } max_body_bytes: 65536`,
		},
		{
			name: "all",
			spec: &Spec{
				Attempts: 5, On: []string{"5xx", "per-try-timeout"}, AnyMethod: ptr(true), Statuses: []int{429},
				GRPCStatuses: []string{"resource-exhausted", "10"}, MaxBody: ptr(0), PerTry: ptr(2 * time.Second),
				Backoff: &Backoff{Kind: "fibonacci", Base: ptr(time.Second)},
			},
			perTry: 500 * time.Millisecond,
			envoy: `retry_on: "5xx,reset,retriable-status-codes,resource-exhausted" num_retries { value: 4 } retriable_status_codes: 429
				per_try_timeout { nanos: 500000000 } retry_back_off { base_interval { seconds: 1 } max_interval { seconds: 1 } } ` + previousHosts,
			ours: `attempts: 5 on: ["5xx", "per-try-timeout"] any_method: true backoff: BACKOFF_FIBONACCI base { seconds: 1 } max { seconds: 1 }
				per_try { nanos: 500000000 } statuses: 429 grpc_statuses: [8, 10]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{}}}
			if err := Encode(c.spec, c.perTry, r); err != nil {
				t.Fatal(err)
			}
			if c.envoy == "" {
				if p := r.GetRoute().RetryPolicy; p != nil {
					t.Errorf("retry_policy is %v", p)
				}
			} else {
				same(t, r.GetRoute().RetryPolicy, c.envoy, &routev3.RetryPolicy{})
			}
			ours := &outriggerv1.RetryPolicy{}
			if err := xdsfield.RouteMetadata(r, MetadataKey, ours); err != nil {
				t.Fatal(err)
			}
			same(t, ours, c.ours, &outriggerv1.RetryPolicy{})
		})
	}
	direct := &routev3.Route{Action: &routev3.Route_DirectResponse{}}
	if err := Encode(nil, 0, direct); err != nil || direct.Metadata != nil {
		t.Errorf("a direct answer is retried: %v, %v", direct, err)
	}
}

func TestEncodeCluster(t *testing.T) {
	c := &clusterv3.Cluster{}
	EncodeCluster(nil, c)
	same(t, c.CircuitBreakers, `thresholds { retry_budget { budget_percent { value: 20 } min_retry_concurrency { value: 10 } } }`, &clusterv3.CircuitBreakers{})
	EncodeCluster(&Spec{Budget: &Budget{Percent: ptr(0.0), PerSecond: ptr(0)}}, c)
	same(t, c.CircuitBreakers, `thresholds { retry_budget { budget_percent {} min_retry_concurrency {} } }`, &clusterv3.CircuitBreakers{})
}

func TestMerge(t *testing.T) {
	a := &Spec{Attempts: 2, On: []string{"reset"}, Budget: &Budget{Percent: ptr(5.0)}}
	m := Merge(a, &Spec{Attempts: 4, AnyMethod: ptr(true)})
	if m.Attempts != 4 || len(m.On) != 1 || m.Budget != a.Budget || !*m.AnyMethod || a.Attempts != 2 {
		t.Errorf("%+v", m)
	}
	if Merge(nil, nil) != nil || Merge(a, nil) != a || Merge(nil, a) != a {
		t.Error("nil is not neutral")
	}
}

func TestValidate(t *testing.T) {
	s := &Spec{
		Attempts: 99, On: []string{"reset", "rest"}, GRPCStatuses: []string{"UNAVAILBLE", "0"}, Statuses: []int{200},
		Backoff: &Backoff{Kind: "square", Base: ptr(2 * time.Second), Max: ptr(time.Second)}, Budget: &Budget{Percent: ptr(101.0)},
	}
	got := s.Validate("spec.retry").Error()
	for _, want := range []string{
		"spec.retry.attempts: 99 is out of range (1 to 32)", `spec.retry.on[1]: unknown value "rest" (did you mean reset?`,
		`spec.retry.grpcStatuses[0]: "UNAVAILBLE" is no gRPC status (did you mean UNAVAILABLE?)`, "spec.retry.grpcStatuses[1]: OK is no failure",
		"spec.retry.statuses[0]: 200 is out of range", `spec.retry.backoff.kind: unknown value "square"`,
		"spec.retry.backoff: base 2s is longer than max 1s", "spec.retry.budget.percent: 101 is out of range (0 to 100)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if l := (&Spec{}).Validate("x"); len(l) > 0 {
		t.Error(l)
	}
}

func same(t *testing.T, got proto.Message, text string, want proto.Message) {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}
