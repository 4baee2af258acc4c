// Package e2e runs whole meshes and shows what Outrigger promises its users: each file is one promise. What a test needs to
// run a mesh is in test/harness; tests of one package alone stand beside that package.
package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// service describes a service of a test's own mesh; see write.
type service struct {
	name, version string
	protocol      string   // default http
	command       []string // the first is a program of the example shop
	size          int      // default 1
	health        string   // default "http: /healthz"
	uses          []string
	more          string // further lines of the spec, indented by two
}

func (s service) yaml(b harness.Bin) string {
	or := func(v, other string) string {
		if v == "" {
			return other
		}
		return v
	}
	command := append([]string{filepath.Join(b.Shop, s.command[0])}, s.command[1:]...)
	quoted, err := json.Marshal(command)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: %s}
spec:
  version: %s
  ports: [{name: main, protocol: %s}]
  run:
    command: %s
    restart: {max: 20, within: 60s, backoff: {base: 50ms, max: 200ms}}
  pool: {size: %d}
  health: {%s, interval: 500ms}
  uses: [%s]
%s---
`, s.name, or(s.version, "1.0.0"), or(s.protocol, "http"), quoted, max(s.size, 1), or(s.health, "http: /healthz"),
		strings.Join(s.uses, ", "), s.more)
}

// write puts services and further documents into one file of the test's and returns its path.
func write(t *testing.T, services []service, documents ...string) string {
	t.Helper()
	b := harness.Binaries(t)
	var all strings.Builder
	for _, s := range services {
		all.WriteString(s.yaml(b))
	}
	for _, d := range documents {
		all.WriteString(d + "\n---\n")
	}
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(all.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// front is the shop's front end, which tells the addresses that its sidecar listens on.
func front(size int, uses ...string) service {
	return service{name: "front", command: []string{"front"}, size: size, uses: uses}
}

func orders(size int) service {
	return service{name: "orders", command: []string{"orders"}, size: size}
}

// told returns the environment that an instance of front was given: where its own sidecar listens for it.
func told(t *testing.T, p harness.Process) map[string]string {
	t.Helper()
	status, body, _ := harness.Get(t, p.Address, "front", "/env")
	if status != http.StatusOK {
		t.Fatalf("%s: /env: status %d: %s", p.Instance, status, body)
	}
	var env map[string]string
	if err := json.Unmarshal([]byte(body), &env); err != nil {
		t.Fatalf("%s: /env: %v in %q", p.Instance, err, body)
	}
	return env
}

// outbound returns the address at which the sidecar of an instance of front serves a service.
func outbound(t *testing.T, p harness.Process, service string) string {
	t.Helper()
	a := told(t, p)["OUTRIGGER_"+strings.ToUpper(strings.ReplaceAll(service, "-", "_"))+"_ADDR"]
	if a == "" {
		t.Fatalf("%s was not told where %s is: %v", p.Instance, service, told(t, p))
	}
	return a
}

// split is a TrafficSplit of orders between 1.0.0 and 2.0.0.
func split(v1, v2 int) string {
	return fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: TrafficSplit
metadata: {name: orders}
spec: {service: orders, split: [{version: 1.0.0, weight: %d}, {version: 2.0.0, weight: %d}]}
`, v1, v2)
}

func ordersV2(size int) service {
	return service{name: "orders", version: "2.0.0", command: []string{"orders", "-version", "2.0.0"}, size: size}
}
