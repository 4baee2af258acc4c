package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// dueFile, in an instance's directory, says that the process does not run by the stored spec yet.
const dueFile = "replace"

const (
	// launchLimit bounds the start of a runner, which does nothing that takes long.
	launchLimit = 30 * time.Second
	// letGo is how long an instance that is left to another still waits for what it has begun: the runner brings it to its end
	// by itself.
	letGo = 2 * time.Second
)

// FailedError is the failure of an instance whose runner has used up its restarts.
type FailedError struct {
	Instance, Reason string
	Cause            runner.Cause
	// Output are the last lines of its output.
	Output []string
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("instance %s failed: %s", e.Instance, e.Reason)
}

// Instance drives one runner. It is a supervisor.Child; its other methods are safe for concurrent use.
type Instance struct {
	pool *Pool
	id   string

	kick chan struct{} // something is to be done

	mu       sync.Mutex
	want     Want
	asked    uint64 // replacements asked for
	done     uint64 // and done
	due      bool   // the wanted spec needs a replacement of the process
	let      bool   // the pool lets it be replaced now
	reviveIt bool
	seen     struct {
		pid  int
		last uint64
	}
	status    Status
	ours      bool // it was us who stopped it
	interrupt context.CancelFunc
	changed   chan struct{} // closed at each change
}

func newInstance(p *Pool, w Want) *Instance {
	return &Instance{
		pool: p, id: w.Spec.Instance, want: w, kick: make(chan struct{}, 1), changed: make(chan struct{}),
		status: Status{ID: w.Spec.Instance, State: process.Created},
	}
}

// ID is the instance's id.
func (i *Instance) ID() string { return i.id }

// Status returns what is known now.
func (i *Instance) Status() Status {
	i.mu.Lock()
	defer i.mu.Unlock()
	st := i.status
	st.Spec, st.Stopped = i.want.Spec, i.want.Stopped
	if st.Runner.RunnerPID == 0 && st.Stopped && st.State == process.Created {
		st.State = process.Stopped
	}
	return st
}

// Wait returns when ok is true of the status, or ctx ends.
func (i *Instance) Wait(ctx context.Context, ok func(Status) bool) error {
	for {
		i.mu.Lock()
		changed := i.changed
		i.mu.Unlock()
		if ok(i.Status()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Kill ends the instance's process by force: a fault, which its restart policy deals with.
func (i *Instance) Kill(ctx context.Context) error {
	r, err := i.pool.cfg.Launcher.Find(ctx, i.Status().Spec.Dir)
	if err == nil {
		err = r.Kill(ctx)
	}
	if err != nil {
		return fmt.Errorf("kill instance %s: %w", i.id, err)
	}
	return nil
}

// UpgradeSidecar replaces the instance's sidecar by one that runs program, and returns when the new one is in place; false where no
// sidecar runs. The old one drains and ends by itself. With an error the old one stays, and nothing has changed. That later
// specs name the program is the caller's business.
func (i *Instance) UpgradeSidecar(ctx context.Context, program string) (bool, error) {
	st := i.Status()
	if st.Runner.RunnerPID == 0 || st.Runner.Sidecar.PID == 0 {
		return false, nil
	}
	r, err := i.pool.cfg.Launcher.Find(ctx, st.Spec.Dir)
	if errors.Is(err, runner.ErrGone) {
		return false, nil
	}
	if err == nil {
		err = r.UpgradeSidecar(ctx, program)
	}
	if err != nil {
		return false, fmt.Errorf("upgrade the sidecar of %s: %w", i.id, err)
	}
	return true, nil
}

// set gives the instance its wanted state.
func (i *Instance) set(w Want) {
	i.mu.Lock()
	same := reflect.DeepEqual(i.want, w)
	if !same && i.status.GivenUp {
		i.reviveIt, i.status.GivenUp = true, false // what has changed may help
	}
	i.want = w
	if !same && i.interrupt != nil {
		i.interrupt()
	}
	i.mu.Unlock()
	if !same {
		i.poke()
		i.tell()
	}
}

func (i *Instance) poke() {
	select {
	case i.kick <- struct{}{}:
	default:
	}
}

// update changes the status and tells everybody.
func (i *Instance) update(f func(*Status)) {
	i.mu.Lock()
	f(&i.status)
	close(i.changed)
	i.changed = make(chan struct{})
	i.mu.Unlock()
	i.tell()
}

func (i *Instance) tell() {
	i.pool.cfg.Hooks.Changed(i.id)
	i.pool.Kick()
}

// retire says whether the instance is on its way out: it stops then.
func (i *Instance) retire(on bool) {
	i.mu.Lock()
	same := i.status.Retired == on
	if !same && i.interrupt != nil {
		i.interrupt()
	}
	i.mu.Unlock()
	if same {
		return
	}
	i.update(func(s *Status) { s.Retired = on })
	i.poke()
}

// atRest says whether nothing of the instance runs and nothing is being started.
func (i *Instance) atRest() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status.GivenUp || i.status.State == process.Stopped ||
		i.status.State == process.Failed && i.status.Runner.Sidecar.PID == 0
}

func (i *Instance) revive() {
	i.mu.Lock()
	i.reviveIt = true
	i.mu.Unlock()
}

func (i *Instance) takeRevival() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := i.reviveIt
	i.reviveIt = false
	return r
}

func (i *Instance) underWay() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status.Runner.RunnerPID != 0 || i.status.Waits != "" || i.status.GivenUp || i.want.Stopped || i.status.State == process.Failed
}

