package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Supervisor keeps children running. Its methods are safe for concurrent use. It may be served again after it has
// failed, as its parent does: it then starts all of its children anew, those too that were added later (in OTP they
// are forgotten), but a SimpleOneForOne begins empty again.
type Supervisor struct {
	cfg Config

	mu        sync.Mutex
	state     State
	since     time.Time
	lastErr   error
	children  []*child
	recent    []time.Time // restarts within the window
	exits     []*run      // ended and not looked at yet
	cmds      chan command
	wake      chan struct{} // exits has something
	served    chan struct{} // closed when the present Serve has ended; nil while none is in progress
	readyOnce chan struct{} // of the present or coming run
}

type child struct {
	spec     Spec
	arg      any // of a SimpleOneForOne
	state    State
	since    time.Time
	restarts int
	row      int // restarts in a row
	own      []time.Time
	lastErr  error
	due      time.Time // of the restart, in StateRestarting
	run      *run
	child    Child
}

type command struct {
	do    func(ctx context.Context) error
	reply chan error
}

// New makes a supervisor. It refuses a configuration that names a child twice or not at all, or gives it nothing to
// run. It starts nothing: Serve does.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Intensity.Within == 0 {
		cfg.Intensity.Within = DefaultIntensity.Within
	}
	s := &Supervisor{cfg: cfg, state: StateIdle, cmds: make(chan command), wake: make(chan struct{}, 1), readyOnce: make(chan struct{})}
	var errs []error
	if cfg.Strategy == SimpleOneForOne {
		if cfg.Spawn == nil {
			errs = append(errs, errors.New("a simple-one-for-one supervisor needs Spawn"))
		}
		if len(cfg.Children) > 0 {
			errs = append(errs, errors.New("a simple-one-for-one supervisor begins without children"))
		}
	}
	for _, spec := range cfg.Children {
		if err := s.check(spec); err != nil {
			errs = append(errs, err)
			continue
		}
		s.children = append(s.children, &child{spec: spec, state: StateIdle})
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("supervisor %s: %w", cfg.Name, errors.Join(errs...))
	}
	return s, nil
}

func (s *Supervisor) check(spec Spec) error {
	switch {
	case spec.Name == "":
		return errors.New("a child without a name")
	case spec.Child == nil && spec.New == nil:
		return fmt.Errorf("child %s: nothing to run", spec.Name)
	case s.index(spec.Name) >= 0:
		return fmt.Errorf("child %s: %w", spec.Name, ErrDuplicate)
	}
	return nil
}

// index finds a child by name; the caller holds mu or is the only one to change the list.
func (s *Supervisor) index(name string) int {
	return slices.IndexFunc(s.children, func(c *child) bool { return c.spec.Name == name })
}

// Ready implements Readier: the supervisor is ready once all of its children have been started.
func (s *Supervisor) Ready() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readyOnce
}

// Serve starts the children and keeps them running until ctx ends, when it stops them in reverse order and returns
// nil, or until the intensity is exceeded or a critical child fails, when it stops them likewise and returns a
// *FailedError. At most one Serve runs at a time.
func (s *Supervisor) Serve(ctx context.Context) error {
	s.mu.Lock()
	if s.served != nil {
		s.mu.Unlock()
		return fmt.Errorf("supervisor %s: served twice at a time", s.cfg.Name)
	}
	served := make(chan struct{})
	s.served, s.recent, s.exits = served, nil, nil
	s.lastErr = nil
	if s.cfg.Strategy == SimpleOneForOne {
		s.children = nil
	}
	for _, c := range s.children {
		*c = child{spec: c.spec, state: StateIdle}
	}
	s.setState(StateStarting)
	s.mu.Unlock()

	err := s.serve(ctx)
	s.stopChildren(ctx, s.all())

	s.mu.Lock()
	for _, c := range s.children {
		if c.state != StateFailed {
			c.take(StateStopped)
		}
	}
	if err != nil {
		s.lastErr = err
		s.setState(StateFailed)
	} else {
		s.setState(StateStopped)
	}
	s.served = nil
	s.readyOnce = make(chan struct{})
	s.mu.Unlock()
	if err != nil {
		s.emit(Event{Kind: Failed, Err: err})
	} else {
		s.emit(Event{Kind: Stopped})
	}
	close(served)
	return err
}

