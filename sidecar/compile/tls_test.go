package compile

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// tlsCase is a compiler with its sink and a clock.
type tlsCase struct {
	*testing.T
	c    *Compiler
	sink *table
	now  time.Time
	snap *snapshot.Snapshot
}

func newTLSCase(t *testing.T) *tlsCase {
	sink := newTable()
	return &tlsCase{T: t, c: newCompiler(sink), sink: sink, now: time.Now()}
}

func message(t testing.TB, typ, name, text string) Resource {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err, text)
	}
	doc["@type"], doc["name"] = typ, name
	j, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	a := &anypb.Any{}
	if err := protojson.Unmarshal(j, a); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return Resource{Name: name, Version: "1", Body: a}
}

// set gives the compiler a resource in YAML and returns what was wrong with it.
func (k *tlsCase) set(typ, name, text string) string {
	k.Helper()
	return k.took(k.c.Update(k.now, Update{TypeURL: typ, Set: []Resource{message(k.T, typ, name, text)}}))
}

func (k *tlsCase) took(r Result) string {
	if r.Snapshot != nil {
		k.snap = r.Snapshot
	}
	var out []string
	for _, e := range r.Errors {
		out = append(out, e.Error())
	}
	return strings.ReplaceAll(strings.Join(out, "\n"), "\u00a0", " ")
}

// later lets time pass, so that files are looked at again.
func (k *tlsCase) later() string {
	k.now = k.now.Add(2 * time.Second)
	return k.took(k.c.Tick(k.now))
}

func listenerYAML(context string) string {
	return `
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
filter_chains:
- filters: [{name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}]
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
` + indent(context, 6)
}

func clusterYAML(context string) string {
	return `
type: STATIC
load_assignment: {cluster_name: c}
transport_socket:
  name: tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
` + indent(context, 4)
}

func indent(s string, n int) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+pad) + "\n"
}

func inlinePEM(b []byte) string { return fmt.Sprintf("{inline_string: %q}", b) }

func certYAML(c *testkit.Cert) string {
	return fmt.Sprintf("{certificate_chain: %s, private_key: %s}", inlinePEM(c.PEM), inlinePEM(c.KeyPEM))
}

// shake lets a client meet a server.
func shake(t testing.TB, client, server *tls.Config) (c, s tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(10 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	srv := tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := srv.Handshake()
		done <- err
		_ = b.Close()
	}()
	cli := tls.Client(a, client)
	clientErr = cli.Handshake()
	if clientErr == nil {
		var one [1]byte
		if _, err := cli.Read(one[:]); err != nil && strings.Contains(err.Error(), "remote error") { // in TLS 1.3 a client learns later
			clientErr = err
		}
	}
	_ = a.Close()
	serverErr = <-done
	return cli.ConnectionState(), srv.ConnectionState(), clientErr, serverErr
}

// upstream is the client's configuration of cluster c.
func (k *tlsCase) upstream() *tls.Config { return k.sink.clusters["c"].TLS.Load(snapshot.HTTP1) }

