package xds

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/policy/fault"
	"github.com/outrigger-mesh/outrigger/policy/ratelimit"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// Limits of listeners (docs: defaults).
const (
	maxHeadKiB      = 60
	maxHeadFields   = 100
	maxStreams      = 1024
	headTimeout     = 10 * time.Second
	maxConnDuration = 30 * time.Minute
)

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// address is "host:port", or "unix:" and a path.
func address(hostport string) (*corev3.Address, error) {
	if path, ok := strings.CutPrefix(hostport, "unix:"); ok {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}, nil
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostport, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostport, err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}, nil
}

func (b *builder) listener(name, addr string, direction corev3.TrafficDirection, filter string, config proto.Message) (*listenerv3.Listener, error) {
	a, err := address(addr)
	if err != nil {
		return nil, err
	}
	packed, err := xdsfield.Any(config)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Listener{
		Name: name, Address: a, TrafficDirection: direction,
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: filter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed},
		}}}},
	}, nil
}

const (
	hcmName = "envoy.filters.network.http_connection_manager"
	tcpName = "envoy.filters.network.tcp_proxy"
)

// manager is the connection manager that all listeners start from.
func (b *builder) manager(listener, routes string) (*hcmv3.HttpConnectionManager, error) {
	filters, err := b.filters()
	if err != nil {
		return nil, err
	}
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:  listener,
		CodecType:   hcmv3.HttpConnectionManager_AUTO,
		HttpFilters: filters,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: routes,
		}},
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:           durationpb.New(timeout.DefaultConnIdle),
			MaxConnectionDuration: durationpb.New(maxConnDuration),
			MaxHeadersCount:       wrapperspb.UInt32(maxHeadFields),
		},
		Http2ProtocolOptions:  &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(maxStreams), AllowConnect: true},
		MaxRequestHeadersKb:   wrapperspb.UInt32(maxHeadKiB),
		RequestHeadersTimeout: durationpb.New(headTimeout),
		StreamIdleTimeout:     durationpb.New(timeout.DefaultIdle),
		UpgradeConfigs:        []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		GenerateRequestId:     wrapperspb.Bool(true),
		UseRemoteAddress:      wrapperspb.Bool(false),
		// Within the mesh what a gateway wrote of a client's certificate is passed on.
		ForwardClientCertDetails: hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY,
	}
	return m, nil
}

// filters is the chain of every HTTP listener; a route says which of them do something.
func (b *builder) filters() ([]*hcmv3.HttpFilter, error) {
	router, err := xdsfield.Any(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	last := &hcmv3.HttpFilter{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}
	if b.kind == GRPC {
		return []*hcmv3.HttpFilter{last}, nil
	}
	limit, err := ratelimit.Filter()
	if err != nil {
		return nil, err
	}
	faults, err := fault.Filter()
	if err != nil {
		return nil, err
	}
	return []*hcmv3.HttpFilter{limit, faults, last}, nil
}

// httpListener takes the calls of an instance, or of an Envoy's clients.
func (b *builder) httpListener(name, addr, routes string) (*listenerv3.Listener, error) {
	m, err := b.manager(name, routes)
	if err != nil {
		return nil, err
	}
	return b.listener(name, addr, corev3.TrafficDirection_OUTBOUND, hcmName, m)
}

// edgeListener takes calls from outside: the peer is the client.
func (b *builder) edgeListener(name string, g *model.Gateway) (*listenerv3.Listener, error) {
	m, err := b.manager(name, name)
	if err != nil {
		return nil, err
	}
	m.UseRemoteAddress = wrapperspb.Bool(true)
	m.NormalizePath = wrapperspb.Bool(true)
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	if g.TLS != nil && g.TLS.ForwardClientCertificate {
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Subject: wrapperspb.Bool(true), Uri: true, Dns: true}
	}
	meta := &outriggerv1.ListenerMetadata{Direction: outriggerv1.ListenerMetadata_DIRECTION_EDGE}
	if g.HTTP != nil {
		meta.Forwarded = g.HTTP.Forwarded
		if err := gatewayHTTP(g.HTTP, m); err != nil {
			return nil, err
		}
	}
	l, err := b.listener(name, g.Listen, corev3.TrafficDirection_UNSPECIFIED, hcmName, m)
	if err != nil {
		return nil, err
	}
	if p := l.GetAddress().GetPipe(); p != nil {
		p.Mode = g.Mode
	}
	if g.ProxyProtocol {
		a, err := xdsfield.Any(&proxyprotocolv3.ProxyProtocol{})
		if err != nil {
			return nil, err
		}
		l.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name: "envoy.filters.listener.proxy_protocol", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: a},
		}}
	}
	return l, b.setEdge(l, meta)
}

// setEdge says that a listener's callers are not of the mesh.
func (b *builder) setEdge(l *listenerv3.Listener, meta *outriggerv1.ListenerMetadata) error {
	md, err := xdsfield.Any(meta)
	if err != nil {
		return err
	}
	l.Metadata = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{xdsname.MetadataKey: md}}
	return nil
}

