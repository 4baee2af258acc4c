// Package harness runs a whole mesh for a test: it builds the binaries once, starts `outrigger up` with a state directory
// of the test's own, speaks to it by its command line alone, puts load on it with clients that never try a call
// twice, and checks at the end that no process is left.
//
// What lives here knows no more of Outrigger than a user does: commands, YAML, the state directory's documented
// files. Assertions about the mesh belong to the tests in test/e2e.
package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Bin is where the binaries of a test run are.
type Bin struct {
	Root      string // of the repository
	Dir       string // outrigger, outrigger-sidecar, outrigger-runner
	Outrigger string
	Shop      string // the example shop's services
}

var built = sync.OnceValues(build)

// Binaries returns the binaries: those in $OUTRIGGER_BIN, as `make test` sets it, else ones that are built now, into
// .cache/e2e, once for all tests. It fails the test where they do not build.
func Binaries(t testing.TB) Bin {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatalf("building the binaries: %v", err)
	}
	return b
}

func build() (Bin, error) {
	root, err := moduleRoot()
	if err != nil {
		return Bin{}, err
	}
	if dir := os.Getenv("OUTRIGGER_BIN"); dir != "" {
		b := bin(root, dir)
		for _, p := range []string{b.Outrigger, filepath.Join(dir, "outrigger-sidecar"), filepath.Join(dir, "outrigger-runner"), filepath.Join(b.Shop, "orders")} {
			if _, err := os.Stat(p); err != nil {
				return Bin{}, fmt.Errorf("OUTRIGGER_BIN: %w (make build)", err)
			}
		}
		return b, nil
	}
	b := bin(root, filepath.Join(root, ".cache", "e2e"))
	if err := os.MkdirAll(b.Shop, 0o755); err != nil {
		return Bin{}, err
	}
	// Test binaries of several packages run at the same time; one of them builds, the others wait and find it done.
	lock, err := os.OpenFile(filepath.Join(b.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return Bin{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return Bin{}, fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	for _, step := range [][]string{
		{b.Dir, "./cmd/outrigger", "./cmd/outrigger-sidecar", "./cmd/outrigger-runner"},
		{b.Shop, "./examples/shop/services/...", "./examples/shop/demo"},
	} {
		args := append([]string{"build", "-p", "2", "-o", step[0] + string(filepath.Separator)}, step[1:]...)
		cmd := exec.Command("go", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return Bin{}, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return b, nil
}

func bin(root, dir string) Bin {
	return Bin{Root: root, Dir: dir, Outrigger: filepath.Join(dir, "outrigger"), Shop: filepath.Join(dir, "shop")}
}

// Sidecar returns the path of outrigger-sidecar alone: that in $OUTRIGGER_BIN, else one that is
// built now, into .cache/sidecar.
func Sidecar(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("OUTRIGGER_BIN"); dir != "" {
		return filepath.Join(dir, "outrigger-sidecar")
	}
	dir := filepath.Join(root, ".cache", "sidecar")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "outrigger-sidecar")
	cmd := exec.Command("go", "build", "-p", "2", "-o", out, "./cmd/outrigger-sidecar")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, b)
	}
	return out
}

// moduleRoot finds the directory of go.mod above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if !errors.Is(err, fs.ErrNotExist) || up == dir {
			return "", fmt.Errorf("no go.mod above the working directory: %w", err)
		}
		dir = up
	}
}

// Need returns the path of an external program. Where it is not there the test is skipped, or fails where CI=true:
// nothing may go untested there unseen.
func Need(t testing.TB, program string) string {
	t.Helper()
	p, err := exec.LookPath(program)
	if err == nil {
		return p
	}
	if root, rerr := moduleRoot(); rerr == nil {
		p = filepath.Join(root, ".cache", "bin", program)
		if _, serr := os.Stat(p); serr == nil {
			return p
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed: %v (make test-deps)", program, err)
	}
	t.Skipf("%s is not installed: %v (make test-deps)", program, err)
	return ""
}
