package compile

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// resolvePoll is how often it is asked whether host names have been looked up that something waits for.
const resolvePoll = 20 * time.Millisecond

// unit is one listener's name: the version that is served, and the one that waits for what it names.
type unit struct{ active, pending *version }

func (u *unit) versions() []*version {
	var out []*version
	for _, v := range []*version{u.active, u.pending} {
		if v != nil {
			out = append(out, v)
		}
	}
	return out
}

func (u *unit) removeHost(name string) {
	for _, v := range u.chains() {
		if v.hosts[name] != nil {
			delete(v.hosts, name)
			v.dirty = true
		}
	}
}

// version is one version of a listener with its chains.
type version struct {
	def    *listenerDef
	since  time.Time
	chains []*chainVersion
}

// chainVersion is one filter chain with the routes that were compiled for it.
type chainVersion struct {
	def  *chainDef
	ref  *snapshot.RoutesRef
	vhds bool // what the published listener was told

	routes part             // the route configuration; unset until it has come
	hosts  map[string]*part // found on demand, by resource name
	dirty  bool             // the table is to be built anew
}

// chain returns the version's chain of that key, or nil; v may be nil.
func (v *version) chain(key string) *chainVersion {
	if v != nil {
		for _, cv := range v.chains {
			if cv.def.key == key {
				return cv
			}
		}
	}
	return nil
}

// chains are those of all versions.
func (u *unit) chains() []*chainVersion {
	var out []*chainVersion
	for _, v := range u.versions() {
		out = append(out, v.chains...)
	}
	return out
}

// part is what becomes active together: a route configuration, or one virtual host found on demand.
type part struct {
	active  *compiled
	pending *compiled
	since   time.Time // of the first pending version, so that a stream of updates does not put it off for ever
}

type compiled struct {
	routes *routeDef // of a route configuration
	host   *snapshot.VirtualHost
	needs  map[string]bool
}

func (p *part) offer(now time.Time, d *compiled) {
	if p.pending == nil {
		p.since = now
	}
	p.pending = d
}

func (p *part) latest() *compiled {
	if p.pending != nil {
		return p.pending
	}
	return p.active
}

// settle activates a part that is warm or has waited long enough, and says whether it did.
func (p *part) settle(c *Compiler, now time.Time, next *time.Time) bool {
	if p.pending == nil {
		return false
	}
	if due := p.since.Add(c.opts.InitTimeout); !c.allWarm(p.pending.needs) && now.Before(due) {
		sooner(next, due)
		return false
	}
	p.active, p.pending = p.pending, nil
	return true
}

func (v *chainVersion) references(refs map[string]bool) {
	maps.Copy(refs, v.def.needs)
	for _, p := range append(slices.Collect(maps.Values(v.hosts)), &v.routes) {
		for _, d := range []*compiled{p.active, p.pending} {
			if d != nil {
				maps.Copy(refs, d.needs)
			}
		}
	}
}

func (c *Compiler) setListener(now time.Time, r *report, m *listenerv3.Listener) {
	d := c.listener(r, m)
	for _, t := range d.contexts() {
		if r.ok() {
			c.renew(r, t)
			c.pollAt = time.Time{}
		}
	}
	if !r.ok() {
		return
	}
	u := c.units[m.GetName()]
	if u == nil {
		u = &unit{}
	}
	v := &version{def: d, since: now}
	for _, cd := range d.chains {
		cv := &chainVersion{def: cd, hosts: map[string]*part{}, dirty: true}
		v.chains = append(v.chains, cv)
		if cd.l.HTTP != nil {
			cv.firstRoutes(now, c, r, u.active.chain(cd.key))
		}
	}
	if !r.ok() {
		return
	}
	c.units[m.GetName()] = u
	if u.pending != nil {
		v.since = u.pending.since
	}
	u.pending = v
}

// firstRoutes compiles what there is of a new chain's routes. old is the chain in whose place it comes, or nil.
func (v *chainVersion) firstRoutes(now time.Time, c *Compiler, r *report, old *chainVersion) {
	d := v.def
	config, path := d.inline, d.path+".filters[0].typed_config.route_config"
	if d.rds != "" {
		path = d.path + ".filters[0].typed_config.rds.route_config_name"
		if e := c.entries[RouteType][d.rds]; e != nil && e.body != nil {
			config = &routev3.RouteConfiguration{}
			if err := proto.Unmarshal(e.body.GetValue(), config); err != nil {
				r.add(path, "cannot be read: %v", err)
			}
		}
	}
	if config != nil {
		inner := &report{}
		v.offerRoutes(now, c, inner, config)
		for _, e := range inner.errs {
			if d.rds != "" { // at fault is what the listener makes of it
				r.add(path, "%s of route configuration %s %s", e.path, d.rds, e.reason)
			} else {
				r.add(join(path, e.path), "%s", e.reason)
			}
		}
	}
	name := config.GetName()
	if d.rds != "" {
		name = d.rds
	}
	v.ref = &snapshot.RoutesRef{Name: name}
	if old != nil && old.ref != nil && old.ref.Name == name {
		v.ref = old.ref // connections that are open follow
	}
}

