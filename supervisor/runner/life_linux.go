package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// outputGrace is how long the output of a process that ended, and whose descendants were killed, may take to be read.
const outputGrace = time.Second

// hintAfter is when a process that is still starting is first said to listen on another port than its own.
const hintAfter = 2 * time.Second

// life is the process's life from a start to a stop, through its restarts.
type life struct {
	r    *runner
	halt chan struct{} // closed: start nothing any more
	end  chan struct{} // closed after halt: end what runs
	done chan struct{} // closed when nothing runs any more
	err  error         // set before done: the process could not be ended
}

// outcome is how one run of the process ended.
type outcome struct {
	cause  Cause
	reason string
	output []string
	normal bool // ended by itself with code 0, leaving nothing
	err    error
}

func (l *life) run() {
	defer close(l.done)
	r := l.r
	var w window
	jitter := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	l.set(process.Starting, "waiting for the sidecar", Event{})
	for {
		if !l.awaitSidecar() {
			return
		}
		o := l.once()
		if l.halted() || o.err != nil {
			l.err = o.err
			return
		}
		r.mu.Lock()
		policy := r.spec.Process.Restart
		r.mu.Unlock()
		tell := Event{Cause: o.cause, Output: o.output}
		if policy.When == Temporary || policy.When == Transient && o.normal {
			state := process.Failed
			if o.normal {
				state = process.Stopped
			}
			r.set(state, fmt.Sprintf("%s; not restarted (%s)", o.reason, policy.When), tell)
			return
		}
		n, ok := w.take(time.Now(), policy)
		if !ok {
			l.set(process.Failed, fmt.Sprintf("%s; gave up after %d restarts within %v", o.reason, policy.Max, policy.Within), tell)
			return
		}
		tell.Delay = policy.Backoff.Delay(n, jitter)
		l.set(process.Restarting, o.reason, tell)
		if !l.pause(tell.Delay) {
			return
		}
		r.mu.Lock()
		r.restarts++
		r.mu.Unlock()
		l.set(process.Starting, "again after: "+o.reason, Event{})
	}
}

// set changes the state unless a stop has begun, whose state then stands.
func (l *life) set(s process.State, reason string, e Event) { l.r.setUnless(l.halt, s, reason, e) }

func (l *life) halted() bool {
	select {
	case <-l.halt:
		return true
	default:
		return false
	}
}

// pause waits; it reports false when the life is halted first.
func (l *life) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return !l.halted()
	case <-l.halt:
		return false
	}
}

// awaitSidecar waits for the sidecar to be ready.
func (l *life) awaitSidecar() bool {
	return l.r.await(l.halt, func() bool {
		return l.r.spec.Sidecar == nil || l.r.side != nil && l.r.side.isReady
	}) && !l.halted()
}

// once runs the process until it has ended and nothing is left of it.
func (l *life) once() outcome {
	r := l.r
	r.mu.Lock()
	spec, dir, id := *r.spec.Process, r.spec.Dir, r.spec.Instance
	r.mu.Unlock()

	var cgroup *process.Cgroup
	switch {
	case spec.CgroupDir != "":
		c, err := process.NewCgroupIn(spec.CgroupDir, "process")
		if err != nil {
			return outcome{cause: CauseStart, reason: "cannot be started in a cgroup of its own: " + err.Error()}
		}
		cgroup = c
	case spec.Cgroup:
		if c, err := process.NewCgroup("outrigger-" + id); err == nil {
			cgroup = c
		}
	}
	if cgroup != nil {
		defer func() {
			if err := cgroup.Remove(); err != nil {
				r.log.Warn("a cgroup stays", "error", err)
			}
		}()
	}
	r.out.Mark()
	read, write, err := outputPipe()
	if err != nil {
		return outcome{cause: CauseStart, reason: "cannot be started: " + err.Error()}
	}
	defer read.Close()
	p, err := r.reaper.Start(process.Spec{
		Command: spec.Command, Env: marked(spec.Env, dir), Dir: spec.Dir, Output: write, Cgroup: cgroup,
		InCgroup: spec.CgroupDir != "", User: spec.User,
	})
	_ = write.Close()
	if err != nil {
		var se *process.StartError
		if errors.As(err, &se) {
			return outcome{cause: Cause(se.Fault), reason: se.Text}
		}
		return outcome{cause: CauseStart, reason: err.Error()}
	}
	pumped := make(chan struct{})
	go func() { defer close(pumped); r.out.Pump(read) }()
	r.mu.Lock()
	r.proc = p
	r.mu.Unlock()
	r.record()

	o, ran := l.watch(p, spec)
	if o.err == nil {
		o = l.bury(p, spec, o, ran, cgroup, pumped)
	}
	r.mu.Lock()
	r.proc = nil
	r.mu.Unlock()
	r.record()
	return o
}

// watch waits until the process runs and then until it ends, ending it where that is due. ran says whether it came to run; o.cause
// is set where it was ended because it did not.
func (l *life) watch(p *process.Process, spec Process) (o outcome, ran bool) {
	if len(spec.Ports) > 0 {
		cause, reason := l.probe(p, spec)
		switch {
		case cause == causeHalted:
			return outcome{err: l.terminate(p)}, false
		case cause != "":
			o = outcome{cause: cause, reason: reason, output: l.r.out.Tail(keptOutput)}
			o.err = l.terminate(p)
			return o, false
		}
		select {
		case <-p.Done():
			return o, false
		default:
		}
	}
	l.set(process.Running, "", Event{})
	select {
	case <-p.Done():
		return o, true
	case <-l.end:
		return outcome{err: l.terminate(p)}, true
	}
}

