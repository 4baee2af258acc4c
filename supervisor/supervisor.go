// Package supervisor keeps children running by the rules of Erlang/OTP: restart strategies, restart kinds,
// intensity, ordered starts and stops, and escalation.
//
// A child is anything that serves until it is told to end; a [Supervisor] is one itself, so trees may have any
// depth. What a child does is no business of this package: processes are in supervisor/process and
// supervisor/runner, the instances of a service in supervisor/pool. The rules are those of OTP's supervisor
// (https://www.erlang.org/doc/system/sup_princ.html) but for what a goroutine cannot do, and where the comment of
// the thing says otherwise.
//
// # Threads and locks
//
// All decisions of a supervisor are made by the goroutine that runs its Serve, so they need no lock. Supervisor.mu
// guards only what others read (the list of children and their state); it is never held while a child, a caller's
// function, a channel or another lock is waited for. The event log has a lock of its own, taken last. So there is
// one order: mu, then the log's; and two supervisors' locks are never held together. No goroutine outlives Serve.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// Child is what a supervisor keeps running.
type Child interface {
	// Serve blocks until ctx ends or it is done. Once ctx has ended it returns soon; what it returns then is not
	// a failure. Otherwise nil is a normal end, and an error, a panic or runtime.Goexit a failure.
	Serve(ctx context.Context) error
}

// Readier is a child that takes a while to be of use: the next child is not started before it is ready.
type Readier interface {
	// Ready is called once before each Serve and returns a channel that is closed when that run is ready.
	Ready() <-chan struct{}
}

// Inspector is a child that can tell its own part of the tree. Inspect is called without any lock held.
type Inspector interface{ Inspect() Node }

// Func makes a Child of a function.
type Func func(ctx context.Context) error

// Serve calls f.
func (f Func) Serve(ctx context.Context) error { return f(ctx) }

// Strategy says which children are restarted when one fails.
type Strategy uint8

// Strategies.
const (
	// OneForOne restarts the failed child alone.
	OneForOne Strategy = iota
	// OneForAll stops and restarts all children.
	OneForAll
	// RestForOne stops and restarts the failed child and those started after it.
	RestForOne
	// SimpleOneForOne is OneForOne for children that are all made from one template, by Spawn. It begins empty,
	// and stops its children all at once.
	SimpleOneForOne
)

func (s Strategy) String() string {
	return [...]string{"one-for-one", "one-for-all", "rest-for-one", "simple-one-for-one"}[s]
}

// ParseStrategy reads what String writes.
func ParseStrategy(s string) (Strategy, error) {
	for st := OneForOne; st <= SimpleOneForOne; st++ {
		if st.String() == s {
			return st, nil
		}
	}
	return 0, fmt.Errorf("strategy %q is none of one-for-one, one-for-all, rest-for-one, simple-one-for-one", s)
}

// Kind says after which ends a child is restarted.
type Kind uint8

// Restart kinds.
const (
	Permanent Kind = iota // after every end
	Transient             // after a failure only
	Temporary             // never, not even when its group is; it is forgotten when it ends
)

func (k Kind) String() string { return [...]string{"permanent", "transient", "temporary"}[k] }

// Intensity is how many restarts are borne within a sliding window: one more, and the supervisor fails. The zero
// value bears none.
type Intensity struct {
	Restarts int
	Within   time.Duration
}

// DefaultIntensity is what the design promises where nothing is written: 3 in 60 s.
var DefaultIntensity = Intensity{Restarts: 3, Within: time.Minute}

// Shutdown says how long a child may take to return once its context has ended. A goroutine cannot be killed: what
// stands for the kill is the channel of [Killed], which the child must heed; the supervisor waits for it to return
// all the same.
type Shutdown time.Duration

// Special values of Shutdown; positive ones are durations.
const (
	// Infinity waits as long as it takes. It is the default, as OTP's is for supervisors.
	Infinity Shutdown = 0
	// BrutalKill kills at once.
	BrutalKill Shutdown = -1
)

// Spec describes a child.
type Spec struct {
	// Name is unique among the children of a supervisor.
	Name string
	// Child is what runs. New, if set, is used instead and makes a fresh one for each start.
	Child Child
	New   func() Child
	// Kind is Permanent by default.
	Kind Kind
	// Critical: when this child fails, the supervisor fails at once, whatever its intensity; also at the start.
	// A child that is not critical and fails to start is tried again as if it had failed later (in OTP every child
	// is critical while the supervisor starts).
	Critical bool
	// StartTimeout bounds the wait for a Readier; 0 waits for ever. A child that is late is stopped and has failed.
	StartTimeout time.Duration
	// Shutdown bounds the stop.
	Shutdown Shutdown
	// Backoff returns the wait before the n-th restart in a row, n from 1; nil restarts at once, as OTP does. A
	// run that lasted longer than the window of the intensity ends the row.
	Backoff func(n int) time.Duration
	// Own, if set, counts this child's restarts apart from the supervisor's: when they are used up the child is
	// given up (state Failed) and the supervisor goes on. OTP needs a supervisor of its own for that, and one more
	// to bear its end.
	Own *Intensity
}

