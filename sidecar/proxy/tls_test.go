package proxy_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// tlsBackend is a server that wants a client certificate of ca.
func tlsBackend(t testing.TB, ca *testkit.CA, cert *testkit.Cert, h http.HandlerFunc) string {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert.Certificate}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// tlsMesh is a mesh with client certificates on both sides.
func tlsMesh(t testing.TB, ca *testkit.CA, proto snapshot.Protocol, version uint16, h http.HandlerFunc) *mesh {
	t.Helper()
	own := ca.Issue(t, time.Time{}, "localhost", "127.0.0.1")
	m := newMesh(t, proto, nil)
	client := &tls.Config{
		Certificates: []tls.Certificate{own.Certificate}, RootCAs: ca.Pool(), ServerName: "localhost", DynamicRecordSizingDisabled: true,
		ClientSessionCache: tls.NewLRUClientSessionCache(8), MaxVersion: version,
	}
	c := &snapshot.Cluster{Name: "c", Protocol: proto, Strategy: roundrobin.Strategy{}, TLS: &snapshot.ClientTLS{}}
	alpn := func(p ...string) *tls.Config {
		k := client.Clone()
		k.NextProtos = p
		return k
	}
	c.TLS.Store(&snapshot.ClientConfigs{HTTP1: alpn("http/1.1"), HTTP2: alpn("h2"), TCP: alpn()})
	if err := m.Table().SetCluster(c); err != nil {
		t.Fatal(err)
	}
	if err := m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Address: tlsBackend(t, ca, own, h), Weight: 1}}); err != nil {
		t.Fatal(err)
	}
	server := &snapshot.ServerTLS{}
	server.Store(&tls.Config{
		Certificates: []tls.Certificate{own.Certificate}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"h2", "http/1.1"}, DynamicRecordSizingDisabled: true, MaxVersion: version,
	})
	for _, l := range m.snap.Listeners {
		l.TLS = server
	}
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	return m
}

func tlsClient(t testing.TB, roots *x509.CertPool, cert *testkit.Cert, h2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2)
	cfg := &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{cert.Certificate}
	}
	tr := &http.Transport{Protocols: p, MaxIdleConnsPerHost: 100, TLSClientConfig: cfg}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// TestTLS sends bodies of many sizes both ways through client certificates on both sides.
func TestTLS(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
				ca := testkit.NewCA(t, "ca")
				m := tlsMesh(t, ca, up, version, func(w http.ResponseWriter, r *http.Request) {
					if r.TLS == nil || r.TLS.Version != version {
						http.Error(w, "not over the right TLS", 500)
						return
					}
					w.Header().Set("X-Proto", r.Header.Get("X-Forwarded-Proto"))
					b, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					_, _ = w.Write(b)
				})
				c := tlsClient(t, ca.Pool(), ca.Issue(t, time.Time{}, "client"), h2)
				var wg sync.WaitGroup
				for w := range 4 {
					wg.Go(func() {
						for _, n := range []int{0, 1, 100, 16383, 16384, 16385, 100_000, 400_000} {
							body := bytes.Repeat([]byte{byte('a' + w)}, n)
							res, err := c.Post("https://"+m.Addr("http"), "text/plain", bytes.NewReader(body))
							if err != nil {
								t.Error(err)
								return
							}
							b, err := io.ReadAll(res.Body)
							res.Body.Close()
							if err != nil || res.StatusCode != 200 || !bytes.Equal(b, body) || res.Header.Get("X-Proto") != "https" {
								t.Errorf("%d bytes: %s, %d came, %v, forwarded proto %q", n, res.Status, len(b), err, res.Header.Get("X-Proto"))
							}
							if res.ProtoMajor == 2 != h2 {
								t.Errorf("HTTP/%d by ALPN", res.ProtoMajor)
							}
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// TestTLSClientCertificate refuses who shows none, or one of another CA.
func TestTLSClientCertificate(t *testing.T) {
	ca, other := testkit.NewCA(t, "ca"), testkit.NewCA(t, "other")
	m := tlsMesh(t, ca, snapshot.HTTP1, 0, func(http.ResponseWriter, *http.Request) {})
	for name, cert := range map[string]*testkit.Cert{"certificate required": nil, "unknown certificate authority": other.Issue(t, time.Time{}, "client")} {
		c := tlsClient(t, ca.Pool(), cert, false)
		if cert != nil { // Go's client shows none that the server's list of CAs does not name
			c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert.Certificate, nil }
		}
		res, err := c.Get("https://" + m.Addr("http"))
		if err == nil {
			res.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}
