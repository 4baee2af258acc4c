package intercept

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs the rest of the test in a network namespace of its own, as all that touches rules must.
func inNamespace(t *testing.T) {
	t.Helper()
	skip := func(why string) {
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if os.Getuid() != 0 {
		skip("not root: rules cannot be set")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		skip("no network namespace can be made: " + err.Error())
	}
	if _, err := exec.LookPath("nft"); err != nil {
		skip("there is no nft to hold the rules against (Debian's nftables)")
	}
}

func nft(t *testing.T, in string, args ...string) string {
	t.Helper()
	c := exec.Command("nft", args...)
	c.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("nft %v: %v: %s\n%s", args, err, errs.String(), in)
	}
	return out.String()
}

// TestKernel holds the text against the kernel: what Put sets is what nft sets of the printed table.
func TestKernel(t *testing.T) {
	inNamespace(t)
	base, err := ownCgroup()
	if err != nil {
		t.Skip(err)
	}
	own := base.Below("outrigger-intercept-test", "one")
	if err := own.Make(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := base.Below("outrigger-intercept-test").RemoveTree(); err != nil {
			t.Error(err)
		}
	})
	for name, r := range cases() {
		if r.Cgroup.Path != "" {
			r.Cgroup = own
		}
		if err := r.Put(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ours := nft(t, "", "list", "ruleset")
		if err := r.Put(); err != nil { // once more: in its place
			t.Fatalf("%s: %v", name, err)
		}
		if again := nft(t, "", "list", "ruleset"); again != ours {
			t.Errorf("%s: put twice, the table is\n%s\nput once\n%s", name, again, ours)
		}
		if err := Remove(r.Table); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := Remove(r.Table); err != nil {
			t.Fatalf("%s: removed twice: %v", name, err)
		}
		if left := nft(t, "", "list", "ruleset"); left != "" {
			t.Errorf("%s: removed, but there is\n%s", name, left)
		}
		nft(t, r.String(), "-f", "-")
		theirs := nft(t, "", "list", "ruleset")
		nft(t, "", "flush", "ruleset")
		if ours != theirs {
			t.Errorf("%s: the kernel has\n%s\nof what was printed nft makes\n%s", name, ours, theirs)
		}
	}
}

func TestRemoveAll(t *testing.T) {
	inNamespace(t)
	if err := Possible(); err != nil {
		t.Fatal(err)
	}
	prefix := Prefix("/srv/a")
	for _, name := range []string{Name("/srv/a", "x-1.0.0-0"), Name("/srv/a", "y-1.0.0-0"), Name("/srv/b", "x-1.0.0-0")} {
		if err := (Rules{Table: name, By: ByUID, UID: 1000, Outbound: 20000}).Put(); err != nil {
			t.Fatal(err)
		}
	}
	nft(t, "", "add", "table", "inet", "somebodys")
	keep := Name("/srv/a", "y-1.0.0-0")
	gone, err := RemoveAll(prefix, func(name string) bool { return name == keep })
	if err != nil || !slices.Equal(gone, []string{Name("/srv/a", "x-1.0.0-0")}) {
		t.Errorf("removed %v, %v", gone, err)
	}
	left, err := List("")
	slices.Sort(left)
	want := []string{keep, Name("/srv/b", "x-1.0.0-0"), "somebodys"}
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left are %v, %v; want %v", left, err, want)
	}
}

// TestUnprivileged holds the words that somebody reads who may not set rules.
func TestUnprivileged(t *testing.T) {
	err := explain("list the tables of nftables", unix.EPERM)
	if !strings.Contains(err.Error(), "needs root (CAP_NET_ADMIN)") {
		t.Errorf("says %q", err)
	}
}
