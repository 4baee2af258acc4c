package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/backoff"
	"github.com/outrigger-mesh/outrigger/internal/handoff"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// A sidecar is restarted at once, unless it ends within shortLife of its start, time after time.
const shortLife = time.Second

var sidecarBackoff = backoff.Policy{Kind: backoff.Exponential, Base: 50 * time.Millisecond, Max: 5 * time.Second}

// sidecar is one sidecar process. It is the runner's [handoff.Handler] for it.
type sidecar struct {
	r       *runner
	proc    *process.Process
	srv     *handoff.Server
	drained chan struct{}
	words   chan handoff.Process // the newest state of the process that it was not yet told
	closed  chan struct{}        // closed when the channel to it has ended
	pumped  chan struct{}        // closed when all of its output is read

	// Guarded by the runner's mu.
	isReady   bool
	isDrained bool
	draining  bool
}

// keeper keeps a sidecar running from a start to a stop.
type keeper struct {
	r    *runner
	stop chan struct{}
	done chan struct{}
	swap chan *sidecar // a successor that is ready
	olds sync.WaitGroup
}

func (k *keeper) run() {
	defer close(k.done)
	defer k.olds.Wait()
	r := k.r
	for quick := 0; ; {
		r.mu.Lock()
		spec := *r.spec.Sidecar
		r.mu.Unlock()
		s, err := r.startSidecar(spec)
		if err != nil {
			quick++
			r.mu.Lock()
			r.sideReason = err.Error()
			r.emit(Event{Kind: SidecarFailed, Who: TheSidecar, Reason: err.Error()})
			r.mu.Unlock()
			if !k.pause(sidecarBackoff.Delay(quick, nil)) {
				return
			}
			continue
		}
		r.mu.Lock()
		r.side = s
		r.sideStarts++
		r.mu.Unlock()
		for s != nil {
			select {
			case <-k.stop:
				r.retire(s)
				return
			case n := <-k.swap:
				k.install(n, s)
				s = n
				continue
			case <-s.proc.Done():
			}
			r.mu.Lock()
			if r.side == s {
				r.side = nil
			}
			gateway := r.spec.Process == nil
			r.mu.Unlock()
			reason := r.lost(s)
			if gateway {
				r.set(process.Restarting, "the sidecar "+reason, Event{Cause: CauseEnded})
			}
			if s.proc.Exit().Lived < shortLife {
				quick++
			} else {
				quick = 0
			}
			s = nil
		}
		delay := time.Duration(0)
		if quick > 1 {
			delay = sidecarBackoff.Delay(quick-1, nil)
		}
		if !k.pause(delay) {
			return
		}
		r.mu.Lock()
		gateway := r.spec.Process == nil
		if gateway {
			r.restarts++
		}
		r.mu.Unlock()
		if gateway {
			r.set(process.Starting, "waiting for the sidecar", Event{})
		}
	}
}

func (k *keeper) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		select {
		case <-k.stop:
			return false
		default:
			return true
		}
	case <-k.stop:
		return false
	}
}

// startSidecar starts a sidecar with a channel to it. It is not yet the current one.
func (r *runner) startSidecar(spec Sidecar) (*sidecar, error) {
	r.mu.Lock()
	dir := r.spec.Dir
	r.mu.Unlock()
	ours, theirs, err := handoff.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	read, write, err := outputPipe()
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	var cgroup *process.Cgroup
	if spec.CgroupDir != "" {
		if cgroup, err = process.OpenCgroup(spec.CgroupDir); err != nil {
			_, _, _ = ours.Close(), read.Close(), write.Close()
			return nil, err
		}
		defer cgroup.Close()
	}
	s := &sidecar{r: r, drained: make(chan struct{}), words: make(chan handoff.Process, 1), closed: make(chan struct{}), pumped: make(chan struct{})}
	if s.srv, err = handoff.NewServer(ours, s); err == nil {
		s.proc, err = r.reaper.Start(process.Spec{
			Command: spec.Command, Env: append(marked(spec.Env, dir), handoff.EnvName+"=3"), Dir: dir, Output: write,
			Extra: []*os.File{theirs}, Cgroup: cgroup, InCgroup: cgroup != nil,
		})
	}
	_ = write.Close()
	if err != nil {
		if s.srv != nil {
			_ = s.srv.Close()
		}
		_ = read.Close()
		return nil, err
	}
	r.mu.Lock()
	r.sidecars = append(r.sidecars, s)
	r.emit(Event{Kind: SidecarStarted, Who: TheSidecar, PID: s.proc.PID()})
	r.mu.Unlock()
	r.record()
	go func() {
		defer close(s.pumped)
		defer read.Close()
		r.sideOut.Pump(read)
	}()
	go func() {
		defer close(s.closed)
		if err := s.srv.Serve(); err != nil {
			// A sidecar that cannot be spoken to can neither be drained nor given sockets: a new one can.
			r.log.Error("the channel to the sidecar", "error", err)
			_ = s.proc.Signal(killSignal)
		}
	}()
	go s.speak()
	return s, nil
}

