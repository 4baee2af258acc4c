package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Add adds a child behind the others and, while the supervisor serves, starts it, and returns when it is ready. Where the start
// fails the child is treated as one that failed later, and the error tells; a critical one is not kept then.
// ctx bounds only the wait for the supervisor's attention.
func (s *Supervisor) Add(ctx context.Context, spec Spec) error {
	if s.cfg.Strategy == SimpleOneForOne {
		return fmt.Errorf("add child %s: %w", spec.Name, ErrStrategy)
	}
	return s.change(ctx, "add child "+spec.Name, func(run context.Context, serving bool) error {
		return s.add(run, &child{spec: spec, state: StateIdle}, serving)
	})
}

// Spawn makes a child of a SimpleOneForOne, by its Config.Spawn with arg, and starts it. The supervisor must serve.
func (s *Supervisor) Spawn(ctx context.Context, name string, arg any) error {
	if s.cfg.Strategy != SimpleOneForOne {
		return fmt.Errorf("spawn child %s: %w", name, ErrStrategy)
	}
	return s.change(ctx, "spawn child "+name, func(run context.Context, serving bool) error {
		if !serving {
			return fmt.Errorf("supervisor %s does not serve", s.cfg.Name)
		}
		spec := s.cfg.Template
		spec.Name, spec.Child = name, Func(nil)
		return s.add(run, &child{spec: spec, arg: arg, state: StateIdle}, serving)
	})
}

func (s *Supervisor) add(run context.Context, c *child, serving bool) error {
	s.mu.Lock()
	if err := s.check(c.spec); err != nil {
		s.mu.Unlock()
		return err
	}
	if !serving && s.served != nil {
		s.mu.Unlock()
		return errServing
	}
	s.children = append(slices.Clone(s.children), c)
	s.mu.Unlock()
	s.emit(Event{Kind: ChildAdded, Child: c.spec.Name})
	if !serving {
		return nil
	}
	err := s.start(run, c)
	if err == nil || run.Err() != nil {
		return err
	}
	if c.spec.Critical || c.spec.Kind == Temporary {
		s.set(func() { c.lastErr = err; c.take(StateFailed) })
		s.emit(Event{Kind: ChildFailed, Child: c.spec.Name, Err: err})
		s.forget(c)
		return err
	}
	s.queueFailure(c, err)
	return err
}

// queueFailure makes step deal with a failed start of c as with the failure of a child that ran.
func (s *Supervisor) queueFailure(c *child, err error) {
	r := &run{name: c.spec.Name, done: make(chan struct{}), kill: make(chan struct{}), cancel: func(error) {}, err: err, began: time.Now()}
	close(r.done)
	s.mu.Lock()
	c.run = r
	s.exits = append(s.exits, r)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// errServing says that the supervisor has begun to serve since change looked.
var errServing = errors.New("the supervisor has begun to serve")

// Remove stops the child, if it runs, and forgets it. Its siblings stay as they are.
func (s *Supervisor) Remove(ctx context.Context, name string) error {
	return s.change(ctx, "remove child "+name, func(run context.Context, serving bool) error {
		c, err := s.find(name)
		if err != nil {
			return err
		}
		if !serving {
			return s.forgetIdle(c)
		}
		s.stopChildren(run, []*child{c})
		s.forget(c)
		return nil
	})
}

// Stop stops the child and keeps it, until Start, or until a restart of its group or of the supervisor starts it again
// (OTP's terminate_child).
func (s *Supervisor) Stop(ctx context.Context, name string) error {
	return s.change(ctx, "stop child "+name, func(run context.Context, serving bool) error {
		c, err := s.find(name)
		if err != nil {
			return err
		}
		if !serving {
			return nil
		}
		s.stopChildren(run, []*child{c})
		s.set(func() { c.take(StateStopped) })
		if c.spec.Kind == Temporary || s.cfg.Strategy == SimpleOneForOne {
			s.forget(c)
		}
		return nil
	})
}

// Start starts a child that does not run (OTP's restart_child): one that was stopped, ended, was given up, or waits
// for a restart. Its counts of failures begin anew.
func (s *Supervisor) Start(ctx context.Context, name string) error {
	return s.change(ctx, "start child "+name, func(run context.Context, serving bool) error {
		c, err := s.find(name)
		switch {
		case err != nil:
			return err
		case c.run != nil:
			return ErrRunning
		case !serving:
			return fmt.Errorf("supervisor %s does not serve", s.cfg.Name)
		}
		s.set(func() { c.own, c.row = nil, 0 })
		err = s.start(run, c)
		if err != nil && run.Err() == nil {
			s.queueFailure(c, err)
		}
		return err
	})
}

// forgetIdle is forget while nobody serves.
func (s *Supervisor) forgetIdle(c *child) error {
	s.mu.Lock()
	if s.served != nil {
		s.mu.Unlock()
		return errServing
	}
	s.children = slices.DeleteFunc(slices.Clone(s.children), func(x *child) bool { return x == c })
	s.mu.Unlock()
	s.emit(Event{Kind: ChildRemoved, Child: c.spec.Name})
	return nil
}

func (s *Supervisor) find(name string) (*child, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.index(name); i >= 0 {
		return s.children[i], nil
	}
	return nil, ErrNotFound
}

// change has f done by Serve's goroutine, or here while none serves.
func (s *Supervisor) change(ctx context.Context, what string, f func(run context.Context, serving bool) error) error {
	for {
		s.mu.Lock()
		served := s.served
		s.mu.Unlock()
		if served == nil {
			err := f(ctx, false)
			if errors.Is(err, errServing) {
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		}
		c := command{reply: make(chan error, 1), do: func(run context.Context) error { return f(run, true) }}
		select {
		case s.cmds <- c:
			if err := <-c.reply; err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		case <-served:
			// It has ended meanwhile: look again.
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}

// Inspect returns the tree under the supervisor as it is now.
func (s *Supervisor) Inspect() Node {
	s.mu.Lock()
	n := Node{
		Name: s.cfg.Name, State: s.state, Since: s.since, LastError: s.lastErr,
		Supervisor: &SupervisorNode{Strategy: s.cfg.Strategy, Intensity: s.cfg.Intensity, Recent: len(s.recent)},
	}
	impls := make([]Child, len(s.children))
	for i, c := range s.children {
		impls[i] = c.child
		if impls[i] == nil {
			impls[i] = c.spec.Child
		}
		n.Children = append(n.Children, Node{
			Name: c.spec.Name, State: c.state, Kind: c.spec.Kind, Critical: c.spec.Critical,
			Since: c.since, Restarts: c.restarts, LastError: c.lastErr,
		})
	}
	s.mu.Unlock()
	// The children tell their own part with no lock held.
	counts := &n.Supervisor.Counts
	for i := range n.Children {
		c := &n.Children[i]
		counts.Specs++
		if c.State == StateRunning || c.State == StateStarting || c.State == StateStopping {
			counts.Active++
		}
		if in, ok := impls[i].(Inspector); ok {
			below := in.Inspect()
			c.Supervisor, c.Children = below.Supervisor, below.Children
		}
		if c.Supervisor != nil {
			counts.Supervisors++
		} else {
			counts.Workers++
		}
	}
	return n
}
