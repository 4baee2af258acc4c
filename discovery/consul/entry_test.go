package consul

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/discovery"
)

func TestForeign(t *testing.T) {
	base := discovery.Endpoint{
		ID: "n1/s1", Tenant: "default", Service: "billing", Address: "10.0.0.1", Port: 80, PortName: "http",
		Protocol: discovery.HTTP, Health: discovery.Healthy, Weight: 1, Host: "n1",
	}
	with := func(fn func(e *discovery.Endpoint)) []discovery.Endpoint {
		e := base
		fn(&e)
		return []discovery.Endpoint{e}
	}
	for _, tc := range []struct {
		name string
		svc  api.AgentService
		node api.Node
		ch   string
		want []discovery.Endpoint
	}{
		{name: "plain", svc: api.AgentService{Port: 80}, want: []discovery.Endpoint{base}},
		{name: "own address", svc: api.AgentService{Port: 80, Address: "10.0.0.2"}, want: with(func(e *discovery.Endpoint) { e.Address = "10.0.0.2" })},
		{
			name: "meta", svc: api.AgentService{Port: 80, Tags: []string{"tcp", "v9.9.9"}, Meta: map[string]string{"protocol": "GRPC", "version": "1.2.0"}},
			want: with(func(e *discovery.Endpoint) {
				e.Protocol, e.PortName, e.Version = discovery.GRPC, "grpc", "1.2.0"
				e.Metadata = map[string]string{"protocol": "GRPC", "version": "1.2.0"}
			}),
		},
		{
			name: "tags", svc: api.AgentService{Port: 80, Tags: []string{"primary", "tcp", "v1.4.2-rc.1"}},
			want: with(func(e *discovery.Endpoint) { e.Protocol, e.PortName, e.Version = discovery.TCP, "tcp", "1.4.2-rc.1" }),
		},
		{
			name: "version tag", svc: api.AgentService{Port: 80, Tags: []string{"version=blue"}},
			want: with(func(e *discovery.Endpoint) { e.Version = "blue" }),
		},
		{
			name: "unknown protocol", svc: api.AgentService{Port: 80, Meta: map[string]string{"protocol": "smtp"}},
			want: with(func(e *discovery.Endpoint) { e.Metadata = map[string]string{"protocol": "smtp"} }),
		},
		{
			name: "warning", svc: api.AgentService{Port: 80, Weights: api.AgentWeights{Passing: 10, Warning: 3}}, ch: api.HealthWarning,
			want: with(func(e *discovery.Endpoint) { e.Health, e.Weight = discovery.Degraded, 3 }),
		},
		{
			name: "critical", svc: api.AgentService{Port: 80}, ch: api.HealthCritical,
			want: with(func(e *discovery.Endpoint) { e.Health = discovery.Unhealthy }),
		},
		{
			name: "zone of the node", svc: api.AgentService{Port: 80}, node: api.Node{Meta: map[string]string{"zone": "z2"}},
			want: with(func(e *discovery.Endpoint) { e.Zone = "z2" }),
		},
		{name: "no port", svc: api.AgentService{}},
		{name: "a proxy of Consul's", svc: api.AgentService{Port: 80, Kind: api.ServiceKindConnectProxy}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.svc.ID, tc.svc.Service = "s1", "billing"
			tc.node.Node, tc.node.Address = "n1", "10.0.0.1"
			entry := &api.ServiceEntry{Node: &tc.node, Service: &tc.svc}
			if tc.ch != "" {
				entry.Checks = api.HealthChecks{{Status: tc.ch}}
			}
			if got := endpoints(entry); !slices.EqualFunc(got, tc.want, discovery.Endpoint.Equal) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func instance() Instance {
	return Instance{
		ID: "orders-1.0.0-0", Tenant: "blue", Service: "orders", Version: "1.0.0", Host: "h1", Zone: "z1", Weight: 5,
		Ports: []Port{
			{Name: "http", Addr: netip.MustParseAddrPort("127.0.0.1:8000")},
			{Name: "rpc", Protocol: discovery.GRPC, Addr: netip.MustParseAddrPort("[::1]:8001")},
		},
		Metadata: map[string]string{"team": "shop"},
	}
}

func TestOurs(t *testing.T) {
	reg := instance().registration(Options{})
	if reg.Name != "blue.orders" || reg.ID != "orders-1.0.0-0" || reg.Address != "127.0.0.1" || reg.Port != 8000 {
		t.Errorf("registration is %+v", reg)
	}
	for _, c := range reg.Checks {
		if c.TTL != "" || c.DeregisterCriticalServiceAfter == "" {
			t.Errorf("check is %+v", c)
		}
	}
	svc := &api.AgentService{
		ID: reg.ID, Service: reg.Name, Address: reg.Address, Port: reg.Port, Meta: reg.Meta, Weights: *reg.Weights,
	}
	if !registered(svc, reg) {
		t.Error("what was registered is not recognised")
	}
	got := endpoints(&api.ServiceEntry{Node: &api.Node{Node: "n1"}, Service: svc})
	base := discovery.Endpoint{
		ID: "n1/orders-1.0.0-0", Instance: "orders-1.0.0-0", Tenant: "blue", Service: "orders", Version: "1.0.0", Host: "h1", Zone: "z1",
		Weight: 5, Health: discovery.Healthy, Ours: true, Metadata: map[string]string{"team": "shop"},
	}
	one, two := base, base
	one.PortName, one.Protocol, one.Address, one.Port = "http", discovery.HTTP, "127.0.0.1", 8000
	two.PortName, two.Protocol, two.Address, two.Port = "rpc", discovery.GRPC, "::1", 8001
	if want := []discovery.Endpoint{one, two}; !slices.EqualFunc(got, want, discovery.Endpoint.Equal) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spoil  func(i *Instance)
		reason string
	}{
		{"good", func(*Instance) {}, ""},
		{"id", func(i *Instance) { i.ID = "a/b" }, "slashes"},
		{"service", func(i *Instance) { i.Service = "" }, "no service"},
		{"ports", func(i *Instance) { i.Ports = nil }, "no port"},
		{"port name", func(i *Instance) { i.Ports[0].Name = "a b" }, "a b"},
		{"same port name", func(i *Instance) { i.Ports[0].Name = "rpc" }, "two ports"},
		{"protocol", func(i *Instance) { i.Ports[0].Protocol = "smtp" }, "smtp"},
		{"address", func(i *Instance) { i.Ports[0].Addr = netip.MustParseAddrPort("0.0.0.0:80") }, "connect to"},
		{"URL", func(i *Instance) { i.HealthURL = "/healthz" }, "/healthz"},
		{"metadata of ours", func(i *Instance) { i.Metadata = map[string]string{"tenant": "x"} }, "own"},
		{"metadata key", func(i *Instance) { i.Metadata = map[string]string{"a.b": "x"} }, "a.b"},
		{"metadata value", func(i *Instance) { i.Metadata = map[string]string{"a": strings.Repeat("x", 600)} }, "512"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := instance()
			i.Ports = slices.Clone(i.Ports)
			tc.spoil(&i)
			err := i.Validate()
			if tc.reason == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("got %v, want it to say %q", err, tc.reason)
			}
		})
	}
}
