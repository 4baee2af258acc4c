package supervisor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/eventlog"
)

var errBoom = errors.New("boom")

// stage records what its actors do, and tells them what to do.
type stage struct {
	mu   sync.Mutex
	log  []string
	live map[string]*actor
}

func newStage() *stage { return &stage{live: map[string]*actor{}} }

func (s *stage) say(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, a...))
}

// take returns what was said since the last take.
func (s *stage) take() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.log, " ")
	s.log = nil
	return out
}

// end makes a live actor return err.
func (s *stage) end(name string, err error) {
	s.mu.Lock()
	a := s.live[name]
	s.mu.Unlock()
	a.end <- err
	synctest.Wait()
}

type actor struct {
	*stage
	name  string
	end   chan error
	ready chan struct{}
	slow  time.Duration // to stop
	fail  func() error  // at start, if not nil
}

func (a *actor) Ready() <-chan struct{} { return a.ready }

func (a *actor) Serve(ctx context.Context) error {
	if a.fail != nil {
		if err := a.fail(); err != nil {
			a.say("!%s", a.name)
			return err
		}
	}
	a.say("+%s", a.name)
	a.mu.Lock()
	a.live[a.name] = a
	a.mu.Unlock()
	close(a.ready)
	select {
	case err := <-a.end:
		a.say("x%s", a.name)
		return err
	case <-ctx.Done():
		if a.slow > 0 {
			select {
			case <-time.After(a.slow):
			case <-Killed(ctx):
				a.say("k%s", a.name)
			}
		}
		a.say("-%s", a.name)
		return ctx.Err()
	}
}

func (s *stage) spec(name string, change ...func(*Spec, *actor)) Spec {
	spec := Spec{Name: name}
	proto := actor{stage: s, name: name}
	for _, f := range change {
		f(&spec, &proto)
	}
	spec.New = func() Child {
		a := proto
		a.end, a.ready = make(chan error), make(chan struct{})
		return &a
	}
	return spec
}

// served starts sup and returns what ends it and gives its result.
func served(t *testing.T, sup *Supervisor) (stop func() error, result chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result = make(chan error, 1)
	go func() { result <- sup.Serve(ctx) }()
	synctest.Wait()
	return func() error { cancel(); return <-result }, result
}

func must(t *testing.T, cfg Config) *Supervisor {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func kind(k Kind) func(*Spec, *actor) { return func(s *Spec, _ *actor) { s.Kind = k } }

func TestStrategies(t *testing.T) {
	for _, tc := range []struct {
		strategy Strategy
		want     string
	}{
		{OneForOne, "xb +b"},
		{OneForAll, "xb -d -c -a +a +b +c"}, // d is temporary: it is not started again
		{RestForOne, "xb -d -c +b +c"},
	} {
		t.Run(tc.strategy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newStage()
				sup := must(t, Config{
					Name: "s", Strategy: tc.strategy, Intensity: DefaultIntensity,
					Children: []Spec{st.spec("a"), st.spec("b"), st.spec("c", kind(Transient)), st.spec("d", kind(Temporary))},
				})
				stop, _ := served(t, sup)
				expect(t, st.take(), "+a +b +c +d")
				st.end("b", errBoom)
				expect(t, st.take(), tc.want)
				if err := stop(); err != nil {
					t.Error(err)
				}
				want := "-c -b -a"
				if tc.strategy == OneForOne {
					want = "-d -c -b -a"
				}
				expect(t, st.take(), want)
			})
		})
	}
}

