package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestReplaceSidecars: the edge's and an instance's sidecar are replaced by new ones while calls run, and no connection is
// refused, nor a call lost.
func TestReplaceSidecars(t *testing.T) {
	m := harness.Up(t, write(t, []service{orders(1)}))
	kept := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1"})
	fresh := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1", FreshConnections: true, Workers: 4})
	kept.More(200)
	for range 3 {
		for _, id := range []string{"edge", m.Of("orders")[0].Instance} {
			dir := filepath.Join(m.State, "instances", id)
			c, err := runner.Dial(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			before, err := c.State(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ReplaceSidecar(t.Context()); err != nil {
				t.Fatalf("%s: %v\n%s", id, err, m.Logs())
			}
			kept.More(200)
			fresh.More(200)
			harness.Eventually(t, 45*time.Second, func() error {
				now, err := c.State(t.Context(), 0)
				if err == nil && len(now.Exits) == len(before.Exits) {
					err = errStill
				}
				if err == nil && (now.Sidecar.PID == before.Sidecar.PID || !now.Sidecar.Ready || now.PID != before.PID) {
					t.Fatalf("%s: %+v, was %+v", id, now, before)
				}
				return err
			})
			conn, err := unixsock.Dial(t.Context(), filepath.Join(dir, "console.sock"))
			if err != nil {
				t.Fatalf("the console of %s: %v", id, err)
			}
			_ = conn.Close()
		}
	}
	for name, load := range map[string]*harness.Running{"kept": kept, "fresh": fresh} {
		if r := load.Stop(); r.Failed != 0 {
			t.Errorf("calls on %s connections: %v", name, r)
		} else {
			t.Logf("calls on %s connections: %v", name, r)
		}
	}
}
