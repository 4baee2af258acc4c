package ratelimit

import (
	"fmt"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name      string
		spec      Spec
		instances int
		bucket    string
	}{
		{"plain", Spec{Max: 100, Window: time.Minute}, 5, `max_tokens: 100 tokens_per_fill { value: 100 } fill_interval { seconds: 60 }`},
		{"burst", Spec{Max: 100, Window: time.Minute, Burst: 5, Scope: ScopeInstance}, 5, `max_tokens: 5 tokens_per_fill { value: 100 } fill_interval { seconds: 60 }`},
		{"service", Spec{Max: 100, Window: time.Minute, Scope: ScopeService}, 3, `max_tokens: 33 tokens_per_fill { value: 33 } fill_interval { seconds: 60 }`},
		{"service, none up", Spec{Max: 100, Window: time.Minute, Scope: ScopeService}, 0, `max_tokens: 100 tokens_per_fill { value: 100 } fill_interval { seconds: 60 }`},
		{"fewer calls than instances", Spec{Max: 2, Window: time.Second, Scope: ScopeService}, 4, `max_tokens: 1 tokens_per_fill { value: 1 } fill_interval { seconds: 2 }`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := &routev3.Route{}
			if err := Encode(&c.spec, c.instances, got); err != nil {
				t.Fatal(err)
			}
			same(t, got, fmt.Sprintf(`typed_per_filter_config { key: "envoy.filters.http.local_ratelimit" value {
				[type.googleapis.com/envoy.config.route.v3.FilterConfig] { is_optional: true config {
				[type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit] {
					stat_prefix: "rate_limit" token_bucket { %s } enable_retry_after_header: true
					filter_enabled { default_value { numerator: 100 } } filter_enforced { default_value { numerator: 100 } } } } } } }`, c.bucket), &routev3.Route{})
		})
	}
	r := &routev3.Route{}
	if err := Encode(nil, 1, r); err != nil || r.TypedPerFilterConfig != nil {
		t.Error("a limit that is not written is encoded")
	}
	if f, err := Filter(); err != nil || f.Name != FilterName || !f.IsOptional {
		t.Errorf("%v, %v", f, err)
	}
}

func TestValidate(t *testing.T) {
	got := (&Spec{Kind: "sliding", Scope: "planet", Window: time.Millisecond}).Validate("l")
	if len(got) != 4 {
		t.Error(got)
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
