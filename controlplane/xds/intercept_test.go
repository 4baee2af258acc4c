package xds

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rt "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/controlplane/resolve"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

// intercepting is a mesh of which front is intercepted; egress is what it says of that.
func intercepting(t *testing.T, egress string) *model.Model {
	t.Helper()
	b, err := os.ReadFile("testdata/intercept.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rs, errs := resource.Parse("intercept.in.yaml", b)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	resource.Of(rs, func(_ *resource.Resource, s *resource.Service) {
		if s.Intercept != nil {
			s.Intercept.Egress = egress
		}
	})
	m, errs := resolve.Resolve(resolve.Input{
		Revision: 1, Host: "here", Resources: rs,
		Locals: []*model.Local{{
			ID: "front-1.0.0-0", Service: model.ServiceKey{Tenant: "default", Name: "front"}, Version: "1.0.0",
			Inbound: map[string]string{"http": "127.0.0.1:9001"}, Process: map[string]string{"http": "127.0.0.1:9101"},
			Intercept: &model.Intercept{Outbound: []string{"127.0.0.1:9201", "[::1]:9201"}, Inbound: map[string]string{"http": "[::]:9301"}},
		}},
	})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return m
}

func TestIntercept(t *testing.T) {
	for _, egress := range []string{resource.EgressAllow, resource.EgressDeny} {
		cfg := Build(intercepting(t, egress), Node{ID: "front-1.0.0-0"})
		if err := cfg.Errors(); err != nil {
			t.Fatal(err)
		}
		got := dump(t, cfg, nil)
		file := filepath.Join("testdata", "intercept-"+egress+".out.json")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s differs: go test -update shows how", file)
		}
	}
}

// TestInterceptAddresses: each address of a service has one unbound listener, in one family or the other, and no place else does.
func TestInterceptAddresses(t *testing.T) {
	cfg := Build(intercepting(t, ""), Node{ID: "front-1.0.0-0"})
	var unbound []string
	for name, m := range cfg.Listed(rt.ListenerType) {
		l := m.(*listenerv3.Listener)
		if l.GetBindToPort() == nil || l.GetBindToPort().GetValue() {
			continue
		}
		s := l.GetAddress().GetSocketAddress()
		a := netip.AddrPortFrom(netip.MustParseAddr(s.GetAddress()), uint16(s.GetPortValue()))
		unbound = append(unbound, a.String())
		if l.GetUseOriginalDst().GetValue() {
			t.Errorf("%s hands over, and has no socket to do so", name)
		}
	}
	slices.Sort(unbound)
	// The External's endpoints by IP address are among them; the one by name, and what is loopback's, are not. Two services
	// that claim one address do not make two listeners.
	want := []string{"10.96.0.10:80", "10.96.0.20:5432", "192.0.2.7:443", "[fd00::10]:80"}
	if !slices.Equal(unbound, want) {
		t.Errorf("unbound are %v, want %v", unbound, want)
	}
	// By Host every service that is used is found, and the last takes the rest.
	rc := cfg.Listed(rt.RouteType)[xdsname.Intercept].(*routev3.RouteConfiguration)
	var domains []string
	for _, vh := range rc.GetVirtualHosts() {
		domains = append(domains, vh.GetDomains()...)
	}
	if want := []string{"orders", "orders.localhost", "*"}; !slices.Equal(domains, want) {
		t.Errorf("domains are %v, want %v", domains, want)
	}
}
