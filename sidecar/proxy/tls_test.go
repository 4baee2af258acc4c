package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
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

// serverConfig is m's TLS for callers, to be replaced by the test.
func (m *mesh) serverTLS() *snapshot.ServerTLS { return m.snap.Listeners["http"].TLS }

// TestTLSHotSwap renews the certificate under load, again and again: no exchange fails, open connections stay, and each new
// one is shown what was put in use last.
func TestTLSHotSwap(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	m := tlsMesh(t, ca, snapshot.HTTP1, 0, echo)
	me := ca.Issue(t, time.Time{}, "client")
	url := "https://" + m.Addr("http")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	done := make(chan struct{}, 64)
	for i := range 6 {
		c := tlsClient(t, ca.Pool(), me, i%2 == 0)
		fresh := i >= 3 // half of them with a connection for each exchange
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := c.Post(url, "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(b) != "hello" {
					t.Errorf("%s %q %v", res.Status, b, err)
					return
				}
				select {
				case done <- struct{}{}:
				default:
				}
				if fresh {
					c.CloseIdleConnections()
				}
			}
		})
	}
	open := tlsClient(t, ca.Pool(), me, false)
	first := get(t, open, url).TLS.PeerCertificates[0]
	for range 8 {
		next := ca.Issue(t, time.Time{}, "localhost", "127.0.0.1")
		cfg := m.serverTLS().Load().Clone()
		cfg.Certificates = []tls.Certificate{next.Certificate}
		m.serverTLS().Store(cfg)
		c := tlsClient(t, ca.Pool(), me, false)
		if !get(t, c, url).TLS.PeerCertificates[0].Equal(next.Leaf) {
			t.Fatal("a new connection is shown an old certificate")
		}
		if !get(t, open, url).TLS.PeerCertificates[0].Equal(first) {
			t.Fatal("an open connection did not stay")
		}
		for range 6 {
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("nothing is served any more")
			}
		}
	}
	close(stop)
	wg.Wait()
}

func get(t *testing.T, c *http.Client, url string) *http.Response {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	return res
}

// TestTLSUpstreamFails answers 503 UF with a plain reason where the upstream's certificate or protocol is not right.
func TestTLSUpstreamFails(t *testing.T) {
	ca, other := testkit.NewCA(t, "ca"), testkit.NewCA(t, "other")
	plain := backend(t, echo)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, c := range map[string]struct {
		addr, want string
	}{
		"ended":    {tlsBackend(t, ca, ca.Issue(t, time.Now().Add(-time.Hour), "localhost"), echo), "TLS: the server's certificate expired at "},
		"stranger": {tlsBackend(t, ca, other.Issue(t, time.Time{}, "localhost"), echo), "TLS: the server's certificate is not signed by a CA that is trusted here"},
		"name":     {tlsBackend(t, ca, ca.Issue(t, time.Time{}, "other.example"), echo), "TLS: the server's certificate is for other.example, not for localhost"},
		"plain":    {plain, "TLS: the server does not answer in TLS"},
		"silent":   {silent.Addr().String(), "no connection within the connect timeout"},
		"refused":  {tlsBackend(t, other, ca.Issue(t, time.Time{}, "localhost"), echo), "TLS: the server refused the handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, proto := range []snapshot.Protocol{snapshot.HTTP1, snapshot.HTTP2} {
				m := newMesh(t, proto, nil)
				m.fwd.Retry = nil
				own := ca.Issue(t, time.Time{}, "me")
				cfg := &tls.Config{
					RootCAs: ca.Pool(), ServerName: "localhost", MaxVersion: tls.VersionTLS12, // in which a refusal comes before the end
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own.Certificate, nil },
				}
				cl := &snapshot.Cluster{Name: "c", Protocol: proto, Strategy: roundrobin.Strategy{}, TLS: &snapshot.ClientTLS{}, ConnectTimeout: 2 * time.Second}
				if name == "silent" {
					cl.ConnectTimeout = 50 * time.Millisecond
				}
				cl.TLS.Store(&snapshot.ClientConfigs{HTTP1: cfg, HTTP2: cfg, TCP: cfg})
				if err := m.Table().SetCluster(cl); err != nil {
					t.Fatal(err)
				}
				if err := m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Address: c.addr, Weight: 1}}); err != nil {
					t.Fatal(err)
				}
				res, err := client(t, false).Get(m.url())
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != 503 || !strings.Contains(string(b), c.want) || !strings.Contains(string(b), "(UF)") {
					t.Errorf("%s %s, want %s", res.Status, b, c.want)
				}
			}
		})
	}
}

// TestTLSSlowClients opens many connections that say nothing, or half a ClientHello, or stop in the middle of the handshake:
// others are served meanwhile, and the slow ones end at their deadline.
func TestTLSSlowClients(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	m := tlsMesh(t, ca, snapshot.HTTP1, 0, echo)
	server := &snapshot.ServerTLS{HandshakeTimeout: 500 * time.Millisecond}
	server.Store(m.serverTLS().Load())
	for _, l := range m.snap.Listeners {
		l.TLS = server
	}
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	hello := clientHello(t, "localhost")
	before := runtime.NumGoroutine()
	var slow []net.Conn
	for i := range 300 {
		c, err := net.Dial("tcp", m.Addr("http"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch i % 3 {
		case 1:
			_, _ = io.WriteString(c, hello[:len(hello)/2])
		case 2:
			_, _ = io.WriteString(c, hello)
		}
		slow = append(slow, c)
	}
	get(t, tlsClient(t, ca.Pool(), ca.Issue(t, time.Time{}, "client"), false), "https://"+m.Addr("http"))
	if n := runtime.NumGoroutine() - before; n > 100+60 { // those whose ClientHello is whole, and some of the test's own
		t.Errorf("%d goroutines for 300 slow clients", n)
	}
	for i, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("connection %d was not closed: %v", i, err)
		}
	}
}

