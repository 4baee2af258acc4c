// Package pool keeps the instances of one service version on one host: how many there are, which of them are to run,
// and how they are replaced by new ones one after another.
//
// Each instance drives one runner (supervisor/runner), which owns its processes and outlives this one: a pool finds the
// runners that are there already and goes on with them. What an instance is (ports, environment, sidecar) is decided by
// the caller, controlplane/host, who also knows about health and about the mesh, and says so by [Hooks].
// Restart rules are those of package supervisor; a process's own restarts are the runner's business.
//
// # Threads and locks
//
// Pool.mu and Instance.mu guard plain values and are never held together, nor while a hook, a runner or a channel is
// waited for. Every instance is driven by the goroutine that its supervisor runs, and its runner's events come on one
// more that it waits for. Nothing outlives [Pool.Serve].
package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// ErrDetach, as the cause of the context's end, makes a pool leave its runners as they are, for another to adopt.
var ErrDetach = errors.New("detached: runners go on")

// ErrNoInstance says that the pool has no instance of that id.
var ErrNoInstance = errors.New("no such instance")

// Runner is what a pool needs of a runner; *runner.Client is one.
type Runner interface {
	State(ctx context.Context, since uint64) (runner.State, error)
	Start(ctx context.Context) error
	Stop(ctx context.Context, o runner.StopOptions) error
	Restart(ctx context.Context, o runner.StopOptions) error
	Kill(ctx context.Context) error
	Update(ctx context.Context, s runner.Spec) ([]runner.Who, error)
	ReplaceSidecar(ctx context.Context) error
	UpgradeSidecar(ctx context.Context, program string) error
	Exit(ctx context.Context, o runner.StopOptions) error
	Events(ctx context.Context, since uint64, f func(runner.Event) error) error
}

// Launcher finds and starts runners.
type Launcher interface {
	// Find returns the live runner of the instance in dir. The error wraps runner.ErrGone where there is none.
	Find(ctx context.Context, dir string) (Runner, error)
	// Launch cleans up what a dead runner of the instance left behind and starts a new one, which starts the instance.
	Launch(ctx context.Context, s runner.Spec) (Runner, error)
}

// Hooks are what a pool asks and tells. All are set; they are called without a lock, and concurrently for different
// instances.
type Hooks struct {
	// Await returns nil when the instance may start: all that it comes after is there. It is called with a ctx that
	// ends when the instance is no longer to start. waits is called with what is waited for, in words.
	Await func(ctx context.Context, id string, waits func(string)) error
	// Withdraw takes the instance out of the mesh and returns when that is told to everybody, or ctx ends.
	Withdraw func(ctx context.Context, id string)
	// Healthy says whether the instance serves: nothing healthy is replaced while another is not.
	Healthy func(id string) bool
	// Changed is called after each change of the instance's Status. It must not block.
	Changed func(id string)
	// Event is called with each event of the instance's runner, in order. It must not block.
	Event func(id string, e runner.Event)
}

// Config describes a pool. Only Want changes later, by Set.
type Config struct {
	// Name is the service's, with its version.
	Name string
	// Want is what is to be there.
	Want []Want
	// Kind is when an instance that has failed for good (its runner's restarts are used up) is started again.
	Kind supervisor.Kind
	// Escalate makes one failed instance a failure of the pool, which its supervisor deals with. Otherwise each
	// instance is started anew by Retry and Backoff, and then given up, alone.
	Escalate bool
	Retry    supervisor.Intensity
	Backoff  func(n int) time.Duration
	Launcher Launcher
	Hooks    Hooks
	// Events takes what happens to the instances as children; nil for nowhere.
	Events *supervisor.EventLog
	Log    *slog.Logger
}

// Want is one instance that is to be there. How many there are is the length of the list: a fixed size now, and what a
// scaler decides later.
type Want struct {
	Spec runner.Spec
	// Stopped: a user has stopped it; it stays known.
	Stopped bool
}

// Pool is a supervisor.Child. Its methods are safe for concurrent use.
type Pool struct {
	cfg      Config
	detached atomic.Bool

	mu        sync.Mutex
	want      []Want // ordered by slot
	instances map[string]*Instance
	spawned   map[string]bool // children of the present run
	sup       *supervisor.Supervisor
	ready     chan struct{}
	wake      chan struct{} // the list, or somebody's health, has changed
}

