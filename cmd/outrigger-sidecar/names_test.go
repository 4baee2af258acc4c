package main

import (
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// A cluster's host names become addresses by the system's resolver; a literal one needs none, and a cluster that is looked up no more
// has what it is told.
func TestHostNames(t *testing.T) {
	p, err := newDataPath(dataPathDeps{Sockets: ownSockets{}, Stats: stat.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := p.Sink()
	set := func(d *snapshot.DNS, addr string) {
		t.Helper()
		if err := s.SetCluster(&snapshot.Cluster{Name: "c", DNS: d, Strategy: roundrobin.Strategy{}}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetEndpoints("c", []snapshot.EndpointSpec{{ID: addr, Address: addr, Weight: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	address := func() string {
		var out []string
		for _, h := range p.Table().Cluster("c").Hosts() {
			out = append(out, h.Address)
		}
		return strings.Join(out, " ")
	}
	wait := func(want string) {
		t.Helper()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for end := time.After(10 * time.Second); address() != want || !p.names.Ready("c"); {
			select {
			case <-tick.C:
			case <-end:
				t.Fatalf("%q, want %q", address(), want)
			}
		}
	}
	set(&snapshot.DNS{Refresh: time.Minute, Family: snapshot.V4Only}, "localhost:80")
	wait("127.0.0.1:80")
	set(&snapshot.DNS{Refresh: time.Minute}, "[2001:db8::1]:80")
	wait("[2001:db8::1]:80")
	set(nil, "10.0.0.1:80")
	wait("10.0.0.1:80")
	s.Remove("c")
	if p.Table().Cluster("c") != nil {
		t.Error("it is still there")
	}
}
