package xds

import (
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

// builder writes resources in the way of one kind of node.
type builder struct {
	m      *model.Model
	kind   Kind
	tenant string
	// allow is what the node may be told of; nil means all of its tenant.
	allow map[model.ServiceKey]bool
}

// foreign: the node knows nothing of ours.
func (b *builder) foreign() bool { return b.kind == Envoy || b.kind == GRPC }

// service finds a service that the node may be told of.
func (b *builder) service(tenant, name string) *model.Service {
	k := model.ServiceKey{Tenant: tenant, Name: name}
	if b.allow != nil && !b.allow[k] || tenant != b.tenant {
		return nil
	}
	return b.m.Services[k]
}

// services are all that the node may be told of, in order.
func (b *builder) services() (out []*model.Service) {
	for _, k := range slices.SortedFunc(maps.Keys(b.m.Services), model.ServiceKey.Compare) {
		if s := b.service(k.Tenant, k.Name); s != nil {
			out = append(out, s)
		}
	}
	return out
}

func (c *Config) sidecar(l *model.Local) {
	b := c.b
	b.tenant = l.Service.Tenant
	s := b.m.Services[l.Service]
	if s == nil {
		return
	}
	v := s.Version(l.Version)
	if v == nil {
		return
	}
	if v.UsesDeclared {
		b.allow = map[model.ServiceKey]bool{}
		for _, u := range v.Uses {
			b.allow[u] = true
		}
	}
	for i, p := range v.Ports {
		name := xdsname.InboundListener(p.Name)
		addr, process := l.Inbound[p.Name], l.Process[p.Name]
		if addr == "" || process == "" {
			continue
		}
		ln, err := b.inboundListener(p, addr)
		c.add(resource.ListenerType, name, ln, err)
		if p.Protocol.IsHTTP() {
			rc, err := b.inboundRoutes(s, v, p)
			c.add(resource.RouteType, name, rc, err)
		}
		cl, err := b.inboundCluster(v, p, process, i == 0)
		c.add(resource.ClusterType, name, cl, err)
	}
	if l.Outbound != "" {
		ln, err := b.httpListener(xdsname.Outbound, l.Outbound, xdsname.Outbound)
		c.add(resource.ListenerType, xdsname.Outbound, ln, err)
		c.byHost(xdsname.Outbound, !v.UsesDeclared)
	}
	for k, addr := range l.Uses {
		u := b.service(k.Tenant, k.Name)
		if u == nil {
			continue
		}
		p, ok := u.Port(k.Port)
		if !ok || k.Port == "" {
			continue
		}
		name := xdsname.OutboundListener(k.Tenant, k.Name, k.Port)
		if !p.Protocol.IsHTTP() {
			ln, err := b.tcpListener(name, addr, b.destination(u, p, nil))
			c.add(resource.ListenerType, name, ln, err)
		} else {
			routes := xdsname.ServiceRoutes(k.Tenant, k.Name, k.Port)
			ln, err := b.httpListener(name, addr, routes)
			if err == nil && p.Protocol == "auto" {
				err = sniff(ln, b.tcpProxy(name, b.destination(u, p, nil)))
			}
			c.add(resource.ListenerType, name, ln, err)
			rc, err := b.serviceRoutes(u, p)
			c.add(resource.RouteType, routes, rc, err)
		}
		c.addService(u)
	}
	if v.UsesDeclared {
		for _, u := range b.services() {
			c.addService(u)
		}
	}
	c.intercepted(l, v)
}

// byHost lists the route configuration that routes by Host: with a virtual host for each service, or with those that are
// asked for.
func (c *Config) byHost(name string, onDemand bool) {
	rc := &routev3.RouteConfiguration{Name: name, IgnorePortInHostMatching: true}
	if onDemand {
		rc.Vhds = &routev3.Vhds{ConfigSource: adsSource()}
	} else {
		for _, s := range c.b.services() {
			vh, err := c.b.virtualHost(s.Name, s, []string{s.Name, s.Name + ".localhost"}, name == xdsname.Outbound)
			if err != nil {
				c.add(resource.RouteType, name, nil, err)
			} else if vh != nil {
				rc.VirtualHosts = append(rc.VirtualHosts, vh.(*routev3.VirtualHost))
			}
		}
	}
	c.add(resource.RouteType, name, rc, nil)
}

func (c *Config) envoy(n Node) {
	if n.Listen == "" {
		return
	}
	ln, err := c.b.httpListener(xdsname.Outbound, n.Listen, xdsname.Outbound)
	c.add(resource.ListenerType, xdsname.Outbound, ln, err)
	c.byHost(xdsname.Outbound, false)
	for _, s := range c.b.services() {
		c.addService(s)
	}
}

func (c *Config) gateway(g *model.Gateway) {
	name := xdsname.Edge
	if !g.Edge {
		name = xdsname.GatewayListener(g.Name)
	}
	ln, err := c.b.edgeListener(name, g)
	if err == nil {
		err = secure(ln, g.TLS)
	}
	c.add(resource.ListenerType, name, ln, err)
	if g.Edge {
		c.byHost(name, true)
		return
	}
	rc, err := c.b.gatewayRoutes(name, g)
	c.add(resource.RouteType, name, rc, err)
	for _, r := range g.Routes {
		if s := c.b.service(r.To.Tenant, r.To.Name); s != nil {
			c.addService(s)
		}
	}
}
