package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Times that the harness waits at most.
const (
	upTime      = 90 * time.Second
	upWait      = 75 * time.Second // told to up: it ends before we give up, and says why
	commandTime = 60 * time.Second
	// PollEvery is the pause between two looks at a condition.
	PollEvery = 20 * time.Millisecond
)

// Mesh is one running mesh, with a state directory of its own.
type Mesh struct {
	T     testing.TB
	Bin   Bin
	State string // the state directory
	Edge  string // host:port of the edge

	args []string // of up, so that a new control plane can be started

	mu   sync.Mutex
	seen map[int]uint64 // every pid that PS ever told, with its start time
}

// Up starts a mesh from files (or directories) of resources and returns when all is ready. When the test ends it is
// taken down, and the test fails where a process of it is left.
func Up(t testing.TB, files ...string) *Mesh {
	t.Helper()
	m := Prepare(t, files...)
	if out, err := m.Start(); err != nil {
		t.Fatalf("outrigger up: %v\n%s\n%s", err, out, m.Log())
	}
	m.PS()
	return m
}

// Prepare is Up without the start: for tests of the start itself.
func Prepare(t testing.TB, files ...string) *Mesh {
	t.Helper()
	m := &Mesh{T: t, Bin: Binaries(t), State: filepath.Join(t.TempDir(), "state"), Edge: FreeAddr(t), seen: map[int]uint64{}}
	for _, f := range files {
		m.args = append(m.args, "-f", f)
	}
	t.Cleanup(m.cleanup)
	return m
}

// Start runs `outrigger up --detach`, at first or once more after the control plane has died. It returns what was printed.
func (m *Mesh) Start(more ...string) (string, error) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), upTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.Bin.Outrigger, m.detachArgs(more)...)
	cmd.Env = m.Env()
	// What is detached may hold the descriptors open: files do not keep Run waiting, pipes would.
	out, err := runToFile(m.T, cmd)
	if ctx.Err() != nil {
		err = fmt.Errorf("not ready within %v: %w", upTime, err)
	}
	return out, err
}

// Detach is the command that Start runs, not started.
func (m *Mesh) Detach(more ...string) *exec.Cmd {
	cmd := exec.Command(m.Bin.Outrigger, m.detachArgs(more)...)
	cmd.Env = m.Env()
	return cmd
}

func (m *Mesh) detachArgs(more []string) []string {
	args := append([]string{"up", "--detach", "--wait", upWait.String(), "--state", m.State, "--edge", m.Edge}, m.args...)
	return append(args, more...)
}

// Foreground starts `outrigger up` without --detach, its output going to a file, and returns the command and a function that
// reads the output so far.
func (m *Mesh) Foreground(more ...string) (*exec.Cmd, func() string) {
	m.T.Helper()
	f, err := os.CreateTemp(m.T.TempDir(), "up")
	if err != nil {
		m.T.Fatal(err)
	}
	args := append([]string{"up", "--state", m.State, "--edge", m.Edge}, m.args...)
	cmd := exec.Command(m.Bin.Outrigger, append(args, more...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = m.Env(), f, f
	if err := cmd.Start(); err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = f.Close()
	})
	return cmd, func() string {
		b, _ := os.ReadFile(f.Name())
		return string(b)
	}
}

// marker is put into the environment of everything that a test starts; see processes.
const marker = "OUTRIGGER_TEST_MESH"

// Env is the environment in which a test starts programs that belong to the mesh, so that none of them is overlooked
// at the end.
func (m *Mesh) Env() []string { return append(os.Environ(), marker+"="+m.State) }

func runToFile(t testing.TB, cmd *exec.Cmd) (string, error) {
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		return "", err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	b, rerr := os.ReadFile(f.Name())
	return string(b), errors.Join(err, rerr)
}

// Run runs one command of outrigger on this mesh and returns its standard output; an error carries its standard error.
func (m *Mesh) Run(args ...string) (string, error) { return m.RunWith("", args...) }

// RunWith is Run with a text on standard input.
func (m *Mesh) RunWith(stdin string, args ...string) (string, error) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.Bin.Outrigger, append(args, "--state", m.State)...)
	cmd.Env = m.Env()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), &CommandError{Args: args, Code: cmd.ProcessState.ExitCode(), Stderr: errOut.String(), err: err}
	}
	return out.String(), nil
}

// CommandError is a command that did not exit with 0.
type CommandError struct {
	Args   []string
	Code   int
	Stderr string
	err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("outrigger %s: %v\n%s", strings.Join(e.Args, " "), e.err, e.Stderr)
}

func (e *CommandError) Unwrap() error { return e.err }

// Must is Run for what has to work.
func (m *Mesh) Must(args ...string) string {
	m.T.Helper()
	out, err := m.Run(args...)
	if err != nil {
		m.T.Fatal(err)
	}
	return out
}

// Apply applies a text of resources.
func (m *Mesh) Apply(yaml string) {
	m.T.Helper()
	if _, err := m.RunWith(yaml, "apply", "-f", "-"); err != nil {
		m.T.Fatal(err)
	}
}

