package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/intercept"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// cgroupFile, in the state directory, holds the cgroup below which the mesh's are: a control plane that is started again from
// elsewhere goes on with it.
const cgroupFile = "cgroup.json"

// lookEvery is how often the tables are looked for: whoever loads a whole ruleset anew takes them out.
const lookEvery = 2 * time.Second

// sidecarsCgroup is the cgroup of all sidecars, where somebody's rules are to let them be.
const sidecarsCgroup = "sidecars"

// Tables are the tables of nftables; the kernel's unless a test has others.
type Tables interface {
	// Put puts a table in force, in the place of one of the same name.
	Put(r intercept.Rules) error
	Remove(table string) error
	// List returns the names that begin with prefix.
	List(prefix string) ([]string, error)
	// RemoveAll removes those whose names begin with prefix and that keep does not want.
	RemoveAll(prefix string, keep func(table string) bool) ([]string, error)
}

type kernelTables struct{}

func (kernelTables) Put(r intercept.Rules) error { return r.Put() }
func (kernelTables) Remove(table string) error   { return intercept.Remove(table) }
func (kernelTables) List(prefix string) ([]string, error) {
	return intercept.List(prefix)
}

func (kernelTables) RemoveAll(prefix string, keep func(string) bool) ([]string, error) {
	return intercept.RemoveAll(prefix, keep)
}

// interception keeps a table for each instance whose connections are redirected: from before its process is started until it
// has stopped. Between, the table stays, whoever of sidecar, runner and control plane dies: the sockets that it leads to
// are the runner's, and connections wait there for the next sidecar.
type interception struct {
	stateDir string
	tables   Tables

	mu     sync.Mutex // held while the kernel is told
	base   intercept.Cgroup
	wanted map[string]intercept.Rules // by instance
	force  map[string]intercept.Rules // in force, by instance
}

func newInterception(stateDir string, t Tables) *interception {
	if t == nil {
		t = kernelTables{}
	}
	return &interception{stateDir: stateDir, tables: t, wanted: map[string]intercept.Rules{}, force: map[string]intercept.Rules{}}
}

// idle says whether there is nothing to keep.
func (c *interception) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.wanted) == 0 && len(c.force) == 0
}

// cgroup is the cgroup below which the mesh's are, the same for as long as it is there.
func (c *interception) cgroup() (intercept.Cgroup, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.Path != "" {
		return c.base, nil
	}
	file := filepath.Join(c.stateDir, cgroupFile)
	if b, err := os.ReadFile(file); err == nil {
		var kept intercept.Cgroup
		if json.Unmarshal(b, &kept) == nil && kept.Path != "" {
			if _, err := os.Stat(kept.Path); err == nil {
				c.base = kept
				return kept, nil
			}
		}
	}
	base, err := intercept.Base(c.stateDir)
	if err != nil {
		return base, err
	}
	b, err := json.Marshal(base)
	if err == nil {
		err = os.WriteFile(file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return base, fmt.Errorf("remember the mesh's cgroup: %w", err)
	}
	c.base = base
	return base, nil
}

// plan says what is to be kept: nothing is changed yet.
func (c *interception) plan(wanted map[string]intercept.Rules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = wanted
}

// ensure puts an instance's table in force, unless it is. anew does so in any case.
func (c *interception) ensure(id string, anew bool) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.wanted[id]
	if !ok {
		return false, nil
	}
	if old, ok := c.force[id]; ok && !anew && old.String() == r.String() {
		return false, nil
	}
	if r.Cgroup.Path != "" {
		if err := r.Cgroup.Make(); err != nil {
			return false, err
		}
	}
	if err := c.tables.Put(r); err != nil {
		return false, err
	}
	c.force[id] = r
	return true, nil
}

// missing are the instances whose tables somebody else has taken out.
func (c *interception) missing() ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.force) == 0 {
		return nil, nil
	}
	there, err := c.tables.List(intercept.Prefix(c.stateDir))
	if err != nil {
		return nil, err
	}
	var out []string
	for id, r := range c.force {
		if !slices.Contains(there, r.Table) {
			out = append(out, id)
			delete(c.force, id)
		}
	}
	slices.Sort(out)
	return out, nil
}

