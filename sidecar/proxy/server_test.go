package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type ownSockets struct{}

func (ownSockets) Listen(_ context.Context, _, network, address string) (*os.File, string, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, "", err
	}
	defer l.Close()
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	return f, l.Addr().String(), err
}

func (ownSockets) Release(string) {}

// mesh is a data path with one HTTP and one TCP listener in front of some backends.
type mesh struct {
	*proxy.Server
	stats *stat.Registry
	fwd   *snapshot.Forward
	http  *snapshot.HTTP
	snap  *snapshot.Snapshot
}

func newMesh(t testing.TB, proto snapshot.Protocol, filters []snapshot.Filter, backends ...string) *mesh {
	t.Helper()
	return newMeshWith(t, nil, proto, filters, backends...)
}

func newMeshWith(t testing.TB, log *slog.Logger, proto snapshot.Protocol, filters []snapshot.Filter, backends ...string) *mesh {
	t.Helper()
	return newMeshOf(t, proxy.Options{Loops: 2, Log: log}, proto, filters, backends...)
}

func newMeshOf(t testing.TB, o proxy.Options, proto snapshot.Protocol, filters []snapshot.Filter, backends ...string) *mesh {
	t.Helper()
	stats := stat.NewRegistry()
	o.Sockets, o.Stats = ownSockets{}, stats
	srv, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	tb := srv.Table()
	if err := tb.SetCluster(&snapshot.Cluster{Name: "c", Protocol: proto, Strategy: roundrobin.Strategy{}}); err != nil {
		t.Fatal(err)
	}
	var eps []snapshot.EndpointSpec
	for _, b := range backends {
		eps = append(eps, snapshot.EndpointSpec{Address: b, Weight: 1})
	}
	if err := tb.SetEndpoints("c", eps); err != nil {
		t.Fatal(err)
	}
	wc := []snapshot.WeightedCluster{{Ref: tb.Ref("c"), Weight: 1}}
	m := &mesh{Server: srv, stats: stats}
	m.fwd = &snapshot.Forward{
		Clusters: wc, TotalWeight: 1, Timeout: 5 * time.Second, HeadTimeout: true, UseGRPCTimeout: true,
		Retry: &snapshot.Retry{On: snapshot.OnConnectFailure | snapshot.OnRefusedStream | snapshot.OnReset | snapshot.OnUnavailable, Attempts: 3},
	}
	routes := &snapshot.RoutesRef{}
	routes.Store(snapshot.NewRouteTable("r", "1", true, []*snapshot.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*snapshot.Route{
		{Name: "all", Match: snapshot.Match{Kind: snapshot.PathAny}, Forward: m.fwd, Filters: filters},
	}}}))
	m.http = &snapshot.HTTP{Routes: routes, GenerateRequestID: true, PreserveRequestID: true, NormalizePath: true, Upgrades: []string{"websocket"}, UseRemoteAddress: true}
	m.snap = &snapshot.Snapshot{Listeners: map[string]*snapshot.Listener{
		"http": {Name: "http", Network: "tcp", Address: "127.0.0.1:0", Direction: snapshot.Inbound, HTTP: m.http},
		"tcp":  {Name: "tcp", Network: "tcp", Address: "127.0.0.1:0", TCP: &snapshot.TCPProxy{Clusters: wc, TotalWeight: 1}},
	}}
	if err := srv.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	return m
}

// count is the sum of a counter's series that have these labels, given as name, value, name, value.
func (m *mesh) count(name string, labels ...string) (n uint64) {
	for _, f := range m.stats.Families() {
		if f.Name != name {
			continue
		}
	series:
		for _, s := range f.Series {
			for i := 0; i < len(labels); i += 2 {
				if !slices.Contains(s.Labels, stat.Label{Name: labels[i], Value: labels[i+1]}) {
					continue series
				}
			}
			n += s.Counter.Value()
		}
	}
	return n
}

// change puts a changed copy of the HTTP listener's configuration in use.
func (m *mesh) change(t testing.TB, f func(h *snapshot.HTTP)) {
	t.Helper()
	h, l := *m.http, *m.snap.Listeners["http"]
	f(&h)
	m.http, l.HTTP = &h, &h
	next := &snapshot.Snapshot{Listeners: maps.Clone(m.snap.Listeners)}
	next.Listeners["http"] = &l
	m.snap = next
	if err := m.Apply(next); err != nil {
		t.Fatal(err)
	}
}

func (m *mesh) url() string { return "http://" + m.Addr("http") }

