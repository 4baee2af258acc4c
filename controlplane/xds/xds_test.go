package xds

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rt "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/controlplane/resolve"
	"github.com/outrigger-mesh/outrigger/discovery"
)

var update = flag.Bool("update", false, "write the golden files")

// shop is the model that all golden files are of.
func shop(t *testing.T) *model.Model {
	t.Helper()
	b, err := os.ReadFile("testdata/shop.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rs, errs := resource.Parse("shop.in.yaml", b)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	ep := func(id, service, version, port string, p discovery.Protocol, n uint16, h discovery.Health) discovery.Endpoint {
		return discovery.Endpoint{
			ID: id, Tenant: "default", Service: service, Version: version, Address: "127.0.0.1", Port: n, PortName: port, Protocol: p,
			Health: h, Weight: 1, Host: "here", Ours: true,
		}
	}
	far := ep("orders-2.0.0-1", "orders", "2.0.0", "http", discovery.HTTP, 9003, discovery.Healthy)
	far.Host, far.Zone, far.Address = "there", "b", "10.0.0.2"
	m, errs := resolve.Resolve(resolve.Input{
		Revision: 1, Host: "here", Edge: "127.0.0.1:8080", Resources: rs,
		Discovered: []discovery.Endpoint{
			ep("orders-1.0.0-0", "orders", "1.0.0", "http", discovery.HTTP, 9001, discovery.Healthy),
			ep("orders-2.0.0-0", "orders", "2.0.0", "http", discovery.HTTP, 9002, discovery.Unhealthy), far,
			ep("inventory-1.0.0-0", "inventory", "1.0.0", "grpc", discovery.GRPC, 9004, discovery.Healthy),
		},
		Draining: map[string]bool{"orders-1.0.0-0": true},
		Locals: []*model.Local{{
			ID: "orders-1.0.0-0", Service: model.ServiceKey{Tenant: "default", Name: "orders"}, Version: "1.0.0",
			Inbound: map[string]string{"http": "127.0.0.1:9001"}, Process: map[string]string{"http": "127.0.0.1:9101"},
			Outbound: "127.0.0.1:9201",
			Uses: map[model.PortKey]string{
				{ServiceKey: model.ServiceKey{Tenant: "default", Name: "inventory"}, Port: "grpc"}: "127.0.0.1:9301",
				{ServiceKey: model.ServiceKey{Tenant: "default", Name: "db"}, Port: "tcp"}:         "127.0.0.1:9302",
			},
		}, {
			ID: "front-1.0.0-0", Service: model.ServiceKey{Tenant: "default", Name: "front"}, Version: "1.0.0",
			Inbound: map[string]string{"http": "127.0.0.1:9401"}, Process: map[string]string{"http": "127.0.0.1:9501"},
			Outbound: "127.0.0.1:9601",
		}},
	})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return m
}

var types = []string{rt.ListenerType, rt.RouteType, rt.ClusterType, rt.EndpointType, rt.VirtualHostType}