// inboundListener takes the calls to an instance.
func (b *builder) inboundListener(p model.Port, addr string) (*listenerv3.Listener, error) {
	name := xdsname.InboundListener(p.Name)
	t := b.tcpProxy(name, []model.Weighted{{Version: name, Weight: 1}})
	if !p.Protocol.IsHTTP() {
		return b.listener(name, addr, corev3.TrafficDirection_INBOUND, tcpName, t)
	}
	m, err := b.manager(name, name)
	if err != nil {
		return nil, err
	}
	m.PreserveExternalRequestId = true
	l, err := b.listener(name, addr, corev3.TrafficDirection_INBOUND, hcmName, m)
	if err == nil && p.Protocol == resource.Auto {
		err = sniff(l, t)
	}
	return l, err
}

// sniffTime is how long a connection to a port of protocol auto may be silent before it is relayed as TCP.
const sniffTime = 50 * time.Millisecond

// sniff has a listener of HTTP tell by a connection's first bytes whether it is: all that is not goes to t.
func sniff(l *listenerv3.Listener, t *tcpv3.TcpProxy) error {
	bytes, err := xdsfield.Any(t)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name   string
		filter proto.Message
	}{
		{"envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{}},
		{"envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{}},
	} {
		a, err := xdsfield.Any(f.filter)
		if err != nil {
			return err
		}
		l.ListenerFilters = append(l.ListenerFilters, &listenerv3.ListenerFilter{
			Name: f.name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: a},
		})
	}
	l.ListenerFiltersTimeout = durationpb.New(sniffTime)
	l.ContinueOnListenerFiltersTimeout = true
	http := l.FilterChains[0]
	http.Name = "http"
	http.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.0", "http/1.1", "h2c"}}
	l.DefaultFilterChain = &listenerv3.FilterChain{Name: "tcp", Filters: []*listenerv3.Filter{{
		Name: tcpName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: bytes},
	}}}
	return nil
}

func (b *builder) tcpListener(name, addr string, to []model.Weighted) (*listenerv3.Listener, error) {
	return b.listener(name, addr, corev3.TrafficDirection_OUTBOUND, tcpName, b.tcpProxy(name, to))
}

// tcpProxy relays to clusters, which stand in the place of versions.
func (b *builder) tcpProxy(name string, to []model.Weighted) *tcpv3.TcpProxy {
	t := &tcpv3.TcpProxy{StatPrefix: name, IdleTimeout: durationpb.New(timeout.DefaultConnIdle)}
	if len(to) == 1 {
		t.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: to[0].Version}
		return t
	}
	w := &tcpv3.TcpProxy_WeightedCluster{}
	for _, c := range to {
		w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: c.Version, Weight: c.Weight})
	}
	t.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	return t
}

// apiListener is what a proxyless gRPC client asks for (gRFC A27).
func (b *builder) apiListener(name string, s *model.Service, p model.Port) (*listenerv3.Listener, error) {
	filters, err := b.filters()
	if err != nil {
		return nil, err
	}
	m, err := xdsfield.Any(&hcmv3.HttpConnectionManager{
		StatPrefix: name, HttpFilters: filters,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: xdsname.ServiceRoutes(s.Tenant, s.Name, p.Name),
		}},
	})
	if err != nil {
		return nil, err
	}
	return &listenerv3.Listener{Name: name, ApiListener: &listenerv3.ApiListener{ApiListener: m}}, nil
}

// serviceRoutes is the route configuration of one service's port.
func (b *builder) serviceRoutes(s *model.Service, p model.Port) (*routev3.RouteConfiguration, error) {
	routes, err := b.routes(s, p, nil)
	if err != nil {
		return nil, err
	}
	return &routev3.RouteConfiguration{
		Name:                     xdsname.ServiceRoutes(s.Tenant, s.Name, p.Name),
		IgnorePortInHostMatching: b.kind != GRPC,
		VirtualHosts:             []*routev3.VirtualHost{{Name: s.String(), Domains: []string{"*"}, Routes: routes}},
	}, nil
}

// virtualHost routes the first HTTP port of a service. connect: a CONNECT to its name ends here, and its bytes go to that
// port, or to the first where none speaks HTTP; without it, nil for a service that has no HTTP port.
func (b *builder) virtualHost(name string, s *model.Service, domains []string, connect bool) (proto.Message, error) {
	vh := &routev3.VirtualHost{Name: name, Domains: domains}
	var to *model.Port
	for i := range s.Ports {
		p := &s.Ports[i]
		if !p.Protocol.IsHTTP() {
			continue
		}
		routes, err := b.routes(s, *p, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		vh.Routes, to = routes, p
		break
	}
	if connect && len(s.Ports) > 0 {
		if to == nil {
			to = &s.Ports[0]
		}
		vh.Routes = append(vh.Routes, b.connectRoute(s, *to))
	}
	if len(vh.Routes) == 0 {
		return nil, nil
	}
	return vh, nil
}

// connectRoute takes a CONNECT and sends its bytes to a port, where the service's own sidecar sees what they are.
func (b *builder) connectRoute(s *model.Service, p model.Port) *routev3.Route {
	a := forward(b.destination(s, p, nil), nil, "")
	a.Timeout = durationpb.New(0)
	a.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{
		UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
	}}
	return &routev3.Route{
		Name:   "connect",
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}},
		Action: &routev3.Route_Route{Route: a},
	}
}