// TestTLSTunnel relays TCP over TLS on both sides: the end of one direction is told by close_notify and leaves the other
// open, and an end without it is passed on as a break.
func TestTLSTunnel(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	cert := ca.Issue(t, time.Time{}, "localhost", "127.0.0.1")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ends := make(chan error, 2)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, err := io.ReadAll(c)
				ends <- err
				_, _ = c.Write(append([]byte("got "), b...)) // after the end of the other direction
			}()
		}
	}()
	m := tlsMesh(t, ca, snapshot.HTTP1, 0, echo)
	if err := m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Address: ln.Addr().String(), Weight: 1}}); err != nil {
		t.Fatal(err)
	}
	me := ca.Issue(t, time.Time{}, "client")
	dial := func() *tls.Conn {
		c, err := tls.Dial("tcp", m.Addr("tcp"), &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{me.Certificate}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	big := bytes.Repeat([]byte("x"), 1<<20)
	c := dial()
	if _, err := c.Write(big); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil || len(b) != len(big)+4 {
		t.Fatalf("%d bytes came back: %v", len(b), err)
	}
	if err := <-ends; err != nil {
		t.Fatalf("the end did not come as one: %v", err)
	}
	c = dial()
	if _, err := c.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	_ = c.NetConn().(*net.TCPConn).CloseWrite() // without close_notify
	_, err = io.ReadAll(c)
	if err == nil {
		t.Error("an end that may have been forged was taken for one")
	}
}

// TestTLSAllocatesNothing counts whole exchanges over TLS 1.3 with a client certificate, the client's own side included.
func TestTLSAllocatesNothing(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	m := tlsMesh(t, ca, snapshot.HTTP1, tls.VersionTLS13, echo)
	addr := allocServer(t, func(c net.Conn) {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil || !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
				return
			}
			if _, err := c.Write(allocAnswer); err != nil {
				return
			}
		}
	})
	if err := m.Table().SetCluster(&snapshot.Cluster{Name: "c", Protocol: snapshot.HTTP1, Strategy: roundrobin.Strategy{}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Address: addr, Weight: 1}}); err != nil {
		t.Fatal(err)
	}
	me := ca.Issue(t, time.Time{}, "client")
	c, err := tls.Dial("tcp", m.Addr("http"), &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{me.Certificate}, NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request, b := []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), make([]byte, 4096)
	// One for each read of crypto/tls (its atLeastReader), on either side; none of ours.
	countAllocsUpTo(t, 2*allocMeasured+allocAllowed, func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		if err != nil || !bytes.HasSuffix(b[:n], []byte("hello")) {
			t.Fatalf("%q %v", b[:n], err)
		}
	})
}

var allocAnswer = []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

// TestForwardedClientCert tells of the caller's certificate in the place of what the caller itself says, and of none where it
// has none.
func TestForwardedClientCert(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	got := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", strings.Join(r.Header.Values("X-Forwarded-Client-Cert"), "|"))
	}
	me := ca.Issue(t, time.Time{}, "spiffe://mesh/me", "me.example", `q"uote,x`)
	sum := sha256.Sum256(me.Certificate.Certificate[0])
	own := "Hash=" + hex.EncodeToString(sum[:]) + `;Subject="CN=spiffe://mesh/me";URI=spiffe://mesh/me;DNS=me.example;DNS="q\"uote,x"`
	for _, h2 := range []bool{false, true} {
		m := tlsMesh(t, ca, snapshot.HTTP1, 0, got)
		for mode, want := range map[snapshot.ClientCertMode]string{
			snapshot.ClientCertSanitize: "", snapshot.ClientCertForward: "Hash=forged", snapshot.ClientCertAppend: "Hash=forged," + own,
			snapshot.ClientCertSet: own, snapshot.ClientCertAlways: "Hash=forged",
		} {
			m.change(t, func(h *snapshot.HTTP) {
				h.ClientCert = snapshot.ClientCert{Mode: mode, Subject: true, URI: true, DNS: true}
			})
			req, _ := http.NewRequest("GET", "https://"+m.Addr("http"), nil)
			req.Header.Set("X-Forwarded-Client-Cert", "Hash=forged")
			res, err := tlsClient(t, ca.Pool(), me, h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if g := res.Header.Get("X-Got"); g != want {
				t.Errorf("h2 %v, mode %d: %q, want %q", h2, mode, g, want)
			}
		}
	}
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, got))
	for mode, want := range map[snapshot.ClientCertMode]string{snapshot.ClientCertSet: "", snapshot.ClientCertForward: "", snapshot.ClientCertAlways: "Hash=forged"} {
		m.change(t, func(h *snapshot.HTTP) { h.ClientCert.Mode = mode })
		req, _ := http.NewRequest("GET", m.url(), nil)
		req.Header.Set("X-Forwarded-Client-Cert", "Hash=forged")
		res, err := client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if g := res.Header.Get("X-Got"); g != want {
			t.Errorf("without TLS, mode %d: %q, want %q", mode, g, want)
		}
	}
}
