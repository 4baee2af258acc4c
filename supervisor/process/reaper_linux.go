package process

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	prSetChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER, prctl(2)
	// unkillable is how long a process may outlive its SIGKILL before it is given up: in uninterruptible sleep it does for as long as
	// its device or file server takes.
	unkillable = 10 * time.Second
)

// Reaper takes the exit status of every child of the calling process, its own and those that it inherits as their
// subreaper. There can be one in a process, and nobody else there may wait for children (os/exec does). It is safe for
// concurrent use.
type Reaper struct {
	sig  chan os.Signal
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	closed  bool
	watched map[int]*Process // started here, status not yet taken
}

// Process is an operating system process that a [Reaper] started. It is safe for concurrent use.
type Process struct {
	r       *Reaper
	pid     int
	start   uint64
	started time.Time
	cgroup  *Cgroup
	oom     uint64
	killed  atomic.Bool // we sent it SIGKILL

	done chan struct{} // closed once exit is set
	exit Exit
}

// NewReaper makes the calling process the subreaper of its descendants and begins to take their status.
func NewReaper() (*Reaper, error) {
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0); e != 0 {
		return nil, fmt.Errorf("become a subreaper: %w", e)
	}
	r := &Reaper{
		sig: make(chan os.Signal, 1), stop: make(chan struct{}), done: make(chan struct{}),
		watched: make(map[int]*Process),
	}
	signal.Notify(r.sig, syscall.SIGCHLD)
	go r.run()
	return r, nil
}

// Close ends the reaper; processes are left as they are, and their Done channels are never closed.
func (r *Reaper) Close() {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if !closed {
		signal.Stop(r.sig)
		close(r.stop)
	}
	<-r.done
}

func (r *Reaper) run() {
	defer close(r.done)
	for {
		r.reap()
		select {
		case <-r.sig:
		case <-r.stop:
			return
		}
	}
}

// reap takes the status of every child that has ended. Signals coalesce, so it asks until there is none.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		var ru syscall.Rusage
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, &ru)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		p := r.watched[pid]
		if p == nil {
			continue // inherited
		}
		delete(r.watched, pid)
		now := time.Now()
		p.exit = Exit{
			PID: pid, At: now, Lived: now.Sub(p.started), Code: ws.ExitStatus(),
			User: time.Duration(ru.Utime.Nano()), System: time.Duration(ru.Stime.Nano()),
			MaxRSS: int64(ru.Maxrss) << 10, //nolint:unconvert // 32 bits wide on some systems
		}
		if ws.Signaled() {
			p.exit.Signal, p.exit.Core = signalName(ws.Signal()), ws.CoreDump()
			p.exit.OOM = ws.Signal() == syscall.SIGKILL && !p.killed.Load() && oomKills() > p.oom
		}
		close(p.done)
	}
}

// PID is the process's id, and that of its session and group.
func (p *Process) PID() int { return p.pid }

// StartTicks is when the process was started, in clock ticks since boot; see [Info].
func (p *Process) StartTicks() uint64 { return p.start }

// Started is when the process was started.
func (p *Process) Started() time.Time { return p.started }

// Done is closed when the process has ended and its status is taken.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit is how the process ended; call it only once Done is closed.
func (p *Process) Exit() Exit {
	<-p.done
	return p.exit
}

// Signal sends sig to the process group. It does nothing once the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.r.mu.Lock() // while it is held the status is not taken, so the pid is not another's
	defer p.r.mu.Unlock()
	if p.r.watched[p.pid] != p {
		return nil
	}
	if sig == syscall.SIGKILL {
		p.killed.Store(true)
	}
	if err := syscall.Kill(-p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to process group %d: %w", signalName(sig), p.pid, err)
	}
	return nil
}

// Stop sends sig to the process group, waits for the process to end, sends SIGKILL after timeout, and returns how it
// ended. A process that outlives SIGKILL by 10 s gives an error. What it leaves behind is for [Reaper.Sweep].
func (p *Process) Stop(sig syscall.Signal, timeout time.Duration) (Exit, error) {
	err := p.Signal(sig)
	if sig != syscall.SIGKILL && p.wait(timeout) {
		return p.exit, nil
	}
	if e := p.Signal(syscall.SIGKILL); e != nil {
		err = e
	}
	if p.cgroup != nil {
		_ = p.cgroup.Kill()
	}
	if p.wait(unkillable) {
		return p.exit, nil
	}
	return Exit{}, errors.Join(err, fmt.Errorf("process %d does not end although it was killed", p.pid))
}

func (p *Process) wait(d time.Duration) bool {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

// Strays lists the descendants of the calling process that no [Process] of this reaper accounts for: what an ended process
// left behind, or what forked away from a live one.
func (r *Reaper) Strays() ([]Info, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.strays()
}

func (r *Reaper) strays() ([]Info, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	return Descendants(all, os.Getpid(), func(pid int) bool { return r.watched[pid] != nil }), nil
}

// Sweep kills all strays until none is left, and returns how many it killed. Strays that cannot be killed within 10 s give
// an error. Call it when a process has ended and before its successor starts; cgroup may be nil.
func (r *Reaper) Sweep(cgroup *Cgroup) (killed int, err error) {
	seen := map[int]bool{}
	if cgroup != nil {
		strays, err := r.Strays()
		if err != nil {
			return 0, err
		}
		for _, i := range strays {
			if !i.Zombie {
				seen[i.PID] = true // by the group's end, if not by a signal of its own
			}
		}
		_ = cgroup.Kill()
	}
	deadline := time.Now().Add(unkillable)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		r.reap()
		left, err := r.kill(seen)
		if err != nil {
			return len(seen), err
		}
		if left == 0 {
			return len(seen), nil
		}
		if time.Now().After(deadline) {
			return len(seen), fmt.Errorf("%d processes do not end although they were killed", left)
		}
		pause.Reset(wait)
		<-pause.C
	}
}

// kill sends SIGKILL to every stray and returns how many there are, zombies included: those still wait for their status to be
// taken, by us or by a parent that was killed as well.
func (r *Reaper) kill(seen map[int]bool) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	strays, err := r.strays()
	if err != nil {
		return 0, err
	}
	for _, i := range strays {
		if !i.Zombie {
			seen[i.PID] = true
			_ = syscall.Kill(i.PID, syscall.SIGKILL)
		}
	}
	return len(strays), nil
}

func signalName(s syscall.Signal) string {
	names := [...]string{
		1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
		9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
		24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
	}
	if int(s) > 0 && int(s) < len(names) && names[s] != "" {
		return names[s]
	}
	return fmt.Sprintf("signal %d", int(s))
}
