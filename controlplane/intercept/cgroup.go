package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysCgroup is where nft looks for the cgroups that it is told of.
const sysCgroup = "/sys/fs/cgroup"

// Cgroup is a cgroup of the unified hierarchy.
type Cgroup struct {
	// Path is its directory.
	Path string
	// Level is its depth below the root of the hierarchy, from 1.
	Level int
	inode uint64
}

// Below is a cgroup inside.
func (c Cgroup) Below(names ...string) Cgroup {
	return Cgroup{Path: filepath.Join(append([]string{c.Path}, names...)...), Level: c.Level + len(names)}
}

// shown is the path as nft has it.
func (c Cgroup) shown() string {
	if rel, err := filepath.Rel(sysCgroup, c.Path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return c.Path
}

// Base is the cgroup below which those of a state directory are: one of their own in the cgroup of this process. It is not made.
// Where there is no unified hierarchy, the error wraps errors.ErrUnsupported.
func Base(stateDir string) (Cgroup, error) {
	own, err := ownCgroup()
	if err != nil {
		return Cgroup{}, err
	}
	ns, nerr := os.Readlink("/proc/self/ns/cgroup")
	release, rerr := os.ReadFile("/proc/sys/kernel/osrelease")
	if nerr == nil && rerr == nil && ns != firstCgroupNamespace && !seesNamespaces(string(release)) {
		return Cgroup{}, fmt.Errorf("intercept by cgroup in a cgroup namespace (a container) needs Linux 6.11, this is %s: %w; intercept by uid needs none",
			strings.TrimSpace(string(release)), errors.ErrUnsupported)
	}
	return own.Below(strings.TrimSuffix(Prefix(stateDir), "-")), nil
}

// firstCgroupNamespace is the machine's own cgroup namespace (PROC_CGROUP_INIT_INO in linux/proc_ns.h).
const firstCgroupNamespace = "cgroup:[4026531835]"

// seesNamespaces says whether a kernel counts the levels of cgroups from the root of their namespace, as rules are made here. Before
// Linux 6.11 ("nft_socket: make cgroupsv2 matching work with namespaces") it counted from the machine's, and rules would match nothing.
func seesNamespaces(release string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 11
}

// ownCgroup is this process's, by /proc.
func ownCgroup() (Cgroup, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Cgroup{}, fmt.Errorf("find the cgroup: %w: %w", errors.ErrUnsupported, err)
	}
	own := ""
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			own = strings.TrimSpace(p)
		}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Cgroup{}, fmt.Errorf("find the cgroup: %w: %w", errors.ErrUnsupported, err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan() && own != ""; {
		// 36 35 98:0 /root /mount options - type source options: proc_pid_mountinfo(5)
		left, right, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(left)
		if !ok || !strings.HasPrefix(right, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		rel, err := filepath.Rel(fields[3], own)
		if err != nil || strings.HasPrefix(rel, "..") {
			continue
		}
		c := Cgroup{Path: filepath.Join(fields[4], rel)}
		if p := strings.Trim(filepath.Clean(own), "/"); p != "" {
			c.Level = strings.Count(p, "/") + 1
		}
		return c, nil
	}
	return Cgroup{}, fmt.Errorf("find the cgroup: %w: no unified hierarchy (cgroup v2) is mounted; intercept by uid needs none", errors.ErrUnsupported)
}
