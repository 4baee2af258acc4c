package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

var errStill = errors.New("the old one has not ended yet")

// stubborn is a service that takes a stop signal for nothing.
func stubborn(t *testing.T) string {
	return fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: stubborn}
spec:
  version: 1.0.0
  ports: [{name: http, protocol: http}]
  run:
    command: [%s, -c, %q]
    stop: {timeout: 10m}
`, shell(t), "trap '' TERM; "+filepath.Join(harness.Binaries(t).Shop, "orders")+" & while :; do sleep 1; done")
}

// TestStopIsHurried: a stop that takes its time is hurried by a second signal, and by `down --now`; a `down` beside it waits
// for the same end.
func TestStopIsHurried(t *testing.T) {
	for name, hurry := range map[string]func(*harness.Mesh, *exec.Cmd) error{
		"second signal": func(_ *harness.Mesh, up *exec.Cmd) error { return up.Process.Signal(syscall.SIGTERM) },
		"down --now": func(m *harness.Mesh, _ *exec.Cmd) error {
			_, err := m.Run("down", "--now")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := harness.Prepare(t, write(t, []service{orders(1)}, stubborn(t)))
			up, output := m.Foreground()
			harness.Eventually(t, 60*time.Second, func() error {
				_, err := m.Run("status", "--wait", "30s")
				return err
			})
			if err := up.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, 20*time.Second, func() error {
				for _, p := range m.PS() {
					if p.Instance == "edge" && p.Runner.PID != 0 {
						return errors.New("the edge has not stopped yet")
					}
				}
				return nil
			})
			down := make(chan error, 1)
			go func() {
				_, err := m.Run("down")
				down <- err
			}()
			if err := hurry(m, up); err != nil {
				t.Error(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- up.Wait() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("up: %v\n%s", err, output())
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("up does not end:\n%s", output())
			}
			if err := <-down; err != nil {
				t.Errorf("down beside it: %v", err)
			}
			m.CheckNoneLeft()
		})
	}
}

// TestLauncherKilled: the control plane comes up and goes on although whoever waits for `up --detach` is killed, and the
// reader of its output is gone.
func TestLauncherKilled(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	m := harness.Prepare(t, write(t, []service{orders(1)}, fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: late}
spec:
  version: 1.0.0
  ports: [{name: http, protocol: http}]
  run:
    command: [%s, -c, %q]
    start: {timeout: 60s}
`, shell(t), "until test -e "+gate+"; do sleep 0.05; done; exec "+filepath.Join(harness.Binaries(t).Shop, "orders"))))
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	launcher := m.Detach()
	launcher.Stdout, launcher.Stderr = in, in
	if err := launcher.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	harness.Eventually(t, 30*time.Second, func() error {
		ps, err := m.TryPS()
		if err == nil && len(ps) < 3 {
			err = fmt.Errorf("only %d processes", len(ps))
		}
		return err
	})
	pid := m.ControlPID()
	_ = launcher.Process.Kill()
	_ = launcher.Wait()
	_ = out.Close()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.WaitReady()
	if now := m.ControlPID(); now != pid {
		t.Errorf("another control plane: %d, was %d", now, pid)
	}
	m.PS()
	if err := m.Down(); err != nil {
		t.Errorf("down: %v\n%s", err, m.Log())
	}
	m.CheckNoneLeft()
}
