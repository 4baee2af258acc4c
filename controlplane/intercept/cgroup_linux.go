package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Make makes the cgroup and those above it, as far as they are not there.
func (c Cgroup) Make() error {
	if err := os.MkdirAll(c.Path, 0o755); err != nil {
		return fmt.Errorf("make the cgroup that is intercepted: %w (intercept by uid needs none)", err)
	}
	return nil
}

// RemoveTree removes the cgroup and all below it. Processes in it are let be: what they are in stays.
func (c Cgroup) RemoveTree() error {
	entries, err := os.ReadDir(c.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, Cgroup{Path: filepath.Join(c.Path, e.Name())}.RemoveTree())
		}
	}
	if rerr := os.Remove(c.Path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove a cgroup: %w", rerr))
	}
	return err
}

// id is the number by which the kernel knows the cgroup: the inode of its directory.
func (c Cgroup) id() (uint64, error) {
	info, err := os.Stat(c.Path)
	if err != nil {
		return 0, fmt.Errorf("find the cgroup that is intercepted: %w", err)
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}
