//go:build !linux

package intercept

// Make fails.
func (c Cgroup) Make() error { return errLinux }

// RemoveTree does nothing.
func (c Cgroup) RemoveTree() error { return nil }
