package outlier

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

func ptr[T any](v T) *T { return &v }

const always = ` enforcing_consecutive_5xx { value: 100 } enforcing_success_rate {} interval { seconds: 1 } always_eject_one_host { value: true }`

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name string
		spec *Spec
		want string
	}{
		{"default", nil, `consecutive_5xx { value: 5 } base_ejection_time { seconds: 30 } max_ejection_time { seconds: 300 } max_ejection_percent { value: 10 }`},
		{
			"written", &Spec{Consecutive: 2, BaseEjection: time.Second, MaxEjection: 2 * time.Second, MaxPercent: ptr(50)},
			`consecutive_5xx { value: 2 } base_ejection_time { seconds: 1 } max_ejection_time { seconds: 2 } max_ejection_percent { value: 50 }`,
		},
		{
			"longer base than the default's longest", &Spec{BaseEjection: 10 * time.Minute},
			`consecutive_5xx { value: 5 } base_ejection_time { seconds: 600 } max_ejection_time { seconds: 600 } max_ejection_percent { value: 10 }`,
		},
		{
			"shorter longest than the default base", &Spec{MaxEjection: time.Second},
			`consecutive_5xx { value: 5 } base_ejection_time { seconds: 1 } max_ejection_time { seconds: 1 } max_ejection_percent { value: 10 }`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := &clusterv3.Cluster{}
			Encode(c.spec, got)
			same(t, got.OutlierDetection, c.want+always, &clusterv3.OutlierDetection{})
		})
	}
	got := &clusterv3.Cluster{}
	Encode(&Spec{MaxPercent: ptr(0)}, got)
	if got.OutlierDetection != nil {
		t.Error("off is encoded")
	}
}

func TestMergeAndValidate(t *testing.T) {
	m := Merge(&Spec{Consecutive: 3, MaxPercent: ptr(50)}, &Spec{MaxPercent: ptr(0), BaseEjection: time.Second})
	if m.Consecutive != 3 || *m.MaxPercent != 0 || m.BaseEjection != time.Second {
		t.Errorf("%+v", m)
	}
	if l := (&Spec{BaseEjection: time.Minute, MaxEjection: time.Second, MaxPercent: ptr(101)}).Validate("o"); len(l) != 2 {
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