// causeHalted is for a probe that a stop ended.
const causeHalted Cause = "halted"

// probe waits until the process accepts on its first port: no cause. It returns no cause either when the process has ended.
func (l *life) probe(p *process.Process, spec Process) (Cause, string) {
	port := spec.Ports[0].Number
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	deadline := time.Now().Add(spec.StartTimeout)
	hint := time.Now().Add(min(hintAfter, spec.StartTimeout/2))
	t := time.NewTimer(0)
	defer t.Stop()
	for wait := 2 * time.Millisecond; ; wait = min(wait*3/2, 50*time.Millisecond) {
		select {
		case <-p.Done():
			return "", ""
		case <-l.end:
			return causeHalted, ""
		case <-t.C:
		}
		if accepts(ctx, port) {
			w := portsOf(tree(l.r.reaper, p.PID()))
			if w.has(port) || w.blind {
				return "", ""
			}
			// Somebody else has the port. The process will most often say so itself and end; it gets its time.
			if time.Now().After(deadline) {
				if h := w.holder(port); h != "" {
					return CausePortTaken, fmt.Sprintf("cannot listen on its port %d: %s has it", port, h)
				}
			}
			wait = max(wait, 20*time.Millisecond)
		}
		if !hint.IsZero() && time.Now().After(hint) {
			hint = time.Time{}
			if cause, text := notListening(tree(l.r.reaper, p.PID()), port, spec.StartTimeout); cause == CauseOtherPort {
				l.set(process.Starting, text, Event{Cause: cause}) // known before it is given up
			}
		}
		if time.Now().After(deadline) {
			return notListening(tree(l.r.reaper, p.PID()), port, spec.StartTimeout)
		}
		t.Reset(wait)
	}
}

// terminate ends the process group: the stop signal, its timeout, SIGKILL; at once where the stop was told to hurry.
func (l *life) terminate(p *process.Process) error {
	l.r.mu.Lock()
	spec, forced := *l.r.spec.Process, l.r.forced
	l.r.mu.Unlock()
	sig, err := parseSignal(spec.StopSignal)
	if err != nil {
		sig = syscall.SIGTERM
	}
	if forced {
		sig = killSignal
	}
	_, err = p.Stop(sig, spec.StopTimeout)
	return err
}

// bury says how the ended process ended and kills what it left.
func (l *life) bury(p *process.Process, spec Process, o outcome, ran bool, cgroup *process.Cgroup, pumped <-chan struct{}) outcome {
	r := l.r
	exit := p.Exit()
	if o.cause == "" {
		o.cause, o.reason = CauseEnded, exit.String()
		if !ran && !l.halted() {
			o.cause = CauseExited
			o.reason += fmt.Sprintf(" after %v, before it listened", exit.Lived.Round(time.Millisecond))
			if len(spec.Ports) == 0 {
				o.reason = exit.String()
			}
		}
		o.normal = exit.OK()
		if exit.Code == 0 && exit.Signal == "" && !l.halted() {
			if text := forkedAway(strays(r.reaper), spec, ran); text != "" {
				o.cause, o.reason, o.normal = CauseForked, text, false
			}
		}
	}
	n, err := r.reaper.Sweep(cgroup)
	if err != nil {
		o.err = err
	}
	t := time.NewTimer(outputGrace)
	select {
	case <-pumped: // the pipe has no writer left: all output is read
	case <-t.C:
	}
	t.Stop()
	if !ran || !o.normal {
		o.output = r.out.Tail(keptOutput)
	}
	if o.cause == CauseExited && !exit.OK() {
		if len(spec.Ports) > 0 {
			if h := portsOf(nil).holder(spec.Ports[0].Number); h != "" {
				o.reason += fmt.Sprintf("; its port %d is taken by %s", spec.Ports[0].Number, h)
			}
		}
	}
	r.ended(TheProcess, exit, o.cause, o.reason, o.output)
	if n > 0 {
		r.mu.Lock()
		r.swept += n
		r.emit(Event{Kind: Swept, Who: TheProcess, Reason: fmt.Sprintf("killed %d processes that it left behind", n)})
		r.mu.Unlock()
	}
	return o
}

// forkedAway says in words that a process whose main part ended with 0 lives on in procs, or "".
func forkedAway(procs []process.Info, spec Process, ran bool) string {
	if len(procs) == 0 {
		return ""
	}
	holds := len(spec.Ports) > 0 && portsOf(procs).has(spec.Ports[0].Number)
	if !holds && ran {
		return "" // helpers of a process that ended in order
	}
	what := ""
	if holds {
		what = fmt.Sprintf(", which listens on its port %d", spec.Ports[0].Number)
	}
	return fmt.Sprintf("forked away: the main process exited with code 0 and left %s (pid %d)%s; it has to stay in the foreground",
		procs[0].Name, procs[0].PID, what)
}

// outputPipe makes a pipe whose writing end is blocking, as programs expect, and whose reading end is polled.
func outputPipe() (read, write *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		_ = syscall.Close(fds[0])
		_ = syscall.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(fds[1]), "output"), nil
}

// markName is the variable by which [Sweep] knows what a dead runner left behind.
const markName = "OUTRIGGER_INSTANCE_DIR"

// marked returns env with the mark of the instance in dir.
func marked(env []string, dir string) []string {
	out := make([]string, 0, len(env)+2)
	for _, e := range env {
		if !strings.HasPrefix(e, markName+"=") {
			out = append(out, e)
		}
	}
	return append(out, markName+"="+dir)
}