// rolls says whether the instance is to be replaced and has not been told so.
func (i *Instance) rolls() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return (i.due || i.asked > i.done) && !i.let && !i.want.Stopped && !i.status.Retired && i.status.Runner.RunnerPID != 0
}

// replace lets the replacement go.
func (i *Instance) replace() {
	i.mu.Lock()
	i.let = true
	i.mu.Unlock()
	i.update(func(s *Status) { s.Replacing = true })
	i.poke()
}

// askReplace asks for a replacement and returns what waits for it.
func (i *Instance) askReplace() func(context.Context) error {
	i.mu.Lock()
	i.asked++
	mine := i.asked
	idle := i.want.Stopped || i.status.Runner.RunnerPID == 0 || i.status.GivenUp
	if idle {
		i.done = i.asked // it will start anew anyway
		i.reviveIt = true
	}
	i.mu.Unlock()
	return func(ctx context.Context) error {
		return i.Wait(ctx, func(Status) bool {
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.done >= mine || i.want.Stopped || i.status.Retired || i.status.GivenUp
		})
	}
}

// Serve implements supervisor.Child: it goes on with the instance's runner, or starts one, and drives it to what is
// wanted, until ctx ends (the instance is then stopped, unless the cause is ErrDetach) or the instance fails.
func (i *Instance) Serve(ctx context.Context) error {
	i.update(func(s *Status) { s.GivenUp = false })
	adopt := true
	for ctx.Err() == nil {
		w := i.Status()
		r, err := i.pool.cfg.Launcher.Find(ctx, w.Spec.Dir)
		switch {
		case err == nil:
			if adopt && w.Runner.RunnerPID == 0 {
				i.update(func(s *Status) { s.Adopted = true })
			}
			return i.drive(ctx, r)
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, runner.ErrGone):
			return i.fail(fmt.Errorf("find the runner of %s: %w", i.id, err))
		}
		adopt = false
		if w.Stopped || w.Retired {
			i.update(func(s *Status) {
				*s = Status{ID: i.id, State: process.Stopped, Retired: s.Retired}
			})
			select {
			case <-i.kick:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		if ok, err := i.await(ctx); err != nil {
			return i.fail(err)
		} else if !ok {
			continue
		}
		spec := i.Status().Spec
		launchCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), launchLimit)
		r, err = i.pool.cfg.Launcher.Launch(launchCtx, spec)
		cancel()
		if err != nil {
			return i.fail(fmt.Errorf("start the runner of %s: %w", i.id, err))
		}
		i.mu.Lock()
		i.done, i.due, i.let, i.ours = i.asked, false, false, false
		i.mu.Unlock()
		_ = os.Remove(filepath.Join(spec.Dir, dueFile))
		i.update(func(s *Status) { s.Replacing, s.Draining, s.Adopted = false, false, false })
		return i.drive(ctx, r)
	}
	return nil
}

