package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/handoff"
	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// The test binary is a service and a sidecar too, by the name under which it is started.
const (
	serviceName = "test-service"
	sidecarName = "test-sidecar"
)

var runnerProgram, serviceProgram, sidecarProgram string

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case serviceName:
		os.Exit(service())
	case sidecarName:
		os.Exit(sidecar())
	}
	dir, err := os.MkdirTemp("", "host-test")
	if err != nil {
		panic(err)
	}
	code := 1
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else if code = m.Run(); code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func prepare(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runnerProgram = filepath.Join(dir, "outrigger-runner")
	// A program with the race detector waits for a second at its end, for reports of others.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		return err
	}
	serviceProgram, sidecarProgram = filepath.Join(dir, serviceName), filepath.Join(dir, sidecarName)
	cmd := exec.Command("go", "build", "-o", runnerProgram, "github.com/outrigger-mesh/outrigger/cmd/outrigger-runner")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the runner: %w\n%s", err, out)
	}
	return errors.Join(os.Symlink(self, serviceProgram), os.Symlink(self, sidecarProgram))
}

// service answers with its environment until it is told to end; with FAIL it ends at once, with STUBBORN never.
func service() int {
	if why := os.Getenv("FAIL"); why != "" {
		fmt.Println("cannot start:", why)
		return 3
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("listening as", os.Getenv("OUTRIGGER_INSTANCE"))
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Join(os.Environ(), "\n"))
		}))
	}()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
	for os.Getenv("STUBBORN") != "" {
		<-told
	}
	return 0
}

// sidecar speaks with its runner as the real one does, and carries nothing.
func sidecar() int {
	p, err := handoff.Dial()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer p.Close()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	go func() {
		g, err := p.Hello(context.Background())
		if err == nil && len(g.Sockets) > 0 {
			_ = p.Ready()
		}
	}()
	for {
		select {
		case c, ok := <-p.Commands():
			if !ok {
				<-told
				return 0
			}
			if _, ok := c.(handoff.Drain); ok {
				_ = p.Drained()
			}
		case <-told:
			return 0
		}
	}
}

// mesh is a host in a test, with what its sink was told.
type mesh struct {
	*Host
	t      *testing.T
	dir    string
	cancel context.CancelFunc
	done   chan error

	mu   sync.Mutex
	told [][]Instance
}

func begin(t *testing.T, dir string, change ...func(*Config)) *mesh {
	t.Helper()
	m := &mesh{t: t, dir: dir, done: make(chan error, 1)}
	cfg := Config{
		StateDir: dir, Launcher: NewLauncher(runnerProgram), Sidecar: sidecarProgram,
		Drain: runner.Drain{Propagation: time.Millisecond, Deadline: time.Second},
		Sink: func(_ context.Context, all []Instance) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.told = append(m.told, all)
			return nil
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Host = h
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { m.done <- h.Serve(ctx) }()
	return m
}

// leave ends the control plane and lets the mesh go on.
func (m *mesh) leave() {
	m.t.Helper()
	m.cancel()
	if err := <-m.done; !errors.Is(err, context.Canceled) {
		m.t.Errorf("serve: %v", err)
	}
	if err := m.Close(); err != nil {
		m.t.Error(err)
	}
}

// down stops all and looks for what is left.
func (m *mesh) down() []string {
	m.t.Helper()
	var mu sync.Mutex
	var lines []string
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pids := m.pids()
	if err := m.Down(ctx, false, func(s string) { mu.Lock(); defer mu.Unlock(); lines = append(lines, s) }); err != nil {
		m.t.Error(err)
	}
	for _, pid := range pids {
		waitFor(m.t, fmt.Sprintf("pid %d to be gone", pid), func() bool { return !running(pid) })
	}
	m.leave()
	return lines
}

func (m *mesh) pids() []int {
	var out []int
	for _, p := range m.Processes() {
		out = append(out, p.PID, p.Sidecar.PID, p.Runner.PID)
	}
	slices.Sort(out)
	return slices.DeleteFunc(out, func(p int) bool { return p == 0 })
}

func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func (m *mesh) ready() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if r := m.WaitReady(ctx); !r.Ready {
		m.dump()
		m.t.Fatalf("not ready: %q", r.Reasons)
	}
}

func (m *mesh) dump() {
	entries, _ := m.Events().Since(0)
	for _, e := range entries {
		m.t.Logf("%d %s %s %s", e.Seq, e.Event.Kind, e.Event.Instance, e.Event.Text)
	}
}

func (m *mesh) process(id string) Process {
	m.t.Helper()
	for _, p := range m.Processes() {
		if p.Instance == id {
			return p
		}
	}
	m.t.Fatalf("no process %s in %+v", id, m.Processes())
	return Process{}
}

