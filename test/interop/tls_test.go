package interop

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

// tlsParties are files of certificates, and the ports of sidecar and Envoy.
type tlsParties struct {
	dir                                   string
	must, may, plain, viaEnvoy, fromEnvoy string
}

func listenerTLS(name, addr, cluster, context string) string {
	host, port, _ := net.SplitHostPort(addr)
	socket := ""
	if context != "" {
		socket = `
    transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, ` + context + `}}`
	}
	return fmt.Sprintf(`
- name: %s
  address: {socket_address: {address: %s, port_value: %s}}
  filter_chains:
  - filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: %s
        route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: %s}}]}]}
        http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]%s`,
		name, host, port, name, cluster, socket)
}

func clusterTLS(name, addr, context string, h2 bool) string {
	host, port, _ := net.SplitHostPort(addr)
	socket := ""
	if context != "" {
		socket = `
  transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, ` + context + `}}`
	}
	if h2 {
		socket += `
  typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`
	}
	return fmt.Sprintf(`
- name: %s
  type: STATIC
  connect_timeout: 5s
  load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}%s`, name, name, host, port, socket)
}

// tlsSidecar runs a sidecar (with the race detector) whose callers must, or may, show a certificate, in front of an HTTP server
// that wants one too.
func tlsSidecar(t *testing.T) *tlsParties {
	t.Helper()
	p := &tlsParties{dir: t.TempDir()}
	ca := testkit.NewCA(t, "ca")
	testkit.Replace(t, filepath.Join(p.dir, "ca.pem"), ca.PEM)
	server, client := ca.Issue(t, time.Time{}, "localhost", "127.0.0.1"), ca.Issue(t, time.Time{}, "client")
	server.Write(t, p.dir, "server")
	client.Write(t, p.dir, "client")
	testkit.NewCA(t, "other").Issue(t, time.Time{}, "client").Write(t, p.dir, "stranger")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{server.Certificate}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "hello %d", len(b))
	})}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range []*string{&p.must, &p.may, &p.plain, &p.viaEnvoy, &p.fromEnvoy} {
		*a = harness.FreeAddr(t)
	}
	down := p.downstream()
	start(t, raced(t), "static_resources:\n  listeners:"+indented(
		listenerTLS("must", p.must, "app", "require_client_certificate: true, "+down)+
			listenerTLS("may", p.may, "app", down)+
			listenerTLS("plain", p.plain, "app", "")+
			listenerTLS("via", p.fromEnvoy, "envoy", ""))+
		"\n  clusters:"+indented(clusterTLS("app", ln.Addr().String(), p.upstream(), false)+clusterTLS("envoy", p.viaEnvoy, p.upstream(), true))+"\n")
	return p
}

func (p *tlsParties) file(name string) string { return filepath.Join(p.dir, name) }

func (p *tlsParties) downstream() string {
	return fmt.Sprintf(`common_tls_context: {alpn_protocols: [h2, http/1.1], tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}], validation_context: {trusted_ca: {filename: %s}}}`,
		p.file("server.pem"), p.file("server.key"), p.file("ca.pem"))
}

func (p *tlsParties) upstream() string {
	return fmt.Sprintf(`sni: localhost, common_tls_context: {tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}], validation_context: {trusted_ca: {filename: %s}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: localhost}}]}}`,
		p.file("client.pem"), p.file("client.key"), p.file("ca.pem"))
}

func indented(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }

