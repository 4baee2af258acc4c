package compile

import (
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/balancer/consistenthash"
	"github.com/outrigger-mesh/outrigger/balancer/leastconn"
	"github.com/outrigger-mesh/outrigger/balancer/random"
	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// httpOptionsKey is where a cluster says what it speaks.
const httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// clusterDef is a compiled cluster.
type clusterDef struct {
	c *snapshot.Cluster
	// eds names the endpoints' resource; "" where they are inline.
	eds    string
	inline []snapshot.EndpointSpec
	tls    *tlsDef // or nil
}

func (c *Compiler) cluster(r *report, m *clusterv3.Cluster) *clusterDef {
	checkFields(r, "", m)
	out := &snapshot.Cluster{Name: m.GetName(), Protocol: snapshot.HTTP1}
	d := &clusterDef{c: out}
	if m.GetName() == "" {
		r.add("name", "is missing")
	}
	switch t := m.GetClusterDiscoveryType().(type) {
	case *clusterv3.Cluster_Type:
		switch t.Type {
		case clusterv3.Cluster_STATIC:
			d.inline = endpoints(r, "load_assignment", m.GetLoadAssignment())
		case clusterv3.Cluster_EDS:
			if d.eds = m.GetEdsClusterConfig().GetServiceName(); d.eds == "" {
				d.eds = m.GetName()
			}
			source(r, "eds_cluster_config.eds_config", m.GetEdsClusterConfig().GetEdsConfig())
			if m.GetLoadAssignment() != nil {
				r.add("load_assignment", "has no place in a cluster of type EDS")
			}
		case clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
			c.dns(r, m, out, t.Type == clusterv3.Cluster_LOGICAL_DNS)
			d.inline = endpointsNamed(r, "load_assignment", m.GetLoadAssignment())
			if n := len(d.inline); out.DNS.Logical && n != 1 && r.ok() {
				r.add("load_assignment", "has %d endpoints; a cluster of type LOGICAL_DNS has one", n)
			}
		case clusterv3.Cluster_ORIGINAL_DST:
			c.originalDst(r, m, out)
		default:
			r.add("type", "%v is not served by this sidecar; STATIC, STRICT_DNS, LOGICAL_DNS, EDS and ORIGINAL_DST are", t.Type)
		}
	default:
		if t != nil {
			r.add("cluster_type", "is not served by this sidecar")
			break
		}
		d.inline = endpoints(r, "load_assignment", m.GetLoadAssignment())
	}
	out.ConnectTimeout = duration(r, "connect_timeout", m.GetConnectTimeout(), 0)
	out.Socket = socketOptions(r, m)
	socket, at := proxySocket(r, m.GetTransportSocket(), out)
	if d.tls = c.clientTLS(r, m.GetName(), at, socket); d.tls != nil {
		out.TLS = d.tls.client
	}
	if !out.OriginalDst {
		c.balance(r, m, out)
	}
	upstreamHTTP(r, m, out)
	thresholds(r, m.GetCircuitBreakers(), out)
	if p := m.GetPreconnectPolicy().GetPerUpstreamPreconnectRatio(); p != nil {
		if out.Preconnect = p.GetValue(); !(out.Preconnect >= 1 && out.Preconnect <= 3) {
			r.add("preconnect_policy.per_upstream_preconnect_ratio", "must be from 1 to 3")
		}
	}
	out.Outlier = outlier(r, m.GetOutlierDetection())
	out.Health = health(r, m.GetHealthChecks())
	if p := m.GetCommonLbConfig().GetHealthyPanicThreshold().GetValue(); p != 0 {
		r.add("common_lb_config.healthy_panic_threshold", "only 0 is served: with all endpoints unhealthy calls fail")
	}
	md := &outriggerv1.ClusterMetadata{}
	ourMetadata(r, m.GetMetadata(), map[string]proto.Message{xdsname.MetadataKey: md})
	out.Internal, out.Local = md.GetInternal(), md.GetLocal()
	return d
}

// dns reads how a cluster's host names are looked up. Envoy's defaults: every 5 s, also after a failure, with IPv6 before IPv4.
func (c *Compiler) dns(r *report, m *clusterv3.Cluster, out *snapshot.Cluster, logical bool) {
	const least = 100 * time.Millisecond
	d := &snapshot.DNS{Logical: logical, Refresh: duration(r, "dns_refresh_rate", m.GetDnsRefreshRate(), 5*time.Second)} //nolint:staticcheck // as most still write it
	if d.Refresh < least {
		r.add("dns_refresh_rate", "must be at least 100 ms")
	}
	if f := m.GetDnsFailureRefreshRate(); f != nil { //nolint:staticcheck // as above
		d.FailureBase = duration(r, "dns_failure_refresh_rate.base_interval", f.GetBaseInterval(), 0)
		d.FailureMax = duration(r, "dns_failure_refresh_rate.max_interval", f.GetMaxInterval(), 10*d.FailureBase)
		if d.FailureBase < least || d.FailureMax < d.FailureBase {
			r.add("dns_failure_refresh_rate", "base_interval must be at least 100 ms, and max_interval not below it")
		}
	}
	switch f := m.GetDnsLookupFamily(); f {
	case clusterv3.Cluster_AUTO:
		d.Family = snapshot.V6Preferred
	case clusterv3.Cluster_V4_ONLY:
		d.Family = snapshot.V4Only
	case clusterv3.Cluster_V6_ONLY:
		d.Family = snapshot.V6Only
	case clusterv3.Cluster_V4_PREFERRED:
		d.Family = snapshot.V4Preferred
	case clusterv3.Cluster_ALL:
		d.Family = snapshot.AllFamilies
	default:
		r.add("dns_lookup_family", "%v is unknown", f)
	}
	out.DNS = d
}

// originalDst reads what is particular to a cluster whose endpoint is where the caller meant to connect.
func (c *Compiler) originalDst(r *report, m *clusterv3.Cluster, out *snapshot.Cluster) {
	out.OriginalDst = true
	out.Strategy = c.strategies[roundrobin.Name] // has no say, but every cluster has one
	if m.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED || m.GetLoadBalancingPolicy() != nil {
		r.add("lb_policy", "must be CLUSTER_PROVIDED in a cluster of type ORIGINAL_DST")
	}
	if m.GetLoadAssignment() != nil {
		r.add("load_assignment", "has no place in a cluster of type ORIGINAL_DST")
	}
	if len(m.GetHealthChecks()) > 0 {
		r.add("health_checks", "have no place in a cluster of type ORIGINAL_DST")
	}
}

// balance chooses the first policy that this sidecar knows, else lb_policy.
func (c *Compiler) balance(r *report, m *clusterv3.Cluster, out *snapshot.Cluster) {
	name := ""
	if l := m.GetLoadBalancingPolicy(); l != nil {
		for i, p := range l.GetPolicies() {
			path := at("load_balancing_policy", "policies", i) + ".typed_extension_config.typed_config"
			any := p.GetTypedExtensionConfig().GetTypedConfig()
			var lb proto.Message
			switch any.GetTypeUrl() {
			case typeURL("envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"):
				lb, name = &roundrobinv3.RoundRobin{}, roundrobin.Name
			case typeURL("envoy.extensions.load_balancing_policies.random.v3.Random"):
				lb, name = &randomv3.Random{}, random.Name
			case typeURL("envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"):
				lb, name = &leastrequestv3.LeastRequest{}, leastconn.Name
			case typeURL("envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash"):
				lb, name = &ringhashv3.RingHash{}, consistenthash.Name
			default:
				continue
			}
			if unpack(r, path, any, lb) {
				switch lb := lb.(type) {
				case *leastrequestv3.LeastRequest:
					out.LB = choices(r, path, lb.GetChoiceCount())
				case *ringhashv3.RingHash:
					if lb.GetHashFunction() == ringhashv3.RingHash_MURMUR_HASH_2 {
						r.add(join(path, "hash_function"), "only XX_HASH is served by this sidecar")
					}
					out.LB = ring(r, path, lb.GetMinimumRingSize(), lb.GetMaximumRingSize())
				}
			}
			break
		}
		if name == "" {
			r.add("load_balancing_policy.policies", "none of them is known to this sidecar")
			return
		}
	} else {
		switch m.GetLbPolicy() {
		case clusterv3.Cluster_ROUND_ROBIN:
			name = roundrobin.Name
		case clusterv3.Cluster_RANDOM:
			name = random.Name
		case clusterv3.Cluster_LEAST_REQUEST:
			name = leastconn.Name
			out.LB = choices(r, "least_request_lb_config", m.GetLeastRequestLbConfig().GetChoiceCount())
		case clusterv3.Cluster_RING_HASH:
			name = consistenthash.Name
			l := m.GetRingHashLbConfig()
			if l.GetHashFunction() != clusterv3.Cluster_RingHashLbConfig_XX_HASH {
				r.add("ring_hash_lb_config.hash_function", "only XX_HASH is served by this sidecar")
			}
			out.LB = ring(r, "ring_hash_lb_config", l.GetMinimumRingSize(), l.GetMaximumRingSize())
		default:
			r.add("lb_policy", "%v is not served by this sidecar", m.GetLbPolicy())
			return
		}
	}
	if out.Strategy = c.strategies[name]; out.Strategy == nil {
		r.add("load_balancing_policy", "strategy %s is not built in", name)
	}
}

func ring(r *report, path string, least, most *wrapperspb.UInt64Value) any {
	c := consistenthash.Config{MinSize: consistenthash.DefaultMinSize, MaxSize: consistenthash.DefaultMaxSize}
	if least != nil {
		c.MinSize = least.GetValue()
	}
	if most != nil {
		c.MaxSize = most.GetValue()
	}
	if c.MinSize == 0 || c.MaxSize > consistenthash.DefaultMaxSize || c.MinSize > c.MaxSize {
		r.add(path, "minimum_ring_size and maximum_ring_size must be from 1 to %d, the minimum not above the maximum", consistenthash.DefaultMaxSize)
	}
	return c
}

func choices(r *report, path string, n *wrapperspb.UInt32Value) any {
	if n == nil {
		return nil
	}
	if n.GetValue() < 2 {
		r.add(join(path, "choice_count"), "must be at least 2")
		return nil
	}
	return leastconn.Config{Choices: int(min(n.GetValue(), leastconn.MaxChoices))}
}

func upstreamHTTP(r *report, m *clusterv3.Cluster, out *snapshot.Cluster) {
	if m.GetHttp2ProtocolOptions() != nil { //nolint:staticcheck // deprecated, and still what many servers emit
		out.Protocol = snapshot.HTTP2
		out.HTTP2 = http2Options(r, "http2_protocol_options", m.GetHttp2ProtocolOptions(), true) //nolint:staticcheck // as above
	}
	for key, any := range m.GetTypedExtensionProtocolOptions() {
		path := atKey("", "typed_extension_protocol_options", key)
		o := &upstreamhttpv3.HttpProtocolOptions{}
		if key != httpOptionsKey {
			r.add(path, "is not served by this sidecar")
			continue
		}
		if !unpack(r, path, any, o) {
			continue
		}
		common := o.GetCommonHttpProtocolOptions()
		out.IdleTimeout = duration(r, join(path, "common_http_protocol_options.idle_timeout"), common.GetIdleTimeout(), 0)
		out.MaxRequestsPerConnection = common.GetMaxRequestsPerConnection().GetValue()
		out.MaxConnectionAge = duration(r, join(path, "common_http_protocol_options.max_connection_duration"), common.GetMaxConnectionDuration(), 0)
		if common.GetHeadersWithUnderscoresAction() != corev3.HttpProtocolOptions_ALLOW {
			r.add(join(path, "common_http_protocol_options.headers_with_underscores_action"), "is not served by this sidecar on upstreams")
		}
		if n := common.GetMaxHeadersCount(); n != nil {
			if n.GetValue() == 0 || n.GetValue() > maxResponseFields {
				r.add(join(path, "common_http_protocol_options.max_headers_count"), "must be from 1 to %d", maxResponseFields)
			}
			out.MaxResponseFields = int(n.GetValue())
		}
		if n := common.GetMaxResponseHeadersKb(); n != nil {
			if n.GetValue() == 0 || n.GetValue() > maxResponseKiB {
				r.add(join(path, "common_http_protocol_options.max_response_headers_kb"), "must be from 1 to %d", maxResponseKiB)
			}
			out.MaxResponseHeaderBytes = int(n.GetValue()) << 10
		}
		switch p := o.GetUpstreamProtocolOptions().(type) {
		case *upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_:
			switch h := p.ExplicitHttpConfig.GetProtocolConfig().(type) {
			case *upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions:
				out.Protocol = snapshot.HTTP1
				upstreamHTTP1(r, join(path, "explicit_http_config.http_protocol_options"), h.HttpProtocolOptions)
			case *upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions:
				out.Protocol = snapshot.HTTP2
				out.HTTP2 = http2Options(r, join(path, "explicit_http_config.http2_protocol_options"), h.Http2ProtocolOptions, true)
			}
		case *upstreamhttpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
			out.Protocol = snapshot.Auto
			upstreamHTTP1(r, join(path, "use_downstream_protocol_config.http_protocol_options"), p.UseDownstreamProtocolConfig.GetHttpProtocolOptions())
			out.HTTP2 = http2Options(r, join(path, "use_downstream_protocol_config.http2_protocol_options"), p.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions(), true)
		}
	}
}

// Bounds of what a response's head may be set to: it is parsed where it was read.
const (
	maxResponseKiB    = 60
	maxResponseFields = exchange.MaxFields - 10
)

func thresholds(r *report, b *clusterv3.CircuitBreakers, out *snapshot.Cluster) {
	for i, t := range b.GetThresholds() {
		path := at("circuit_breakers", "thresholds", i)
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			r.add(join(path, "priority"), "only DEFAULT is served by this sidecar")
			continue
		}
		for _, v := range []struct {
			field string
			from  *wrapperspb.UInt32Value
			to    *uint32
		}{
			{"max_connections", t.GetMaxConnections(), &out.MaxConnections},
			{"max_pending_requests", t.GetMaxPendingRequests(), &out.MaxPending},
			{"max_requests", t.GetMaxRequests(), &out.MaxRequests},
			{"max_retries", t.GetMaxRetries(), &out.MaxRetries},
		} {
			if v.from == nil {
				continue
			}
			if *v.to = v.from.GetValue(); *v.to == 0 {
				r.add(join(path, v.field), "must be at least 1")
			}
		}
		if rb := t.GetRetryBudget(); rb != nil {
			out.Budget = &snapshot.RetryBudget{Percent: 20, PerSecond: 10}
			if p := rb.GetBudgetPercent(); p != nil {
				out.Budget.Percent = p.GetValue()
			}
			if p := out.Budget.Percent; math.IsNaN(p) || p < 0 || p > 100 {
				r.add(join(path, "retry_budget.budget_percent"), "must be from 0 to 100")
			}
			if n := rb.GetMinRetryConcurrency(); n != nil {
				out.Budget.PerSecond = n.GetValue()
			}
		}
	}
}

