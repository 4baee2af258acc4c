// Package resolve makes the model of resources and of what discovery found: a pure function, with no clock, no host and no
// network in it. Equal inputs give equal models, whatever the order they come in.
//
// What one resource may say is checked in api/resource; here references are followed. A reference that leads nowhere is a
// violation and is left out; all else of the model is whole. How the model is told to sidecars is controlplane/xds.
package resolve

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/Masterminds/semver/v3"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/discovery"
)

// Input is all that a model is made of. Resolve keeps references into it: it must not change afterwards.
type Input struct {
	// Revision is the resources' revision.
	Revision uint64
	// Host is this host's name.
	Host string
	// Resources are valid each by itself, in any order.
	Resources []*resource.Resource
	// Discovered are the endpoints that discovery found, this host's own among them, in any order.
	Discovered []discovery.Endpoint
	// Draining are the ids of instances that take no new calls.
	Draining map[string]bool
	// Locals are this host's instances, in any order.
	Locals []*model.Local
	// Edge is where the edge listens, "" for no edge. It serves the default tenant.
	Edge string
	// SystemCA is the file of the CAs that this host trusts, "" where there is none.
	SystemCA string
}

// Resolve makes the model. The violations name references that lead nowhere, sorted by resource and path.
func Resolve(in Input) (*model.Model, resource.Violations) {
	r := &resolver{in: in, m: &model.Model{
		Revision: in.Revision, Host: in.Host,
		Services: map[model.ServiceKey]*model.Service{},
		Locals:   map[string]*model.Local{},
	}}
	sorted := slices.SortedFunc(slices.Values(in.Resources), func(a, b *resource.Resource) int {
		switch ka, kb := a.Key(), b.Key(); {
		case ka.Less(kb):
			return -1
		case kb.Less(ka):
			return 1
		}
		return 0
	})
	resource.Of(sorted, r.service)
	resource.Of(sorted, r.external)
	r.discovered()
	r.ports()
	resource.Of(sorted, r.uses)
	r.policies(sorted)
	resource.Of(sorted, r.split)
	resource.Of(sorted, r.route)
	for _, s := range r.m.Services {
		sortRules(s.Rules)
		slices.SortFunc(s.Endpoints, func(a, b *model.Endpoint) int {
			return cmp.Or(CompareVersions(a.Version, b.Version), cmp.Compare(a.Instance, b.Instance),
				cmp.Compare(fmt.Sprint(a.Addresses), fmt.Sprint(b.Addresses)))
		})
	}
	resource.Of(sorted, r.gateway)
	if in.Edge != "" {
		r.m.Gateways = append(r.m.Gateways, &model.Gateway{
			Tenant: resource.DefaultTenant, Name: "edge", Node: "edge", Edge: true, Listen: in.Edge,
		})
	}
	for _, l := range in.Locals {
		r.m.Locals[l.ID] = l
	}
	slices.SortStableFunc(r.violations, func(a, b resource.Violation) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return r.m, r.violations
}

type resolver struct {
	in         Input
	m          *model.Model
	violations resource.Violations
}

func (r *resolver) violation(res *resource.Resource, path, format string, args ...any) {
	file, line := res.File()
	r.violations = append(r.violations, resource.Violation{
		File: file, Line: line, Resource: res.Key().String(), Path: path, Message: fmt.Sprintf(format, args...),
	})
}

// CompareVersions orders versions as semantic versioning does; what is not a version comes first, by bytes.
func CompareVersions(a, b string) int {
	va, ea := semver.StrictNewVersion(a)
	vb, eb := semver.StrictNewVersion(b)
	switch {
	case ea != nil && eb != nil:
		return cmp.Compare(a, b)
	case ea != nil:
		return -1
	case eb != nil:
		return 1
	}
	return cmp.Or(va.Compare(vb), cmp.Compare(a, b))
}

// known returns the service of a key, made where it is not there yet.
func (r *resolver) known(k model.ServiceKey) *model.Service {
	s := r.m.Services[k]
	if s == nil {
		s = &model.Service{ServiceKey: k}
		r.m.Services[k] = s
	}
	return s
}

// version returns a version of s, made where it is not there yet, in order.
func version(s *model.Service, name string) *model.Version {
	i, found := slices.BinarySearchFunc(s.Versions, name, func(v *model.Version, n string) int {
		return CompareVersions(v.Version, n)
	})
	if !found {
		s.Versions = slices.Insert(s.Versions, i, &model.Version{Version: name})
	}
	return s.Versions[i]
}

// named finds a service that a resource refers to by name, in the resource's own tenant.
func (r *resolver) named(res *resource.Resource, path, name string) *model.Service {
	s := r.m.Services[model.ServiceKey{Tenant: res.Tenant(), Name: name}]
	if s == nil {
		r.violation(res, path, "there is no service %q", name)
	}
	return s
}

func (r *resolver) service(res *resource.Resource, spec *resource.Service) {
	s := r.known(model.ServiceKey{Tenant: res.Tenant(), Name: res.Name()})
	v := version(s, spec.Version)
	v.Spec = spec
	v.Here = placed(spec.Placement, r.in.Host)
	for _, p := range spec.Ports {
		v.Ports = append(v.Ports, model.Port{Name: p.Name, Protocol: p.Protocol})
		addresses(s, p)
	}
}

// addresses adds those of one version's port to the service's.
func addresses(s *model.Service, p resource.Port) {
	for _, text := range p.Addresses {
		a, err := netip.ParseAddrPort(text)
		if err != nil { // refused by Validate
			continue
		}
		if s.Addresses == nil {
			s.Addresses = map[string][]netip.AddrPort{}
		}
		if i, found := slices.BinarySearchFunc(s.Addresses[p.Name], a, netip.AddrPort.Compare); !found {
			s.Addresses[p.Name] = slices.Insert(s.Addresses[p.Name], i, a)
		}
	}
}

// placed says whether a placement takes in host. Where none is written it takes in every one: apply has already
// narrowed it to the host where it was said.
func placed(p *resource.Placement, host string) bool {
	return p == nil || len(p.Hosts) == 0 || slices.ContainsFunc(p.Hosts, func(h string) bool { return h == "*" || h == host })
}

func (r *resolver) external(res *resource.Resource, spec *resource.External) {
	s := r.known(model.ServiceKey{Tenant: res.Tenant(), Name: res.Name()})
	s.External = true
	if spec.TLS != nil {
		t := *spec.TLS
		if t.CA = cmp.Or(t.CA, r.in.SystemCA); t.CA == "" {
			r.violation(res, "spec.tls.ca", "is not written, and this host has no file of CAs in any of the usual places")
		}
		s.TLS, s.ServerName = &t, spec.ServerName()
	}
	v := version(s, spec.Version)
	ports := spec.PortList()
	for _, p := range ports {
		v.Ports = append(v.Ports, model.Port{Name: p.Name, Protocol: p.Protocol})
	}
	for _, e := range spec.Endpoints {
		if e.Share() == 0 {
			continue
		}
		ep := &model.Endpoint{
			Version: spec.Version, Healthy: true, Weight: uint32(e.Share()), Zone: e.Zone, External: true,
			Addresses: map[string]string{},
		}
		for _, p := range ports {
			ep.Addresses[p.Name] = e.Address
			if p.Number != 0 {
				host := e.Address
				if h, _, err := net.SplitHostPort(e.Address); err == nil {
					host = h
				}
				ep.Addresses[p.Name] = net.JoinHostPort(host, strconv.Itoa(p.Number))
			}
		}
		s.Endpoints = append(s.Endpoints, ep)
	}
}

// discovered gathers endpoints by instance: discovery tells one for each port.
func (r *resolver) discovered() {
	type identity struct {
		service     model.ServiceKey
		version, id string
		ours        bool
	}
	eps := slices.Clone(r.in.Discovered)
	discovery.Sort(eps)
	byID := map[identity]*model.Endpoint{}
	for _, d := range eps {
		key := model.ServiceKey{Tenant: d.Tenant, Name: d.Service}
		s := r.known(key)
		v := version(s, d.Version)
		if v.Spec == nil && !slices.ContainsFunc(v.Ports, func(p model.Port) bool { return p.Name == d.PortName }) {
			v.Ports = append(v.Ports, model.Port{Name: d.PortName, Protocol: resource.Protocol(d.Protocol)})
		}
		id := identity{key, d.Version, d.ID, d.Ours}
		e := byID[id]
		if e == nil {
			e = &model.Endpoint{
				Instance: d.ID, Version: d.Version, Host: d.Host, Zone: d.Zone, Weight: max(d.Weight, 1), Healthy: true,
				External: !d.Ours, Local: d.Host != "" && d.Host == r.in.Host,
				Draining: r.in.Draining[d.ID], Addresses: map[string]string{},
			}
			byID[id] = e
			s.Endpoints = append(s.Endpoints, e)
		}
		e.Addresses[d.PortName] = d.HostPort()
		e.Healthy = e.Healthy && d.Health.Serves()
	}
}

// ports gathers each service's ports: the newest version's first.
func (r *resolver) ports() {
	for _, s := range r.m.Services {
		for _, v := range slices.Backward(s.Versions) {
			for _, p := range v.Ports {
				if _, ok := s.Port(p.Name); !ok {
					s.Ports = append(s.Ports, p)
				}
			}
		}
	}
}

func (r *resolver) uses(res *resource.Resource, spec *resource.Service) {
	v := r.m.Services[model.ServiceKey{Tenant: res.Tenant(), Name: res.Name()}].Version(spec.Version)
	v.UsesDeclared = spec.Uses != nil
	for i, name := range spec.Uses {
		if s := r.named(res, fmt.Sprintf("spec.uses[%d]", i), name); s != nil && !slices.Contains(v.Uses, s.ServiceKey) {
			v.Uses = append(v.Uses, s.ServiceKey)
		}
	}
	slices.SortFunc(v.Uses, model.ServiceKey.Compare)
}

func (r *resolver) split(res *resource.Resource, spec *resource.TrafficSplit) {
	if s := r.named(res, "spec.service", spec.Service); s != nil {
		s.Split = r.weighted(res, s, "spec.split", spec.Split)
	}
}

// weighted resolves destinations: those of weight 0 and those that do not exist are left out.
func (r *resolver) weighted(res *resource.Resource, s *model.Service, path string, in []resource.Weighted) []model.Weighted {
	var out []model.Weighted
	for i, w := range in {
		switch {
		case s.Version(w.Version) == nil:
			r.violation(res, fmt.Sprintf("%s[%d].version", path, i), "service %q has no version %q", s.Name, w.Version)
		case w.Share() > 0:
			out = append(out, model.Weighted{Version: w.Version, Weight: uint32(w.Share())})
		}
	}
	return out
}

func (r *resolver) gateway(res *resource.Resource, spec *resource.Gateway) {
	g := &model.Gateway{Tenant: res.Tenant(), Name: res.Name(), Node: "gateway-" + res.Name(), Listen: spec.Listen, ProxyProtocol: spec.ProxyProtocol, TLS: spec.TLS, HTTP: spec.HTTP}
	if mode, err := strconv.ParseUint(spec.SocketMode, 8, 32); err == nil {
		g.Mode = uint32(mode)
	}
	if g.Tenant != resource.DefaultTenant {
		g.Node = "gateway-" + g.Tenant + "." + g.Name
	}
	for i, rt := range spec.Routes {
		path := fmt.Sprintf("spec.routes[%d]", i)
		s := r.named(res, path+".service", rt.Service)
		if s == nil {
			continue
		}
		p, ok := s.Port(rt.Port)
		if !ok {
			r.violation(res, path+".port", "service %q has no port %q", s.Name, rt.Port)
			continue
		}
		g.Routes = append(g.Routes, model.GatewayRoute{
			Name: fmt.Sprintf("%s/%d", g.Name, i), Host: rt.Host, Path: rt.Path,
			To: model.PortKey{ServiceKey: s.ServiceKey, Port: p.Name}, Rewrite: rt.Rewrite,
		})
	}
	slices.SortStableFunc(g.Routes, func(a, b model.GatewayRoute) int { return comparePaths(a.Path, b.Path) })
	r.m.Gateways = append(r.m.Gateways, g)
}

// Placements returns the versions that run on this host, by service and version.
func Placements(m *model.Model) []*model.Version {
	var out []*model.Version
	for _, k := range slices.SortedFunc(maps.Keys(m.Services), model.ServiceKey.Compare) {
		for _, v := range m.Services[k].Versions {
			if v.Here && v.Spec != nil {
				out = append(out, v)
			}
		}
	}
	return out
}