// TestUpstreamTLS judges servers: right, ended, of another CA, of another name, pinned.
func TestUpstreamTLS(t *testing.T) {
	ca, other := testkit.NewCA(t, "ca"), testkit.NewCA(t, "other")
	own := ca.Issue(t, time.Time{}, "me")
	good := ca.Issue(t, time.Time{}, "api.example", "spiffe://mesh/api", "10.0.0.1", "*.wild.example")
	hash := sha256.Sum256(good.Certificate.Certificate[0])
	trust := "trusted_ca: " + inlinePEM(ca.PEM)
	for name, c := range map[string]struct {
		validation string
		server     *testkit.Cert
		reason     tlsconn.Reason
		text       string
	}{
		"right":         {trust, good, tlsconn.OK, ""},
		"name":          {trust + ", match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: api.example}}]", good, tlsconn.OK, ""},
		"URI":           {trust + ", match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: spiffe://mesh/}}]", good, tlsconn.OK, ""},
		"address":       {trust + ", match_typed_subject_alt_names: [{san_type: IP_ADDRESS, matcher: {exact: 10.0.0.1}}]", good, tlsconn.OK, ""},
		"wildcard":      {trust + ", match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a.wild.example}}]", good, tlsconn.OK, ""},
		"two labels":    {trust + ", match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a.b.wild.example}}]", good, tlsconn.WrongName, "a.b.wild.example"},
		"another kind":  {trust + ", match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: api.example}}]", good, tlsconn.WrongName, "it is for api.example"},
		"wrong name":    {trust + ", match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: other.example}}]", good, tlsconn.WrongName, "it is for api.example"},
		"ended":         {trust, ca.Issue(t, time.Now().Add(-time.Hour), "api.example"), tlsconn.Expired, "the server's certificate expired at 20"},
		"another CA":    {trust, other.Issue(t, time.Time{}, "api.example"), tlsconn.UnknownAuthority, "not signed by a CA that is trusted here"},
		"pinned":        {"verify_certificate_hash: [" + hex.EncodeToString(hash[:]) + "]", good, tlsconn.OK, ""},
		"another's pin": {"verify_certificate_hash: [" + hex.EncodeToString(hash[:]) + "]", own, tlsconn.BadCertificate, "none of those that are pinned"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTLSCase(t)
			if bad := k.set(ClusterType, "c", clusterYAML("sni: api.example\ncommon_tls_context: {tls_certificates: ["+certYAML(own)+"], validation_context: {"+c.validation+"}}")); bad != "" {
				t.Fatal(bad)
			}
			server := &tls.Config{Certificates: []tls.Certificate{c.server.Certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), NextProtos: []string{"http/1.1"}}
			_, s, err, _ := shake(t, k.upstream(), server)
			if c.reason == tlsconn.OK {
				if err != nil || s.ServerName != "api.example" || s.NegotiatedProtocol != "http/1.1" || !s.PeerCertificates[0].Equal(own.Leaf) {
					t.Fatalf("%v: %+v", err, s)
				}
				return
			}
			if err == nil {
				t.Fatal("it was accepted")
			}
			if reason, text := tlsconn.Explain(err, false); reason != c.reason || !strings.Contains(text, c.text) {
				t.Errorf("%s: %s, want %s: %s", reason, text, c.reason, c.text)
			}
		})
	}
}

// TestDownstreamTLS judges clients.
func TestDownstreamTLS(t *testing.T) {
	ca, other := testkit.NewCA(t, "ca"), testkit.NewCA(t, "other")
	server := ca.Issue(t, time.Time{}, "localhost")
	with := func(require bool, names string) string {
		return fmt.Sprintf("require_client_certificate: %t\ncommon_tls_context: {alpn_protocols: [h2, http/1.1], tls_certificates: [%s], validation_context: {trusted_ca: %s%s}}",
			require, certYAML(server), inlinePEM(ca.PEM), names)
	}
	names := ", match_typed_subject_alt_names: [{san_type: DNS, matcher: {suffix: .partner}}]"
	for name, c := range map[string]struct {
		context string
		client  *testkit.Cert
		reason  tlsconn.Reason
	}{
		"shown":             {with(true, ""), ca.Issue(t, time.Time{}, "a"), tlsconn.OK},
		"none":              {with(true, ""), nil, tlsconn.NoCertificate},
		"none, not needed":  {with(false, ""), nil, tlsconn.OK},
		"another CA":        {with(true, ""), other.Issue(t, time.Time{}, "a"), tlsconn.UnknownAuthority},
		"another CA, shown": {with(false, ""), other.Issue(t, time.Time{}, "a"), tlsconn.UnknownAuthority},
		"ended":             {with(true, ""), ca.Issue(t, time.Now().Add(-time.Minute), "a"), tlsconn.Expired},
		"name":              {with(true, names), ca.Issue(t, time.Time{}, "a.partner"), tlsconn.OK},
		"wrong name":        {with(true, names), ca.Issue(t, time.Time{}, "a.stranger"), tlsconn.WrongName},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTLSCase(t)
			if bad := k.set(ListenerType, "l", listenerYAML(c.context)); bad != "" {
				t.Fatal(bad)
			}
			k.now = k.now.Add(time.Minute)
			k.later()
			cfg := k.snap.Listeners["l"].TLS.Load()
			client := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", NextProtos: []string{"h2"}}
			if c.client != nil {
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.client.Certificate, nil }
			}
			st, _, cerr, err := shake(t, client, cfg)
			if c.reason == tlsconn.OK {
				if err != nil || cerr != nil || st.NegotiatedProtocol != "h2" {
					t.Fatal(err, cerr, st.NegotiatedProtocol)
				}
				return
			}
			if err == nil || cerr == nil {
				t.Fatal("it was accepted", err, cerr)
			}
			if reason, text := tlsconn.Explain(err, true); reason != c.reason {
				t.Errorf("%s: %s, want %s", reason, text, c.reason)
			}
		})
	}
}

