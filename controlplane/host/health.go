package host

import (
	"cmp"
	"context"
	"encoding/json"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/discovery"
	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// sidecarGrace is how long an instance stays advertised while its sidecar is restarted: new connections queue in its sockets, and
// callers had nowhere to go where it is the only one.
const sidecarGrace = 2 * time.Second

// restartGrace is how long an instance stays advertised while its runner starts its process again: its sidecar holds the calls
// meanwhile, and callers had nowhere to go where it is the only one. A process that is away for longer, or whose health
// check has failed often enough, is withdrawn.
const restartGrace = 10 * time.Second

// withdrawLimit bounds the wait for the sink, so that a control plane in trouble can still stop things.
const withdrawLimit = 5 * time.Second

// HealthState is what a sidecar's probes found.
type HealthState uint8

// Health states.
const (
	HealthUnknown HealthState = iota
	Healthy
	Unhealthy
)

// ClusterHealth is the health of one inbound cluster of a sidecar.
type ClusterHealth struct {
	Cluster string // "inbound/http"
	State   HealthState
	Reason  string
}

// Report is what a sidecar told last, as a whole.
type Report struct {
	Ready    bool
	Draining bool
	Health   []ClusterHealth
	// Rejected are the resources that it refused, in words.
	Rejected []string
}

// Report takes in what the sidecar of a node told. It counts until the next one, also over the end of the stream: an
// instance whose sidecar lives keeps the health that was last known.
func (h *Host) Report(node string, r Report) {
	h.mu.Lock()
	h.reports[node] = r
	u := h.byID[node]
	h.mu.Unlock()
	if u != nil {
		h.instanceChanged(node)
		u.pool.Kick()
	}
}

// Reported returns what the sidecar of a node told last.
func (h *Host) Reported(node string) (Report, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.reports[node]
	return r, ok
}

// Instance is one instance of a service on this host, as the rest of the mesh is to see it.
type Instance struct {
	ID      string
	Service model.ServiceKey
	Version string
	// Local are its addresses. It must not be written to.
	Local *model.Local
	Ports []model.Port
	Zone  string
	State process.State
	// Ready: it runs, is healthy, and its sidecar is ready.
	Ready bool
	// Healthy is what the health check says, or that its port accepts.
	Healthy bool
	// Advertised: it takes calls, or holds them for the moment in which its process is started again. Draining: it takes
	// no new ones.
	Advertised, Draining bool
	// RunnerPID is the parent of its sidecar; 0 where there is none.
	RunnerPID, SidecarPID int
}

// Endpoints are the instance's ports in discovery's words.
func (i Instance) Endpoints(host string) []discovery.Endpoint {
	var out []discovery.Endpoint
	health := discovery.Unhealthy
	if i.Advertised || i.Draining && i.Healthy {
		health = discovery.Healthy
	}
	for _, p := range i.Ports {
		addr, port, err := net.SplitHostPort(i.Local.Inbound[p.Name])
		if err != nil {
			continue
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			continue
		}
		out = append(out, discovery.Endpoint{
			ID: i.ID, Tenant: i.Service.Tenant, Service: i.Service.Name, Version: i.Version,
			Address: addr, Port: uint16(n), PortName: p.Name, Protocol: discovery.Protocol(p.Protocol),
			Health: health, Weight: 1, Host: host, Zone: i.Zone, Ours: true,
		})
	}
	return out
}

// healthy says whether an instance may take calls as far as its process goes, and why not.
func (h *Host) healthy(u *unit, st pool.Status) (bool, string) {
	if st.Runner.State != process.Running {
		return false, ""
	}
	if u.gateway != nil {
		return st.Runner.Ready, ""
	}
	h.mu.Lock()
	r := h.reports[st.ID]
	last, kept := h.last[st.ID]
	h.mu.Unlock()
	port := ""
	if u.spec.Health != nil {
		port = u.spec.Health.Port
	}
	known := false
	for _, c := range r.Health {
		if name, ok := strings.CutPrefix(c.Cluster, "inbound/"); !ok || port != "" && name != port {
			continue
		}
		switch c.State {
		case Unhealthy:
			return false, "its health check fails: " + cmp.Or(c.Reason, "no reason was told")
		case Healthy:
			known = true
		}
	}
	switch {
	case known || u.spec.Health == nil:
		return true, "" // the runner says that it runs once its port accepts
	case kept && last.PID == st.Runner.PID && last.Healthy:
		return true, "" // known from before the control plane's restart, or the sidecar's replacement: nothing was found yet
	}
	return false, "its health check has not passed yet"
}

// instance tells how an instance of a service is.
func (h *Host) instance(u *unit, st pool.Status) Instance {
	ok, _ := h.healthy(u, st)
	h.mu.Lock()
	since, away := h.left[st.ID]
	fell, fallen := h.fell[st.ID]
	sick := false
	for _, c := range h.reports[st.ID].Health {
		sick = sick || c.State == Unhealthy && strings.HasPrefix(c.Cluster, "inbound/")
	}
	local := u.locals[st.ID]
	h.mu.Unlock()
	comesBack := fallen && time.Since(fell) < restartGrace && !sick
	sidecar := st.Runner.Sidecar.Ready || away && time.Since(since) < sidecarGrace
	i := Instance{
		ID: st.ID, Service: u.service, Version: u.version, Local: local, Ports: u.ports, Zone: h.cfg.Zone, State: st.State,
		Healthy: ok, Draining: (st.Draining || st.Retired || st.Stopped || st.Runner.Sidecar.Draining) && st.Runner.RunnerPID != 0,
		RunnerPID: st.Runner.RunnerPID, SidecarPID: st.Runner.Sidecar.PID,
	}
	i.Ready = ok && sidecar && !i.Draining && !st.Stopped
	i.Advertised = i.Ready || comesBack && sidecar && !i.Draining && !st.Stopped
	return i
}

// Instances are all instances of services on this host, ordered by id.
func (h *Host) Instances() []Instance {
	var out []Instance
	for _, u := range h.unitsNow() {
		if u.gateway != nil {
			continue
		}
		for _, i := range u.pool.Instances() {
			x := h.instance(u, i.Status())
			if x.Local != nil {
				out = append(out, x)
			}
		}
	}
	slices.SortFunc(out, func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// instanceChanged is the pools' hook: it must not block.
func (h *Host) instanceChanged(id string) {
	h.mu.Lock()
	u := h.byID[id]
	h.mu.Unlock()
	if u != nil {
		if i := u.pool.Instance(id); i != nil {
			st := i.Status()
			h.noteSidecar(u, st)
			h.noteProcess(u, st)
		}
	}
	h.poke()
	h.bump()
}

// noteSidecar remembers since when a sidecar that was ready is not.
func (h *Host) noteSidecar(u *unit, st pool.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch _, away := h.left[st.ID]; {
	case st.Runner.RunnerPID == 0 || !slices.Contains([]process.State{process.Running, process.Restarting, process.Starting}, st.Runner.State):
		delete(h.left, st.ID)
		delete(u.wasReady, st.ID)
	case st.Runner.Sidecar.Ready:
		delete(h.left, st.ID)
		u.wasReady[st.ID] = true
	case !away && u.wasReady[st.ID]:
		h.left[st.ID] = time.Now()
		time.AfterFunc(sidecarGrace, func() { h.poke(); h.bump() })
	}
}

// noteProcess remembers since when a process that served is being started again by its runner.
func (h *Host) noteProcess(u *unit, st pool.Status) {
	ok, _ := h.healthy(u, st)
	h.mu.Lock()
	defer h.mu.Unlock()
	_, fallen := h.fell[st.ID]
	switch state := st.Runner.State; {
	case st.Runner.RunnerPID == 0, st.Draining, st.Retired, st.Stopped:
		delete(h.ran, st.ID)
		delete(h.fell, st.ID)
	case state == process.Running:
		h.ran[st.ID] = ok
		delete(h.fell, st.ID)
	case state == process.Restarting || state == process.Starting:
		if !fallen && h.ran[st.ID] {
			h.fell[st.ID] = time.Now()
			time.AfterFunc(restartGrace, func() { h.poke(); h.bump() })
		}
	default: // it was stopped, or has failed
		delete(h.ran, st.ID)
		delete(h.fell, st.ID)
	}
}

func (h *Host) poke() {
	select {
	case h.publish <- struct{}{}:
	default:
	}
}

// tell tells the sink, one after another, until ctx ends.
func (h *Host) tell(ctx context.Context) {
	var before []Instance
	first := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.publish:
		}
		h.mu.Lock()
		asked := h.wanted
		h.mu.Unlock()
		now := h.Instances()
		if first || !reflect.DeepEqual(before, now) {
			if h.cfg.Sink != nil {
				if err := h.cfg.Sink(ctx, now); err != nil {
					h.cfg.Log.Warn("tell the mesh what is here", "err", err)
				}
			}
			before, first = now, false
			h.keepHealth(now)
			h.bump()
			for _, u := range h.unitsNow() {
				u.pool.Kick()
			}
		}
		h.mu.Lock()
		h.told = asked
		close(h.toldCh)
		h.toldCh = make(chan struct{})
		h.mu.Unlock()
	}
}

// withdraw is the pools' hook: the instance is marked already; it returns when the mesh was told.
func (h *Host) withdraw(ctx context.Context, _ string) {
	ctx, cancel := context.WithTimeout(ctx, withdrawLimit)
	defer cancel()
	h.mu.Lock()
	h.wanted++
	mine := h.wanted
	serving := h.serving
	h.mu.Unlock()
	if !serving {
		return
	}
	h.poke()
	for {
		h.mu.Lock()
		done, ch := h.told >= mine, h.toldCh
		h.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch:
		case <-ctx.Done():
			h.cfg.Log.Warn("an instance is drained although the mesh may not know yet")
			return
		}
	}
}

