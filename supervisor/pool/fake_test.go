package pool

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a launcher of fakes: it stands for all that outlives a pool.
type host struct {
	mu      sync.Mutex
	runners map[string]*fake // by directory
	pids    int
	journal []string        // what was done to whom, in order
	broken  map[string]bool // by instance: its process fails
}

func newHost() *host { return &host{runners: map[string]*fake{}, broken: map[string]bool{}} }

func (h *host) note(format string, a ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.journal = append(h.journal, fmt.Sprintf(format, a...))
}

func (h *host) notes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.journal)
}

func (h *host) pid() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pids++
	return h.pids
}

func (h *host) breaks(id string, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken[id] = yes
}

func (h *host) isBroken(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken[id]
}

func (h *host) Find(_ context.Context, dir string) (Runner, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.runners[dir]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%w: %s", runner.ErrGone, dir)
}

func (h *host) Launch(ctx context.Context, s runner.Spec) (Runner, error) {
	f := &fake{h: h, spec: s, changed: make(chan struct{}), runnerPID: h.pid()}
	h.note("launch %s", s.Instance)
	h.mu.Lock()
	h.runners[s.Dir] = f
	h.mu.Unlock()
	return f, f.Start(ctx)
}

// fake is a runner: it keeps its process's state, and numbers what happens.
type fake struct {
	h         *host
	runnerPID int

	mu       sync.Mutex
	spec     runner.Spec
	state    process.State
	pid      int
	restarts int
	events   []runner.Event
	changed  chan struct{}
	gone     bool
	hang     chan struct{} // is sent to by Update, which then never answers
}

func (f *fake) set(s process.State, e runner.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
	e.Number, e.Kind, e.Who, e.State, e.PID = uint64(len(f.events)+1), runner.StateChanged, runner.TheProcess, s, f.pid
	f.events = append(f.events, e)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) State(context.Context, uint64) (runner.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return runner.State{}, runner.ErrGone
	}
	st := runner.State{
		Instance: f.spec.Instance, Tenant: f.spec.Tenant, RunnerPID: f.runnerPID, State: f.state, Restarts: f.restarts,
		LastEvent: uint64(len(f.events)), Events: slices.Clone(f.events), Ready: f.state == process.Running,
	}
	if f.state == process.Running {
		st.PID = f.pid
	}
	return st, nil
}

func (f *fake) Start(context.Context) error {
	pid := f.h.pid()
	f.mu.Lock()
	running := f.state == process.Running
	id := f.spec.Instance
	if !running {
		f.pid = pid
	}
	f.mu.Unlock()
	switch {
	case running:
	case f.h.isBroken(id):
		f.set(process.Failed, runner.Event{Cause: runner.CauseEnded, Reason: "exited with code 3", Output: []string{"no database"}})
	default:
		f.set(process.Running, runner.Event{})
	}
	return nil
}

func (f *fake) Stop(context.Context, runner.StopOptions) error {
	f.h.note("stop %s", f.spec.Instance)
	f.set(process.Stopped, runner.Event{})
	return nil
}

func (f *fake) Restart(ctx context.Context, _ runner.StopOptions) error {
	f.h.note("restart %s", f.spec.Instance)
	f.set(process.Stopped, runner.Event{})
	return f.Start(ctx)
}

// Kill is a fault that the runner heals.
func (f *fake) Kill(ctx context.Context) error {
	f.set(process.Restarting, runner.Event{})
	f.mu.Lock()
	f.restarts++
	f.mu.Unlock()
	return f.Start(ctx)
}