// drop takes an instance's table out, if there is one.
func (c *interception) drop(id string) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.force[id]
	if !ok {
		return false, nil
	}
	if err := c.tables.Remove(r.Table); err != nil {
		return false, err
	}
	delete(c.force, id)
	if r.By == intercept.ByCgroup && r.Cgroup.Path != "" {
		_ = r.Cgroup.RemoveTree() // what is in it still keeps it
	}
	return true, nil
}

// sweep takes out the tables that an earlier control plane left and that nobody wants any more.
func (c *interception) sweep() ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := map[string]bool{}
	for _, r := range c.wanted {
		keep[r.Table] = true
	}
	gone, err := c.tables.RemoveAll(intercept.Prefix(c.stateDir), func(t string) bool { return keep[t] })
	if notAllowed(err) && len(c.wanted) == 0 {
		err = nil // there can be none of ours
	}
	return gone, err
}

// clear takes out all tables of the mesh, and its cgroups.
func (c *interception) clear() ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted, c.force = map[string]intercept.Rules{}, map[string]intercept.Rules{}
	gone, err := c.tables.RemoveAll(intercept.Prefix(c.stateDir), func(string) bool { return false })
	if notAllowed(err) {
		err = nil
	}
	file := filepath.Join(c.stateDir, cgroupFile)
	base := c.base
	if base.Path == "" {
		if b, rerr := os.ReadFile(file); rerr == nil {
			_ = json.Unmarshal(b, &base)
		}
	}
	if base.Path != "" {
		err = errors.Join(err, base.RemoveTree())
		_ = os.Remove(file)
		c.base = intercept.Cgroup{}
	}
	return gone, err
}

// notAllowed: this process may not even look, or there is nothing to be looked at.
func notAllowed(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EPROTONOSUPPORT)
}

// state is what is wanted of an instance, and what is in force.
func (c *interception) state(id string) (wanted, force *intercept.Rules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.wanted[id]; ok {
		wanted = &r
	}
	if r, ok := c.force[id]; ok {
		force = &r
	}
	return wanted, force
}