func outlier(r *report, o *clusterv3.OutlierDetection) *snapshot.Outlier {
	if o == nil {
		return nil
	}
	for field, v := range map[string]*wrapperspb.UInt32Value{
		"enforcing_success_rate":                     o.GetEnforcingSuccessRate(),
		"enforcing_consecutive_gateway_failure":      o.GetEnforcingConsecutiveGatewayFailure(),
		"enforcing_failure_percentage":               o.GetEnforcingFailurePercentage(),
		"enforcing_failure_percentage_local_origin":  o.GetEnforcingFailurePercentageLocalOrigin(),
		"enforcing_local_origin_success_rate":        o.GetEnforcingLocalOriginSuccessRate(),
		"enforcing_consecutive_local_origin_failure": o.GetEnforcingConsecutiveLocalOriginFailure(),
	} {
		if v.GetValue() != 0 {
			r.add("outlier_detection."+field, "only 0 is served by this sidecar")
		}
	}
	if v := o.GetEnforcingConsecutive_5Xx(); v != nil && v.GetValue() != 0 && v.GetValue() != 100 {
		r.add("outlier_detection.enforcing_consecutive_5xx", "only 0 and 100 are served by this sidecar")
	}
	if o.GetAlwaysEjectOneHost() != nil && !o.GetAlwaysEjectOneHost().GetValue() {
		r.add("outlier_detection.always_eject_one_host", "one of two or more may always be ejected")
	}
	out := &snapshot.Outlier{
		Consecutive5xx: 5, MaxEjectionPercent: 10,
		BaseEjection: duration(r, "outlier_detection.base_ejection_time", o.GetBaseEjectionTime(), 30*time.Second),
		MaxEjection:  duration(r, "outlier_detection.max_ejection_time", o.GetMaxEjectionTime(), 300*time.Second),
	}
	if v := o.GetConsecutive_5Xx(); v != nil {
		out.Consecutive5xx = v.GetValue()
	}
	if v := o.GetMaxEjectionPercent(); v != nil {
		out.MaxEjectionPercent = min(v.GetValue(), 100)
	}
	out.MaxEjection = max(out.MaxEjection, out.BaseEjection)
	off := o.GetEnforcingConsecutive_5Xx() != nil && o.GetEnforcingConsecutive_5Xx().GetValue() == 0
	if off || out.Consecutive5xx == 0 || out.MaxEjectionPercent == 0 {
		return nil
	}
	return out
}

