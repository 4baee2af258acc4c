package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
)

// left fails the test where a process of the mesh lives on.
func (m *mesh) left(pids map[int]bool) {
	m.t.Helper()
	for pid := range pids {
		waitFor(m.t, fmt.Sprintf("pid %d to be gone", pid), func() bool { return !running(pid) })
	}
}

// Down ends whatever it meets: a mesh that has not begun, one that starts, one in which everything happens at once; and it
// does so for all who ask.
func TestDownAnyTime(t *testing.T) {
	w := world{map[string][]option{"a": {size(2)}, "b": {after("a", resource.Healthy)}, "bad": {env("FAIL", "no database")}}}
	for _, at := range []int{0, 1, 2, 5, 12, 20, 30, 45, 60} {
		t.Run(fmt.Sprintf("after %d events", at), func(t *testing.T) {
			m := begin(t, t.TempDir())
			m.Apply(w.input())
			waitFor(t, "the events", func() bool { return m.Events().Last() >= uint64(at) })
			pids := map[int]bool{}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			stir, still := context.WithCancel(ctx)
			var wg sync.WaitGroup
			wg.Go(func() { // what else may happen meanwhile
				for n := 0; stir.Err() == nil; n++ {
					for _, p := range m.Processes() {
						if p.PID != 0 && n%3 == 0 {
							_ = syscall.Kill(p.PID, syscall.SIGKILL)
						}
					}
					if n%2 == 0 {
						_, _ = m.Restart(stir, "", "a")
					}
					m.Apply(w.input())
					_ = m.Ready()
					_ = m.Tree()
				}
			})
			errs := make(chan error, 3)
			for n := range 3 {
				go func() { errs <- m.Down(ctx, n == 2 && at%2 == 1, func(string) {}) }()
			}
			for range 3 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			still()
			wg.Wait()
			for _, pid := range m.pids() {
				pids[pid] = true
			}
			m.left(pids)
			m.leave()
			if found := len(m.pids()); found != 0 {
				t.Errorf("%d processes are still told of", found)
			}
		})
	}
}

// A stop that takes its time is waited for by who asks later, is not ended by who leaves, and can be hurried.
func TestDownIsHurried(t *testing.T) {
	m := begin(t, t.TempDir())
	m.Apply(world{map[string][]option{"stubborn": {env("STUBBORN", "1"), patient}}}.input())
	m.ready()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	first, second := make(chan error, 1), make(chan error, 1)
	left, leave := context.WithCancel(ctx)
	edge := make(chan string, 2)
	go func() { first <- m.Down(left, false, func(s string) { edge <- s }) }()
	<-edge // it has stopped: now it is the service's turn
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	go func() { second <- m.Down(ctx, false, func(string) {}) }()
	pids := map[int]bool{}
	for _, pid := range m.pids() {
		pids[pid] = true
	}
	var lines []string
	if err := m.Down(ctx, true, func(s string) { lines = append(lines, s) }); err != nil {
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	if len(lines) != 2 {
		t.Errorf("the last was told %q, want the whole story", lines)
	}
	m.left(pids)
	m.leave()
}

func patient(s *resource.Service) {
	minute := time.Minute
	s.Run.Stop = &resource.Stop{Timeout: &minute}
}