// New makes a pool. Serve starts it.
func New(cfg Config) *Pool {
	p := &Pool{cfg: cfg, instances: map[string]*Instance{}, ready: make(chan struct{}), wake: make(chan struct{}, 1)}
	p.Set(cfg.Want)
	return p
}

// Name is the pool's name.
func (p *Pool) Name() string { return p.cfg.Name }

// Set changes what is to be there: new instances are started, changed ones replaced one by one where that is needed,
// and those no longer listed are drained and ended. It returns at once.
func (p *Pool) Set(want []Want) {
	p.mu.Lock()
	p.want = slices.Clone(want)
	var known []*Instance
	var specs []Want
	for _, w := range want {
		i := p.instances[w.Spec.Instance]
		if i == nil {
			i = newInstance(p, w)
			p.instances[w.Spec.Instance] = i
		}
		known, specs = append(known, i), append(specs, w)
	}
	p.mu.Unlock()
	for k, i := range known {
		i.set(specs[k])
		i.retire(false)
	}
	p.Kick()
}

// Kick makes the pool look again, after somebody's health has changed.
func (p *Pool) Kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Instance returns the instance with this id, or nil.
func (p *Pool) Instance(id string) *Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.instances[id]
}

// Instances returns all instances in the order of their slots; those that are being removed come last.
func (p *Pool) Instances() []*Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*Instance
	for _, w := range p.want {
		out = append(out, p.instances[w.Spec.Instance])
	}
	var rest []*Instance
	for _, i := range p.instances {
		if !slices.Contains(out, i) {
			rest = append(rest, i)
		}
	}
	slices.SortFunc(rest, func(a, b *Instance) int { return cmp.Compare(a.id, b.id) })
	return append(out, rest...)
}

// Ready implements supervisor.Readier: the starts of all instances are under way, or wait for something.
func (p *Pool) Ready() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil {
		p.ready = make(chan struct{})
	}
	return p.ready
}

// Detach makes every end of Serve, while it is on, leave the runners as they are: for a pool that is moved to another place
// in the tree.
func (p *Pool) Detach(on bool) { p.detached.Store(on) }

// GivenUp says whether the instance has failed and nobody will start it again by itself. In a pool that escalates it is for
// who is above to say that.
func (p *Pool) GivenUp(id string) bool {
	p.mu.Lock()
	sup, i := p.sup, p.instances[id]
	p.mu.Unlock()
	if sup == nil || i == nil || !i.Status().GivenUp || p.cfg.Escalate && p.cfg.Kind != supervisor.Temporary {
		return false
	}
	n := sup.Inspect()
	if n.State == supervisor.StateFailed {
		return true
	}
	for _, c := range n.Children {
		if c.Name == id {
			return c.State == supervisor.StateFailed
		}
	}
	return true // a temporary one, forgotten
}

// Inspect implements supervisor.Inspector.
func (p *Pool) Inspect() supervisor.Node {
	p.mu.Lock()
	sup := p.sup
	p.mu.Unlock()
	if sup == nil {
		return supervisor.Node{Name: p.cfg.Name, State: supervisor.StateStopped}
	}
	return sup.Inspect()
}

