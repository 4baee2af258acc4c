package xds

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/policy/balance"
	"github.com/outrigger-mesh/outrigger/policy/limit"
	"github.com/outrigger-mesh/outrigger/policy/outlier"
	"github.com/outrigger-mesh/outrigger/policy/retry"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// protocol is what a cluster's endpoints are spoken to in.
type protocol int

const (
	http1 protocol = iota
	http2
	either // the protocol that the call came by
)

func (b *builder) setProtocol(c *clusterv3.Cluster, p protocol) error {
	o := &upstreamhttpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(timeout.DefaultConnIdle)},
	}
	switch p {
	case http1:
		o.UpstreamProtocolOptions = &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
			},
		}
	case http2:
		o.UpstreamProtocolOptions = &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true}},
			},
		}
	default:
		o.UpstreamProtocolOptions = &upstreamhttpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
			},
		}
	}
	a, err := xdsfield.Any(o)
	if err != nil {
		return err
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": a}
	return nil
}

func (b *builder) setMetadata(c *clusterv3.Cluster, m proto.Message) error {
	if b.foreign() {
		return nil
	}
	a, err := xdsfield.Any(m)
	if err != nil {
		return err
	}
	c.Metadata = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{xdsname.MetadataKey: a}}
	return nil
}

// of are the endpoints of a version, or of all.
func of(s *model.Service, version string) (out []*model.Endpoint) {
	for _, e := range s.Endpoints {
		if version == "" || e.Version == version {
			out = append(out, e)
		}
	}
	return out
}

// cluster is one port of a service, of one version or of all.
func (b *builder) cluster(s *model.Service, p model.Port, version string) (*clusterv3.Cluster, error) {
	name := xdsname.Cluster(s.Tenant, s.Name, p.Name, version)
	policy := &s.Policy
	if v := s.Version(version); v != nil && version != "" {
		policy = &v.Policy
	}
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()},
		// Where all are unhealthy, calls fail: Envoy would otherwise send them anywhere.
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
	}
	connect, sidecars, names := timeout.DefaultConnectLocal, !s.External, false
	for _, e := range of(s, version) {
		sidecars = sidecars && !e.External
		if !e.Local && !loopback(e.Addresses[p.Name]) {
			connect = timeout.DefaultConnectRemote
		}
		names = names || isName(e.Addresses[p.Name])
	}
	c.ConnectTimeout = durationpb.New(connect)
	if names && b.kind != GRPC { // endpoints by EDS must be IP addresses
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		c.EdsClusterConfig = nil
		c.LoadAssignment = b.endpoints(s, p, version)
	}
	if err := balance.Encode(policy.Balance, c); err != nil {
		return nil, err
	}
	outlier.Encode(policy.Outlier, c)
	limit.Encode(policy.Limits, c)
	retry.EncodeCluster(policy.Retry, c)
	if p.Protocol.IsHTTP() {
		proto := either
		switch {
		case p.Protocol == resource.GRPC:
			proto = http2
		case p.Protocol == resource.Auto:
		case !sidecars || p.Protocol == resource.WebSocket:
			proto = http1
		}
		if err := b.setProtocol(c, proto); err != nil {
			return nil, err
		}
	}
	if err := b.encrypt(c, s); err != nil {
		return nil, err
	}
	return c, b.setMetadata(c, &outriggerv1.ClusterMetadata{Internal: sidecars})
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func isName(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil || host == "localhost" {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err != nil
}

// endpoints are a cluster's, by zone. A gRPC client gets none whose address is a host name: it takes none, and one such would cost
// it all.
func (b *builder) endpoints(s *model.Service, p model.Port, version string) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: xdsname.Cluster(s.Tenant, s.Name, p.Name, version)}
	seen := map[string]bool{}
	zones := map[string]*endpointv3.LocalityLbEndpoints{}
	for _, e := range of(s, version) {
		addr := e.Addresses[p.Name]
		if addr == "" || seen[addr] || isName(addr) && b.kind == GRPC {
			continue
		}
		seen[addr] = true
		a, err := address(addr)
		if err != nil {
			continue
		}
		l := zones[e.Zone]
		if l == nil {
			l = &endpointv3.LocalityLbEndpoints{
				Locality: &corev3.Locality{Zone: e.Zone}, LoadBalancingWeight: wrapperspb.UInt32(0),
			}
			zones[e.Zone] = l
			out.Endpoints = append(out.Endpoints, l)
		}
		health := corev3.HealthStatus_HEALTHY
		switch {
		case e.Draining:
			health = corev3.HealthStatus_DRAINING
		case !e.Healthy:
			health = corev3.HealthStatus_UNHEALTHY
		}
		ep := &endpointv3.LbEndpoint{
			HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
			HealthStatus:        health,
			LoadBalancingWeight: wrapperspb.UInt32(max(e.Weight, 1)),
		}
		if !b.foreign() {
			if md, err := xdsfield.Any(&outriggerv1.EndpointMetadata{Instance: e.Instance, Version: e.Version}); err == nil {
				ep.Metadata = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{xdsname.MetadataKey: md}}
			}
		}
		l.LbEndpoints = append(l.LbEndpoints, ep)
		l.LoadBalancingWeight.Value += max(e.Weight, 1) // gRPC leaves out a locality without one (gRFC A27)
	}
	slices.SortFunc(out.Endpoints, func(x, y *endpointv3.LocalityLbEndpoints) int {
		return cmp.Compare(x.Locality.Zone, y.Locality.Zone)
	})
	return out
}

