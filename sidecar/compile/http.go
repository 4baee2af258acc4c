package compile

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	preservecasev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// httpOptions reads what few connection managers ask for; nil where all of it is off.
func httpOptions(r *report, path string, m *hcmv3.HttpConnectionManager, l *snapshot.Listener, forwarded bool) *snapshot.HTTPOptions {
	common, h1 := m.GetCommonHttpProtocolOptions(), m.GetHttpProtocolOptions()
	o := snapshot.HTTPOptions{
		Via:                 m.GetVia(),
		ServerName:          m.GetServerName(),
		SkipForwardedFor:    m.GetSkipXffAppend(),
		ForwardedPort:       m.GetAppendXForwardedPort(),
		Forwarded:           forwarded,
		RequestIDInResponse: m.GetAlwaysSetRequestIdInResponse(),
		StripTrailingDot:    m.GetStripTrailingHostDot(),
		DefaultHost:         h1.GetDefaultHostForHttp_10(),
		Continue:            m.GetProxy_100Continue(),
		RequestTimeout:      duration(r, join(path, "request_timeout"), m.GetRequestTimeout(), 0),
		DrainTimeout:        duration(r, join(path, "drain_timeout"), m.GetDrainTimeout(), 0),
		LingerTimeout:       duration(r, join(path, "delayed_close_timeout"), m.GetDelayedCloseTimeout(), 0),
		MaxRequests:         common.GetMaxRequestsPerConnection().GetValue(),
	}
	noControl(r, join(path, "via"), o.Via)
	noControl(r, join(path, "server_name"), o.ServerName)
	noControl(r, join(path, "http_protocol_options.default_host_for_http_10"), o.DefaultHost)
	if m.GetDelayedCloseTimeout() != nil && o.LingerTimeout == 0 {
		r.add(join(path, "delayed_close_timeout"), "0 is not served by this sidecar: an answer to an upload that is still coming would be lost")
	}
	switch t := m.GetServerHeaderTransformation(); t {
	case hcmv3.HttpConnectionManager_OVERWRITE:
		o.Server = snapshot.ServerOverwrite
	case hcmv3.HttpConnectionManager_APPEND_IF_ABSENT:
		o.Server = snapshot.ServerIfAbsent
	case hcmv3.HttpConnectionManager_PASS_THROUGH:
		o.ServerName = "" // it is not to be used anywhere
	default:
		r.add(join(path, "server_header_transformation"), "is unknown")
	}
	if m.GetStripMatchingHostPort() {
		o.StripPort, o.ListenPort = snapshot.StripMatchingPort, listenPort(l)
		if o.ListenPort == 0 {
			r.add(join(path, "strip_matching_host_port"), "needs a listener with a port of its own")
		}
	}
	if m.GetStripAnyHostPort() {
		if m.GetStripMatchingHostPort() {
			r.add(join(path, "strip_any_host_port"), "has no place beside strip_matching_host_port")
		}
		o.StripPort = snapshot.StripAnyPort
	}
	switch a := m.GetPathWithEscapedSlashesAction(); a {
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT, hcmv3.HttpConnectionManager_KEEP_UNCHANGED:
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		o.EscapedSlashes = snapshot.SlashesReject
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		o.EscapedSlashes = snapshot.SlashesRedirect
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		o.EscapedSlashes = snapshot.SlashesForward
	default:
		r.add(join(path, "path_with_escaped_slashes_action"), "is unknown")
	}
	switch a := common.GetHeadersWithUnderscoresAction(); a {
	case corev3.HttpProtocolOptions_ALLOW:
	case corev3.HttpProtocolOptions_REJECT_REQUEST:
		o.Underscores = snapshot.UnderscoresReject
	case corev3.HttpProtocolOptions_DROP_HEADER:
		o.Underscores = snapshot.UnderscoresDrop
	default:
		r.add(join(path, "common_http_protocol_options.headers_with_underscores_action"), "is unknown")
	}
	if common.GetMaxResponseHeadersKb() != nil {
		r.add(join(path, "common_http_protocol_options.max_response_headers_kb"), "has no meaning for a listener")
	}
	http1Options(r, join(path, "http_protocol_options"), h1)
	none := snapshot.HTTPOptions{Server: o.Server}
	if o == none {
		return nil
	}
	return &o
}

// upstreamHTTP1 checks what a cluster says of HTTP/1.1.
func upstreamHTTP1(r *report, path string, o *corev3.Http1ProtocolOptions) {
	http1Options(r, path, o)
	if o.GetAcceptHttp_10() {
		r.add(join(path, "accept_http_10"), "has no meaning for an upstream")
	}
	if o.GetDefaultHostForHttp_10() != "" {
		r.add(join(path, "default_host_for_http_10"), "has no meaning for an upstream")
	}
}

func listenPort(l *snapshot.Listener) int {
	if l.Network != "tcp" {
		return 0
	}
	a, err := netip.ParseAddrPort(l.Address)
	if err != nil {
		return 0
	}
	return int(a.Port())
}

var preserveCaseURL = typeURL("envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig")

// http1Options checks what is said of HTTP/1.1. Most of it is how this sidecar works in any case; what would change that
// is refused.
func http1Options(r *report, path string, o *corev3.Http1ProtocolOptions) {
	if v := o.GetAllowAbsoluteUrl(); v != nil && !v.GetValue() {
		r.add(join(path, "allow_absolute_url"), "false is not served by this sidecar: HTTP/1.1 asks every server to take the absolute form")
	}
	if o.GetAllowChunkedLength() {
		r.add(join(path, "allow_chunked_length"), "is not served by this sidecar: a message with two lengths is refused")
	}
	if v := o.GetOverrideStreamErrorOnInvalidHttpMessage(); v.GetValue() {
		r.add(join(path, "override_stream_error_on_invalid_http_message"), "only false is served by this sidecar")
	}
	if f := o.GetHeaderKeyFormat(); f != nil {
		s := f.GetStatefulFormatter()
		if s.GetTypedConfig().GetTypeUrl() != preserveCaseURL {
			r.add(join(path, "header_key_format"), "only the stateful formatter preserve_case is served by this sidecar, and always")
		} else {
			unpack(r, join(path, "header_key_format.stateful_formatter.typed_config"), s.GetTypedConfig(), &preservecasev3.PreserveCaseFormatterConfig{})
		}
	}
}

// clientCert reads what becomes of x-forwarded-client-cert.
func clientCert(r *report, path string, m *hcmv3.HttpConnectionManager) (c snapshot.ClientCert) {
	switch t := m.GetForwardClientCertDetails(); t {
	case hcmv3.HttpConnectionManager_SANITIZE:
	case hcmv3.HttpConnectionManager_FORWARD_ONLY:
		c.Mode = snapshot.ClientCertForward
	case hcmv3.HttpConnectionManager_APPEND_FORWARD:
		c.Mode = snapshot.ClientCertAppend
	case hcmv3.HttpConnectionManager_SANITIZE_SET:
		c.Mode = snapshot.ClientCertSet
	case hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY:
		c.Mode = snapshot.ClientCertAlways
	default:
		r.add(join(path, "forward_client_cert_details"), "is unknown")
	}
	d := m.GetSetCurrentClientCertDetails()
	c.Subject, c.URI, c.DNS = d.GetSubject().GetValue(), d.GetUri(), d.GetDns()
	return c
}
