package compile

import (
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// listenerDef is a compiled listener; its routes are compiled for it apart.
type listenerDef struct {
	l     snapshot.Listener
	chain []httpFilter
	// Exactly one is set of an HTTP listener.
	rds       string
	inline    *routev3.RouteConfiguration
	forwarded bool // our metadata asks for Forwarded
	// needs are the clusters of a TCP listener.
	needs map[string]bool
	// tls is the chain's, or nil.
	tls *tlsDef
}

// secretsHere says whether all certificates have come.
func (d *listenerDef) secretsHere() bool {
	for _, t := range d.contexts() {
		if !t.ready {
			return false
		}
	}
	return true
}

func (c *Compiler) listener(r *report, m *listenerv3.Listener) *listenerDef {
	checkFields(r, "", m)
	d := &listenerDef{l: snapshot.Listener{Name: m.GetName()}, needs: map[string]bool{}}
	if m.GetName() == "" {
		r.add("name", "is missing")
	}
	d.l.Network, d.l.Address = address(r, "address", m.GetAddress())
	originalDst(r, m, &d.l)
	md := &outriggerv1.ListenerMetadata{}
	ourMetadata(r, m.GetMetadata(), map[string]proto.Message{xdsname.MetadataKey: md})
	d.l.Direction = direction(m, md)
	d.forwarded = md.GetForwarded()

	chains, path := m.GetFilterChains(), "filter_chains[0]"
	if f := m.GetDefaultFilterChain(); f != nil {
		chains, path = append(chains[:len(chains):len(chains)], f), "default_filter_chain"
	}
	if len(chains) != 1 {
		r.add("filter_chains", "there are %d; one is served by this sidecar", len(chains))
		return d
	}
	wait := duration(r, join(path, "transport_socket_connect_timeout"), chains[0].GetTransportSocketConnectTimeout(), 0)
	if d.tls = c.serverTLS(r, m.GetName(), join(path, "transport_socket"), chains[0].GetTransportSocket(), wait); d.tls != nil {
		d.l.TLS = d.tls.server
	}
	fs := chains[0].GetFilters()
	if len(fs) != 1 {
		r.add(join(path, "filters"), "there are %d; one is served by this sidecar: the HTTP connection manager or the TCP proxy", len(fs))
		return d
	}
	path = at(path, "filters", 0) + ".typed_config"
	any := fs[0].GetTypedConfig()
	switch any.GetTypeUrl() {
	case typeURL("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"):
		h := &hcmv3.HttpConnectionManager{}
		if unpack(r, path, any, h) {
			c.manager(r, path, h, d)
		}
	case typeURL("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"):
		t := &tcpv3.TcpProxy{}
		if unpack(r, path, any, t) {
			c.tcpProxy(r, path, t, d)
		}
	default:
		r.add(path, "filter of type %q is not served by this sidecar", any.GetTypeUrl())
	}
	return d
}

// originalDst reads whether connections that the kernel redirected go to the listener that they were meant for. Where they do not, the
// listener itself takes them; a cluster of type ORIGINAL_DST knows their destination all the same.
func originalDst(r *report, m *listenerv3.Listener, l *snapshot.Listener) {
	l.HandOver = m.GetUseOriginalDst().GetValue()
	l.Unbound = m.GetBindToPort() != nil && !m.GetBindToPort().GetValue()
	for i, f := range m.GetListenerFilters() {
		path := at("", "listener_filters", i) + ".typed_config"
		switch any := f.GetTypedConfig(); any.GetTypeUrl() {
		case typeURL("envoy.extensions.filters.listener.original_dst.v3.OriginalDst"):
			unpack(r, path, any, &originaldstv3.OriginalDst{})
		default:
			r.add(path, "filter of type %q is not served by this sidecar", any.GetTypeUrl())
		}
	}
	if l.Network == "unix" && (l.HandOver || l.Unbound) {
		r.add("address", "is a Unix socket, which no connection is redirected to")
	}
	if l.HandOver && l.Unbound {
		r.add("bind_to_port", "is false where use_original_dst is set: nothing would be handed over")
	}
}

// direction follows metadata, the listener's traffic direction, and our own names, in this order.
func direction(m *listenerv3.Listener, md *outriggerv1.ListenerMetadata) snapshot.Direction {
	n := m.GetName()
	switch {
	case md.GetDirection() == outriggerv1.ListenerMetadata_DIRECTION_EDGE:
		return snapshot.Edge
	case m.GetTrafficDirection() == corev3.TrafficDirection_INBOUND:
		return snapshot.Inbound
	case m.GetTrafficDirection() == corev3.TrafficDirection_OUTBOUND:
		return snapshot.Outbound
	case n == xdsname.Edge || strings.HasPrefix(n, xdsname.GatewayListener("")):
		return snapshot.Edge
	case strings.HasPrefix(n, xdsname.InboundListener("")):
		return snapshot.Inbound
	case n == xdsname.Outbound || strings.HasPrefix(n, xdsname.Outbound+"/"):
		return snapshot.Outbound
	}
	return snapshot.Unspecified
}

func (c *Compiler) manager(r *report, path string, m *hcmv3.HttpConnectionManager, d *listenerDef) {
	h := &snapshot.HTTP{
		StatPrefix:        m.GetStatPrefix(),
		UseRemoteAddress:  m.GetUseRemoteAddress().GetValue(),
		TrustedHops:       int(min(m.GetXffNumTrustedHops(), 1<<16)),
		GenerateRequestID: m.GetGenerateRequestId() == nil || m.GetGenerateRequestId().GetValue(),
		PreserveRequestID: m.GetPreserveExternalRequestId(),
		NormalizePath:     m.GetNormalizePath().GetValue(),
		MergeSlashes:      m.GetMergeSlashes(),
		// Between sidecars the fields that explain an answer stay: the caller's sidecar removes them.
		StripInternal:     d.l.Direction != snapshot.Inbound,
		IdleTimeout:       duration(r, join(path, "common_http_protocol_options.idle_timeout"), m.GetCommonHttpProtocolOptions().GetIdleTimeout(), time.Hour),
		HeaderTimeout:     duration(r, join(path, "request_headers_timeout"), m.GetRequestHeadersTimeout(), 0),
		StreamIdleTimeout: duration(r, join(path, "stream_idle_timeout"), m.GetStreamIdleTimeout(), 5*time.Minute),
		MaxConnectionAge:  duration(r, join(path, "common_http_protocol_options.max_connection_duration"), m.GetCommonHttpProtocolOptions().GetMaxConnectionDuration(), 0),
		MaxStreams:        m.GetHttp2ProtocolOptions().GetMaxConcurrentStreams().GetValue(),
		AllowConnect:      m.GetHttp2ProtocolOptions().GetAllowConnect(),
	}
	d.l.HTTP = h
	h.Options = httpOptions(r, path, m, &d.l, d.forwarded)
	switch m.GetCodecType() {
	case hcmv3.HttpConnectionManager_AUTO:
		h.Codec = snapshot.Auto
	case hcmv3.HttpConnectionManager_HTTP1:
		h.Codec = snapshot.HTTP1
	case hcmv3.HttpConnectionManager_HTTP2:
		h.Codec = snapshot.HTTP2
	default:
		r.add(join(path, "codec_type"), "%v is not served by this sidecar", m.GetCodecType())
	}
	if kb := m.GetMaxRequestHeadersKb(); kb != nil {
		if kb.GetValue() == 0 || kb.GetValue() > 8192 {
			r.add(join(path, "max_request_headers_kb"), "must be from 1 to 8192")
		}
		h.MaxRequestHeaderBytes = int(kb.GetValue()) << 10
	}
	if n := m.GetCommonHttpProtocolOptions().GetMaxHeadersCount(); n != nil {
		if n.GetValue() == 0 || n.GetValue() > exchange.MaxFields {
			r.add(join(path, "common_http_protocol_options.max_headers_count"), "must be from 1 to %d", exchange.MaxFields)
		}
		h.MaxRequestFields = int(n.GetValue())
	}
	for i, u := range m.GetUpgradeConfigs() {
		if t := upgradeToken(r, at(path, "upgrade_configs", i), u.GetUpgradeType()); u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			h.Upgrades = append(h.Upgrades, t)
		}
	}
	d.chain = c.httpFilters(r, path, m.GetHttpFilters())
	switch s := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		d.rds = s.Rds.GetRouteConfigName()
		if d.rds == "" {
			r.add(join(path, "rds.route_config_name"), "is missing")
		}
		source(r, join(path, "rds.config_source"), s.Rds.GetConfigSource())
	case *hcmv3.HttpConnectionManager_RouteConfig:
		d.inline = s.RouteConfig
	default:
		r.add(path, "has no routes: rds or route_config is needed")
	}
}

