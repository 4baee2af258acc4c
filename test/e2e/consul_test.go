package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestConsul keeps the resources in a real Consul, finds the instances in its catalog, and calls a service that somebody
// else registered there.
func TestConsul(t *testing.T) {
	agent := testkit.Consul(t)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "from outside\n")
	}))
	t.Cleanup(stranger.Close)
	host, portText, err := net.SplitHostPort(stranger.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	consul(t, http.MethodPut, agent.Addr, "/v1/agent/service/register", map[string]any{"Name": "stranger", "Address": host, "Port": port}, nil)

	m := harness.Prepare(t, write(t, []service{orders(2)}))
	if out, err := m.Start("--consul", agent.Addr); err != nil {
		t.Fatalf("up --consul: %v\n%s\n%s", err, out, m.Log())
	}
	if r := harness.DoLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1", Calls: 200}); r.Failed != 0 {
		t.Errorf("orders: %v", r)
	}
	harness.Eventually(t, 15*time.Second, func() error { return wantStatus(m.Edge, "stranger", "/", http.StatusOK) })

	// Each instance is in the catalog at its sidecar's address, and its checks pass.
	addresses := map[string]bool{}
	for _, p := range m.Of("orders") {
		addresses[p.Address] = true
	}
	harness.Eventually(t, 30*time.Second, func() error {
		var entries []struct {
			Service struct {
				Address string
				Port    int
			}
		}
		consul(t, http.MethodGet, agent.Addr, "/v1/health/service/orders?passing=true", nil, &entries)
		found := 0
		for _, e := range entries {
			if addresses[net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port))] {
				found++
			}
		}
		if found != 2 {
			return fmt.Errorf("%d of 2 instances pass their checks in the catalog: %v", found, entries)
		}
		return nil
	})

	// Calls do not need Consul.
	load := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1"})
	load.More(200)
	agent.Kill()
	load.More(2000)
	if r := load.Stop(); r.Failed != 0 {
		t.Errorf("without Consul: %v", r)
	}
	if _, err := m.RunWith(`apiVersion: outrigger.dev/v1
kind: Route
metadata: {name: late}
spec: {service: orders, rules: [{match: {path: {exact: /late}}, direct: {status: 410}}]}
`, "apply", "-f", "-"); err == nil {
		t.Error("apply works without Consul")
	}
}

// consul makes one request to Consul's HTTP API.
func consul(t *testing.T, method, addr, path string, in, out any) {
	t.Helper()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v: %s", method, path, res.Status, err, all)
	}
	if out != nil {
		if err := json.Unmarshal(all, out); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, all)
		}
	}
}
