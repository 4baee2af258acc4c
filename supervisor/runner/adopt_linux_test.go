package runner

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

func TestAdoptionAfterTheLauncherIsKilled(t *testing.T) {
	spec := specFor(t, "serve")
	if err := spec.Save(); err != nil {
		t.Fatal(err)
	}
	l := exec.Command(os.Args[0], runnerProgram)
	l.Env = append(os.Environ(), launchEnv+"="+spec.Path())
	out, err := l.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "launched\n" {
		t.Fatalf("%q, %v", line, err)
	}
	l.Process.Kill()
	l.Wait()

	stateDir := filepath.Dir(filepath.Dir(spec.Dir))
	found, err := Find(stateDir)
	if err != nil || len(found) != 1 || !found[0].Live || found[0].Instance != spec.Instance || found[0].Spec == nil {
		t.Fatalf("%+v, %v", found, err)
	}
	c, err := Dial(within(t), found[0].Dir)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{c, t, spec}
	s := i.ready()
	if s.RunnerPID != found[0].PID {
		t.Error("another runner answers")
	}
	if err := i.Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a restart", func() bool { n := i.state(); return n.Ready && n.Restarts == 1 && len(n.Exits) == 1 })
	if err := i.Exit(within(t), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool { return len(belonging(t, spec.Dir)) == 0 })
}

func TestSweepBehindAKilledRunner(t *testing.T) {
	spec := specFor(t, "stubborn")
	i := launch(t, spec)
	s := i.ready()
	syscall.Kill(s.RunnerPID, syscall.SIGKILL)
	eventually(t, "its end", func() bool { return !process.Alive(s.RunnerPID, 0) && len(belonging(t, spec.Dir)) == 3 })
	if _, err := ask(s.Sockets[0].Address, "hello"); err != nil {
		t.Errorf("the sidecar does not serve on: %v", err)
	}
	found, err := Find(filepath.Dir(filepath.Dir(spec.Dir)))
	if err != nil || len(found) != 1 || found[0].Live || found[0].PID != s.RunnerPID {
		t.Fatalf("%+v, %v", found, err)
	}
	n, err := Sweep(spec.Dir)
	if err != nil || n != 3 {
		t.Errorf("swept %d, %v; want 3", n, err)
	}
	eventually(t, "nothing to be left", func() bool { return len(belonging(t, spec.Dir)) == 0 })
	if n, err := Sweep(spec.Dir); err != nil || n != 0 {
		t.Errorf("a second sweep: %d, %v", n, err)
	}
	again := launch(t, spec)
	again.ready()

	// Without a sweep in between, a new runner cleans up by itself.
	s = again.state()
	syscall.Kill(s.RunnerPID, syscall.SIGKILL)
	eventually(t, "its end", func() bool { return len(belonging(t, spec.Dir)) == 3 })
	third := launch(t, spec)
	if x := third.ready(); x.PID == s.PID {
		t.Error("an orphan was taken for the process")
	}
	if n := len(belonging(t, spec.Dir)); n != 4 {
		t.Errorf("%d processes, want 4", n)
	}
}

func TestStopWaitsForCallsInFlightUntilTheDeadline(t *testing.T) {
	for name, tc := range map[string]struct {
		deadline time.Duration
		answered bool
		says     string
	}{
		"in time": {5 * time.Second, true, "all calls in flight have ended"},
		"cut":     {50 * time.Millisecond, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			spec := specFor(t, "serve")
			spec.Drain.Deadline = tc.deadline
			i := launch(t, spec)
			s := i.ready()
			c, err := net.Dial("tcp", s.Sockets[0].Address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReader(c)
			if _, err := c.Write([]byte("hello\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := r.ReadString('\n'); err != nil { // the sidecar has accepted it
				t.Fatal(err)
			}
			answer := make(chan error, 1)
			if _, err := c.Write([]byte("slow\n")); err != nil {
				t.Fatal(err)
			}
			go func() {
				_, err := r.ReadString('\n')
				c.Close() // else the connection is in flight for ever
				answer <- err
			}()
			if err := i.Stop(within(t), StopOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := <-answer; (err == nil) != tc.answered {
				t.Errorf("the call in flight: %v", err)
			}
			found := false
			for _, e := range i.state().Events {
				found = found || e.Kind == Drained && (tc.says == "" || e.Reason == tc.says)
			}
			if !found {
				t.Error("no event tells how it drained")
			}
		})
	}
}