// keepHealth puts on disk which processes are healthy, for the next control plane.
func (h *Host) keepHealth(all []Instance) {
	values := map[string][]byte{}
	seen := map[string]bool{}
	for _, i := range all {
		seen[i.ID] = true
		h.mu.Lock()
		u, old := h.byID[i.ID], h.last[i.ID]
		h.mu.Unlock()
		if u == nil {
			continue
		}
		in := u.pool.Instance(i.ID)
		if in == nil {
			continue
		}
		pid := in.Status().Runner.PID
		if pid == 0 || i.State != process.Running {
			continue
		}
		now := lastHealth{PID: pid, Healthy: i.Healthy}
		if now == old {
			continue
		}
		if v, err := json.Marshal(now); err == nil {
			values[i.ID] = v
		}
		h.mu.Lock()
		h.last[i.ID] = now
		h.mu.Unlock()
	}
	h.mu.Lock()
	applied := h.applied
	for id := range h.last {
		if applied && !seen[id] {
			values[id] = nil
			delete(h.last, id)
		}
	}
	h.mu.Unlock()
	if err := h.db.put(healthBucket, values); err != nil {
		h.cfg.Log.Warn("keep the health of processes", "err", err)
	}
}

// await is the pools' hook: it returns when all that the unit of this instance starts after is there.
func (h *Host) await(ctx context.Context, id string, waits func(string)) error {
	before := ""
	over := false
	err := h.wait(ctx, func() bool {
		h.mu.Lock()
		u, in := h.byID[id], h.input
		over = h.stopping != nil
		h.mu.Unlock()
		if over || u == nil || in == nil {
			return true
		}
		var missing []string
		for _, d := range u.after() {
			if !h.there(model.ServiceKey{Tenant: u.service.Tenant, Name: d.Service}, d.Condition, in.Model) {
				missing = append(missing, d.Service+" to be "+cmp.Or(d.Condition, resource.Healthy))
			}
		}
		if s := strings.Join(missing, ", "); s != before {
			before = s
			if s != "" {
				waits(s)
			}
		}
		return len(missing) == 0
	})
	if err == nil && over {
		return errStopping
	}
	if err == nil {
		err = h.redirect(id, false)
	}
	return err
}

// there says whether a service is healthy or started: here, or by what discovery knows of other hosts.
func (h *Host) there(k model.ServiceKey, condition string, m *model.Model) bool {
	for _, u := range h.unitsNow() {
		if u.gateway != nil || u.service != k {
			continue
		}
		for _, i := range u.pool.Instances() {
			st := i.Status()
			if condition == resource.Started && st.Runner.State == process.Running || h.instance(u, st).Ready {
				return true
			}
		}
	}
	s := m.Services[k]
	if s == nil {
		return false
	}
	for _, e := range s.Endpoints {
		if !e.Local && e.Healthy && !e.Draining {
			return true
		}
	}
	return s.External
}
