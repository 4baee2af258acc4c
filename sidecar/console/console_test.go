package console

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/xdsclient"
)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestReady(t *testing.T) {
	why := "listener edge is not open"
	h := New(Options{Ready: func() (bool, string) { return why == "", why }})
	if code, body := get(t, h, "/ready"); code != 503 || !strings.Contains(body, "edge") {
		t.Fatalf("%d %s", code, body)
	}
	why = ""
	if code, _ := get(t, h, "/ready"); code != 200 {
		t.Fatalf("%d", code)
	}
}

func TestMetricsAndStats(t *testing.T) {
	r := stat.NewRegistry()
	r.Counter("outrigger_requests_total", "Requests.", stat.Label{Name: "service", Value: "orders\xff"}).Add(3)
	d := r.Histogram("outrigger_request_duration_seconds", "Time.", 1e-9)
	d.Observe(1_000_000)
	d.Observe(1 << 62)
	h := New(Options{Stats: r})
	code, body := get(t, h, "/metrics")
	for _, want := range []string{
		`outrigger_requests_total{service="orders�"} 3`, "outrigger_request_duration_seconds_count 2",
		`outrigger_request_duration_seconds_bucket{le="+Inf"} 2`, "go_goroutines",
	} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("%d: no %s in\n%s", code, want, body)
		}
	}
	_, body = get(t, h, "/stats?filter=requests_total")
	var s []Stat
	if err := json.Unmarshal([]byte(body), &s); err != nil || len(s) != 1 || *s[0].Value != 3 {
		t.Fatalf("%v: %s", err, body)
	}
}

func TestConfigDumpAndClusters(t *testing.T) {
	a, _ := anypb.New(&clusterv3.Cluster{Name: "orders"})
	h := New(Options{
		Version: func() string { return "7" },
		XDS:     func() xdsclient.Status { return xdsclient.Status{Connected: true} },
		Dump: func() []compile.Status {
			return []compile.Status{
				{TypeURL: compile.ClusterType, Name: "orders", Version: "1", Rejected: "2", Body: a, Errors: []compile.ResourceError{{Field: "type", Reason: "no"}}},
				{TypeURL: compile.ClusterType, Name: "bad", Errors: []compile.ResourceError{{Reason: "no"}}},
				{TypeURL: compile.ClusterType, Name: "odd", Body: &anypb.Any{TypeUrl: "type.googleapis.com/no.such.Type", Value: []byte{1}}},
			}
		},
		Clusters: func() []Cluster {
			return []Cluster{{Name: "orders", Endpoints: []Endpoint{{ID: "orders-0", Health: "healthy"}}}}
		},
	})
	_, body := get(t, h, "/config_dump")
	var d Dump
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	if d.Snapshot != "7" || !d.Control.Connected || len(d.Resources) != 3 || d.Resources[0].State != "rejected" ||
		d.Resources[0].Errors[0].Field != "type" || !strings.Contains(string(d.Resources[0].Body), "orders") || d.Resources[1].State != "invalid" ||
		!strings.Contains(string(d.Resources[2].Body), "unrendered") {
		t.Fatal(body)
	}
	if _, body := get(t, h, "/clusters"); !strings.Contains(body, "orders-0") {
		t.Fatal(body)
	}
	if code, _ := get(t, h, "/debug/pprof/"); code != 200 {
		t.Fatal(code)
	}
}
