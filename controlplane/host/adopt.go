package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// adopt looks at what an earlier control plane left: live runners, which pools go on with, and dead ones, which are
// swept. It settles which environment processes inherit.
func (h *Host) adopt() ([]runner.Found, error) {
	found, err := runner.Find(h.cfg.StateDir)
	if err != nil {
		return nil, err
	}
	live := found[:0]
	for _, f := range found {
		if f.Live {
			live = append(live, f)
			h.emit(Event{Kind: "runner.adopted", Instance: f.Instance, PID: f.PID, Text: "found its runner, which goes on"})
			continue
		}
		if f.PID == 0 {
			continue // it ended in order
		}
		n, err := runner.Sweep(f.Dir)
		if err != nil && !errors.Is(err, runner.ErrLive) {
			return nil, err
		}
		h.emit(Event{Kind: "runner.swept", Instance: f.Instance, PID: f.PID, Text: fmt.Sprintf("its runner was killed; ended %d processes that it left", n)})
	}
	if len(live) > 0 {
		// Another environment would replace every process: the one in which the mesh was begun stays in force.
		env, err := h.db.environ()
		if err != nil {
			return nil, err
		}
		if env != nil {
			h.cfg.Environ = env
			return live, nil
		}
	}
	return live, h.db.setEnviron(h.cfg.Environ)
}

// evict ends runners that were found and that nobody wants, and removes what they left. The latest in the order of
// starting go first.
func (h *Host) evict(ctx context.Context, found []runner.Found, wanted func(id string) bool) {
	var out []runner.Found
	for _, f := range found {
		if !wanted(f.Instance) {
			out = append(out, f)
		}
	}
	if err := stopFound(ctx, out, h.cfg.Launcher, runner.StopOptions{}, func(s string) {
		h.emit(Event{Kind: "runner.removed", Text: s})
	}); err != nil {
		h.cfg.Log.Warn("end runners that are not wanted any more", "err", err)
	}
}

// DownOffline stops everything that runs in a state directory without a control plane, in the reverse order of starting, and
// sweeps up behind runners that were killed. tell is called with a line for each step.
func DownOffline(ctx context.Context, stateDir string, l pool.Launcher, o runner.StopOptions, tell func(string)) error {
	found, err := runner.Find(stateDir)
	if err != nil {
		return err
	}
	return errors.Join(stopFound(ctx, found, l, o, tell), clearOffline(stateDir, tell))
}

func stopFound(ctx context.Context, found []runner.Found, l pool.Launcher, o runner.StopOptions, tell func(string)) error {
	groups := map[int][]runner.Found{}
	for _, f := range found {
		order := 0
		if f.Spec != nil {
			order = f.Spec.Order
		}
		groups[order] = append(groups[order], f)
	}
	var orders []int
	for o := range groups {
		orders = append(orders, o)
	}
	slices.Sort(orders)
	slices.Reverse(orders)
	var mu sync.Mutex
	var errs []error
	say := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		tell(fmt.Sprintf(format, a...))
	}
	for _, order := range orders {
		var wg sync.WaitGroup
		for _, f := range groups[order] {
			wg.Go(func() {
				if err := stopOne(ctx, f, l, o, say); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
		wg.Wait()
	}
	return errors.Join(errs...)
}

func stopOne(ctx context.Context, f runner.Found, l pool.Launcher, o runner.StopOptions, say func(string, ...any)) error {
	r, err := l.Find(ctx, f.Dir)
	if err == nil {
		if err = r.Exit(ctx, o); err == nil {
			say("stopped %s", f.Instance)
		}
	}
	if err != nil && !errors.Is(err, runner.ErrGone) {
		return fmt.Errorf("end the runner of %s: %w", f.Instance, err)
	}
	if err != nil && f.PID != 0 && !f.Live {
		n, err := runner.Sweep(f.Dir)
		if err != nil && !errors.Is(err, runner.ErrLive) {
			return err
		}
		if n > 0 {
			say("ended %d processes that the killed runner of %s left", n, f.Instance)
		}
	}
	if err := pool.WaitGone(ctx, l, f.Dir); err != nil {
		return fmt.Errorf("end the runner of %s: %w", f.Instance, err)
	}
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil // gone already
	}
	for _, e := range entries {
		if e.Name() != runner.LogDir {
			_ = os.RemoveAll(filepath.Join(f.Dir, e.Name()))
		}
	}
	return nil
}
