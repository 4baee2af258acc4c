// Package compile turns Envoy v3 resources into the sidecar's snapshot: all that is slow or can fail (validation,
// regular expressions, templates, label lookups) happens here, before a request meets it.
//
// A [Compiler] is fed with what arrives, resource by resource. A bad resource harms only itself: it is refused with
// the path of the field at fault, and the last good one stays in use. What the sidecar does not serve is refused in
// the same way and never left out in silence (see served). A listener or a route table becomes active only when what
// it names has arrived ("warming"), or when it has waited for Options.InitTimeout.
//
// How resources arrive is not known here: see sidecar/xdsclient. What endpoints, connections and breakers become of
// clusters is sidecar/upstream's, behind [Sink].
package compile

import (
	"crypto/rand"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/limit"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Types of resources.
const (
	ListenerType    = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType       = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	VirtualHostType = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
	ClusterType     = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType    = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SecretType      = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Types lists the types in the order in which they are to be asked for: what others refer to comes first.
func Types() []string {
	return []string{SecretType, ClusterType, EndpointType, ListenerType, RouteType, VirtualHostType}
}

// Sink takes clusters and endpoints: the table of sidecar/upstream. Its methods are called by one goroutine at a time.
type Sink interface {
	// Ref returns the stable place of a cluster, known or not.
	Ref(name string) *snapshot.ClusterRef
	// SetCluster puts a new version of a cluster in use. The sink sets its Runtime before it stores it in its place. An
	// error refuses the version; the last one stays.
	SetCluster(c *snapshot.Cluster) error
	// SetEndpoints replaces a cluster's endpoints. The cluster was set before. An error leaves the last ones.
	SetEndpoints(cluster string, eps []snapshot.EndpointSpec) error
	// Remove takes a cluster away; what is in flight ends by itself.
	Remove(cluster string)
}

// Options are what a Compiler works with. Sink is required.
type Options struct {
	Sink       Sink
	Strategies []balancer.Strategy
	// Limits keeps the rate limiters' buckets over snapshots; nil makes a table.
	Limits *limit.Table
	// Stats is where filters count; nil makes a registry.
	Stats *stat.Registry
	// OnDemand gives the discovery of virtual hosts for a route configuration that has vhds; nil where there is none.
	OnDemand func(routeConfig string) snapshot.OnDemand
	// Resolved says whether the host names of a cluster with DNS were looked up once; where they were not, it is asked again soon.
	// nil means that they always are.
	Resolved func(cluster string) bool
	// InitTimeout is how long a listener or a table waits for what it names; 0 means 5 s.
	InitTimeout time.Duration
	// Rand gives 64 random bits; nil means balancer.DefaultRand.
	Rand func() uint64
}

// Resource is one resource as it arrived.
type Resource struct {
	Name, Version string
	// Body is the resource; nil is an error of the sender.
	Body *anypb.Any
}

// Update is what arrived at once, of one type.
type Update struct {
	TypeURL string
	Set     []Resource
	Removed []string
	// Static resources come from the bootstrap; dynamic ones of the same name are refused.
	Static bool
}

// Result is what came of an Update or a Tick.
type Result struct {
	// Errors are the resources, or fields of them, that were refused.
	Errors []ResourceError
	// Snapshot is the new snapshot, or nil where no listener changed. Changed route tables were put in their places.
	Snapshot *snapshot.Snapshot
	// Listeners, Routes (by listener), Clusters and Endpoints (by cluster) name what became active or was removed.
	Listeners, Routes, Clusters, Endpoints []string
	// Certificates name what certificates were put in use for, as "listener NAME": at first, and when they were renewed.
	Certificates []string
	// Next is when Tick is to be called; zero where nothing waits.
	Next time.Time
}

// Compiler holds the last good version of every resource. It is safe for concurrent use.
type Compiler struct {
	opts       Options
	strategies map[string]balancer.Strategy
	readers    map[string]reader

	mu        sync.Mutex
	entries   map[string]map[string]*entry // by type and name
	units     map[string]*unit             // by listener
	clusters  map[string]*clusterState
	endpoints map[string][]snapshot.EndpointSpec // by EDS name
	byName    map[string]bool                    // clusters that were asked for by name
	secrets   map[string]*tlsv3.Secret

	at           time.Time // of the update or tick that is under way
	pollAt       time.Time // when files are looked at again
	renewed      []string  // Result.Certificates
	ticketSecret [32]byte  // what keys of session tickets are derived from

	// unresolved: something waits for host names to be looked up.
	unresolved bool
	serial     int
	version    string
	dirty      bool // listeners changed since the last snapshot
}

// entry is a resource's history as far as it matters.
type entry struct {
	name, version string
	body          *anypb.Any // last good; nil where there was none
	static        bool
	rejected      string // version that was refused and not replaced since
	errors        []ResourceError
	updated       time.Time
}

type clusterState struct {
	def     *clusterDef
	removed time.Time // when it was withdrawn, while something still refers to it
}

// New makes an empty compiler.
func New(o Options) *Compiler {
	if o.Limits == nil {
		o.Limits = &limit.Table{}
	}
	if o.Stats == nil {
		o.Stats = stat.NewRegistry()
	}
	if o.Rand == nil {
		o.Rand = balancer.DefaultRand
	}
	if o.InitTimeout == 0 {
		o.InitTimeout = 5 * time.Second
	}
	c := &Compiler{
		opts: o, strategies: map[string]balancer.Strategy{}, readers: readers(), entries: map[string]map[string]*entry{},
		units: map[string]*unit{}, clusters: map[string]*clusterState{}, endpoints: map[string][]snapshot.EndpointSpec{}, byName: map[string]bool{},
		secrets: map[string]*tlsv3.Secret{},
	}
	_, _ = rand.Read(c.ticketSecret[:]) // which does not fail
	for _, t := range Types() {
		c.entries[t] = map[string]*entry{}
	}
	for _, s := range o.Strategies {
		c.strategies[s.Name()] = s
	}
	return c
}

// Update takes in what arrived. now drives warming.
func (c *Compiler) Update(now time.Time, u Update) Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := &Result{}
	c.at = now
	byName := c.entries[u.TypeURL]
	if byName == nil {
		res.Errors = append(res.Errors, ResourceError{TypeURL: u.TypeURL, Reason: "resources of this type are not served by this sidecar"})
		return *res
	}
	for _, s := range u.Set {
		e := byName[s.Name]
		if e == nil {
			e = &entry{name: s.Name}
			byName[s.Name] = e
		}
		r := &report{}
		switch {
		case e.static && !u.Static:
			r.add("", "a static resource of the bootstrap has this name")
		case s.Body.GetTypeUrl() != u.TypeURL:
			r.add("", "is a %q, not a %q", s.Body.GetTypeUrl(), u.TypeURL)
		default:
			c.set(now, r, res, u.TypeURL, s)
		}
		e.updated = now
		if r.ok() {
			e.version, e.body, e.static, e.rejected, e.errors = s.Version, s.Body, u.Static, "", nil
			continue
		}
		e.errors, e.rejected = nil, s.Version
		for _, f := range r.errs {
			e.errors = append(e.errors, ResourceError{u.TypeURL, s.Name, s.Version, f.path, f.reason})
		}
		res.Errors = append(res.Errors, e.errors...)
	}
	for _, name := range u.Removed {
		if e := byName[name]; e == nil || e.static && !u.Static {
			continue
		}
		c.remove(now, res, u.TypeURL, name)
	}
	c.settle(now, res)
	return *res
}

// Tick activates what has waited long enough.
func (c *Compiler) Tick(now time.Time) Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := &Result{}
	c.at = now
	c.settle(now, res)
	return *res
}