func health(r *report, checks []*corev3.HealthCheck) *snapshot.HealthCheck {
	if len(checks) == 0 {
		return nil
	}
	if len(checks) > 1 {
		r.add("health_checks[1]", "one health check is served")
	}
	h, path := checks[0], "health_checks[0]"
	out := &snapshot.HealthCheck{
		Interval:       duration(r, join(path, "interval"), h.GetInterval(), 10*time.Second),
		Timeout:        duration(r, join(path, "timeout"), h.GetTimeout(), time.Second),
		UnhealthyAfter: int(min(h.GetUnhealthyThreshold().GetValue(), 1<<20)),
		HealthyAfter:   int(min(h.GetHealthyThreshold().GetValue(), 1<<20)),
	}
	if out.Interval < time.Millisecond || out.Timeout < time.Millisecond {
		r.add(path, "interval and timeout must be at least 1 ms")
	}
	if out.UnhealthyAfter == 0 {
		out.UnhealthyAfter = 3
	}
	if out.HealthyAfter == 0 {
		out.HealthyAfter = 1
	}
	switch k := h.GetHealthChecker().(type) {
	case *corev3.HealthCheck_HttpHealthCheck_:
		out.HTTPPath, out.HTTPHost = k.HttpHealthCheck.GetPath(), k.HttpHealthCheck.GetHost()
		if len(out.HTTPPath) == 0 || out.HTTPPath[0] != '/' {
			r.add(join(path, "http_health_check.path"), "must begin with /")
		}
		noControl(r, join(path, "http_health_check.path"), out.HTTPPath)
		noControl(r, join(path, "http_health_check.host"), out.HTTPHost)
	case *corev3.HealthCheck_GrpcHealthCheck_:
		out.GRPC, out.GRPCService = true, k.GrpcHealthCheck.GetServiceName()
	case *corev3.HealthCheck_TcpHealthCheck_:
		out.TCP = true
	default:
		r.add(path, "says nothing to check")
	}
	return out
}

