package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ResourceError says why a resource was not taken.
type ResourceError struct {
	TypeURL, Name, Version string
	// Field is the path of the field at fault, as "virtual_hosts[0].routes[2].match.safe_regex", or "" where no one
	// field is.
	Field string
	// Reason is a sentence for people.
	Reason string
}

func (e ResourceError) Error() string {
	s := shortType(e.TypeURL) + " " + e.Name
	if e.Field != "" {
		s += ": " + e.Field
	}
	return s + ": " + e.Reason
}

func shortType(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }

// maxErrors bounds what is reported of one resource.
const maxErrors = 16

// report gathers what is wrong with one resource.
type report struct{ errs []fieldError }

type fieldError struct{ path, reason string }

func (r *report) add(path, format string, args ...any) {
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, fieldError{path, fmt.Sprintf(format, args...)})
	}
}

func (r *report) ok() bool { return len(r.errs) == 0 }

// join makes a path of its parts; an index or a key needs no dot.
func join(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	return path + "." + field
}

func at(path, field string, i int) string { return join(path, field) + "[" + strconv.Itoa(i) + "]" }

func atKey(path, field, key string) string {
	return join(path, field) + "[" + strconv.Quote(key) + "]"
}

// checkFields reports every field that is set in m, at any depth, and that the sidecar does not serve. What
// is not in served is refused: a newer control plane, or one of somebody else's, learns at once what would not
// be done, and nothing that it asked for is silently left out. Embedded Any messages are opened, and checked, by
// whoever reads them.
func checkFields(r *report, path string, m proto.Message) {
	checkMessage(r, path, m.ProtoReflect())
}

func checkMessage(r *report, path string, m protoreflect.Message) {
	name := m.Descriptor().FullName()
	if name.Parent() == "google.protobuf" {
		return
	}
	if len(m.GetUnknown()) > 0 {
		r.add(path, "holds fields that this version of %s does not have", name.Name())
	}
	fields, known := served[name]
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		p := join(path, string(fd.Name()))
		if !known || !fields.has(fd.Name()) {
			r.add(p, "is not served by this sidecar")
			return len(r.errs) < maxErrors
		}
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
					checkMessage(r, p+"["+strconv.Quote(k.String())+"]", e.Message())
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				checkMessage(r, p+"["+strconv.Itoa(i)+"]", v.List().Get(i).Message())
			}
		default:
			checkMessage(r, p, v.Message())
		}
		return len(r.errs) < maxErrors
	})
}

// Unserved reports every field that is set in m, at any depth, and that the sidecar does not serve. Embedded Any
// messages are not opened.
func Unserved(m proto.Message) []ResourceError {
	r := &report{}
	checkFields(r, "", m)
	var out []ResourceError
	for _, e := range r.errs {
		out = append(out, ResourceError{Field: e.path, Reason: e.reason})
	}
	return out
}

// ServedFields are the proto names of the fields of a message that are served, sorted; nil where the message has no
// place in what the sidecar reads.
func ServedFields(message protoreflect.FullName) []string {
	fields := strings.Fields(string(served[message]))
	slices.Sort(fields)
	return fields
}

type fieldSet string // names, each between spaces

func (s fieldSet) has(n protoreflect.Name) bool {
	return strings.Contains(string(s), " "+string(n)+" ")
}

