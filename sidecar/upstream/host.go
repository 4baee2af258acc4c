package upstream

import (
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Host is an endpoint with what this process knows of it.
type Host struct {
	*balancer.Endpoint
	// Network is "tcp" or "unix".
	Network string
	// Hostname is the endpoint's own name, or "".
	Hostname string
	// More are further addresses of the endpoint.
	More    []string
	cluster *Cluster
	pools   []*Pool // by loop; each loop touches its own
	gone    atomic.Bool

	// Total and Failed count tries.
	Total, Failed atomic.Uint64

	usedAt    atomic.Int64  // of a host that a destination made, in the clock of balancer.Deps
	failures  atomic.Uint32 // in a row
	ejections uint32        // in a row; guarded by the cluster's mutex
	uneject   *time.Timer
}

func newHost(c *Cluster, s *snapshot.EndpointSpec) *Host {
	id := s.ID
	if id == "" {
		id = s.Address
	}
	e := balancer.NewEndpoint(id, s.Address)
	e.Version, e.Region, e.Zone, e.SubZone = s.Version, s.Region, s.Zone, s.SubZone
	network := s.Network
	if network == "" {
		network = "tcp"
	}
	h := &Host{Endpoint: e, Network: network, Hostname: s.Hostname, More: s.More, cluster: c, pools: make([]*Pool, len(c.table.loops))}
	e.Host = h
	return h
}

// Target is where a connection to the host is made to, and how.
func (h *Host) Target() loop.Target {
	return loop.Target{Network: h.Network, Address: h.Address, More: h.More, Socket: h.cluster.Config().Socket}
}

// Cluster returns the cluster that the host is part of.
func (h *Host) Cluster() *Cluster { return h.cluster }

// Pool returns the loop's connections to the host.
func (h *Host) Pool(l *loop.Loop, d Dialer) *Pool {
	p := h.pools[l.Index]
	if p == nil {
		p = &Pool{Host: h, Loop: l, dialer: d}
		p.h1.pool, p.h2.pool, p.raw.pool = p, p, p
		p.h2.mux = true
		h.pools[l.Index] = p
	}
	return p
}

// Result reports a try's end to passive health checking: failed means a transport failure or a 5xx.
func (h *Host) Result(cfg *snapshot.Cluster, failed bool) {
	h.Total.Add(1)
	h.cluster.Total.Add(1)
	if !failed {
		if h.failures.Load() != 0 {
			h.failures.Store(0)
		}
		return
	}
	h.Failed.Add(1)
	h.cluster.Failed.Add(1)
	if o := cfg.Outlier; o != nil && o.Consecutive5xx > 0 && h.failures.Add(1) >= o.Consecutive5xx {
		h.failures.Store(0)
		h.cluster.eject(h, o)
	}
}

// eject takes a host out of balancing for a while, unless too many are out already: MaxEjectionPercent, but one
// where there are two or more (Envoy ejects at least one; we leave a lone endpoint in).
func (c *Cluster) eject(h *Host, o *snapshot.Outlier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.order)
	if n < 2 || h.gone.Load() {
		return
	}
	allowed := max(n*int(o.MaxEjectionPercent)/100, 1)
	if c.ejected >= allowed || !h.Mark(balancer.Ejected, true) {
		return
	}
	c.ejected++
	d := o.BaseEjection << min(h.ejections, 16)
	if d <= 0 || d > o.MaxEjection {
		d = o.MaxEjection
	}
	h.ejections++
	h.uneject = time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if h.Mark(balancer.Ejected, false) {
			c.ejected--
		}
	})
}

// SetHealthy records what active health checking found; it says whether that changed anything.
func (h *Host) SetHealthy(ok bool) bool { return h.Mark(balancer.Failing, !ok) }
