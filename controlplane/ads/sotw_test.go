package ads

import (
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	rt "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

func lastPort(t *testing.T, a *anypb.Any) uint32 {
	t.Helper()
	var e endpointv3.ClusterLoadAssignment
	if err := a.UnmarshalTo(&e); err != nil {
		t.Fatal(err)
	}
	return e.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetPortValue()
}

// State of the world: each response is all that was asked for, and a removed cluster is missing only once the routes were
// acknowledged that no longer name it.
func TestStateOfTheWorld(t *testing.T) {
	m := start(t)
	m.orders()
	m.apply(services, split(1, 1))
	st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(m.dial()).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node := &corev3.Node{Id: "front-1.0.0-0"}
	asked := map[string][]string{}
	ask := func(typ, version, nonce string) {
		t.Helper()
		if err := st.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: typ, ResourceNames: asked[typ], VersionInfo: version, ResponseNonce: nonce}); err != nil {
			t.Fatal(err)
		}
		node = nil
	}
	next := func(typ string, want ...string) *discoveryv3.DiscoveryResponse {
		t.Helper()
		r, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range r.GetResources() {
			m, err := a.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, cachev3.GetResourceName(m))
		}
		slices.Sort(got)
		slices.Sort(want)
		if r.GetTypeUrl() != typ || !slices.Equal(got, want) {
			t.Fatalf("%s: got %q, want %s %q", short(r.GetTypeUrl()), got, short(typ), want)
		}
		return r
	}
	take := func(typ string, want ...string) {
		t.Helper()
		r := next(typ, want...)
		ask(typ, r.GetVersionInfo(), r.GetNonce())
	}
	rest := []string{"inbound/http", "default/greeter/grpc", "default/greeter/grpc/1.0.0"}
	ask(rt.ClusterType, "", "")
	take(rt.ClusterType, append(rest, all, v1, v2)...)
	asked[rt.EndpointType] = []string{all, v2}
	ask(rt.EndpointType, "", "")
	take(rt.EndpointType, all, v2)
	ask(rt.ListenerType, "", "")
	take(rt.ListenerType, "inbound/http", "outbound")
	asked[rt.RouteType] = []string{"outbound"}
	ask(rt.RouteType, "", "")
	take(rt.RouteType, "outbound")

	m.in.Discovered = m.in.Discovered[:1]
	m.apply(without(services, "version: 2.0.0"))
	take(rt.EndpointType, all) // what is not there stays as it was: the client drops it with its cluster
	take(rt.RouteType, "outbound")
	take(rt.ClusterType, append(rest, all, v1)...)
}