// offerRoutes compiles a route configuration for the version, and the virtual hosts found on demand with it.
func (v *chainVersion) offerRoutes(now time.Time, c *Compiler, r *report, m *routev3.RouteConfiguration) {
	pl := place{listener: v.def.l.Name, chain: v.def.chain, needs: map[string]bool{}}
	d := c.routeConfig(r, "", m, pl)
	if !r.ok() {
		return
	}
	v.routes.offer(now, &compiled{routes: d, needs: pl.needs})
	if !d.vhds {
		return
	}
	for name, e := range c.entries[VirtualHostType] {
		host := &routev3.VirtualHost{}
		if routeConfigOf(name) != d.name || e.body == nil || proto.Unmarshal(e.body.GetValue(), host) != nil {
			continue
		}
		v.offerHost(now, c, &report{}, name, host) // its own levels may have changed under it; what no longer fits is left as it was
	}
}

func (v *chainVersion) offerHost(now time.Time, c *Compiler, r *report, name string, m *routev3.VirtualHost) {
	base := v.routes.latest()
	if base == nil {
		return
	}
	pl := base.routes.place
	pl.needs = map[string]bool{}
	host := c.virtualHost(r, "", m, &pl)
	if !r.ok() {
		return
	}
	p := v.hosts[name]
	if p == nil {
		p = &part{}
		v.hosts[name] = p
	}
	p.offer(now, &compiled{host: host, needs: pl.needs})
}

func (c *Compiler) setRoutes(now time.Time, r *report, m *routev3.RouteConfiguration) {
	used := false
	for _, u := range c.units {
		for _, v := range u.chains() {
			if v.def.rds == m.GetName() {
				used = true
				v.offerRoutes(now, c, r, m)
			}
		}
	}
	if !used {
		c.routeConfig(r, "", m, place{})
	}
}

// routeConfigOf returns the route configuration of a virtual host's resource name: <route config>/<host>.
func routeConfigOf(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}

func (c *Compiler) setVirtualHost(now time.Time, r *report, name string, m *routev3.VirtualHost) {
	checkFields(r, "", m)
	if routeConfigOf(name) == "" {
		r.add("", "the name is not <route config>/<host>")
	}
	if !r.ok() {
		return
	}
	used := false
	for _, u := range c.units {
		for _, v := range u.chains() {
			if base := v.routes.latest(); base != nil && base.routes.vhds && base.routes.name == routeConfigOf(name) {
				used = true
				v.offerHost(now, c, r, name, m)
			}
		}
	}
	if !used {
		c.virtualHost(r, "", m, &place{})
	}
}

// settle activates what can be, publishes what changed, and takes away what nothing refers to.
func (c *Compiler) settle(now time.Time, res *Result) {
	c.poll(now, res)
	res.Certificates, c.renewed = c.renewed, nil
	for _, name := range c.order() {
		u := c.units[name]
		for _, v := range u.chains() {
			v.dirty = v.routes.settle(c, now, &res.Next) || v.dirty
			for _, p := range v.hosts {
				v.dirty = p.settle(c, now, &res.Next) || v.dirty
			}
		}
		if c.ready(u, now, &res.Next) {
			u.active, u.pending = u.pending, nil
			for _, v := range u.active.chains {
				v.dirty = true
			}
			c.dirty = true
			res.Listeners = append(res.Listeners, name)
		}
		if u.active == nil {
			continue
		}
		routes := false
		for _, v := range u.active.chains {
			if !v.dirty {
				continue
			}
			v.dirty = false
			if v.publish(c) {
				c.dirty = true
			}
			routes = routes || v.ref != nil
		}
		if routes {
			res.Routes = append(res.Routes, name)
		}
	}
	if c.unresolved {
		c.unresolved = false
		sooner(&res.Next, now.Add(resolvePoll))
	}
	c.sweep(now, res)
	if c.dirty {
		c.dirty = false
		c.serial++
		c.version = strconv.Itoa(c.serial)
		res.Snapshot = &snapshot.Snapshot{Version: c.version, Listeners: map[string]*snapshot.Listener{}}
		for name, u := range c.units {
			if u.active != nil {
				res.Snapshot.Listeners[name] = u.active.listener(c)
			}
		}
	}
	slices.Sort(res.Listeners)
	slices.Sort(res.Routes)
	slices.Sort(res.Clusters)
	slices.Sort(res.Endpoints)
}