// assignment compiles a ClusterLoadAssignment that is a resource of its own.
func assignment(r *report, m *endpointv3.ClusterLoadAssignment) []snapshot.EndpointSpec {
	checkFields(r, "", m)
	return endpoints(r, "", m)
}

func endpoints(r *report, path string, m *endpointv3.ClusterLoadAssignment) []snapshot.EndpointSpec {
	return endpointsBy(r, path, m, address)
}

// endpointsNamed are endpoints whose addresses may be host names.
func endpointsNamed(r *report, path string, m *endpointv3.ClusterLoadAssignment) []snapshot.EndpointSpec {
	return endpointsBy(r, path, m, func(r *report, path string, a *corev3.Address) (string, string) {
		s := a.GetSocketAddress()
		if s == nil || isIP(s.GetAddress()) {
			return address(r, path, a)
		}
		if s.GetAddress() == "" || len(s.GetAddress()) > 253 || strings.ContainsAny(s.GetAddress(), " /:@\x00") {
			r.add(join(path, "socket_address.address"), "%q is neither an IP address nor a host name", s.GetAddress())
		}
		if s.GetPortValue() == 0 || s.GetPortValue() > 65535 {
			r.add(join(path, "socket_address.port_value"), "must be from 1 to 65535")
		}
		return "tcp", net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
	})
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func endpointsBy(r *report, path string, m *endpointv3.ClusterLoadAssignment, address func(*report, string, *corev3.Address) (string, string)) []snapshot.EndpointSpec {
	out := []snapshot.EndpointSpec{}
	if f := m.GetPolicy().GetOverprovisioningFactor(); f != nil && f.GetValue() != 140 {
		r.add(join(path, "policy.overprovisioning_factor"), "only 140, Envoy's default, is served by this sidecar; a priority is used while no endpoint of those before it is eligible")
	}
	seen := map[string]string{}
	for i, l := range m.GetEndpoints() {
		lp := at(path, "endpoints", i)
		if l.GetPriority() > 128 {
			r.add(join(lp, "priority"), "must be at most 128")
		}
		for k, e := range l.GetLbEndpoints() {
			ep := at(lp, "lb_endpoints", k)
			network, addr := address(r, join(ep, "endpoint.address"), e.GetEndpoint().GetAddress())
			if first, twice := seen[addr]; twice && addr != "" {
				r.add(join(ep, "endpoint.address"), "%s is already that of %s", addr, first)
			}
			seen[addr] = ep
			md := &outriggerv1.EndpointMetadata{}
			ourMetadataAt(r, join(ep, "metadata"), e.GetMetadata(), map[string]proto.Message{xdsname.MetadataKey: md})
			s := snapshot.EndpointSpec{
				ID: md.GetInstance(), Network: network, Address: addr, Version: md.GetVersion(),
				More: more(r, join(ep, "endpoint"), e.GetEndpoint()), Hostname: e.GetEndpoint().GetHostname(), Weight: 1, Priority: l.GetPriority(),
				Region: l.GetLocality().GetRegion(), Zone: l.GetLocality().GetZone(), SubZone: l.GetLocality().GetSubZone(),
			}
			if s.ID == "" {
				s.ID = addr
			}
			if w := e.GetLoadBalancingWeight(); w != nil {
				if s.Weight = w.GetValue(); s.Weight == 0 {
					r.add(join(ep, "load_balancing_weight"), "must be at least 1")
				}
			}
			switch e.GetHealthStatus() {
			case corev3.HealthStatus_UNKNOWN:
				s.Health = snapshot.HealthUnknown
			case corev3.HealthStatus_HEALTHY, corev3.HealthStatus_DEGRADED:
				s.Health = snapshot.Healthy
			case corev3.HealthStatus_DRAINING:
				s.Health = snapshot.Draining
			default:
				s.Health = snapshot.Unhealthy
			}
			out = append(out, s)
		}
	}
	return out
}

// more reads an endpoint's further addresses.
func more(r *report, path string, e *endpointv3.Endpoint) (out []string) {
	for i, a := range e.GetAdditionalAddresses() {
		at := at(path, "additional_addresses", i) + ".address"
		network, addr := address(r, at, a.GetAddress())
		if network == "unix" || e.GetAddress().GetPipe() != nil {
			r.add(at, "a Unix socket has no further addresses, and is none")
		}
		out = append(out, addr)
	}
	return out
}

// address reads a literal address: names are resolved by the control plane.
func address(r *report, path string, a *corev3.Address) (network, addr string) {
	switch k := a.GetAddress().(type) {
	case *corev3.Address_Pipe:
		switch p := k.Pipe.GetPath(); {
		case p == "" || p == "@":
			r.add(join(path, "pipe.path"), "is missing")
		case len(p) > 107:
			r.add(join(path, "pipe.path"), "has %d bytes; the system takes 107", len(p))
		case strings.ContainsRune(p, 0):
			r.add(join(path, "pipe.path"), "holds NUL")
		}
		return "unix", k.Pipe.GetPath()
	case *corev3.Address_SocketAddress:
		s := k.SocketAddress
		ip, err := netip.ParseAddr(s.GetAddress())
		if err != nil {
			r.add(join(path, "socket_address.address"), "%q is not an IP address", s.GetAddress())
			return "", ""
		}
		if s.GetProtocol() != corev3.SocketAddress_TCP {
			r.add(join(path, "socket_address.protocol"), "%v is not served by this sidecar", s.GetProtocol())
		}
		if s.GetPortValue() > 65535 {
			r.add(join(path, "socket_address.port_value"), "must be at most 65535")
			return "", ""
		}
		return "tcp", netip.AddrPortFrom(ip, uint16(s.GetPortValue())).String()
	}
	r.add(path, "is missing")
	return "", ""
}

// source accepts what comes by the stream that the resource itself came by.
func source(r *report, path string, s *corev3.ConfigSource) {
	if s.GetAds() == nil && s.GetSelf() == nil {
		r.add(path, "only ads and self are served by this sidecar")
	}
	Source(s, func(field, reason string) { r.add(join(path, field), "%s", reason) })
}

// Source refuses what of a config source is not served, but for where it leads to.
func Source(s *corev3.ConfigSource, refuse func(field, reason string)) {
	for field, v := range map[string]corev3.ApiVersion{
		"resource_api_version": s.GetResourceApiVersion(), "self.transport_api_version": s.GetSelf().GetTransportApiVersion(),
	} {
		if v != corev3.ApiVersion_AUTO && v != corev3.ApiVersion_V3 {
			refuse(field, v.String()+" is not served by this sidecar; V3 is")
		}
	}
}

func duration(r *report, path string, d *durationpb.Duration, unset time.Duration) time.Duration {
	if d == nil {
		return unset
	}
	if err := d.CheckValid(); err != nil {
		r.add(path, "%v", err)
		return unset
	}
	v := d.AsDuration()
	if v < 0 {
		r.add(path, "is negative")
		return unset
	}
	return v
}

func noControl(r *report, path, s string) {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			r.add(path, "holds %s, which a field cannot", strconv.QuoteRune(rune(s[i])))
			return
		}
	}
}