// serve is the life between the first start and the last stop. It returns nil when ctx has ended.
func (s *Supervisor) serve(ctx context.Context) error {
	for _, c := range s.all() {
		if c.state != StateIdle {
			continue // a command was quicker
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := s.start(ctx, c); err != nil && ctx.Err() == nil {
			if err := s.failed(ctx, c, err); err != nil {
				return err
			}
			// The child waits for its restart, and those behind it for the child.
			if err := s.settle(ctx, c); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	s.mu.Lock()
	s.setState(StateRunning)
	close(s.readyOnce)
	s.mu.Unlock()
	s.emit(Event{Kind: Started})
	for {
		if err := s.step(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// settle lives on until c no longer waits for a restart.
func (s *Supervisor) settle(ctx context.Context, c *child) error {
	for c.state == StateRestarting && ctx.Err() == nil {
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step waits for one thing to happen and deals with it.
func (s *Supervisor) step(ctx context.Context) error {
	if r := s.nextExit(); r != nil {
		return s.exited(ctx, r)
	}
	var timer <-chan time.Time
	if due, ok := s.nextDue(); ok {
		wait := time.Until(due)
		if wait <= 0 {
			return s.restartDue(ctx)
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-timer:
	case c := <-s.cmds:
		c.reply <- c.do(ctx)
	}
	return nil
}

// nextExit takes the oldest end that was not ordered.
func (s *Supervisor) nextExit() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.exits) > 0 {
		r := s.exits[0]
		s.exits = s.exits[1:]
		if i := s.index(r.name); i >= 0 && s.children[i].run == r {
			return r
		}
	}
	return nil
}

func (s *Supervisor) nextDue() (due time.Time, ok bool) {
	for _, c := range s.children {
		if c.state == StateRestarting && (!ok || c.due.Before(due)) {
			due, ok = c.due, true
		}
	}
	return due, ok
}

// exited deals with the end of a child that nobody ordered.
func (s *Supervisor) exited(ctx context.Context, r *run) error {
	<-r.done
	c := s.children[s.index(r.name)]
	s.set(func() { c.run = nil })
	err := r.err
	if err == nil && c.spec.Kind == Permanent {
		err = ErrEnded
	}
	if err == nil {
		s.set(func() { c.take(StateStopped) })
		s.emit(Event{Kind: ChildEnded, Child: c.spec.Name})
		if c.spec.Kind == Temporary || s.cfg.Strategy == SimpleOneForOne {
			s.forget(c)
		}
		return nil
	}
	if time.Since(r.began) > c.window(s.cfg.Intensity) {
		c.row = 0
	}
	return s.failed(ctx, c, err)
}

// failed applies the strategy to a failure of c, which does not run any more. The error is the supervisor's own.
func (s *Supervisor) failed(ctx context.Context, c *child, cause error) error {
	// One that is to be restarted is never seen as failed, not for a moment: who looks would take it for given up.
	final := c.spec.Critical || c.spec.Kind == Temporary
	recent, borne := 0, false
	if !final {
		recent, borne = s.count(c)
	}
	s.set(func() {
		c.lastErr = cause
		if borne {
			c.take(StateRestarting)
		} else {
			c.take(StateFailed)
		}
	})
	s.emit(Event{Kind: ChildFailed, Child: c.spec.Name, Err: cause})
	switch {
	case c.spec.Critical:
		return &FailedError{Supervisor: s.cfg.Name, Child: c.spec.Name, Critical: true, Intensity: s.cfg.Intensity, Cause: cause}
	case final:
		s.forget(c)
		return nil
	case !borne && c.spec.Own != nil:
		s.emit(Event{Kind: ChildGivenUp, Child: c.spec.Name, Err: cause, Restarts: recent})
		return nil
	case !borne:
		return &FailedError{Supervisor: s.cfg.Name, Child: c.spec.Name, Intensity: s.cfg.Intensity, Cause: cause}
	}
	group := []*child{c}
	switch s.cfg.Strategy {
	case OneForAll:
		group = s.all()
	case RestForOne:
		group = s.all()[s.index(c.spec.Name):]
	}
	s.stopChildren(ctx, group)
	c.row++
	var delay time.Duration
	if c.spec.Backoff != nil {
		delay = c.spec.Backoff(c.row)
	}
	due := time.Now().Add(delay)
	for _, m := range group {
		if m.state == StateIdle {
			continue // the first start has not come to it yet
		}
		if m.spec.Kind == Temporary {
			s.forget(m)
			continue
		}
		s.set(func() {
			if m.state == StateRestarting && m.due.After(due) {
				due = m.due // a group starts together, so as late as its latest
			}
			m.take(StateRestarting)
		})
	}
	for _, m := range group {
		m.due = due
	}
	s.emit(Event{Kind: ChildRestarting, Child: c.spec.Name, Err: cause, Delay: delay, Restarts: recent})
	return nil
}

// count enters a restart of c and says how many are in the window, and whether that is borne.
func (s *Supervisor) count(c *child) (recent int, borne bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.restarts++
	window, in := &s.recent, s.cfg.Intensity
	if c.spec.Own != nil {
		window, in = &c.own, *c.spec.Own
	}
	now := time.Now()
	// As in OTP, a restart exactly Within old still counts.
	*window = append(slices.DeleteFunc(*window, func(t time.Time) bool { return now.Sub(t) > in.Within }), now)
	if len(*window) > in.Restarts {
		c.restarts--
		return len(*window), false
	}
	return len(*window), true
}

func (c *child) window(in Intensity) time.Duration {
	if c.spec.Own != nil {
		return c.spec.Own.Within
	}
	return in.Within
}

// restartDue starts, in order, all children whose restart is due.
func (s *Supervisor) restartDue(ctx context.Context) error {
	now := time.Now()
	for _, c := range s.all() {
		if c.state != StateRestarting || c.due.After(now) {
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := s.start(ctx, c); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// Those behind it in its group are due still, and wait for the next step, or for it.
			return s.failed(ctx, c, err)
		}
	}
	return nil
}

// start starts c and waits until it is ready. On an error c does not run. It may have ended already without
// error, as transient and temporary children may.
func (s *Supervisor) start(ctx context.Context, c *child) error {
	if s.index(c.spec.Name) < 0 || s.children[s.index(c.spec.Name)] != c {
		return nil // forgotten meanwhile
	}
	s.emit(Event{Kind: ChildStarting, Child: c.spec.Name})
	impl, err := s.make(c)
	if err != nil {
		return err
	}
	r := launch(ctx, c.spec.Name, impl, func(r *run) {
		s.mu.Lock()
		s.exits = append(s.exits, r)
		s.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
	})
	s.set(func() { c.child, c.run = impl, r; c.take(StateStarting) })
	if r.ready != nil {
		var late <-chan time.Time
		if c.spec.StartTimeout > 0 {
			t := time.NewTimer(c.spec.StartTimeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-r.ready:
		case <-r.done:
			select {
			case <-r.ready: // ready, and ended since: step deals with that
			default:
				s.set(func() { c.run = nil })
				switch {
				case r.err != nil:
					return r.err
				case c.spec.Kind == Permanent:
					return ErrEndedEarly
				}
				s.set(func() { c.take(StateStopped) })
				s.emit(Event{Kind: ChildEnded, Child: c.spec.Name})
				if c.spec.Kind == Temporary || s.cfg.Strategy == SimpleOneForOne {
					s.forget(c)
				}
				return nil
			}
		case <-late:
			s.stopChildren(ctx, []*child{c})
			return fmt.Errorf("%w (%s)", ErrStartTimeout, c.spec.StartTimeout)
		case <-ctx.Done():
			return ctx.Err() // the last stop takes it
		}
	}
	s.set(func() { c.take(StateRunning) })
	s.emit(Event{Kind: ChildRunning, Child: c.spec.Name})
	return nil
}

// make returns what is to run, guarding against a panic of the caller's function.
func (s *Supervisor) make(c *child) (impl Child, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v}
		}
	}()
	switch {
	case s.cfg.Strategy == SimpleOneForOne:
		return s.cfg.Spawn(c.spec.Name, c.arg)
	case c.spec.New != nil:
		impl = c.spec.New()
		if impl == nil {
			return nil, fmt.Errorf("child %s: nothing to run", c.spec.Name)
		}
		return impl, nil
	}
	return c.spec.Child, nil
}

// stopChildren stops those of the group that run, in reverse order (all at once for a SimpleOneForOne), and returns
// when they have ended.
func (s *Supervisor) stopChildren(ctx context.Context, group []*child) {
	group = slices.Clone(group)
	slices.Reverse(group)
	if s.cfg.Strategy == SimpleOneForOne {
		for _, c := range group {
			s.tell(ctx, c)
		}
	}
	for _, c := range group {
		if c.run == nil {
			continue
		}
		if c.state != StateStopping {
			s.tell(ctx, c)
		}
		s.await(ctx, c)
	}
}

// tell orders c to end.
func (s *Supervisor) tell(ctx context.Context, c *child) {
	if c.run == nil {
		return
	}
	s.set(func() { c.take(StateStopping) })
	s.emit(Event{Kind: ChildStopping, Child: c.spec.Name})
	c.run.cancel(cmp.Or(context.Cause(ctx), context.Canceled))
	if c.spec.Shutdown == BrutalKill {
		c.run.stopKill()
	}
}

// await returns when c, which was told to end, has ended.
func (s *Supervisor) await(ctx context.Context, c *child) {
	r := c.run
	var late <-chan time.Time
	if c.spec.Shutdown > 0 {
		t := time.NewTimer(time.Duration(c.spec.Shutdown) - time.Since(c.since))
		defer t.Stop()
		late = t.C
	}
	killed := Killed(ctx)
wait:
	for {
		select {
		case <-r.done:
			break wait
		case <-late:
			s.emit(Event{Kind: ChildKilled, Child: c.spec.Name})
			r.stopKill()
			late = nil
		case <-killed:
			r.stopKill()
			killed = nil
		}
	}
	s.set(func() { c.run = nil; c.take(StateStopped) })
	s.emit(Event{Kind: ChildStopped, Child: c.spec.Name})
}

// forget drops a child that does not run.
func (s *Supervisor) forget(c *child) {
	s.mu.Lock()
	s.children = slices.DeleteFunc(slices.Clone(s.children), func(x *child) bool { return x == c })
	s.mu.Unlock()
	s.emit(Event{Kind: ChildRemoved, Child: c.spec.Name})
}

// all is the list of children; only Serve's goroutine changes it while one runs.
func (s *Supervisor) all() []*child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.children)
}

// set changes what Inspect reads.
func (s *Supervisor) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (c *child) take(st State) { c.state, c.since = st, time.Now() }

func (s *Supervisor) setState(st State) { s.state, s.since = st, time.Now() }

func (s *Supervisor) emit(e Event) {
	if s.cfg.Events != nil {
		e.Supervisor = s.cfg.Name
		s.cfg.Events.Append(e)
	}
}
