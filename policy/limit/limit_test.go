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
	Encode(&Spec{Connections: ptr(5), Requests: ptr(0)}, c)
	same(t, c.CircuitBreakers, `thresholds { max_connections { value: 5 } max_pending_requests { value: 1024 } max_requests {} max_retries { value: 7 } }`, &clusterv3.CircuitBreakers{})
}

func TestMergeAndValidate(t *testing.T) {
	m := Merge(&Spec{Connections: ptr(5), Pending: ptr(6)}, &Spec{Pending: ptr(0)})
	if *m.Connections != 5 || *m.Pending != 0 || m.Requests != nil {
		t.Errorf("%+v", m)
	}
	if l := (&Spec{Connections: ptr(-1)}).Validate("l"); len(l) != 1 {
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
