package main

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/console"
	"github.com/outrigger-mesh/outrigger/sidecar/dns"
	"github.com/outrigger-mesh/outrigger/sidecar/probe"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// sockets gives out listening sockets: the runner's, where there is one.
type sockets interface {
	// Listen returns a listening socket, which the caller closes, and its actual address.
	Listen(ctx context.Context, name, network, address string) (*os.File, string, error)
	// Release says that the listener is no longer configured.
	Release(name string)
}

// dataPathDeps are what the data path is made of.
type dataPathDeps struct {
	Sockets sockets
	Stats   *stat.Registry
	Log     *slog.Logger
	// Overload is what the whole sidecar's limits are.
	Overload overload.Config
	// HealthChanged is to be called when Health returns something new.
	HealthChanged func()
}

// dataPath is what carries the calls: the proxy, and the prober of its upstreams. Its methods are safe for
// concurrent use.
type dataPath struct {
	*proxy.Server
	prober *probe.Prober
	names  *dns.Resolver
}

// newDataPath is the one place where the data path is wired in.
func newDataPath(d dataPathDeps) (*dataPath, error) {
	srv, err := proxy.New(proxy.Options{Sockets: d.Sockets, Stats: d.Stats, Log: d.Log, Overload: &d.Overload})
	if err != nil {
		return nil, err
	}
	p := &dataPath{Server: srv, prober: probe.New(srv.Table(), d.Log, d.HealthChanged)}
	p.names = dns.New(dns.Options{Log: d.Log, Apply: func(cluster string, eps []snapshot.EndpointSpec) error {
		err := srv.Table().SetEndpoints(cluster, eps)
		p.prober.Refresh()
		return err
	}})
	return p, nil
}

// Sink is the table of upstreams, which also tells the prober of changes.
func (p *dataPath) Sink() compile.Sink {
	return &sink{p.Table(), p.prober, p.names, map[string]*snapshot.DNS{}}
}

type sink struct {
	*upstream.Table
	prober *probe.Prober
	names  *dns.Resolver
	dns    map[string]*snapshot.DNS // of the clusters whose host names are looked up
}

func (s *sink) SetCluster(c *snapshot.Cluster) error {
	err := s.Table.SetCluster(c)
	if err == nil {
		if delete(s.dns, c.Name); c.DNS != nil {
			s.dns[c.Name] = c.DNS
		} else {
			s.names.Remove(c.Name)
		}
	}
	s.prober.Refresh()
	return err
}

func (s *sink) SetEndpoints(cluster string, eps []snapshot.EndpointSpec) error {
	if d := s.dns[cluster]; d != nil {
		s.names.Set(cluster, *d, eps)
		return nil
	}
	err := s.Table.SetEndpoints(cluster, eps)
	s.prober.Refresh()
	return err
}

func (s *sink) Remove(cluster string) {
	delete(s.dns, cluster)
	s.names.Remove(cluster)
	s.Table.Remove(cluster)
	s.prober.Refresh()
}

// Health is what the prober knows, for the control plane.
func (p *dataPath) Health() []*outriggerv1.EndpointHealth {
	var hs []*outriggerv1.EndpointHealth
	for _, r := range p.prober.Results() {
		h := &outriggerv1.EndpointHealth{Cluster: r.Cluster, Address: r.Address, Reason: r.Reason, Since: timestamppb.New(r.Since)}
		switch r.State {
		case probe.Healthy:
			h.State = outriggerv1.EndpointHealth_STATE_HEALTHY
		case probe.Unhealthy:
			h.State = outriggerv1.EndpointHealth_STATE_UNHEALTHY
		default:
			h.State = outriggerv1.EndpointHealth_STATE_UNKNOWN
		}
		hs = append(hs, h)
	}
	return hs
}

// Clusters is what the console shows of the upstreams.
func (p *dataPath) Clusters() []console.Cluster {
	var cs []console.Cluster
	for _, c := range p.Table().Clusters() {
		k := console.Cluster{Name: c.ClusterName(), Strategy: c.Config().Strategy.Name(), Counters: map[string]uint64{
			"tries": c.Total.Load(), "failed": c.Failed.Load(), "retries": c.Retries.Load(),
			"active": uint64(max(c.Active(), 0)), "pending": uint64(max(c.Pending(), 0)), "connections": uint64(max(c.Connections(), 0)),
		}}
		for _, l := range upstream.Limits() {
			n := c.Overflow(l)
			k.Counters["overflow"] += n
			k.Counters["overflow."+l.String()] = n
		}
		for _, h := range c.Hosts() {
			k.Endpoints = append(k.Endpoints, endpoint(h))
		}
		cs = append(cs, k)
	}
	return cs
}

func endpoint(h *upstream.Host) console.Endpoint {
	return console.Endpoint{
		ID: h.ID, Address: h.Address, Version: h.Version, Zone: h.Zone, Weight: h.Weight(), Priority: h.Priority(),
		Health: health(h.State()), Inflight: h.Inflight(), Counters: map[string]uint64{"tries": h.Total.Load(), "failed": h.Failed.Load()},
	}
}

// health names the reasons for which an endpoint is not chosen.
func health(state uint32) string {
	var why []string
	for _, r := range []struct {
		bit  uint32
		name string
	}{
		{balancer.Unhealthy, "unhealthy"},
		{balancer.Failing, "failing its health check"},
		{balancer.Ejected, "ejected"},
		{balancer.Draining, "draining"},
		{balancer.Full, "full"},
	} {
		if state&r.bit != 0 {
			why = append(why, r.name)
		}
	}
	if why == nil {
		return "healthy"
	}
	return strings.Join(why, ",")
}

// Close ends everything at once.
func (p *dataPath) Close() {
	p.names.Close()
	p.prober.Close()
	p.Server.Close()
}
