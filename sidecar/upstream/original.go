package upstream

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

const (
	// sweepEvery is how often hosts that a destination made are looked through, as in Envoy (cleanup_interval), at the arrival of a
	// new one.
	sweepEvery = 5 * time.Second
	// unusedFor is how long such a host is kept after its last use.
	unusedFor = time.Minute
)

// originalPicker picks the place that the caller meant: a host is made for each at its first use, and let go of when it has been
// unused for a while. It is safe for concurrent use. Only what is passed through meets its lock.
type originalPicker struct {
	c       *Cluster
	sweptAt int64 // guarded by the cluster's mu
}

// Pick returns the endpoint of the request's destination; balancer.ErrNoEndpoint where it has none.
func (p *originalPicker) Pick(r *balancer.Request) (*balancer.Endpoint, error) {
	if !r.Destination.IsValid() {
		return nil, balancer.ErrNoEndpoint
	}
	c := p.c
	now := c.deps.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.byDst[r.Destination]
	if h == nil {
		p.sweep(now)
		address := r.Destination.String()
		h = newHost(c, &snapshot.EndpointSpec{Network: "tcp", Address: address})
		if c.byDst == nil {
			c.byDst = map[netip.AddrPort]*Host{}
		}
		c.byDst[r.Destination] = h
		c.hosts[address] = h
		c.order = append(c.order, h)
	}
	h.usedAt.Store(now)
	return h.Endpoint, nil
}

// Observe does nothing.
func (p *originalPicker) Observe(*balancer.Endpoint, balancer.Observation) {}

// sweep lets go of hosts that are not used any more. The cluster's mu is held.
func (p *originalPicker) sweep(now int64) {
	if now-p.sweptAt < int64(sweepEvery) {
		return
	}
	p.sweptAt = now
	c := p.c
	kept := c.order[:0]
	for _, h := range c.order {
		if h.Inflight() > 0 || now-h.usedAt.Load() < int64(unusedFor) {
			kept = append(kept, h)
			continue
		}
		c.retire(h)
		delete(c.hosts, h.Address)
	}
	clear(c.order[len(kept):])
	c.order = kept
	for dst, h := range c.byDst {
		if h.gone.Load() {
			delete(c.byDst, dst)
		}
	}
}