// Process is a line of `outrigger ps -o json`.
type Process struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Tenant   string `json:"tenant"`
	Instance string `json:"instance"`
	PID      int    `json:"pid"`
	State    string `json:"state"`
	Restarts int    `json:"restarts"`
	Ready    bool   `json:"ready"`
	Sidecar  struct {
		PID int `json:"pid"`
	} `json:"sidecar"`
	Runner struct {
		PID int `json:"pid"`
	} `json:"runner"`
	Address string `json:"address"`
}

// PS returns the processes.
func (m *Mesh) PS() []Process {
	m.T.Helper()
	ps, err := m.TryPS()
	if err != nil {
		m.T.Fatal(err)
	}
	return ps
}

// TryPS is PS where it may fail.
func (m *Mesh) TryPS() ([]Process, error) {
	m.T.Helper()
	out, err := m.Run("ps", "-o", "json")
	if err != nil {
		return nil, err
	}
	var ps []Process
	if err := json.Unmarshal([]byte(out), &ps); err != nil {
		return nil, fmt.Errorf("ps -o json: %w in %q", err, out)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range ps {
		for _, pid := range []int{p.PID, p.Sidecar.PID, p.Runner.PID} {
			if s, ok := startTime(pid); ok {
				m.seen[pid] = s
			}
		}
	}
	return ps, nil
}

// Of returns the instances of a service; "orders" all of its versions, "orders@1.0.0" one. It fails the test where
// there is none.
func (m *Mesh) Of(service string) []Process {
	m.T.Helper()
	name, version, _ := strings.Cut(service, "@")
	var of []Process
	for _, p := range m.PS() {
		if p.Service == name && (version == "" || p.Version == version) {
			of = append(of, p)
		}
	}
	if len(of) == 0 {
		m.T.Fatalf("no instance of %s", service)
	}
	return of
}

// ControlPID is the control plane's pid, as the state directory's lock tells it.
func (m *Mesh) ControlPID() int {
	m.T.Helper()
	b, err := os.ReadFile(filepath.Join(m.State, "lock"))
	if err != nil {
		m.T.Fatalf("the control plane's pid: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		m.T.Fatalf("the control plane's pid: %q in %s/lock", b, m.State)
	}
	return pid
}

// Kill9 sends SIGKILL to a process of this mesh and returns when it is gone.
func (m *Mesh) Kill9(pid int) {
	m.T.Helper()
	if pid <= 1 {
		m.T.Fatalf("kill -9 %d: not a process of the mesh", pid)
	}
	start, ok := startTime(pid)
	if !ok {
		m.T.Fatalf("kill -9 %d: it does not run", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		m.T.Fatalf("kill -9 %d: %v", pid, err)
	}
	Eventually(m.T, 10*time.Second, func() error {
		if f, ok := stat(pid); ok && f[0] != "Z" && f[19] == strconv.FormatUint(start, 10) {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	})
}

// WaitReady waits until all is ready.
func (m *Mesh) WaitReady() {
	m.T.Helper()
	if _, err := m.Run("status", "--wait", "45s"); err != nil {
		m.T.Fatalf("%v\n%s", err, m.Log())
	}
}

// Down takes the mesh down; also when the control plane is dead.
func (m *Mesh) Down() error {
	m.T.Helper()
	_, err := m.Run("down")
	return err
}

// Log is the control plane's log, its end only where it is long.
func (m *Mesh) Log() string { return tail(filepath.Join(m.State, "control.log")) }

// Logs gathers the logs of all instances, for a test that failed.
func (m *Mesh) Logs() string {
	var b strings.Builder
	fmt.Fprintf(&b, "--- control.log\n%s", m.Log())
	files, _ := filepath.Glob(filepath.Join(m.State, "instances", "*", "log", "*.log"))
	for _, f := range files {
		rel, _ := filepath.Rel(m.State, f)
		fmt.Fprintf(&b, "--- %s\n%s", rel, tail(f))
	}
	return b.String()
}

// maxTail is how much of a log is shown, in bytes.
const maxTail = 6000

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error() + "\n"
	}
	if len(b) > maxTail {
		b = append([]byte("…\n"), b[len(b)-maxTail:]...)
	}
	return string(b)
}

func (m *Mesh) cleanup() {
	m.T.Helper()
	if m.T.Failed() {
		m.T.Log(m.Logs())
	}
	// Some tests have taken it down, or killed the control plane: there may be nothing left to do.
	if len(m.processes()) > 0 {
		if err := m.Down(); err != nil {
			m.T.Errorf("down: %v", err)
		}
	}
	m.CheckNoneLeft()
}

// CheckNoneLeft fails the test where a process of this mesh still runs; it ends what it finds, so that the next test
// begins clean.
func (m *Mesh) CheckNoneLeft() {
	m.T.Helper()
	var left []string
	deadline := time.Now().Add(5 * time.Second)
	for {
		left = nil
		for _, p := range m.processes() {
			left = append(left, fmt.Sprintf("%d %s", p.pid, p.what))
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			break
		}
		<-time.After(PollEvery)
	}
	m.T.Errorf("left behind after down:\n%s", strings.Join(left, "\n"))
	for _, p := range m.processes() {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// FreeAddr returns a loopback address that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Eventually calls f until it returns nil; it fails the test with f's last error after d.
func Eventually(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", d, err)
		}
		<-time.After(PollEvery)
	}
}
