package compile

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// inert says of fields that are listed as served, and that no code reads, why it is right that they change nothing
// here. TestServedFieldsAreRead holds it and served to the code; docs/reference/xds.md shows both. A field that would
// change what is done with a call has no place here: it is read, or refused.
var inert = map[string]string{
	// Names. Types decide what is meant, and metrics have labels of their own.
	"envoy.config.core.v3.TypedExtensionConfig.name":                                    "a name only: the type decides",
	"envoy.config.listener.v3.ListenerFilter.name":                                      "a name only: the type decides",
	"envoy.config.listener.v3.Filter.name":                                              "a name only: the type decides",
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.stat_prefix":     "metrics are labelled with the listener's name",
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit.stat_prefix":  "metrics are labelled with the listener's name",
	"envoy.config.core.v3.SocketOption.description":                                     "a remark",
	"envoy.config.listener.v3.Listener.stat_prefix":                                     "metrics are labelled with the listener's name",
	"envoy.config.cluster.v3.Cluster.alt_stat_name":                                     "metrics are labelled with the cluster's name",
	"envoy.config.core.v3.GrpcService.GoogleGrpc.stat_prefix":                           "calls to the control plane are not counted apart",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.track_remaining":                "what is in use is always shown",
	"envoy.extensions.filters.http.fault.v3.HTTPFault.disable_downstream_cluster_stats": "faults are counted by their place, never by the caller's cluster",
	"envoy.config.core.v3.TransportSocket.name":                                         "a name only: the type decides",

	// What is said to others.
	"envoy.config.core.v3.Metadata.filter_metadata": "metadata of others says nothing to this sidecar",
	"envoy.config.listener.v3.FilterChain.metadata": "metadata of others says nothing to this sidecar",
	"envoy.config.core.v3.Node.cluster":             "is passed on to the control plane",
	"envoy.config.core.v3.Node.metadata":            "is passed on to the control plane",
	"envoy.config.core.v3.Node.locality":            "is passed on to the control plane",
	"envoy.config.core.v3.Node.user_agent_name":     "is passed on to the control plane",
	"envoy.config.core.v3.Node.user_agent_version":  "is passed on to the control plane",
	"envoy.config.core.v3.Node.client_features":     "is passed on to the control plane",

	// What holds in any case.
	"envoy.config.core.v3.PathConfigSource.watched_directory":                                            "the file itself is looked at every second, whichever way it changes",
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate.watched_directory":                         "the files themselves are looked at every second, whichever way they change",
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.watched_directory":           "the file itself is looked at every second, whichever way it changes",
	"envoy.config.core.v3.WatchedDirectory.path":                                                         "the files themselves are looked at every second, whichever way they change",
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext.disable_stateful_session_resumption": "sessions are resumed by tickets alone: nothing is kept of them",
	"envoy.config.core.v3.ApiConfigSource.set_node_on_first_message_only":                                "the node is always in the first message alone",
	"envoy.config.core.v3.ConfigSource.initial_fetch_timeout":                                            "what is named is waited for 5 s, and served whenever it comes",
	"envoy.config.core.v3.RuntimeFractionalPercent.runtime_key":                                          "there is no runtime: default_value holds, as in Envoy where the key is not set",
	"envoy.config.core.v3.Http1ProtocolOptions.enable_trailers":                                          "trailers are always passed on",
	"envoy.extensions.filters.http.router.v3.Router.suppress_envoy_headers":                              "there are no x-envoy fields to suppress",
	"envoy.type.matcher.v3.RegexMatcher.google_re2":                                                      "expressions are always RE2",
	"envoy.config.listener.v3.Listener.enable_reuse_port":                                                "a socket outlives the sidecar that accepts on it, and its loops share it",
	"envoy.config.route.v3.RetryPolicy.host_selection_retry_max_attempts":                                "an endpoint that was not tried is found where there is one",
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit.enable_retry_after_header":          "Retry-After is always sent",
	"envoy.config.cluster.v3.OutlierDetection.interval":                                                  "nothing is swept: an endpoint is ejected at its last failure, and comes back in time",
	"envoy.config.endpoint.v3.LocalityLbEndpoints.load_balancing_weight":                                 "as in Envoy it says something only to locality_weighted_lb_config, which is refused",
}

