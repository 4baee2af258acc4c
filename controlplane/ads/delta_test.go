package ads

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rt "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/discovery"
)

// client is a delta client that says just what a test makes it say.
type client struct {
	t    *testing.T
	st   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node *corev3.Node
	in   chan *discoveryv3.DeltaDiscoveryResponse
}

func (m *mesh) delta(node string) *client {
	m.t.Helper()
	st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(m.dial()).DeltaAggregatedResources(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	c := &client{t: m.t, st: st, node: &corev3.Node{Id: node}, in: make(chan *discoveryv3.DeltaDiscoveryResponse, 64)}
	go func() {
		defer close(c.in)
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			c.in <- r
		}
	}()
	return c
}

func (c *client) ask(r *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.Node, c.node = c.node, nil
	if err := c.st.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(typ string, names ...string) {
	c.t.Helper()
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names})
}

func (c *client) ack(r *discoveryv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
}

// next is the next response, which must come soon and be of that type.
func (c *client) next(typ string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case r := <-c.in:
		if r.GetTypeUrl() != typ {
			c.t.Fatalf("a response of type %q, want %q: %v", r.GetTypeUrl(), typ, names(r))
		}
		return r
	case <-time.After(10 * time.Second):
		c.t.Fatalf("no response of type %q", typ)
	}
	return nil
}

// take is the next response, acknowledged.
func (c *client) take(typ string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	r := c.next(typ)
	c.ack(r)
	return r
}

func names(r *discoveryv3.DeltaDiscoveryResponse) (out []string) {
	for _, x := range r.GetResources() {
		out = append(out, x.GetName())
	}
	for _, x := range r.GetRemovedResources() {
		out = append(out, "-"+x)
	}
	return out
}

func want(t *testing.T, r *discoveryv3.DeltaDiscoveryResponse, wanted ...string) {
	t.Helper()
	got := names(r)
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Fatalf("%s: got %q, want %q", short(r.GetTypeUrl()), got, wanted)
	}
}

func short(typ string) string { return typ[strings.LastIndex(typ, ".")+1:] }

// two versions of orders are there.
func (m *mesh) orders() {
	m.in.Discovered = []discovery.Endpoint{
		endpoint(m.t, "orders-1.0.0-0", "orders", "1.0.0", "http", discovery.HTTP, "127.0.0.1:9001"),
		endpoint(m.t, "orders-2.0.0-0", "orders", "2.0.0", "http", discovery.HTTP, "127.0.0.1:9002"),
	}
}

const (
	all = "default/orders/http"
	v1  = all + "/1.0.0"
	v2  = all + "/2.0.0"
)

// A sidecar that declares what it uses gets just that; then only what changes; endpoints again after their cluster; and
// removals after what referred to them.
func TestDelta(t *testing.T) {
	m := start(t)
	m.orders()
	c := m.delta("front-1.0.0-0")
	c.subscribe(rt.ClusterType, "*")
	m.apply(services, split(90, 10)) // a node waits for the first configuration
	r := c.take(rt.ClusterType)
	want(t, r, "inbound/http", all, v1, v2, "default/greeter/grpc", "default/greeter/grpc/1.0.0")
	c.subscribe(rt.EndpointType, all, v1, v2)
	want(t, c.take(rt.EndpointType), all, v1, v2)
	c.subscribe(rt.ListenerType, "*")
	want(t, c.take(rt.ListenerType), "inbound/http", "outbound")
	c.subscribe(rt.RouteType, "inbound/http", "outbound")
	want(t, c.take(rt.RouteType), "inbound/http", "outbound")

	// Another split changes one resource.
	m.apply(services, split(50, 50))
	want(t, c.take(rt.RouteType), "outbound")
	// Another endpoint changes those that list it.
	m.in.Discovered[1].Port = 9003
	m.push()
	want(t, c.take(rt.EndpointType), all, v2)
	// A change of the cluster is followed by its endpoints, changed or not.
	limits := "\napiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {name: l}\nspec: {service: orders, version: 2.0.0, limits: {requests: 7}}\n"
	m.apply(services, split(50, 50), limits)
	want(t, c.take(rt.ClusterType), v2)
	want(t, c.take(rt.EndpointType), v2)
	// A version goes: first the routes let go of it, and only when that is acknowledged it is removed.
	m.in.Discovered = m.in.Discovered[:1]
	m.apply(without(services, "version: 2.0.0"))
	want(t, c.next(rt.EndpointType), all)
	// The route table may follow at once, before the endpoints are acknowledged; the removals may not.
	r = c.next(rt.RouteType)
	want(t, r, "outbound")
	select {
	case r := <-c.in:
		t.Fatalf("%s %q before the routes were acknowledged", short(r.GetTypeUrl()), names(r))
	case <-time.After(50 * time.Millisecond):
	}
	c.ack(r)
	want(t, c.take(rt.ClusterType), "-"+v2)
}

