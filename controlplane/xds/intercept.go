package xds

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	rt "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

const (
	// throughConnect is how long a connection to a place that the mesh does not know may take to be made: it may be far.
	throughConnect = 10 * time.Second
	deniedText     = "egress is denied: the mesh has no service of this name (spec.intercept.egress: deny)\n"
)

// intercepted tells a sidecar what to do with the connections that are redirected to it, as Envoy is told it: outbound, a
// listener hands those for an address of the mesh to the unbound listener of that address; of the others HTTP is routed
// by Host, and what is left is passed through to where it was meant to go, or refused.
func (c *Config) intercepted(l *model.Local, v *model.Version) {
	b := c.b
	if l.Intercept == nil || v.Spec == nil || v.Spec.Intercept == nil {
		return
	}
	for _, p := range v.Ports {
		if addr := l.Intercept.Inbound[p.Name]; addr != "" {
			name := xdsname.InterceptInbound(p.Name)
			ln, err := b.interceptInbound(name, p, addr)
			c.add(rt.ListenerType, name, ln, err)
		}
	}
	if len(l.Intercept.Outbound) == 0 {
		return
	}
	deny := v.Spec.Intercept.Egress == resource.EgressDeny
	for _, addr := range l.Intercept.Outbound {
		name := xdsname.InterceptOutbound(addr)
		ln, err := b.interceptOutbound(name, addr, deny)
		c.add(rt.ListenerType, name, ln, err)
	}
	through, err := b.through()
	c.add(rt.ClusterType, xdsname.InterceptThrough, through, err)
	if deny {
		c.add(rt.ClusterType, xdsname.InterceptDenied, nowhere(), nil)
	}
	c.interceptRoutes(deny)
	seen := map[netip.AddrPort]bool{}
	for _, s := range b.services() {
		c.addService(s)
		for _, p := range s.Ports {
			for _, a := range virtual(s, p) {
				if !seen[a] {
					seen[a] = true
					c.virtualListener(s, p, a)
				}
			}
		}
	}
}

// virtual are the addresses by which redirected callers reach a port: those that were written and, of an External, those of
// its endpoints. Host names among them are not known here.
func virtual(s *model.Service, p model.Port) (out []netip.AddrPort) {
	out = append(out, s.Addresses[p.Name]...)
	for _, e := range s.Endpoints {
		if !s.External || !e.External {
			continue
		}
		if a, err := netip.ParseAddrPort(e.Addresses[p.Name]); err == nil && !a.Addr().IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}

// virtualListener takes what was meant for one address of a service.
func (c *Config) virtualListener(s *model.Service, p model.Port, a netip.AddrPort) {
	b, addr := c.b, a.String()
	name := xdsname.InterceptListener(s.Tenant, s.Name, p.Name, addr)
	var ln *listenerv3.Listener
	var err error
	if p.Protocol.IsHTTP() {
		routes := xdsname.ServiceRoutes(s.Tenant, s.Name, p.Name)
		ln, err = b.httpListener(name, addr, routes)
		if err == nil && p.Protocol == resource.Auto {
			err = sniff(ln, b.tcpProxy(name, b.destination(s, p, nil)))
		}
		rc, rerr := b.serviceRoutes(s, p)
		c.add(rt.RouteType, routes, rc, rerr)
	} else {
		ln, err = b.tcpListener(name, addr, b.destination(s, p, nil))
	}
	if err == nil {
		ln.BindToPort = wrapperspb.Bool(false)
	}
	c.add(rt.ListenerType, name, ln, err)
}

// interceptOutbound takes what the process connects to.
func (b *builder) interceptOutbound(name, addr string, deny bool) (*listenerv3.Listener, error) {
	through := xdsname.InterceptThrough
	if deny {
		through = xdsname.InterceptDenied
	}
	m, err := b.manager(name, xdsname.Intercept)
	if err != nil {
		return nil, err
	}
	ln, err := b.listener(name, addr, corev3.TrafficDirection_OUTBOUND, hcmName, m)
	if err != nil {
		return nil, err
	}
	dst, err := xdsfield.Any(&originaldstv3.OriginalDst{})
	if err != nil {
		return nil, err
	}
	ln.UseOriginalDst = wrapperspb.Bool(true)
	ln.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name: "envoy.filters.listener.original_dst", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: dst},
	}}
	return ln, sniff(ln, b.tcpProxy(name, []model.Weighted{{Version: through, Weight: 1}}))
}

// interceptInbound takes what other machines connect to at a port of the process. They are not of the mesh, so what they say of
// themselves is not believed.
func (b *builder) interceptInbound(name string, p model.Port, addr string) (*listenerv3.Listener, error) {
	target := xdsname.InboundListener(p.Name)
	t := b.tcpProxy(name, []model.Weighted{{Version: target, Weight: 1}})
	var ln *listenerv3.Listener
	var err error
	if !p.Protocol.IsHTTP() {
		ln, err = b.listener(name, addr, corev3.TrafficDirection_INBOUND, tcpName, t)
	} else {
		m, merr := b.manager(name, target)
		if merr != nil {
			return nil, merr
		}
		m.UseRemoteAddress = wrapperspb.Bool(true)
		ln, err = b.listener(name, addr, corev3.TrafficDirection_INBOUND, hcmName, m)
		if err == nil && p.Protocol == resource.Auto {
			err = sniff(ln, t)
		}
	}
	if err != nil {
		return nil, err
	}
	return ln, b.setEdge(ln, &outriggerv1.ListenerMetadata{Direction: outriggerv1.ListenerMetadata_DIRECTION_EDGE})
}

// interceptRoutes routes redirected HTTP by Host.
func (c *Config) interceptRoutes(deny bool) {
	rc := &routev3.RouteConfiguration{Name: xdsname.Intercept, IgnorePortInHostMatching: true}
	for _, s := range c.b.services() {
		vh, err := c.b.virtualHost(s.Name, s, []string{s.Name, s.Name + ".localhost"}, false)
		if err != nil {
			c.add(rt.RouteType, xdsname.Intercept, nil, err)
		} else if vh != nil {
			rc.VirtualHosts = append(rc.VirtualHosts, vh.(*routev3.VirtualHost))
		}
	}
	rest := &routev3.Route{Name: "through", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}}
	if deny {
		rest.Name = "denied"
		rest.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 403, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: deniedText}},
		}}
	} else {
		rest.Action = &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: xdsname.InterceptThrough}, Timeout: durationpb.New(0),
		}}
	}
	rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: rest.Name, Domains: []string{"*"}, Routes: []*routev3.Route{rest}})
	c.add(rt.RouteType, xdsname.Intercept, rc, nil)
}

// through is wherever a caller meant to connect.
func (b *builder) through() (*clusterv3.Cluster, error) {
	c := &clusterv3.Cluster{
		Name:                 xdsname.InterceptThrough,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       durationpb.New(throughConnect),
	}
	return c, b.setProtocol(c, either)
}

// nowhere has no endpoint: what is sent there is refused.
func nowhere() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 xdsname.InterceptDenied,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(timeout.DefaultConnectLocal),
	}
}
