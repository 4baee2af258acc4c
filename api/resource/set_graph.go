package resource

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// taken is a port that something listens on.
type taken struct {
	r    *Resource
	path string
	// addr is the address that is listened on: invalid for all.
	addr  netip.Addr
	hosts []string // nil: the host where it was applied
	every bool     // on every host
	what  string
}

// ports finds what would listen on one port of one host: fixed numbers of services, and gateways.
func (c *setCheck) ports() {
	byPort := map[int][]taken{}
	add := func(port int, t taken) {
		for _, o := range byPort[port] {
			if o.r == t.r || !sharesAddress(o.addr, t.addr) || !sharesHost(o, t) {
				continue
			}
			c.add(t.r, t.path, fmt.Sprintf("port %d is taken by %s of %s", port, o.what, where(o.r)), "another port; a service's port needs no number")
			break
		}
		byPort[port] = append(byPort[port], t)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	Of(c.set, func(r *Resource, s *Service) {
		if s.Pool != nil && s.Pool.Size != nil && *s.Pool.Size == 0 {
			return
		}
		var hosts []string
		if s.Placement != nil {
			hosts = s.Placement.Hosts
		}
		for i, p := range s.Ports {
			if p.Number != 0 {
				add(p.Number, taken{r: r, path: violation.Index("spec.ports", i) + ".number", addr: loopback, hosts: hosts, what: "port " + p.Name})
			}
		}
	})
	sockets := map[string]*Resource{}
	Of(c.set, func(r *Resource, g *Gateway) {
		if strings.HasPrefix(g.Listen, "unix:") {
			if o := sockets[g.Listen]; o != nil {
				c.add(r, "spec.listen", fmt.Sprintf("%s is taken by listen of %s", g.Listen, where(o)), "another path")
			}
			sockets[g.Listen] = r
			return
		}
		host, port, err := net.SplitHostPort(g.Listen)
		n, e := strconv.Atoi(port)
		if err != nil || e != nil {
			return
		}
		var addr netip.Addr
		if host == "localhost" {
			addr = loopback
		} else if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
			addr = a
		}
		add(n, taken{r: r, path: "spec.listen", addr: addr, every: true, what: "listen"})
	})
}

func sharesAddress(a, b netip.Addr) bool { return !a.IsValid() || !b.IsValid() || a == b }

// sharesHost says whether two things certainly may meet on a host. The host where something was applied is not known
// here, so that it meets only itself and "*".
func sharesHost(a, b taken) bool {
	if a.every || b.every || a.hosts == nil && b.hosts == nil {
		return true
	}
	for _, list := range [][]string{a.hosts, b.hosts} {
		if slices.Contains(list, "*") {
			return true
		}
	}
	for _, x := range a.hosts {
		for _, y := range b.hosts {
			if HostMatches(x, y) || HostMatches(y, x) {
				return true
			}
		}
	}
	return false
}

// HostMatches says whether a host's name fits a pattern of placement.hosts, in which * stands for any text.
func HostMatches(pattern, host string) bool {
	ok, err := path.Match(pattern, host)
	return err == nil && ok
}

// PlacedOn says whether the service runs on a host; here is what holds where no placement is written: that this is the
// host where it was applied.
func (s *Service) PlacedOn(host string, here bool) bool {
	if s.Placement == nil || len(s.Placement.Hosts) == 0 {
		return here
	}
	return slices.ContainsFunc(s.Placement.Hosts, func(p string) bool { return HostMatches(p, host) })
}

// edge leads from a node to another, and is written somewhere.
type edge struct {
	to   id
	r    *Resource
	path string
}

// afterCycles finds services that wait for each other.
func (c *setCheck) afterCycles() {
	graph := map[id][]edge{}
	var order []id
	Of(c.set, func(r *Resource, s *Service) {
		from := id{r.Tenant(), r.Name()}
		if _, seen := graph[from]; !seen {
			order = append(order, from)
			graph[from] = nil
		}
		for i, d := range s.after() {
			at := violation.Entry("spec.run.start.after", d.Service)
			if r.origin == nil || r.origin.places[at].Line == 0 {
				at = violation.Index("spec.run.start.after", i)
			}
			graph[from] = append(graph[from], edge{id{r.Tenant(), d.Service}, r, at})
		}
	})
	c.cycles(order, graph, "services wait for each other", "take one of them out of after; uses may be cyclic")
}

// supervisorCycles finds supervisors that supervise themselves, and children of two supervisors.
func (c *setCheck) supervisorCycles() {
	graph := map[id][]edge{}
	var order []id
	type parent struct {
		r    *Resource
		path string
	}
	parents := map[string]parent{}
	Of(c.set, func(r *Resource, s *Supervisor) {
		from := id{r.Tenant(), r.Name()}
		order = append(order, from)
		for i, ch := range s.Children {
			at := violation.Index("spec.children", i)
			key, what := r.Tenant()+" service "+ch.Service, "service "+ch.Service
			if ch.Supervisor != "" {
				graph[from] = append(graph[from], edge{id{r.Tenant(), ch.Supervisor}, r, at + ".supervisor"})
				key, what = r.Tenant()+" supervisor "+ch.Supervisor, "supervisor "+ch.Supervisor
			}
			if p, two := parents[key]; two && p.r != r {
				c.add(r, at, fmt.Sprintf("%s is a child of %s already", what, where(p.r)), "one supervisor for each child")
			} else {
				parents[key] = parent{r, at}
			}
		}
	})
	c.cycles(order, graph, "supervisors supervise each other", "a tree: take one of them out of children")
}

// cycles reports each cycle once, where its last edge is written. It does not recurse: a chain may be long.
func (c *setCheck) cycles(order []id, graph map[id][]edge, message, hint string) {
	const (
		unseen = iota
		open
		done
	)
	state := map[id]int{}
	type frame struct {
		node id
		next int
	}
	for _, start := range order {
		if state[start] != unseen {
			continue
		}
		stack := []frame{{node: start}}
		state[start] = open
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			edges := graph[top.node]
			if top.next == len(edges) {
				state[top.node] = done
				stack = stack[:len(stack)-1]
				continue
			}
			e := edges[top.next]
			top.next++
			switch state[e.to] {
			case unseen:
				state[e.to] = open
				stack = append(stack, frame{node: e.to})
			case open:
				var names []string
				for i := len(stack) - 1; i >= 0; i-- {
					names = append(names, stack[i].node.name)
					if stack[i].node == e.to {
						break
					}
				}
				slices.Reverse(names)
				c.add(e.r, e.path, fmt.Sprintf("%s: %s", message, strings.Join(append(names, e.to.name), " → ")), hint)
			}
		}
	}
}
