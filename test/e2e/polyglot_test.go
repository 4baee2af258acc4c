package e2e

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestPolyglot: Python calls Node, which calls Java, which calls Python, each by its own standard library.
func TestPolyglot(t *testing.T) {
	for _, p := range []string{"python3", "node", "java"} {
		harness.Need(t, p)
	}
	m := harness.Up(t, filepath.Join(harness.Binaries(t).Root, "examples", "polyglot"))
	status, body, _ := harness.Get(t, m.Edge, "python.localhost", "/call/node/call/java/call/python")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	type answer struct {
		Service string
		Called  *answer
	}
	var a *answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	for _, want := range []string{"python", "node", "java", "python"} {
		if a == nil || a.Service != want {
			t.Fatalf("%s did not answer: %s", want, body)
		}
		a = a.Called
	}
	for _, s := range []string{"python", "node", "java"} {
		if r := harness.DoLoad(t, harness.Load{Addr: m.Edge, Host: s + ".localhost", Path: "/", Workers: 4, Calls: 400}); r.Failed != 0 {
			t.Errorf("%s: %v", s, r)
		}
	}
}
