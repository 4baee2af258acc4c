package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestBadInput applies what is wrong in many ways to a mesh that carries calls. Each is refused, told with file, line
// and field, and changes nothing.
func TestBadInput(t *testing.T) {
	m := harness.Up(t, write(t, []service{orders(2)}))
	load := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1", Workers: 4})
	load.More(100)
	before, pids := m.Must("get", "-o", "json"), m.PS()

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, takenPort, _ := net.SplitHostPort(taken.Addr().String())

	const head = "apiVersion: outrigger.dev/v1\n"
	run := func(name, port, more string) string {
		return head + "kind: Service\nmetadata: {name: " + name + "}\nspec:\n  version: 1.0.0\n  ports: [{name: http, protocol: http" + port +
			"}]\n  run: {command: [" + filepath.Join(m.Bin.Shop, "orders") + "]" + more + "}\n"
	}
	for _, c := range []struct {
		name, yaml string
		line       string   // where, ":N" of the file; "" where another place is told
		want       []string // each in what is printed
	}{
		{"unknown kind", head + "kind: Servise\nmetadata: {name: a}\nspec: {}\n", ":2", []string{"Servise", "did you mean", "Service"}},
		{"unknown field", head + "kind: TrafficSplit\nmetadata: {name: a}\nspec:\n  service: orders\n  splitt: []\n", ":6", []string{"splitt", "did you mean", "split"}},
		{"wrong unit", head + "kind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  service: orders\n  timeout: 5\n", ":6", []string{"timeout"}},
		{"missing reference", head + "kind: TrafficSplit\nmetadata: {name: a}\nspec:\n  service: nobody\n  split: [{version: 1.0.0}]\n", ":5", []string{"nobody"}},
		{"missing version", head + "kind: TrafficSplit\nmetadata: {name: a}\nspec:\n  service: orders\n  split: [{version: 9.0.0}]\n", ":6", []string{"9.0.0"}},
		{"weights of zero", head + "kind: TrafficSplit\nmetadata: {name: a}\nspec:\n  service: orders\n  split: [{version: 1.0.0, weight: 0}]\n", ":6", []string{"weight"}},
		{"later field", head + "kind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  service: orders\n  circuitBreaker: {consecutive: 5}\n", ":6", []string{"circuitBreaker"}},
		{"cycle in after", run("a", "", ", start: {after: [b]}") + "---\n" + run("b", "", ", start: {after: [a]}"), "", []string{"cycle"}},
		{"cycle of supervisors", head + "kind: Supervisor\nmetadata: {name: a}\nspec: {children: [{supervisor: b}]}\n---\n" +
			head + "kind: Supervisor\nmetadata: {name: b}\nspec: {children: [{supervisor: a}]}\n", "", []string{"cycle"}},
		{"two services on one port", run("a", ", number: 45871", "") + "---\n" + run("b", ", number: 45871", ""), "", []string{"45871"}},
		{"port in use", run("a", ", number: "+takenPort, ""), ":6", []string{takenPort}},
		{
			"no executable", head + "kind: Service\nmetadata: {name: a}\nspec:\n  version: 1.0.0\n  ports: [{name: http, protocol: http}]\n  run: {command: [/no/such/program]}\n",
			":7",
			[]string{"/no/such/program"},
		},
		{"not YAML", "kind: [", "", []string{"bad.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bad.yaml")
			if err := os.WriteFile(file, []byte(c.yaml), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := m.Run("apply", "-f", file)
			var ce *harness.CommandError
			if !errors.As(err, &ce) || ce.Code != 1 {
				t.Fatalf("apply: %v, want exit 1", err)
			}
			for _, w := range append(c.want, "bad.yaml"+c.line) {
				if !strings.Contains(ce.Stderr, w) {
					t.Errorf("nothing of %q in:\n%s", w, ce.Stderr)
				}
			}
		})
	}

	t.Run("all at once", func(t *testing.T) {
		bad := head + "kind: TrafficSplit\nmetadata: {name: a}\nspec:\n  service: nobody\n  splitt: []\n---\n" + head + "kind: Servise\nmetadata: {name: a}\nspec: {}\n"
		_, err := m.RunWith(bad, "apply", "-f", "-")
		var ce *harness.CommandError
		if !errors.As(err, &ce) {
			t.Fatalf("apply: %v", err)
		}
		for _, w := range []string{"splitt", "Servise"} {
			if !strings.Contains(ce.Stderr, w) {
				t.Errorf("nothing of %q in:\n%s", w, ce.Stderr)
			}
		}
	})

	if after := m.Must("get", "-o", "json"); after != before {
		t.Errorf("the resources changed:\n%s\nwere\n%s", after, before)
	}
	for i, p := range m.PS() {
		if i >= len(pids) || p.PID != pids[i].PID || p.Sidecar != pids[i].Sidecar {
			t.Errorf("the processes changed: %+v", p)
		}
	}
	if r := load.Stop(); r.Failed != 0 {
		t.Errorf("calls beside it: %v", r)
	}
}

// TestStateOfAnotherVersion: a state directory that another version wrote is left alone.
func TestStateOfAnotherVersion(t *testing.T) {
	m := harness.Prepare(t, write(t, []service{orders(1)}))
	if err := os.MkdirAll(m.State, 0o700); err != nil {
		t.Fatal(err)
	}
	version := filepath.Join(m.State, "version")
	if err := os.WriteFile(version, []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := m.Start()
	if err == nil || !strings.Contains(out, "99") {
		t.Errorf("up: %v\n%s", err, out)
	}
	entries, rerr := os.ReadDir(m.State)
	if rerr != nil || len(entries) != 1 {
		t.Errorf("the directory was touched: %v, %v", entries, rerr)
	}
	if err := os.RemoveAll(m.State); err != nil { // nothing to take down
		t.Fatal(err)
	}
}
