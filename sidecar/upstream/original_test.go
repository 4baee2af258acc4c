package upstream

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func TestOriginalPicker(t *testing.T) {
	now := int64(time.Hour)
	tb := NewTable(nil, balancer.Deps{Now: func() int64 { return now }, Rand: balancer.DefaultRand})
	if err := tb.SetCluster(&snapshot.Cluster{Name: "through", OriginalDst: true, Strategy: roundrobin.Strategy{}}); err != nil {
		t.Fatal(err)
	}
	c := tb.Cluster("through")
	pick := func(dst string) *balancer.Endpoint {
		t.Helper()
		e, err := c.Picker().Pick(&balancer.Request{Destination: netip.MustParseAddrPort(dst)})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if _, err := c.Picker().Pick(&balancer.Request{}); !errors.Is(err, balancer.ErrNoEndpoint) {
		t.Errorf("without a destination: %v", err)
	}
	a, six := pick("10.0.0.1:80"), pick("[2001:db8::1]:80")
	if a.Address != "10.0.0.1:80" || six.Address != "[2001:db8::1]:80" {
		t.Errorf("picked %s and %s", a.Address, six.Address)
	}
	if pick("10.0.0.1:80") != a {
		t.Error("a second pick made another endpoint")
	}
	// A configuration anew keeps what is known.
	if err := tb.SetCluster(&snapshot.Cluster{Name: "through", OriginalDst: true, Strategy: roundrobin.Strategy{}, ConnectTimeout: time.Second}); err != nil {
		t.Fatal(err)
	}
	if pick("10.0.0.1:80") != a {
		t.Error("a new configuration made another endpoint")
	}
	// Unused ones are let go of when another comes, but not one that has something in flight.
	six.AddInflight(1)
	now += int64(2 * unusedFor)
	pick("10.0.0.2:80")
	if n := len(c.Hosts()); n != 2 {
		t.Errorf("%d hosts, want the one in flight and the new one", n)
	}
	if pick("[2001:db8::1]:80") != six {
		t.Error("the endpoint in flight was let go of")
	}
	if pick("10.0.0.1:80") == a {
		t.Error("the unused endpoint was not let go of")
	}
	r, p := &balancer.Request{Destination: netip.MustParseAddrPort("10.0.0.2:80")}, c.Picker()
	if allocs := testing.AllocsPerRun(100, func() {
		if _, err := p.Pick(r); err != nil {
			t.Fatal(err)
		}
	}); allocs > 0 {
		t.Errorf("a pick allocates %v times", allocs)
	}
	tb.Remove("through")
	if n := len(c.Hosts()); n != 0 {
		t.Errorf("%d hosts of a cluster that is gone", n)
	}
}