// await waits for what the instance starts after; false where that was interrupted by a change.
func (i *Instance) await(ctx context.Context) (bool, error) {
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	i.mu.Lock()
	i.interrupt = cancel
	i.mu.Unlock()
	err := i.pool.cfg.Hooks.Await(waitCtx, i.id, func(what string) {
		i.update(func(s *Status) { s.Waits = what; s.State = process.Created; s.Reason = "waits for " + what })
	})
	i.mu.Lock()
	i.interrupt = nil
	i.mu.Unlock()
	i.update(func(s *Status) {
		if s.Waits != "" {
			s.Waits, s.Reason = "", ""
		}
	})
	if waitCtx.Err() != nil {
		return false, nil
	}
	return err == nil, err
}

// fail records why Serve ends.
func (i *Instance) fail(err error) error {
	i.update(func(s *Status) {
		s.State, s.Reason, s.GivenUp, s.Replacing = process.Failed, err.Error(), true, false
		var f *FailedError
		if errors.As(err, &f) {
			s.Reason, s.Cause, s.LastOutput = f.Reason, f.Cause, f.Output
		} else {
			s.Runner.PID, s.Runner.Ready = 0, false
		}
	})
	i.mu.Lock()
	i.let = false
	i.mu.Unlock()
	return err
}

// drive is the life of an instance whose runner answers.
func (i *Instance) drive(ctx context.Context, r Runner) error {
	work, done := i.work(ctx)
	defer done()
	st, err := r.State(work, 0)
	if err != nil {
		return i.lost(ctx, err, "ask the runner of %s", i.id)
	}
	for _, e := range st.Events {
		i.note(st.RunnerPID, e)
	}
	i.take(st)
	evCtx, cancel := context.WithCancel(work)
	gone := make(chan error, 1)
	go func() { gone <- i.follow(evCtx, r, st.RunnerPID, st.LastEvent) }()
	ended := false
	defer func() {
		cancel()
		if !ended {
			<-gone //nolint:errcheck // evCtx has ended: what follow says is that
		}
	}()

	first := true // the runner's spec may be another than ours
	applied := Want{}
	for {
		if ctx.Err() != nil {
			return i.end(ctx, r)
		}
		w := i.Status()
		if first || !reflect.DeepEqual(applied.Spec, w.Spec) {
			pending, err := r.Update(work, w.Spec)
			if err != nil {
				return i.lost(ctx, err, "tell the runner of %s what has changed", i.id)
			}
			applied.Spec = w.Spec
			if err := i.pend(work, r, pending); err != nil {
				i.pool.cfg.Log.Warn("replace a sidecar", "instance", i.id, "err", err)
			}
		}
		begin := first
		first = false
		if err := i.steer(ctx, work, r, begin); err != nil {
			return err
		}
		select {
		case <-i.kick:
		case err := <-gone:
			ended = true
			if ctx.Err() == nil {
				i.update(func(s *Status) { s.Runner = runner.State{} })
				return i.fail(fmt.Errorf("the runner of %s ended: %w", i.id, err))
			}
		case <-ctx.Done():
		}
	}
}

// pend deals with what a new spec changes and is not in force.
func (i *Instance) pend(ctx context.Context, r Runner, pending []runner.Who) error {
	due, sidecar := false, false
	for _, w := range pending {
		due = due || w == runner.TheProcess
		sidecar = sidecar || w == runner.TheSidecar
	}
	if !i.Status().State.Live() {
		due, sidecar = false, false // the next start takes it
	}
	// The runner tells once what is not in force; a file tells it after a restart of ours.
	marker := filepath.Join(i.Status().Spec.Dir, dueFile)
	if due {
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			i.pool.cfg.Log.Warn("remember that a process is to be replaced", "instance", i.id, "err", err)
		}
	} else if _, err := os.Stat(marker); err == nil && i.Status().State.Live() {
		due = true
	}
	i.mu.Lock()
	i.due = due
	i.mu.Unlock()
	i.pool.Kick()
	if sidecar && !due {
		return r.ReplaceSidecar(ctx)
	}
	return nil
}