// ready says whether the waiting version of a listener can take the place of the active one. One that replaces
// another waits for its routes as long as it takes; the first serves without them after a while, so that its callers
// get an answer instead of a refused connection.
func (c *Compiler) ready(u *unit, now time.Time, next *time.Time) bool {
	v := u.pending
	if v == nil {
		return false
	}
	due := v.since.Add(c.opts.InitTimeout)
	late := !now.Before(due)
	if v.def.l.HandOver && u.active == nil && !late && c.unboundWait() {
		sooner(next, due)
		return false
	}
	for _, cv := range v.chains {
		var ok bool
		switch {
		case cv.def.l.TCP != nil:
			ok = late || c.allWarm(cv.def.needs) && v.def.secretsHere()
		case cv.routes.active != nil:
			ok = late || v.def.secretsHere()
		default:
			ok = late && u.active == nil
		}
		if !ok {
			if !late {
				sooner(next, due)
			}
			return false
		}
	}
	return true
}

// order is that in which listeners are looked at: those that hand over come after those that they hand over to.
func (c *Compiler) order() []string {
	handsOver := func(name string) int {
		for _, v := range c.units[name].versions() {
			if v.def.l.HandOver {
				return 1
			}
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(c.units), func(a, b string) int {
		return cmp.Or(cmp.Compare(handsOver(a), handsOver(b)), cmp.Compare(a, b))
	})
}

// unboundWait says whether an unbound listener is not active yet. Until then one that hands over would take what is not meant for it.
func (c *Compiler) unboundWait() bool {
	for _, u := range c.units {
		if u.active == nil && u.pending != nil && u.pending.def.l.Unbound {
			return true
		}
	}
	return false
}

// listener is what is published of a version.
func (v *version) listener(c *Compiler) *snapshot.Listener {
	chain := func(cv *chainVersion) *snapshot.Listener {
		l := cv.def.l
		if l.HTTP != nil {
			h := *l.HTTP
			h.Routes = cv.ref
			if cv.vhds && c.opts.OnDemand != nil {
				h.OnDemand = c.opts.OnDemand(cv.ref.Name)
			}
			l.HTTP = &h
		}
		return &l
	}
	if !v.def.several {
		l := chain(v.chains[0])
		l.Front = v.def.l.Front
		return l
	}
	l := v.def.l
	front := *l.Front
	l.Front = &front
	for _, cv := range v.chains {
		if cv.def.fallback {
			front.Default = chain(cv)
		} else {
			front.Chains = append(front.Chains, snapshot.Chain{Key: cv.def.key, Match: cv.def.match, Listener: chain(cv)})
		}
	}
	return &l
}

// publish builds the route table, and says whether the listener itself has to be published anew.
func (v *chainVersion) publish(c *Compiler) bool {
	if v.ref == nil || v.routes.active == nil {
		return false
	}
	d := v.routes.active.routes
	hosts := slices.Clone(d.hosts)
	for _, name := range slices.Sorted(maps.Keys(v.hosts)) {
		if p := v.hosts[name]; p.active != nil {
			hosts = append(hosts, p.active.host)
		}
	}
	version := ""
	if e := c.entries[RouteType][d.name]; e != nil {
		version = e.version
	}
	v.ref.Store(snapshot.NewRouteTable(d.name, version, d.ignorePort, hosts))
	changed := v.vhds != d.vhds
	v.vhds = d.vhds
	return changed
}

// sweep takes away clusters that were withdrawn and that nothing refers to any more, or whose time is up.
func (c *Compiler) sweep(now time.Time, res *Result) {
	var refs map[string]bool
	for name, cs := range c.clusters {
		if cs.removed.IsZero() {
			continue
		}
		if refs == nil {
			refs = c.references()
		}
		if due := cs.removed.Add(c.opts.InitTimeout); refs[name] && now.Before(due) {
			sooner(&res.Next, due)
			continue
		}
		delete(c.clusters, name)
		c.opts.Sink.Remove(name)
		res.Clusters = append(res.Clusters, name)
	}
}

func sooner(next *time.Time, t time.Time) {
	if next.IsZero() || t.Before(*next) {
		*next = t
	}
}
