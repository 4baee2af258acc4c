package testkit

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// netnsEnv marks the process that InNetNS has started.
const netnsEnv = "OUTRIGGER_TEST_NETNS"

// InNetNS has the calling test run in a network namespace of its own, in which loopback is up and nothing else is, and
// which nobody else sees: in it rules of the kernel's may be set. What it mounts nobody else sees either. The test is run once more, by a process in that
// namespace; there InNetNS returns true, and false in the first process, which has then nothing left to do:
//
//	if !testkit.InNetNS(t, "nft", "ip") {
//		return
//	}
//
// programs are what the test needs besides. Where one is missing, or this is not root, the test is skipped, and fails where CI=true.
func InNetNS(t *testing.T, programs ...string) bool {
	t.Helper()
	if os.Getenv(netnsEnv) != "" {
		// What is mounted stays in here. Where the root is no mount point (chroot), whoever made it has seen to that.
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil && !errors.Is(err, syscall.EINVAL) {
			t.Fatalf("keep mounts apart: %v", err)
		}
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("set loopback up: %v: %s", err, out)
		}
		return true
	}
	missing := ""
	if os.Getuid() != 0 {
		missing = "not root: no network namespace can be made"
	}
	for _, p := range append(programs, "ip") {
		if _, err := exec.LookPath(p); err != nil {
			missing = "no " + p + " in PATH: run tools/deps.sh"
		}
	}
	if missing != "" {
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip("SKIPPED: " + missing)
	}
	run := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	c := exec.Command(os.Args[0], "-test.run="+run, "-test.v", "-test.timeout=5m")
	c.Env = append(os.Environ(), netnsEnv+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	t.Logf("in a network namespace:\n%s", out)
	return false
}