// TestSecrets gives certificates by SDS: what refers to them waits, a renewed one serves what comes after it, and a bad one
// harms itself alone.
func TestSecrets(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	first, second := ca.Issue(t, time.Time{}, "localhost"), ca.Issue(t, time.Time{}, "localhost")
	k := newTLSCase(t)
	sds := "sds_config: {ads: {}}"
	if bad := k.set(ListenerType, "l", listenerYAML("require_client_certificate: true\ncommon_tls_context: {tls_certificate_sds_secret_configs: [{name: own, "+sds+
		"}], combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: me}}]}, validation_context_sds_secret_config: {name: ca, "+sds+"}}}")); bad != "" {
		t.Fatal(bad)
	}
	if bad := k.set(ClusterType, "c", clusterYAML("common_tls_context: {validation_context_sds_secret_config: {name: ca, "+sds+"}}")); bad != "" {
		t.Fatal(bad)
	}
	if w := k.c.Wanted()[SecretType]; len(w) != 2 || !w["own"] || !w["ca"] {
		t.Fatal(w)
	}
	if k.snap != nil || k.upstream() != nil {
		t.Fatal("a listener or a cluster serves without its certificates")
	}
	if bad := k.set(SecretType, "ca", "validation_context: {trusted_ca: "+inlinePEM(ca.PEM)+"}"); bad != "" {
		t.Fatal(bad)
	}
	if bad := k.set(SecretType, "own", "tls_certificate: "+certYAML(first)); bad != "" {
		t.Fatal(bad)
	}
	if k.snap == nil || k.upstream() == nil {
		t.Fatal("the certificates have come, and nothing serves")
	}
	me := ca.Issue(t, time.Time{}, "me")
	serves := func(want *testkit.Cert) {
		t.Helper()
		client := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{me.Certificate}}
		c, _, err, serr := shake(t, client, k.snap.Listeners["l"].TLS.Load())
		if err != nil || serr != nil || !c.PeerCertificates[0].Equal(want.Leaf) {
			t.Fatal("another certificate is served", err, serr)
		}
	}
	serves(first)
	for text, want := range map[string]string{
		"tls_certificate: {certificate_chain: " + inlinePEM(second.PEM) + ", private_key: " + inlinePEM(first.KeyPEM) + "}": "Secret own: tls_certificate.private_key: tls: private key does not match",
		"tls_certificate: {certificate_chain: {inline_string: x}, private_key: " + inlinePEM(first.KeyPEM) + "}":            "Secret own: tls_certificate.certificate_chain: holds no certificate",
		"validation_context: {trusted_ca: " + inlinePEM(ca.PEM) + "}":                                                       "Secret own: does not fit Listener l",
		"tls_certificate: {pkcs12: {inline_string: x}}":                                                                     "Secret own: tls_certificate.pkcs12: is not served",
		"session_ticket_keys: {}": "Secret own: session_ticket_keys: is not served",
	} {
		if bad := k.set(SecretType, "own", text); !strings.Contains(bad, want) {
			t.Errorf("got %q, want %q", bad, want)
		}
		serves(first)
	}
	if len(k.c.Rejected()) == 0 {
		t.Error("the refused secret is not shown")
	}
	if bad := k.set(SecretType, "own", "tls_certificate: "+certYAML(second)); bad != "" {
		t.Fatal(bad)
	}
	serves(second)
	if len(k.c.Rejected()) != 0 {
		t.Error("a secret is shown as refused that was replaced")
	}
	if cs := k.c.Certificates(); len(cs) != 3 || cs[0].TypeURL != ClusterType || !cs[0].CA || cs[1].Names[0] != "localhost" {
		t.Errorf("%+v", cs)
	}
}