func (c *Compiler) set(now time.Time, r *report, res *Result, typ string, s Resource) {
	switch typ {
	case ClusterType:
		m := &clusterv3.Cluster{}
		if !read(r, s, m, m.GetName) {
			return
		}
		d := c.cluster(r, m)
		if r.ok() && d.tls != nil {
			c.renew(r, d.tls)
			c.pollAt = time.Time{}
		}
		if !r.ok() {
			return
		}
		if err := c.opts.Sink.SetCluster(d.c); err != nil {
			r.add("", "%v", err)
			return
		}
		c.clusters[s.Name] = &clusterState{def: d}
		res.Clusters = append(res.Clusters, s.Name)
		eps, known := d.inline, d.eds == "" && !d.c.OriginalDst
		if d.eds != "" {
			eps, known = c.endpoints[d.eds]
		}
		if known {
			if err := c.opts.Sink.SetEndpoints(s.Name, eps); err != nil {
				r.add("load_assignment", "%v", err)
				return
			}
			res.Endpoints = append(res.Endpoints, s.Name)
		}
	case EndpointType:
		m := &endpointv3.ClusterLoadAssignment{}
		if !read(r, s, m, m.GetClusterName) {
			return
		}
		eps := assignment(r, m)
		if !r.ok() {
			return
		}
		c.endpoints[s.Name] = eps
		for name, cs := range c.clusters {
			if cs.def.eds == s.Name {
				if err := c.opts.Sink.SetEndpoints(name, eps); err != nil {
					r.add("", "%v", err)
					continue
				}
				res.Endpoints = append(res.Endpoints, name)
			}
		}
	case SecretType:
		m := &tlsv3.Secret{}
		if read(r, s, m, m.GetName) {
			c.setSecret(r, m)
		}
	case ListenerType:
		m := &listenerv3.Listener{}
		if read(r, s, m, m.GetName) {
			c.setListener(now, r, m)
		}
	case RouteType:
		m := &routev3.RouteConfiguration{}
		if read(r, s, m, m.GetName) {
			c.setRoutes(now, r, m)
		}
	case VirtualHostType:
		m := &routev3.VirtualHost{}
		if read(r, s, m, nil) {
			c.setVirtualHost(now, r, s.Name, m)
		}
	}
}