// steer makes the next move towards what is wanted. begin says that we have just met this runner.
func (i *Instance) steer(ctx, work context.Context, r Runner, begin bool) error {
	w := i.Status()
	i.mu.Lock()
	ours, replace := i.ours, i.let
	i.mu.Unlock()
	state := w.Runner.State
	switch {
	case w.Stopped || w.Retired:
		i.mu.Lock()
		i.ours = true // also where an earlier control plane has stopped it
		i.mu.Unlock()
		i.settle()
		if state == process.Stopped || state == process.Failed && w.Runner.Sidecar.PID == 0 {
			return nil
		}
		if err := i.stop(work, r, runner.StopOptions{}); err != nil {
			return i.lost(ctx, err, "stop %s", i.id)
		}
	case state == process.Failed && !begin:
		return i.fail(&FailedError{Instance: i.id, Reason: w.Reason, Cause: w.Cause, Output: w.LastOutput})
	case state == process.Failed && i.pool.cfg.Kind == supervisor.Temporary && !w.GivenUp && w.Adopted:
		return i.fail(&FailedError{Instance: i.id, Reason: w.Reason, Cause: w.Cause, Output: w.LastOutput})
	case state == process.Failed, state == process.Created && begin,
		state == process.Stopped && (ours || begin && i.pool.cfg.Kind == supervisor.Permanent):
		if ok, err := i.await(ctx); err != nil || !ok {
			i.poke()
			return nil
		}
		i.mu.Lock()
		i.ours = false
		i.mu.Unlock()
		i.settle()
		if err := r.Start(work); err != nil {
			return i.lost(ctx, err, "start %s", i.id)
		}
		i.update(func(s *Status) { s.Draining = false })
		if err := i.refresh(work, r); err != nil {
			return i.lost(ctx, err, "ask the runner of %s", i.id)
		}
	case replace:
		i.withdraw(work)
		if err := r.Restart(work, runner.StopOptions{}); err != nil {
			return i.lost(ctx, err, "restart %s", i.id)
		}
		err := i.refresh(work, r)
		i.settle()
		if err != nil {
			return i.lost(ctx, err, "ask the runner of %s", i.id)
		}
	}
	return nil
}

// settle says that no replacement is owed.
func (i *Instance) settle() {
	i.mu.Lock()
	i.done, i.due, i.let = i.asked, false, false
	stopped, dir := i.want.Stopped || i.status.Retired, i.want.Spec.Dir
	i.mu.Unlock()
	_ = os.Remove(filepath.Join(dir, dueFile)) // mostly not there
	i.update(func(s *Status) {
		s.Replacing = false
		if !stopped {
			s.Draining = false
		}
	})
}

func (i *Instance) withdraw(ctx context.Context) {
	i.update(func(s *Status) { s.Draining = true })
	i.pool.cfg.Hooks.Withdraw(ctx, i.id)
}

// stop takes the instance out of the mesh and stops it; its runner stays.
func (i *Instance) stop(ctx context.Context, r Runner, o runner.StopOptions) error {
	i.mu.Lock()
	i.ours = true
	i.mu.Unlock()
	i.withdraw(ctx)
	if err := r.Stop(ctx, o); err != nil {
		return err
	}
	return i.refresh(ctx, r)
}

// end stops the instance, since its supervisor says so, or leaves it to another.
func (i *Instance) end(ctx context.Context, r Runner) error {
	if i.detached(ctx) {
		return nil
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	state := i.Status().Runner.State
	if state == process.Stopped {
		return nil
	}
	stopped := make(chan error, 1)
	go func() { stopped <- i.stop(work, r, runner.StopOptions{}) }()
	var err error
	select {
	case err = <-stopped:
	case <-supervisor.Killed(ctx):
		err = r.Stop(work, runner.StopOptions{NoDrain: true, Kill: true})
		cancel()
		<-stopped //nolint:errcheck // the kill has the say
	}
	if err != nil && !errors.Is(err, runner.ErrGone) {
		return fmt.Errorf("stop %s: %w", i.id, err)
	}
	return nil
}

// work returns the context of what is begun: it outlives ctx, so that things are brought to their end. An instance that is only
// let go does not wait for them, though: no runner, however slow, is to hold up the end of a control plane.
func (i *Instance) work(ctx context.Context) (work context.Context, done func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !i.detached(ctx) {
			return
		}
		t := time.NewTimer(letGo)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-work.Done():
		}
	})
	return work, func() { stop(); cancel() }
}

