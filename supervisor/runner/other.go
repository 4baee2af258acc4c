//go:build !linux

package runner

import (
	"context"
	"errors"
	"fmt"
)

// ErrLive says that a runner runs.
var ErrLive = errors.New("its runner runs")

// Found is an instance's directory and what was found there.
type Found struct {
	Instance string
	Dir      string
	Live     bool
	PID      int
	Spec     *Spec
	Err      error
}

// Launch needs Linux.
func Launch(context.Context, string, string) (*Client, error) {
	return nil, fmt.Errorf("launch a runner: %w", errors.ErrUnsupported)
}

// Find needs Linux.
func Find(string) ([]Found, error) { return nil, fmt.Errorf("find runners: %w", errors.ErrUnsupported) }

// Sweep needs Linux.
func Sweep(string) (int, error) { return 0, fmt.Errorf("sweep: %w", errors.ErrUnsupported) }