func feed(t *testing.T, stdin, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip("SKIPPED: no " + name)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// TestTLSPeers has curl, openssl, Python and h2load call over TLS 1.2 and 1.3, with and without a certificate.
func TestTLSPeers(t *testing.T) {
	p := tlsSidecar(t)
	ca, cert, key := p.file("ca.pem"), p.file("client.pem"), p.file("client.key")
	t.Run("curl", func(t *testing.T) {
		for _, version := range []string{"1.2", "1.3"} {
			for _, http := range []string{"--http1.1", "--http2"} {
				args := []string{"-sS", "--max-time", "20", "--cacert", ca, "--tlsv" + version, "--tls-max", version, http, "-w", " %{http_version}"}
				out, err := feed(t, "", "curl", append(args, "--cert", cert, "--key", key, "--data-binary", strings.Repeat("x", 100_000), "https://"+p.must)...)
				want := "hello 100000 " + map[string]string{"--http1.1": "1.1", "--http2": "2"}[http]
				if err != nil || out != want {
					t.Errorf("TLS %s %s: %v %s, want %s", version, http, err, out, want)
				}
				if out, err = feed(t, "", "curl", append(args, "https://"+p.may)...); err != nil || !strings.HasPrefix(out, "hello 0") {
					t.Errorf("TLS %s %s without a certificate: %v %s", version, http, err, out)
				}
				if out, err = feed(t, "", "curl", append(args, "https://"+p.must)...); err == nil || !strings.Contains(out, "alert") {
					t.Errorf("TLS %s %s without a certificate that is required: %v %s", version, http, err, out)
				}
				if out, err = feed(t, "", "curl", append(args, "--cert", p.file("stranger.pem"), "--key", p.file("stranger.key"), "https://"+p.must)...); err == nil || !strings.Contains(out, "alert") {
					t.Errorf("TLS %s %s with a certificate of another CA: %v %s", version, http, err, out)
				}
			}
		}
	})
	t.Run("openssl", func(t *testing.T) {
		session := filepath.Join(t.TempDir(), "session")
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			base := []string{"s_client", "-connect", p.must, "-servername", "localhost", "-CAfile", ca, "-cert", cert, "-key", key, "-verify_return_error", "-ign_eof", "-nocommands", version}
			request := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
			out, err := feed(t, request, "openssl", append(base, "-sess_out", session)...)
			if err != nil || !strings.Contains(out, "hello 0") || !strings.Contains(out, "\nNew, ") {
				t.Errorf("%s: %v %s", version, err, out)
			}
			out, err = feed(t, request, "openssl", append(base, "-sess_in", session)...)
			if err != nil || !strings.Contains(out, "hello 0") || !strings.Contains(out, "\nReused, ") {
				t.Errorf("%s: the session was not resumed: %v %s", version, err, out)
			}
		}
	})
	t.Run("openssl key update", func(t *testing.T) {
		cmd := exec.Command("openssl", "s_client", "-connect", p.may, "-CAfile", ca, "-tls1_3", "-alpn", "http/1.1")
		in, _ := cmd.StdinPipe()
		var out output
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Skip("SKIPPED: no openssl")
		}
		wait := func(what string, n int) {
			harness.Eventually(t, 20*time.Second, func() error {
				if strings.Count(out.String(), what) < n {
					return fmt.Errorf("no %s in %s", what, out.String())
				}
				return nil
			})
		}
		wait("Verify return code", 1)
		for i := range 3 {
			_, _ = io.WriteString(in, "K\n") // new keys, and ours are asked for
			wait("KEYUPDATE", i+1)
			_, _ = io.WriteString(in, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			wait("hello 0", i+1)
		}
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Run("python", func(t *testing.T) {
		program := `
import http.client, ssl, sys
host, ca, cert, key = sys.argv[1:]
for least in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    c = ssl.create_default_context(cafile=ca); c.minimum_version = c.maximum_version = least; c.load_cert_chain(cert, key)
    h = http.client.HTTPSConnection(host, context=c, timeout=20)
    for n in (0, 1, 70000):
        h.request("POST", "/", body=b"x" * n); b = h.getresponse().read()
        assert b == b"hello %d" % n, b
print("done")
`
		if out, err := feed(t, program, "python3", "-", strings.Replace(p.must, "127.0.0.1", "localhost", 1), ca, cert, key); err != nil || out != "done\n" {
			t.Error(err, out)
		}
	})
	t.Run("h2load", func(t *testing.T) {
		out, err := feed(t, "", "h2load", "-n", "2000", "-c", "8", "-m", "10", "https://"+p.may)
		if err != nil || !strings.Contains(out, "Application protocol: h2") || !strings.Contains(out, "2000 succeeded, 0 failed") || !strings.Contains(out, "2000 2xx") {
			t.Error(err, out)
		}
	})
}

// TestTLSEnvoy calls an Envoy over TLS with HTTP/2, which calls the sidecar over TLS: each is the client and the server of the
// other, with certificates both ways.
func TestTLSEnvoy(t *testing.T) {
	testkit.FindEnvoy(t)
	p := tlsSidecar(t)
	testkit.Envoy(t, "static_resources:\n  listeners:"+indented(listenerTLS("from", p.viaEnvoy, "sidecar", "require_client_certificate: true, "+p.downstream()))+
		"\n  clusters:"+indented(clusterTLS("sidecar", p.must, p.upstream(), true))+"\n")
	c := &http.Client{Timeout: 20 * time.Second}
	defer c.CloseIdleConnections()
	harness.Eventually(t, 30*time.Second, func() error {
		_, err := net.DialTimeout("tcp", p.viaEnvoy, time.Second)
		return err
	})
	for _, n := range []int{0, 1, 20_000, 1_000_000} {
		res, err := c.Post("http://"+p.fromEnvoy, "text/plain", bytes.NewReader(make([]byte, n)))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 200 || string(b) != fmt.Sprintf("hello %d", n) {
			t.Errorf("%d bytes: %s %s", n, res.Status, b)
		}
	}
}
