package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/intercept"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/backoff"
	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// retry is how often an instance that has failed for good is started anew where no Supervisor decides, and
// retryWait how long it waits.
var retryWait = backoff.Policy{Kind: backoff.Exponential, Base: time.Second, Max: 30 * time.Second}

// top is one child of the root.
type top struct {
	name string
	// shape tells trees apart: what is equal is left alone.
	shape string
	units []*unit
}

// reconcile makes in what runs. Only Serve's goroutine calls it. found are the runners of before, at the first call.
func (h *Host) reconcile(ctx context.Context, in Input, found []runner.Found) {
	units := plan(in)
	h.mu.Lock()
	old := make(map[string]*unit, len(h.units))
	for k, v := range h.units {
		old[k] = v
	}
	stopped := make(map[string]bool, len(h.stopped))
	for k, v := range h.stopped {
		stopped[k] = v
	}
	first := !h.applied
	h.mu.Unlock()

	running := map[string]bool{}
	for _, f := range found {
		running[f.Instance] = true
	}
	for _, u := range old {
		for _, i := range u.pool.Instances() {
			if i.Status().Runner.RunnerPID != 0 {
				running[i.ID()] = true
			}
		}
	}
	var problems []string
	bad := func(format string, a ...any) {
		problems = append(problems, fmt.Sprintf(format, a...))
	}
	if err := h.placeSidecars(units); err != nil {
		bad("%v", err)
	}
	wanted := map[string]bool{}
	wants := map[*unit][]pool.Want{}
	rules := map[string]intercept.Rules{}
	for _, u := range units {
		u.locals, u.wasReady, u.rules = map[string]*model.Local{}, map[string]bool{}, map[string]intercept.Rules{}
		for _, id := range u.ids {
			wanted[id] = true
			spec, local, err := h.build(u, id, in.Model.Services, h.cfg.Environ, !running[id])
			if err == nil {
				err = h.writeBootstrap(u, id)
			}
			if err != nil {
				bad("%v", err)
				continue
			}
			u.locals[id] = local
			if r, ok := u.rules[id]; ok {
				rules[id] = r
			}
			wants[u] = append(wants[u], pool.Want{Spec: spec, Stopped: stopped[id]})
		}
	}
	// What is on its way out keeps its ports until it is gone; the next input releases them.
	h.ports.release(func(id string) bool { return wanted[id] || running[id] })
	if err := h.ports.save(); err != nil {
		// A port that is not on disk must not be told to anybody.
		h.mu.Lock()
		h.problems = []string{err.Error()}
		h.mu.Unlock()
		h.bump()
		return
	}

	// Nothing is started whose connections cannot be redirected as it says.
	h.tables.plan(rules)
	for u, ws := range wants {
		wants[u] = slices.DeleteFunc(ws, func(w pool.Want) bool {
			if w.Stopped {
				return false
			}
			err := h.redirect(w.Spec.Instance, false)
			if err != nil {
				bad("%v", err)
			}
			return err != nil
		})
	}
	if first {
		gone, err := h.tables.sweep()
		if err != nil {
			bad("%v", err)
		}
		for _, t := range gone {
			h.emit(Event{Kind: "intercept.swept", Text: "removed the rules that an earlier control plane left: " + t})
		}
	}

	// The pools: kept, made anew where what cannot be changed did, or on their way out.
	var moved, fresh []*unit // moved: kept in a new unit
	now := map[string]*unit{}
	for _, u := range units {
		o := old[u.name]
		switch {
		case o != nil && o.gone != nil:
			bad("%s is still being removed", u.name) // its end makes us look again
			continue
		case o != nil && o.kind() == u.kind() && (o.under != SupervisorKey{}) == (u.under != SupervisorKey{}):
			u.pool, u.wasReady = o.pool, o.wasReady
			moved = append(moved, u)
		default:
			u.pool = h.newPool(u, wants[u])
			fresh = append(fresh, u)
		}
		now[u.name] = u
	}
	var leaving []*unit
	h.mu.Lock()
	h.units = now
	for name, o := range old {
		switch u := now[name]; {
		case o.gone != nil:
			h.units[name] = o
		case u == nil:
			o.gone = make(chan struct{})
			h.units[name] = o
			leaving = append(leaving, o)
		}
	}
	h.byID = map[string]*unit{}
	for _, u := range h.units {
		for _, i := range u.pool.Instances() {
			h.byID[i.ID()] = u
			if o := old[u.name]; o != nil && o != u && u.locals[i.ID()] == nil {
				u.locals[i.ID()] = o.locals[i.ID()] // leaves by a smaller size
			}
		}
		for _, id := range u.ids {
			h.byID[id] = u
		}
	}
	h.problems, h.applied = problems, true
	h.mu.Unlock()
	h.bump()
	h.poke()

	h.plant(ctx, in.Supervisors, fresh)
	for _, u := range moved {
		u.pool.Set(wants[u])
	}
	for _, u := range leaving {
		go h.remove(context.WithoutCancel(ctx), u)
	}
	if first {
		h.evict(context.WithoutCancel(ctx), found, func(id string) bool { return wanted[id] })
	}
}

