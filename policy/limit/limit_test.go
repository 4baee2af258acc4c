package limit

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

func ptr[T any](v T) *T { return &v }

func TestEncode(t *testing.T) {
	c := &clusterv3.Cluster{}
	Encode(nil, c)
	same(t, c.CircuitBreakers, `thresholds { max_connections { value: 1024 } max_pending_requests { value: 1024 } max_requests { value: 1024 } }`, &clusterv3.CircuitBreakers{})

	c = &clusterv3.Cluster{}
	xdsfield.Threshold(c).MaxRetries = wrapperspb.UInt32(7) // another policy's field stays
	Encode(&Spec{Connections: ptr(5), Requests: ptr(1), Preconnect: ptr(1.5)}, c)
	same(t, c.CircuitBreakers, `thresholds { max_connections { value: 5 } max_pending_requests { value: 1024 } max_requests { value: 1 } max_retries { value: 7 } }`, &clusterv3.CircuitBreakers{})
	same(t, c.PreconnectPolicy, `per_upstream_preconnect_ratio { value: 1.5 }`, &clusterv3.Cluster_PreconnectPolicy{})
}

func TestMergeAndValidate(t *testing.T) {
	m := Merge(&Spec{Connections: ptr(5), Pending: ptr(6), Preconnect: ptr(2.0)}, &Spec{Pending: ptr(1), Preconnect: ptr(1.0)})
	if *m.Connections != 5 || *m.Pending != 1 || m.Requests != nil || *m.Preconnect != 1 {
		t.Errorf("%+v", m)
	}
	if l := (&Spec{Connections: ptr(0), Preconnect: ptr(3.5)}).Validate("l"); len(l) != 2 {
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