func read(r *report, s Resource, m proto.Message, name func() string) bool {
	if err := proto.Unmarshal(s.Body.GetValue(), m); err != nil {
		r.add("", "cannot be read: %v", err)
		return false
	}
	if name != nil && name() != s.Name {
		r.add("name", "is %q, the resource's name is %q", name(), s.Name)
		return false
	}
	return true
}

func (c *Compiler) remove(now time.Time, res *Result, typ, name string) {
	switch typ {
	case ListenerType:
		if u := c.units[name]; u != nil {
			delete(c.units, name)
			c.dirty = c.dirty || u.active != nil
			res.Listeners = append(res.Listeners, name)
		}
	case ClusterType: // taken away by settle, once nothing refers to it
		if cs := c.clusters[name]; cs != nil && cs.removed.IsZero() {
			cs.removed = now
		}
	case VirtualHostType:
		for _, u := range c.units {
			u.removeHost(name)
		}
	case RouteType, EndpointType, SecretType:
		// A client that still refers to them keeps the last good ones, as Envoy does; let go of when nothing does.
		return
	}
	delete(c.entries[typ], name)
}

// Wanted returns the names that are referred to and have to be asked for, by type. Listeners and clusters are asked
// for as a whole; clusters that did not come so, by name too. Virtual hosts are their finder's.
func (c *Compiler) Wanted() map[string]map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := map[string]map[string]bool{RouteType: {}, EndpointType: {}, ClusterType: {}, SecretType: c.wantedSecrets()}
	for _, u := range c.units {
		for _, v := range u.chains() {
			if v.def.rds != "" {
				w[RouteType][v.def.rds] = true
			}
		}
	}
	for _, cs := range c.clusters {
		if cs.def.eds != "" {
			w[EndpointType][cs.def.eds] = true
		}
	}
	refs := c.references()
	for name := range refs {
		if cs := c.clusters[name]; cs == nil || !cs.removed.IsZero() {
			c.byName[name] = true
		}
	}
	for name := range c.byName {
		if refs[name] {
			w[ClusterType][name] = true
		} else {
			delete(c.byName, name)
		}
	}
	for _, t := range []string{RouteType, EndpointType} { // let go of what nothing refers to
		for name, e := range c.entries[t] {
			if w[t][name] || e.static {
				continue
			}
			delete(c.entries[t], name)
			if t == EndpointType {
				delete(c.endpoints, name)
			}
		}
	}
	return w
}

func (c *Compiler) references() map[string]bool {
	refs := map[string]bool{}
	for _, u := range c.units {
		for _, v := range u.chains() {
			v.references(refs)
		}
	}
	return refs
}

// warm says whether a cluster is known with its endpoints.
func (c *Compiler) warm(name string) bool {
	cs := c.clusters[name]
	if cs == nil || cs.def.tls != nil && !cs.def.tls.ready {
		return false
	}
	if cs.def.c.DNS != nil && c.opts.Resolved != nil {
		ok := c.opts.Resolved(name)
		c.unresolved = c.unresolved || !ok
		return ok
	}
	if cs.def.eds == "" {
		return true
	}
	_, ok := c.endpoints[cs.def.eds]
	return ok
}

func (c *Compiler) allWarm(needs map[string]bool) bool {
	for n := range needs {
		if !c.warm(n) {
			return false
		}
	}
	return true
}
