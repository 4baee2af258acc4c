// Package upstream keeps what outlives a configuration: clusters by name with their endpoints, connections,
// limits, retry budgets and outlier states.
//
// A snapshot refers to a cluster by a stable [snapshot.ClusterRef]; an update replaces what the reference holds,
// and the [Cluster] behind it goes on with the endpoints whose addresses stayed. Clusters and hosts are shared by
// all event loops and hold atomics only on a request's way; a [Pool] holds the connections that one loop has to
// one host, and belongs to that loop. What is spoken on a connection is proxy/http1's and proxy/http2's.
package upstream

import (
	"net/netip"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Table holds all clusters. Its methods are safe for concurrent use; they are called when configuration
// changes, not on a request's way. Lock order: Table.mu, then Cluster.mu; nothing is called back under either.
type Table struct {
	loops []*loop.Loop
	deps  balancer.Deps

	mu       sync.Mutex
	refs     map[string]*snapshot.ClusterRef
	clusters map[string]*Cluster
	// early holds endpoints that came before their cluster.
	early map[string][]snapshot.EndpointSpec
}

// NewTable makes an empty table for a process with these loops.
func NewTable(loops []*loop.Loop, deps balancer.Deps) *Table {
	return &Table{
		loops: loops, deps: deps, refs: map[string]*snapshot.ClusterRef{}, clusters: map[string]*Cluster{},
		early: map[string][]snapshot.EndpointSpec{},
	}
}

// Ref returns the one reference for a cluster's name.
func (t *Table) Ref(name string) *snapshot.ClusterRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ref(name)
}

func (t *Table) ref(name string) *snapshot.ClusterRef {
	r := t.refs[name]
	if r == nil {
		r = &snapshot.ClusterRef{Name: name}
		t.refs[name] = r
	}
	return r
}

// SetCluster puts a configuration in force. c becomes the table's; its Runtime is set here.
func (t *Table) SetCluster(c *snapshot.Cluster) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	cl := t.clusters[c.Name]
	if cl == nil {
		cl = &Cluster{name: c.Name, deps: t.deps, table: t, hosts: map[string]*Host{}}
	}
	c.Runtime = cl
	if err := cl.configure(c); err != nil {
		return err
	}
	t.clusters[c.Name] = cl
	t.ref(c.Name).Store(c)
	if eps, ok := t.early[c.Name]; ok {
		delete(t.early, c.Name)
		return cl.setEndpoints(eps)
	}
	return nil
}

// SetEndpoints replaces a cluster's endpoints. Those whose address stays keep their counters and connections.
func (t *Table) SetEndpoints(name string, eps []snapshot.EndpointSpec) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cl := t.clusters[name]; cl != nil {
		return cl.setEndpoints(eps)
	}
	t.early[name] = eps
	return nil
}

// Remove takes a cluster away. Exchanges that have it finish.
func (t *Table) Remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.early, name)
	if r := t.refs[name]; r != nil {
		r.Store(nil)
	}
	if cl := t.clusters[name]; cl != nil {
		delete(t.clusters, name)
		_ = cl.setEndpoints(nil) // an empty list cannot be refused
	}
}

// Clusters returns all clusters, by name.
func (t *Table) Clusters() []*Cluster {
	t.mu.Lock()
	defer t.mu.Unlock()
	cs := make([]*Cluster, 0, len(t.clusters))
	for _, c := range t.clusters {
		cs = append(cs, c)
	}
	sort.Slice(cs, func(i, j int) bool { return cs[i].name < cs[j].name })
	return cs
}

// Cluster returns a cluster by name, or nil.
func (t *Table) Cluster(name string) *Cluster {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clusters[name]
}

type pickerBox struct{ p balancer.Picker }

// Cluster is the living side of a cluster.
type Cluster struct {
	name  string
	deps  balancer.Deps
	table *Table

	cfg    atomic.Pointer[snapshot.Cluster]
	picker atomic.Pointer[pickerBox]

	requests, pending, conns atomic.Int64
	budget                   budget
	retrying                 atomic.Int64
	// Total and Failed count tries, and those that count against an endpoint.
	Total, Failed, Retries atomic.Uint64
	over                   [limits]atomic.Uint64

	mu      sync.Mutex // guards what follows; taken on updates and ejections only
	hosts   map[string]*Host
	order   []*Host
	byDst   map[netip.AddrPort]*Host // of a cluster whose endpoints are destinations
	ejected int
}

