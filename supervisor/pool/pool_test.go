package pool

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// A pool that lets go leaves everything; the next one finds the same processes with their counts and what was told of them.
func TestAdoption(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	p := serve(t, h, wants(dir, "orders-1.0.0", 2))
	p.running("orders-1.0.0-0", "orders-1.0.0-1")
	if err := p.Instance("orders-1.0.0-0").Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.wait("the restart", func() bool { st := p.status("orders-1.0.0-0"); return st.Runner.Restarts == 1 && st.Runner.PID != 0 })
	before := []Status{p.status("orders-1.0.0-0"), p.status("orders-1.0.0-1")}
	p.end(ErrDetach)

	var told []string
	q := serve(t, h, wants(dir, "orders-1.0.0", 2), func(c *Config) {
		c.Hooks.Event = func(id string, e runner.Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			told = append(told, id+" "+string(e.State))
		}
	})
	q.running("orders-1.0.0-0", "orders-1.0.0-1")
	for _, b := range before {
		a := q.status(b.ID)
		if a.Runner.PID != b.Runner.PID || a.Runner.RunnerPID != b.Runner.RunnerPID || a.Runner.Restarts != b.Runner.Restarts || !a.Adopted || b.Adopted {
			t.Errorf("not adopted: %+v\nwas %+v", a, b)
		}
	}
	h.mu.Lock()
	history := slices.DeleteFunc(slices.Clone(told), func(s string) bool { return !strings.HasPrefix(s, "orders-1.0.0-0") })
	h.mu.Unlock()
	if want := []string{"orders-1.0.0-0 running", "orders-1.0.0-0 restarting", "orders-1.0.0-0 running"}; !slices.Equal(history, want) {
		t.Errorf("history %q, want %q", history, want)
	}
	if n := h.notes(); len(n) != 2 {
		t.Errorf("done: %q, want two launches", n)
	}
}

// A smaller pool drains what it drops, beside all else; a larger one adds; what comes back before it has gone stays.
func TestResize(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	p := serve(t, h, wants(dir, "a", 3))
	p.running("a-0", "a-1", "a-2")
	kept := p.status("a-0").Runner.PID
	p.Set(wants(dir, "a", 1))
	p.wait("the end of two", func() bool { return len(p.Instances()) == 1 })
	for _, id := range []string{"a-1", "a-2"} {
		n := h.notes()
		w, s, e := slices.Index(n, "withdraw "+id), slices.Index(n, "stop "+id), slices.Index(n, "exit "+id)
		if w < 0 || s < w || e < s {
			t.Errorf("%s: %q, want it withdrawn, stopped, ended", id, n)
		}
	}
	p.Set(wants(dir, "a", 4))
	p.wait("four", func() bool { return len(p.Instances()) == 4 })
	p.running("a-0", "a-1", "a-2", "a-3")
	for range 20 { // there and back, faster than anything ends
		p.Set(wants(dir, "a", 2))
		p.Set(wants(dir, "a", 4))
	}
	p.wait("four again", func() bool {
		all := p.Instances()
		return len(all) == 4 && !slices.ContainsFunc(all, func(i *Instance) bool {
			st := i.Status()
			return st.State != process.Running || st.Retired
		})
	})
	if now := p.status("a-0").Runner.PID; now != kept {
		t.Errorf("the one that was always wanted is another: %d, was %d", now, kept)
	}
}

// A new spec replaces the processes one by one, each withdrawn first, and healthy before the next goes; what does not serve goes
// at once.
func TestRollingRestart(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	p := serve(t, h, wants(dir, "a", 3))
	p.running("a-0", "a-1", "a-2")
	sick := ""
	p.mu.Lock()
	p.healthy = func(id string) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return id != sick
	}
	p.mu.Unlock()
	count := func(what string) int {
		n := 0
		for _, s := range h.notes() {
			if strings.HasPrefix(s, what) {
				n++
			}
		}
		return n
	}
	be := func(id string) {
		h.mu.Lock()
		sick = id
		h.mu.Unlock()
		p.Kick()
	}
	be("a-1")
	p.Set(wants(dir, "a", 3, "COLOR=blue"))
	p.wait("the sick one", func() bool { return count("restart a-1") == 1 && !p.status("a-1").Replacing })
	for range 50 { // however often it looks, the others wait for it
		p.Kick()
		_ = p.Inspect()
	}
	if n := count("restart"); n != 1 {
		t.Errorf("%d were replaced while one does not serve", n)
	}
	be("")
	p.wait("all", func() bool { return count("restart") == 3 })
	p.running("a-0", "a-1", "a-2")
	n := slices.DeleteFunc(h.notes(), func(s string) bool { return strings.HasPrefix(s, "launch") })
	if want := []string{"withdraw a-1", "restart a-1", "withdraw a-0", "restart a-0", "withdraw a-2", "restart a-2"}; !slices.Equal(n, want) {
		t.Errorf("done %q, want %q", n, want)
	}
	// And by hand.
	if err := p.Restart(t.Context(), "a-2"); err != nil {
		t.Fatal(err)
	}
	if n := count("restart a-2"); n != 2 {
		t.Errorf("restarted %d times, want 2", n)
	}
}

