package host

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/intercept"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/pool"
)

// unit is what has a pool: a version of a service, or a gateway. plan makes it, and it is not changed then; only pool and
// gone are set later.
type unit struct {
	name    string // orders@1.0.0, gateway-public, edge
	service model.ServiceKey
	version string
	spec    *resource.Service // nil: a gateway
	ports   []model.Port
	uses    []model.PortKey
	gateway *model.Gateway
	ids     []string
	// rank is the place in the order of starting: after all that it starts after. Gateways come last.
	rank int
	// under is the Supervisor resource that has it, the zero key for none.
	under SupervisorKey

	pool     *pool.Pool
	locals   map[string]*model.Local // by instance
	rules    map[string]intercept.Rules
	wasReady map[string]bool // sidecars that were ready in this run of the process; Host.mu
	gone     chan struct{}   // not nil while it is being removed; closed when it has been
}

func (u *unit) compare(o *unit) int {
	return cmp.Or(cmp.Compare(u.rank, o.rank), u.service.Compare(o.service), cmp.Compare(u.name, o.name))
}

func (u *unit) kind() supervisor.Kind {
	if u.spec != nil && u.spec.Run.Restart != nil {
		switch u.spec.Run.Restart.When {
		case resource.Transient:
			return supervisor.Transient
		case resource.Temporary:
			return supervisor.Temporary
		}
	}
	return supervisor.Permanent
}

// after is what its start waits for.
func (u *unit) after() resource.After {
	if u.spec == nil || u.spec.Run.Start == nil {
		return nil
	}
	return u.spec.Run.Start.After
}

// instanceID makes an instance's id, as docs/architecture.md has it.
func instanceID(k model.ServiceKey, version string, slot int) string {
	return fmt.Sprintf("%s-%s-%d", k, version, slot)
}

// plan says which units there are to be, by name, in the order of starting. It is pure.
func plan(in Input) []*unit {
	m := in.Model
	under := placement(in.Supervisors)
	var out []*unit
	for _, k := range slices.SortedFunc(maps.Keys(m.Services), model.ServiceKey.Compare) {
		s := m.Services[k]
		for _, v := range s.Versions {
			if !v.Here || v.Spec == nil || v.Spec.Run == nil {
				continue
			}
			u := &unit{name: k.String() + "@" + v.Version, service: k, version: v.Version, spec: v.Spec, ports: v.Ports, under: under[k]}
			size := resource.DefaultPoolSize
			if v.Spec.Pool != nil && v.Spec.Pool.Size != nil {
				size = *v.Spec.Pool.Size
			}
			for slot := range size {
				u.ids = append(u.ids, instanceID(k, v.Version, slot))
			}
			for _, used := range v.Uses {
				if t := m.Services[used]; t != nil {
					for _, p := range t.Ports {
						u.uses = append(u.uses, model.PortKey{ServiceKey: used, Port: p.Name})
					}
				}
			}
			out = append(out, u)
		}
	}
	rank(out, in.Supervisors)
	last := 0
	for _, u := range out {
		last = max(last, u.rank)
	}
	for _, g := range m.Gateways {
		out = append(out, &unit{name: g.Node, service: model.ServiceKey{Tenant: g.Tenant, Name: g.Name}, gateway: g, ids: []string{g.Node}, rank: last + 1})
	}
	slices.SortFunc(out, (*unit).compare)
	return out
}

// placement says which Supervisor has each service.
func placement(sups map[SupervisorKey]*resource.Supervisor) map[model.ServiceKey]SupervisorKey {
	out := map[model.ServiceKey]SupervisorKey{}
	for key, s := range sups {
		for _, c := range s.Children {
			if c.Service != "" {
				out[model.ServiceKey{Tenant: key.Tenant, Name: c.Service}] = key
			}
		}
	}
	return out
}

// rank numbers the units so that each comes after those that it starts after, and after the earlier children of its
// Supervisor. A cycle, which Validate refuses, is cut where it is met.
func rank(units []*unit, sups map[SupervisorKey]*resource.Supervisor) {
	before := map[model.ServiceKey][]model.ServiceKey{}
	of := map[model.ServiceKey][]*unit{}
	for _, u := range units {
		of[u.service] = append(of[u.service], u)
		for _, d := range u.after() {
			before[u.service] = append(before[u.service], model.ServiceKey{Tenant: u.service.Tenant, Name: d.Service})
		}
	}
	for key, s := range sups {
		var prev []model.ServiceKey
		for _, c := range ordered(s) {
			below := servicesBelow(key, c, sups, map[SupervisorKey]bool{})
			for _, k := range below {
				before[k] = append(before[k], prev...)
			}
			prev = append(prev, below...)
		}
	}
	ranks, open := map[model.ServiceKey]int{}, map[model.ServiceKey]bool{}
	var visit func(model.ServiceKey) int
	visit = func(k model.ServiceKey) int {
		if r, ok := ranks[k]; ok {
			return r
		}
		if open[k] {
			return 0
		}
		open[k] = true
		r := 0
		for _, b := range before[k] {
			r = max(r, visit(b)+1)
		}
		ranks[k] = r
		return r
	}
	for k, us := range of {
		for _, u := range us {
			u.rank = visit(k)
		}
	}
}

// ordered lists a Supervisor's children in the order of starting.
func ordered(s *resource.Supervisor) []resource.SupervisorChild {
	out := slices.Clone(s.Children)
	slices.SortStableFunc(out, func(a, b resource.SupervisorChild) int { return cmp.Compare(a.Order, b.Order) })
	return out
}

func servicesBelow(key SupervisorKey, c resource.SupervisorChild, sups map[SupervisorKey]*resource.Supervisor, seen map[SupervisorKey]bool) []model.ServiceKey {
	if c.Service != "" {
		return []model.ServiceKey{{Tenant: key.Tenant, Name: c.Service}}
	}
	below := SupervisorKey{key.Tenant, c.Supervisor}
	s := sups[below]
	if s == nil || seen[below] {
		return nil
	}
	seen[below] = true
	var out []model.ServiceKey
	for _, c := range ordered(s) {
		out = append(out, servicesBelow(below, c, sups, seen)...)
	}
	return out
}

// named says whether a user's name means this instance: a service, service@version, or an id.
func (u *unit) named(tenant, name, id string) bool {
	if name == id || name == u.name {
		return true
	}
	if tenant == "" {
		tenant = resource.DefaultTenant
	}
	if u.service.Tenant != tenant {
		return false
	}
	service, version, has := strings.Cut(name, "@")
	return service == u.service.Name && (!has || version == u.version)
}