// ClusterName returns the cluster's name.
func (c *Cluster) ClusterName() string { return c.name }

// Config returns the configuration in force.
func (c *Cluster) Config() *snapshot.Cluster { return c.cfg.Load() }

// Picker returns the picker in force, or nil before the first.
func (c *Cluster) Picker() balancer.Picker {
	if b := c.picker.Load(); b != nil {
		return b.p
	}
	return nil
}

func (c *Cluster) configure(cfg *snapshot.Cluster) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.rebuild(cfg); err != nil {
		return err
	}
	c.cfg.Store(cfg)
	return nil
}

func (c *Cluster) rebuild(cfg *snapshot.Cluster) error {
	eps := make([]*balancer.Endpoint, len(c.order))
	for i, h := range c.order {
		eps[i] = h.Endpoint
	}
	if cfg.OriginalDst {
		if _, ok := c.Picker().(*originalPicker); !ok {
			c.picker.Store(&pickerBox{&originalPicker{c: c}})
		}
		return nil
	}
	p, err := cfg.Strategy.Build(cfg.LB, eps, c.Picker(), c.deps)
	if err != nil {
		return err
	}
	c.picker.Store(&pickerBox{p})
	return nil
}

func (c *Cluster) setEndpoints(specs []snapshot.EndpointSpec) error {
	c.mu.Lock()
	order := make([]*Host, 0, len(specs))
	seen := make(map[string]bool, len(specs))
	for i := range specs {
		s := &specs[i]
		if seen[s.Address] {
			continue
		}
		seen[s.Address] = true
		h := c.hosts[s.Address]
		if h == nil || h.ID != s.ID || h.Version != s.Version || h.Zone != s.Zone || h.Region != s.Region || !slices.Equal(h.More, s.More) {
			if h != nil {
				c.retire(h) // another instance took the address: its counters are not ours
			}
			h = newHost(c, s)
			c.hosts[s.Address] = h
		}
		h.SetWeight(s.Weight)
		h.SetPriority(s.Priority)
		h.Mark(balancer.Unhealthy, s.Health == snapshot.Unhealthy)
		h.Mark(balancer.Draining, s.Health == snapshot.Draining)
		order = append(order, h)
	}
	for a, h := range c.hosts {
		if !seen[a] {
			c.retire(h)
			delete(c.hosts, a)
		}
	}
	c.order, c.byDst = order, nil
	err := c.rebuild(c.cfg.Load())
	c.mu.Unlock()
	return err
}

// retire lets a host that is gone finish what it has, on every loop.
func (c *Cluster) retire(h *Host) {
	h.Mark(balancer.Draining, true)
	h.gone.Store(true)
	if h.Mark(balancer.Ejected, false) {
		c.ejected--
	}
	for _, l := range c.table.loops {
		l.Post(loop.TaskFunc(func() {
			if p := h.pools[l.Index]; p != nil {
				p.drain()
			}
		}))
	}
}

// Hosts returns the cluster's hosts in the order of discovery.
func (c *Cluster) Hosts() []*Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Host(nil), c.order...)
}

func limit(v uint32) int64 {
	if v == 0 {
		return 1024
	}
	return int64(v)
}

// Limit names what bounds a cluster.
type Limit uint8

// Limits, by the names that users write.
const (
	LimitConnections Limit = iota
	LimitPending
	LimitRequests
	LimitRetries // how many exchanges may be trying again at one time
	LimitRetryBudget
	limits
)

// Limits are all of them.
func Limits() []Limit {
	return []Limit{LimitConnections, LimitPending, LimitRequests, LimitRetries, LimitRetryBudget}
}

// String is the limit's name.
func (l Limit) String() string {
	return [...]string{"connections", "pending", "requests", "retries", "retryBudget"}[l]
}

