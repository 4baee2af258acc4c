package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	connlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// defaultListenerFilterTimeout is Envoy's default of listener_filters_timeout.
const defaultListenerFilterTimeout = 15 * time.Second

// chainDef is a compiled filter chain; its routes are compiled for it apart.
type chainDef struct {
	// key is the chain's name, or its place; path leads to it.
	key, path string
	match     snapshot.ChainMatch
	fallback  bool // default_filter_chain
	// l is the listener with this chain's HTTP or TCP alone.
	l     snapshot.Listener
	chain []httpFilter
	// Exactly one is set of an HTTP chain.
	rds       string
	inline    *routev3.RouteConfiguration
	forwarded bool // our metadata asks for Forwarded
	// needs are the clusters of a TCP chain.
	needs map[string]bool
	// tls is the chain's, or nil.
	tls *tlsDef
}

// chains reads a listener's filter chains.
func (c *Compiler) chains(r *report, m *listenerv3.Listener, d *listenerDef, forwarded bool) {
	keys := map[string]string{}
	add := func(path, key string, f *listenerv3.FilterChain, fallback bool) {
		cd := &chainDef{key: key, path: path, fallback: fallback, l: d.l, forwarded: forwarded, needs: map[string]bool{}}
		cd.l.Front = nil
		if f.GetName() != "" {
			cd.key = "name=" + f.GetName()
		}
		if first, twice := keys[cd.key]; twice {
			r.add(join(path, "name"), "%q is already that of %s", f.GetName(), first)
		}
		keys[cd.key] = path
		if fallback && f.GetFilterChainMatch() != nil {
			r.add(join(path, "filter_chain_match"), "has no effect on the default")
		}
		cd.match = chainMatch(r, join(path, "filter_chain_match"), f.GetFilterChainMatch())
		wait := duration(r, join(path, "transport_socket_connect_timeout"), f.GetTransportSocketConnectTimeout(), 0)
		if cd.tls = c.serverTLS(r, m.GetName(), join(path, "transport_socket"), f.GetTransportSocket(), wait); cd.tls != nil {
			cd.l.TLS = cd.tls.server
		}
		c.networkFilters(r, path, f, cd)
		d.chains = append(d.chains, cd)
	}
	for i, f := range m.GetFilterChains() {
		add(at("", "filter_chains", i), strconv.Itoa(i), f, false)
	}
	if f := m.GetDefaultFilterChain(); f != nil {
		add("default_filter_chain", "default", f, true)
	}
	if len(d.chains) == 0 {
		r.add("filter_chains", "is missing")
		return
	}
	for i, a := range d.chains {
		for _, b := range d.chains[:i] {
			if !a.fallback && same(&a.match, &b.match) {
				r.add(join(a.path, "filter_chain_match"), "is that of %s too", b.path)
			}
		}
	}
	if d.several = len(d.chains) > 1 || !d.chains[0].fallback && !same(&d.chains[0].match, &snapshot.ChainMatch{}); !d.several {
		return
	}
	for _, cd := range d.chains {
		if cd.l.MaxConnections > 0 {
			r.add(join(cd.path, "filters[0]"), "a connection limit is served by this sidecar on listeners with one chain")
		}
	}
	if d.l.Front == nil {
		d.l.Front = &snapshot.Front{}
	}
	front := d.l.Front
	for _, cd := range d.chains { // Envoy adds the inspector too
		asks := len(cd.match.ServerNames) > 0 || cd.match.Transport != "" || len(cd.match.Protocols) > 0 && !front.SniffHTTP
		front.SniffTLS = front.SniffTLS || asks
	}
	if front.SniffTLS && front.Timeout == 0 && m.GetListenerFiltersTimeout() == nil {
		front.Timeout = defaultListenerFilterTimeout
	}
}

func same(a, b *snapshot.ChainMatch) bool {
	return a.DestinationPort == b.DestinationPort && slices.Equal(a.Destinations, b.Destinations) && slices.Equal(a.ServerNames, b.ServerNames) &&
		a.Transport == b.Transport && slices.Equal(a.Protocols, b.Protocols) && slices.Equal(a.DirectSources, b.DirectSources) &&
		a.SourceType == b.SourceType && slices.Equal(a.Sources, b.Sources) && slices.Equal(a.SourcePorts, b.SourcePorts)
}

// networkFilters reads the filter that serves a chain's connections, and before it the one that limits their number.
func (c *Compiler) networkFilters(r *report, path string, m *listenerv3.FilterChain, d *chainDef) {
	fs := m.GetFilters()
	last := len(fs) - 1
	if last == 1 && fs[0].GetTypedConfig().GetTypeUrl() == typeURL("envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit") {
		p, l := at(path, "filters", 0)+".typed_config", &connlimitv3.ConnectionLimit{}
		if unpack(r, p, fs[0].GetTypedConfig(), l) {
			if n := l.GetMaxConnections(); n == nil || n.GetValue() == 0 || n.GetValue() > 1<<40 {
				r.add(join(p, "max_connections"), "must be from 1 to %d", uint64(1)<<40)
			} else {
				d.l.MaxConnections = int64(n.GetValue())
			}
		}
	} else if last != 0 {
		r.add(join(path, "filters"), "there are %d; one is served by this sidecar, the HTTP connection manager or the TCP proxy, and before it a connection limit", len(fs))
		return
	}
	path = at(path, "filters", last) + ".typed_config"
	any := fs[last].GetTypedConfig()
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
}

