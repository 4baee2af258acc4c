package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/supervisor/logfile"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

const (
	keptEvents  = 256
	keptExits   = 20
	dropsEvery  = time.Minute // between two events that tell of dropped output
	keptOutput  = 20          // lines
	keptOutputs = 8           // events that keep their output
)

// Options are what [Run] needs besides the spec.
type Options struct {
	Log *slog.Logger
	// Ready is called once, when the control socket answers and all listening sockets are open, before anything is started.
	Ready func()
	// Stop asks the runner to exit when it is closed or sent to; a second value cuts the drain short and kills.
	Stop <-chan os.Signal
}

// Run is a runner: it returns when it was told to exit, or when it could not begin. The calling process must
// not wait for children by other means.
func Run(spec Spec, o Options) error {
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("run %s: %w", spec.Instance, err)
	}
	r := &runner{
		log: o.Log, began: time.Now(), spec: spec.Complete(), changed: make(chan struct{}), force: make(chan struct{}),
		op: make(chan struct{}, 1), exit: make(chan struct{}), state: process.Created, stateAt: time.Now(), lastNumber: 0,
	}
	if err := os.MkdirAll(filepath.Join(spec.Dir, LogDir), 0o700); err != nil {
		return fmt.Errorf("run %s: %w", spec.Instance, err)
	}
	l, err := unixsock.Listen(filepath.Join(spec.Dir, SocketFile))
	if err != nil {
		return fmt.Errorf("run %s: %w", spec.Instance, err)
	}
	defer func() { _ = l.Close() }()
	// Who holds the socket is the only runner here: whatever an earlier one left may go, and its ports with it.
	if n, err := Sweep(spec.Dir); err != nil {
		return fmt.Errorf("run %s: clean up behind an earlier runner: %w", spec.Instance, err)
	} else if n > 0 {
		r.log.Warn("killed what an earlier runner left", "processes", n)
	}
	defer r.sockets.close()
	for _, s := range r.spec.Listen {
		if _, err := r.sockets.open(s, true); err != nil {
			return fmt.Errorf("run %s: %w", spec.Instance, err)
		}
	}
	if r.reaper, err = process.NewReaper(); err != nil {
		return fmt.Errorf("run %s: %w", spec.Instance, err)
	}
	defer r.reaper.Close()
	logs := logfile.Options{MaxBytes: r.spec.Log.MaxBytes, Files: r.spec.Log.Files}
	r.out = logfile.New(filepath.Join(spec.Dir, LogDir, OutLog), logs)
	defer func() { _ = r.out.Close() }()
	r.sideOut = logfile.New(filepath.Join(spec.Dir, LogDir, SidecarLog), logs)
	defer func() { _ = r.sideOut.Close() }()
	r.record()
	defer os.Remove(filepath.Join(spec.Dir, RecordFile))

	served := make(chan struct{})
	go func() { defer close(served); r.serve(l) }()
	defer func() {
		_ = l.Close()
		<-served
	}()
	if o.Ready != nil {
		o.Ready()
	}
	if err := r.start(); err != nil {
		return fmt.Errorf("run %s: %w", spec.Instance, err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go r.obey(o.Stop, ended)
	<-r.exit
	return nil
}

// runner is a running runner. Locks: op is held by whoever starts or stops; mu guards what is below it and is held for
// moments only. Whoever holds mu takes no other lock but those of the logs and the socket table.
type runner struct {
	log     *slog.Logger
	began   time.Time
	reaper  *process.Reaper
	sockets socketTable
	out     *logfile.Writer
	sideOut *logfile.Writer
	op      chan struct{} // holds one value while an operation is under way
	exit    chan struct{} // closed when the runner may end

	mu          sync.Mutex
	spec        Spec
	changed     chan struct{} // closed, and made anew, at every change
	force       chan struct{} // closed when a stop is to hurry
	forced      bool
	events      []Event
	lastNumber  uint64
	state       process.State
	reason      string
	stateAt     time.Time
	restarts    int
	swept       int
	exits       []ExitRecord
	proc        *process.Process // nil: none
	life        *life            // nil: not started, or stopped
	keeper      *keeper
	side        *sidecar // nil: none now
	sideReason  string
	sideStarts  int
	sidecars    []*sidecar // all that live, those that are being replaced too
	dropsTold   int64
	dropsAt     time.Time
	exitStarted bool

	recording sync.Mutex // held while the record is written
}

// begin takes the operation lock; it fails when ctx ends first.
func (r *runner) begin(ctx context.Context) error {
	select {
	case r.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *runner) finish() {
	r.mu.Lock()
	if r.forced {
		r.forced, r.force = false, make(chan struct{})
	}
	r.mu.Unlock()
	<-r.op
}

// emit numbers an event, keeps it, and wakes who waits for a change. The caller holds mu.
func (r *runner) emit(e Event) {
	r.lastNumber++
	e.Number, e.Time = r.lastNumber, time.Now()
	if len(r.events) >= keptEvents {
		r.events = append(r.events[:0], r.events[1:]...)
	}
	r.events = append(r.events, e)
	if i := len(r.events) - 1 - keptOutputs; i >= 0 {
		r.events[i].Output = nil
	}
	r.wake()
	r.log.Info(string(e.Kind), "event", e.Number, "who", string(e.Who), "state", string(e.State), "pid", e.PID, "reason", e.Reason)
}

// wake tells everybody in [runner.await] that something changed. The caller holds mu.
func (r *runner) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until ok, which is called with mu held, says yes. It reports false when done is closed first.
func (r *runner) await(done <-chan struct{}, ok func() bool) bool {
	for {
		r.mu.Lock()
		yes, changed := ok(), r.changed
		r.mu.Unlock()
		if yes {
			return true
		}
		select {
		case <-changed:
		case <-done:
			return false
		}
	}
}

// set changes the state, tells the sidecar, and emits the event; e carries what else is to be told.
func (r *runner) set(s process.State, reason string, e Event) { r.setUnless(nil, s, reason, e) }

// setUnless is set, unless stopped is closed. Who closes it and then calls set has the last word.
func (r *runner) setUnless(stopped <-chan struct{}, s process.State, reason string, e Event) {
	r.mu.Lock()
	select {
	case <-stopped:
		r.mu.Unlock()
		return
	default:
	}
	from := r.state
	if from == s && r.reason == reason {
		r.mu.Unlock()
		return
	}
	if err := from.To(s); err != nil && from != s {
		r.log.Error("a state that should not follow", "error", err)
	}
	r.state, r.reason, r.stateAt = s, reason, time.Now()
	e.Kind, e.Who, e.State, e.From, e.Reason, e.Restarts = StateChanged, TheProcess, s, from, reason, r.restarts
	if r.spec.Process == nil {
		e.Who = TheSidecar
	}
	if r.proc != nil {
		e.PID = r.proc.PID()
	}
	r.emit(e)
	side, word := r.side, r.word()
	r.mu.Unlock()
	if side != nil {
		side.tell(word)
	}
}

// noteDrops emits an event when output could not be written since the last look. The caller holds mu.
func (r *runner) noteDrops() int64 {
	a, cause := r.out.Dropped()
	b, cause2 := r.sideOut.Dropped()
	if cause == nil {
		cause = cause2
	}
	if n := a + b; n > r.dropsTold && time.Since(r.dropsAt) > dropsEvery {
		r.dropsTold, r.dropsAt = n, time.Now()
		r.emit(Event{Kind: OutputDropped, Who: TheRunner, Reason: fmt.Sprintf("%d bytes of output could not be written: %v", n, cause)})
	}
	return a + b
}

// snapshot returns the state, with the events after since.
func (r *runner) snapshot(since uint64) State {
	sockets := r.sockets.all()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := State{
		Dropped:  r.noteDrops(),
		Instance: r.spec.Instance, Service: r.spec.Service, Version: r.spec.Version, Tenant: r.spec.Tenant, Kind: r.spec.Kind,
		Order: r.spec.Order, RunnerPID: os.Getpid(), Since: r.began, State: r.state, Reason: r.reason, StateAt: r.stateAt,
		Restarts: r.restarts, LastEvent: r.lastNumber, Swept: r.swept,
		Exits: append([]ExitRecord(nil), r.exits...), Events: r.after(since),
	}
	if r.spec.Process != nil {
		s.Ports = r.spec.Process.Ports
	}
	if r.proc != nil {
		s.PID = r.proc.PID()
	}
	s.Sidecar = SidecarState{Restarts: max(r.sideStarts-1, 0), Reason: r.sideReason}
	if r.side != nil {
		s.Sidecar.PID, s.Sidecar.Ready = r.side.proc.PID(), r.side.isReady
		s.Sidecar.Draining, s.Sidecar.StartAt = r.side.draining, r.side.proc.Started()
	}
	s.Ready = r.state == process.Running && (r.spec.Sidecar == nil || s.Sidecar.Ready && !s.Sidecar.Draining)
	for _, k := range sockets {
		s.Sockets = append(s.Sockets, Socket{Name: k.Name, Network: k.Network, Address: k.Address})
	}
	return s
}

// after returns the kept events numbered after n. The caller holds mu.
func (r *runner) after(n uint64) []Event {
	for i, e := range r.events {
		if e.Number > n {
			return append([]Event(nil), r.events[i:]...)
		}
	}
	return nil
}

// ended notes how a process or a sidecar ended.
func (r *runner) ended(who Who, e process.Exit, cause Cause, reason string, output []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.exits) >= keptExits {
		r.exits = append(r.exits[:0], r.exits[1:]...)
	}
	r.exits = append(r.exits, ExitRecord{Who: who, Exit: e, Reason: reason})
	r.noteDrops()
	r.emit(Event{Kind: Exited, Who: who, PID: e.PID, Reason: reason, Cause: cause, Output: output, Exit: &e})
}

// obey turns signals into an exit; a further one hurries it.
func (r *runner) obey(stop <-chan os.Signal, ended <-chan struct{}) {
	for first := true; ; first = false {
		select {
		case s, ok := <-stop:
			r.log.Info("told to exit", "signal", fmt.Sprint(s))
			if first {
				go func() { _ = r.end(context.Background(), StopOptions{}) }()
			} else {
				r.hurry()
			}
			if !ok {
				return
			}
		case <-ended:
			return
		}
	}
}

// hurry makes the stop that is under way, if any, kill instead of wait.
func (r *runner) hurry() {
	r.mu.Lock()
	p := r.proc
	if !r.forced {
		r.forced = true
		close(r.force)
	}
	stopping := r.state == process.Stopping
	r.mu.Unlock()
	if p != nil && stopping {
		_ = p.Signal(killSignal)
	}
}

var errExiting = errors.New("the runner is about to end")
