package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestShopSplit runs the example shop as it is in the repository, from a clean state, and counts at the edge.
func TestShopSplit(t *testing.T) {
	m := harness.Up(t, shop(t, harness.Binaries(t)))

	status, body, _ := harness.Get(t, m.Edge, "front.localhost", "/checkout?sku=tea")
	if status != http.StatusOK || !strings.Contains(body, `"bought":"tea"`) {
		t.Fatalf("checkout: %d %s", status, body)
	}

	load := harness.Load{Addr: m.Edge, Host: "orders.localhost", Path: "/orders/1", Workers: 32}
	ten := load
	ten.Calls = 10_000
	r := harness.DoLoad(t, ten)
	t.Logf("90/10: %v", r)
	if v2 := r.Versions["2.0.0"]; r.Failed != 0 || v2 < 850 || v2 > 1150 {
		t.Errorf("90/10: %d of %d calls to 2.0.0, want 850 to 1150; %v", v2, r.Calls, r)
	}

	// The split changes while calls run; none fails.
	running := harness.StartLoad(t, load)
	running.More(500)
	m.Apply(split(0, 100))
	harness.Eventually(t, 10*time.Second, func() error { return onlyVersion(m.Edge, "2.0.0", 20) })
	running.More(500)
	changed := running.Stop()
	t.Logf("the change: %v", changed)
	if changed.Failed != 0 {
		t.Errorf("the change failed calls: %v", changed)
	}

	r = harness.DoLoad(t, ten)
	t.Logf("0/100: %v", r)
	if r.Failed != 0 || r.Versions["2.0.0"] != r.Calls {
		t.Errorf("0/100: %v", r)
	}

	// A route goes before the split.
	m.Apply(split(100, 0))
	harness.Eventually(t, 10*time.Second, func() error { return onlyVersion(m.Edge, "1.0.0", 20) })
	beta := load
	beta.Calls, beta.Header = 100, http.Header{"X-Beta": {"1"}}
	if r := harness.DoLoad(t, beta); r.Failed != 0 || r.Versions["2.0.0"] != 100 {
		t.Errorf("x-beta: 1: %v", r)
	}
}

// onlyVersion makes n calls and says which other version answered, if any.
func onlyVersion(edge, version string, n int) error {
	for range n {
		status, body, h, err := harness.TryGet(edge, "orders.localhost", "/count")
		if err != nil {
			return err
		}
		if v := h.Get("X-Version"); status != http.StatusOK || v != version {
			return &harness.StatusError{Code: status, Reason: "version " + v, Body: body}
		}
	}
	return nil
}