// What was stopped stays so for the next pool, and starts when it is told to.
func TestStopPersists(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	p := serve(t, h, wants(dir, "a", 2))
	p.running("a-0", "a-1")
	p.SetStopped(true, "a-0")
	p.wait("the stop", func() bool { st := p.status("a-0"); return st.State == process.Stopped && st.Stopped })
	p.end(ErrDetach)
	w := wants(dir, "a", 2)
	w[0].Stopped = true
	q := serve(t, h, w)
	q.wait("adoption", func() bool { return q.status("a-0").Adopted && q.status("a-1").State == process.Running })
	if st := q.status("a-0"); st.State != process.Stopped || st.Runner.PID != 0 {
		t.Errorf("%+v", st)
	}
	q.SetStopped(false, "a-0")
	q.running("a-0")
}

// An instance that fails for good is started anew as often as the pool may, then given up, alone; a change helps it up. A pool
// that escalates fails with it.
func TestGivesUp(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	h.breaks("a-0", true)
	p := serve(t, h, wants(dir, "a", 2))
	p.wait("the end of patience", func() bool { return p.GivenUp("a-0") })
	st := p.status("a-0")
	if st.State != process.Failed || len(st.LastOutput) != 1 || st.Cause != runner.CauseEnded || !st.GivenUp {
		t.Errorf("%+v", st)
	}
	for _, c := range p.Inspect().Children {
		if c.Name == "a-0" && (c.State != supervisor.StateFailed || c.Restarts != 2) {
			t.Errorf("given up early: %+v", c)
		}
	}
	p.running("a-1")
	h.breaks("a-0", false)
	p.Set(wants(dir, "a", 2, "FIXED=1"))
	p.running("a-0", "a-1")

	h.breaks("b-0", true)
	q := serve(t, h, nil, func(c *Config) { c.Want, c.Escalate = wants(dir, "b", 1), true })
	err := <-q.done
	close(q.done)
	var f *FailedError
	if !errors.As(err, &f) || f.Instance != "b-0" || q.GivenUp("b-0") {
		t.Errorf("got %v, given up %v: that is for who is above to say", err, q.GivenUp("b-0"))
	}
}

// Versions and tenants are pools of their own: what happens to one is nothing to the others.
func TestVersionsAndTenants(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	prefixes := []string{"orders-1.0.0", "orders-2.0.0", "acme.orders-1.0.0"}
	pools := map[string]*pooled{}
	pids := map[string]int{}
	for _, x := range prefixes {
		pools[x] = serve(t, h, wants(dir, x, 1))
		pools[x].running(x + "-0")
		pids[x] = pools[x].status(x + "-0").Runner.PID
	}
	if err := pools[prefixes[0]].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	pools[prefixes[0]].running(prefixes[0] + "-0")
	pools[prefixes[2]].Set(nil)
	pools[prefixes[2]].wait("the end", func() bool { return len(pools[prefixes[2]].Instances()) == 0 })
	if st := pools[prefixes[1]].status(prefixes[1] + "-0"); st.Runner.PID != pids[prefixes[1]] || st.State != process.Running {
		t.Errorf("%+v", st)
	}
	if pid := pools[prefixes[0]].status(prefixes[0] + "-0").Runner.PID; pid == pids[prefixes[0]] {
		t.Error("not restarted")
	}
}

// A runner that does not answer does not hold up the end of a control plane.
func TestDetachFromAHungRunner(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	p := serve(t, h, wants(dir, "a", 1))
	p.running("a-0")
	r, err := h.Find(t.Context(), p.status("a-0").Spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	f := r.(*fake)
	hang := make(chan struct{})
	f.mu.Lock()
	f.hang = hang
	f.mu.Unlock()
	p.Set(wants(dir, "a", 1, "COLOR=blue"))
	<-hang
	p.end(ErrDetach)
}
