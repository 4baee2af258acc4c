package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/ads"
	"github.com/outrigger-mesh/outrigger/controlplane/host"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/controlplane/resolve"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/xds"
	"github.com/outrigger-mesh/outrigger/discovery"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// remake resolves what there is and tells it: sidecars always, the host where resources or other hosts changed (what
// it says itself is no news to it).
func (p *Plane) remake(tellHost bool) {
	p.making.Lock()
	defer p.making.Unlock()
	p.mu.Lock()
	c := p.catalog
	in := p.input(c.usable())
	p.mu.Unlock()
	in.Revision = c.rev.Number
	m, problems := resolve.Resolve(in)

	p.mu.Lock()
	fresh := p.model == nil || p.model.Revision != m.Revision
	p.model, p.problems = m, problems
	var invalid []*stored
	for _, x := range c.all {
		if x.problem != "" && !p.bad[x.path] {
			p.bad[x.path] = true
			invalid = append(invalid, x)
		} else if x.problem == "" {
			delete(p.bad, x.path)
		}
	}
	p.mu.Unlock()

	p.ads.Update(renderer(m))
	if tellHost {
		sups := map[host.SupervisorKey]*resource.Supervisor{}
		resource.Of(in.Resources, func(r *resource.Resource, s *resource.Supervisor) {
			sups[host.SupervisorKey{Tenant: r.Tenant(), Name: r.Name()}] = s
		})
		p.host.Apply(host.Input{Model: m, Supervisors: sups})
	}
	if fresh && c.rev.Number > 0 {
		p.journal.add(admin.Event{Kind: "revision.applied", Text: fmt.Sprintf("revision %d is in force: %s", c.rev.Number, c.rev.Message)})
	}
	for _, x := range invalid {
		p.log.Error("a stored resource cannot be used", "resource", x.path, "problem", x.problem)
		p.journal.add(admin.Event{Kind: "resource.invalid", Tenant: x.key.Tenant, Text: fmt.Sprintf("%s cannot be used: %s", x.path, x.problem)})
	}
	p.bump()
}

// input is all that a model is made of, with the given resources. The caller holds mu.
func (p *Plane) input(set []*resource.Resource) resolve.Input {
	in := resolve.Input{Host: p.o.Host, Resources: set, Draining: map[string]bool{}, Edge: p.o.Edge, SystemCA: resource.SystemCA()}
	for _, e := range p.discovered.Endpoints {
		if !e.Ours || e.Host != p.o.Host { // of our own we know more than a catalog does
			in.Discovered = append(in.Discovered, e)
		}
	}
	for _, i := range p.instances {
		if i.Local == nil {
			continue
		}
		in.Locals = append(in.Locals, i.Local)
		in.Discovered = append(in.Discovered, i.Endpoints(p.o.Host)...)
		if i.Draining {
			in.Draining[i.ID] = true
		}
	}
	discovery.Sort(in.Discovered)
	return in
}

func renderer(m *model.Model) ads.Render {
	return func(n *corev3.Node) ads.Config {
		c := xds.Build(m, xds.NodeOf(n))
		if c == nil {
			return nil
		}
		return c
	}
}

// checks are what an apply is held against on this host.
func (p *Plane) checks() checks {
	k := checks{host: p.checkHost, mesh: p.checkMesh}
	if p.source != nil {
		k.pin = p.o.Host
		p.mu.Lock()
		there := map[[2]string]bool{}
		for _, e := range p.discovered.Endpoints {
			there[[2]string{e.Tenant, e.Service}] = true
		}
		p.mu.Unlock()
		k.known = func(tenant, service string) bool { return there[[2]string{tenant, service}] }
	}
	return k
}

// checkMesh resolves the set and renders every node that it makes.
func (p *Plane) checkMesh(set []*resource.Resource) resource.Violations {
	p.mu.Lock()
	in := p.input(set)
	p.mu.Unlock()
	return checkRender(in)
}

func checkRender(in resolve.Input) resource.Violations {
	in.Locals = nil
	m, bad := resolve.Resolve(in)
	told := map[string]bool{}
	check := func(where string, c *xds.Config) {
		if c == nil {
			return
		}
		err := c.Errors()
		if err == nil || told[err.Error()] {
			return
		}
		told[err.Error()] = true
		bad = append(bad, resource.Violation{Resource: where, Message: "cannot be told to sidecars: " + err.Error()})
	}
	for _, g := range m.Gateways {
		check("Gateway/"+g.Name, xds.Build(m, xds.Node{ID: g.Node, Kind: xds.Gateway}))
	}
	tenants := map[string]bool{}
	with := *m
	with.Locals = map[string]*model.Local{}
	for k, s := range m.Services {
		if !tenants[k.Tenant] {
			tenants[k.Tenant] = true
			check("tenant "+k.Tenant, xds.Build(m, xds.Node{ID: "check", Kind: xds.Envoy, Tenant: k.Tenant, Listen: "127.0.0.1:1"}))
		}
		for _, v := range s.Versions {
			if v.Spec == nil {
				continue
			}
			l := trial(k, v, m)
			with.Locals[l.ID] = l
			check("Service/"+k.String()+"@"+v.Version, xds.Build(&with, xds.Node{ID: l.ID, Kind: xds.Sidecar}))
			delete(with.Locals, l.ID)
		}
	}
	return bad
}

