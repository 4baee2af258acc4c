package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestFullDisk: what cannot be stored is refused, and the running mesh goes on; with room again, it works again.
func TestFullDisk(t *testing.T) {
	file := write(t, []service{orders(2)})
	mounted := ""
	t.Cleanup(func() { // after the mesh is down
		if mounted != "" {
			_ = unix.Unmount(mounted, unix.MNT_DETACH)
		}
	})
	m := harness.Prepare(t, file)
	if err := os.MkdirAll(m.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", m.State, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("a small disk needs the right to mount: %v", err)
	}
	mounted = m.State
	if out, err := m.Start(); err != nil {
		t.Fatalf("up: %v\n%s\n%s", err, out, m.Log())
	}
	load := harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1"})
	load.More(200)
	before := m.Must("get", "-o", "json")

	fill(t, filepath.Join(m.State, "fill"))
	var big strings.Builder
	for i := range 500 {
		fmt.Fprintf(&big, "apiVersion: outrigger.dev/v1\nkind: Route\nmetadata: {name: r%d}\nspec: {service: orders, rules: [{match: {path: {exact: /r%d}}, direct: {status: 410, body: %q}}]}\n---\n",
			i, i, strings.Repeat("x", 4000))
	}
	_, err := m.RunWith(big.String(), "apply", "-f", "-")
	var ce *harness.CommandError
	if !errors.As(err, &ce) || ce.Code != 1 || !strings.Contains(ce.Stderr, "disk of the state directory is full") {
		t.Errorf("apply on a full disk: %v, want exit 1 and why", err)
	}
	if after := m.Must("get", "-o", "json"); after != before {
		t.Error("the resources changed although they could not be stored")
	}
	load.More(500)
	if err := os.Remove(filepath.Join(m.State, "fill")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.RunWith(big.String(), "apply", "-f", "-"); err != nil {
		t.Errorf("apply with room again: %v", err)
	}
	if r := load.Stop(); r.Failed != 0 {
		t.Errorf("calls beside it: %v", r)
	}
}

// fill writes until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestEdgeInUse: the address is named, and nothing is left running.
func TestEdgeInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	go func() {
		for {
			c, err := taken.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "not the mesh\n")
			_ = c.Close()
		}
	}()
	m := harness.Prepare(t, write(t, []service{orders(1)}))
	m.Edge = taken.Addr().String()
	out, err := m.Start()
	if err == nil || !strings.Contains(out, m.Edge) {
		t.Errorf("up: %v\n%s", err, out)
	}
	m.CheckNoneLeft()
}