// dump is a node's resources as JSON, and those that it asks for by name.
func dump(t *testing.T, c *Config, asked map[string][]string) []byte {
	t.Helper()
	out := map[string]map[string]any{}
	put := func(typ, name string, m proto.Message) {
		b, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		if out[typ] == nil {
			out[typ] = map[string]any{}
		}
		out[typ][name] = v
	}
	for _, typ := range types {
		for name, m := range c.Listed(typ) {
			put(typ, name, m)
			if c.Find(typ, name) != m {
				t.Errorf("%s is listed and not found", name)
			}
		}
		for _, name := range asked[typ] {
			if m := c.Find(typ, name); m != nil {
				put(typ, "? "+name, m)
			} else {
				t.Errorf("%s is not there", name)
			}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGolden(t *testing.T) {
	m := shop(t)
	all := "default/orders/http"
	for name, c := range map[string]struct {
		node  Node
		asked map[string][]string
	}{
		"sidecar":          {node: Node{ID: "orders-1.0.0-0"}},
		"sidecar-ondemand": {node: Node{ID: "front-1.0.0-0"}, asked: map[string][]string{rt.VirtualHostType: {"outbound/orders.localhost"}, rt.ClusterType: {all}, rt.EndpointType: {all}}},
		"gateway":          {node: Node{ID: "gateway-public"}},
		"edge":             {node: Node{ID: "edge"}, asked: map[string][]string{rt.VirtualHostType: {"edge/inventory"}}},
		"envoy":            {node: Node{ID: "envoy~default~front~0", Kind: Envoy, Tenant: "default", Service: "front", Listen: "127.0.0.1:9701"}},
		"grpc": {node: Node{ID: "grpc~default~front~0", Kind: GRPC, Tenant: "default", Service: "front"}, asked: map[string][]string{
			rt.ListenerType: {"inventory", "inventory:grpc"}, rt.RouteType: {"service/default/inventory/grpc"},
			rt.ClusterType: {"default/inventory/grpc"}, rt.EndpointType: {"default/inventory/grpc"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Build(m, c.node)
			if err := cfg.Errors(); err != nil {
				t.Fatal(err)
			}
			got := dump(t, cfg, c.asked)
			file := filepath.Join("testdata", name+".out.json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the resources differ from %s (-update writes it):\n%s", file, got)
			}
		})
	}
}

// Whoever may not be told of a service finds nothing of it, by whatever name; and what is no name of ours finds nothing.
func TestFindRefuses(t *testing.T) {
	m := shop(t)
	c := Build(m, Node{ID: "orders-1.0.0-0"}) // uses inventory and db
	for typ, names := range map[string][]string{
		rt.ClusterType:     {"default/front/http", "default/inventory/grpc/9.9.9", "default/inventory/none", "default/inventory//", "acme/inventory/grpc", "", "/", "///", "inbound/none"},
		rt.EndpointType:    {"default/front/http", "inbound/http", "default/inventory/grpc/"},
		rt.RouteType:       {"service/default/front/http", "service/default/inventory/", "service/default/db/tcp", "outbound/x"},
		rt.VirtualHostType: {"outbound/inventory", "outbound/front", "edge/inventory"},
		rt.ListenerType:    {"inventory", "outbound/default/front/http"},
	} {
		for _, name := range names {
			if r := c.Find(typ, name); r != nil {
				t.Errorf("%s %q: %v", typ, name, r)
			}
		}
	}
	if Build(m, Node{ID: "unknown"}) != nil {
		t.Error("a node that is not in the model is told something")
	}
}

func TestNodeOf(t *testing.T) {
	md, err := structpb.NewStruct(map[string]any{"outrigger.dev": map[string]any{"listen": "127.0.0.1:1", "kind": "sidecar", "service": "other"}})
	if err != nil {
		t.Fatal(err)
	}
	got := NodeOf(&corev3.Node{Id: "envoy~default~front~00", Metadata: md})
	if want := (Node{ID: "envoy~default~front~00", Kind: Envoy, Tenant: "default", Service: "front", Listen: "127.0.0.1:1"}); got != want {
		t.Errorf("%+v", got)
	}
	if got := NodeOf(&corev3.Node{Id: "orders-1.0.0-0", Metadata: md}); got != (Node{ID: "orders-1.0.0-0"}) {
		t.Errorf("%+v: a sidecar's metadata says nothing of who it is", got)
	}
}

// What two conditions on the path take together.
func TestIntersection(t *testing.T) {
	b := &builder{kind: Sidecar}
	seg := func(s string) *resource.PathMatch { return &resource.PathMatch{Segments: s} }
	for _, c := range []struct {
		name    string
		a, b    condition
		keep    bool
		ok      bool
		exact   string
		headers []string
	}{
		{"disjoint methods", condition{method: "GET"}, condition{method: "PUT"}, false, false, "", nil},
		{"same method once", condition{method: "GET"}, condition{method: "GET"}, false, true, "", []string{":method"}},
		{"exact within segments", condition{path: seg("/v2")}, condition{path: &resource.PathMatch{Exact: "/v2/x"}}, false, true, "/v2/x", nil},
		{"exact outside segments", condition{path: seg("/v2")}, condition{path: &resource.PathMatch{Exact: "/v20"}}, false, false, "", nil},
		{"exact of a template", condition{path: &resource.PathMatch{Template: "/u/{id}"}}, condition{path: &resource.PathMatch{Exact: "/u/7"}}, false, true, "/u/7", nil},
		{"two exact", condition{path: &resource.PathMatch{Exact: "/a"}}, condition{path: &resource.PathMatch{Exact: "/b"}}, false, false, "", nil},
		{"segments and template", condition{path: seg("/v2")}, condition{path: &resource.PathMatch{Template: "/v2/{id}"}}, false, true, "", []string{":path"}},
		{"the first path is kept for its rewrite", condition{path: seg("/v2")}, condition{path: &resource.PathMatch{Exact: "/v2/x"}}, true, true, "", []string{":path"}},
		{"same path once", condition{path: seg("/v2")}, condition{path: seg("/v2")}, false, true, "", nil},
	} {
		m, ok := b.all([]condition{c.a, c.b}, c.keep)
		if ok != c.ok {
			t.Errorf("%s: %v", c.name, ok)
			continue
		}
		if !ok {
			continue
		}
		var names []string
		for _, h := range m.GetHeaders() {
			names = append(names, h.GetName())
		}
		if m.GetPath() != c.exact || !slices.Equal(names, c.headers) {
			t.Errorf("%s: %v", c.name, m)
		}
	}
}

// A rewrite of segments to / leaves no double slash: it takes two routes.
func TestRewrite(t *testing.T) {
	rc := Build(shop(t), Node{ID: "gateway-public"}).Listed(rt.RouteType)["gateway/public"].(*routev3.RouteConfiguration)
	found := 0
	for _, r := range rc.GetVirtualHosts()[0].GetRoutes() {
		switch a := r.GetRoute(); {
		case r.GetMatch().GetPrefix() == "/api/v2/" && a.GetPrefixRewrite() == "/": // the rule's rewrite, through the gateway's
			found += 10
		case r.GetMatch().GetPath() == "/api" && a.GetPrefixRewrite() == "/", r.GetMatch().GetPrefix() == "/api/" && a.GetPrefixRewrite() == "/":
			found++
		}
	}
	if found < 22 {
		t.Errorf("%d routes of the rewrite: %v", found, rc)
	}
}

func TestEnvoyAndGRPCAreToldNothingOfOurs(t *testing.T) {
	m := shop(t)
	for _, n := range []Node{
		{ID: "envoy~default~front~0", Kind: Envoy, Tenant: "default", Service: "front", Listen: "127.0.0.1:9701"},
		{ID: "grpc~default~front~0", Kind: GRPC, Tenant: "default", Service: "front"},
	} {
		c := Build(m, n)
		b := dump(t, c, nil)
		if bytes.Contains(b, []byte("outrigger.dev")) || bytes.Contains(b, []byte("outrigger.v1")) {
			t.Errorf("%s is told of ours", n.Kind)
		}
	}
	l := Build(m, Node{Kind: GRPC, Tenant: "default", Service: "front"}).Find(rt.ListenerType, "inventory").(*listenerv3.Listener)
	if l.GetApiListener() == nil || l.GetAddress() != nil {
		t.Errorf("%v", l)
	}
}
