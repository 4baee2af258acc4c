package ads

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The types that are served, in the order of making.
var order = [...]string{
	resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.VirtualHostType,
}

// missing is the version under which a stream's state keeps a name that was asked for and is not there.
const missing = "-"

// entry is one resource, packed. The version is a hash of its bytes, so that equal resources have equal versions over
// restarts of the control plane too.
type entry struct {
	any     *anypb.Any
	version string
}

func pack(m proto.Message) *entry {
	a := &anypb.Any{}
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil // a message of ours that cannot be written, as for invalid UTF-8: the others still go out
	}
	sum := sha256.Sum256(a.Value)
	return &entry{a, hex.EncodeToString(sum[:8])}
}

type streamKey struct {
	delta bool
	id    int64
}

// stream is one aggregated stream of a node. key, ctx, node and asking belong to its own goroutine (asking under the
// server's lock); the rest to the node's lock.
type stream struct {
	key    streamKey
	ctx    context.Context
	node   *node
	asking any

	watches map[string]*watch
	// unacked are responses by nonce.
	unacked map[string]*response
	// endpoints are the names of clusters that were sent and whose endpoints are to be sent again.
	endpoints map[string]bool
	// awaited are new clusters whose endpoints the node has yet to take; listeners and routes wait for it.
	awaited map[string]bool
	timer   *time.Timer
	closed  bool
}

// watch is what a stream wants of one type.
type watch struct {
	typeURL string
	// open: the node waits for a response; otherwise one is under way.
	open bool
	sotw bool
	sub  cachev3.Subscription
	// state is what the node has, by name and version, once it has taken what was sent.
	state   map[string]string
	initial map[string]string
	// resend are the names that this request asked for, and which are answered though nothing changed.
	resend map[string]bool
	// first: nothing was answered yet on this stream.
	first bool
	// nacked: the last response was refused, at least in part.
	nacked bool
	// last is the response under way, or the last one.
	last *response
	send func(*response)
}

// response is one response, as it was queued.
type response struct {
	typeURL string
	version string
	entries map[string]*entry
	// told are the names that are news to the node; a state-of-the-world response tells old ones too.
	told      []string
	removed   []string
	next      map[string]string
	endpoints map[string]bool // names taken from stream.endpoints
	sent      bool
}

func (r *response) deltaResources() []*discoveryv3.Resource {
	out := make([]*discoveryv3.Resource, 0, len(r.entries))
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		e := r.entries[name]
		out = append(out, &discoveryv3.Resource{Name: name, Version: e.version, Resource: e.any})
	}
	return out
}

func (r *response) anys() []*anypb.Any {
	out := make([]*anypb.Any, 0, len(r.entries))
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		out = append(out, r.entries[name].any)
	}
	return out
}

// node is one xDS node with its streams: one, but for moments of reconnection.
type node struct {
	s  *Server
	id string

	mu     sync.Mutex
	node   *corev3.Node
	config Config
	listed map[string]map[string]*entry
	// found are resources asked for by name and not listed; nil entries are not there. Cleared with each configuration.
	found map[string]map[string]*entry
	// graves are clusters and endpoints that are gone, kept until every stream has let go of them.
	graves  map[string]map[string]*entry
	streams map[*stream]bool
	since   time.Time
	status  map[resourceKey]*ResourceStatus
}

func newNode(s *Server, id string) *node {
	return &node{
		s: s, id: id, streams: map[*stream]bool{}, status: map[resourceKey]*ResourceStatus{},
		listed: map[string]map[string]*entry{}, found: map[string]map[string]*entry{}, graves: map[string]map[string]*entry{},
		since: s.opts.Now(),
	}
}

func (n *node) attach(st *stream, id *corev3.Node, render Render) {
	n.mu.Lock()
	n.node = id
	n.streams[st] = true
	n.since = n.s.opts.Now()
	n.mu.Unlock()
	n.s.opts.Event(Event{Node: n.id, Kind: Connected})
	n.update(render)
}

