package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// letGoLimit is how long Down waits for the trees to let go of the runners. They do so within moments; were one to hang, the
// runners are ended all the same, since nothing is started any more once the host is told to stop.
const letGoLimit = 10 * time.Second

// errStopping is why nothing starts any more.
var errStopping = errors.New("the mesh is being stopped")

// stopping is one stop of the mesh, which all callers of Down share.
type stopping struct {
	hurry   chan struct{} // closed when it is to kill instead of wait
	hurried sync.Once
	done    chan struct{} // closed when it is over; err is valid then
	err     error

	mu    sync.Mutex // held while listeners are told
	lines []string
	tells map[int]func(string)
	next  int
}

func (s *stopping) inHurry() bool {
	select {
	case <-s.hurry:
		return true
	default:
		return false
	}
}

// say tells everybody who listens of one step.
func (s *stopping) say(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := fmt.Sprintf(format, a...)
	s.lines = append(s.lines, line)
	for _, tell := range s.tells {
		tell(line)
	}
}

// listen has tell called with all steps, those of before first, until the function that it returns was called.
func (s *stopping) listen(tell func(string)) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines {
		tell(line)
	}
	n := s.next
	s.next++
	s.tells[n] = tell
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tells, n)
	}
}

// Down stops all in the reverse order of starting, gateways first, and ends the runners; what does not depend on each other at
// once. hurry kills instead of draining and waiting, also where a stop is under way already: there is only one, whose
// end every caller waits for. tell is called with a line for each step, never after Down has returned. If ctx ends
// first the stop goes on. Serve runs, or is about to; it goes on, with nothing to do.
func (h *Host) Down(ctx context.Context, hurry bool, tell func(string)) error {
	select {
	case <-h.begun:
	case <-h.over:
		return errors.New("stop the mesh: the host does not serve")
	case <-ctx.Done():
		return fmt.Errorf("stop the mesh: %w", ctx.Err())
	}
	select {
	case <-h.over:
		return errors.New("stop the mesh: the host serves no more")
	default:
	}
	h.mu.Lock()
	s := h.stopping
	first := s == nil
	if first {
		s = &stopping{hurry: make(chan struct{}), done: make(chan struct{}), tells: map[int]func(string){}}
		h.stopping = s
	}
	h.mu.Unlock()
	if hurry {
		s.hurried.Do(func() { close(s.hurry) })
	}
	defer s.listen(tell)()
	if first {
		h.bump()
		go func() {
			s.err = h.stopAll(context.WithoutCancel(ctx), s)
			close(s.done)
		}()
	}
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("stop the mesh: %w", ctx.Err())
	}
}

// stopAll ends all units, one rank after another.
func (h *Host) stopAll(ctx context.Context, s *stopping) error {
	// The trees let go of the runners, which are then ended.
	h.detach(pool.ErrDetach)
	limit := time.NewTimer(letGoLimit)
	defer limit.Stop()
	// Hurry does not shorten this: a runner that is being launched does not answer yet, and would be passed over.
	select {
	case <-h.letGo:
	case <-limit.C:
		h.cfg.Log.Error("the tree of supervisors does not end; its runners are ended all the same")
	}
	units := h.unitsNow()
	slices.Reverse(units)
	all := units
	over := make(chan struct{})
	var hurried sync.WaitGroup
	hurried.Go(func() {
		select {
		case <-over:
		case <-s.hurry:
			for _, u := range all {
				hurried.Go(func() { u.pool.Hurry(ctx) })
			}
		}
	})
	defer hurried.Wait()
	defer close(over)
	var errs []error
	for len(units) > 0 {
		n := 1
		for n < len(units) && units[n].rank == units[0].rank {
			n++
		}
		ended := make([]error, n)
		var wg sync.WaitGroup
		for k, u := range units[:n] {
			if u.gone != nil {
				wg.Go(func() { <-u.gone })
				continue
			}
			wg.Go(func() {
				began := time.Now()
				kill := s.inHurry()
				if ended[k] = u.pool.Dispose(ctx, runner.StopOptions{NoDrain: kill, Kill: kill}); ended[k] != nil {
					s.say("%s does not stop: %v", u.name, ended[k])
					return
				}
				s.say("stopped %s (%s)", u.name, time.Since(began).Round(time.Millisecond))
			})
		}
		wg.Wait()
		errs = append(errs, ended...)
		units = units[n:]
	}
	_, err := h.tables.clear()
	return errors.Join(append(errs, err)...)
}