// environ asks the service behind an instance what it was told.
func (m *mesh) environ(id string) map[string]string {
	m.t.Helper()
	var addr string
	for _, i := range m.Instances() {
		if i.ID == id {
			addr = i.Local.Process["http"]
		}
	}
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get("http://" + addr)
	if err != nil {
		m.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	out := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(line, "=")
		out[k] = v
	}
	return out
}

type option func(*resource.Service)

func size(n int) option { return func(s *resource.Service) { s.Pool = &resource.Pool{Size: &n} } }
func env(k, v string) option {
	return func(s *resource.Service) { s.Run.Env[k] = v }
}

func after(name, condition string) option {
	return func(s *resource.Service) {
		s.Run.Start = &resource.Start{After: resource.After{{Service: name, Condition: condition}}}
	}
}

func uses(names ...string) option { return func(s *resource.Service) { s.Uses = names } }

func never() option {
	return func(s *resource.Service) {
		zero := 0
		s.Run.Restart = &resource.Restart{Max: &zero, Within: time.Minute}
	}
}

func key(name string) model.ServiceKey {
	return model.ServiceKey{Tenant: resource.DefaultTenant, Name: name}
}

// world makes a model of services.
type world struct{ services map[string][]option }

func (w world) input(sups ...func(map[SupervisorKey]*resource.Supervisor)) Input {
	m := &model.Model{Host: "here", Services: map[model.ServiceKey]*model.Service{}, Gateways: []*model.Gateway{
		{Tenant: resource.DefaultTenant, Name: "edge", Node: "edge", Edge: true, Listen: "127.0.0.1:0"},
	}}
	for name, options := range w.services {
		s := &resource.Service{
			Version: "1.0.0", Ports: []resource.Port{{Name: "http", Protocol: resource.HTTP}},
			Run: &resource.Run{Command: []string{serviceProgram}, Dir: "/", Env: map[string]string{}},
		}
		for _, o := range options {
			o(s)
		}
		v := &model.Version{Version: "1.0.0", Ports: []model.Port{{Name: "http", Protocol: resource.HTTP}}, Spec: s, Here: true}
		for _, u := range s.Uses {
			v.Uses = append(v.Uses, key(u))
		}
		m.Services[key(name)] = &model.Service{ServiceKey: key(name), Ports: v.Ports, Versions: []*model.Version{v}}
	}
	in := Input{Model: m, Supervisors: map[SupervisorKey]*resource.Supervisor{}}
	for _, f := range sups {
		f(in.Supervisors)
	}
	return in
}

func TestLife(t *testing.T) {
	dir := t.TempDir()
	m := begin(t, dir)
	w := world{map[string][]option{
		"inventory": {size(2)},
		"orders":    {after("inventory", resource.Healthy), uses("inventory"), env("LOG", "{{ .StateDir }}/x {{ .Instance }}")},
	}}
	m.Apply(w.input())
	m.ready()

	p := m.process("orders-1.0.0-0")
	if p.PID == 0 || p.Sidecar.PID == 0 || p.Runner.PID == 0 || p.State != "running" || p.Address == "" {
		t.Errorf("%+v", p)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil || len(fields) != 11 {
		t.Errorf("fields of ps: %s", b)
	}
	e := m.environ("orders-1.0.0-0")
	if e["LOG"] != dir+"/x orders-1.0.0-0" || e["PORT"] == "" || e["PORT"] != e["PORT_HTTP"] ||
		!strings.HasPrefix(e["OUTRIGGER_INVENTORY_URL"], "http://127.0.0.1:") || e["OUTRIGGER_INVENTORY_ADDR"] == "" || e["OUTRIGGER_INVENTORY_HTTP_URL"] != e["OUTRIGGER_INVENTORY_URL"] {
		t.Errorf("told: %v", e)
	}

	// The control plane goes and comes back: all is adopted as it was.
	before := m.Processes()
	m.leave()
	for _, p := range before {
		if !running(p.Runner.PID) {
			t.Errorf("runner of %s ended with the control plane", p.Instance)
		}
	}
	t.Setenv("SOMETHING", "new in the environment") // which is no reason to replace anything
	m = begin(t, dir)
	m.Apply(w.input())
	m.ready()
	now := m.Processes()
	for i := range before {
		a, b := before[i], now[i]
		if a.PID != b.PID || a.Sidecar != b.Sidecar || a.Runner != b.Runner || a.Address != b.Address || !b.Adopted {
			t.Errorf("not adopted: %+v\nthen %+v", a, b)
		}
	}

	// A killed process is restarted by its runner, and counted.
	ctx := t.Context()
	if _, err := m.Kill(ctx, "", "orders@1.0.0"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the restart", func() bool {
		p := m.process("orders-1.0.0-0")
		return p.Restarts == 1 && p.Ready
	})
	// A killed runner is replaced, and what it left is ended.
	old := m.process("inventory-1.0.0-1")
	if err := syscall.Kill(old.Runner.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another runner", func() bool {
		p := m.process("inventory-1.0.0-1")
		return p.Runner.PID != 0 && p.Runner.PID != old.Runner.PID && p.Ready
	})
	if running(old.PID) || running(old.Sidecar.PID) {
		t.Error("the killed runner's processes live on")
	}

	// What a user stops stays stopped over the control plane's restart.
	if _, err := m.Stop(ctx, "", "inventory-1.0.0-0"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Stop(ctx, "", "nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	m.leave()
	m = begin(t, dir)
	m.Apply(w.input())
	m.ready()
	if p := m.process("inventory-1.0.0-0"); p.State != "stopped" || p.PID != 0 {
		t.Errorf("%+v", p)
	}
	if _, err := m.Start(ctx, "", "inventory"); err != nil {
		t.Fatal(err)
	}
	m.ready()
	lines := m.down()
	at := func(s string) int {
		return slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, s) })
	}
	if at("edge") < 0 || at("edge") > at("orders") || at("orders") > at("inventory") {
		t.Errorf("order of stopping: %q", lines)
	}
}

