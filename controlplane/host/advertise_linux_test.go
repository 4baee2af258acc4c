package host

import (
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// forget begins a new list of what the sink is told.
func (m *mesh) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = nil
}

// heard lists what the sink was told of one instance.
func (m *mesh) heard(id string) []Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Instance
	for _, all := range m.told {
		for _, i := range all {
			if i.ID == id {
				out = append(out, i)
			}
		}
	}
	return out
}

func again(base time.Duration, restarts int) option {
	return func(s *resource.Service) {
		s.Run.Restart = &resource.Restart{Max: &restarts, Within: time.Minute, Backoff: &resource.RestartBackoff{Kind: "linear", Base: base, Max: base}}
	}
}

// An instance whose process is started again by its runner stays advertised: its sidecar holds the calls. It is not ready,
// though. One that has failed is withdrawn.
func TestRestartingIsAdvertised(t *testing.T) {
	m := begin(t, t.TempDir())
	m.Apply(world{map[string][]option{"orders": {again(300*time.Millisecond, 1)}}}.input())
	m.ready()
	const id = "orders-1.0.0-0"
	m.forget()
	if _, err := m.Kill(t.Context(), "", "orders"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the restart to be due", func() bool { return m.process(id).State == string(process.Restarting) })
	if p := m.process(id); p.Ready {
		t.Errorf("ready while it is restarted: %+v", p)
	}
	m.ready()
	restarting := false
	for _, i := range m.heard(id) {
		restarting = restarting || i.State == process.Restarting
		if !i.Advertised || i.Draining {
			t.Errorf("withdrawn while it was restarted: %+v", i)
		}
	}
	if !restarting {
		t.Error("the mesh was never told of the restart")
	}

	m.forget()
	if _, err := m.Kill(t.Context(), "", "orders"); err != nil { // once too often
		t.Fatal(err)
	}
	waitFor(t, "the withdrawal", func() bool {
		h := m.heard(id)
		return len(h) > 0 && !h[len(h)-1].Advertised
	})
	m.ready() // the pool starts it anew
	for _, i := range m.heard(id) {
		if i.Advertised && i.State != process.Running {
			t.Errorf("advertised while it is %s after its failure", i.State)
		}
	}
	m.down()
}

// Where a health check has found it sick, an instance does not stay advertised while it is restarted.
func TestSickIsNotAdvertised(t *testing.T) {
	m := begin(t, t.TempDir())
	m.Apply(world{map[string][]option{"orders": {again(time.Minute, 1), func(s *resource.Service) { s.Health = &resource.Health{HTTP: "/healthz"} }}}}.input())
	const id = "orders-1.0.0-0"
	waitFor(t, "the process", func() bool { return len(m.Processes()) == 2 && m.process(id).State == string(process.Running) })
	m.Report(id, Report{Ready: true, Health: []ClusterHealth{{Cluster: "inbound/http", State: Healthy}}})
	m.ready()
	if _, err := m.Kill(t.Context(), "", "orders"); err != nil {
		t.Fatal(err)
	}
	advertised := func() bool { h := m.heard(id); return len(h) > 0 && h[len(h)-1].Advertised }
	waitFor(t, "the restart to be told", func() bool {
		h := m.heard(id)
		return h[len(h)-1].State == process.Restarting && advertised()
	})
	m.Report(id, Report{Ready: true, Health: []ClusterHealth{{Cluster: "inbound/http", State: Unhealthy, Reason: "connection refused"}}})
	waitFor(t, "the withdrawal", func() bool { return !advertised() })
	m.down()
}

// What is stopped is withdrawn first: the mesh has been told while it still ran.
func TestWithdrawnBeforeStop(t *testing.T) {
	m := begin(t, t.TempDir())
	m.Apply(world{map[string][]option{"orders": {}}}.input())
	m.ready()
	const id = "orders-1.0.0-0"
	m.forget()
	if _, err := m.Stop(t.Context(), "", "orders"); err != nil {
		t.Fatal(err)
	}
	h := m.heard(id)
	for len(h) > 0 && h[0].State == process.Running && h[0].Advertised {
		h = h[1:] // told of before, heard late
	}
	if len(h) == 0 || h[0].State != process.Running || !h[0].Draining || h[0].Advertised {
		t.Errorf("first told: %+v", h)
	}
	m.down()
}