// limits says of fields of which only some values are served which those are.
var limits = map[string]string{
	"envoy.config.core.v3.SocketAddress.address":                                          "an IP address; names are served for the control plane's address alone",
	"envoy.config.core.v3.SocketAddress.protocol":                                         "only TCP",
	"envoy.config.core.v3.ConfigSource.resource_api_version":                              "only AUTO and V3",
	"envoy.config.core.v3.SelfConfigSource.transport_api_version":                         "only AUTO and V3",
	"envoy.config.core.v3.ApiConfigSource.api_type":                                       "only DELTA_GRPC",
	"envoy.config.core.v3.ApiConfigSource.transport_api_version":                          "only V3",
	"envoy.config.core.v3.ApiConfigSource.grpc_services":                                  "exactly one",
	"envoy.config.bootstrap.v3.Admin.address":                                             "a pipe or a loopback address; on a TCP address the console asks for a token",
	"envoy.config.bootstrap.v3.Bootstrap.node":                                            "id is needed with dynamic_resources alone",
	"envoy.config.bootstrap.v3.Bootstrap.DynamicResources.lds_config":                     "only ads",
	"envoy.config.bootstrap.v3.Bootstrap.DynamicResources.cds_config":                     "only ads",
	"envoy.config.listener.v3.Listener.filter_chains":                                     "one chain with one filter",
	"envoy.config.route.v3.RouteConfiguration.validate_clusters":                          "only false with a control plane: a route waits for its cluster. Without one a cluster that is missing is always refused",
	"envoy.config.route.v3.RouteMatch.runtime_fraction":                                   "only the whole",
	"envoy.config.route.v3.QueryParameterMatcher.present_match":                           "only true",
	"envoy.config.route.v3.RouteAction.MaxStreamDuration.max_stream_duration":             "only 0",
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate.name":                           "only envoy.retry_host_predicates.previous_hosts, which always holds",
	"envoy.config.cluster.v3.Cluster.type":                                                "STATIC and EDS; the control plane's own also STRICT_DNS and LOGICAL_DNS",
	"envoy.config.cluster.v3.Cluster.lb_policy":                                           "ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH",
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.healthy_panic_threshold":              "only 0",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.priority":                         "only DEFAULT",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_consecutive_5xx":                  "only 0 and 100",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_success_rate":                     "only 0",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_consecutive_gateway_failure":      "only 0",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_failure_percentage":               "only 0",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_failure_percentage_local_origin":  "only 0",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_local_origin_success_rate":        "only 0",
	"envoy.config.cluster.v3.OutlierDetection.enforcing_consecutive_local_origin_failure": "only 0",
	"envoy.config.cluster.v3.OutlierDetection.always_eject_one_host":                      "only true",
	"envoy.config.core.v3.HttpProtocolOptions.max_requests_per_connection":                "on upstreams",
	"envoy.config.core.v3.HttpProtocolOptions.max_connection_duration":                    "on listeners",
	"envoy.config.core.v3.HttpProtocolOptions.max_headers_count":                          "on listeners",
	"envoy.config.core.v3.Http2ProtocolOptions.max_concurrent_streams":                    "on listeners",
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.overprovisioning_factor":       "only 140, Envoy's default; a priority is used while no endpoint of those before it is eligible",
}

// ServedField is a field of the subset that is served, for the reference.
type ServedField struct {
	Name protoreflect.Name
	// Note says which values alone are taken, or why the field changes nothing; "" where neither is so.
	Note string
}

// ServedMessages lists the messages of which fields are served, sorted by name.
func ServedMessages() []protoreflect.FullName { return slices.Sorted(maps.Keys(served)) }

// Served lists the fields of a message that are served, sorted by name.
func Served(message protoreflect.FullName) []ServedField {
	var out []ServedField
	for _, f := range ServedFields(message) {
		key := string(message) + "." + f
		note := limits[key]
		if why := inert[key]; why != "" {
			note = "no effect: " + why
		}
		out = append(out, ServedField{protoreflect.Name(f), note})
	}
	return out
}
