package xdsclient

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachetypes "github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/balancer/builtin"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = "orders-1.0.0-0"

// control is a control plane: go-control-plane's server on a Unix socket.
type control struct {
	outriggerv1.UnimplementedTelemetryServer
	t     *testing.T
	path  string
	cache cachev3.SnapshotCache

	mu       sync.Mutex
	server   *grpc.Server
	stop     context.CancelFunc
	requests []*discoveryv3.DeltaDiscoveryRequest
	reports  []*outriggerv1.ReportRequest
}

func newControl(t *testing.T) *control {
	c := &control{t: t, path: filepath.Join(t.TempDir(), "ads.sock"), cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)}
	t.Cleanup(c.kill)
	return c
}

func (c *control) start() {
	c.t.Helper()
	l, err := unixsock.Listen(c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, serverv3.NewServer(ctx, c.cache, serverv3.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.requests = append(c.requests, proto.Clone(r).(*discoveryv3.DeltaDiscoveryRequest))
			return nil
		},
	}))
	outriggerv1.RegisterTelemetryServer(s, c)
	c.mu.Lock()
	c.server, c.stop, c.requests = s, cancel, nil
	c.mu.Unlock()
	go func() { _ = s.Serve(net.Listener(l)) }()
}

func (c *control) kill() {
	c.mu.Lock()
	s, stop := c.server, c.stop
	c.server = nil
	c.mu.Unlock()
	if s != nil {
		stop()
		s.Stop()
	}
}

func (c *control) Report(s grpc.BidiStreamingServer[outriggerv1.ReportRequest, outriggerv1.ReportResponse]) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.reports = append(c.reports, m)
		c.mu.Unlock()
		if err := s.Send(&outriggerv1.ReportResponse{Sequence: m.GetSequence()}); err != nil {
			return err
		}
	}
}

func (c *control) nacks() (out []*outriggerv1.ResourceErrors) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.requests {
		for _, d := range r.GetErrorDetail().GetDetails() {
			m := &outriggerv1.ResourceErrors{}
			if d.UnmarshalTo(m) == nil {
				out = append(out, m)
			}
		}
	}
	return out
}

func (c *control) set(version string, rs ...cachetypes.Resource) {
	c.t.Helper()
	by := map[resourcev3.Type][]cachetypes.Resource{}
	for _, r := range rs {
		url := "type.googleapis.com/" + string(r.ProtoReflect().Descriptor().FullName())
		by[url] = append(by[url], r)
	}
	s, err := cachev3.NewSnapshot(version, by)
	if err == nil {
		err = c.cache.SetSnapshot(context.Background(), node, s)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// table is the sink.
type table struct {
	mu   sync.Mutex
	refs map[string]*snapshot.ClusterRef
	eps  map[string][]snapshot.EndpointSpec
}

func (t *table) Ref(name string) *snapshot.ClusterRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refs[name] == nil {
		t.refs[name] = &snapshot.ClusterRef{Name: name}
	}
	return t.refs[name]
}
func (t *table) SetCluster(c *snapshot.Cluster) error { t.Ref(c.Name).Store(c); return nil }
func (t *table) SetEndpoints(name string, eps []snapshot.EndpointSpec) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.eps[name] = eps
	return nil
}
func (t *table) Remove(name string) { t.Ref(name).Store(nil) }
func (t *table) endpoints(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.eps[name])
}

// sidecar is a client under test.
type sidecar struct {
	*Client
	sink *table
	stop func()

	mu   sync.Mutex
	snap *snapshot.Snapshot
}

func newSidecar(t *testing.T, c *control, dir string, change func(*Options)) *sidecar {
	t.Helper()
	s := &sidecar{sink: &table{refs: map[string]*snapshot.ClusterRef{}, eps: map[string][]snapshot.EndpointSpec{}}}
	conn, err := Dial("unix:" + c.path)
	if err != nil {
		t.Fatal(err)
	}
	comp := compile.New(compile.Options{
		Sink: s.sink, Strategies: builtin.All(), InitTimeout: time.Minute,
		OnDemand: func(rc string) snapshot.OnDemand { return s.OnDemand(rc) },
	})
	o := Options{
		Node: &corev3.Node{Id: node, Cluster: "test"}, Conn: conn, Compiler: comp, Dir: dir, BackoffBase: 5 * time.Millisecond,
		BackoffMax: 50 * time.Millisecond, FlushDelay: time.Millisecond, Apply: func(n *snapshot.Snapshot) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.snap = n
		},
		Report: func() *outriggerv1.ReportRequest {
			return &outriggerv1.ReportRequest{SnapshotVersion: comp.Version(), Rejected: WireErrors(comp.Rejected())}
		},
	}
	if change != nil {
		change(&o)
	}
	s.Client = New(o)
	if err := s.Load(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	var once sync.Once
	s.stop = func() { once.Do(func() { cancel(); <-done; _ = conn.Close() }) }
	t.Cleanup(s.stop)
	return s
}