// unpack opens an Any as m and checks its fields.
func unpack(r *report, path string, any *anypb.Any, m proto.Message) bool {
	if any == nil {
		r.add(path, "is missing")
		return false
	}
	if want := typeURL(string(m.ProtoReflect().Descriptor().FullName())); any.GetTypeUrl() != want {
		r.add(path, "is a %s, not a %s", any.GetTypeUrl(), want)
		return false
	}
	if err := proto.Unmarshal(any.GetValue(), m); err != nil {
		r.add(path, "cannot be read: %v", err)
		return false
	}
	n := len(r.errs)
	checkFields(r, path, m)
	return len(r.errs) == n
}

func typeURL(name string) string { return "type.googleapis.com/" + name }

func ourMetadata(r *report, md *corev3.Metadata, want map[string]proto.Message) {
	ourMetadataAt(r, "metadata", md, want)
}

// ourMetadataAt reads typed metadata under our keys; a key of ours that is not wanted here is refused, those of
// others say nothing to us.
func ourMetadataAt(r *report, path string, md *corev3.Metadata, want map[string]proto.Message) {
	for key, any := range md.GetTypedFilterMetadata() {
		p := atKey(path, "typed_filter_metadata", key)
		if m := want[key]; m != nil {
			unpack(r, p, any, m)
		} else if len(key) >= len(xdsname.MetadataKey) && key[:len(xdsname.MetadataKey)] == xdsname.MetadataKey {
			r.add(p, "is not served by this sidecar")
		}
	}
}