// A node gets only its own, and a stream stays with its node.
func TestAdmission(t *testing.T) {
	m := start(t)
	m.orders()
	m.apply(services)
	for _, id := range []string{"", "stranger", KindEnvoy + "~default~front~00"} {
		c := m.delta(id)
		c.subscribe(rt.ClusterType, "*")
		_, ok := <-c.in
		err := c.st.RecvMsg(&discoveryv3.DeltaDiscoveryResponse{})
		if ok || status.Code(err) == codes.OK {
			t.Errorf("node %q was admitted", id)
		}
	}
	c := m.delta("front-1.0.0-0")
	c.subscribe(rt.ClusterType, "*")
	c.take(rt.ClusterType)
	// It declares what it uses: nothing else is there for it.
	c.subscribe(rt.ClusterType, "default/any/http")
	want(t, c.take(rt.ClusterType), "-default/any/http")
	c.node = &corev3.Node{Id: "any-1.0.0-0"}
	c.subscribe(rt.ClusterType, "*")
	for range c.in {
		t.Error("the stream went on as another node")
	}
}

func TestForeign(t *testing.T) {
	f := Foreign{KindGRPC, "acme", "orders"}
	id := SignForeign(secret, f)
	if got, err := VerifyForeign(secret, id); err != nil || got != f {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{strings.Replace(id, "acme", "evil", 1), id + "0", id[:len(id)-2]} {
		if _, err := VerifyForeign(secret, bad); err == nil {
			t.Errorf("%q verifies", bad)
		}
	}
	if _, err := VerifyForeign([]byte("another"), id); err == nil {
		t.Error("verifies with another secret")
	}
}

// A sidecar that declares nothing asks by host at the first call. A host that is not there is answered at once, and holds up
// nothing else; asked again, it is answered again.
func TestOnDemand(t *testing.T) {
	m := start(t)
	m.orders()
	m.apply(services)
	c := m.delta("any-1.0.0-0")
	c.subscribe(rt.ClusterType, "*")
	want(t, c.take(rt.ClusterType), "inbound/http")
	c.subscribe(rt.RouteType, "outbound")
	r := c.take(rt.RouteType)
	var rc routev3.RouteConfiguration
	if err := r.Resources[0].Resource.UnmarshalTo(&rc); err != nil || rc.GetVhds() == nil || len(rc.GetVirtualHosts()) > 0 {
		t.Fatalf("%v %v", &rc, err)
	}
	c.subscribe(rt.VirtualHostType, "outbound") // as Envoy does: a namespace
	want(t, c.take(rt.VirtualHostType))
	c.subscribe(rt.VirtualHostType, "outbound/nobody")
	want(t, c.take(rt.VirtualHostType), "-outbound/nobody")
	c.subscribe(rt.VirtualHostType, "outbound/orders", "outbound/orders.localhost", "outbound/nobody")
	r = c.take(rt.VirtualHostType)
	want(t, r, "outbound/orders", "outbound/orders.localhost", "-outbound/nobody")
	for _, x := range r.Resources {
		var vh routev3.VirtualHost
		if err := x.Resource.UnmarshalTo(&vh); err != nil {
			t.Fatal(err)
		}
		if d := vh.GetDomains(); len(d) != 1 || "outbound/"+d[0] != x.Name {
			t.Errorf("%s has domains %q", x.Name, d)
		}
	}
	c.subscribe(rt.ClusterType, all)
	want(t, c.take(rt.ClusterType), all)
	c.subscribe(rt.EndpointType, all)
	want(t, c.take(rt.EndpointType), all)
	// What was not there comes when it is.
	m.apply(services, "\napiVersion: outrigger.dev/v1\nkind: External\nmetadata: {name: nobody}\nspec: {endpoints: [{address: '127.0.0.1:9009'}]}\n")
	want(t, c.take(rt.VirtualHostType), "outbound/nobody")
}

// A NACK that names a resource concerns that one only; the message of any other concerns all that was news.
func TestRejection(t *testing.T) {
	m := start(t)
	m.orders()
	m.apply(services)
	c := m.delta("front-1.0.0-0")
	c.subscribe(rt.ClusterType, "*")
	r := c.next(rt.ClusterType)
	detail, err := anypb.New(&outriggerv1.ResourceErrors{Errors: []*outriggerv1.ResourceError{
		{TypeUrl: rt.ClusterType, Name: v1, Field: "connect_timeout", Reason: "must be positive"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &rpcstatus.Status{
		Code: 3, Message: "1 of 6", Details: []*anypb.Any{detail},
	}})
	find := func(name string) (out ResourceStatus) {
		for _, n := range m.Status() {
			for _, r := range n.Resources {
				if r.Name == name {
					out = r
				}
			}
		}
		return out
	}
	eventually(t, "the rejection is known", func() bool { return find(v1).Rejected != nil })
	if s := find(v1); s.Taken != "" || s.Rejected.Field != "connect_timeout" || s.Rejected.Reason != "must be positive" || s.Rejected.Version != s.Sent {
		t.Errorf("%+v %+v", s, s.Rejected)
	}
	if s := find(v2); s.Rejected != nil || s.Taken != s.Sent {
		t.Errorf("%+v", s)
	}
	// Put right, it is sent again, and taken.
	m.apply(services, "\napiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {name: l}\nspec: {service: orders, version: 1.0.0, limits: {requests: 7}}\n")
	want(t, c.take(rt.ClusterType), v1)
	eventually(t, "it is accepted", func() bool { s := find(v1); return s.Rejected == nil && s.Taken == s.Sent })
	m.mu.Lock()
	defer m.mu.Unlock()
	var kinds []EventKind
	for _, e := range m.events {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []EventKind{Connected, Rejected, Accepted}) {
		t.Errorf("events %q", kinds)
	}
}

// A node that takes nothing holds up no other, and is told the last state as one update.
func TestSlowNode(t *testing.T) {
	m := start(t)
	m.orders()
	m.apply(services, split(1, 1))
	slow, quick := m.delta("front-1.0.0-0"), m.delta("any-1.0.0-0")
	slow.subscribe(rt.EndpointType, all)
	r := slow.next(rt.EndpointType) // never acknowledged until the end
	quick.subscribe(rt.EndpointType, all)
	quick.take(rt.EndpointType)
	for port := range 50 {
		m.in.Discovered[0].Port = uint16(10000 + port)
		m.push()
	}
	last := 0
	for last != 10049 {
		r := quick.take(rt.EndpointType)
		last = int(lastPort(t, r.Resources[0].Resource))
	}
	slow.ack(r)
	if p := lastPort(t, slow.take(rt.EndpointType).Resources[0].Resource); p != 10049 {
		t.Errorf("the slow node got port %d", p)
	}
}

// A reconnecting client that has all of it is told nothing again but that it is complete.
func TestReconnect(t *testing.T) {
	m := start(t)
	m.orders()
	m.apply(services)
	c := m.delta("front-1.0.0-0")
	c.subscribe(rt.EndpointType, all, v1)
	has := map[string]string{}
	for _, r := range c.take(rt.EndpointType).Resources {
		has[r.Name] = r.Version
	}
	c = m.delta("front-1.0.0-0")
	has[v1] = "old"
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: rt.EndpointType, ResourceNamesSubscribe: []string{all, v1}, InitialResourceVersions: has})
	want(t, c.take(rt.EndpointType), v1)
}

type sink struct {
	reports chan *outriggerv1.ReportRequest
	gone    chan string
}

func (s *sink) Report(_ string, r *outriggerv1.ReportRequest) { s.reports <- r }
func (s *sink) Gone(node string)                              { s.gone <- node }

func TestTelemetry(t *testing.T) {
	m := start(t)
	s := &sink{make(chan *outriggerv1.ReportRequest, 1), make(chan string, 1)}
	m.opts.Telemetry = s
	tc := outriggerv1.NewTelemetryClient(m.dial())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st, err := tc.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&outriggerv1.ReportRequest{NodeId: "front-1.0.0-0", Sequence: 1, Ready: true}); err != nil {
		t.Fatal(err)
	}
	if a, err := st.Recv(); err != nil || a.GetSequence() != 1 {
		t.Fatal(a, err)
	}
	if r := <-s.reports; !r.GetReady() {
		t.Error(r)
	}
	cancel()
	if id := <-s.gone; id != "front-1.0.0-0" {
		t.Error(id)
	}
	st, err = tc.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = st.Send(&outriggerv1.ReportRequest{NodeId: "stranger"})
	if _, err := st.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
}
