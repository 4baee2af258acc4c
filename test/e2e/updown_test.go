package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestUpAndInterrupt runs `up` as a user does, and ends it by Ctrl-C while calls run.
func TestUpAndInterrupt(t *testing.T) {
	m := harness.Prepare(t, write(t, []service{orders(2), inventory(1)}))
	cmd, output := m.Foreground()
	harness.Eventually(t, 60*time.Second, func() error { return wantStatus(m.Edge, "orders", "/count", http.StatusOK) })
	m.WaitReady()
	slow := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Method: http.MethodPost, Path: "/slow?ms=1500", Workers: 4, Calls: 4})
	harness.Eventually(t, 5*time.Second, func() error {
		sum := 0
		for _, p := range m.Of("orders") {
			n, err := added(p.Address)
			if err != nil {
				return err
			}
			sum += n
		}
		if sum != 4 {
			return fmt.Errorf("%d of 4 calls have arrived", sum)
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("up ended with %v:\n%s", err, output())
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("up does not end:\n%s", output())
	}
	if r := slow.Wait(); r.Failed != 0 {
		t.Errorf("calls in progress were not finished: %v", r)
	}
	for _, want := range []string{m.Edge, "orders", "inventory"} {
		if !strings.Contains(output(), want) {
			t.Errorf("nothing of %q in what up printed:\n%s", want, output())
		}
	}
	m.CheckNoneLeft()
}

// TestDownWithoutControlPlane: `down` ends everything although the control plane is dead.
func TestDownWithoutControlPlane(t *testing.T) {
	m := harness.Up(t, write(t, []service{orders(2)}))
	m.Kill9(m.ControlPID())
	if err := m.Down(); err != nil {
		t.Errorf("down: %v", err)
	}
	m.CheckNoneLeft()
}

// TestCannotStart: why a service does not start is told, with its last words.
func TestCannotStart(t *testing.T) {
	for _, c := range []struct {
		name   string
		script string
		want   []string
	}{
		{"dies at once", "echo the database is not there >&2; exit 7", []string{"the database is not there", "7"}},
		{"ignores PORT", "echo my own port; exec sleep 600", []string{"my own port", "PORT"}},
		{"forks away", "setsid sleep 600 & echo gone to the background; exit 0", []string{"gone to the background"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := harness.Prepare(t, write(t, nil, fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: broken}
spec:
  version: 1.0.0
  ports: [{name: http, protocol: http}]
  run:
    command: [%s, -c, %q]
    restart: {max: 1, within: 60s, backoff: {base: 10ms, max: 20ms}}
    start: {timeout: 1s}
`, shell(t), c.script)))
			out, err := m.Start()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("up: %v, want exit 1", err)
			}
			for _, w := range append(c.want, "broken") {
				if !strings.Contains(out, w) {
					t.Errorf("nothing of %q in what up printed:\n%s", w, out)
				}
			}
		})
	}
}

func shell(t *testing.T) string { return harness.Need(t, "sh") }

// TestCommands goes through the rest of the command line, each with its exit code.
func TestCommands(t *testing.T) {
	m := harness.Up(t, write(t, []service{orders(1), ordersV2(1)}, split(100, 0)))
	code := func(args ...string) int {
		_, err := m.Run(args...)
		var ce *harness.CommandError
		if errors.As(err, &ce) {
			return ce.Code
		}
		return 0
	}
	for _, c := range []struct {
		want int
		args []string
	}{
		{0, []string{"status"}},
		{0, []string{"get"}},
		{0, []string{"get", "service", "orders", "-o", "yaml"}},
		{3, []string{"get", "service", "nobody"}},
		{3, []string{"restart", "nobody"}},
		{2, []string{"get", "--no-such-flag"}},
		{0, []string{"logs", "orders"}},
	} {
		if got := code(c.args...); got != c.want {
			t.Errorf("outrigger %s: exit %d, want %d", strings.Join(c.args, " "), got, c.want)
		}
	}

	first := m.Of("orders@1.0.0")[0]
	m.Must("restart", "orders")
	m.WaitReady()
	if p := m.Of("orders@1.0.0")[0]; p.PID == first.PID {
		t.Errorf("restart left the process as it was: %+v", p)
	}
	m.Must("stop", "orders")
	harness.Eventually(t, 20*time.Second, func() error {
		if p := m.Of("orders@1.0.0")[0]; p.State != "stopped" || p.PID != 0 {
			return fmt.Errorf("after stop: %+v", p)
		}
		return nil
	})
	m.Must("start", "orders")
	m.WaitReady()
	harness.Eventually(t, 10*time.Second, func() error { return wantStatus(m.Edge, "orders", "/count", http.StatusOK) })

	m.Must("delete", "trafficsplit", "orders")
	if got := code("get", "trafficsplit", "orders"); got != 3 {
		t.Errorf("get of what was deleted: exit %d, want 3", got)
	}
	m.Kill9(m.ControlPID())
	if got := code("ps"); got != 4 {
		t.Errorf("ps without a control plane: exit %d, want 4", got)
	}
}