// TestFiles renews certificates of files: a change is seen, a broken one is told of and harms nothing.
func TestFiles(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	dir := t.TempDir()
	first, second := ca.Issue(t, time.Time{}, "localhost"), ca.Issue(t, time.Time{}, "localhost")
	cert, key := first.Write(t, dir, "own")
	cafile := filepath.Join(dir, "ca.pem")
	testkit.Replace(t, cafile, ca.PEM)
	sds := filepath.Join(dir, "sds.yaml")
	secret := func(c *testkit.Cert) []byte {
		return fmt.Appendf(nil, "resources:\n- \"@type\": %s\n  name: own\n  tls_certificate: %s\n", SecretType, certYAML(c))
	}
	testkit.Replace(t, sds, secret(first))
	k := newTLSCase(t)
	if bad := k.set(ListenerType, "l", listenerYAML(fmt.Sprintf("common_tls_context: {tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]}", cert, key))); bad != "" {
		t.Fatal(bad)
	}
	if bad := k.set(ListenerType, "m", listenerYAML(fmt.Sprintf("common_tls_context: {tls_certificate_sds_secret_configs: [{name: own, sds_config: {path_config_source: {path: %s}}}]}", sds))); bad != "" {
		t.Fatal(bad)
	}
	if bad := k.set(ClusterType, "c", clusterYAML("common_tls_context: {validation_context: {trusted_ca: {filename: "+cafile+"}}}")); bad != "" {
		t.Fatal(bad)
	}
	k.now = k.now.Add(time.Minute) // TCP listeners wait for their cluster
	k.later()
	serves := func(listener string, want *testkit.Cert) {
		t.Helper()
		client := k.upstream().Clone()
		client.NextProtos = nil
		c, _, err, _ := shake(t, client, k.snap.Listeners[listener].TLS.Load())
		if err != nil || !c.PeerCertificates[0].Equal(want.Leaf) {
			t.Fatalf("listener %s serves another certificate: %v", listener, err)
		}
	}
	serves("l", first)
	serves("m", first)

	testkit.Replace(t, cert, second.PEM) // without its key: half of a renewal
	testkit.Replace(t, sds, []byte("resources: ["))
	if bad := k.later(); !strings.Contains(bad, "Listener l: filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificates[0].private_key: tls: private key does not match") ||
		!strings.Contains(bad, "Listener m: filter_chains[0].transport_socket.typed_config.common_tls_context.tls_certificate_sds_secret_configs[0].sds_config: "+sds) {
		t.Fatal(bad)
	}
	serves("l", first)
	serves("m", first)
	if c := k.c.Certificates(); c[1].Error == "" {
		t.Errorf("the failed renewal is not shown: %+v", c)
	}
	if bad := k.later(); bad != "" {
		t.Errorf("what was told is told again: %s", bad)
	}
	testkit.Replace(t, key, second.KeyPEM)
	testkit.Replace(t, sds, secret(second))
	if bad := k.later(); bad != "" {
		t.Fatal(bad)
	}
	serves("l", second)
	serves("m", second)

	if err := os.Remove(cafile); err != nil {
		t.Fatal(err)
	}
	if bad := k.later(); !strings.Contains(bad, "Cluster c: transport_socket.typed_config.common_tls_context.validation_context.trusted_ca.filename") {
		t.Fatal(bad)
	}
	serves("l", second)
	testkit.Replace(t, cafile, testkit.NewCA(t, "new").PEM)
	k.later()
	_, _, err, _ := shake(t, k.upstream(), k.snap.Listeners["l"].TLS.Load())
	if a := (x509.UnknownAuthorityError{}); !errors.As(err, &a) {
		t.Fatalf("the renewed CA is not in use: %v", err)
	}
}

// TestSessionTickets resumes sessions over a renewal of the certificate, not over one of the CAs that judge clients.
func TestSessionTickets(t *testing.T) {
	ca, ca2 := testkit.NewCA(t, "ca"), testkit.NewCA(t, "ca2")
	k := newTLSCase(t)
	serve := func(cert *testkit.Cert, clients *testkit.CA) *tls.Config {
		t.Helper()
		if bad := k.set(ListenerType, "l", listenerYAML(fmt.Sprintf("require_client_certificate: true\ncommon_tls_context: {tls_certificates: [%s], validation_context: {trusted_ca: %s}}", certYAML(cert), inlinePEM(clients.PEM)))); bad != "" {
			t.Fatal(bad)
		}
		k.now = k.now.Add(time.Minute)
		k.later()
		return k.snap.Listeners["l"].TLS.Load()
	}
	me := ca.Issue(t, time.Time{}, "me")
	client := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{me.Certificate}, ClientSessionCache: tls.NewLRUClientSessionCache(1), MaxVersion: tls.VersionTLS12}
	cfg := serve(ca.Issue(t, time.Time{}, "localhost"), ca)
	if c, _, err, _ := shake(t, client, cfg); err != nil || c.DidResume {
		t.Fatal(err)
	}
	cfg = serve(ca.Issue(t, time.Time{}, "localhost"), ca)
	if c, _, err, _ := shake(t, client, cfg); err != nil || !c.DidResume {
		t.Fatal("a renewed certificate ended the sessions", err)
	}
	cfg = serve(ca.Issue(t, time.Time{}, "localhost"), ca2)
	if _, _, cerr, err := shake(t, client, cfg); err == nil {
		t.Fatal("a client of a CA that is trusted no more is let in", cerr)
	}
}