func backend(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewUnstartedServer(h)
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s.Config.Protocols = p
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func client(t testing.TB, h2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: p, MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func each(t *testing.T, f func(t *testing.T, downH2 bool, up snapshot.Protocol)) {
	for _, d := range []bool{false, true} {
		for _, u := range []snapshot.Protocol{snapshot.HTTP1, snapshot.HTTP2} {
			t.Run(fmt.Sprintf("h2=%v/up=%d", d, u), func(t *testing.T) { f(t, d, u) })
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Proto", r.Proto)
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Path", r.URL.RequestURI())
	w.Header().Set("X-Got-Id", r.Header.Get("X-Request-Id"))
	w.Header().Set("X-Got-For", r.Header.Get("X-Forwarded-For"))
	if r.ContentLength >= 0 {
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
	}
	w.Write(body)
}

func TestRelay(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		m := newMesh(t, up, nil, backend(t, echo))
		c := client(t, h2)
		for _, size := range []int{0, 1, 100, 5000, 20000, 100_000, 3 << 20} {
			body := make([]byte, size)
			rand.Read(body)
			for _, chunked := range []bool{false, true} {
				var rd io.Reader = bytes.NewReader(body)
				if chunked {
					rd = struct{ io.Reader }{rd}
				}
				resp, err := c.Post(m.url()+"/a?b=c", "application/octet-stream", rd)
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("%d bytes (chunked %v): got %d, %v", size, chunked, len(got), err)
				}
				if resp.Header.Get("X-Path") != "/a?b=c" || len(resp.Header.Get("X-Got-Id")) != 36 || resp.Header.Get("X-Got-For") != "127.0.0.1" {
					t.Fatalf("%v", resp.Header)
				}
			}
		}
		for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS", "PATCH"} {
			req, _ := http.NewRequest(method, m.url()+"/x", nil)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(method, err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || resp.Header.Get("X-Method") != method {
				t.Fatal(method, resp.Status, resp.Header)
			}
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		m := newMesh(t, up, nil, backend(t, echo), backend(t, echo))
		c := client(t, h2)
		var wg sync.WaitGroup
		var bad atomic.Int64
		for i := range 20 {
			wg.Go(func() {
				for j := range 100 {
					body := strings.Repeat("x", (i*j*37)%30000)
					resp, err := c.Post(m.url()+"/", "text/plain", strings.NewReader(body))
					if err != nil {
						bad.Add(1)
						t.Log(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || string(got) != body {
						bad.Add(1)
						t.Log(len(got), len(body), err)
					}
				}
			})
		}
		wg.Wait()
		if bad.Load() > 0 {
			t.Fatal(bad.Load())
		}
		if n := m.Active(); n != 0 {
			t.Fatalf("%d exchanges are left", n)
		}
	})
}

// Both directions at once: the answer begins before the request has ended.
func TestDuplex(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		m := newMesh(t, up, nil, backend(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			io.Copy(w, r.Body)
		}))
		c := client(t, h2)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for _, size := range []int{1, 20000, 300_000, 4 << 20} {
					body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)
					resp, err := c.Post(m.url(), "", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("%d: got %d, %v", len(body), len(got), err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestTrailers(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		m := newMesh(t, up, nil, backend(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body "+r.Trailer.Get("X-In"))
			w.Header().Set("X-Sum", "42")
		}))
		req, _ := http.NewRequest("POST", m.url(), struct{ io.Reader }{strings.NewReader("hello")})
		req.Trailer = http.Header{"X-In": {"7"}}
		resp, err := client(t, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "body 7" || resp.Trailer.Get("X-Sum") != "42" {
			t.Fatalf("%q %v %v", b, err, resp.Trailer)
		}
	})
}

func TestNoUpstream(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		l, _ := net.Listen("tcp", "127.0.0.1:0")
		addr := l.Addr().String()
		l.Close()
		m := newMesh(t, up, nil, addr)
		resp, err := client(t, h2).Get(m.url())
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("X-Outrigger-Reason") != "UF,URX" {
			t.Fatalf("%s %v %s", resp.Status, resp.Header, b)
		}
	})
}

func TestCancelReachesUpstream(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		begun, gone := make(chan bool), make(chan bool)
		m := newMesh(t, up, nil, backend(t, func(_ http.ResponseWriter, r *http.Request) {
			begun <- true
			<-r.Context().Done()
			close(gone)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", m.url(), nil)
		go client(t, h2).Do(req)
		<-begun
		cancel()
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Fatal("the upstream was not told")
		}
	})
}

func TestRetryOnReset(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		var n atomic.Int64
		m := newMesh(t, up, nil, backend(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%3 != 0 {
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "ok")
		}))
		c := client(t, h2)
		for range 5 {
			resp, err := c.Get(m.url())
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(b) != "ok" {
				t.Fatalf("%s %s", resp.Status, b)
			}
		}
		// a POST may have been executed: it is not tried again
		before := n.Load()
		resp, err := c.Post(m.url(), "", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 || n.Load() != before+1 {
			t.Fatal(resp.Status, n.Load()-before)
		}
	})
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	m := newMesh(t, snapshot.TCP, nil, l.Addr().String())
	c, err := net.Dial("tcp", m.Addr("tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 8<<20)
	rand.Read(data)
	go func() {
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(len(got), err)
	}
}

func TestPipelining(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	c, err := net.Dial("tcp", m.Addr("http"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b strings.Builder
	for i := range 50 {
		fmt.Fprintf(&b, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
		fmt.Fprintf(&b, "POST /p%d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab%03d", i, i)
		fmt.Fprintf(&b, "POST /q%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
	}
	go io.WriteString(c, b.String())
	r := bufio.NewReader(c)
	for i := range 50 {
		for _, want := range []string{fmt.Sprintf("/%d", i), fmt.Sprintf("/p%d", i), fmt.Sprintf("/q%d", i)} {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(want, err)
			}
			io.Copy(io.Discard, resp.Body)
			if resp.Header.Get("X-Path") != want {
				t.Fatalf("%s, want %s", resp.Header.Get("X-Path"), want)
			}
		}
	}
}

// A connection made ahead is there before anybody asks for it.
func TestPreconnect(t *testing.T) {
	accepted := make(chan net.Conn, 16)
	s := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	s.Config.ConnState = func(c net.Conn, st http.ConnState) {
		if st == http.StateNew {
			accepted <- c
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	m := newMesh(t, snapshot.HTTP1, nil, s.Listener.Addr().String())
	if err := m.Table().SetCluster(&snapshot.Cluster{Name: "c", Protocol: snapshot.HTTP1, Strategy: roundrobin.Strategy{}, Preconnect: 2}); err != nil {
		t.Fatal(err)
	}
	resp, err := client(t, false).Get(m.url())
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	<-accepted
	<-accepted // one call, and a connection for the next
}
