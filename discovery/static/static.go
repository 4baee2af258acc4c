// Package static is the discovery source of endpoints that are written down. They are there at once, and change only when
// they are replaced.
package static

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/outrigger-mesh/outrigger/discovery"
)

// Source holds a list of endpoints. All methods are safe for concurrent use.
type Source struct {
	mu      sync.Mutex
	eps     []discovery.Endpoint
	changed chan struct{} // closed when eps is replaced
}

var _ discovery.Source = (*Source)(nil)

// New returns a source of eps, which it copies. What an endpoint leaves empty becomes: tenant "default", protocol http, the
// port's name its protocol, weight 1. An error names the first endpoint without an id, service, address or port, with a
// protocol that is none, or with the id and port name of another.
func New(eps ...discovery.Endpoint) (*Source, error) {
	s := &Source{changed: make(chan struct{})}
	if err := s.Replace(eps...); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace puts eps in the place of what was there; New tells of defaults and errors. With an error nothing changes.
func (s *Source) Replace(eps ...discovery.Endpoint) error {
	next := slices.Clone(eps)
	type identity struct{ tenant, id, port string }
	seen := make(map[identity]bool, len(next))
	for i := range next {
		e := &next[i]
		if e.Tenant == "" {
			e.Tenant = discovery.DefaultTenant
		}
		if e.Protocol == "" {
			e.Protocol = discovery.HTTP
		}
		if e.PortName == "" {
			e.PortName = string(e.Protocol)
		}
		if e.Weight == 0 {
			e.Weight = 1
		}
		switch {
		case e.ID == "":
			return fmt.Errorf("endpoint %d of service %q has no id", i, e.Service)
		case e.Service == "":
			return fmt.Errorf("endpoint %q has no service", e.ID)
		case e.Address == "":
			return fmt.Errorf("endpoint %q has no address", e.ID)
		case e.Port == 0:
			return fmt.Errorf("endpoint %q has no port", e.ID)
		case !e.Protocol.Valid():
			return fmt.Errorf("endpoint %q: protocol %q: want http, grpc, websocket, tcp or auto", e.ID, e.Protocol)
		}
		id := identity{e.Tenant, e.ID, e.PortName}
		if seen[id] {
			return fmt.Errorf("two endpoints of id %q and port name %q", e.ID, e.PortName)
		}
		seen[id] = true
	}
	discovery.Sort(next)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.EqualFunc(s.eps, next, discovery.Endpoint.Equal) && s.eps != nil {
		return nil
	}
	s.eps = next
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// Watch tells the endpoints that q wants, at once and whenever Replace has changed them.
func (s *Source) Watch(ctx context.Context, q discovery.Query, sink func(discovery.Update)) error {
	var told []discovery.Endpoint
	for first := true; ; first = false {
		s.mu.Lock()
		all, changed := s.eps, s.changed
		s.mu.Unlock()
		var eps []discovery.Endpoint
		for _, e := range all {
			if q.Matches(e) {
				eps = append(eps, e)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if first || !slices.EqualFunc(told, eps, discovery.Endpoint.Equal) {
			sink(discovery.Update{Endpoints: eps})
			told = eps
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