// trial is an instance as it might be, to see whether its sidecar could be told.
func trial(k model.ServiceKey, v *model.Version, m *model.Model) *model.Local {
	const addr = "127.0.0.1:1"
	l := &model.Local{
		ID: "trial", Service: k, Version: v.Version, Inbound: map[string]string{}, Process: map[string]string{},
		Outbound: addr, Uses: map[model.PortKey]string{},
	}
	for _, port := range v.Ports {
		l.Inbound[port.Name], l.Process[port.Name] = addr, addr
	}
	if i := v.Spec.Intercept; !i.IsZero() {
		l.Intercept = &model.Intercept{Inbound: l.Inbound}
		if i.Outbound {
			l.Intercept.Outbound = []string{addr}
		}
	}
	for _, u := range v.Uses {
		if s := m.Services[u]; s != nil {
			for _, port := range s.Ports {
				l.Uses[model.PortKey{ServiceKey: u, Port: port.Name}] = addr
			}
		}
	}
	return l
}

// checkHost asks whether this host can run what changed.
func (p *Plane) checkHost(changed []*resource.Resource) resource.Violations {
	return resource.CheckHost(changed, p.lookup())
}

func (p *Plane) lookup() resource.Lookup {
	l := hostLookup(p.o.State.Dir, p.o.Host)
	l.PortFree = func(_ *resource.Resource, address string) error {
		if holds(p.o.State.Dir, address) {
			return nil
		}
		return listenable(address)
	}
	l.User = host.CheckUser
	l.Intercept = func(i *resource.Intercept) error { return host.CheckIntercept(p.o.State.Dir, i) }
	return l
}

func hostLookup(state, name string) resource.Lookup {
	return resource.Lookup{Host: name, Path: os.Getenv("PATH"), Vars: map[string]string{resource.VarStateDir: state}}
}

// holds says whether an instance of this state directory, running or kept, has the address already: another port of
// ours is told apart by ValidateSet.
func holds(state, address string) bool {
	address = strings.TrimPrefix(address, "unix:")
	want, _ := netip.ParseAddrPort(address) // a host name is compared as it is written
	found, err := runner.Find(state)
	if err != nil {
		return false
	}
	for _, f := range found {
		if !f.Live || f.Spec == nil {
			continue
		}
		for _, l := range f.Spec.Listen {
			if got, err := netip.ParseAddrPort(l.Address); l.Address == address || err == nil && got == want {
				return true
			}
		}
		if f.Spec.Process == nil {
			continue
		}
		for _, port := range f.Spec.Process.Ports {
			if port.Number == int(want.Port()) && want.Addr().IsLoopback() {
				return true
			}
		}
	}
	return false
}

// listenable returns why an address cannot be listened on.
func listenable(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return freeSocket(path)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return cause(err)
	}
	return l.Close()
}

// freeSocket returns why a Unix socket cannot be listened on at path. One that nobody accepts on any more is replaced.
func freeSocket(path string) error {
	if info, err := os.Stat(filepath.Dir(path)); err != nil {
		return cause(err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", filepath.Dir(path))
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return cause(err)
	case info.Mode()&os.ModeSocket == 0:
		return errors.New("a file that is not a socket is there")
	}
	if c, err := unixsock.Dial(context.Background(), path); err == nil {
		_ = c.Close()
		return unixsock.ErrInUse
	}
	return nil
}

func addrPort(s string) (netip.AddrPort, error) { return netip.ParseAddrPort(s) }

// parentOf is a process's parent, 0 where there is no such process.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The command, in parentheses, may hold anything.
	rest := string(b)
	if i := strings.LastIndexByte(rest, ')'); i >= 0 {
		rest = rest[i+1:]
	}
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.Atoi(f[1])
	if err != nil {
		return 0
	}
	return n
}

// CheckDocuments finds what is wrong with documents by themselves, before there is a state directory. Its error is a
// *admin.Problem.
func CheckDocuments(r admin.ApplyRequest) error {
	var bad resource.Violations
	for _, d := range r.Documents {
		_, v := resource.Parse(d.File, []byte(d.Text))
		bad = append(bad, v...)
	}
	if len(bad) == 0 {
		return nil
	}
	// All at once: also what concerns several resources.
	_, err := planApply(&catalog{byKey: map[store.Key]*stored{}}, r, checks{known: func(string, string) bool { return true }})
	return err
}
