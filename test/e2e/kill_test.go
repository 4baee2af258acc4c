package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestControlPlaneKilled: what serves does not depend on what decides. Then, while there is no control plane, a service and
// a sidecar are killed and come back.
func TestControlPlaneKilled(t *testing.T) {
	m := harness.Up(t, write(t, []service{orders(3)}))
	load := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1"})
	load.More(500)
	before := m.Of("orders")

	m.Kill9(m.ControlPID())
	load.More(2000)
	if r := load.Now(); r.Failed != 0 {
		t.Fatalf("after kill -9 of the control plane: %v", r)
	}
	if _, err := m.TryPS(); err == nil {
		t.Error("ps works without a control plane")
	}

	m.Kill9(before[0].PID)
	revived(t, before[0], func(service, _ int) bool { return service != 0 && service != before[0].PID })
	answers(t, before[0].Address)
	load.More(500)
	if r := load.Now(); r.Failed != 0 {
		t.Errorf("after kill -9 of a service with no control plane: %v", r)
	}

	m.Kill9(before[1].Sidecar.PID)
	revived(t, before[1], func(_, sidecar int) bool { return sidecar != 0 && sidecar != before[1].Sidecar.PID })
	answers(t, before[1].Address)
	load.More(2000)
	r := load.Stop()
	t.Logf("all: %v", r)
	if r.Failed != 0 {
		t.Errorf("after kill -9 of a sidecar with no control plane: %v", r)
	}

	// A new control plane adopts what it finds: the same processes, and what happened to them meanwhile.
	if out, err := m.Start(); err != nil {
		t.Fatalf("a new control plane: %v\n%s", err, out)
	}
	after := map[string]harness.Process{}
	for _, p := range m.PS() {
		after[p.Instance] = p
	}
	if got, want := after[before[2].Instance], before[2]; got.PID != want.PID || got.Sidecar != want.Sidecar || got.Runner != want.Runner || got.Restarts != 0 {
		t.Errorf("not adopted: %+v, was %+v", got, want)
	}
	if got := after[before[0].Instance]; got.PID == before[0].PID || got.Runner != before[0].Runner || got.Restarts != 1 {
		t.Errorf("the killed service: %+v, was %+v", got, before[0])
	}
	m.Apply(`apiVersion: outrigger.dev/v1
kind: Route
metadata: {name: gone}
spec: {service: orders, rules: [{match: {path: {exact: /gone}}, direct: {status: 410}}]}
`)
	harness.Eventually(t, 10*time.Second, func() error { return wantStatus(m.Edge, "orders", "/gone", http.StatusGone) })
}

// revived waits for a runner's children to be as wanted; it needs no control plane.
func revived(t *testing.T, p harness.Process, ok func(service, sidecar int) bool) {
	t.Helper()
	harness.Eventually(t, 15*time.Second, func() error {
		service, sidecar := harness.ServiceAndSidecar(p.Runner.PID)
		if !ok(service, sidecar) {
			return fmt.Errorf("%s: service %d, sidecar %d; were %d and %d", p.Instance, service, sidecar, p.PID, p.Sidecar.PID)
		}
		return nil
	})
}

// answers waits until an instance answers at its own sidecar.
func answers(t *testing.T, address string) {
	t.Helper()
	harness.Eventually(t, 15*time.Second, func() error { return wantStatus(address, "orders", "/count", http.StatusOK) })
}

func wantStatus(addr, host, path string, want int) error {
	status, body, _, err := harness.TryGet(addr, host, path)
	if err != nil {
		return err
	}
	if status != want {
		return &harness.StatusError{Code: status, Body: body}
	}
	return nil
}

// TestInboundSidecarKilled: three instances, four callers with sidecars of their own, which retry; the callers do not.
func TestInboundSidecarKilled(t *testing.T) {
	m := harness.Up(t, write(t, []service{orders(3), front(4, "orders")}))
	var callers []string
	for _, p := range m.Of("front") {
		callers = append(callers, outbound(t, p, "orders"))
	}
	if len(callers) != 4 {
		t.Fatalf("%d callers, want 4", len(callers))
	}
	load := harness.StartLoad(t, harness.Load{Addrs: callers, Host: "orders", Path: "/orders/1", Workers: 8})
	load.More(500)
	for round := range 3 {
		victim := m.Of("orders")[round]
		m.Kill9(victim.Sidecar.PID)
		revived(t, victim, func(_, sidecar int) bool { return sidecar != 0 && sidecar != victim.Sidecar.PID })
		answers(t, victim.Address)
		load.More(1000)
	}
	r := load.Stop()
	t.Logf("%v; by instance %v", r, r.Instances)
	if r.Failed != 0 {
		t.Errorf("kill -9 of an inbound sidecar of three: %v", r)
	}
	if len(r.Instances) != 3 {
		t.Errorf("answers of %d instances, want 3: %v", len(r.Instances), r.Instances)
	}
}