// TestTLSRefusals refuses by its path what is not served or makes no sense.
func TestTLSRefusals(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	own := "tls_certificates: [" + certYAML(ca.Issue(t, time.Time{}, "a")) + "]"
	trust := "validation_context: {trusted_ca: " + inlinePEM(ca.PEM) + "}"
	const down, up = "filter_chains[0].transport_socket.typed_config.", "transport_socket.typed_config."
	for _, c := range []struct{ typ, context, want string }{
		{ListenerType, "common_tls_context: {}", down + "common_tls_context: has no certificate"},
		{ListenerType, "require_client_certificate: true\ncommon_tls_context: {" + own + "}", down + "require_client_certificate: asks for a certificate that nothing verifies"},
		{ListenerType, "common_tls_context: {" + own + ", tls_params: {tls_minimum_protocol_version: TLSv1_1}}", down + "common_tls_context.tls_params.tls_minimum_protocol_version: TLSv1_1 is not served"},
		{ListenerType, "common_tls_context: {" + own + ", tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2}}", "is above tls_maximum_protocol_version"},
		{ListenerType, "common_tls_context: {" + own + ", tls_params: {cipher_suites: [RC4-MD5]}}", `cipher_suites[0]: "RC4-MD5" is not served by this sidecar; ECDHE`},
		{ListenerType, "common_tls_context: {" + own + ", tls_params: {ecdh_curves: [P-192]}}", `ecdh_curves[0]: "P-192" is not served`},
		{ListenerType, "ocsp_staple_policy: MUST_STAPLE\ncommon_tls_context: {" + own + "}", down + "ocsp_staple_policy: is not served"},
		{ListenerType, "session_timeout: 1s\ncommon_tls_context: {" + own + "}", down + "session_timeout: is not served"},
		{ListenerType, "common_tls_context: {tls_certificates: [{certificate_chain: {filename: /no/such}, private_key: {filename: /no/such}}]}", "certificate_chain.filename: open /no/such: no such file"},
		{ListenerType, "common_tls_context: {tls_certificates: [{certificate_chain: {environment_variable: X}}]}", "environment_variable: is not served"},
		{ListenerType, "common_tls_context: {tls_certificates: [{}]}", "tls_certificates[0].private_key: is missing"},
		{ListenerType, "common_tls_context: {tls_certificate_sds_secret_configs: [{sds_config: {ads: {}}}]}", "tls_certificate_sds_secret_configs[0].name: is missing"},
		{ListenerType, "common_tls_context: {tls_certificate_sds_secret_configs: [{name: a, sds_config: {api_config_source: {api_type: GRPC}}}]}", "api_config_source: is not served"},
		{ClusterType, "auto_sni_san_validation: true\ncommon_tls_context: {" + trust + "}", up + "auto_sni_san_validation: has no name to look for"},
		{ClusterType, "auto_host_sni: true", up + "auto_host_sni: is not served"},
		{ClusterType, "allow_renegotiation: true", up + "allow_renegotiation: is not served"},
		{ClusterType, "common_tls_context: {validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}}", "trusted_ca is needed"},
		{ClusterType, "common_tls_context: {validation_context: {trusted_ca: {inline_string: x}, crl: {inline_string: x}}}", "validation_context.crl: is not served"},
		{ClusterType, "common_tls_context: {validation_context: {trusted_ca: {inline_string: x}}}", "validation_context.trusted_ca: holds no certificate in PEM"},
		{ClusterType, "common_tls_context: {validation_context: {verify_certificate_hash: [abc]}}", "verify_certificate_hash[0]: must be a SHA-256 in hexadecimal"},
		{ClusterType, "common_tls_context: {validation_context: {verify_certificate_spki: ['?']}}", "verify_certificate_spki[0]: must be a SHA-256 in base64"},
		{ClusterType, "common_tls_context: {key_log: {path: /x}}", "common_tls_context.key_log: is not served"},
	} {
		k := newTLSCase(t)
		text := listenerYAML(c.context)
		if c.typ == ClusterType {
			text = clusterYAML(c.context)
		}
		if bad := k.set(c.typ, "c", text); !strings.Contains(bad, c.want) {
			t.Errorf("%s\ngot %q\nwant %q", c.context, bad, c.want)
		}
	}
}