func (n *node) detach(st *stream) {
	n.mu.Lock()
	st.closed = true
	for _, w := range st.watches {
		w.open = false
	}
	if st.timer != nil {
		st.timer.Stop()
	}
	delete(n.streams, st)
	n.since = n.s.opts.Now()
	last := len(n.streams) == 0
	n.mu.Unlock()
	if last {
		n.s.opts.Event(Event{Node: n.id, Kind: Disconnected})
	}
}

// update renders the node's configuration and tells what changed. Where an Update comes meanwhile, the loop renders again.
func (n *node) update(render Render) {
	if render == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.streams) == 0 {
		return // rendered again when it connects
	}
	c := render(n.node)
	if c == nil {
		return
	}
	listed := make(map[string]map[string]*entry, len(order))
	for _, typ := range order {
		have := c.Listed(typ)
		m := make(map[string]*entry, len(have))
		for name, r := range have {
			if e := pack(r); e != nil {
				m[name] = e
			}
		}
		listed[typ] = m
	}
	for _, typ := range []string{resource.ClusterType, resource.EndpointType} {
		graves := n.graves[typ]
		if graves == nil {
			graves = map[string]*entry{}
			n.graves[typ] = graves
		}
		for _, old := range []map[string]*entry{n.listed[typ], n.found[typ]} {
			for name, e := range old {
				if e != nil {
					graves[name] = e
				}
			}
		}
	}
	n.config, n.listed, n.found = c, listed, map[string]map[string]*entry{}
	for st := range n.streams {
		n.flush(st)
	}
	n.tidy()
	for _, typ := range order {
		n.prune(typ)
	}
}

// prune drops the status of what the node no longer has.
func (n *node) prune(typeURL string) {
	for k := range n.status {
		if k.typeURL != typeURL {
			continue
		}
		held := false
		for st := range n.streams {
			if w := st.watches[typeURL]; w != nil && has(w.state, k.name) {
				held = true
			}
		}
		if !held {
			delete(n.status, k)
		}
	}
}

// tidy drops graves that no stream holds on to.
func (n *node) tidy() {
	for typ, graves := range n.graves {
		for name := range graves {
			held := false
			if n.lookup(typ, name) == nil {
				for st := range n.streams {
					if w := st.watches[typ]; w != nil && has(w.state, name) {
						held = true
					}
				}
			}
			if !held {
				delete(graves, name)
			}
		}
	}
}

func has(state map[string]string, name string) bool {
	v, ok := state[name]
	return ok && v != missing
}

// lookup finds a resource, listed or by name.
func (n *node) lookup(typeURL, name string) *entry {
	if e := n.listed[typeURL][name]; e != nil {
		return e
	}
	m := n.found[typeURL]
	if e, ok := m[name]; ok {
		return e
	}
	var e *entry
	if r := n.config.Find(typeURL, name); r != nil {
		e = pack(r)
	}
	if m == nil {
		m = map[string]*entry{}
		n.found[typeURL] = m
	}
	m[name] = e
	return e
}

// watch takes a stream's new wishes for a type and answers them if it can.
func (n *node) watch(st *stream, w *watch) (cancel func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := st.watches[w.typeURL]
	w.first = old == nil
	if old != nil {
		w.first = old.first && old.last == nil
		w.nacked, w.last = old.nacked, old.last
		if old.last == nil || !old.last.sent {
			maps.Copy(w.resend, old.resend) // its answer never left
			if old.last != nil {
				st.again(old.last.endpoints)
			}
		}
	}
	for name := range w.resend {
		if v, ok := w.initial[name]; ok && v != "" {
			delete(w.resend, name) // it came with the stream, and says itself what it has
		}
	}
	st.watches[w.typeURL] = w
	n.flush(st)
	n.tidy()
	n.prune(w.typeURL)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		w.open = false
	}
}

func (st *stream) again(names map[string]bool) {
	if len(names) > 0 && st.endpoints == nil {
		st.endpoints = map[string]bool{}
	}
	maps.Copy(st.endpoints, names)
}
