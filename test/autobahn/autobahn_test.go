// Package autobahn runs the Autobahn test suite's WebSocket client against the suite's echo server by itself, through a
// sidecar, and through two sidecars that speak HTTP/2 to each other (RFC 8441). What the suite says of the server by itself
// it has to say of the others: a proxy neither mends nor breaks a frame.
//
// The suite needs Python 2.7, which few machines have: `make autobahn` installs it where there is one, and says so where
// there is none. Without it the test is skipped.
package autobahn

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"go.uber.org/goleak"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// leastCases is how many there are of the suite, compression left out.
	leastCases = 300
	wholeTime  = 10 * time.Minute
)

// verdicts is what the suite says: agent, case, verdict.
type verdicts map[string]map[string]struct{ Behavior, BehaviorClose string }

func TestAutobahn(t *testing.T) {
	wstest := strings.Fields(os.Getenv("OUTRIGGER_WSTEST"))
	if len(wstest) == 0 {
		t.Skip("OUTRIGGER_WSTEST does not name the suite's program: make autobahn")
	}
	echo := harness.FreeAddr(t)
	start(t, echo, wstest[0], append(wstest[1:], "-m", "echoserver", "-w", "ws://"+echo)...)
	dir, err := os.MkdirTemp("", "autobahn") //nolint:usetesting // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	plain, outer, inner := harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t)
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	var b bytes.Buffer
	tpl := template.Must(template.ParseFiles("testdata/bootstrap.yaml.tmpl"))
	type listener struct{ Name, Port, Cluster, Options string }
	if err := tpl.Execute(&b, map[string]any{"Inner": port(inner), "Backend": port(echo), "Listeners": []listener{
		{"plain", port(plain), "echo", ""},
		{"outer", port(outer), "inner", ""},
		{"inner", port(inner), "echo", "http2_protocol_options: {allow_connect: true}"},
	}}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, plain, filepath.Join(harness.Binaries(t).Dir, "outrigger-sidecar"), "-c", file, "-log-level", "warn")

	spec, err := json.Marshal(map[string]any{
		"outdir": filepath.Join(dir, "reports"),
		"servers": []map[string]string{
			{"agent": "itself", "url": "ws://" + echo},
			{"agent": "sidecar", "url": "ws://" + plain},
			{"agent": "two sidecars, HTTP/2", "url": "ws://" + outer},
		},
		"cases": []string{"*"}, "exclude-cases": []string{"12.*", "13.*"}, "exclude-agent-cases": map[string]any{},
	})
	if err != nil {
		t.Fatal(err)
	}
	specFile := filepath.Join(dir, "fuzzingclient.json")
	if err := os.WriteFile(specFile, spec, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wholeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, wstest[0], append(wstest[1:], "-m", "fuzzingclient", "-s", specFile)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the suite: %v\n%s", err, out)
	}
	index, err := os.ReadFile(filepath.Join(dir, "reports", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v verdicts
	if err := json.Unmarshal(index, &v); err != nil {
		t.Fatal(err)
	}
	judge(t, v)
}

func judge(t *testing.T, v verdicts) {
	itself := v["itself"]
	if len(itself) < leastCases || len(v) != 3 {
		t.Fatalf("%d cases of %d servers, want at least %d of 3", len(itself), len(v), leastCases)
	}
	for _, agent := range slices.Sorted(maps.Keys(v)) {
		count := map[string]int{}
		for id, want := range itself {
			got := v[agent][id]
			count[got.Behavior]++
			if strict(got.Behavior) != strict(want.Behavior) || got.Behavior == "FAILED" || got.Behavior == "UNCLEAN" {
				t.Errorf("case %s: %s through %s, %s of the server itself", id, got.Behavior, agent, want.Behavior)
			}
			if got.BehaviorClose != want.BehaviorClose {
				t.Errorf("case %s: closes %s through %s, %s by itself", id, got.BehaviorClose, agent, want.BehaviorClose)
			}
		}
		t.Logf("%s: %d cases %v", agent, len(v[agent]), count)
	}
}

// strict is the verdict without what depends on how many bytes came at once: whether the server noticed an error before or
// after it answered what went before.
func strict(verdict string) string {
	if verdict == "NON-STRICT" {
		return "OK"
	}
	return verdict
}

// start runs a program until the test's end, and returns when addr accepts.
func start(t *testing.T, addr, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(program), log.String())
		}
	})
	harness.Eventually(t, 20*time.Second, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}