func (c *Compiler) tcpProxy(r *report, path string, m *tcpv3.TcpProxy, d *listenerDef) {
	t := &snapshot.TCPProxy{StatPrefix: m.GetStatPrefix(), IdleTimeout: duration(r, join(path, "idle_timeout"), m.GetIdleTimeout(), time.Hour)}
	d.l.TCP = t
	var sum uint64
	add := func(path, name string, weight uint32) {
		if name == "" {
			r.add(path, "names no cluster")
			return
		}
		if sum += uint64(weight); weight > 0 {
			d.needs[name] = true
		}
		t.Clusters = append(t.Clusters, snapshot.WeightedCluster{Ref: c.opts.Sink.Ref(name), Weight: weight})
	}
	switch s := m.GetClusterSpecifier().(type) {
	case *tcpv3.TcpProxy_Cluster:
		add(join(path, "cluster"), s.Cluster, 1)
	case *tcpv3.TcpProxy_WeightedClusters:
		for i, w := range s.WeightedClusters.GetClusters() {
			add(at(join(path, "weighted_clusters"), "clusters", i)+".name", w.GetName(), w.GetWeight())
		}
	default:
		r.add(path, "names no cluster")
	}
	if sum == 0 || sum > 1<<32-1 {
		r.add(path, "the weights sum to %d", sum)
	}
	t.TotalWeight = uint32(sum)
}