// A changed environment replaces the instances one by one, each withdrawn before it is stopped and healthy before the
// next goes.
func TestRollingReplacement(t *testing.T) {
	m := begin(t, t.TempDir())
	w := world{map[string][]option{"orders": {size(3)}, "other": {}}}
	m.Apply(w.input())
	m.ready()
	before := map[string]Process{}
	for _, p := range m.Processes() {
		before[p.Instance] = p
	}
	m.mu.Lock()
	m.told = nil
	m.mu.Unlock()
	w.services["orders"] = []option{size(3), env("COLOR", "blue")}
	m.Apply(w.input())
	waitFor(t, "the replacement", func() bool {
		for id, p := range before {
			if now := m.process(id); strings.HasPrefix(id, "orders") && (now.PID == p.PID || !now.Ready) {
				return false
			}
		}
		return true
	})
	if e := m.environ("orders-1.0.0-2"); e["COLOR"] != "blue" {
		t.Errorf("told: %v", e)
	}
	for _, id := range []string{"other-1.0.0-0", "edge"} {
		if m.process(id).PID != before[id].PID || m.process(id).Sidecar != before[id].Sidecar {
			t.Errorf("%s was replaced too", id)
		}
	}
	m.mu.Lock()
	for _, all := range m.told {
		up := 0
		for _, i := range all {
			if i.Service.Name == "orders" && i.Advertised {
				up++
			}
		}
		if up < 2 {
			t.Errorf("only %d of 3 were advertised", up)
		}
	}
	m.mu.Unlock()
	for id, p := range before {
		if now := m.process(id); now.Runner != p.Runner || now.Address != p.Address {
			t.Errorf("%s has another runner or address", id)
		}
	}

	// A smaller pool, and a service less.
	gone := m.process("orders-1.0.0-2")
	delete(w.services, "other")
	w.services["orders"] = []option{size(2), env("COLOR", "blue")}
	m.Apply(w.input())
	waitFor(t, "what was removed to be gone", func() bool {
		return len(m.Processes()) == 3 && !running(gone.PID) && !running(gone.Runner.PID)
	})
	m.down()
}

// A service that cannot start says why, is given up at last, and leaves others alone; a change helps it up.
func TestBrokenService(t *testing.T) {
	m := begin(t, t.TempDir())
	w := world{map[string][]option{"good": {}, "bad": {env("FAIL", "no database"), never()}, "late": {after("bad", resource.Healthy)}}}
	m.Apply(w.input())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := m.WaitReady(ctx)
	all := strings.Join(r.Reasons, "\n")
	if r.Ready || !r.Fatal || !strings.Contains(all, "cannot start: no database") || !strings.Contains(all, "waits for bad to be healthy") {
		t.Errorf("%+v", r)
	}
	if p := m.process("good-1.0.0-0"); !p.Ready {
		t.Errorf("%+v", p)
	}
	if n := m.Tree().Children; n[0].Name != "bad@1.0.0" || n[0].Children[0].State != supervisor.StateFailed || n[0].Children[0].Restarts != 3 {
		t.Errorf("given up early: %+v", n[0])
	}
	w.services["bad"] = []option{never()}
	m.Apply(w.input())
	m.ready()
	m.down()
}