// lost notes that s ended and returns how.
func (r *runner) lost(s *sidecar) string {
	_ = s.srv.Close()
	<-s.closed
	t := time.NewTimer(outputGrace)
	select {
	case <-s.pumped:
	case <-t.C: // something that it started holds its output
	}
	t.Stop()
	exit := s.proc.Exit()
	reason := exit.String()
	r.mu.Lock()
	for i, x := range r.sidecars {
		if x == s {
			r.sidecars = append(r.sidecars[:i], r.sidecars[i+1:]...)
			break
		}
	}
	r.sideReason = reason
	r.mu.Unlock()
	var output []string
	if !exit.OK() {
		output = r.sideOut.Tail(keptOutput)
	}
	r.ended(TheSidecar, exit, CauseEnded, reason, output)
	r.record()
	return reason
}

// retire ends s: TERM, its timeout, KILL.
func (r *runner) retire(s *sidecar) {
	r.mu.Lock()
	timeout := 5 * time.Second
	if r.spec.Sidecar != nil {
		timeout = r.spec.Sidecar.StopTimeout
	}
	if r.forced {
		timeout = 0
	}
	r.mu.Unlock()
	if _, err := s.proc.Stop(syscall.SIGTERM, timeout); err != nil {
		r.log.Error("end the sidecar", "error", err)
		_ = s.srv.Close()
		return
	}
	r.mu.Lock()
	if r.side == s {
		r.side = nil
	}
	r.mu.Unlock()
	r.lost(s)
}

// replace starts a further sidecar, waits until it is ready, makes it the current one, and lets the old one drain. program
// is what it runs, and from then on every sidecar; "" is what the specification says. Until the new one is ready nothing changes.
// The caller holds op.
func (r *runner) replace(program string) error {
	if program != "" && !filepath.IsAbs(program) {
		return &Error{Code: "invalid", Text: fmt.Sprintf("the sidecar's program %q is not an absolute path", program)}
	}
	r.mu.Lock()
	k, spec := r.keeper, r.spec
	r.mu.Unlock()
	if k == nil {
		return &Error{Code: "conflict", Text: "no sidecar runs"}
	}
	side := *spec.Sidecar
	if program != "" {
		side.Command = append([]string{program}, side.Command[1:]...)
	}
	n, err := r.startSidecar(side)
	if err != nil {
		return &Error{Code: "failed", Text: "the new sidecar: " + err.Error() + "; the old one stays"}
	}
	t := time.NewTimer(spec.Sidecar.ReadyTimeout)
	defer t.Stop()
	give := make(chan struct{})
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-t.C:
		case <-n.proc.Done():
		case <-over:
		}
		close(give)
	}()
	if !r.await(give, func() bool { return n.isReady }) {
		_, err := n.proc.Stop(killSignal, 0)
		text := fmt.Sprintf("the new sidecar was not ready within %v; the old one stays", spec.Sidecar.ReadyTimeout)
		if err == nil {
			if e := n.proc.Exit(); e.Signal != "SIGKILL" {
				text = "the new sidecar " + e.String() + "; the old one stays"
			}
			r.lost(n)
		}
		return &Error{Code: "failed", Text: text}
	}
	if program != "" {
		spec.Sidecar = &side
		if err := spec.Save(); err != nil {
			if _, serr := n.proc.Stop(killSignal, 0); serr == nil {
				r.lost(n)
			}
			return &Error{Code: "failed", Text: err.Error() + "; the old sidecar stays"}
		}
		r.mu.Lock()
		r.spec.Sidecar = &side
		r.emit(Event{Kind: Updated, Who: TheRunner})
		r.mu.Unlock()
	}
	select {
	case k.swap <- n: // the keeper always comes back to where it takes it
	case <-k.done:
		return &Error{Code: "conflict", Text: "the sidecar was stopped meanwhile"}
	}
	return nil
}