// ids are the instances of which something is wanted or in force.
func (c *interception) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for id := range c.wanted {
		out = append(out, id)
	}
	for id := range c.force {
		if _, ok := c.wanted[id]; !ok {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// keepTables takes tables out when their instances have stopped, and puts them in for those that run, also where somebody else has
// taken them out.
func (h *Host) keepTables(ctx context.Context) {
	told := map[string]string{} // what went wrong, so that it is told once
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for ctx.Err() == nil {
		h.mu.Lock()
		changed, applied := h.changed, h.applied
		h.mu.Unlock()
		if applied && !h.tables.idle() {
			for _, id := range h.tables.ids() {
				err := h.keepTable(id)
				switch {
				case err == nil:
					delete(told, id)
				case told[id] != err.Error():
					told[id] = err.Error()
					h.cfg.Log.Error("keep the redirection of an instance", "instance", id, "err", err)
				}
			}
		}
		select {
		case <-changed:
		case <-look.C:
			gone, err := h.tables.missing()
			if err != nil {
				h.cfg.Log.Error("look for the tables that redirect connections", "err", err)
			}
			for _, id := range gone {
				h.cfg.Log.Warn("somebody has removed the rules that redirect the connections of an instance; they are put in again", "instance", id)
				h.emit(Event{Kind: "intercept.lost", Instance: id, Text: "somebody has removed the rules that redirect its connections; they are put in again"})
			}
		case <-ctx.Done():
		}
	}
}

func (h *Host) keepTable(id string) error {
	h.mu.Lock()
	u, over := h.byID[id], h.stopping != nil
	h.mu.Unlock()
	if u != nil && u.pool != nil {
		if i := u.pool.Instance(id); i != nil {
			st := i.Status()
			live := st.Runner.State.Live() || st.Runner.State == process.Restarting
			if live || !st.Stopped && !st.Retired && !st.GivenUp && !over && u.gone == nil {
				return h.redirect(id, false)
			}
		}
	}
	changed, err := h.tables.drop(id)
	if changed {
		h.emit(Event{Kind: "intercept.off", Instance: id, Text: "its connections are not redirected any more"})
	}
	return err
}

// redirect puts an instance's table in force, where it has one.
func (h *Host) redirect(id string, anew bool) error {
	changed, err := h.tables.ensure(id, anew)
	if err != nil {
		return fmt.Errorf("instance %s: intercept its connections: %w", id, err)
	}
	if changed {
		wanted, _ := h.tables.state(id)
		h.emit(Event{Kind: "intercept.on", Instance: id, Text: "its connections are redirected to its sidecar: " + interceptionText(wanted)})
	}
	return nil
}

// interceptionText is a table in a few words; "" for none.
func interceptionText(r *intercept.Rules) string {
	if r == nil {
		return ""
	}
	var what []string
	if r.Outbound != 0 {
		what = append(what, "outbound by "+string(r.By))
	}
	if len(r.Inbound) > 0 {
		what = append(what, "inbound")
	}
	return strings.Join(what, ", ")
}

// Interception is an instance's table.
type Interception struct {
	Instance, Table string
	// Rules is the table in the syntax of nft.
	Rules string
	// InForce: it is in the kernel as it stands here.
	InForce bool
}

// Interceptions are the tables of the instances that a name means, in the order of their ids. anew puts those in force once more
// whose instances run. Without interception there are none.
func (h *Host) Interceptions(tenant, name string, anew bool) ([]Interception, error) {
	h.mu.Lock()
	ids := map[string]*unit{}
	for id, u := range h.byID {
		if u.gateway == nil && u.named(tenant, name, id) {
			ids[id] = u
		}
	}
	h.mu.Unlock()
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	var out []Interception
	for _, id := range h.tables.ids() {
		if ids[id] == nil {
			continue
		}
		wanted, force := h.tables.state(id)
		if anew && force != nil {
			if err := h.redirect(id, true); err != nil {
				return out, err
			}
			wanted, force = h.tables.state(id)
		}
		if wanted == nil {
			continue
		}
		out = append(out, Interception{
			Instance: id, Table: wanted.Table, Rules: wanted.String(), InForce: force != nil && force.String() == wanted.String(),
		})
	}
	return out, nil
}

// intercept fills in what redirects an instance's connections: listeners, cgroups, and the rules.
func (h *Host) intercept(u *unit, id string, spec *runner.Spec, local *model.Local, get func(key string, explicit int) (int, error)) (*intercept.Rules, error) {
	i := u.spec.Intercept
	if i.IsZero() {
		return nil, nil
	}
	r := &intercept.Rules{Table: intercept.Name(h.cfg.StateDir, id), By: intercept.By(i.Mode())}
	local.Intercept = &model.Intercept{Inbound: map[string]string{}}
	listen := func(name, address string) {
		spec.Listen = append(spec.Listen, runner.Listen{Name: name, Network: "tcp", Address: address})
	}
	if i.Outbound {
		n, err := get("intercept/outbound", 0)
		if err != nil {
			return nil, err
		}
		r.Outbound = uint16(n)
		addresses := []string{loopback(n)}
		if ipv6() {
			addresses = append(addresses, net.JoinHostPort("::1", strconv.Itoa(n)))
		}
		for _, a := range addresses {
			local.Intercept.Outbound = append(local.Intercept.Outbound, a)
			listen(xdsname.InterceptOutbound(a), a)
		}
		if err := h.whose(u, id, spec, r); err != nil {
			return nil, err
		}
	}
	if i.Inbound {
		wild := "0.0.0.0"
		if ipv6() {
			wild = "::"
		}
		for k, p := range u.spec.Ports {
			n, err := get("intercept/inbound/"+p.Name, 0)
			if err != nil {
				return nil, err
			}
			a := net.JoinHostPort(wild, strconv.Itoa(n))
			local.Intercept.Inbound[p.Name] = a
			listen(xdsname.InterceptInbound(p.Name), a)
			r.Inbound = append(r.Inbound, intercept.Redirect{Port: uint16(spec.Process.Ports[k].Number), To: uint16(n)})
		}
	}
	if x := i.Exclude; x != nil {
		for _, p := range x.Ports {
			r.Ports = append(r.Ports, uint16(p))
		}
		for _, n := range x.UIDs {
			r.UIDs = append(r.UIDs, uint32(n))
		}
		for _, text := range x.CIDRs {
			p, err := netip.ParsePrefix(text)
			if a, aerr := netip.ParseAddr(text); aerr == nil {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if err != nil {
				return nil, fmt.Errorf("intercept.exclude.cidrs: %w", err)
			}
			r.CIDRs = append(r.CIDRs, p)
		}
	}
	return r, r.Check()
}

// whose says how the connections of the instance are told from others.
func (h *Host) whose(u *unit, id string, spec *runner.Spec, r *intercept.Rules) error {
	switch r.By {
	case intercept.ByUID:
		if spec.Process.User == nil {
			return errors.New("intercept by uid: run.user is missing")
		}
		if r.UID = spec.Process.User.UID; int(r.UID) == os.Getuid() {
			return fmt.Errorf("intercept by uid: %s is the user of the control plane and of the sidecars, whose connections would come back to them", u.spec.Run.User)
		}
		return nil
	case intercept.ByNamespace:
		base, err := h.tables.cgroup()
		if err == nil {
			r.Cgroup = base.Below(sidecarsCgroup)
		}
		return err
	default:
		base, err := h.tables.cgroup()
		if err == nil {
			r.Cgroup = base.Below(id)
			spec.Process.CgroupDir = r.Cgroup.Path
		}
		return err
	}
}

// placeSidecars says in which cgroup sidecars are started: none, unless somebody takes all of the namespace but them.
func (h *Host) placeSidecars(units []*unit) error {
	h.sidecars = ""
	for _, u := range units {
		if u.spec == nil || u.spec.Intercept.IsZero() || !u.spec.Intercept.Outbound || u.spec.Intercept.Mode() != resource.ByNamespace {
			continue
		}
		base, err := h.tables.cgroup()
		if err != nil {
			return err
		}
		c := base.Below(sidecarsCgroup)
		if err := c.Make(); err != nil {
			return err
		}
		h.sidecars = c.Path
		return nil
	}
	return nil
}

// ipv6 says whether this host has IPv6 at all.
var ipv6 = sync.OnceValue(func() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
})

// asUser finds whom a process runs as, and what its environment says of that user.
func asUser(name string) (*process.User, map[string]string, error) {
	u, err := user.Lookup(name)
	if _, nerr := strconv.ParseUint(name, 10, 32); nerr == nil && err != nil {
		u, err = user.LookupId(name)
		if err != nil { // a number needs no name
			n, _ := strconv.ParseUint(name, 10, 32)
			return &process.User{UID: uint32(n), GID: uint32(n)}, nil, nil
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("run.user: there is no user %s", name)
	}
	out := &process.User{}
	for _, f := range []struct {
		text string
		to   *uint32
	}{{u.Uid, &out.UID}, {u.Gid, &out.GID}} {
		n, err := strconv.ParseUint(f.text, 10, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("run.user: user %s: %w", name, err)
		}
		*f.to = uint32(n)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, nil, fmt.Errorf("run.user: the groups of user %s: %w", name, err)
	}
	for _, g := range groups {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil && uint32(n) != out.GID {
			out.Groups = append(out.Groups, uint32(n))
		}
	}
	slices.Sort(out.Groups)
	return out, map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username}, nil
}

// CheckUser returns why a process cannot be run as a user, nil where it can.
func CheckUser(name string) error {
	u, _, err := asUser(name)
	if err == nil && os.Getuid() != 0 && int(u.UID) != os.Getuid() {
		return fmt.Errorf("only root can run processes as %s", name)
	}
	return err
}

// CheckIntercept returns why connections cannot be redirected on this host, nil where they can.
func CheckIntercept(stateDir string, i *resource.Intercept) error {
	if err := intercept.Possible(); err != nil {
		return err
	}
	if i.Outbound && i.Mode() != resource.ByUID {
		_, err := intercept.Base(stateDir)
		return err
	}
	return nil
}

// clearOffline takes out what redirected connections in a mesh whose control plane does not run.
func clearOffline(stateDir string, tell func(string)) error {
	gone, err := newInterception(stateDir, nil).clear()
	for _, t := range gone {
		tell("removed the rules of " + strings.TrimPrefix(t, intercept.Prefix(stateDir)))
	}
	return err
}