// Serve keeps the instances. When ctx ends it stops all at once and leaves their runners waiting with their sockets; with the
// cause ErrDetach it leaves everything as it is. It returns an error when the pool escalates.
func (p *Pool) Serve(ctx context.Context) error {
	own := &p.cfg.Retry
	if p.cfg.Escalate {
		own = nil
	}
	// All instances are alike and end at once: simple-one-for-one is OTP's strategy for that. Escalating, it bears none.
	sup, err := supervisor.New(supervisor.Config{
		Name: p.cfg.Name, Strategy: supervisor.SimpleOneForOne, Events: p.cfg.Events,
		Template: supervisor.Spec{Kind: p.cfg.Kind, Own: own, Backoff: p.cfg.Backoff},
		Spawn: func(name string, _ any) (supervisor.Child, error) {
			if i := p.Instance(name); i != nil {
				return i, nil
			}
			return nil, fmt.Errorf("%s: %w", name, ErrNoInstance)
		},
	})
	if err != nil {
		return fmt.Errorf("keep the pool %s: %w", p.cfg.Name, err)
	}
	p.mu.Lock()
	p.sup, p.spawned = sup, map[string]bool{}
	p.mu.Unlock()

	// The supervisor's context keeps the values of ours (the kill among them); its end is ours to give.
	supCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	up := sup.Ready()
	ended := make(chan error, 1)
	go func() { ended <- sup.Serve(supCtx) }()
	<-up
	first := true
	for {
		p.sync(supCtx, sup)
		p.revived(supCtx, sup)
		p.roll()
		if first && p.underWay() {
			first = false
			p.mu.Lock()
			if p.ready != nil {
				close(p.ready)
				p.ready = nil
			}
			p.mu.Unlock()
		}
		select {
		case <-p.wake:
		case err := <-ended:
			return err
		case <-ctx.Done():
			cancel(context.Cause(ctx))
			return <-ended
		}
	}
}

// sync starts instances that are wanted and unknown to the supervisor, and ends those no longer wanted. Those stop by
// themselves first, beside all else: only what has stopped is taken out of the supervisor, so that neither it nor the pool
// ever waits for a drain.
func (p *Pool) sync(ctx context.Context, sup *supervisor.Supervisor) {
	p.mu.Lock()
	wanted := map[string]bool{}
	var spawn, remove []string
	for _, w := range p.want {
		wanted[w.Spec.Instance] = true
		if !p.spawned[w.Spec.Instance] {
			spawn = append(spawn, w.Spec.Instance)
			p.spawned[w.Spec.Instance] = true
		}
	}
	for id := range p.instances {
		if !wanted[id] {
			remove = append(remove, id)
		}
	}
	p.mu.Unlock()
	for _, id := range spawn {
		if err := sup.Spawn(ctx, id, nil); err != nil && !errors.Is(err, supervisor.ErrDuplicate) {
			p.cfg.Log.Warn("start an instance", "instance", id, "err", err)
		}
	}
	slices.Sort(remove)
	for _, id := range remove {
		p.mu.Lock()
		i, spawned := p.instances[id], p.spawned[id]
		p.mu.Unlock()
		i.retire(true)
		if spawned && !i.atRest() {
			continue // its stop makes us look again
		}
		if err := sup.Remove(ctx, id); err != nil && !errors.Is(err, supervisor.ErrNotFound) {
			continue // it no longer serves: the next Serve removes it
		}
		if err := i.dispose(ctx, runner.StopOptions{}); err != nil {
			p.cfg.Log.Warn("end an instance", "instance", id, "err", err)
		}
		p.mu.Lock()
		delete(p.instances, id)
		delete(p.spawned, id)
		for _, w := range p.want { // it came to be wanted again meanwhile
			if w.Spec.Instance == id {
				p.instances[id] = newInstance(p, w)
				p.Kick()
			}
		}
		p.mu.Unlock()
		p.cfg.Hooks.Changed(id)
	}
}

// underWay says whether every instance's start is.
func (p *Pool) underWay() bool {
	for _, i := range p.Instances() {
		if !i.underWay() {
			return false
		}
	}
	return true
}

// roll lets the next instance be replaced. One that does not serve has nothing to lose and goes at once; one that
// does goes only while all others serve.
func (p *Pool) roll() {
	all := p.Instances()
	busy := false
	serving := map[*Instance]bool{}
	for _, i := range all {
		st := i.Status()
		if st.Stopped || st.Retired {
			continue
		}
		serving[i] = p.cfg.Hooks.Healthy(i.id) && !st.Draining && !st.Replacing
		busy = busy || st.Replacing
	}
	for _, i := range all {
		if i.rolls() && !serving[i] {
			i.replace()
			busy = true
		}
	}
	if busy {
		return
	}
	for _, i := range all {
		if !i.rolls() {
			continue
		}
		for other, ok := range serving {
			if other != i && !ok {
				return
			}
		}
		i.replace()
		return
	}
}