// install makes n the current sidecar and lets old drain and end.
func (k *keeper) install(n, old *sidecar) {
	r := k.r
	r.mu.Lock()
	r.side = n
	r.sideStarts++
	word, force, deadline := r.word(), r.force, max(r.spec.Drain.Deadline, 0)
	old.draining = true
	r.emit(Event{Kind: SidecarReplaced, Who: TheSidecar, PID: n.proc.PID()})
	r.mu.Unlock()
	n.tell(word)
	k.olds.Add(1)
	go func() {
		defer k.olds.Done()
		if err := old.srv.Send(handoff.Drain{Deadline: deadline, Handover: true}); err == nil {
			t := time.NewTimer(deadline + drainGrace)
			defer t.Stop()
			select {
			case <-old.drained:
			case <-old.proc.Done():
			case <-force:
			case <-k.stop:
			case <-t.C:
			}
		}
		r.retire(old)
	}()
}

// word is the state of the process as the sidecar is told. The caller holds mu.
func (r *runner) word() handoff.Process {
	if r.spec.Process == nil {
		return handoff.Process{}
	}
	w := handoff.Process{State: string(r.state), Reason: r.reason}
	if r.proc != nil {
		w.PID = r.proc.PID()
	}
	return w
}

// tell lets the sidecar know the state of the process; only the newest counts, and nobody waits for a slow sidecar.
func (s *sidecar) tell(w handoff.Process) {
	for {
		select {
		case s.words <- w:
			return
		default:
		}
		select {
		case <-s.words:
		default:
		}
	}
}

func (s *sidecar) speak() {
	for {
		select {
		case w := <-s.words:
			if w.State != "" && s.srv.Send(w) != nil {
				return
			}
		case <-s.closed:
			return
		}
	}
}

// Greet implements handoff.Handler.
func (s *sidecar) Greet() handoff.Greeting {
	r := s.r
	sockets := r.sockets.all()
	r.mu.Lock()
	defer r.mu.Unlock()
	return handoff.Greeting{
		Identity: handoff.Identity{
			Instance: r.spec.Instance, Service: r.spec.Service, Version: r.spec.Version, Tenant: r.spec.Tenant,
			Kind: r.spec.Kind, Dir: r.spec.Dir,
		},
		Sockets: sockets, Process: r.word(),
	}
}

// Listen implements handoff.Handler.
func (s *sidecar) Listen(name, network, address string) (handoff.Socket, error) {
	return s.r.sockets.open(Listen{Name: name, Network: network, Address: address}, false)
}

// Release implements handoff.Handler.
func (s *sidecar) Release(name string) { s.r.sockets.release(name) }

// Ready implements handoff.Handler.
func (s *sidecar) Ready() {
	r := s.r
	r.mu.Lock()
	if s.isReady {
		r.mu.Unlock()
		return
	}
	s.isReady = true
	r.emit(Event{Kind: SidecarReady, Who: TheSidecar, PID: s.proc.PID()})
	gateway := r.spec.Process == nil && (r.state == process.Starting || r.state == process.Restarting)
	r.mu.Unlock()
	if gateway {
		r.set(process.Running, "", Event{})
	}
}

// Drained implements handoff.Handler.
func (s *sidecar) Drained() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if !s.isDrained {
		s.isDrained = true
		close(s.drained)
	}
}
