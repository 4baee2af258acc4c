package xds

import (
	"fmt"
	"net/netip"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

func fileSource(name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
}

func transportSocket(m proto.Message) (*corev3.TransportSocket, error) {
	a, err := xdsfield.Any(m)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a}}, nil
}

func tlsParams(least string) *tlsv3.TlsParameters {
	p := &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3}
	if least == "1.3" {
		p.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_3
	}
	return p
}

// sans are matchers for names as users write them.
func sans(names []string) (out []*tlsv3.SubjectAltNameMatcher) {
	for _, n := range names {
		m := &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_DNS,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: n}},
		}
		if _, err := netip.ParseAddr(n); err == nil {
			m.SanType = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		} else if strings.Contains(n, "://") {
			m.SanType = tlsv3.SubjectAltNameMatcher_URI
		} else if strings.Contains(n, "@") {
			m.SanType = tlsv3.SubjectAltNameMatcher_EMAIL
		}
		out = append(out, m)
	}
	return out
}

// secure has a gateway's listener speak TLS.
func secure(l *listenerv3.Listener, t *resource.GatewayTLS) error {
	if t == nil {
		return nil
	}
	x := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams:       tlsParams(t.MinVersion),
		AlpnProtocols:   []string{"h2", "http/1.1"},
		TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: fileSource(t.Certificate), PrivateKey: fileSource(t.Key)}},
	}}
	for _, k := range t.More {
		x.CommonTlsContext.TlsCertificates = append(x.CommonTlsContext.TlsCertificates, &tlsv3.TlsCertificate{
			CertificateChain: fileSource(k.Certificate), PrivateKey: fileSource(k.Key),
		})
	}
	if t.ClientCA != "" {
		x.RequireClientCertificate = wrapperspb.Bool(t.ClientCertificate != resource.ClientOptional)
		x.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: fileSource(t.ClientCA), MatchTypedSubjectAltNames: sans(t.ClientNames),
		}}
	}
	s, err := transportSocket(x)
	if err != nil {
		return err
	}
	l.FilterChains[0].TransportSocket = s
	l.FilterChains[0].TransportSocketConnectTimeout = durationpb.New(timeout.DefaultHandshake)
	return nil
}

// encrypt has calls to an external go over TLS.
func (b *builder) encrypt(c *clusterv3.Cluster, s *model.Service) error {
	t := s.TLS
	if t == nil {
		return nil
	}
	if b.kind == GRPC {
		// It takes certificates from its own bootstrap alone (gRFC A29), and would speak in the clear without them.
		return fmt.Errorf("%s is reached over TLS with certificates of files, which a proxyless gRPC client does not take", s)
	}
	names := t.Names
	if len(names) == 0 {
		names = []string{s.ServerName}
	}
	x := &tlsv3.UpstreamTlsContext{
		Sni: s.ServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: tlsParams(t.MinVersion),
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: fileSource(t.CA), MatchTypedSubjectAltNames: sans(names),
			}},
		},
	}
	if t.Certificate != "" {
		x.CommonTlsContext.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: fileSource(t.Certificate), PrivateKey: fileSource(t.Key)}}
	}
	var err error
	c.TransportSocket, err = transportSocket(x)
	return err
}
