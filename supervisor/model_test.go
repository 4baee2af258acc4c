package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// otp is a small model of what OTP's supervisor does with children that start at once: supervisor.erl's
// handle_exit/do_restart/add_restart, in the words of its documentation.
type otp struct {
	strategy Strategy
	in       Intensity
	now      time.Duration
	restarts []time.Duration
	names    []string
	kinds    map[string]Kind
	live     map[string]bool
	log      []string
	failed   bool
}

func (m *otp) exit(name string, failure bool) {
	m.live[name] = false
	m.log = append(m.log, "x"+name)
	switch k := m.kinds[name]; {
	case k == Temporary:
		m.forget(name)
		return
	case k == Transient && !failure:
		return
	}
	m.restarts = append(m.restarts, m.now)
	n := 0
	for _, t := range m.restarts {
		if m.now-t <= m.in.Within {
			n++
		}
	}
	if n > m.in.Restarts {
		m.failed = true
		m.stop(m.names)
		return
	}
	group := []string{name}
	switch m.strategy {
	case OneForAll:
		group = slices.Clone(m.names)
	case RestForOne:
		group = slices.Clone(m.names[slices.Index(m.names, name):])
	}
	m.stop(group)
	for _, g := range group {
		if m.kinds[g] == Temporary {
			m.forget(g)
			continue
		}
		m.live[g] = true
		m.log = append(m.log, "+"+g)
	}
}

func (m *otp) stop(group []string) {
	for _, g := range slices.Backward(group) {
		if m.live[g] {
			m.live[g] = false
			m.log = append(m.log, "-"+g)
		}
	}
}

func (m *otp) forget(name string) {
	m.names = slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return n == name })
}

func (m *otp) take() string {
	s := strings.Join(m.log, " ")
	m.log = nil
	return s
}

// Whatever ends whenever, the supervisor starts and stops the same children in the same order as OTP's.
func TestAgainstOTP(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &otp{
			strategy: Strategy(rapid.IntRange(0, 2).Draw(rt, "strategy")), kinds: map[string]Kind{}, live: map[string]bool{},
			in: Intensity{Restarts: rapid.IntRange(0, 4).Draw(rt, "restarts"), Within: time.Duration(rapid.IntRange(1, 20).Draw(rt, "within")) * time.Second},
		}
		n := rapid.IntRange(1, 5).Draw(rt, "children")
		type step struct {
			pick    int
			failure bool
			wait    time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 9).Draw(rt, "pick"), rapid.Bool().Draw(rt, "failure"), time.Duration(rapid.IntRange(0, 8).Draw(rt, "wait")) * time.Second}
		}), 1, 15).Draw(rt, "steps")
		var specs []Spec
		st := newStage()
		for i := range n {
			name := string(rune('a' + i))
			k := Kind(rapid.IntRange(0, 2).Draw(rt, "kind"))
			m.names = append(m.names, name)
			m.kinds[name], m.live[name] = k, true
			m.log = append(m.log, "+"+name)
			specs = append(specs, st.spec(name, kind(k)))
		}
		// A failure of the inner test is carried out of the bubble: rapid must not be spoken to from within.
		var problem string
		synctest.Test(t, func(t *testing.T) {
			sup := must(t, Config{Strategy: m.strategy, Intensity: m.in, Children: specs})
			stop, result := served(t, sup)
			compare := func(what string) bool {
				if got, want := st.take(), m.take(); got != want {
					problem = fmt.Sprintf("%s: got %q, OTP does %q", what, got, want)
				}
				return problem == ""
			}
			ok := compare("start")
			for i, s := range steps {
				time.Sleep(s.wait)
				m.now += s.wait
				var live []string
				for _, name := range m.names {
					if m.live[name] {
						live = append(live, name)
					}
				}
				if !ok || len(live) == 0 {
					break
				}
				name := live[s.pick%len(live)]
				var err error
				if s.failure {
					err = errBoom
				}
				m.exit(name, s.failure)
				st.end(name, err)
				if ok = compare(fmt.Sprintf("step %d, %s ends with %v", i, name, err)); m.failed {
					break
				}
			}
			if m.failed && ok {
				var failed *FailedError
				if err := <-result; !errors.As(err, &failed) {
					problem = fmt.Sprintf("ended with %v", err)
				}
				return
			}
			err := stop()
			m.stop(m.names)
			if ok && err == nil && !compare("stop") {
				return
			}
			if err != nil && problem == "" {
				problem = fmt.Sprintf("stopped with %v", err)
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}
