package conformance_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is what the sidecar is given: a listener, its routes with the real filters' settings, and a cluster.
const config = `[
{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "upstream", "type": "STATIC", "connect_timeout": "1s",
 "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 65000}}}}]}]}},
{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "inbound/http",
 "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
 "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
   "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
   "stat_prefix": "inbound",
   "http_filters": [
     {"name": "envoy.filters.http.local_ratelimit", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "rl"}},
     {"name": "envoy.filters.http.fault", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}},
     {"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
   "route_config": {"name": "inbound/http", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
     {"match": {"path": "/headers"}, "route": {"cluster": "upstream"},
      "request_headers_to_add": [{"header": {"key": "x-added", "value": "yes"}}], "request_headers_to_remove": ["user-agent"],
      "response_headers_to_add": [{"header": {"key": "x-tag", "value": "v1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}], "response_headers_to_remove": ["x-secret"]},
     {"match": {"path": "/delayed"}, "route": {"cluster": "upstream"}, "typed_per_filter_config": {"envoy.filters.http.fault": {
       "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "delay": {"fixed_delay": "0.1s", "percentage": {"numerator": 100}}}}},
     {"match": {"path": "/limited/HTTP1"}, "route": {"cluster": "upstream"}, "typed_per_filter_config": {"envoy.filters.http.local_ratelimit": LIMIT}},
     {"match": {"path": "/limited/HTTP2"}, "route": {"cluster": "upstream"}, "typed_per_filter_config": {"envoy.filters.http.local_ratelimit": LIMIT}},
     {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]}]}}}]}]}
]`

const limit = `{"@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "rl",
  "token_bucket": {"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "3600s"},
  "filter_enabled": {"default_value": {"numerator": 100}}, "filter_enforced": {"default_value": {"numerator": 100}}}`

// mesh is a sidecar's data path over a real upstream, with the scripted filter behind the configured ones.
type mesh struct {
	srv    *proxy.Server
	url    string
	script *scripted
	hits   atomic.Int64
}

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

func newMesh(t *testing.T, more ...snapshot.Filter) *mesh {
	t.Helper()
	m := &mesh{script: &scripted{scripts: map[string]*script{}}}
	up := httptest.NewServer(http.HandlerFunc(m.upstream))
	t.Cleanup(up.Close)
	srv, err := proxy.New(proxy.Options{Loops: 2, Sockets: sockets{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	m.srv = srv
	c := compile.New(compile.Options{Sink: srv.Table(), Strategies: builtin.All()})
	var snap *snapshot.Snapshot
	_, port, _ := net.SplitHostPort(up.Listener.Addr().String())
	text := strings.ReplaceAll(strings.ReplaceAll(config, "LIMIT", limit), "65000", port)
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for _, raw := range list {
		body := new(anypb.Any)
		if err := protojson.Unmarshal(raw, body); err != nil {
			t.Fatal(err)
		}
		var named struct{ Name string }
		_ = json.Unmarshal(raw, &named)
		r := c.Update(time.Now(), compile.Update{TypeURL: body.GetTypeUrl(), Set: []compile.Resource{{Name: named.Name, Version: "1", Body: body}}})
		for _, e := range r.Errors {
			t.Fatal(e)
		}
		if r.Snapshot != nil {
			snap = r.Snapshot
		}
	}
	// the test's own filters and the scripted one come last in every chain
	routes := snap.Listeners["inbound/http"].HTTP.Routes
	old := routes.Load().Host("any")
	vh := &snapshot.VirtualHost{Name: old.Name, Domains: old.Domains}
	for _, r := range old.Routes {
		k := *r
		k.Filters = append(append(r.Filters[:len(r.Filters):len(r.Filters)], more...), m.script)
		vh.Routes = append(vh.Routes, &k)
	}
	routes.Store(snapshot.NewRouteTable("inbound/http", "2", true, []*snapshot.VirtualHost{vh}))
	if err := srv.Apply(snap); err != nil {
		t.Fatal(err)
	}
	m.url = "http://" + srv.Addr("inbound/http")
	return m
}

func (m *mesh) upstream(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Path == "/ping" {
		_, _ = io.WriteString(w, "pong")
		return
	}
	m.hits.Add(1)
	for k, v := range r.Header {
		w.Header()["Saw-"+k] = v
	}
	w.Header().Set("X-Secret", "hidden")
	_, _ = io.WriteString(w, "got:")
	_, _ = w.Write(b)
}

// client speaks one protocol and never tries again by itself.
func (m *mesh) client(t *testing.T, h2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: p, DisableKeepAlives: !h2, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// ping is a call of somebody else.
func (m *mesh) ping(t *testing.T, client *http.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/ping", nil)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("another call: %v", err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(b) != "pong" {
		t.Fatalf("another call: %s %q", resp.Status, b)
	}
}

// settled waits until no exchange is left.
func (m *mesh) settled(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); m.srv.Active() != 0; {
		if time.Now().After(end) {
			t.Fatalf("%d exchanges are left", m.srv.Active())
		}
	}
}
