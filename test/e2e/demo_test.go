package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestDemo runs what `make demo` runs, without a terminal: it takes its tour, drains and ends by itself.
func TestDemo(t *testing.T) {
	b := harness.Binaries(t)
	m := harness.Prepare(t)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.Shop, "demo"), "-outrigger", b.Outrigger, "-f", shop(t, b), "-state", m.State, "-edge", m.Edge)
	cmd.Env = m.Env()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, rerr := os.ReadFile(out.Name())
	if err != nil || rerr != nil {
		t.Fatalf("the demo: %v, %v\n%s", err, rerr, text)
	}
	for _, want := range []string{"1. ", "8. ", "The load: ", "drained"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("nothing of %q in what the demo printed:\n%s", want, text)
		}
	}
	m.CheckNoneLeft()
}
