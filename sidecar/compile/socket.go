package compile

import (
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxysocketv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"

	"github.com/outrigger-mesh/outrigger/internal/sockopt"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// socketOptions reads how a cluster's sockets are set up; nil for the system's defaults.
func socketOptions(r *report, m *clusterv3.Cluster) *sockopt.Options {
	k, b := m.GetUpstreamConnectionOptions().GetTcpKeepalive(), m.GetUpstreamBindConfig()
	if k == nil && b == nil {
		return nil
	}
	o := &sockopt.Options{
		KeepAlive: k != nil, KeepAliveIdle: int(min(k.GetKeepaliveTime().GetValue(), 32767)),
		KeepAliveInterval: int(min(k.GetKeepaliveInterval().GetValue(), 32767)), KeepAliveProbeTimes: int(min(k.GetKeepaliveProbes().GetValue(), 127)),
	}
	const path = "upstream_bind_config"
	source := func(at string, s *corev3.SocketAddress) {
		_, addr := address(r, at, &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: s}})
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return // it was said
		}
		to := &o.Source
		if ap.Addr().Unmap().Is6() {
			to = &o.Source6
		}
		if to.IsValid() {
			r.add(at, "is the second of its address family")
		}
		*to = ap
	}
	if s := b.GetSourceAddress(); s != nil {
		source(join(path, "source_address"), s)
	}
	for i, x := range b.GetExtraSourceAddresses() {
		source(at(path, "extra_source_addresses", i)+".address", x.GetAddress())
	}
	for i, x := range b.GetSocketOptions() {
		at := at(path, "socket_options", i)
		if _, ok := x.GetValue().(*corev3.SocketOption_IntValue); !ok {
			r.add(at, "only int_value is served by this sidecar")
		}
		if x.GetState() != corev3.SocketOption_STATE_PREBIND {
			r.add(join(at, "state"), "only STATE_PREBIND is served by this sidecar")
		}
		const most = 1<<31 - 1
		if v := x.GetIntValue(); x.GetLevel() < 0 || x.GetLevel() > most || x.GetName() < 0 || x.GetName() > most || v < -most || v > most {
			r.add(at, "level, name and value must be numbers of 32 bits")
		}
		o.Options = append(o.Options, sockopt.Option{Level: int(x.GetLevel()), Name: int(x.GetName()), Value: int(x.GetIntValue())})
	}
	return o
}

// proxySocket reads whether connections begin with a PROXY header, and returns the socket behind it with its path.
func proxySocket(r *report, m *corev3.TransportSocket, out *snapshot.Cluster) (*corev3.TransportSocket, string) {
	path := "transport_socket"
	any := m.GetTypedConfig()
	if any.GetTypeUrl() != typeURL("envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport") {
		return m, path
	}
	path = join(path, "typed_config")
	x := &proxysocketv3.ProxyProtocolUpstreamTransport{}
	if !unpack(r, path, any, x) {
		return nil, path
	}
	out.ProxyProtocol = 1
	if x.GetConfig().GetVersion() == corev3.ProxyProtocolConfig_V2 {
		out.ProxyProtocol = 2
	}
	if x.GetTransportSocket() == nil {
		r.add(join(path, "transport_socket"), "is missing: raw_buffer, or TLS")
	}
	return x.GetTransportSocket(), join(path, "transport_socket")
}
