package httpwire_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/balancer/builtin"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func TestMain(m *testing.M) {
	// Go's server takes extended CONNECT only where this is in its environment when it starts
	if extended := "http2xconnect=1"; !strings.Contains(os.Getenv("GODEBUG"), extended) {
		self, err := os.Executable()
		if err == nil {
			err = syscall.Exec(self, os.Args, append(os.Environ(), "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+","+extended, ",")))
		}
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// spec is a sidecar's configuration; what is empty has a plain default.
type spec struct {
	hcm     string // further members of the connection manager, each behind a comma
	routes  string // the routes of the only virtual host
	filters string // entries before the router, each with a comma behind
	h2      bool   // the upstream speaks HTTP/2
	cluster string // members of its protocol's options
	common  string // members of the cluster's common_http_protocol_options
	meta    string // further members of the listener, each behind a comma
	up      string // the upstream's address
}

const config = `[
{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "up", "type": "STATIC", "connect_timeout": "1s",
 "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
   "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
   "common_http_protocol_options": {COMMON}, "explicit_http_config": {"PROTOCOL": {CLUSTER}}}},
 "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "HOST", "port_value": PORT}}}}]}]}},
{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "in",
 "address": {"socket_address": {"address": "127.0.0.1", "port_value": LISTEN}}META,
 "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
   "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
   "stat_prefix": "in"HCM,
   "http_filters": [FILTERS{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
   "route_config": {"name": "in", "ignore_port_in_host_matching": true, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [ROUTES]}]}}}]}]}
]`

type sockets struct{}

func (sockets) Listen(ctx context.Context, _, network, address string) (*os.File, string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = l.Close() }()
	f, err := l.(*net.TCPListener).File()
	return f, l.Addr().String(), err
}

func (sockets) Release(string) {}

// sidecar is a running data path.
type sidecar struct {
	*proxy.Server
	addr, url string
}

// compiled gives the configuration to the compiler.
func (s spec) compiled(t testing.TB, srv *proxy.Server) (*snapshot.Snapshot, []compile.ResourceError) {
	t.Helper()
	protocol := "http_protocol_options"
	if s.h2 {
		protocol = "http2_protocol_options"
	}
	if s.routes == "" {
		s.routes = `{"match": {"prefix": "/"}, "route": {"cluster": "up"}}`
	}
	if s.up == "" {
		s.up = "127.0.0.1:1"
	}
	host, port, _ := net.SplitHostPort(s.up)
	text := strings.NewReplacer("COMMON", s.common, "PROTOCOL", protocol, "CLUSTER", s.cluster, "HOST", host, "PORT", port,
		"LISTEN", "0", "META", s.meta, "HCM", s.hcm, "FILTERS", s.filters, "ROUTES", s.routes).Replace(config)
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err, text)
	}
	c := compile.New(compile.Options{Sink: srv.Table(), Strategies: builtin.All()})
	var snap *snapshot.Snapshot
	var errs []compile.ResourceError
	for _, raw := range list {
		body := new(anypb.Any)
		if err := protojson.Unmarshal(raw, body); err != nil {
			t.Fatal(err)
		}
		var named struct{ Name string }
		_ = json.Unmarshal(raw, &named)
		r := c.Update(time.Now(), compile.Update{TypeURL: body.GetTypeUrl(), Set: []compile.Resource{{Name: named.Name, Version: "1", Body: body}}})
		errs = append(errs, r.Errors...)
		if r.Snapshot != nil {
			snap = r.Snapshot
		}
	}
	return snap, errs
}

func start(t testing.TB, s spec) *sidecar {
	t.Helper()
	srv, err := proxy.New(proxy.Options{Loops: 1, Sockets: sockets{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	snap, errs := s.compiled(t, srv)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if err := srv.Apply(snap); err != nil {
		t.Fatal(err)
	}
	return &sidecar{Server: srv, addr: srv.Addr("in"), url: "http://" + srv.Addr("in")}
}

// settled waits until no exchange is under way.
func (sc *sidecar) settled(t testing.TB) {
	t.Helper()
	waitFor(t, "all exchanges end", func() bool { return sc.Active() == 0 })
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("in vain: ", what)
		}
	}
}

// backend is a server of HTTP/1.1 and, with prior knowledge, HTTP/2.
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
	return &http.Client{
		Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// raw is a server that is a function of its connection.
func raw(t testing.TB, f func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				f(c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().String()
}

func (sc *sidecar) dial(t testing.TB) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", sc.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

// readHead reads a head as it is on the wire, with its empty line.
func readHead(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			t.Fatalf("%v after %q", err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// mirror answers with the head that it was sent, in a body.
func mirror(t testing.TB) string {
	return raw(t, func(c net.Conn, r *bufio.Reader) {
		for {
			var b strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
				b.WriteString(line)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nServer: mirror\r\nContent-Length: %s\r\n\r\n%s", strconv.Itoa(b.Len()), b.String())
		}
	})
}

// exchange sends a head (and body) over HTTP/1.1 and returns the answer's head and body.
func (sc *sidecar) exchange(t testing.TB, request string) (*http.Response, string) {
	t.Helper()
	c, r := sc.dial(t)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp, string(b)
}

// refused says that a configuration is not taken, because of the field.
func refused(t *testing.T, s spec, field string) {
	t.Helper()
	srv, err := proxy.New(proxy.Options{Loops: 1, Sockets: sockets{}})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	_, errs := s.compiled(t, srv)
	for _, e := range errs {
		if e.Field == field {
			return
		}
	}
	t.Fatalf("not refused for %s: %v", field, errs)
}
