package xds

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

// gatewayHTTP writes what a gateway says of HTTP.
func gatewayHTTP(g *resource.GatewayHTTP, m *hcmv3.HttpConnectionManager) error {
	if g.GRPCWeb {
		a, err := xdsfield.Any(&grpcwebv3.GrpcWeb{})
		if err != nil {
			return err
		}
		m.HttpFilters = append([]*hcmv3.HttpFilter{{
			Name: "envoy.filters.http.grpc_web", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a},
		}}, m.HttpFilters...)
	}
	m.Via, m.ServerName = g.Via, g.ServerName
	m.XffNumTrustedHops = uint32(g.TrustedHops)
	m.AppendXForwardedPort = g.ForwardedPort
	m.PreserveExternalRequestId = g.KeepRequestID
	m.MergeSlashes = g.MergeSlashes
	if g.StripPort {
		m.StripPortMode = &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true}
	}
	switch g.EscapedSlashes {
	case "reject":
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_REJECT_REQUEST
	case "redirect":
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT
	case "unescape":
		m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
	switch g.Underscores {
	case "reject":
		m.CommonHttpProtocolOptions.HeadersWithUnderscoresAction = corev3.HttpProtocolOptions_REJECT_REQUEST
	case "drop":
		m.CommonHttpProtocolOptions.HeadersWithUnderscoresAction = corev3.HttpProtocolOptions_DROP_HEADER
	}
	if g.RequestTimeout > 0 {
		m.RequestTimeout = durationpb.New(g.RequestTimeout)
	}
	if g.MaxRequests > 0 {
		m.CommonHttpProtocolOptions.MaxRequestsPerConnection = wrapperspb.UInt32(uint32(g.MaxRequests))
	}
	return nil
}