// served lists, for each message, the fields that have an effect here or that cannot have one on what is served
// (statistics prefixes, metadata of others). Reading a field somewhere in this package and listing it here go
// together.
var served = map[protoreflect.FullName]fieldSet{
	// The bootstrap; see sidecar/xdsclient.
	"envoy.config.bootstrap.v3.Bootstrap":                  " node admin static_resources dynamic_resources overload_manager ",
	"envoy.config.bootstrap.v3.Admin":                      " address ",
	"envoy.config.bootstrap.v3.Bootstrap.StaticResources":  " listeners clusters ",
	"envoy.config.bootstrap.v3.Bootstrap.DynamicResources": " lds_config cds_config ads_config ",
	"envoy.config.core.v3.Node":                            " id cluster metadata locality user_agent_name user_agent_version client_features ",
	"envoy.config.core.v3.ApiConfigSource":                 " api_type transport_api_version grpc_services set_node_on_first_message_only ",
	"envoy.config.core.v3.GrpcService":                     " envoy_grpc google_grpc ",
	"envoy.config.core.v3.GrpcService.EnvoyGrpc":           " cluster_name ",
	"envoy.config.core.v3.GrpcService.GoogleGrpc":          " target_uri stat_prefix ",

	// The overload manager; see sidecar/xdsclient.
	"envoy.config.overload.v3.OverloadManager":                                                 " refresh_interval resource_monitors actions ",
	"envoy.config.overload.v3.ResourceMonitor":                                                 " name typed_config ",
	"envoy.config.overload.v3.OverloadAction":                                                  " name triggers ",
	"envoy.config.overload.v3.Trigger":                                                         " name threshold scaled ",
	"envoy.config.overload.v3.ThresholdTrigger":                                                " value ",
	"envoy.config.overload.v3.ScaledTrigger":                                                   " scaling_threshold saturation_threshold ",
	"envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig":                         " max_heap_size_bytes ",
	"envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig": " max_active_downstream_connections ",

	// Shared.
	"envoy.config.core.v3.Address":                  " socket_address pipe ",
	"envoy.config.core.v3.SocketAddress":            " protocol address port_value ",
	"envoy.config.core.v3.Pipe":                     " path mode ",
	"envoy.config.core.v3.ConfigSource":             " ads self path path_config_source resource_api_version initial_fetch_timeout ",
	"envoy.config.core.v3.AggregatedConfigSource":   " ",
	"envoy.config.core.v3.PathConfigSource":         " path watched_directory ",
	"envoy.config.core.v3.WatchedDirectory":         " path ",
	"envoy.config.core.v3.SelfConfigSource":         " transport_api_version ",
	"envoy.config.core.v3.Metadata":                 " filter_metadata typed_filter_metadata ",
	"envoy.config.core.v3.HeaderValueOption":        " header append append_action keep_empty_value ",
	"envoy.config.core.v3.HeaderValue":              " key value ",
	"envoy.config.core.v3.Locality":                 " region zone sub_zone ",
	"envoy.config.core.v3.TypedExtensionConfig":     " name typed_config ",
	"envoy.config.core.v3.RuntimeFractionalPercent": " default_value runtime_key ",
	"envoy.config.core.v3.DataSource":               " filename inline_string inline_bytes ",
	"envoy.type.v3.FractionalPercent":               " numerator denominator ",
	"envoy.type.v3.Percent":                         " value ",
	"envoy.type.v3.Int64Range":                      " start end ",
	"envoy.type.v3.HttpStatus":                      " code ",
	"envoy.type.v3.TokenBucket":                     " max_tokens tokens_per_fill fill_interval ",
	"envoy.type.matcher.v3.StringMatcher":           " exact prefix suffix safe_regex contains ignore_case ",
	"envoy.type.matcher.v3.RegexMatcher":            " regex google_re2 ",
	"envoy.type.matcher.v3.RegexMatcher.GoogleRE2":  " ",

	// Listeners.
	"envoy.config.listener.v3.Listener": " name address filter_chains default_filter_chain metadata traffic_direction stat_prefix enable_reuse_port tcp_backlog_size " +
		"use_original_dst bind_to_port listener_filters listener_filters_timeout continue_on_listener_filters_timeout ",
	"envoy.config.listener.v3.ListenerFilter":                           " name typed_config ",
	"envoy.extensions.filters.listener.original_dst.v3.OriginalDst":     " ",
	"envoy.config.listener.v3.FilterChain":                              " name filters filter_chain_match metadata transport_socket transport_socket_connect_timeout ",
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector":   " ",
	"envoy.extensions.filters.listener.http_inspector.v3.HttpInspector": " ",
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol": " allow_requests_without_proxy_protocol disallowed_versions stat_prefix ",
	"envoy.config.core.v3.CidrRange":                                    " address_prefix prefix_len ",
	"envoy.config.listener.v3.FilterChainMatch": " destination_port prefix_ranges server_names transport_protocol application_protocols " +
		"direct_source_prefix_ranges source_type source_prefix_ranges source_ports ",
	"envoy.config.listener.v3.Filter":                                                      " name typed_config ",
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit":                 " stat_prefix max_connections ",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy":                               " stat_prefix cluster weighted_clusters idle_timeout max_downstream_connection_duration max_connect_attempts ",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster":               " clusters ",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": " name weight ",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": " codec_type stat_prefix rds route_config http_filters forward_client_cert_details set_current_client_cert_details " +
		"common_http_protocol_options http_protocol_options http2_protocol_options server_name max_request_headers_kb stream_idle_timeout " +
		"request_headers_timeout stream_flush_timeout use_remote_address xff_num_trusted_hops via generate_request_id preserve_external_request_id normalize_path " +
		"merge_slashes upgrade_configs skip_xff_append append_x_forwarded_port always_set_request_id_in_response strip_matching_host_port " +
		"strip_any_host_port strip_trailing_host_dot proxy_100_continue request_timeout drain_timeout delayed_close_timeout " +
		"server_header_transformation path_with_escaped_slashes_action ",
	"envoy.extensions.filters.network.http_connection_manager.v3.Rds":                                 " config_source route_config_name ",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":                          " name typed_config is_optional disabled ",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig": " upgrade_type enabled ",
	"envoy.config.core.v3.HttpProtocolOptions": " idle_timeout max_connection_duration max_headers_count max_requests_per_connection " +
		"headers_with_underscores_action max_response_headers_kb ",
	"envoy.config.core.v3.Http1ProtocolOptions": " allow_absolute_url accept_http_10 default_host_for_http_10 header_key_format enable_trailers " +
		"allow_chunked_length override_stream_error_on_invalid_http_message ",
	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat":                            " stateful_formatter ",
	"envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig": " ",
	"envoy.config.core.v3.Http2ProtocolOptions": " max_concurrent_streams allow_connect initial_stream_window_size initial_connection_window_size hpack_table_size " +
		"connection_keepalive max_outbound_frames max_outbound_control_frames allow_metadata override_stream_error_on_invalid_http_message ",
	"envoy.config.core.v3.KeepaliveSettings": " interval timeout interval_jitter connection_idle_interval ",

	// HTTP filters.
	"envoy.extensions.filters.http.router.v3.Router": " suppress_envoy_headers ", // there are none
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit": " stat_prefix status token_bucket filter_enabled filter_enforced " +
		"enable_x_ratelimit_headers enable_retry_after_header ",
	"envoy.extensions.filters.http.fault.v3.HTTPFault":                        " delay abort headers max_active_faults disable_downstream_cluster_stats ",
	"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":                       " ",
	"envoy.extensions.filters.common.fault.v3.FaultDelay":                     " fixed_delay percentage ",
	"envoy.extensions.filters.http.fault.v3.FaultAbort":                       " http_status grpc_status percentage ",
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutation":         " mutations ",
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute": " mutations ",
	"envoy.extensions.filters.http.header_mutation.v3.Mutations":              " request_mutations response_mutations ",
	"envoy.config.common.mutation_rules.v3.HeaderMutation":                    " remove append ",

	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails": " subject uri dns ",

	// TLS.
	"envoy.config.core.v3.TransportSocket":                       " name typed_config ",
	"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": " ",
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": " common_tls_context require_client_certificate require_sni " +
		"disable_stateless_session_resumption disable_stateful_session_resumption ",
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": " common_tls_context sni auto_sni_san_validation max_session_keys ",
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": " tls_params tls_certificates tls_certificate_sds_secret_configs " +
		"validation_context validation_context_sds_secret_config combined_validation_context alpn_protocols ",
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": " default_validation_context " +
		"validation_context_sds_secret_config ",
	"envoy.extensions.transport_sockets.tls.v3.TlsParameters":  " tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves ",
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate": " certificate_chain private_key watched_directory ",
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext": " trusted_ca system_root_certs watched_directory " +
		"match_typed_subject_alt_names match_subject_alt_names verify_certificate_hash verify_certificate_spki ",
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts": " ",
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":                        " san_type matcher ",
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig":                              " name sds_config ",
	"envoy.extensions.transport_sockets.tls.v3.Secret":                                       " name tls_certificate validation_context ",

	// Routes.
	"envoy.config.route.v3.RouteConfiguration": " name virtual_hosts vhds request_headers_to_add request_headers_to_remove response_headers_to_add " +
		"response_headers_to_remove validate_clusters most_specific_header_mutations_wins max_direct_response_body_size_bytes " +
		"ignore_port_in_host_matching typed_per_filter_config metadata ",
	"envoy.config.route.v3.Vhds": " config_source ",
	"envoy.config.route.v3.VirtualHost": " name domains routes request_headers_to_add request_headers_to_remove response_headers_to_add " +
		"response_headers_to_remove typed_per_filter_config retry_policy metadata ",
	"envoy.config.route.v3.Route": " name match route redirect direct_response metadata typed_per_filter_config request_headers_to_add " +
		"request_headers_to_remove response_headers_to_add response_headers_to_remove ",
	"envoy.config.route.v3.FilterConfig": " config is_optional disabled ",
	"envoy.config.route.v3.RouteMatch": " prefix path safe_regex path_separated_prefix connect_matcher path_match_policy case_sensitive runtime_fraction headers " +
		"query_parameters grpc ",
	"envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions": " ",
	"envoy.config.route.v3.RouteMatch.ConnectMatcher":        " ",
	"envoy.config.route.v3.HeaderMatcher": " name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match " +
		"string_match invert_match treat_missing_header_as_empty ",
	"envoy.config.route.v3.QueryParameterMatcher":                        " name string_match present_match ",
	"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": " path_template ",
	"envoy.config.route.v3.RouteAction": " cluster cluster_header weighted_clusters prefix_rewrite host_rewrite_literal timeout idle_timeout " +
		"retry_policy hash_policy max_stream_duration upgrade_configs append_x_forwarded_host ",
	"envoy.config.route.v3.RouteAction.UpgradeConfig":                   " upgrade_type enabled connect_config ",
	"envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig":     " ",
	"envoy.config.route.v3.RouteAction.MaxStreamDuration":               " max_stream_duration grpc_timeout_header_max ",
	"envoy.config.route.v3.RouteAction.HashPolicy":                      " header cookie connection_properties query_parameter terminal ",
	"envoy.config.route.v3.RouteAction.HashPolicy.Header":               " header_name ",
	"envoy.config.route.v3.RouteAction.HashPolicy.Cookie":               " name ",
	"envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties": " source_ip ",
	"envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter":       " name ",
	"envoy.config.route.v3.WeightedCluster":                             " clusters total_weight ",
	"envoy.config.route.v3.WeightedCluster.ClusterWeight": " name weight request_headers_to_add request_headers_to_remove response_headers_to_add " +
		"response_headers_to_remove typed_per_filter_config ",
	"envoy.config.route.v3.RetryPolicy": " retry_on num_retries per_try_timeout retriable_status_codes retry_back_off retry_host_predicate " +
		"host_selection_retry_max_attempts ",
	"envoy.config.route.v3.RetryPolicy.RetryBackOff":       " base_interval max_interval ",
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate": " name typed_config ",
	"envoy.config.route.v3.RedirectAction": " https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite " +
		"response_code strip_query ",
	"envoy.config.route.v3.DirectResponseAction": " status body ",

	// Clusters and endpoints.
	"envoy.config.cluster.v3.Cluster": " name alt_stat_name type eds_cluster_config connect_timeout lb_policy load_assignment health_checks " +
		"circuit_breakers http2_protocol_options typed_extension_protocol_options outlier_detection metadata load_balancing_policy " +
		"least_request_lb_config ring_hash_lb_config common_lb_config upstream_connection_options upstream_bind_config dns_refresh_rate dns_failure_refresh_rate dns_lookup_family transport_socket preconnect_policy ",
	"envoy.config.cluster.v3.Cluster.PreconnectPolicy":                                    " per_upstream_preconnect_ratio ",
	"envoy.config.cluster.v3.UpstreamConnectionOptions":                                   " tcp_keepalive ",
	"envoy.config.core.v3.TcpKeepalive":                                                   " keepalive_probes keepalive_time keepalive_interval ",
	"envoy.config.core.v3.BindConfig":                                                     " source_address extra_source_addresses socket_options ",
	"envoy.config.core.v3.ExtraSourceAddress":                                             " address ",
	"envoy.config.core.v3.SocketOption":                                                   " description level name int_value state ",
	"envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": " config transport_socket ",
	"envoy.config.core.v3.ProxyProtocolConfig":                                            " version ",
	"envoy.config.cluster.v3.Cluster.RefreshRate":                                         " base_interval max_interval ",
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig":                                    " eds_config service_name ",
	"envoy.config.cluster.v3.Cluster.LeastRequestLbConfig":                                " choice_count ",
	"envoy.config.cluster.v3.Cluster.RingHashLbConfig":                                    " minimum_ring_size maximum_ring_size hash_function ",
	"envoy.config.cluster.v3.Cluster.CommonLbConfig":                                      " healthy_panic_threshold ",
	"envoy.config.cluster.v3.LoadBalancingPolicy":                                         " policies ",
	"envoy.config.cluster.v3.LoadBalancingPolicy.Policy":                                  " typed_extension_config ",
	"envoy.config.cluster.v3.CircuitBreakers":                                             " thresholds ",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds":                                  " priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining ",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget":                      " budget_percent min_retry_concurrency ",
	"envoy.config.cluster.v3.OutlierDetection": " consecutive_5xx base_ejection_time max_ejection_time max_ejection_percent interval " +
		"enforcing_consecutive_5xx enforcing_success_rate enforcing_consecutive_gateway_failure enforcing_failure_percentage " +
		"enforcing_failure_percentage_local_origin enforcing_local_origin_success_rate enforcing_consecutive_local_origin_failure always_eject_one_host ",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":                         " common_http_protocol_options explicit_http_config use_downstream_protocol_config ",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig":      " http_protocol_options http2_protocol_options ",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig": " http_protocol_options http2_protocol_options ",
	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin":             " ",
	"envoy.extensions.load_balancing_policies.random.v3.Random":                      " ",
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest":         " choice_count ",
	"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash":                 " minimum_ring_size maximum_ring_size hash_function ",
	"envoy.config.core.v3.HealthCheck": " timeout interval unhealthy_threshold healthy_threshold http_health_check tcp_health_check " +
		"grpc_health_check ",
	"envoy.config.core.v3.HealthCheck.HttpHealthCheck":      " host path ",
	"envoy.config.core.v3.HealthCheck.TcpHealthCheck":       " ",
	"envoy.config.core.v3.HealthCheck.GrpcHealthCheck":      " service_name ",
	"envoy.config.endpoint.v3.ClusterLoadAssignment":        " cluster_name endpoints policy ",
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy": " overprovisioning_factor ",
	"envoy.config.endpoint.v3.LocalityLbEndpoints":          " locality lb_endpoints load_balancing_weight priority ",
	"envoy.config.endpoint.v3.LbEndpoint":                   " endpoint health_status metadata load_balancing_weight ",
	"envoy.config.endpoint.v3.Endpoint.AdditionalAddress":   " address ",
	"envoy.config.endpoint.v3.Endpoint":                     " address hostname additional_addresses ",

	// Ours.
	"outrigger.v1.ClusterMetadata":  " internal local ",
	"outrigger.v1.RouteMetadata":    " head_timeout path_pattern ",
	"outrigger.v1.EndpointMetadata": " instance version ",
	"outrigger.v1.ListenerMetadata": " direction forwarded ",
	"outrigger.v1.RetryPolicy":      " attempts on any_method backoff base max per_try max_body_bytes statuses grpc_statuses ",
}
