package timeout

import (
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

func ptr(d time.Duration) *time.Duration { return &d }

const head = `metadata { typed_filter_metadata { key: "outrigger.dev" value { [type.googleapis.com/outrigger.v1.RouteMetadata] { head_timeout: true } } } }`

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name string
		spec *Spec
		grpc bool
		want string
	}{
		{"default", nil, false, `route { timeout { seconds: 15 } idle_timeout { seconds: 300 } } ` + head},
		{"default of gRPC", nil, true, `route { timeout {} idle_timeout { seconds: 300 } max_stream_duration { grpc_timeout_header_max {} } }`},
		{"written", &Spec{Overall: ptr(2 * time.Second), Idle: ptr(0)}, false, `route { timeout { seconds: 2 } idle_timeout {} } ` + head},
		{"none", &Spec{Overall: ptr(0)}, false, `route { timeout {} idle_timeout { seconds: 300 } } ` + head},
		{"gRPC", &Spec{Overall: ptr(2 * time.Second)}, true, `route { timeout { seconds: 2 } idle_timeout { seconds: 300 } max_stream_duration { grpc_timeout_header_max { seconds: 2 } } }`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := &routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{}}}
			if err := Encode(c.spec, c.grpc, got); err != nil {
				t.Fatal(err)
			}
			same(t, got, c.want, &routev3.Route{})
		})
	}
}

// What others write of the same metadata stays.
func TestEncodeKeepsMetadata(t *testing.T) {
	r := &routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{}}}
	if err := xdsfield.SetRouteMetadata(r, xdsname.MetadataKey, &outriggerv1.RouteMetadata{PathPattern: "/users/{id}"}); err != nil {
		t.Fatal(err)
	}
	if err := Encode(nil, false, r); err != nil {
		t.Fatal(err)
	}
	m := &outriggerv1.RouteMetadata{}
	if err := xdsfield.RouteMetadata(r, xdsname.MetadataKey, m); err != nil || !m.HeadTimeout || m.PathPattern == "" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestMergeAndValidate(t *testing.T) {
	m := Merge(&Spec{Overall: ptr(time.Second), Idle: ptr(time.Minute)}, &Spec{Overall: ptr(0), PerTry: ptr(time.Second)})
	if *m.Overall != 0 || *m.Idle != time.Minute || PerTryOf(m) != time.Second || PerTryOf(nil) != 0 {
		t.Errorf("%+v", m)
	}
	if l := m.Validate("x"); len(l) > 0 {
		t.Error(l)
	}
	if l := (&Spec{Overall: ptr(time.Second), PerTry: ptr(time.Minute)}).Validate("x"); len(l) != 1 || l[0].Path != "x.perTry" {
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
