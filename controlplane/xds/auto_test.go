package xds

import (
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rt "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/controlplane/resolve"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

// A port of protocol auto has a listener of two chains on both sides, and routes for what is HTTP; a gateway takes PROXY headers and listens on
// a Unix socket where it says so.
func TestAutoAndGateways(t *testing.T) {
	rs, errs := resource.Parse("x.yaml", []byte(`
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: store}
spec: {version: 1.0.0, ports: [{name: any, protocol: auto}], run: {command: [a]}, uses: []}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: app}
spec: {version: 1.0.0, ports: [{name: http, protocol: http}], run: {command: [a]}, uses: [store]}
---
apiVersion: outrigger.dev/v1
kind: Gateway
metadata: {name: socket}
spec: {listen: "unix:/run/edge.sock", socketMode: "0660", proxyProtocol: true, routes: [{service: store}]}
`))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if v := resource.ValidateSet(rs); len(v) > 0 {
		t.Fatal(v)
	}
	store, app := model.ServiceKey{Tenant: "default", Name: "store"}, model.ServiceKey{Tenant: "default", Name: "app"}
	m, errs := resolve.Resolve(resolve.Input{Revision: 1, Host: "here", Resources: rs, Locals: []*model.Local{
		{ID: "store-1.0.0-0", Service: store, Version: "1.0.0", Inbound: map[string]string{"any": "127.0.0.1:1"}, Process: map[string]string{"any": "127.0.0.1:2"}},
		{ID: "app-1.0.0-0", Service: app, Version: "1.0.0", Uses: map[model.PortKey]string{{ServiceKey: store, Port: "any"}: "127.0.0.1:3"}},
	}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	find := func(node, listener, routes string) *listenerv3.Listener {
		t.Helper()
		c := Build(m, Node{ID: node})
		if err := c.Errors(); err != nil {
			t.Fatal(err)
		}
		if c.Listed(rt.RouteType)[routes] == nil {
			t.Errorf("%s: no routes %s", node, routes)
		}
		l, _ := c.Listed(rt.ListenerType)[listener].(*listenerv3.Listener)
		if l == nil {
			t.Fatalf("%s: no listener %s", node, listener)
		}
		return l
	}
	for _, l := range []*listenerv3.Listener{
		find("store-1.0.0-0", xdsname.InboundListener("any"), xdsname.InboundListener("any")),
		find("app-1.0.0-0", xdsname.OutboundListener("default", "store", "any"), xdsname.ServiceRoutes("default", "store", "any")),
	} {
		if len(l.GetFilterChains()) != 1 || len(l.GetFilterChains()[0].GetFilterChainMatch().GetApplicationProtocols()) != 3 || l.GetDefaultFilterChain() == nil ||
			len(l.GetListenerFilters()) != 2 || !l.GetContinueOnListenerFiltersTimeout() || l.GetListenerFiltersTimeout().AsDuration() != sniffTime {
			t.Errorf("%v", l)
		}
	}
	g := find("gateway-socket", xdsname.GatewayListener("socket"), xdsname.GatewayListener("socket"))
	if p := g.GetAddress().GetPipe(); p.GetPath() != "/run/edge.sock" || p.GetMode() != 0o660 || len(g.GetListenerFilters()) != 1 {
		t.Errorf("%v", g)
	}
}