// Overflow is how often a limit has refused something.
func (c *Cluster) Overflow(l Limit) uint64 { return c.over[l].Load() }

// Admit counts an exchange in, unless that exceeds the cluster's MaxRequests. Each Admit that returns true is
// followed by one Leave.
func (c *Cluster) Admit(cfg *snapshot.Cluster) bool {
	if c.requests.Add(1) > limit(cfg.MaxRequests) {
		c.requests.Add(-1)
		c.over[LimitRequests].Add(1)
		return false
	}
	return true
}

// Leave counts an exchange out.
func (c *Cluster) Leave() { c.requests.Add(-1) }

// Active is the number of exchanges, Pending of those that wait for a connection, Connections of connections.
func (c *Cluster) Active() int64 { return c.requests.Load() }

// Pending is the number of exchanges that wait for a connection.
func (c *Cluster) Pending() int64 { return c.pending.Load() }

// Connections is the number of connections, those being made included.
func (c *Cluster) Connections() int64 { return c.conns.Load() }

// CountRequest tells the retry budget of a request's first try, at the loop's time.
func (c *Cluster) CountRequest(now int64) { c.budget.request(now) }

// AllowRetry takes one retry from the budget; false when it is used up, or too many exchanges are trying again already. first
// says that it is the exchange's first: it then counts among them until LeaveRetry.
func (c *Cluster) AllowRetry(cfg *snapshot.Cluster, now int64, first bool) bool {
	if first && c.retrying.Add(1) > int64(cfg.MaxRetries) && cfg.MaxRetries > 0 {
		c.retrying.Add(-1)
		c.over[LimitRetries].Add(1)
		return false
	}
	percent, floor := 20.0, uint32(10)
	if b := cfg.Budget; b != nil {
		percent, floor = b.Percent, b.PerSecond
	}
	if !c.budget.retry(now, percent, floor) {
		if first {
			c.retrying.Add(-1)
		}
		c.over[LimitRetryBudget].Add(1)
		return false
	}
	c.Retries.Add(1)
	return true
}

// LeaveRetry counts an exchange out that was allowed a retry.
func (c *Cluster) LeaveRetry() { c.retrying.Add(-1) }

// Retrying is the number of exchanges that are trying again.
func (c *Cluster) Retrying() int64 { return c.retrying.Load() }

// budget counts requests and retries of the last ten seconds in as many buckets. Loops that meet at the turn of a
// second may lose a few counts; a budget can bear that.
type budget struct {
	buckets [10]struct {
		second            atomic.Int64
		requests, retries atomic.Int64
	}
}

func (b *budget) bucket(now int64) int {
	s := now / int64(time.Second)
	k := &b.buckets[s%10]
	if k.second.Load() != s {
		k.second.Store(s)
		k.requests.Store(0)
		k.retries.Store(0)
	}
	return int(s % 10)
}

func (b *budget) request(now int64) { b.buckets[b.bucket(now)].requests.Add(1) }

func (b *budget) retry(now int64, percent float64, perSecond uint32) bool {
	i := b.bucket(now)
	s := now / int64(time.Second)
	var requests, retries int64
	for j := range b.buckets {
		k := &b.buckets[j]
		if s-k.second.Load() < 10 {
			requests += k.requests.Load()
			retries += k.retries.Load()
		}
	}
	if float64(retries) >= float64(requests)*percent/100+float64(perSecond)*10 {
		return false
	}
	b.buckets[i].retries.Add(1)
	return true
}

// AdmitConn counts a connection in that is made outside of the pools, unless that exceeds MaxConnections.
func (c *Cluster) AdmitConn(cfg *snapshot.Cluster) bool {
	if c.conns.Add(1) > limit(cfg.MaxConnections) {
		c.conns.Add(-1)
		c.over[LimitConnections].Add(1)
		return false
	}
	return true
}

// LeaveConn counts such a connection out.
func (c *Cluster) LeaveConn() { c.conns.Add(-1) }

// Close stops the timers of ejections.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.clusters {
		c.mu.Lock()
		for _, h := range c.hosts {
			if h.uneject != nil {
				h.uneject.Stop()
			}
		}
		c.mu.Unlock()
	}
}