func TestKinds(t *testing.T) {
	for _, tc := range []struct {
		kind   Kind
		normal string
		failed string
	}{{Permanent, "xa +a", "xa +a"}, {Transient, "xa", "xa +a"}, {Temporary, "xa", "xa"}} {
		synctest.Test(t, func(t *testing.T) {
			for _, end := range []error{nil, errBoom} {
				st := newStage()
				sup := must(t, Config{Intensity: DefaultIntensity, Children: []Spec{st.spec("a", kind(tc.kind))}})
				stop, _ := served(t, sup)
				st.take()
				st.end("a", end)
				want := tc.normal
				if end != nil {
					want = tc.failed
				}
				expect(t, st.take(), want)
				if err := stop(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The window: 3 restarts within 60 s are borne, the fourth is not; one that is older does not count.
func TestIntensity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		sup := must(t, Config{Name: "s", Intensity: DefaultIntensity, Children: []Spec{st.spec("a"), st.spec("b")}})
		_, result := served(t, sup)
		for range 3 {
			st.end("a", errBoom)
			time.Sleep(20*time.Second + time.Millisecond)
		}
		st.end("a", errBoom) // the first is 60.003 s old
		time.Sleep(time.Second)
		st.end("b", errBoom) // the fourth within 60 s
		err := <-result
		var failed *FailedError
		if !errors.As(err, &failed) || failed.Child != "b" || !errors.Is(err, errBoom) {
			t.Errorf("got %v", err)
		}
		expect(t, st.take(), "+a +b xa +a xa +a xa +a xa +a xb -a")
		if n := sup.Inspect(); n.State != StateFailed || n.LastError == nil || n.Supervisor.Counts.Active != 0 {
			t.Errorf("%+v", n)
		}
	})
}

// A subtree that exhausts its intensity is one failure of its parent's.
func TestNestedExhaustion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		events := eventlog.New[Event](0)
		inner := must(t, Config{
			Name: "inner", Intensity: Intensity{Restarts: 1, Within: time.Minute}, Events: events,
			Children: []Spec{st.spec("x"), st.spec("y")},
		})
		outer := must(t, Config{
			Name: "outer", Strategy: RestForOne, Intensity: Intensity{Restarts: 1, Within: time.Minute}, Events: events,
			Children: []Spec{st.spec("a"), {Name: "inner", Child: inner}, st.spec("z")},
		})
		_, result := served(t, outer)
		expect(t, st.take(), "+a +x +y +z")
		st.end("x", errBoom)
		expect(t, st.take(), "xx +x")
		st.end("x", errBoom)
		expect(t, st.take(), "xx -y -z +x +y +z")
		n := outer.Inspect()
		if n.Children[1].Restarts != 1 || n.Supervisor.Counts != (Counts{Specs: 3, Active: 3, Supervisors: 1, Workers: 2}) || len(n.Children[1].Children) != 2 {
			t.Errorf("%+v", n)
		}
		st.end("y", errBoom)
		st.end("y", errBoom)
		if err := <-result; !errors.Is(err, errBoom) {
			t.Errorf("got %v", err)
		}
		expect(t, st.take(), "xy +y xy -x -z -a")
		all, lost := events.Since(0)
		if lost != 0 || all[len(all)-1].Event.Kind != Failed || all[len(all)-1].Event.Supervisor != "outer" {
			t.Errorf("last event: %+v", all[len(all)-1])
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		sup := must(t, Config{Intensity: Intensity{Restarts: 10, Within: time.Minute}, Children: []Spec{st.spec("a", func(s *Spec, _ *actor) {
			s.Backoff = func(n int) time.Duration { return time.Duration(n) * time.Second }
		}), st.spec("b")}})
		stop, _ := served(t, sup)
		st.take()
		for i := 1; i <= 3; i++ {
			st.end("a", errBoom)
			time.Sleep(time.Duration(i)*time.Second - time.Millisecond)
			expect(t, st.take(), "xa")
			if s := sup.Inspect().Children[0].State; s != StateRestarting {
				t.Errorf("state %s", s)
			}
			time.Sleep(time.Millisecond)
			expect(t, st.take(), "+a")
		}
		time.Sleep(61 * time.Second) // a long run ends the row
		st.end("a", errBoom)
		time.Sleep(time.Second)
		expect(t, st.take(), "xa +a")
		// A stop during the backoff ends at once, and nothing is started any more.
		st.end("a", errBoom)
		began := time.Now()
		if err := stop(); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		time.Sleep(time.Hour)
		expect(t, st.take(), "xa -b")
	})
}

func TestStartFailure(t *testing.T) {
	failing := func(times int) func(*Spec, *actor) {
		return func(_ *Spec, a *actor) {
			a.fail = func() error {
				if times--; times >= 0 {
					return errBoom
				}
				return nil
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		critical := func(s *Spec, _ *actor) { s.Critical = true }
		sup := must(t, Config{Intensity: DefaultIntensity, Children: []Spec{st.spec("a"), st.spec("b"), st.spec("c", critical, failing(1)), st.spec("d")}})
		_, result := served(t, sup)
		var failed *FailedError
		if err := <-result; !errors.As(err, &failed) || !failed.Critical {
			t.Errorf("got %v", err)
		}
		expect(t, st.take(), "+a +b !c -b -a")

		sup = must(t, Config{Strategy: RestForOne, Intensity: DefaultIntensity, Children: []Spec{st.spec("a"), st.spec("b", failing(2)), st.spec("c")}})
		stop, _ := served(t, sup)
		expect(t, st.take(), "+a !b !b +b +c")
		_ = stop()
		st.take()

		sup = must(t, Config{Strategy: OneForAll, Intensity: DefaultIntensity, Children: []Spec{st.spec("a"), st.spec("b", failing(9)), st.spec("c")}})
		_, result = served(t, sup)
		if err := <-result; !errors.As(err, &failed) || failed.Critical {
			t.Errorf("got %v", err)
		}
		expect(t, st.take(), "+a !b -a +a !b -a +a !b -a +a !b -a")
	})
}

type deaf struct{ ready chan struct{} }

func (d deaf) Ready() <-chan struct{} { return d.ready }
func (d deaf) Serve(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestStartTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		sup := must(t, Config{Intensity: Intensity{Restarts: 1, Within: time.Minute}, Children: []Spec{
			st.spec("a"),
			{Name: "deaf", StartTimeout: 5 * time.Second, New: func() Child { return deaf{make(chan struct{})} }},
		}})
		began := time.Now()
		_, result := served(t, sup)
		if err := <-result; !errors.Is(err, ErrStartTimeout) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
		expect(t, st.take(), "+a -a")
	})
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		slow := func(sh Shutdown) func(*Spec, *actor) {
			return func(s *Spec, a *actor) { s.Shutdown = sh; a.slow = 10 * time.Second }
		}
		sup := must(t, Config{Children: []Spec{
			st.spec("brutal", slow(BrutalKill)), st.spec("late", slow(Shutdown(3*time.Second))),
			st.spec("patient", slow(Infinity)), st.spec("intime", slow(Shutdown(11*time.Second))),
		}})
		stop, _ := served(t, sup)
		st.take()
		began := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d != 23*time.Second {
			t.Errorf("took %v", d)
		}
		expect(t, st.take(), "-intime -patient klate -late kbrutal -brutal")
		// A kill of a supervisor reaches its children.
		inner := must(t, Config{Name: "inner", Children: []Spec{st.spec("x", slow(Infinity)), st.spec("y", slow(Infinity))}})
		outer := must(t, Config{Name: "outer", Children: []Spec{{Name: "inner", Child: inner, Shutdown: Shutdown(time.Second)}}})
		stop, _ = served(t, outer)
		st.take()
		_ = stop()
		expect(t, st.take(), "ky -y kx -x")
	})
}

func TestPanicIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, f := range []Func{func(context.Context) error { panic("ouch") }, func(context.Context) error { runtime.Goexit(); return nil }} {
			sup := must(t, Config{Intensity: Intensity{Restarts: 2, Within: time.Minute}, Children: []Spec{{Name: "p", Child: f}}})
			_, result := served(t, sup)
			err := <-result
			var p *PanicError
			if !errors.As(err, &p) && !errors.Is(err, ErrGoexit) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestOwnIntensity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		sup := must(t, Config{Children: []Spec{st.spec("a", func(s *Spec, _ *actor) { s.Own = &Intensity{Restarts: 1, Within: time.Minute} }), st.spec("b")}})
		stop, _ := served(t, sup)
		st.end("a", errBoom)
		st.end("a", errBoom)
		expect(t, st.take(), "+a +b xa +a xa")
		if s := sup.Inspect().Children[0].State; s != StateFailed {
			t.Errorf("state %s", s)
		}
		if err := sup.Start(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		st.end("a", errBoom)
		expect(t, st.take(), "+a xa +a")
		_ = stop()
	})
}

func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st := newStage()
		sup := must(t, Config{Strategy: RestForOne, Intensity: DefaultIntensity, Children: []Spec{st.spec("a")}})
		if err := sup.Add(ctx, st.spec("b")); err != nil {
			t.Fatal(err)
		}
		stop, _ := served(t, sup)
		if err := sup.Add(ctx, st.spec("c")); err != nil {
			t.Fatal(err)
		}
		if err := sup.Add(ctx, st.spec("c")); !errors.Is(err, ErrDuplicate) {
			t.Errorf("got %v", err)
		}
		if err := sup.Start(ctx, "c"); !errors.Is(err, ErrRunning) {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(sup.Stop(ctx, "b"), sup.Start(ctx, "b"), sup.Remove(ctx, "b")); err != nil {
			t.Error(err)
		}
		if err := sup.Remove(ctx, "b"); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if err := sup.Spawn(ctx, "q", nil); !errors.Is(err, ErrStrategy) {
			t.Errorf("got %v", err)
		}
		expect(t, st.take(), "+a +b +c -b +b -b")
		st.end("a", errBoom)
		expect(t, st.take(), "xa -c +a +c")
		_ = stop()
		st.take()
		// Served again, it starts what was added.
		stop, _ = served(t, sup)
		_ = stop()
		expect(t, st.take(), "+a +c -c -a")
	})
}

func TestSimpleOneForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage()
		sup := must(t, Config{
			Strategy: SimpleOneForOne, Intensity: DefaultIntensity, Template: Spec{Kind: Transient},
			Spawn: func(name string, arg any) (Child, error) {
				return &actor{stage: st, name: name + arg.(string), end: make(chan error), ready: make(chan struct{}), slow: time.Second}, nil
			},
		})
		stop, _ := served(t, sup)
		for _, n := range []string{"a", "b", "c"} {
			if err := sup.Spawn(t.Context(), n, "1"); err != nil {
				t.Fatal(err)
			}
		}
		st.end("a1", nil)
		st.end("b1", errBoom)
		expect(t, st.take(), "+a1 +b1 +c1 xa1 xb1 +b1")
		if n := len(sup.Inspect().Children); n != 2 {
			t.Errorf("%d children", n)
		}
		began := time.Now()
		_ = stop()
		if time.Since(began) != time.Second {
			t.Errorf("stopping all at once took %v", time.Since(began))
		}
		got := strings.Fields(st.take())
		slices.Sort(got)
		expect(t, strings.Join(got, " "), "-b1 -c1")
		stop, _ = served(t, sup)
		if n := len(sup.Inspect().Children); n != 0 {
			t.Errorf("%d children after a restart", n)
		}
		_ = stop()
	})
}