// remove drains and ends a unit that is out of the tree.
func (h *Host) remove(ctx context.Context, u *unit) {
	if err := u.pool.Dispose(ctx, runner.StopOptions{}); err != nil {
		h.cfg.Log.Warn("remove what is not wanted any more", "unit", u.name, "err", err)
	}
	gone, programs := map[string][]byte{}, map[string][]byte{}
	h.mu.Lock()
	if h.units[u.name] == u {
		delete(h.units, u.name)
	}
	for _, i := range u.pool.Instances() {
		if h.byID[i.ID()] == u {
			delete(h.byID, i.ID())
		}
		delete(h.reports, i.ID())
		delete(h.left, i.ID())
		delete(h.ran, i.ID())
		delete(h.fell, i.ID())
		if h.stopped[i.ID()] {
			delete(h.stopped, i.ID())
			gone[i.ID()] = nil
		}
		if h.programs[i.ID()] != "" {
			delete(h.programs, i.ID())
			programs[i.ID()] = nil
		}
	}
	h.mu.Unlock()
	if err := errors.Join(h.db.put(stoppedBucket, gone), h.db.put(sidecarBucket, programs)); err != nil {
		h.cfg.Log.Warn("forget what was stopped", "err", err)
	}
	close(u.gone)
	h.poke()
	h.bump()
	select { // another input may have waited for this end
	case h.kick <- struct{}{}:
	default:
	}
}

func (h *Host) newPool(u *unit, want []pool.Want) *pool.Pool {
	return pool.New(pool.Config{
		Name: u.name, Want: want, Kind: u.kind(), Escalate: u.under != SupervisorKey{},
		Retry: supervisor.DefaultIntensity, Backoff: func(n int) time.Duration { return retryWait.Delay(n, nil) },
		Launcher: h.cfg.Launcher, Events: h.supLog, Log: h.cfg.Log,
		Hooks: pool.Hooks{
			Await: h.await, Withdraw: h.withdraw, Changed: h.instanceChanged, Event: h.runnerEvent,
			Healthy: func(id string) bool {
				h.mu.Lock()
				u := h.byID[id]
				h.mu.Unlock()
				if u == nil {
					return false
				}
				i := u.pool.Instance(id)
				if i == nil {
					return false
				}
				st := i.Status()
				if u.gateway != nil {
					return st.Runner.Ready
				}
				return h.instance(u, st).Ready
			},
		},
	})
}

// plant arranges the pools below the root as the Supervisor resources say. What is arranged as before is not touched; what
// moves is let go and taken up again, while its runners go on.
func (h *Host) plant(ctx context.Context, sups map[SupervisorKey]*resource.Supervisor, fresh []*unit) {
	h.mu.Lock()
	root, placed := h.root, h.placed
	byService := map[model.ServiceKey][]*unit{}
	var alone []*unit
	for _, u := range h.units {
		switch {
		case u.gone != nil:
		case u.under == SupervisorKey{}:
			alone = append(alone, u)
		default:
			byService[u.service] = append(byService[u.service], u)
		}
	}
	h.mu.Unlock()
	for _, us := range byService {
		slices.SortFunc(us, (*unit).compare)
	}
	slices.SortFunc(alone, (*unit).compare)

	isFresh := func(us []*unit) bool {
		return slices.ContainsFunc(us, func(u *unit) bool { return slices.Contains(fresh, u) })
	}
	var next []top
	specs := map[string]func() (supervisor.Spec, error){}
	below := map[SupervisorKey]bool{}
	for k, s := range sups {
		for _, c := range s.Children {
			if c.Supervisor != "" {
				below[SupervisorKey{k.Tenant, c.Supervisor}] = true
			}
		}
	}
	for k := range sups {
		if below[k] {
			continue
		}
		t := top{name: "supervisor/" + k.Tenant + "/" + k.Name}
		t.shape, t.units = shape(k, sups, byService)
		if len(t.units) == 0 {
			continue
		}
		next = append(next, t)
		specs[t.name] = func() (supervisor.Spec, error) {
			s, err := h.build1(k, sups, byService)
			// A tree that fails is not started again by itself: it is seen, and others go on.
			return supervisor.Spec{Name: t.name, Child: s, Own: &supervisor.Intensity{Within: time.Minute}}, err
		}
	}
	for _, u := range alone {
		t := top{name: u.name, shape: "unit", units: []*unit{u}}
		next = append(next, t)
		specs[t.name] = func() (supervisor.Spec, error) {
			return supervisor.Spec{Name: t.name, Child: u.pool, Own: &supervisor.DefaultIntensity}, nil
		}
	}
	slices.SortStableFunc(next, func(a, b top) int {
		return cmp.Or(cmp.Compare(minRank(a.units), minRank(b.units)), cmp.Compare(a.name, b.name))
	})

	same := func(p top) bool {
		return slices.ContainsFunc(next, func(n top) bool { return n.name == p.name && n.shape == p.shape && !isFresh(n.units) })
	}
	for _, p := range placed {
		if same(p) {
			continue
		}
		for _, u := range p.units {
			u.pool.Detach(true)
		}
		if err := root.Remove(ctx, p.name); err != nil {
			h.cfg.Log.Warn("take apart a tree", "tree", p.name, "err", err)
		}
		for _, u := range p.units {
			u.pool.Detach(false)
		}
	}
	// A pool that was replaced by a fresh one has let go of its runners, which the fresh one now takes up.
	for _, n := range next {
		if slices.ContainsFunc(placed, func(p top) bool { return p.name == n.name && same(p) }) {
			continue
		}
		spec, err := specs[n.name]()
		if err == nil {
			err = root.Add(ctx, spec)
		}
		if err != nil && ctx.Err() == nil {
			h.cfg.Log.Error("start a tree", "tree", n.name, "err", err)
		}
	}
	h.mu.Lock()
	h.placed = next
	h.mu.Unlock()
}

