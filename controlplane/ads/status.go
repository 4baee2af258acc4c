package ads

import (
	"cmp"
	"maps"
	"slices"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
)

// EventKind says what happened.
type EventKind string

// Kinds of events.
const (
	Connected    EventKind = "connected"
	Disconnected EventKind = "disconnected"
	// Rejected: the node did not take a resource; it keeps the version that it had.
	Rejected EventKind = "rejected"
	// Accepted: the node took a resource that it had refused.
	Accepted EventKind = "accepted"
)

// Event is one thing that happened to a node.
type Event struct {
	Node string
	Kind EventKind
	// TypeURL, Name, Field and Reason are set for Rejected; TypeURL and Name for Accepted.
	TypeURL, Name, Field, Reason string
}

// NodeStatus is what is known of a node.
type NodeStatus struct {
	Node      string
	Connected bool
	// Since is when it last connected or disconnected.
	Since time.Time
	// Resources are in the order of type and name.
	Resources []ResourceStatus
}

// ResourceStatus is what became of one resource at one node.
type ResourceStatus struct {
	TypeURL, Name string
	// Sent is the version that was last sent.
	Sent string
	// Taken is the version that the node last acknowledged, "" where it took none.
	Taken string
	// Rejected is why the version sent was not taken, nil where it was or nothing is known yet.
	Rejected *Rejection
}

// Rejection is why a resource was not taken.
type Rejection struct {
	Version, Field, Reason string
	Time                   time.Time
}

type resourceKey struct{ typeURL, name string }

// Status returns all nodes, by id.
func (s *Server) Status() []NodeStatus {
	s.mu.Lock()
	nodes := slices.Collect(maps.Values(s.nodes))
	s.mu.Unlock()
	out := make([]NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		n.mu.Lock()
		st := NodeStatus{Node: n.id, Connected: len(n.streams) > 0, Since: n.since}
		for _, r := range n.status {
			c := *r
			if r.Rejected != nil {
				rej := *r.Rejected
				c.Rejected = &rej
			}
			st.Resources = append(st.Resources, c)
		}
		n.mu.Unlock()
		slices.SortFunc(st.Resources, func(a, b ResourceStatus) int {
			return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name))
		})
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b NodeStatus) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// sent notes that a queued response goes out now, under a nonce.
func (n *node) sent(st *stream, typeURL, nonce string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := st.watches[typeURL]
	if w == nil || w.last == nil {
		return
	}
	w.last.sent = true
	st.unacked[nonce] = w.last
	for _, name := range w.last.told {
		k := resourceKey{typeURL, name}
		if n.status[k] == nil {
			n.status[k] = &ResourceStatus{TypeURL: typeURL, Name: name}
		}
		n.status[k].Sent = w.last.entries[name].version
	}
	for _, name := range w.last.removed {
		delete(n.status, resourceKey{typeURL, name})
	}
}

// answered takes a node's word on a response: an ACK, or a NACK that may name the resources at fault.
func (n *node) answered(st *stream, typeURL, nonce string, detail *rpcstatus.Status) {
	n.mu.Lock()
	var events []Event
	if resp := st.unacked[nonce]; nonce != "" && resp != nil && resp.typeURL == typeURL {
		delete(st.unacked, nonce)
		if w := st.watches[typeURL]; w != nil {
			w.nacked = detail != nil
		}
		events = n.judge(resp, detail)
	}
	n.mu.Unlock()
	for _, e := range events {
		n.s.opts.Event(e)
	}
}

func (n *node) judge(resp *response, detail *rpcstatus.Status) (events []Event) {
	errs := resourceErrors(detail)
	for name, version := range resp.next {
		st := n.status[resourceKey{resp.typeURL, name}]
		if st == nil || version == missing {
			continue
		}
		e := errs[name]
		if e == nil && detail != nil && len(errs) == 0 && slices.Contains(resp.told, name) {
			e = &outriggerv1.ResourceError{Reason: detail.GetMessage()}
		}
		switch {
		case e != nil:
			st.Rejected = &Rejection{Version: version, Field: e.GetField(), Reason: e.GetReason(), Time: n.s.opts.Now()}
			events = append(events, Event{
				Node: n.id, Kind: Rejected, TypeURL: resp.typeURL, Name: name, Field: e.GetField(), Reason: e.GetReason(),
			})
		case slices.Contains(resp.told, name):
			if st.Rejected != nil {
				events = append(events, Event{Node: n.id, Kind: Accepted, TypeURL: resp.typeURL, Name: name})
			}
			st.Taken, st.Rejected = version, nil
		}
	}
	slices.SortFunc(events, func(a, b Event) int { return cmp.Compare(a.Name, b.Name) })
	return events
}

// resourceErrors reads what a NACK says of single resources, by name; empty where it says nothing of the kind.
func resourceErrors(detail *rpcstatus.Status) map[string]*outriggerv1.ResourceError {
	out := map[string]*outriggerv1.ResourceError{}
	for _, d := range detail.GetDetails() {
		var errs outriggerv1.ResourceErrors
		if d.MessageIs(&errs) && d.UnmarshalTo(&errs) == nil {
			for _, e := range errs.GetErrors() {
				out[e.GetName()] = e
			}
		}
	}
	return out
}