func chainMatch(r *report, path string, m *listenerv3.FilterChainMatch) (out snapshot.ChainMatch) {
	if m == nil {
		return out
	}
	if p := m.GetDestinationPort(); p != nil {
		if p.GetValue() == 0 || p.GetValue() > 65535 {
			r.add(join(path, "destination_port"), "must be from 1 to 65535")
		}
		out.DestinationPort = uint16(p.GetValue())
	}
	out.Destinations = prefixes(r, path, "prefix_ranges", m.GetPrefixRanges())
	out.DirectSources = prefixes(r, path, "direct_source_prefix_ranges", m.GetDirectSourcePrefixRanges())
	out.Sources = prefixes(r, path, "source_prefix_ranges", m.GetSourcePrefixRanges())
	for i, n := range m.GetServerNames() {
		if n == "" || n == "*" || strings.Contains(strings.TrimPrefix(n, "*."), "*") {
			r.add(at(path, "server_names", i), "%q is neither a name nor *. and a suffix", n)
		}
		out.ServerNames = append(out.ServerNames, strings.ToLower(n))
	}
	switch out.Transport = m.GetTransportProtocol(); out.Transport {
	case "", "tls", "raw_buffer":
	default:
		r.add(join(path, "transport_protocol"), "%q is not known: tls and raw_buffer are", out.Transport)
	}
	out.Protocols = m.GetApplicationProtocols()
	switch m.GetSourceType() {
	case listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK:
		out.SourceType = snapshot.LocalSource
	case listenerv3.FilterChainMatch_EXTERNAL:
		out.SourceType = snapshot.ExternalSource
	}
	for i, p := range m.GetSourcePorts() {
		if p == 0 || p > 65535 {
			r.add(at(path, "source_ports", i), "must be from 1 to 65535")
		}
		out.SourcePorts = append(out.SourcePorts, uint16(p))
	}
	return out
}

func prefixes(r *report, path, field string, ranges []*corev3.CidrRange) (out []netip.Prefix) {
	for i, c := range ranges {
		a, err := netip.ParseAddr(c.GetAddressPrefix())
		if err != nil {
			r.add(at(path, field, i)+".address_prefix", "%q is not an IP address", c.GetAddressPrefix())
			continue
		}
		p, err := a.Unmap().Prefix(int(min(c.GetPrefixLen().GetValue(), 1<<10)))
		if err != nil {
			r.add(at(path, field, i)+".prefix_len", "must be from 0 to %d", a.Unmap().BitLen())
			continue
		}
		out = append(out, p)
	}
	return out
}

// listenerFilters reads what stands before the chains. A connection that the kernel redirected goes to the listener that it was
// meant for where use_original_dst says so; a cluster of type ORIGINAL_DST knows its destination all the same.
func listenerFilters(r *report, m *listenerv3.Listener, l *snapshot.Listener) {
	l.HandOver = m.GetUseOriginalDst().GetValue()
	l.Unbound = m.GetBindToPort() != nil && !m.GetBindToPort().GetValue()
	front := &snapshot.Front{
		Timeout:  duration(r, "listener_filters_timeout", m.GetListenerFiltersTimeout(), defaultListenerFilterTimeout),
		Continue: m.GetContinueOnListenerFiltersTimeout(),
	}
	for i, f := range m.GetListenerFilters() {
		path := at("", "listener_filters", i) + ".typed_config"
		switch any := f.GetTypedConfig(); any.GetTypeUrl() {
		case typeURL("envoy.extensions.filters.listener.original_dst.v3.OriginalDst"):
			unpack(r, path, any, &originaldstv3.OriginalDst{})
		case typeURL("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"):
			front.SniffTLS = unpack(r, path, any, &tlsinspectorv3.TlsInspector{}) || front.SniffTLS
			l.Front = front
		case typeURL("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"):
			front.SniffHTTP = unpack(r, path, any, &httpinspectorv3.HttpInspector{}) || front.SniffHTTP
			l.Front = front
		case typeURL("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"):
			p := &proxyprotocolv3.ProxyProtocol{}
			if !unpack(r, path, any, p) {
				continue
			}
			if front.SniffTLS || front.SniffHTTP {
				r.add(at("", "listener_filters", i), "comes behind an inspector, which would look at the PROXY header: it must be the first of them")
			}
			pp := &snapshot.ProxyProtocol{Optional: p.GetAllowRequestsWithoutProxyProtocol()}
			for k, v := range p.GetDisallowedVersions() {
				switch v {
				case corev3.ProxyProtocolConfig_V1:
					pp.NoV1 = true
				case corev3.ProxyProtocolConfig_V2:
					pp.NoV2 = true
				default:
					r.add(at(path, "disallowed_versions", k), "is unknown")
				}
			}
			if pp.NoV1 && pp.NoV2 {
				r.add(join(path, "disallowed_versions"), "leaves no version")
			}
			front.ProxyProtocol, l.Front = pp, front
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
