package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/logfile"
	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// ErrNotFound says that nothing here has the name.
var ErrNotFound = errors.New("nothing here has this name")

// PID is a process that accompanies an instance.
type PID struct {
	PID int `json:"pid"`
}

// Process is one instance, or a gateway. Its JSON is that of `ps -o json`.
type Process struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Tenant   string `json:"tenant"`
	Instance string `json:"instance"`
	PID      int    `json:"pid"` // 0 while no process runs
	State    string `json:"state"`
	Restarts int    `json:"restarts"`
	Ready    bool   `json:"ready"`
	Sidecar  PID    `json:"sidecar"`
	Runner   PID    `json:"runner"`
	Address  string `json:"address"` // its inbound sidecar's, of the first port
	// Intercept says which of its connections are redirected to its sidecar, in words; "" for none.
	Intercept string `json:"intercept,omitempty"`

	// What follows is not in the JSON.
	Reason     string    `json:"-"` // why it does not run or is not ready
	LastOutput []string  `json:"-"`
	Since      time.Time `json:"-"` // when it took its state
	Adopted    bool      `json:"-"`
	// Stopped: a user has stopped it. GivenUp: it has failed, and nobody starts it again.
	Stopped bool         `json:"-"`
	GivenUp bool         `json:"-"`
	Cause   runner.Cause `json:"-"`
}

// Processes lists all instances and gateways of this host, in the order of starting.
func (h *Host) Processes() []Process {
	var out []Process
	for _, u := range h.unitsNow() {
		for _, i := range u.pool.Instances() {
			out = append(out, h.processOf(u, i.Status()))
		}
	}
	return out
}

func (h *Host) processOf(u *unit, st pool.Status) Process {
	p := Process{
		Service: u.service.Name, Version: u.version, Tenant: u.service.Tenant, Instance: st.ID, PID: st.Runner.PID,
		State: string(st.State), Restarts: st.Runner.Restarts, Sidecar: PID{st.Runner.Sidecar.PID}, Runner: PID{st.Runner.RunnerPID},
		Reason: st.Reason, LastOutput: st.LastOutput, Since: st.Runner.StateAt, Adopted: st.Adopted, Stopped: st.Stopped,
		Cause: st.Cause, GivenUp: st.GivenUp && h.givenUp(u, st.ID),
	}
	if u.gateway != nil {
		p.Address, p.Ready = u.gateway.Listen, st.Runner.Ready && st.State == process.Running
		for _, s := range st.Runner.Sockets {
			if len(st.Spec.Listen) > 0 && s.Name == st.Spec.Listen[0].Name {
				p.Address = s.Address
			}
		}
		return p
	}
	i := h.instance(u, st)
	p.Ready = i.Ready
	_, force := h.tables.state(st.ID)
	p.Intercept = interceptionText(force)
	if i.Local != nil && len(u.ports) > 0 {
		p.Address = i.Local.Inbound[u.ports[0].Name]
	}
	if p.Reason == "" && !p.Ready && !st.Stopped {
		if _, why := h.healthy(u, st); why != "" {
			p.Reason = why
		} else if st.State == process.Running && !st.Runner.Sidecar.Ready {
			p.Reason = "its sidecar is not ready"
			if r := st.Runner.Sidecar.Reason; r != "" {
				p.Reason += ": " + r
			}
		} else if i.Draining {
			p.Reason = "it drains"
		}
	}
	return p
}

// givenUp says whether nobody will start a failed instance again: its pool has given it up, or a supervisor above has
// given up the pool.
func (h *Host) givenUp(u *unit, id string) bool {
	if u.pool.GivenUp(id) {
		return true
	}
	h.mu.Lock()
	root, placed := h.root, h.placed
	h.mu.Unlock()
	name := topOf(placed, u)
	if root == nil || name == "" {
		return false
	}
	for _, c := range root.Inspect().Children {
		if c.Name == name {
			return c.State == supervisor.StateFailed
		}
	}
	return false
}

// topOf is the name of the root's child that has the unit's pool.
func topOf(placed []top, u *unit) string {
	for _, t := range placed {
		if slices.ContainsFunc(t.units, func(x *unit) bool { return x.pool == u.pool }) {
			return t.name
		}
	}
	return ""
}

// Readiness is whether all is there that is wanted.
type Readiness struct {
	Ready bool
	// Reasons are what is missing, a sentence each, with the last output of what failed.
	Reasons []string
	// Fatal: something of it will not come by waiting.
	Fatal bool
}

