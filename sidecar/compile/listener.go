package compile

import (
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// listenerDef is a compiled listener.
type listenerDef struct {
	l snapshot.Listener
	// several: a connection's chain has to be chosen. Otherwise there is one that takes everything.
	several bool
	chains  []*chainDef
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
	d := &listenerDef{l: snapshot.Listener{Name: m.GetName()}}
	if m.GetName() == "" {
		r.add("name", "is missing")
	}
	d.l.Network, d.l.Address = address(r, "address", m.GetAddress())
	if b := m.GetTcpBacklogSize(); b != nil {
		if d.l.Backlog = int(min(b.GetValue(), 1<<30)); d.l.Backlog == 0 {
			r.add("tcp_backlog_size", "must be at least 1")
		}
	}
	if d.l.Mode = m.GetAddress().GetPipe().GetMode(); d.l.Mode > 0o777 {
		r.add("address.pipe.mode", "must be at most 0777")
	} else if d.l.Mode != 0 && strings.HasPrefix(d.l.Address, "@") {
		r.add("address.pipe.mode", "has no effect on an abstract socket")
	}
	listenerFilters(r, m, &d.l)
	md := &outriggerv1.ListenerMetadata{}
	ourMetadata(r, m.GetMetadata(), map[string]proto.Message{xdsname.MetadataKey: md})
	d.l.Direction = direction(m, md)
	c.chains(r, m, d, md.GetForwarded())
	return d
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

func (c *Compiler) manager(r *report, path string, m *hcmv3.HttpConnectionManager, d *chainDef) {
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
		FlushTimeout:      duration(r, join(path, "stream_flush_timeout"), m.GetStreamFlushTimeout(), duration(r, "", m.GetStreamIdleTimeout(), 5*time.Minute)),
		MaxConnectionAge:  duration(r, join(path, "common_http_protocol_options.max_connection_duration"), m.GetCommonHttpProtocolOptions().GetMaxConnectionDuration(), 0),
		MaxStreams:        m.GetHttp2ProtocolOptions().GetMaxConcurrentStreams().GetValue(),
		AllowConnect:      m.GetHttp2ProtocolOptions().GetAllowConnect(),
	}
	d.l.HTTP = h
	h.HTTP2 = http2Options(r, join(path, "http2_protocol_options"), m.GetHttp2ProtocolOptions(), false)
	h.ClientCert = clientCert(r, path, m)
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

func (c *Compiler) tcpProxy(r *report, path string, m *tcpv3.TcpProxy, d *chainDef) {
	t := &snapshot.TCPProxy{
		StatPrefix: m.GetStatPrefix(), IdleTimeout: duration(r, join(path, "idle_timeout"), m.GetIdleTimeout(), time.Hour),
		MaxDuration:        duration(r, join(path, "max_downstream_connection_duration"), m.GetMaxDownstreamConnectionDuration(), 0),
		MaxConnectAttempts: int(min(m.GetMaxConnectAttempts().GetValue(), 1<<20)),
	}
	if m.GetMaxConnectAttempts() != nil && t.MaxConnectAttempts == 0 {
		r.add(join(path, "max_connect_attempts"), "must be at least 1")
	}
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
