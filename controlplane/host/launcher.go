package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// NewLauncher starts runners with the program at path and finds them by their directories.
func NewLauncher(path string) pool.Launcher { return launcher{path} }

type launcher struct{ program string }

func (l launcher) Find(ctx context.Context, dir string) (pool.Runner, error) {
	c, err := runner.Dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (l launcher) Launch(ctx context.Context, s runner.Spec) (pool.Runner, error) {
	if _, err := os.Stat(filepath.Join(s.Dir, runner.RecordFile)); err == nil {
		if _, err := runner.Sweep(s.Dir); err != nil {
			return nil, fmt.Errorf("clean up behind the runner of %s: %w", s.Instance, err)
		}
	}
	if err := s.Save(); err != nil {
		return nil, err
	}
	c, err := runner.Launch(ctx, l.program, s.Path())
	if err != nil {
		return nil, err
	}
	return c, nil
}
