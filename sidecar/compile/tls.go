package compile

import (
	"crypto/tls"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Transport sockets that are served.
const (
	downstreamTLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	upstreamTLS   = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	rawBuffer     = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
)

// tlsDef is a compiled TLS context: what it takes its certificates from, and where what is made of them goes. It is stable
// while its resource is; its certificates may be renewed under it.
type tlsDef struct {
	typ, name, path string // the resource, and where in it the context is

	server *snapshot.ServerTLS // of a listener, or nil
	client *snapshot.ClientTLS // of a cluster, or nil

	base     tls.Config // without certificates; never used as it is
	certs    []certSource
	check    *tlsv3.CertificateValidationContext // in the resource itself, or nil
	checkAt  string
	checkSDS *secretRef // or nil

	// Of a server.
	require, requireSNI bool
	// Of a client.
	alpn     []string
	sessions int
	sniSAN   bool

	files  map[string]stamp // those that were read, as they were then
	ready  bool             // a configuration was made
	stale  []fieldError     // why the last attempt to renew it failed
	made   *material        // what is in use
	keyDay int64            // of a server: when its ticket keys were made
}

// certSource is where one certificate comes from: the resource itself, or a secret.
type certSource struct {
	path   string
	inline *tlsv3.TlsCertificate
	ref    *secretRef
}

// secretRef names a secret.
type secretRef struct {
	name, path string
	file       string // that it comes from; "" for ADS, or the bootstrap
	ads        bool
}

// serverTLS reads a listener's transport socket; nil where connections are not encrypted.
func (c *Compiler) serverTLS(r *report, listener, path string, m *corev3.TransportSocket, wait time.Duration) *tlsDef {
	any := m.GetTypedConfig()
	if m == nil || plainSocket(r, path, any) {
		return nil
	}
	path = join(path, "typed_config")
	x := &tlsv3.DownstreamTlsContext{}
	if !unpack(r, path, any, x) {
		return nil
	}
	d := &tlsDef{
		typ: ListenerType, name: listener, path: path, server: &snapshot.ServerTLS{HandshakeTimeout: wait},
		require: x.GetRequireClientCertificate().GetValue(), requireSNI: x.GetRequireSni().GetValue(),
	}
	d.base.SessionTicketsDisabled = x.GetDisableStatelessSessionResumption()
	d.common(r, join(path, "common_tls_context"), x.GetCommonTlsContext())
	d.base.NextProtos = d.alpn
	if len(d.certs) == 0 {
		r.add(join(path, "common_tls_context"), "has no certificate: tls_certificates or tls_certificate_sds_secret_configs is needed")
	}
	if d.require && d.check == nil && d.checkSDS == nil {
		r.add(join(path, "require_client_certificate"), "asks for a certificate that nothing verifies: common_tls_context.validation_context.trusted_ca is needed")
	}
	return d
}

// clientTLS reads a cluster's transport socket; nil where connections are not encrypted.
func (c *Compiler) clientTLS(r *report, cluster, path string, m *corev3.TransportSocket) *tlsDef {
	any := m.GetTypedConfig()
	if m == nil || plainSocket(r, path, any) {
		return nil
	}
	path = join(path, "typed_config")
	x := &tlsv3.UpstreamTlsContext{}
	if !unpack(r, path, any, x) {
		return nil
	}
	d := &tlsDef{typ: ClusterType, name: cluster, path: path, client: &snapshot.ClientTLS{}, sessions: 32, sniSAN: x.GetAutoSniSanValidation()}
	if n := x.GetMaxSessionKeys(); n != nil {
		d.sessions = int(min(n.GetValue(), 1<<16))
	}
	d.base.ServerName = x.GetSni()
	noControl(r, join(path, "sni"), x.GetSni())
	if d.sniSAN && d.base.ServerName == "" {
		r.add(join(path, "auto_sni_san_validation"), "has no name to look for: sni is needed")
	}
	d.common(r, join(path, "common_tls_context"), x.GetCommonTlsContext())
	if len(d.certs) > 1 {
		r.add(join(path, "common_tls_context.tls_certificates"), "there are %d; a client shows one", len(d.certs))
	}
	if d.sniSAN && d.check == nil && d.checkSDS == nil {
		r.add(join(path, "auto_sni_san_validation"), "a name is worth nothing where no CA vouches for it: common_tls_context.validation_context.trusted_ca is needed")
	}
	return d
}

// plainSocket takes the transport sockets that do not encrypt, and refuses those that are not served.
func plainSocket(r *report, path string, any *anypb.Any) bool {
	switch any.GetTypeUrl() {
	case typeURL(downstreamTLS), typeURL(upstreamTLS):
		return false
	case typeURL(rawBuffer):
		unpack(r, join(path, "typed_config"), any, &rawbufferv3.RawBuffer{})
		return true
	}
	r.add(join(path, "typed_config"), "transport socket of type %q is not served by this sidecar; TLS and raw_buffer are", any.GetTypeUrl())
	return true
}

func (d *tlsDef) common(r *report, path string, m *tlsv3.CommonTlsContext) {
	d.params(r, join(path, "tls_params"), m.GetTlsParams())
	d.alpn = m.GetAlpnProtocols()
	for i, p := range d.alpn {
		if p == "" || len(p) > 255 {
			r.add(at(path, "alpn_protocols", i), "must have from 1 to 255 bytes")
		}
	}
	for i, s := range m.GetTlsCertificates() {
		p := at(path, "tls_certificates", i)
		d.certs = append(d.certs, certSource{path: p, inline: s})
		if s.GetCertificateChain() == nil {
			r.add(join(p, "certificate_chain"), "is missing")
		}
		if s.GetPrivateKey() == nil {
			r.add(join(p, "private_key"), "is missing")
		}
	}
	for i, s := range m.GetTlsCertificateSdsSecretConfigs() {
		if len(m.GetTlsCertificates()) > 0 {
			r.add(join(path, "tls_certificate_sds_secret_configs"), "has no effect beside tls_certificates")
			break
		}
		p := at(path, "tls_certificate_sds_secret_configs", i)
		d.certs = append(d.certs, certSource{path: p, ref: secretConfig(r, p, s)})
	}
	switch v := m.GetValidationContextType().(type) {
	case *tlsv3.CommonTlsContext_ValidationContext:
		d.check, d.checkAt = v.ValidationContext, join(path, "validation_context")
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		d.checkSDS = secretConfig(r, join(path, "validation_context_sds_secret_config"), v.ValidationContextSdsSecretConfig)
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		p := join(path, "combined_validation_context")
		d.check, d.checkAt = v.CombinedValidationContext.GetDefaultValidationContext(), join(p, "default_validation_context")
		if s := v.CombinedValidationContext.GetValidationContextSdsSecretConfig(); s != nil {
			d.checkSDS = secretConfig(r, join(p, "validation_context_sds_secret_config"), s)
		}
	}
}

func secretConfig(r *report, path string, m *tlsv3.SdsSecretConfig) *secretRef {
	ref := &secretRef{name: m.GetName(), path: path}
	Source(m.GetSdsConfig(), func(field, reason string) { r.add(join(path, "sds_config."+field), "%s", reason) })
	if ref.name == "" {
		r.add(join(path, "name"), "is missing")
	}
	switch s := m.GetSdsConfig(); k := s.GetConfigSourceSpecifier().(type) {
	case nil: // a secret of the bootstrap
	case *corev3.ConfigSource_Ads, *corev3.ConfigSource_Self:
		ref.ads = true
	case *corev3.ConfigSource_PathConfigSource:
		if ref.file = k.PathConfigSource.GetPath(); ref.file == "" {
			r.add(join(path, "sds_config.path_config_source.path"), "is missing")
		}
	case *corev3.ConfigSource_Path:
		if ref.file = k.Path; ref.file == "" { //nolint:staticcheck // deprecated, and still written
			r.add(join(path, "sds_config.path"), "is missing")
		}
	default:
		r.add(join(path, "sds_config"), "only ads, self and path_config_source are served by this sidecar")
	}
	return ref
}

// versions of TLS that are served.
func tlsVersion(r *report, path string, v tlsv3.TlsParameters_TlsProtocol, auto uint16) uint16 {
	switch v {
	case tlsv3.TlsParameters_TLS_AUTO:
		return auto
	case tlsv3.TlsParameters_TLSv1_2:
		return tls.VersionTLS12
	case tlsv3.TlsParameters_TLSv1_3:
		return tls.VersionTLS13
	}
	r.add(path, "%v is not served by this sidecar: it is broken (RFC 8996); TLSv1_2 and TLSv1_3 are", v)
	return auto
}

func (d *tlsDef) params(r *report, path string, m *tlsv3.TlsParameters) {
	d.base.MinVersion = tlsVersion(r, join(path, "tls_minimum_protocol_version"), m.GetTlsMinimumProtocolVersion(), tls.VersionTLS12)
	d.base.MaxVersion = tlsVersion(r, join(path, "tls_maximum_protocol_version"), m.GetTlsMaximumProtocolVersion(), tls.VersionTLS13)
	if d.base.MinVersion > d.base.MaxVersion {
		r.add(join(path, "tls_minimum_protocol_version"), "is above tls_maximum_protocol_version")
	}
	for i, s := range m.GetCipherSuites() {
		// Envoy writes suites of equal preference as [A|B].
		for _, name := range strings.Split(strings.Trim(s, "[]"), "|") {
			id, ok := suites()[name]
			if !ok {
				r.add(at(path, "cipher_suites", i), "%q is not served by this sidecar; %s are (those of TLS 1.3 are not chosen)", name, strings.Join(suiteNames(), ", "))
				continue
			}
			d.base.CipherSuites = append(d.base.CipherSuites, id)
		}
	}
	for i, s := range m.GetEcdhCurves() {
		id, ok := curves()[s]
		if !ok {
			r.add(at(path, "ecdh_curves", i), "%q is not served by this sidecar; X25519MLKEM768, X25519, P-256, P-384 and P-521 are", s)
			continue
		}
		d.base.CurvePreferences = append(d.base.CurvePreferences, id)
	}
}

// suites are those of TLS 1.2 by OpenSSL's and by IANA's names.
func suites() map[string]uint16 {
	return map[string]uint16{
		"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
		"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
		"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
		"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,

		"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256":       tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256":         tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384":       tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384":         tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

func suiteNames() (out []string) {
	for n := range suites() {
		if !strings.HasPrefix(n, "TLS_") {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func curves() map[string]tls.CurveID {
	return map[string]tls.CurveID{
		"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521,
		"prime256v1": tls.CurveP256, "secp384r1": tls.CurveP384, "secp521r1": tls.CurveP521,
	}
}
