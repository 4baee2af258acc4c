package runner

import (
	"context"
	"fmt"
	"reflect"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/handoff"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

const killSignal = syscall.SIGKILL

// drainGrace is how long after its deadline a drain is waited for: for the word to arrive.
const drainGrace = 500 * time.Millisecond

// start starts what is not running. The caller holds op, or nobody else is there yet.
func (r *runner) start() error {
	r.mu.Lock()
	if r.exitStarted {
		r.mu.Unlock()
		return errExiting
	}
	spec, k, l := r.spec, r.keeper, r.life
	r.mu.Unlock()
	r.sockets.admit()
	if spec.Sidecar != nil && k == nil {
		k = &keeper{r: r, stop: make(chan struct{}), done: make(chan struct{}), swap: make(chan *sidecar)}
		r.mu.Lock()
		r.keeper = k
		r.mu.Unlock()
		if spec.Process == nil {
			r.set(process.Starting, "waiting for the sidecar", Event{})
		}
		go k.run()
	}
	if spec.Process == nil {
		return nil
	}
	if l != nil {
		select {
		case <-l.done: // failed, or ended for good
		default:
			return nil
		}
	}
	l = &life{r: r, halt: make(chan struct{}), end: make(chan struct{}), done: make(chan struct{})}
	r.mu.Lock()
	r.life = l
	r.mu.Unlock()
	go l.run()
	return nil
}

// stop stops all in DESIGN's order. The caller holds op.
func (r *runner) stop(o StopOptions) error {
	r.mu.Lock()
	l, k, state, drain := r.life, r.keeper, r.state, r.spec.Drain
	r.mu.Unlock()
	if l == nil && k == nil {
		if state != process.Stopped {
			r.set(process.Stopped, "stopped", Event{})
		}
		return nil
	}
	if l != nil {
		close(l.halt) // from now on nothing is started again, and a pending backoff ends
	}
	if o.Kill {
		r.hurry()
	}
	serving := state == process.Running
	r.set(process.Stopping, "told to stop", Event{})
	if serving && !o.NoDrain && !o.Kill {
		r.drain(drain)
	}
	var err error
	if l != nil {
		close(l.end)
		<-l.done
		err = l.err
	}
	if k != nil {
		close(k.stop)
		<-k.done
	}
	r.mu.Lock()
	r.life, r.keeper = nil, nil
	r.mu.Unlock()
	if err != nil {
		r.set(process.Failed, err.Error(), Event{})
		return err
	}
	r.set(process.Stopped, "stopped", Event{})
	return nil
}

// drain makes the current sidecar lame duck and waits until it has drained.
func (r *runner) drain(d Drain) {
	r.mu.Lock()
	s, force := r.side, r.force
	if s == nil || !s.isReady {
		r.mu.Unlock()
		return // nobody is being served
	}
	s.draining = true
	r.emit(Event{Kind: Draining, Who: TheSidecar, PID: s.proc.PID()})
	r.mu.Unlock()
	propagation, deadline := max(d.Propagation, 0), max(d.Deadline, 0)
	if err := s.srv.Send(handoff.Drain{Propagation: propagation, Deadline: deadline}); err != nil {
		r.log.Warn("the sidecar cannot be told to drain", "error", err)
		return
	}
	t := time.NewTimer(propagation + deadline + drainGrace)
	defer t.Stop()
	how := "all calls in flight have ended"
	select {
	case <-s.drained:
	case <-s.proc.Done():
		how = "the sidecar ended"
	case <-force:
		how = "cut short: told to hurry"
	case <-t.C:
		how = fmt.Sprintf("cut short by the deadline of %v", deadline)
	}
	r.mu.Lock()
	r.emit(Event{Kind: Drained, Who: TheSidecar, PID: s.proc.PID(), Reason: how})
	r.mu.Unlock()
}

// end stops all and lets Run return. A second call hurries the first and waits for it.
func (r *runner) end(ctx context.Context, o StopOptions) error {
	r.mu.Lock()
	started := r.exitStarted
	r.exitStarted = true
	r.mu.Unlock()
	if o.Kill {
		r.hurry()
	}
	if started {
		select {
		case <-r.exit:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_ = r.begin(context.Background()) // an operation under way ends within its own limits
	err := r.stop(o)
	if err != nil {
		r.log.Error("stop", "error", err)
	}
	if _, err := r.reaper.Sweep(nil); err != nil {
		r.log.Error("sweep", "error", err)
	}
	r.mu.Lock()
	r.emit(Event{Kind: Ending, Who: TheRunner})
	close(r.exit)
	r.mu.Unlock()
	r.finish()
	return nil
}

// restart is stop and start; connections queue in between.
func (r *runner) restart(o StopOptions) error {
	if err := r.stop(o); err != nil {
		return err
	}
	return r.start()
}

// update stores a new spec and says what of it waits for a restart.
func (r *runner) update(s Spec) ([]Who, error) {
	r.mu.Lock()
	old, live, keeping := r.spec, r.life != nil, r.keeper != nil
	r.mu.Unlock()
	if s.Instance != old.Instance || s.Dir != old.Dir {
		return nil, &Error{Code: "invalid", Text: fmt.Sprintf("this is the runner of %s in %s, not of %s in %s", old.Instance, old.Dir, s.Instance, s.Dir)}
	}
	if (s.Process == nil) != (old.Process == nil) {
		return nil, &Error{Code: "invalid", Text: "an instance cannot turn into a gateway, nor a gateway into an instance"}
	}
	if err := s.Validate(); err != nil {
		return nil, &Error{Code: "invalid", Text: err.Error()}
	}
	for _, l := range s.Listen {
		if _, err := r.sockets.open(l, true); err != nil {
			return nil, &Error{Code: "failed", Text: err.Error()}
		}
	}
	if err := s.Save(); err != nil {
		return nil, &Error{Code: "failed", Text: err.Error()}
	}
	s = s.Complete()
	pending := []Who{}
	if s.Process != nil && live {
		a, b := *s.Process, *old.Process
		a.StartTimeout, a.StopSignal, a.StopTimeout, a.Restart = b.StartTimeout, b.StopSignal, b.StopTimeout, b.Restart
		if !reflect.DeepEqual(a, b) {
			pending = append(pending, TheProcess)
		}
	}
	if keeping || s.Sidecar != nil {
		if (s.Sidecar == nil) != (old.Sidecar == nil) {
			pending = append(pending, TheProcess)
		} else if s.Sidecar != nil && keeping && !(reflect.DeepEqual(s.Sidecar.Command, old.Sidecar.Command) && reflect.DeepEqual(s.Sidecar.Env, old.Sidecar.Env)) {
			pending = append(pending, TheSidecar)
		}
	}
	r.mu.Lock()
	r.spec = s
	r.emit(Event{Kind: Updated, Who: TheRunner})
	r.mu.Unlock()
	return pending, nil
}

// kill is a fault: the process group, or the sidecar where there is no process, gets SIGKILL.
func (r *runner) kill(who Who) error {
	r.mu.Lock()
	p := r.proc
	if r.spec.Process == nil || who == TheSidecar {
		p = nil
		if r.side != nil {
			p = r.side.proc
		}
	}
	r.mu.Unlock()
	if p == nil {
		return &Error{Code: "conflict", Text: "there is no " + string(who) + " to kill now"}
	}
	return p.Signal(killSignal)
}
