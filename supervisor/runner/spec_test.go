package runner

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/backoff"
)

func TestSpecRoundTrip(t *testing.T) {
	s := Spec{
		Format: SpecFormat, Instance: "orders-1.0.0-0", Service: "orders", Version: "1.0.0", Tenant: "default", Kind: "sidecar",
		Dir: filepath.Join(t.TempDir(), "orders-1.0.0-0"), Order: 3,
		Process: &Process{
			Command: []string{"python3", "orders.py"}, Env: []string{"PORT=1"}, Dir: "/", Ports: []Port{{"http", 1}}, StopSignal: "SIGINT",
			Restart: Restart{When: Transient, Max: 3, Within: time.Minute, Backoff: backoff.Policy{Kind: backoff.Fibonacci, Base: 1, Max: 2}},
		},
		Sidecar: &Sidecar{Command: []string{"outrigger-sidecar"}, Env: []string{"GOMAXPROCS=1"}},
		Listen:  []Listen{{"inbound/http", "tcp", "127.0.0.1:0"}},
	}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := LoadSpec(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got %+v\nwant %+v", got, s)
	}
	if info, _ := os.Stat(s.Path()); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: the environment holds secrets", info.Mode())
	}
}

func TestSpecDefaults(t *testing.T) {
	s := Spec{Process: &Process{}, Sidecar: &Sidecar{}}
	c := s.Complete()
	if s.Process.StopTimeout != 0 {
		t.Error("Complete changed its receiver")
	}
	p := c.Process
	if p.StartTimeout != 10*time.Second || p.StopTimeout != 10*time.Second || p.StopSignal != "TERM" || p.Restart.When != Permanent ||
		p.Restart.Max != 3 || p.Restart.Within != time.Minute || p.Restart.Backoff.Base != 100*time.Millisecond {
		t.Errorf("%+v", p)
	}
	if c.Drain != (Drain{time.Second, 30 * time.Second}) || c.Log != (Log{50 << 20, 10}) {
		t.Errorf("%+v %+v", c.Drain, c.Log)
	}
	none := Spec{Process: &Process{Restart: Restart{Max: 0, Within: time.Second}}, Drain: Drain{-1, -1}}.Complete()
	if none.Process.Restart.Max != 0 || none.Process.Restart.Backoff.Base != 0 || none.Drain.Deadline != -1 {
		t.Errorf("what was written was replaced: %+v %+v", none.Process.Restart, none.Drain)
	}
}

func TestSpecViolationsAllAtOnce(t *testing.T) {
	err := Spec{
		Format: 9, Instance: "a/b", Dir: "x",
		Process: &Process{Dir: "y", Ports: []Port{{"http", 70000}}, StopSignal: "STOP", Restart: Restart{When: "often", Backoff: backoff.Policy{Kind: "odd"}}},
		Sidecar: &Sidecar{}, Listen: []Listen{{"a", "udp", ""}, {"a", "tcp", ""}},
	}.Validate()
	for _, want := range []string{
		"format", "instance", "dir:", "process.command", "process.dir", "ports[0]", "stopSignal", "restart.when", "backoff", "sidecar.command",
		"listen[0].network", "listen[1].name",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in %v", want, err)
		}
	}
}

func TestLoadSpecRefusesAnotherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), SpecFile)
	if err := os.WriteFile(path, []byte(`{"format":2,"instance":"a","dir":"/a","sidecar":{"command":["x"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSpec(path); err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("got %v", err)
	}
}
