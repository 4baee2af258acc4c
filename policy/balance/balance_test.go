package balance

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

func one(name, message string) string {
	return `policies { typed_extension_config { name: "envoy.load_balancing_policies.` + name + `" typed_config {
		[type.googleapis.com/envoy.extensions.load_balancing_policies.` + name + `.v3.` + message + `] {} } } } `
}

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		spec *Spec
		want string
	}{
		{nil, `load_balancing_policy { ` + one("round_robin", "RoundRobin") + `}`},
		{&Spec{Strategy: "round-robin"}, `load_balancing_policy { ` + one("round_robin", "RoundRobin") + `}`},
		{&Spec{Strategy: "random"}, `lb_policy: RANDOM load_balancing_policy { ` + one("random", "Random") + one("round_robin", "RoundRobin") + `}`},
		{&Spec{Strategy: "least-connections"}, `lb_policy: LEAST_REQUEST load_balancing_policy { ` + one("least_request", "LeastRequest") + one("round_robin", "RoundRobin") + `}`},
	} {
		got := &clusterv3.Cluster{}
		if err := Encode(c.spec, got); err != nil {
			t.Fatal(err)
		}
		same(t, got, c.want, &clusterv3.Cluster{})
	}
	if err := Encode(&Spec{Strategy: "ring"}, &clusterv3.Cluster{}); err == nil {
		t.Error("a strategy that is not served is encoded")
	}
}

func TestValidate(t *testing.T) {
	if l := (&Spec{Strategy: "ring"}).Validate("spec.balance"); len(l) != 1 || l[0].Message != "not served by this version: ring" {
		t.Error(l)
	}
	if l := (&Spec{}).Validate("spec.balance"); len(l) != 1 || l[0].Path != "spec.balance.strategy" {
		t.Error(l)
	}
	a, b := &Spec{Strategy: "random"}, &Spec{Strategy: "round-robin"}
	if Merge(a, b) != b || Merge(a, nil) != a {
		t.Error("the narrower one does not hold")
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