// Config describes a supervisor.
type Config struct {
	// Name appears in events and in the tree.
	Name      string
	Strategy  Strategy
	Intensity Intensity
	// Children are started in this order, and stopped in the reverse one.
	Children []Spec
	// Template makes the children of a SimpleOneForOne; Name, Child and New of it are not used.
	Template Spec
	// Spawn makes the child of one Spawn call, from its argument; SimpleOneForOne only.
	Spawn func(name string, arg any) (Child, error)
	// Events, if set, is where events go; several supervisors may share one log, so that all is in one order.
	Events *EventLog
}

// Errors of the methods that change children.
var (
	ErrNotFound  = errors.New("no such child")
	ErrDuplicate = errors.New("there is a child of that name")
	ErrRunning   = errors.New("the child is running")
	ErrStrategy  = errors.New("the strategy has no such operation")
)

// PanicError is the failure of a child that panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// ErrGoexit is the failure of a child that ended its goroutine without returning.
var ErrGoexit = errors.New("the child called runtime.Goexit")

// ErrStartTimeout is the failure of a child that was not ready in time.
var ErrStartTimeout = errors.New("not ready in time")

// ErrEndedEarly is the failure of a permanent child that returned nil before it was ready.
var ErrEndedEarly = errors.New("ended before it was ready")

// ErrEnded is the failure of a permanent child that returned nil.
var ErrEnded = errors.New("ended though it is permanent")

// FailedError is what a supervisor returns when it gives up: one failure for its parent, whatever happened below.
type FailedError struct {
	// Supervisor and Child are the names of who failed and because of whom.
	Supervisor, Child string
	// Critical says that the child was critical; else the intensity was exceeded.
	Critical  bool
	Intensity Intensity
	// Cause is the child's last failure.
	Cause error
}

func (e *FailedError) Error() string {
	if e.Critical {
		return fmt.Sprintf("supervisor %s: critical child %s failed: %v", e.Supervisor, e.Child, e.Cause)
	}
	return fmt.Sprintf("supervisor %s: more than %d restarts within %s, the last of %s: %v",
		e.Supervisor, e.Intensity.Restarts, e.Intensity.Within, e.Child, e.Cause)
}

func (e *FailedError) Unwrap() error { return e.Cause }

type killKey struct{}

// Killed returns the channel that is closed when the child with this context is to end without any delay, because
// its shutdown time is over or it is killed brutally. It is nil outside a supervisor, and blocks then.
func Killed(ctx context.Context) <-chan struct{} {
	ch, _ := ctx.Value(killKey{}).(chan struct{})
	return ch
}

// run is one run of a child.
type run struct {
	name   string
	cancel context.CancelCauseFunc
	kill   chan struct{}
	killed bool // kill is closed; the supervisor's goroutine only
	ready  <-chan struct{}
	done   chan struct{} // closed when Serve has returned; err is valid then
	err    error
	began  time.Time
}

// launch starts a run of c, which exited is told of when it ends. The context keeps the parent's values but not its
// end: the order in which children end is the supervisor's to keep.
func launch(parent context.Context, name string, c Child, exited func(*run)) *run {
	r := &run{name: name, kill: make(chan struct{}), done: make(chan struct{}), began: time.Now()}
	ctx, cancel := context.WithCancelCause(context.WithValue(context.WithoutCancel(parent), killKey{}, r.kill))
	r.cancel = cancel
	if rd, ok := c.(Readier); ok {
		r.ready = rd.Ready()
	}
	go func() {
		returned := false
		defer func() {
			if v := recover(); v != nil {
				r.err = &PanicError{Value: v, Stack: debug.Stack()}
			} else if !returned {
				r.err = ErrGoexit
			}
			cancel(nil)
			exited(r)
			close(r.done)
		}()
		r.err = c.Serve(ctx)
		returned = true
	}()
	return r
}

// stopKill ends the run's patience.
func (r *run) stopKill() {
	if !r.killed {
		r.killed = true
		close(r.kill)
	}
}
