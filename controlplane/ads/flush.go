package ads

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// awaitEndpoints is how long listeners and routes wait for a new cluster's endpoints to be taken. A client that never asks
// for them gets its routes all the same.
const awaitEndpoints = 3 * time.Second

// flush tells a stream what it lacks, as far as that may go out now. The order is that of the xDS protocol's "eventual
// consistency considerations": what is referred to goes before what refers to it, and is removed after it.
func (n *node) flush(st *stream) {
	if n.config == nil || st.closed {
		return
	}
	busy := false // clusters or endpoints are under way
	for _, typ := range order[:2] {
		if w := st.watches[typ]; w != nil && !w.open {
			busy = true
		}
	}
	n.forgetAwaited(st)
	for _, typ := range order {
		w := st.watches[typ]
		if w == nil || !w.open {
			continue
		}
		switch typ {
		case resource.ListenerType, resource.RouteType:
			if !w.first && (busy || len(st.awaited) > 0) {
				continue
			}
		case resource.VirtualHostType:
			if len(w.resend) == 0 && (busy || len(st.awaited) > 0) {
				continue
			}
		}
		resp, due := n.diff(st, w)
		if !due {
			continue
		}
		if typ == resource.ClusterType {
			n.follow(st, w, resp)
		}
		w.open, w.last, w.state = false, resp, resp.next
		w.resend = map[string]bool{}
		w.send(resp)
	}
}

// follow notes that the endpoints of clusters that are being sent have to go out again (a client warms a changed
// cluster until they come), and which clusters are new.
func (n *node) follow(st *stream, w *watch, resp *response) {
	for _, name := range resp.told {
		if n.lookup(resource.EndpointType, name) == nil {
			continue
		}
		st.again(map[string]bool{name: true})
		if w.first || has(w.state, name) || !w.sub.IsWildcard() {
			continue
		}
		if st.awaited == nil {
			st.awaited = map[string]bool{}
		}
		st.awaited[name] = true
	}
	if len(st.awaited) > 0 {
		if st.timer != nil {
			st.timer.Stop()
		}
		st.timer = time.AfterFunc(awaitEndpoints, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			clear(st.awaited)
			n.flush(st)
		})
	}
}

// forgetAwaited drops the clusters whose endpoints were taken, or that are gone again or refused.
func (n *node) forgetAwaited(st *stream) {
	e, c := st.watches[resource.EndpointType], st.watches[resource.ClusterType]
	for name := range st.awaited {
		if e != nil && e.open && has(e.state, name) || n.lookup(resource.EndpointType, name) == nil || c == nil || c.nacked {
			delete(st.awaited, name)
		}
	}
}

// settled says that listeners, routes and virtual hosts are up to date and taken, so that nothing refers to what is gone.
func (n *node) settled(st *stream) bool {
	for _, typ := range order[2:] {
		w := st.watches[typ]
		if w == nil {
			continue
		}
		if !w.open || w.nacked {
			return false
		}
		if _, due := n.diff(st, w); due {
			return false
		}
	}
	return true
}

// diff is what a watch lacks, and whether that is to be sent.
func (n *node) diff(st *stream, w *watch) (*response, bool) {
	resp := &response{typeURL: w.typeURL, entries: map[string]*entry{}, next: map[string]string{}}
	want := map[string]*entry{}
	var absent []string
	for name := range w.sub.SubscribedResources() {
		if e := n.lookup(w.typeURL, name); e != nil {
			want[name] = e
		} else {
			absent = append(absent, name)
		}
	}
	if w.sub.IsWildcard() {
		maps.Copy(want, n.listed[w.typeURL])
	}
	due := w.first && (w.sub.IsWildcard() || !w.sotw || w.typeURL == resource.ListenerType || w.typeURL == resource.ClusterType)

	for name, e := range want {
		again := w.resend[name]
		if w.typeURL == resource.EndpointType && st.endpoints[name] {
			again = true
		}
		if again || w.state[name] != e.version {
			resp.told = append(resp.told, name)
			resp.entries[name] = e
			due = true
		}
		resp.next[name] = e.version
	}
	slices.Sort(resp.told)

	gone := n.gone(st, w, want)
	for name, hold := range gone {
		if hold {
			if e := n.graves[w.typeURL][name]; e != nil {
				want[name] = e
			}
			resp.next[name] = w.state[name]
			continue
		}
		resp.removed = append(resp.removed, name)
		due = true
	}
	for _, name := range absent {
		if _, held := resp.next[name]; held {
			continue
		}
		if !w.sotw && !slices.Contains(resp.removed, name) && (w.state[name] != missing || w.resend[name]) {
			if !n.namespace(w.typeURL, name) {
				resp.removed = append(resp.removed, name)
			}
			due = true
		}
		resp.next[name] = missing
	}
	slices.Sort(resp.removed)
	if !due {
		return nil, false
	}
	if w.sotw {
		resp.entries = want // the whole state
	}
	if w.typeURL == resource.EndpointType {
		resp.endpoints, st.endpoints = st.endpoints, nil
	}
	resp.version = stateVersion(resp.next)
	return resp, true
}

// gone are the names that the node has and should not have, with whether they are still to be kept for what may refer to
// them.
func (n *node) gone(st *stream, w *watch, want map[string]*entry) map[string]bool {
	var out map[string]bool
	hold := false
	for name, version := range w.state {
		if want[name] != nil || version == missing {
			continue
		}
		if _, subscribed := w.sub.SubscribedResources()[name]; !subscribed && !w.sub.IsWildcard() {
			continue // no longer asked for
		}
		if w.sotw && w.typeURL != resource.ListenerType && w.typeURL != resource.ClusterType {
			continue // absence says nothing there
		}
		if out == nil {
			out = map[string]bool{}
			hold = (w.typeURL == resource.ClusterType || w.typeURL == resource.EndpointType) && !n.settled(st)
		}
		out[name] = hold
	}
	return out
}

// namespace says whether a virtual host is asked for by a route configuration's name alone: Envoy's VHDS subscribes so
// to all that begins with it. There is nothing to say to that but that it was heard.
func (n *node) namespace(typeURL, name string) bool {
	return typeURL == resource.VirtualHostType && n.lookup(resource.RouteType, name) != nil
}

// stateVersion is a version of the whole of what a node has of a type.
func stateVersion(state map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(state)) {
		h.Write([]byte(name + "\x00" + state[name] + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