// Revive starts instances anew that were given up or wait to be started again, or all such where the ids are none. It
// does nothing to those that run, and returns at once.
func (p *Pool) Revive(ids ...string) {
	for _, i := range p.Instances() {
		if len(ids) == 0 || slices.Contains(ids, i.id) {
			i.revive()
		}
	}
	p.Kick()
}

// revived starts the children that Revive, or a new spec, has asked for.
func (p *Pool) revived(ctx context.Context, sup *supervisor.Supervisor) {
	var asked []string
	for _, i := range p.Instances() {
		if i.takeRevival() {
			asked = append(asked, i.id)
		}
	}
	if len(asked) == 0 {
		return
	}
	known := map[string]bool{}
	for _, c := range sup.Inspect().Children {
		known[c.Name] = true
	}
	for _, id := range asked {
		var err error
		if known[id] {
			err = sup.Start(ctx, id)
		} else { // a temporary one that has ended is not known any more
			err = sup.Spawn(ctx, id, nil)
		}
		if err != nil && !errors.Is(err, supervisor.ErrRunning) {
			p.cfg.Log.Warn("start an instance again", "instance", id, "err", err)
		}
	}
}

// Restart replaces the instances with these ids (all where there are none), one by one, and returns when that is done.
func (p *Pool) Restart(ctx context.Context, ids ...string) error {
	var waits []func(context.Context) error
	for _, i := range p.Instances() {
		if len(ids) == 0 || slices.Contains(ids, i.id) {
			waits = append(waits, i.askReplace())
		}
	}
	p.Kick()
	for _, w := range waits {
		if err := w(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Dispose ends the runners of all instances, at once, and removes their directories but the logs. The pool must not
// serve, or all of it be stopped.
func (p *Pool) Dispose(ctx context.Context, o runner.StopOptions) error {
	all := p.Instances()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for k, i := range all {
		wg.Go(func() { errs[k] = i.dispose(ctx, o) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Hurry makes the stops and ends of instances that are under way, also by Dispose, kill instead of wait. It returns when that is told.
func (p *Pool) Hurry(ctx context.Context) {
	var wg sync.WaitGroup
	for _, i := range p.Instances() {
		wg.Go(func() {
			r, err := p.cfg.Launcher.Find(ctx, i.Status().Spec.Dir)
			if err == nil {
				err = r.Exit(ctx, runner.StopOptions{NoDrain: true, Kill: true})
			}
			if err != nil && !errors.Is(err, runner.ErrGone) && ctx.Err() == nil {
				p.cfg.Log.Warn("hurry the end of an instance", "instance", i.id, "err", err)
			}
		})
	}
	wg.Wait()
}

// Status is an instance as it is at one moment.
type Status struct {
	ID string
	// Spec is the wanted one, which may not be in force yet.
	Spec runner.Spec
	// Stopped: a user has stopped it.
	Stopped bool
	// Adopted: its runner was found, not started.
	Adopted bool
	// Runner is what its runner said last; the zero State before it said anything.
	Runner runner.State
	// State is its state as users see it.
	State process.State
	// Reason says why it does not run, "" where it does.
	Reason string
	// LastOutput are the last lines of output of a process that failed.
	LastOutput []string
	// Cause tells apart why it failed.
	Cause runner.Cause
	// Waits is what its start waits for, in words.
	Waits string
	// Draining: it was withdrawn from the mesh, to be stopped or replaced.
	Draining bool
	// Replacing: it is being replaced.
	Replacing bool
	// Retired: it is being removed.
	Retired bool
	// GivenUp: it failed for good.
	GivenUp bool
}

// removeDir removes all that an instance has on disk but its logs.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != runner.LogDir {
			errs = append(errs, os.RemoveAll(dir+"/"+e.Name()))
		}
	}
	return errors.Join(errs...)
}

// SetStopped says of the instances with these ids that they are stopped, or to run.
func (p *Pool) SetStopped(stopped bool, ids ...string) {
	p.mu.Lock()
	want := slices.Clone(p.want)
	p.mu.Unlock()
	for k := range want {
		if slices.Contains(ids, want[k].Spec.Instance) {
			want[k].Stopped = stopped
		}
	}
	p.Set(want)
}
