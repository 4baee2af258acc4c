package console

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/internal/stat"
)

// Whatever is asked, the console answers, not with an error of its own, and its JSON is JSON. (The profiles are Go's, and take their time.)
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"/stats?filter=a", "/ready", "/config_dump?x=%zz", "/clusters", "/metrics", "/stats?filter=%ff&filter=", "//ready", "/stats?filter=\\d["} {
		f.Add("GET", s, "sidecar")
	}
	f.Add("POST", "/stats", "evil.example")
	r := stat.NewRegistry()
	r.Counter("outrigger_requests_total", "Requests.", stat.Label{Name: "service", Value: "orders"}).Add(1)
	h := New(Options{Stats: r})
	f.Fuzz(func(t *testing.T, method, target, host string) {
		if strings.Contains(target, "pprof") {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 || w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s: %d %q", method, target, w.Code, w.Body)
		}
	})
}