// Ready says whether every wanted instance that nobody has stopped is ready, and every gateway.
func (h *Host) Ready() Readiness {
	h.mu.Lock()
	applied, down, rootErr, changing := h.applied, h.stopping != nil, h.rootErr, h.pending || h.busy
	problems := slices.Clone(h.problems)
	h.mu.Unlock()
	var r Readiness
	switch {
	case down:
		return Readiness{Reasons: []string{"the mesh is being stopped"}, Fatal: true}
	case !applied:
		return Readiness{Reasons: []string{"nothing was applied yet"}}
	case changing:
		return Readiness{Reasons: []string{"the latest change is being put in force"}}
	}
	r.Reasons = problems
	r.Fatal = len(problems) > 0
	if rootErr != nil {
		r.Reasons, r.Fatal = append(r.Reasons, rootErr.Error()), true
	}
	for _, u := range h.unitsNow() {
		for _, i := range u.pool.Instances() {
			st := i.Status()
			p := h.processOf(u, st)
			switch {
			case st.Retired || u.gone != nil:
				continue
			case st.Stopped || p.Ready:
				continue
			case p.State == string(process.Stopped) && u.kind() != supervisor.Permanent:
				continue // it has done its work
			}
			s := p.Instance + " is " + p.State
			if p.Reason != "" {
				s += ": " + p.Reason
			}
			if len(p.LastOutput) > 0 {
				s += "\n  last output:\n    " + strings.Join(p.LastOutput, "\n    ")
			}
			r.Reasons = append(r.Reasons, s)
			r.Fatal = r.Fatal || p.GivenUp
		}
	}
	for _, c := range h.Tree().Children {
		if c.Supervisor != nil && strings.HasPrefix(c.Name, "supervisor/") && c.State == supervisor.StateFailed {
			r.Fatal = true
			s := c.Name + " has failed"
			if c.LastError != nil {
				s += ": " + c.LastError.Error()
			}
			r.Reasons = append(r.Reasons, s)
		}
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// WaitReady returns when all is ready, when what is missing will not come, or when ctx ends.
func (h *Host) WaitReady(ctx context.Context) Readiness {
	var r Readiness
	_ = h.wait(ctx, func() bool {
		r = h.Ready()
		return r.Ready || r.Fatal
	})
	return r
}

// match returns the instances that a name means.
func (h *Host) match(tenant, name string) (map[*unit][]string, []string, error) {
	out := map[*unit][]string{}
	var ids []string
	for _, u := range h.unitsNow() {
		if u.gone != nil {
			continue
		}
		for _, i := range u.pool.Instances() {
			if u.named(tenant, name, i.ID()) && !i.Status().Retired {
				out[u] = append(out[u], i.ID())
				ids = append(ids, i.ID())
			}
		}
	}
	if len(ids) == 0 {
		return nil, nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return out, ids, nil
}

// desire writes down what a user wants of instances, and tells the pools.
func (h *Host) desire(units map[*unit][]string, stopped bool) error {
	values := map[string][]byte{}
	for _, ids := range units {
		for _, id := range ids {
			values[id] = nil
			if stopped {
				values[id] = []byte(time.Now().UTC().Format(time.RFC3339))
			}
		}
	}
	if err := h.db.put(stoppedBucket, values); err != nil {
		return err
	}
	h.mu.Lock()
	for id := range values {
		if stopped {
			h.stopped[id] = true
		} else {
			delete(h.stopped, id)
		}
	}
	h.mu.Unlock()
	for u, ids := range units {
		u.pool.SetStopped(stopped, ids...)
	}
	return nil
}

// Start starts what is stopped or was given up, and returns the instances, once they run, have failed, or wait for others. tenant "" is
// the default one; name is a service, service@version, or an instance's id.
func (h *Host) Start(ctx context.Context, tenant, name string) ([]string, error) {
	units, ids, err := h.match(tenant, name)
	if err != nil {
		return nil, err
	}
	if err := h.desire(units, false); err != nil {
		return nil, err
	}
	h.revive(ctx, units)
	err = h.each(units, func(i *pool.Instance) error {
		return i.Wait(ctx, func(st pool.Status) bool {
			return st.State == process.Running || st.State == process.Failed || st.Waits != "" || st.Stopped
		})
	})
	return ids, err
}

// revive gets going what was given up, in the pools or above them.
func (h *Host) revive(ctx context.Context, units map[*unit][]string) {
	h.mu.Lock()
	root, placed := h.root, h.placed
	h.mu.Unlock()
	for u, ids := range units {
		if name := topOf(placed, u); root != nil && name != "" {
			// ErrRunning is what is to be expected.
			if err := root.Start(ctx, name); err != nil && !errors.Is(err, supervisor.ErrRunning) {
				h.cfg.Log.Warn("start again", "tree", name, "err", err)
			}
		}
		u.pool.Revive(ids...)
	}
}

// Stop stops instances, until Start, also over restarts of the control plane, and returns when they are stopped: withdrawn from
// the mesh, drained, ended.
func (h *Host) Stop(ctx context.Context, tenant, name string) ([]string, error) {
	units, ids, err := h.match(tenant, name)
	if err != nil {
		return nil, err
	}
	if err := h.desire(units, true); err != nil {
		return nil, err
	}
	err = h.each(units, func(i *pool.Instance) error {
		return i.Wait(ctx, func(st pool.Status) bool {
			return st.State == process.Stopped || st.State == process.Failed || !st.Stopped
		})
	})
	return ids, err
}

// Restart replaces instances one by one, each healthy before the next; what is stopped is started. It returns when
// that is done.
func (h *Host) Restart(ctx context.Context, tenant, name string) ([]string, error) {
	units, ids, err := h.match(tenant, name)
	if err != nil {
		return nil, err
	}
	if err := h.desire(units, false); err != nil {
		return nil, err
	}
	h.revive(ctx, units)
	for u, ids := range units {
		if err := u.pool.Restart(ctx, ids...); err != nil {
			return nil, fmt.Errorf("restart %s: %w", u.name, err)
		}
	}
	return ids, nil
}

// Kill ends the processes of instances by force: a fault, which restart policies deal with.
func (h *Host) Kill(ctx context.Context, tenant, name string) ([]string, error) {
	units, ids, err := h.match(tenant, name)
	if err != nil {
		return nil, err
	}
	return ids, h.each(units, func(i *pool.Instance) error { return i.Kill(ctx) })
}

func (h *Host) each(units map[*unit][]string, f func(*pool.Instance) error) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for u, ids := range units {
		for _, id := range ids {
			if i := u.pool.Instance(id); i != nil {
				wg.Go(func() {
					if err := f(i); err != nil {
						mu.Lock()
						defer mu.Unlock()
						errs = append(errs, err)
					}
				})
			}
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// LogFile is where the output of one instance is.
type LogFile struct{ Instance, Path string }

// LogFiles lists the output files that a name means, "" for all; sidecar asks for the sidecars' logs, which gateways have
// alone. Rotated files have .1 and so on behind the name.
func (h *Host) LogFiles(tenant, name string, sidecar bool) ([]LogFile, error) {
	var out []LogFile
	for _, u := range h.unitsNow() {
		for _, i := range u.pool.Instances() {
			if name != "" && !u.named(tenant, name, i.ID()) {
				continue
			}
			file := runner.OutLog
			if sidecar || u.gateway != nil {
				file = runner.SidecarLog
			}
			out = append(out, LogFile{i.ID(), filepath.Join(h.dirOf(i.ID()), runner.LogDir, file)})
		}
	}
	if len(out) == 0 && name != "" {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return out, nil
}

// Logs writes the last lines of each of the files to w and, where follow is set, what is added until ctx ends. Where there is
// more than one, each line begins with its instance's id.
func (h *Host) Logs(ctx context.Context, files []LogFile, lines int, follow bool, w io.Writer) error {
	var mu sync.Mutex
	errs := make([]error, len(files))
	one := func(n int, f LogFile) {
		lw := &lineWriter{w: w, mu: &mu}
		if len(files) > 1 {
			lw.prefix = f.Instance + " | "
		}
		if follow {
			errs[n] = logfile.Follow(ctx, f.Path, lines, lw)
		} else {
			errs[n] = logfile.Tail(f.Path, lines, lw)
		}
		lw.flush()
	}
	var wg sync.WaitGroup
	for n, f := range files {
		if follow {
			wg.Go(func() { one(n, f) })
		} else {
			one(n, f)
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lineWriter writes whole lines, each with a prefix, so that those of several files do not mix.
type lineWriter struct {
	w      io.Writer
	mu     *sync.Mutex
	prefix string
	rest   []byte
}

func (l *lineWriter) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		i := slices.Index(l.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		if err := l.line(l.rest[:i+1]); err != nil {
			return 0, err
		}
		l.rest = l.rest[i+1:]
	}
}

func (l *lineWriter) line(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(append([]byte(l.prefix), b...))
	return err
}

func (l *lineWriter) flush() {
	if len(l.rest) > 0 {
		_ = l.line(append(l.rest, '\n'))
		l.rest = nil
	}
}

// Locals are the addresses of this host's instances, for resolve.
func (h *Host) Locals() []*model.Local {
	var out []*model.Local
	for _, i := range h.Instances() {
		out = append(out, i.Local)
	}
	return out
}
