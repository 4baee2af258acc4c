package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/ads"
	"github.com/outrigger-mesh/outrigger/controlplane/host"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// settle is how often readiness is looked at besides each change: some of it is a matter of time alone.
const settle = 250 * time.Millisecond

// Processes implements admin.Backend.
func (p *Plane) Processes(context.Context) ([]admin.Process, error) {
	ps := p.host.Processes()
	out := make([]admin.Process, 0, len(ps))
	for _, x := range ps {
		a := admin.Process{
			Service: x.Service, Version: x.Version, Tenant: x.Tenant, Instance: x.Instance, PID: x.PID, State: x.State,
			Restarts: x.Restarts, Ready: x.Ready, Sidecar: admin.PID(x.Sidecar), Runner: admin.PID(x.Runner), Address: x.Address,
			Intercept: x.Intercept,
			Reason:    x.Reason, LastOutput: x.LastOutput, Since: x.Since,
		}
		if isGateway(x.Instance) {
			a.Service = "" // its name would pass for a service's
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, compareInstances)
	return out, nil
}

// isGateway tells a gateway's id from an instance's, which ends in its version and slot.
func isGateway(id string) bool {
	return id == xdsname.Edge || strings.HasPrefix(id, "gateway-") && strings.Count(id, ".") == 0
}

// Operate implements admin.Backend.
func (p *Plane) Operate(ctx context.Context, tenant, name string, op admin.Op) ([]string, error) {
	tenant = orDefault(tenant)
	f := map[admin.Op]func(context.Context, string, string) ([]string, error){
		admin.Start: p.host.Start, admin.Stop: p.host.Stop, admin.Restart: p.host.Restart, admin.Kill: p.host.Kill,
	}[op]
	ids, err := f(ctx, tenant, name)
	return ids, p.named(err)
}

// Interceptions implements admin.Backend.
func (p *Plane) Interceptions(_ context.Context, tenant, name string, anew bool) ([]admin.Interception, error) {
	got, err := p.host.Interceptions(orDefault(tenant), name, anew)
	out := make([]admin.Interception, 0, len(got))
	for _, x := range got {
		out = append(out, admin.Interception(x))
	}
	return out, p.named(err)
}

// Upgrade implements admin.Backend.
func (p *Plane) Upgrade(ctx context.Context, r admin.UpgradeRequest, tell func(admin.Upgraded)) error {
	err := p.host.Upgrade(ctx, orDefault(r.Tenant), r.Names, r.Sidecar, func(u host.Upgraded) { tell(admin.Upgraded(u)) })
	var bad *host.ProgramError
	var refused *runner.Error
	switch {
	case errors.As(err, &bad):
		return admin.BadRequest("%v", err)
	case errors.Is(err, host.ErrUpgrading):
		return admin.Conflict(err.Error())
	case errors.As(err, &refused):
		return admin.Conflict(err.Error() + "; outrigger logs NAME --sidecar shows what it said")
	}
	return p.named(err)
}

// named makes "nothing has this name" a problem that helps.
func (p *Plane) named(err error) error {
	if !errors.Is(err, host.ErrNotFound) {
		return err
	}
	var have []string
	for _, x := range p.host.Processes() {
		if !isGateway(x.Instance) && !slices.Contains(have, x.Service) {
			have = append(have, x.Service)
		}
	}
	hint := "nothing runs here"
	if len(have) > 0 {
		hint = "there is " + strings.Join(have, ", ")
	}
	return admin.NotFound(strings.TrimSuffix(err.Error(), ": "+host.ErrNotFound.Error()), hint)
}

// Status implements admin.Backend.
func (p *Plane) Status(ctx context.Context) (admin.Status, error) {
	p.journal.mu.Lock()
	last := p.journal.last
	p.journal.mu.Unlock()
	ready := p.host.Ready()
	ps, err := p.Processes(ctx)
	if err != nil {
		return admin.Status{}, err
	}
	p.mu.Lock()
	c, m, problems, stale := p.catalog, p.model, p.problems, p.discovered
	p.mu.Unlock()
	s := admin.Status{
		Ready: ready.Ready, Reasons: ready.Reasons, Fatal: ready.Fatal, Epoch: p.journal.epoch, LastEvent: last,
		Host: p.o.Host, PID: os.Getpid(), Version: p.o.Version, Revision: c.rev.Number, Store: p.storeName, Edge: p.o.Edge,
		API: filepath.Join(p.o.State.Dir, admin.Socket), Started: p.started.UTC(), Processes: ps,
	}
	for _, x := range ps {
		if x.Instance == xdsname.Edge && x.Address != "" {
			s.Edge = x.Address
		}
	}
	for _, x := range c.all {
		if x.problem != "" {
			s.Ready, s.Reasons = false, append(s.Reasons, x.key.String()+" cannot be used: "+x.problem)
			s.Fatal = true
		}
	}
	for _, v := range problems {
		s.Warnings = append(s.Warnings, v.String())
	}
	if stale.Stale {
		w := "discovery knows nothing newer than " + stale.Since.Local().Format(time.TimeOnly)
		if stale.Err != nil {
			w += ": " + stale.Err.Error()
		}
		s.Warnings = append(s.Warnings, w)
	}
	for _, n := range p.ads.Status() {
		for _, r := range n.Resources {
			if r.Rejected != nil {
				name := n.Node
				if f, ok := foreignOf(name); ok {
					name = nodeName(f)
				}
				s.Warnings = append(s.Warnings, fmt.Sprintf("%s rejects %s %s: %s", name, shortType(r.TypeURL), r.Name, r.Rejected.Reason))
			}
		}
		if !n.Connected {
			continue
		}
		cl := admin.XDSClient{Node: n.Node, Kind: "sidecar"}
		if isGateway(n.Node) {
			cl.Kind = "gateway"
		}
		if f, ok := foreignOf(n.Node); ok {
			cl.Node, cl.Kind = nodeName(f), f.Kind
			for _, x := range c.all {
				if x.res != nil && x.key.Tenant == f.Tenant {
					for _, left := range notCarried(x.res, f.Kind, outside(m, x)) {
						cl.Skipped = append(cl.Skipped, x.key.String()+": "+left)
					}
				}
			}
			if f.Kind == ads.KindGRPC {
				cl.Skipped = append(cl.Skipped, "the outbound sidecar of "+f.Service)
			}
		}
		s.Clients = append(s.Clients, cl)
	}
	return s, nil
}

// WaitReady implements admin.Backend.
func (p *Plane) WaitReady(ctx context.Context) (admin.Status, error) {
	t := time.NewTicker(settle)
	defer t.Stop()
	for {
		changed := p.Changed()
		s, err := p.Status(ctx)
		if err != nil || s.Ready || s.Fatal {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, nil // the caller's time is over: how it is now is the answer
		case <-changed:
		case <-t.C:
		}
	}
}

// Down implements admin.Backend. A stop that is under way already is waited for, or hurried.
func (p *Plane) Down(ctx context.Context, hurry bool, tell func(string)) error {
	err := p.host.Down(ctx, hurry, tell)
	if ctx.Err() != nil {
		return ctx.Err() // the stop goes on
	}
	p.downOnce.Do(func() { close(p.downDone) })
	return err
}

// DownDone is closed when Down has stopped everything.
func (p *Plane) DownDone() <-chan struct{} { return p.downDone }

// copyEvents takes the host's events into the journal.
func (p *Plane) copyEvents(ctx context.Context) error {
	log := p.host.Events()
	for since := uint64(0); ; {
		entries, _, err := log.Wait(ctx, since)
		if err != nil {
			return err
		}
		for _, e := range entries {
			since = e.Seq
			x := e.Event
			p.journal.add(admin.Event{
				Time: x.Time, Kind: x.Kind, Tenant: x.Tenant, Service: x.Service, Version: x.Version,
				Instance: x.Instance, State: x.State, PID: x.PID, Text: x.Text,
			})
		}
		p.bump()
	}
}

// Report implements ads.Sink.
func (p *Plane) Report(node string, r *outriggerv1.ReportRequest) {
	out := host.Report{Ready: r.GetReady(), Draining: r.GetDraining()}
	for _, h := range r.GetHealth() {
		c := host.ClusterHealth{Cluster: h.GetCluster(), Reason: h.GetReason()}
		switch h.GetState() {
		case outriggerv1.EndpointHealth_STATE_HEALTHY:
			c.State = host.Healthy
		case outriggerv1.EndpointHealth_STATE_UNHEALTHY:
			c.State = host.Unhealthy
		}
		out.Health = append(out.Health, c)
	}
	for _, e := range r.GetRejected() {
		out.Rejected = append(out.Rejected, strings.TrimPrefix(e.GetName()+": "+e.GetReason(), ": "))
	}
	p.host.Report(node, out)
	p.bump()
}

// Gone implements ads.Sink: what was reported last counts on.
func (p *Plane) Gone(string) {}

// client is told what happens to xDS clients.
func (p *Plane) client(e ads.Event) {
	who := e.Node
	if f, ok := foreignOf(who); ok {
		who = nodeName(f)
	}
	x := admin.Event{Kind: "client." + string(e.Kind), Instance: who, Text: who + " " + string(e.Kind)}
	switch e.Kind {
	case ads.Rejected:
		x.Text = fmt.Sprintf("%s rejects %s %s: %s", who, shortType(e.TypeURL), e.Name, strings.TrimPrefix(e.Field+": "+e.Reason, ": "))
		p.log.Warn("configuration rejected", "node", who, "type", shortType(e.TypeURL), "name", e.Name, "field", e.Field, "reason", e.Reason)
	case ads.Accepted:
		x.Text = fmt.Sprintf("%s takes %s %s", who, shortType(e.TypeURL), e.Name)
	}
	p.journal.add(x)
	p.bump()
}

// RemoveUnused removes a state directory in which nothing was ever run, as a start that was refused leaves it.
func RemoveUnused(dir string) {
	if _, err := os.Stat(filepath.Join(dir, "instances")); !errors.Is(err, os.ErrNotExist) {
		return
	}
	for _, f := range []string{storeFile, hostFile, secretFile, versionFile, lockFile, LogFile} {
		_ = os.Remove(filepath.Join(dir, f))
	}
	_ = os.Remove(dir)
}

var (
	_ admin.Backend = (*Plane)(nil)
	_ ads.Sink      = (*Plane)(nil)
)