func minRank(us []*unit) int {
	r := us[0].rank
	for _, u := range us {
		r = min(r, u.rank)
	}
	return r
}

// shape describes a tree, and lists its units.
func shape(k SupervisorKey, sups map[SupervisorKey]*resource.Supervisor, byService map[model.ServiceKey][]*unit) (string, []*unit) {
	s := sups[k]
	if s == nil {
		return "", nil
	}
	strategy, in := strategyOf(s)
	var b strings.Builder
	var units []*unit
	fmt.Fprintf(&b, "%s(%s %d/%s", k.Name, strategy, in.Restarts, in.Within)
	for _, c := range ordered(s) {
		fmt.Fprintf(&b, " %v:", c.Critical)
		if c.Service != "" {
			for _, u := range byService[model.ServiceKey{Tenant: k.Tenant, Name: c.Service}] {
				b.WriteString(u.name + ",")
				units = append(units, u)
			}
			continue
		}
		sub, us := shape(SupervisorKey{k.Tenant, c.Supervisor}, sups, byService)
		b.WriteString(sub)
		units = append(units, us...)
	}
	b.WriteString(")")
	return b.String(), units
}

func strategyOf(s *resource.Supervisor) (supervisor.Strategy, supervisor.Intensity) {
	strategy, err := supervisor.ParseStrategy(cmp.Or(s.Strategy, resource.DefaultStrategy))
	if err != nil {
		strategy = supervisor.OneForOne // Validate has refused others
	}
	in := supervisor.Intensity{Restarts: resource.DefaultRestarts, Within: resource.DefaultWithin}
	if s.Intensity != nil {
		if s.Intensity.Restarts != nil {
			in.Restarts = *s.Intensity.Restarts
		}
		if s.Intensity.Within > 0 {
			in.Within = s.Intensity.Within
		}
	}
	return strategy, in
}

// build1 makes the supervisor of a Supervisor resource. The versions of a service are one child: when one fails, the service has.
func (h *Host) build1(k SupervisorKey, sups map[SupervisorKey]*resource.Supervisor, byService map[model.ServiceKey][]*unit) (*supervisor.Supervisor, error) {
	s := sups[k]
	strategy, in := strategyOf(s)
	cfg := supervisor.Config{Name: k.Name, Strategy: strategy, Intensity: in, Events: h.supLog}
	for _, c := range ordered(s) {
		if c.Service != "" {
			versions := byService[model.ServiceKey{Tenant: k.Tenant, Name: c.Service}]
			if len(versions) == 0 {
				continue
			}
			group := supervisor.Config{Name: c.Service, Events: h.supLog}
			for _, u := range versions {
				group.Children = append(group.Children, supervisor.Spec{Name: u.name, Child: u.pool})
			}
			sub, err := supervisor.New(group)
			if err != nil {
				return nil, err
			}
			cfg.Children = append(cfg.Children, supervisor.Spec{
				Name: c.Service, Child: sub, Critical: c.Critical,
				Backoff: func(n int) time.Duration { return retryWait.Delay(n, nil) },
			})
			continue
		}
		below := SupervisorKey{k.Tenant, c.Supervisor}
		if sups[below] == nil {
			continue
		}
		sub, err := h.build1(below, sups, byService)
		if err != nil {
			return nil, err
		}
		cfg.Children = append(cfg.Children, supervisor.Spec{
			Name: "supervisor/" + c.Supervisor, Child: sub, Critical: c.Critical,
			Backoff: func(n int) time.Duration { return retryWait.Delay(n, nil) },
		})
	}
	return supervisor.New(cfg)
}
