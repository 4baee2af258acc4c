package runner

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/backoff"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

func TestLifeOfAnInstance(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	ctx := within(t)
	s := i.ready()
	addr := s.Sockets[0].Address
	if s.PID == 0 || s.Sidecar.PID == 0 || s.RunnerPID == 0 || s.Restarts != 0 || strings.HasSuffix(addr, ":0") || s.Service != "svc" {
		t.Errorf("%+v", s)
	}
	if got, err := ask(addr, "hello"); err != nil || got != strconv.Itoa(s.Sidecar.PID) {
		t.Errorf("the socket is answered by %s, %v; want the sidecar", got, err)
	}
	if got := states(s.Events); got != "starting running" {
		t.Errorf("states: %s", got)
	}
	var order []EventKind
	for n, e := range s.Events {
		if e.Number != uint64(n+1) {
			t.Fatalf("event %d has number %d", n, e.Number)
		}
		if e.Kind == SidecarReady || e.State == process.Running {
			order = append(order, e.Kind)
		}
	}
	if len(order) != 2 || order[0] != SidecarReady {
		t.Errorf("the process ran before its sidecar was ready: %v", order)
	}

	if err := i.Stop(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	s2 := i.state()
	if s2.State != process.Stopped || s2.PID != 0 || s2.Sidecar.PID != 0 || s2.Ready {
		t.Errorf("after the stop: %+v", s2)
	}
	if got := len(belonging(t, i.spec.Dir)); got != 1 {
		t.Errorf("%d processes after the stop, want the runner alone", got)
	}
	var seq []string
	for _, e := range s2.Events {
		if e.Number > s.LastEvent {
			seq = append(seq, strings.TrimSpace(string(e.Kind)+" "+string(e.State)+map[bool]string{true: string(e.Who)}[e.Kind == Exited]))
		}
	}
	if got := strings.Join(seq, ", "); got != "state stopping, draining, drained, exit process, exit sidecar, state stopped" {
		t.Errorf("order of the stop: %s", got)
	}
	if _, err := ask(addr, "hello"); err == nil || os.IsTimeout(err) {
		t.Errorf("a call to a stopped instance: %v; want it refused at once", err)
	}
	if err := i.Start(ctx); err != nil {
		t.Fatal(err)
	}
	s = i.ready()
	if s.Sockets[0].Address != addr {
		t.Errorf("the address changed from %s to %s", addr, s.Sockets[0].Address)
	}
	if _, err := ask(addr, "hello"); err != nil {
		t.Error(err)
	}
	if err := i.Restart(ctx, StopOptions{NoDrain: true}); err != nil {
		t.Fatal(err)
	}
	if n := i.ready(); n.PID == s.PID || n.Sidecar.PID == s.Sidecar.PID {
		t.Error("Restart kept a process")
	}
	if err := i.Exit(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool { return len(belonging(t, i.spec.Dir)) == 0 })
	for _, name := range []string{SocketFile, RecordFile} {
		if _, err := os.Stat(filepath.Join(i.spec.Dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", name)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(i.spec.Dir, LogDir, OutLog)); strings.Count(string(b), "listening on") != 3 {
		t.Errorf("out.log: %q", b)
	}
}

// TestWhyItDoesNotRun tells apart every way not to come up.
func TestWhyItDoesNotRun(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/no/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		command []string
		port    int
		cause   Cause
		says    string
		output  string
	}{
		{"not found", []string{"/no/such/program"}, 0, CauseNotFound, "there is no /no/such/program", ""},
		{"not executable", []string{plain}, 0, CauseNotExecutable, "not executable", ""},
		{"bad interpreter", []string{script}, 0, CauseInterpreter, "/no/interpreter", ""},
		{"dies at once", []string{childProgram, "die", "3", "30"}, 0, CauseExited, "exited with code 3", "line 30"},
		{"ignores its port", []string{childProgram, "ignore-port"}, 0, CauseOtherPort, ", not on $PORT ", "listening on"},
		{"never listens", []string{childProgram, "silent"}, 0, CauseNoListen, "did not listen on $PORT", "silent"},
		{"forks away", []string{childProgram, "fork"}, 0, CauseForked, "forked away", "spawned"},
		{"port taken", []string{childProgram, "serve"}, taken.Addr().(*net.TCPAddr).Port, CauseExited, "is taken by", "in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := specFor(t)
			spec.Process.Command, spec.Process.StartTimeout, spec.Process.Restart.Max = tc.command, 700*time.Millisecond, 0
			if tc.port != 0 {
				spec.Process.Ports[0].Number, spec.Process.Env = tc.port, []string{"PORT=" + strconv.Itoa(tc.port)}
			}
			i := launch(t, spec)
			s := i.becomes(process.Failed)
			if !strings.Contains(s.Reason, tc.says) || !strings.Contains(s.Reason, "gave up after 0 restarts") {
				t.Errorf("reason %q, want %q in it", s.Reason, tc.says)
			}
			failed := 0
			for _, e := range s.Events {
				if e.State == process.Failed {
					failed++
					if e.Cause != tc.cause {
						t.Errorf("cause %s, want %s", e.Cause, tc.cause)
					}
					if tc.output != "" && (len(e.Output) == 0 || len(e.Output) > 20 || !strings.Contains(strings.Join(e.Output, "\n"), tc.output)) {
						t.Errorf("output %q, want %q in it", e.Output, tc.output)
					}
				}
			}
			if failed != 1 {
				t.Errorf("%d events say failed, want one", failed)
			}
			if n := len(belonging(t, spec.Dir)); n != 2 {
				t.Errorf("%d processes, want the runner and the sidecar", n)
			}
		})
	}
}

func TestListensLate(t *testing.T) {
	spec := specFor(t, "late", "400")
	i := launch(t, spec)
	begin := time.Now()
	i.becomes(process.Running)
	if d := time.Since(begin); d < 300*time.Millisecond {
		t.Errorf("running after %v, before it listened", d)
	}
}

func TestExitMatrix(t *testing.T) {
	for _, tc := range []struct {
		when When
		code string
		want process.State
		exit int // how often it ends
	}{
		{Permanent, "0", process.Failed, 3},
		{Permanent, "1", process.Failed, 3},
		{Transient, "0", process.Stopped, 1},
		{Transient, "1", process.Failed, 3},
		{Temporary, "0", process.Stopped, 1},
		{Temporary, "1", process.Failed, 1},
	} {
		t.Run(string(tc.when)+" "+tc.code, func(t *testing.T) {
			spec := specFor(t, "die", tc.code, "1")
			spec.Process.Ports = nil
			spec.Process.Restart.When, spec.Process.Restart.Max = tc.when, 2
			i := launch(t, spec)
			var s State
			eventually(t, "the end of it", func() bool {
				s = i.state()
				return (s.State == process.Failed || s.State == process.Stopped) && s.LastEvent > 0
			})
			if s.State != tc.want || len(s.Exits) != tc.exit || s.Restarts != tc.exit-1 {
				t.Errorf("%s after %d ends and %d restarts (%s), want %s after %d", s.State, len(s.Exits), s.Restarts, s.Reason, tc.want, tc.exit)
			}
			if !s.Sidecar.Ready {
				t.Error("the sidecar went with it")
			}
		})
	}
}

func TestStopEndsAPendingBackoff(t *testing.T) {
	spec := specFor(t, "die", "1", "1")
	spec.Process.Restart.Backoff = backoff.Policy{Base: time.Hour}
	i := launch(t, spec)
	s := i.becomes(process.Restarting)
	if e := s.Events[len(s.Events)-1]; e.Delay != time.Hour {
		t.Errorf("the event tells a delay of %v", e.Delay)
	}
	begin := time.Now()
	if err := i.Stop(within(t), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the stop took %v", d)
	}
	if s := i.becomes(process.Stopped); s.PID != 0 || len(s.Exits) != 2 {
		t.Errorf("%+v", s)
	}
}

func TestKillIsAFault(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	s := i.ready()
	if err := i.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a restart", func() bool { n := i.state(); return n.Ready && n.PID != s.PID && n.Restarts == 1 })
	s = i.state()
	if got := states(s.Events); got != "starting running restarting starting running" {
		t.Errorf("states: %s", got)
	}
	if x := s.Exits[0]; x.Who != TheProcess || x.Exit.Signal != "SIGKILL" || x.Exit.OOM || x.Reason != "killed by SIGKILL" {
		t.Errorf("%+v", x)
	}
}

func TestStubbornProcessAndGrandchild(t *testing.T) {
	spec := specFor(t, "stubborn")
	spec.Process.StopTimeout = 300 * time.Millisecond
	spec.Process.Cgroup = true
	i := launch(t, spec)
	i.ready()
	if n := len(belonging(t, spec.Dir)); n != 4 {
		t.Fatalf("%d processes, want 4", n)
	}
	begin := time.Now()
	if err := i.Stop(within(t), StopOptions{NoDrain: true}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 800*time.Millisecond {
		t.Errorf("gone after %v, more than the stop timeout and half a second", d)
	}
	if n := len(belonging(t, spec.Dir)); n != 1 {
		t.Errorf("%d processes left, want the runner", n)
	}
	if s := i.state(); s.Exits[0].Exit.Signal != "SIGKILL" || s.Swept+len(s.Exits) < 2 {
		t.Errorf("%+v, swept %d", s.Exits, s.Swept)
	}
}

// callers call addr over new connections until stopped, and return errors by kind.
func callers(n int, addr string) (stop func() (calls, refused, failed int)) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var wg sync.WaitGroup
	var calls, refused, failed int
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := ask(addr, "hello")
				mu.Lock()
				calls++
				switch {
				case errors.Is(err, syscall.ECONNREFUSED):
					refused++
				case err != nil:
					failed++
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, int, int) { cancel(); wg.Wait(); return calls, refused, failed }
}

func TestSidecarKilledUnderLoad(t *testing.T) {
	spec := specFor(t, "serve")
	spec.Sidecar.Command = append(spec.Sidecar.Command, "asked", "tcp", "127.0.0.1:0")
	i := launch(t, spec)
	s := i.ready()
	eventually(t, "the socket that the sidecar asked for", func() bool { s = i.state(); return len(s.Sockets) == 2 })
	const n, kills = 4, 3
	stop := callers(n, s.Sockets[0].Address)
	for k := 1; k <= kills; k++ {
		old := i.state().Sidecar.PID
		if k == 1 {
			if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else if err := i.KillSidecar(within(t)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the next sidecar", func() bool { x := i.state(); return x.Ready && x.Sidecar.PID != old && x.Sidecar.Restarts == k })
	}
	calls, refused, failed := stop()
	if refused > 0 || failed > n*kills || calls < 10 {
		t.Errorf("%d calls, %d refused, %d failed: only those in flight may fail", calls, refused, failed)
	}
	end := i.state()
	if end.PID != s.PID || end.State != process.Running || states(end.Events) != "starting running" {
		t.Errorf("the process was touched: %s", states(end.Events))
	}
	if len(end.Sockets) != 2 || end.Sockets[1] != s.Sockets[1] {
		t.Errorf("sockets %+v, want %+v", end.Sockets, s.Sockets)
	}
	if got, err := ask(end.Sockets[1].Address, "hello"); err != nil || got != strconv.Itoa(end.Sidecar.PID) {
		t.Errorf("the socket that was asked for: %s, %v", got, err)
	}
}

func TestReplaceSidecarUnderLoad(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	s := i.ready()
	addr := s.Sockets[0].Address
	slow := make(chan error, 1)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		c.Write([]byte("slow\n"))
		got, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && strings.TrimSpace(got) != strconv.Itoa(s.Sidecar.PID) {
			err = errors.New("answered by " + got)
		}
		c.Close()
		slow <- err
	}()
	stop := callers(4, addr)
	if err := i.ReplaceSidecar(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err != nil {
		t.Errorf("a call in flight on the old sidecar: %v", err)
	}
	eventually(t, "the end of the old one", func() bool { x := i.state(); return len(x.Exits) == 1 })
	_, refused, failed := stop()
	if refused+failed > 0 {
		t.Errorf("%d refused, %d failed", refused, failed)
	}
	n := i.state()
	if n.Sidecar.PID == s.Sidecar.PID || !n.Ready || !n.Exits[0].Exit.OK() || n.Sidecar.Restarts != 1 {
		t.Errorf("%+v %+v", n.Sidecar, n.Exits)
	}

	bad := i.spec
	bad.Sidecar = &Sidecar{Command: []string{childProgram, "bad-sidecar"}}
	bad.Listen = append(bad.Listen, Listen{"more", "tcp", "127.0.0.1:0"})
	pending, err := i.Update(within(t), bad)
	if err != nil || len(pending) != 1 || pending[0] != TheSidecar {
		t.Fatalf("update: %v, %v", pending, err)
	}
	if err := i.ReplaceSidecar(within(t)); err == nil || !strings.Contains(err.Error(), "exited with code 7; the old one stays") {
		t.Errorf("a sidecar that dies: %v", err)
	}
	if x := i.state(); x.Sidecar.PID != n.Sidecar.PID || !x.Ready || len(x.Sockets) != 2 {
		t.Errorf("%+v", x)
	}
	if got, err := LoadSpec(bad.Path()); err != nil || len(got.Listen) != 2 {
		t.Errorf("the stored spec: %v", err)
	}
	bad.Instance = "other"
	if _, err := i.Update(within(t), bad); err == nil {
		t.Error("a runner took another instance's spec")
	}
}

// TestUpgradeSidecar: another program takes the sockets over once it is ready, and stays; one that does not become ready
// changes nothing.
func TestUpgradeSidecar(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	s := i.ready()
	stop := callers(4, s.Sockets[0].Address)
	for _, bad := range []struct{ program, want string }{
		{"relative", "is not an absolute path"}, {"/no/such", "the old one stays"}, {"/bin/false", "the old one stays"},
	} {
		if err := i.UpgradeSidecar(within(t), bad.program); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", bad.program, err)
		}
	}
	if got, err := LoadSpec(i.spec.Path()); err != nil || got.Sidecar.Command[0] != i.spec.Sidecar.Command[0] {
		t.Errorf("the stored spec after what was refused: %+v, %v", got.Sidecar, err)
	}
	if x := i.state(); x.Sidecar.PID != s.Sidecar.PID {
		t.Errorf("what was refused has replaced the sidecar: %+v", x.Sidecar)
	}
	program := filepath.Join(t.TempDir(), "new")
	if err := os.Link(childProgram, program); err != nil {
		b, rerr := os.ReadFile(childProgram)
		if err = errors.Join(rerr, os.WriteFile(program, b, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.UpgradeSidecar(within(t), program); err != nil {
		t.Fatal(err)
	}
	runs := func() string {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(i.state().Sidecar.PID) + "/cmdline")
		if err != nil {
			return err.Error()
		}
		program, _, _ := strings.Cut(string(b), "\x00")
		return program
	}
	eventually(t, "the new program", func() bool { return runs() == program })
	if err := i.KillSidecar(within(t)); err != nil {
		t.Fatal(err)
	}
	killed := i.state().Sidecar.PID
	eventually(t, "a sidecar after the kill", func() bool { x := i.state(); return x.Ready && x.Sidecar.PID != killed })
	if got := runs(); got != program {
		t.Errorf("after a crash %s runs", got)
	}
	if got, err := LoadSpec(i.spec.Path()); err != nil || got.Sidecar.Command[0] != program || len(got.Sidecar.Command) != len(i.spec.Sidecar.Command) {
		t.Errorf("the stored spec: %+v, %v", got.Sidecar, err)
	}
	if _, refused, _ := stop(); refused > 0 {
		t.Errorf("%d refused", refused)
	}
}

func TestSidecarThatNeverComesUp(t *testing.T) {
	spec := specFor(t, "serve")
	spec.Sidecar.Command = []string{childProgram, "bad-sidecar"}
	i := launch(t, spec)
	var s State
	eventually(t, "some tries", func() bool { s = i.state(); return s.Sidecar.Restarts >= 3 })
	if s.State != process.Starting || s.PID != 0 || s.Reason != "waiting for the sidecar" || s.Sidecar.Reason != "exited with code 7" {
		t.Errorf("%s %q, sidecar %q", s.State, s.Reason, s.Sidecar.Reason)
	}
	good := i.spec
	good.Sidecar = &Sidecar{Command: []string{childProgram, "sidecar"}}
	if _, err := i.Update(within(t), good); err != nil {
		t.Fatal(err)
	}
	i.ready() // the next try is with the new command
}

func TestGateway(t *testing.T) {
	spec := specFor(t)
	spec.Process, spec.Kind, spec.Instance, spec.Service = nil, "gateway", "edge", ""
	spec.Listen = append(spec.Listen, Listen{"sock", "unix", filepath.Join(spec.Dir, strings.Repeat("d", 100), "edge.sock")})
	if err := os.MkdirAll(filepath.Dir(spec.Listen[1].Address), 0o700); err != nil {
		t.Fatal(err)
	}
	i := launch(t, spec)
	s := i.ready()
	if s.PID != 0 || s.State != process.Running {
		t.Errorf("%+v", s)
	}
	if err := i.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a restart", func() bool { n := i.state(); return n.Ready && n.Sidecar.PID != s.Sidecar.PID && n.Restarts == 1 })
	if _, err := ask(s.Sockets[0].Address, "hello"); err != nil {
		t.Error(err)
	}
	if err := i.Drain(within(t), Drain{Propagation: -1, Deadline: time.Second}); err != nil {
		t.Fatal(err)
	}
	if n := i.state(); n.Ready || !n.Sidecar.Draining {
		t.Errorf("a drained gateway: %+v", n.Sidecar)
	}
}

func TestEventsStream(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	ctx := within(t)
	got := make(chan Event, 100)
	done := make(chan error, 1)
	go func() {
		done <- i.Events(ctx, 0, func(e Event) error { got <- e; return nil })
	}()
	i.ready()
	if err := i.Exit(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrGone) {
		t.Errorf("the stream ended with %v", err)
	}
	close(got)
	n, last := uint64(0), Event{}
	for e := range got {
		if n++; e.Number != n {
			t.Fatalf("number %d follows %d", e.Number, n-1)
		}
		last = e
	}
	if last.Kind != Ending {
		t.Errorf("the last event is %+v", last)
	}
	enough := errors.New("enough")
	j := launch(t, specFor(t, "serve"))
	j.ready()
	if err := j.Events(ctx, 2, func(e Event) error {
		if e.Number != 3 {
			t.Errorf("events after 2 begin with %d", e.Number)
		}
		return enough
	}); !errors.Is(err, enough) {
		t.Error(err)
	}
}

func TestTermIsExitAndASecondOneHurries(t *testing.T) {
	spec := specFor(t, "stubborn")
	spec.Process.StopTimeout = time.Hour
	i := launch(t, spec)
	s := i.ready()
	syscall.Kill(s.RunnerPID, syscall.SIGHUP)
	syscall.Kill(s.RunnerPID, syscall.SIGINT)
	syscall.Kill(s.RunnerPID, syscall.SIGTERM)
	i.becomes(process.Stopping)
	syscall.Kill(s.RunnerPID, syscall.SIGTERM)
	eventually(t, "the end", func() bool { return len(belonging(t, spec.Dir)) == 0 })
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	spec := specFor(t, "serve")
	spec.Listen[0].Address = taken.Addr().String()
	if err := spec.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := Launch(within(t), runnerProgram, spec.Path()); err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "inbound/http") {
		t.Errorf("a taken address: %v", err)
	}
	i := launch(t, specFor(t, "serve"))
	i.ready()
	if _, err := Launch(within(t), runnerProgram, i.spec.Path()); err == nil || !strings.Contains(err.Error(), "somebody accepts") {
		t.Errorf("a second runner: %v", err)
	}
	i.ready()
	if _, err := Sweep(i.spec.Dir); !errors.Is(err, ErrLive) {
		t.Errorf("sweep under a live runner: %v", err)
	}
	if _, err := Dial(within(t), t.TempDir()); !errors.Is(err, ErrGone) {
		t.Errorf("no runner: %v", err)
	}
}

func TestFullLogDiskHarmsNobody(t *testing.T) {
	spec := specFor(t, "flood")
	logs := filepath.Join(spec.Dir, LogDir)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("outrigger-test", logs, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small file system cannot be mounted here (see also logfile's TestFullDisk): %v", err)
	}
	t.Cleanup(func() { eventually(t, "unmount", func() bool { return syscall.Unmount(logs, 0) == nil }) })
	i := launch(t, spec)
	s := i.ready()
	var dropped int64
	eventually(t, "the disk to be full, and the process to go on writing", func() bool {
		n := i.state()
		if dropped == 0 {
			dropped = n.Dropped
		}
		return dropped > 0 && n.Dropped > dropped+10000
	})
	if n := i.state(); n.PID != s.PID || !n.Ready || n.Restarts != 0 {
		t.Errorf("%+v", n)
	}
	told := false
	for _, e := range i.state().Events {
		told = told || e.Kind == OutputDropped && strings.Contains(e.Reason, "no space left")
	}
	if !told {
		t.Error("no event tells it")
	}
	if err := i.Exit(within(t), StopOptions{NoDrain: true}); err != nil {
		t.Error(err)
	}
	eventually(t, "the end", func() bool { return len(belonging(t, spec.Dir)) == 0 })
}

func TestMemoryOfAnIdleRunner(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	s := i.ready()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(s.RunnerPID) + "/smaps_rollup")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss_Anon:" {
			kib, _ := strconv.Atoi(f[1])
			t.Logf("%d KiB of anonymous memory", kib)
			if kib > 3<<10 {
				t.Errorf("%d KiB of anonymous memory, want less than 3 MiB", kib)
			}
		}
	}
}