// inboundCluster is the process itself.
func (b *builder) inboundCluster(v *model.Version, p model.Port, process string, first bool) (*clusterv3.Cluster, error) {
	name := xdsname.InboundListener(p.Name)
	a, err := address(process)
	if err != nil {
		return nil, err
	}
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(timeout.DefaultConnectLocal),
		CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}}}},
		}}},
	}
	if h := healthCheck(v, p, first); h != nil {
		c.HealthChecks = []*corev3.HealthCheck{h}
	}
	retry.EncodeCluster(restarting(), c)
	if p.Protocol.IsHTTP() {
		proto := http1 // what every HTTP server speaks
		switch p.Protocol {
		case resource.GRPC:
			proto = http2
		case resource.Auto:
			proto = either
		}
		if err := b.setProtocol(c, proto); err != nil {
			return nil, err
		}
	}
	return c, b.setMetadata(c, &outriggerv1.ClusterMetadata{Local: true})
}

// healthCheck is how the process is probed at that port; nil where it is not. A service that says nothing is healthy once
// its first port accepts.
func healthCheck(v *model.Version, p model.Port, first bool) *corev3.HealthCheck {
	h := &resource.Health{TCP: true}
	if v.Spec != nil && v.Spec.Health != nil {
		h = v.Spec.Health
	}
	port := h.Port
	if port == "" {
		i := slices.IndexFunc(v.Ports, func(q model.Port) bool {
			switch {
			case h.GRPC != nil:
				return q.Protocol == resource.GRPC
			case h.HTTP != "":
				return q.Protocol == resource.HTTP || q.Protocol == resource.WebSocket || q.Protocol == resource.Auto
			}
			return true
		})
		if i >= 0 {
			port = v.Ports[i].Name
		}
	}
	if port != p.Name && (port != "" || !first) {
		return nil
	}
	out := &corev3.HealthCheck{
		Interval:           durationpb.New(cmp.Or(h.Interval, resource.DefaultHealthInterval)),
		Timeout:            durationpb.New(cmp.Or(h.Timeout, resource.DefaultHealthTimeout)),
		UnhealthyThreshold: wrapperspb.UInt32(uint32(cmp.Or(h.UnhealthyAfter, resource.DefaultUnhealthyAfter))),
		HealthyThreshold:   wrapperspb.UInt32(uint32(cmp.Or(h.HealthyAfter, resource.DefaultHealthyAfter))),
	}
	switch {
	case h.HTTP != "":
		out.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &corev3.HealthCheck_HttpHealthCheck{
			Path: h.HTTP, Host: "localhost",
		}}
	case h.GRPC != nil:
		out.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{ServiceName: *h.GRPC}}
	default:
		out.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	}
	return out
}