// detached says whether ctx has ended only to leave the runner as it is.
func (i *Instance) detached(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), ErrDetach) || i.pool.detached.Load()
}

// lost makes a failure of an error in speaking with the runner, unless it was let go meanwhile.
func (i *Instance) lost(ctx context.Context, err error, format string, a ...any) error {
	if ctx.Err() != nil && i.detached(ctx) {
		return nil
	}
	return i.fail(fmt.Errorf(format+": %w", append(a, err)...))
}

// follow passes the runner's events on, each followed by the state that it led to, until ctx ends or the runner does.
func (i *Instance) follow(ctx context.Context, r Runner, pid int, since uint64) error {
	return r.Events(ctx, since, func(e runner.Event) error {
		i.note(pid, e)
		if e.Kind == runner.Ending {
			return nil
		}
		return i.refresh(ctx, r)
	})
}

// refresh asks the runner how things are.
func (i *Instance) refresh(ctx context.Context, r Runner) error {
	since := i.Status().Runner.LastEvent
	st, err := r.State(ctx, since)
	if err != nil {
		return err
	}
	i.take(st)
	i.poke()
	return nil
}

// note passes an event of the runner with this pid on, once, and remembers what only an event tells.
func (i *Instance) note(pid int, e runner.Event) {
	i.mu.Lock()
	if i.seen.pid == pid && e.Number <= i.seen.last {
		i.mu.Unlock()
		return
	}
	i.seen.pid, i.seen.last = pid, e.Number
	if len(e.Output) > 0 {
		i.status.LastOutput = e.Output
	}
	if e.Cause != "" {
		i.status.Cause = e.Cause
	}
	if e.State == process.Running {
		i.status.Cause, i.status.LastOutput = "", nil
	}
	i.mu.Unlock()
	i.pool.cfg.Hooks.Event(i.id, e)
}

// take makes the runner's state ours. An older one than known is dropped: answers may overtake each other.
func (i *Instance) take(st runner.State) {
	i.update(func(s *Status) {
		if st.RunnerPID == s.Runner.RunnerPID && st.LastEvent < s.Runner.LastEvent {
			return
		}
		st.Events = nil
		s.Runner, s.State, s.Reason = st, st.State, st.Reason
	})
}

// dispose ends the runner, if there is one, and removes the instance's directory but the logs.
func (i *Instance) dispose(ctx context.Context, o runner.StopOptions) error {
	dir := i.Status().Spec.Dir
	r, err := i.pool.cfg.Launcher.Find(ctx, dir)
	if err == nil {
		if st := i.Status(); st.Runner.State != process.Stopped && !o.Kill {
			i.withdraw(ctx)
		}
		err = r.Exit(ctx, o)
	}
	if err != nil && !errors.Is(err, runner.ErrGone) {
		return fmt.Errorf("end the runner of %s: %w", i.id, err)
	}
	if err := WaitGone(ctx, i.pool.cfg.Launcher, dir); err != nil {
		return fmt.Errorf("end the runner of %s: %w", i.id, err)
	}
	i.update(func(s *Status) {
		*s = Status{ID: i.id, State: process.Stopped, Retired: s.Retired}
	})
	if err := removeDir(dir); err != nil {
		return fmt.Errorf("remove what %s left: %w", i.id, err)
	}
	return nil
}

// WaitGone returns when no runner of the instance in dir answers any more: Exit answers just before the runner ends.
func WaitGone(ctx context.Context, l Launcher, dir string) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		if _, err := l.Find(ctx, dir); err != nil {
			return ctx.Err()
		}
		select {
		case <-t.C:
		case <-limit.C:
			return errors.New("it answers still")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
