package process

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// started runs a script to its end and returns what it printed.
func started(t *testing.T, s Spec) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s.Env, s.Dir, s.Output = os.Environ(), "/", out
	p, err := reaper.Start(s)
	if err != nil {
		t.Fatal(err)
	}
	p.Exit()
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUser(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("not root")
		}
		t.Skip("not root: nobody else can be run as")
	}
	got := started(t, Spec{
		Command: []string{"/bin/sh", "-c", "id -u; id -g; id -G"}, User: &User{UID: 65534, GID: 65533, Groups: []uint32{65532}},
	})
	if want := "65534\n65533\n65533 65532\n"; got != want {
		t.Errorf("runs as\n%swant\n%s", got, want)
	}
}

func TestInCgroup(t *testing.T) {
	own, err := ownCgroup()
	if err != nil {
		t.Skip(err)
	}
	base := filepath.Join(own, "outrigger-placed-test")
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(base); err != nil {
			t.Error(err)
		}
	})
	// One that is shared: what is in it besides goes on.
	c, err := OpenCgroup(base)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := sh(t, "exec sleep 60", c)
	one, _ := sh(t, "trap '' TERM; while :; do sleep 60; done", c)
	if _, err := one.Stop(syscall.SIGTERM, 0); err != nil {
		t.Fatal(err)
	}
	if got := started(t, Spec{Command: []string{"/bin/cat", "/proc/self/cgroup"}, Cgroup: c, InCgroup: true}); !strings.Contains(got, "/outrigger-placed-test\n") {
		t.Errorf("is in %s", got)
	}
	select {
	case <-other.Done():
		t.Error("another process of a shared cgroup was killed")
	default:
	}
	if _, err := other.Stop(syscall.SIGKILL, 0); err != nil {
		t.Fatal(err)
	}
	reaper.Sweep(nil)
	c.Close()

	// One that is gone: not anywhere else.
	gone, err := NewCgroupIn(base, "gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(gone.Path()); err != nil {
		t.Fatal(err)
	}
	if p, err := reaper.Start(Spec{Command: []string{"/bin/true"}, Dir: "/", Cgroup: gone, InCgroup: true}); err == nil {
		p.Exit()
		t.Error("started outside of its cgroup")
	}
	_ = gone.Remove()
	if _, err := NewCgroupIn(filepath.Join(base, "nowhere"), "x"); err == nil {
		t.Error("made a cgroup in one that is not there")
	}
}