// host returns the virtual host that takes an authority, or nil.
func (s *sidecar) host(listener, authority string) *snapshot.VirtualHost {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snap == nil || s.snap.Listeners[listener] == nil {
		return nil
	}
	if t := s.snap.Listeners[listener].HTTP.Routes.Load(); t != nil {
		return t.Host(authority)
	}
	return nil
}

func (s *sidecar) finder(listener string) snapshot.OnDemand {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snap == nil || s.snap.Listeners[listener] == nil {
		return nil
	}
	return s.snap.Listeners[listener].HTTP.OnDemand
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func address(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       "127.0.0.1",
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func listener(t *testing.T, name, routes string) *listenerv3.Listener {
	return &listenerv3.Listener{Name: name, Address: address(10000), FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "hcm",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, &hcmv3.HttpConnectionManager{
			StatPrefix:     name,
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: routes}},
			HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &routerv3.Router{})}}},
		})},
	}}}}}
}

func virtualHost(name, domain, cluster string) *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: name, Domains: []string{domain}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
	}}}
}

func cluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}
}

func assignment(name string, n int) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for i := range n {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(20000 + i)}}})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func mesh(t *testing.T, endpoints int, names ...string) []cachetypes.Resource {
	var out []cachetypes.Resource
	for _, n := range names {
		out = append(out, listener(t, n, "routes-"+n), cluster(n), assignment(n, endpoints),
			&routev3.RouteConfiguration{Name: "routes-" + n, VirtualHosts: []*routev3.VirtualHost{virtualHost(n, "*", n)}})
	}
	return out
}

func TestAllTypesArriveAndChange(t *testing.T) {
	c := newControl(t)
	c.set("1", mesh(t, 1, "a", "b")...)
	c.start()
	s := newSidecar(t, c, "", nil)
	eventually(t, "both listeners have routes", func() bool { return s.host("a", "x") != nil && s.host("b", "x") != nil })
	c.set("2", mesh(t, 3, "a")...)
	eventually(t, "the endpoints change and a listener goes", func() bool {
		return s.sink.endpoints("a") == 3 && s.host("b", "x") == nil && s.sink.Ref("b").Load() == nil
	})
	eventually(t, "telemetry tells the snapshot", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := len(c.reports)
		return n > 0 && c.reports[n-1].GetSnapshotVersion() != "" && c.reports[n-1].GetNodeId() == node
	})
}

func TestNackOfOneOfThree(t *testing.T) {
	c := newControl(t)
	bad := cluster("c")
	bad.LbPolicy = clusterv3.Cluster_MAGLEV
	c.set("1", append(mesh(t, 1, "a", "b"), bad, assignment("c", 1))...)
	c.start()
	s := newSidecar(t, c, "", nil)
	eventually(t, "the good ones are served", func() bool { return s.host("a", "x") != nil && s.host("b", "x") != nil })
	eventually(t, "the refusal names the bad one alone", func() bool { return len(c.nacks()) > 0 })
	for _, n := range c.nacks() {
		if e := n.GetErrors(); len(e) != 1 || e[0].GetName() != "c" || e[0].GetField() != "lb_policy" || e[0].GetTypeUrl() != compile.ClusterType {
			t.Fatalf("%v", n)
		}
	}
	c.set("2", append(mesh(t, 1, "a", "b"), cluster("c"), assignment("c", 1))...)
	eventually(t, "the repaired one is taken", func() bool { return s.sink.Ref("c").Load() != nil && len(s.o.Compiler.Rejected()) == 0 })
}

func TestReconnectTellsWhatItHas(t *testing.T) {
	c := newControl(t)
	c.set("1", mesh(t, 1, "a")...)
	c.start()
	s := newSidecar(t, c, "", nil)
	eventually(t, "first configuration", func() bool { return s.host("a", "x") != nil })
	c.kill()
	eventually(t, "the client notices", func() bool { return !s.Status().Connected })
	if s.host("a", "x") == nil {
		t.Fatal("serves only with a control plane")
	}
	c.start()
	eventually(t, "it asks with what it has", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		seen := map[string]bool{}
		for _, r := range c.requests {
			if len(r.GetInitialResourceVersions()) == 1 {
				seen[r.GetTypeUrl()] = true
			}
		}
		return len(seen) == 4
	})
	c.set("2", mesh(t, 2, "a")...)
	eventually(t, "a change after the reconnect", func() bool { return s.sink.endpoints("a") == 2 })
}

