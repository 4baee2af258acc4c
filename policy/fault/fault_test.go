package fault

import (
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

func ptr[T any](v T) *T { return &v }

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name string
		spec *Spec
		want string
	}{
		{"delay", &Spec{Delay: &Delay{Duration: 250 * time.Millisecond}}, `delay { fixed_delay { nanos: 250000000 } percentage { numerator: 100 } }`},
		{"abort", &Spec{Abort: &Abort{Status: 503, Percent: ptr(0.5)}}, `abort { http_status: 503 percentage { numerator: 5000 denominator: MILLION } }`},
		{
			"both", &Spec{Delay: &Delay{Duration: time.Second, Percent: ptr(0.0)}, Abort: &Abort{Status: 429, Percent: ptr(10.0)}},
			`delay { fixed_delay { seconds: 1 } percentage {} } abort { http_status: 429 percentage { numerator: 10 } }`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := &routev3.Route{}
			if err := Encode(c.spec, got); err != nil {
				t.Fatal(err)
			}
			same(t, got, `typed_per_filter_config { key: "envoy.filters.http.fault" value {
				[type.googleapis.com/envoy.config.route.v3.FilterConfig] { is_optional: true config {
				[type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] { `+c.want+` } } } } }`, &routev3.Route{})
		})
	}
	r := &routev3.Route{}
	if err := Encode(nil, r); err != nil || r.TypedPerFilterConfig != nil {
		t.Error("a fault that is not written is encoded")
	}
	if f, err := Filter(); err != nil || f.Name != FilterName || !f.IsOptional {
		t.Errorf("%v, %v", f, err)
	}
}

func TestMergeAndValidate(t *testing.T) {
	a, b := &Spec{Delay: &Delay{Duration: 1}, Abort: &Abort{Status: 500}}, &Spec{Abort: &Abort{Status: 400}}
	if m := Merge(a, b); m.Delay != a.Delay || m.Abort != b.Abort {
		t.Errorf("%+v", m)
	}
	if l := (&Spec{Delay: &Delay{Percent: ptr(-1.0)}, Abort: &Abort{Status: 99}}).Validate("f"); len(l) != 3 {
		t.Error(l)
	}
	if l := (&Spec{}).Validate("f"); len(l) != 1 {
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
