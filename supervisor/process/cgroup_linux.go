package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Cgroup is a cgroup v2 directory of our own making. A nil Cgroup is none.
type Cgroup struct {
	path   string
	dir    *os.File
	shared bool // not ours alone
}

// NewCgroup makes a cgroup called name below the caller's own, in the unified hierarchy (also where that is the side
// mount of a hybrid one). Where there is none, or it may not be written, or it has no cgroup.kill (Linux 5.14), the error wraps
// errors.ErrUnsupported.
func NewCgroup(name string) (*Cgroup, error) {
	base, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	return NewCgroupIn(base, name)
}

// NewCgroupIn is NewCgroup below the cgroup whose directory is base.
func NewCgroupIn(base, name string) (*Cgroup, error) {
	path := filepath.Join(base, name)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make a cgroup: %w: %w", errors.ErrUnsupported, err)
	}
	if _, err := os.Stat(filepath.Join(path, "cgroup.kill")); err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("make a cgroup: %w: %w", errors.ErrUnsupported, err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	return &Cgroup{path: path, dir: dir}, nil
}

// OpenCgroup opens the cgroup whose directory is path, which others may use too. It is closed by Close, and never removed.
func OpenCgroup(path string) (*Cgroup, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a cgroup: %w", err)
	}
	return &Cgroup{path: path, dir: dir, shared: true}, nil
}

// Close lets go of a cgroup and leaves what is in it.
func (c *Cgroup) Close() { _ = c.dir.Close() }

// ownCgroup returns the directory of the caller's cgroup v2.
func ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the cgroup: %w: %w", errors.ErrUnsupported, err)
	}
	own := ""
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			own = strings.TrimSpace(p)
		}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup: %w: %w", errors.ErrUnsupported, err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		// 36 35 98:0 /root /mount options - type source options: proc_pid_mountinfo(5)
		left, right, ok := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(left); ok && strings.HasPrefix(right, "cgroup2 ") && len(fields) > 4 && own != "" {
			root := fields[3]
			rel, err := filepath.Rel(root, own)
			if err != nil || strings.HasPrefix(rel, "..") {
				continue
			}
			return filepath.Join(fields[4], rel), nil
		}
	}
	return "", fmt.Errorf("find the cgroup: %w: no unified hierarchy is mounted", errors.ErrUnsupported)
}

// Path is the cgroup's directory.
func (c *Cgroup) Path() string { return c.path }

// Kill ends all processes in the cgroup at once.
func (c *Cgroup) Kill() error {
	if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("kill a cgroup: %w", err)
	}
	return nil
}

// Remove kills what is in the cgroup and removes it. It waits up to 1 s for the killed to be gone.
func (c *Cgroup) Remove() error {
	_ = c.Kill()
	_ = c.dir.Close()
	t := time.NewTimer(0)
	defer t.Stop()
	var err error
	for i := 0; i < 100; i++ {
		if err = os.Remove(c.path); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		t.Reset(10 * time.Millisecond)
		<-t.C
	}
	return fmt.Errorf("remove a cgroup: %w", err)
}