func TestStartsFromDisk(t *testing.T) {
	c := newControl(t)
	c.set("1", mesh(t, 2, "a")...)
	c.start()
	dir := filepath.Join(t.TempDir(), "xds")
	s := newSidecar(t, c, dir, nil)
	eventually(t, "first configuration", func() bool { return s.host("a", "x") != nil })
	s.stop()
	c.kill()
	s = newSidecar(t, c, dir, nil)
	if s.host("a", "x") == nil || s.sink.endpoints("a") != 2 {
		t.Fatal("the copy on disk was not put in use")
	}
	c.set("2", mesh(t, 3, "a")...)
	c.start()
	eventually(t, "the control plane's word holds again", func() bool { return s.sink.endpoints("a") == 3 })
}

func want(t *testing.T, o snapshot.OnDemand, host string) {
	t.Helper()
	done := make(chan struct{})
	o.Want(host, func() { close(done) })
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Fatalf("%s: never told", host)
	}
}

func TestOnDemand(t *testing.T) {
	c := newControl(t)
	base := func(hosts ...string) (out []cachetypes.Resource) {
		out = append(out, listener(t, "edge", "edge"), &routev3.RouteConfiguration{Name: "edge", Vhds: &routev3.Vhds{ConfigSource: ads()}})
		for _, h := range hosts {
			out = append(out, virtualHost("edge/"+h, h, h), cluster(h), assignment(h, 1))
		}
		return out
	}
	c.set("1", base("orders", "feed")...)
	c.start()
	dir := t.TempDir()
	fast := func(o *Options) {
		o.WantTimeout, o.MissTTL, o.HostIdle = 300*time.Millisecond, 100*time.Millisecond, time.Hour
	}
	s := newSidecar(t, c, dir, fast)
	eventually(t, "the listener", func() bool { return s.finder("edge") != nil })
	if s.host("edge", "orders") != nil {
		t.Fatal("there before anybody asked")
	}
	want(t, s.finder("edge"), "orders")
	if s.host("edge", "orders") == nil || s.sink.endpoints("orders") != 1 {
		t.Fatal("told before the host was there")
	}
	// A miss is told, and remembered.
	want(t, s.finder("edge"), "nobody")
	if s.host("edge", "nobody") != nil {
		t.Fatal("found nobody")
	}
	sync := false
	s.finder("edge").Want("nobody", func() { sync = true })
	if !sync {
		t.Fatal("a miss was not remembered")
	}
	for _, bad := range []string{"", "a/b", "*", "A", "a b"} {
		sync = false
		s.finder("edge").Want(bad, func() { sync = true })
		if !sync {
			t.Fatalf("%q was asked for", bad)
		}
	}
	// It appears later, and is found once the miss is forgotten.
	c.set("2", base("orders", "feed", "nobody")...)
	eventually(t, "the late host", func() bool {
		done := make(chan struct{})
		s.finder("edge").Want("nobody", func() { close(done) })
		<-done
		return s.host("edge", "nobody") != nil
	})
	// Hosts that go are gone; the list outlives the process.
	c.set("3", base("orders", "feed")...)
	eventually(t, "a host that goes", func() bool { return s.host("edge", "nobody") == nil })
	s.stop()
	s = newSidecar(t, c, dir, fast)
	if s.host("edge", "orders") == nil {
		t.Fatal("the hosts found were not kept")
	}
	cancelled := false
	s.finder("edge").Want("slow", func() { cancelled = true })()
	s.stop()
	if cancelled {
		t.Fatal("told in spite of the cancel")
	}
}

func TestUnusedHostsAreLetGo(t *testing.T) {
	c := newControl(t)
	c.set("1", listener(t, "edge", "edge"), &routev3.RouteConfiguration{Name: "edge", Vhds: &routev3.Vhds{ConfigSource: ads()}},
		virtualHost("edge/orders", "orders", "orders"), cluster("orders"), assignment("orders", 1))
	c.start()
	s := newSidecar(t, c, "", func(o *Options) { o.HostIdle = 200 * time.Millisecond })
	eventually(t, "the listener", func() bool { return s.finder("edge") != nil })
	want(t, s.finder("edge"), "orders")
	if s.host("edge", "orders") == nil {
		t.Fatal("not found")
	}
	eventually(t, "it is let go", func() bool { return s.host("edge", "orders") == nil })
	eventually(t, "the control plane is told", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.requests {
			if r.GetTypeUrl() == compile.VirtualHostType && fmt.Sprint(r.GetResourceNamesUnsubscribe()) == "[edge/orders]" {
				return true
			}
		}
		return false
	})
}
