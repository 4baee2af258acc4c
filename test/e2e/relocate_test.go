package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// shop is the example shop's directory, or a copy with other commands where the binaries are not in bin.
func shop(t *testing.T, b harness.Bin) string {
	t.Helper()
	dir := filepath.Join(b.Root, "examples", "shop")
	if b.Dir == filepath.Join(b.Root, "bin") {
		return dir
	}
	return relocated(t, b, dir)
}

// relocated copies a directory of resources, with the commands of the example shop taken from b.
func relocated(t *testing.T, b harness.Bin, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no resources in %s: %v", dir, err)
	}
	out := t.TempDir()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		moved := strings.ReplaceAll(string(text), "../../bin/shop/", b.Shop+"/")
		if err := os.WriteFile(filepath.Join(out, filepath.Base(f)), []byte(moved), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