// Under a Supervisor a failed instance is a failure of its service, by the Supervisor's rules.
func TestSupervisorResource(t *testing.T) {
	m := begin(t, t.TempDir())
	shop := func(sups map[SupervisorKey]*resource.Supervisor) {
		one := 1
		sups[SupervisorKey{resource.DefaultTenant, "shop"}] = &resource.Supervisor{
			Strategy: resource.RestForOne, Intensity: &resource.Intensity{Restarts: &one, Within: time.Minute},
			Children: []resource.SupervisorChild{{Service: "a"}, {Service: "b"}, {Service: "c"}},
		}
	}
	w := world{map[string][]option{"a": {}, "b": {never()}, "c": {}, "free": {}}}
	m.Apply(w.input())
	m.ready()
	before := m.pids()
	m.Apply(w.input(shop)) // arranged anew, nothing restarted
	waitFor(t, "the tree", func() bool {
		return slices.ContainsFunc(m.Tree().Children, func(n supervisor.Node) bool { return n.Name == "supervisor/default/shop" && n.State == "running" })
	})
	m.ready()
	if now := m.pids(); !slices.Equal(before, now) {
		t.Errorf("processes changed: %v, %v", before, now)
	}
	a, b, c := m.process("a-1.0.0-0"), m.process("b-1.0.0-0"), m.process("c-1.0.0-0")
	if _, err := m.Kill(t.Context(), "", "b"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "b and c to be restarted", func() bool {
		nb, nc := m.process("b-1.0.0-0"), m.process("c-1.0.0-0")
		return nb.Ready && nc.Ready && nb.PID != b.PID && nc.PID != c.PID
	})
	if m.process("a-1.0.0-0").PID != a.PID {
		t.Error("a was restarted too")
	}
	// Once more, and the tree has failed: seen, and the rest goes on.
	if _, err := m.Kill(t.Context(), "", "b"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the tree's failure", func() bool {
		r := m.Ready()
		return r.Fatal && strings.Contains(strings.Join(r.Reasons, "\n"), "shop has failed")
	})
	if p := m.process("free-1.0.0-0"); !p.Ready {
		t.Errorf("%+v", p)
	}
	if _, err := m.Start(t.Context(), "", "b"); err != nil {
		t.Fatal(err)
	}
	m.ready()
	m.down()
}

// Health is what the sidecar reports, where there is a check; it is known still after the control plane's restart.
func TestHealthReports(t *testing.T) {
	dir := t.TempDir()
	m := begin(t, dir)
	w := world{map[string][]option{"orders": {func(s *resource.Service) { s.Health = &resource.Health{HTTP: "/healthz"} }}}}
	m.Apply(w.input())
	waitFor(t, "the process", func() bool { return len(m.Processes()) == 2 && m.process("orders-1.0.0-0").State == "running" })
	if p := m.process("orders-1.0.0-0"); p.Ready {
		t.Errorf("ready before any check: %+v", p)
	}
	m.Report("orders-1.0.0-0", Report{Ready: true, Health: []ClusterHealth{{Cluster: "inbound/http", State: Healthy}}})
	m.ready()
	last := func() (Instance, bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.told) == 0 || len(m.told[len(m.told)-1]) == 0 {
			return Instance{}, false
		}
		return m.told[len(m.told)-1][0], true
	}
	waitFor(t, "the instance to be advertised", func() bool { i, ok := last(); return ok && i.Advertised })
	if i, _ := last(); len(i.Endpoints("here")) != 1 || !i.Endpoints("here")[0].Health.Serves() {
		t.Errorf("%+v", i)
	}
	// A sidecar that takes another's place has found nothing yet: what is known of the process holds.
	waitFor(t, "what was found to be kept", func() bool {
		m.Host.mu.Lock()
		defer m.Host.mu.Unlock()
		return m.last["orders-1.0.0-0"].Healthy
	})
	m.Report("orders-1.0.0-0", Report{Ready: true, Health: []ClusterHealth{{Cluster: "inbound/http", State: HealthUnknown}}})
	if all := m.Instances(); len(all) != 1 || !all[0].Healthy || !all[0].Advertised {
		t.Errorf("after a report that says nothing: %+v", all)
	}
	m.leave()
	m = begin(t, dir)
	m.Apply(w.input())
	m.ready() // with no report at all
	m.Report("orders-1.0.0-0", Report{Ready: true, Health: []ClusterHealth{{Cluster: "inbound/http", State: Unhealthy, Reason: "503"}}})
	waitFor(t, "the withdrawal", func() bool { i, ok := last(); return ok && !i.Advertised && !i.Healthy })
	m.down()
}

// Down works without a control plane.
func TestDownOffline(t *testing.T) {
	dir := t.TempDir()
	m := begin(t, dir)
	m.Apply(world{map[string][]option{"a": {}, "b": {after("a", resource.Started)}}}.input())
	m.ready()
	pids := m.pids()
	m.leave()
	var lines []string
	if err := DownOffline(t.Context(), dir, NewLauncher(runnerProgram), runner.StopOptions{}, func(s string) { lines = append(lines, s) }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"stopped edge", "stopped b-1.0.0-0", "stopped a-1.0.0-0"}; !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
	for _, pid := range pids {
		waitFor(t, "the end", func() bool { return !running(pid) })
	}
}
