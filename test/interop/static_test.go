package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

var port = regexp.MustCompile(`("?port_value"?: )(\d+)`)

// withPorts puts other ports in the place of a file's, and returns the text and the address that each has now.
func withPorts(t *testing.T, text string, known map[string]string) (string, map[string]string) {
	t.Helper()
	addrs := map[string]string{}
	return port.ReplaceAllStringFunc(text, func(s string) string {
		m := port.FindStringSubmatch(s)
		if addrs[m[2]] == "" {
			if addrs[m[2]] = known[m[2]]; addrs[m[2]] == "" {
				addrs[m[2]] = harness.FreeAddr(t)
			}
		}
		_, p, err := net.SplitHostPort(addrs[m[2]])
		if err != nil {
			t.Fatal(err)
		}
		return m[1] + p
	}), addrs
}

// named is an HTTP server that says its name, and counts.
func named(t *testing.T, name string) (addr string, served *atomic.Int64) {
	t.Helper()
	served = &atomic.Int64{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		_, _ = io.WriteString(w, name+" "+r.URL.Path)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String(), served
}

func fetch(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestEnvoysBootstrap: a bootstrap that was written for Envoy, with a listener of each kind, runs with nothing changed
// but its ports and paths, and passes traffic on each.
func TestEnvoysBootstrap(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "peer.json"))
	if err != nil {
		t.Fatal(err)
	}
	certs := certificates(t)
	h1, served := named(t, "h1")
	text, addrs := withPorts(t, strings.ReplaceAll(string(b), "CERTS", certs.dir), map[string]string{"9001": h1, "9002": grpcServer(t)})
	tokenFile := filepath.Join(t.TempDir(), "token")
	start(t, raced(t), text, "-admin-token", tokenFile)

	const calls = 20
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: certs.client}}
	defer secure.CloseIdleConnections()
	for range calls {
		for _, k := range []struct {
			client *http.Client
			url    string
		}{{c, "http://" + addrs["10100"]}, {c, "http://" + addrs["10104"]}, {secure, "https://" + addrs["10102"]}, {c, "http://" + addrs["10103"]}} {
			if code, body := fetch(t, k.client, k.url+"/x"); code != 200 || body != "h1 /x" {
				t.Fatalf("%s: %d %s", k.url, code, body)
			}
		}
	}
	if n := served.Load(); n != 4*calls {
		t.Errorf("%d calls were served, %d made", n, 4*calls)
	}
	conn, err := dial("passthrough:///" + addrs["10101"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range calls {
		if _, err := testgrpc.NewTestServiceClient(conn).EmptyCall(t.Context(), &testgrpc.Empty{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	// A client without a certificate is not let in.
	bare := certs.client.Clone()
	bare.Certificates = nil
	if k, err := tls.Dial("tcp", addrs["10102"], bare); err == nil {
		if _, err = k.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err == nil {
			_, err = k.Read(make([]byte, 1))
		}
		_ = k.Close()
		if err == nil {
			t.Error("a client without a certificate is answered")
		}
	}

	// The console on its TCP address asks for the token.
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	admin := "http://" + addrs["10109"]
	if code, _ := fetch(t, c, admin+"/config_dump"); code != http.StatusUnauthorized {
		t.Errorf("the console without a token: %d", code)
	}
	req, err := http.NewRequest(http.MethodGet, admin+"/config_dump", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	dump, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || !strings.Contains(string(dump), `"h1_policy"`) {
		t.Errorf("the console with its token: %s %v", resp.Status, err)
	}
	if strings.Contains(string(dump), "PRIVATE KEY") {
		t.Error("the console shows a key")
	}
}

// TestStaticExample: the example that the documentation starts with works.
func TestStaticExample(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "static", "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	one, n1 := named(t, "one")
	two, n2 := named(t, "two")
	three, n3 := named(t, "three")
	text, addrs := withPorts(t, string(b), map[string]string{"9001": one, "9002": two, "9003": three})
	dir, err := os.MkdirTemp("", "static") //nolint:usetesting // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	start(t, plain(t), strings.ReplaceAll(text, "/tmp/outrigger-static.sock", filepath.Join(dir, "s.sock")))
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	for range 30 {
		if code, body := fetch(t, c, "http://"+addrs["8080"]+"/orders"); code != 200 || !strings.HasSuffix(body, " /orders") {
			t.Fatalf("%d %s", code, body)
		}
		if code, body := fetch(t, c, "http://"+addrs["8080"]+"/v2/orders"); code != 200 || body != "three /v2/orders" {
			t.Fatalf("%d %s", code, body)
		}
	}
	if n1.Load()+n2.Load() != 30 || n1.Load() == 0 || n2.Load() == 0 || n3.Load() != 30 {
		t.Errorf("served: %d, %d, %d", n1.Load(), n2.Load(), n3.Load())
	}
}

// TestBootstrapIsRefused: what is wrong is told line by line, with status 1, and nothing is opened.
func TestBootstrapIsRefused(t *testing.T) {
	addr := harness.FreeAddr(t)
	good := bootstrap([]string{listen("front", addr, "orders")}, []string{cluster("orders", "127.0.0.1:1", http1)})
	for name, c := range map[string]struct{ from, to, want string }{
		"misspelt":  {"stat_prefix: front", "stat_prefx: front", "bootstrap.yaml:10: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefx: is not a field of"},
		"unserved":  {"stat_prefix: front", "stat_prefix: front\n          add_user_agent: true", "bootstrap.yaml:11: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.add_user_agent: is not served by this sidecar"},
		"unknown":   {"cluster: orders", "cluster: order", `static_resources.listeners[0]: names cluster "order", which is not among the static clusters`},
		"top level": {"static_resources:\n", "stats_sinks: []\nstatic_resources:\n", "bootstrap.yaml:1: stats_sinks: is not served by this sidecar"},
		"cluster":   {"type: STATIC", "type: STATIC\n    dns_jitter: 1s", "bootstrap.yaml:17: static_resources.clusters[0].dns_jitter: is not served by this sidecar"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, c.from, c.to, 1)
			if text == good {
				t.Fatal("nothing was changed")
			}
			p := launch(t, plain(t), text)
			select {
			case <-p.ended:
			case <-time.After(30 * time.Second):
				_ = p.cmd.Process.Kill()
				t.Fatalf("it runs\n%s", p.out)
			}
			if p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(p.out.String(), c.want) {
				t.Errorf("exit %d\n%s\nwant\n%s", p.cmd.ProcessState.ExitCode(), p.out, c.want)
			}
			for line := range strings.Lines(strings.TrimSpace(p.out.String())) {
				if !strings.Contains(line, "bootstrap.yaml:") {
					t.Errorf("said besides: %s", line)
				}
			}
		})
	}
}

type certificateSet struct {
	dir    string
	client *tls.Config
}

// certificates makes an authority, a server's and a client's certificate.
func certificates(t *testing.T) certificateSet {
	t.Helper()
	dir := t.TempDir()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, typ string, der []byte) []byte {
		b := pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return b
	}
	caKey := key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(write("ca.pem", "CERTIFICATE", der))
	leaf := func(n int64, name string) tls.Certificate {
		k := key()
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, ca, k.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(write(name+".pem", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", keyDER))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	leaf(2, "server")
	return certificateSet{dir, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{leaf(3, "client")}, MinVersion: tls.VersionTLS13}}
}
