package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/backoff"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// The programs that the tests run, built once.
var runnerProgram, childProgram string

const launchEnv = "OUTRIGGER_TEST_LAUNCH" // the spec that a launcher, to be killed, launches

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if spec := os.Getenv(launchEnv); spec != "" {
		if _, err := Launch(context.Background(), os.Args[1], spec); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("launched")
		select {}
	}
	dir, err := os.MkdirTemp("", "outrigger-runner-test")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir, "../../cmd/outrigger-runner", "./testdata/child")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("build: %v\n%s", err, out)
		return 1
	}
	runnerProgram, childProgram = filepath.Join(dir, "outrigger-runner"), filepath.Join(dir, "child")
	return m.Run()
}

// instance is one instance under test.
type instance struct {
	*Client
	t    *testing.T
	spec Spec
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(15 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// specFor returns a spec whose process is the child in that mode, with a port of its own and a sidecar.
func specFor(t *testing.T, mode ...string) Spec {
	t.Helper()
	port := freePort(t)
	id := "svc-1.0.0-0"
	return Spec{
		Format: SpecFormat, Instance: id, Service: "svc", Version: "1.0.0", Tenant: "default", Kind: "sidecar",
		Dir: filepath.Join(t.TempDir(), "instances", id),
		Process: &Process{
			Command: append([]string{childProgram}, mode...), Env: []string{"PORT=" + strconv.Itoa(port)}, Dir: "/",
			Ports: []Port{{"http", port}}, StartTimeout: 5 * time.Second, StopTimeout: 2 * time.Second,
			Restart: Restart{Max: 3, Within: time.Minute, Backoff: backoff.Policy{Base: 5 * time.Millisecond, Max: 20 * time.Millisecond}},
		},
		Sidecar: &Sidecar{Command: []string{childProgram, "sidecar"}, Env: []string{"GOMAXPROCS=1"}},
		Listen:  []Listen{{"inbound/http", "tcp", "127.0.0.1:0"}},
		Drain:   Drain{-1, 2 * time.Second},
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// launch saves the spec and starts its runner; at the end of the test nothing may be left of it.
func launch(t *testing.T, s Spec) *instance {
	t.Helper()
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		c := &Client{dir: s.Dir}
		b, _ := os.ReadFile(filepath.Join(s.Dir, LogDir, RunnerLog))
		for _, bad := range []string{"DATA RACE", "panic:", "a state that should not follow"} {
			if strings.Contains(string(b), bad) {
				t.Errorf("runner.log tells of %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("runner.log:\n%s", b)
		}
		if err := c.Exit(ctx, StopOptions{Kill: true}); err != nil && !errors.Is(err, ErrGone) {
			t.Errorf("exit: %v", err)
		}
		eventually(t, "the end of the runner", func() bool { return len(belonging(t, s.Dir)) == 0 })
	})
	c, err := Launch(within(t), runnerProgram, s.Path())
	if err != nil {
		t.Fatal(err)
	}
	return &instance{c, t, s}
}

// belonging lists the processes of the instance in dir, zombies included: the runner by its arguments, the others by their mark.
func belonging(t *testing.T, dir string) []process.Info {
	t.Helper()
	all, err := process.All()
	if err != nil {
		t.Fatal(err)
	}
	var out []process.Info
	for _, i := range all {
		p := "/proc/" + strconv.Itoa(i.PID)
		env, _ := os.ReadFile(p + "/environ")
		args, _ := os.ReadFile(p + "/cmdline")
		if strings.Contains(string(env), markName+"="+dir) || strings.HasPrefix(string(args), runnerProgram) && strings.Contains(string(args), dir+"/") {
			out = append(out, i)
		}
	}
	return out
}

func (i *instance) state() State {
	i.t.Helper()
	s, err := i.State(within(i.t), 0)
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

// becomes waits for a state and returns it.
func (i *instance) becomes(want process.State) State {
	i.t.Helper()
	var s State
	eventually(i.t, string(want), func() bool { s = i.state(); return s.State == want })
	return s
}

func (i *instance) ready() State {
	i.t.Helper()
	var s State
	eventually(i.t, "ready", func() bool { s = i.state(); return s.Ready })
	return s
}

// states lists the states that the events tell, in order.
func states(events []Event) string {
	var out []string
	for _, e := range events {
		if e.Kind == StateChanged && (len(out) == 0 || out[len(out)-1] != string(e.State)) {
			out = append(out, string(e.State))
		}
	}
	return strings.Join(out, " ")
}

// ask sends one line to addr and returns the answer: the pid of who answered.
func ask(addr, line string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(s), err
}