func (f *fake) Update(ctx context.Context, s runner.Spec) ([]runner.Who, error) {
	f.mu.Lock()
	old, hang := f.spec, f.hang
	f.spec = s
	f.mu.Unlock()
	if hang != nil {
		hang <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !reflect.DeepEqual(old.Process, s.Process) {
		return []runner.Who{runner.TheProcess}, nil
	}
	return nil, nil
}

func (f *fake) ReplaceSidecar(context.Context) error { return nil }

func (f *fake) UpgradeSidecar(context.Context, string) error { return nil }

func (f *fake) Exit(context.Context, runner.StopOptions) error {
	f.h.note("exit %s", f.spec.Instance)
	f.h.mu.Lock()
	if f.h.runners[f.spec.Dir] == f {
		delete(f.h.runners, f.spec.Dir)
	}
	f.h.mu.Unlock()
	f.mu.Lock()
	f.gone = true
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	return nil
}

func (f *fake) Events(ctx context.Context, since uint64, tell func(runner.Event) error) error {
	for {
		f.mu.Lock()
		news, changed, gone := slices.Clone(f.events[min(int(since), len(f.events)):]), f.changed, f.gone
		f.mu.Unlock()
		for _, e := range news {
			since = e.Number
			if err := tell(e); err != nil {
				return err
			}
		}
		if gone {
			return runner.ErrGone
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pooled is a pool that is served.
type pooled struct {
	*Pool
	t      *testing.T
	h      *host
	cancel context.CancelCauseFunc
	done   chan error

	mu      sync.Mutex
	healthy func(id string) bool // nil: who runs
	changed chan struct{}
}

func serve(t *testing.T, h *host, want []Want, change ...func(*Config)) *pooled {
	t.Helper()
	p := &pooled{t: t, h: h, done: make(chan error, 1), changed: make(chan struct{})}
	cfg := Config{
		Name: "orders@1.0.0", Want: want, Retry: supervisor.Intensity{Restarts: 2, Within: time.Minute}, Launcher: h, Log: slog.New(slog.DiscardHandler),
		Hooks: Hooks{
			Await:    func(context.Context, string, func(string)) error { return nil },
			Withdraw: func(_ context.Context, id string) { h.note("withdraw %s", id) },
			Healthy:  p.isHealthy,
			Changed: func(string) {
				p.mu.Lock()
				defer p.mu.Unlock()
				close(p.changed)
				p.changed = make(chan struct{})
			},
			Event: func(string, runner.Event) {},
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	p.Pool = New(cfg)
	ctx, cancel := context.WithCancelCause(context.Background())
	p.cancel = cancel
	go func() { p.done <- p.Serve(ctx) }()
	t.Cleanup(func() { p.end(ErrDetach) })
	return p
}

func (p *pooled) isHealthy(id string) bool {
	p.mu.Lock()
	f := p.healthy
	p.mu.Unlock()
	if f != nil {
		return f(id)
	}
	i := p.Instance(id)
	return i != nil && i.Status().Runner.State == process.Running
}

// end ends Serve, once.
func (p *pooled) end(cause error) {
	p.t.Helper()
	p.cancel(cause)
	err, ok := <-p.done
	if ok {
		close(p.done)
		if err != nil {
			p.t.Errorf("serve: %v", err)
		}
	}
}

func (p *pooled) wait(what string, ok func() bool) {
	p.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	look := time.NewTicker(5 * time.Millisecond) // what the supervisor above thinks is told by its events alone
	defer look.Stop()
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-look.C:
		case <-limit.C:
			for _, i := range p.Instances() {
				p.t.Logf("%+v", i.Status())
			}
			p.t.Fatalf("waited too long for %s; done so far: %q", what, p.h.notes())
		}
	}
}

func (p *pooled) status(id string) Status {
	p.t.Helper()
	i := p.Instance(id)
	if i == nil {
		p.t.Fatalf("no instance %s", id)
	}
	return i.Status()
}

func (p *pooled) running(ids ...string) {
	p.t.Helper()
	p.wait("all to run", func() bool {
		for _, id := range ids {
			if st := p.status(id); st.State != process.Running || st.Replacing || st.Draining {
				return false
			}
		}
		return true
	})
}

// wants makes n instances in dir whose processes have that environment.
func wants(dir, prefix string, n int, env ...string) []Want {
	var out []Want
	for slot := range n {
		id := fmt.Sprintf("%s-%d", prefix, slot)
		d := filepath.Join(dir, "instances", id)
		if err := os.MkdirAll(d, 0o700); err != nil {
			panic(err)
		}
		out = append(out, Want{Spec: runner.Spec{Format: runner.SpecFormat, Instance: id, Dir: d, Process: &runner.Process{Command: []string{"x"}, Env: env}}})
	}
	return out
}