// TestOwnSidecarKilled: a client loses its own sidecar. What was in flight fails, nothing is refused, and within a second it
// is back.
func TestOwnSidecarKilled(t *testing.T) {
	const workers = 8
	m := harness.Up(t, write(t, []service{orders(2), front(1, "orders")}))
	client := m.Of("front")[0]
	load := harness.StartLoad(t, harness.Load{Addr: outbound(t, client, "orders"), Host: "orders", Path: "/orders/1", Workers: workers})
	load.More(1000)

	at := time.Now()
	m.Kill9(client.Sidecar.PID)
	// Every worker has been served anew once so many calls went well after the kill.
	harness.Eventually(t, 10*time.Second, func() error {
		if r := load.Now(); r.Failed == 0 {
			return fmt.Errorf("no call has noticed: %v", r)
		}
		return nil
	})
	back := load.MoreGood(1)
	load.More(2000)
	r := load.Stop()
	t.Logf("%v; back after %v", r, back.Sub(at))
	if r.Failed > workers {
		t.Errorf("%d failed, at most %d were in flight: %v", r.Failed, workers, r)
	}
	if r.Reasons["refused"] != 0 {
		t.Errorf("refused connections: %v", r)
	}
	if d := back.Sub(at); d > time.Second {
		t.Errorf("back after %v, want 1 s at most", d)
	}
	if now := m.Of("front")[0]; now.PID != client.PID {
		t.Errorf("the client itself was restarted: %+v, was %+v", now, client)
	}
}

// TestServiceKilled: of calls that may not be sent twice, those in flight to the killed process fail, and no others.
func TestServiceKilled(t *testing.T) {
	const posts = 9
	m := harness.Up(t, write(t, []service{orders(3)}))
	gets := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1"})
	gets.More(200)

	// POST /slow is counted when it arrives, and answered four seconds later.
	slow := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Method: http.MethodPost, Path: "/slow?ms=4000", Workers: posts, Calls: posts})
	all := m.Of("orders")
	var counts []int
	harness.Eventually(t, 3*time.Second, func() error {
		counts = counts[:0]
		sum := 0
		for _, p := range all {
			n, err := added(p.Address)
			if err != nil {
				return err
			}
			counts = append(counts, n)
			sum += n
		}
		if sum != posts {
			return fmt.Errorf("%d of %d calls have arrived", sum, posts)
		}
		return nil
	})
	victim := 0
	for i, n := range counts {
		if n > counts[victim] {
			victim = i
		}
	}
	m.Kill9(all[victim].PID)
	r := slow.Wait()
	t.Logf("in flight %v, killed the one with %d: %v", counts, counts[victim], r)
	if r.Failed != counts[victim] {
		t.Errorf("%d calls failed, %d were in flight to the killed process: %v", r.Failed, counts[victim], r)
	}
	// None was tried again elsewhere.
	for i, p := range all {
		if i == victim {
			continue
		}
		if n, err := added(p.Address); err != nil || n != counts[i] {
			t.Errorf("%s: %d calls counted (%v), want %d", p.Instance, n, err, counts[i])
		}
	}
	gets.More(500)
	if g := gets.Stop(); g.Failed != 0 {
		t.Errorf("GETs beside it: %v", g)
	}
	revived(t, all[victim], func(service, _ int) bool { return service != 0 && service != all[victim].PID })
	answers(t, all[victim].Address)
}

// added asks an instance of orders, at its own sidecar, how many orders it has counted.
func added(address string) (int, error) {
	status, body, _, err := harness.TryGet(address, "orders", "/count")
	if err != nil {
		return 0, err
	}
	if status != http.StatusOK {
		return 0, &harness.StatusError{Code: status, Body: body}
	}
	var a struct{ Added int }
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		return 0, fmt.Errorf("%w in %q", err, body)
	}
	return a.Added, nil
}
