package resource

import (
	"fmt"
	"net"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Validate returns all that is wrong within the resource, located where it was read from a file. What concerns several
// resources is found by ValidateSet.
func (r *Resource) Validate() Violations {
	l := r.check()
	for i := range l {
		l[i] = r.locate(l[i])
	}
	l.Sort()
	return l
}

// check finds violations, with paths only.
func (r *Resource) check() (l Violations) {
	l = append(l, schema.Check("metadata", &r.Metadata)...)
	for k := range r.Metadata.Labels {
		if k == "" || len(k) > 253 {
			l.Add(violation.Entry("metadata.labels", k), "is no name of a label", "1 to 253 bytes")
		}
	}
	if r.Spec == nil {
		l.Add("spec", "is missing", "")
		return l
	}
	l = append(l, schema.Check("spec", r.Spec)...)
	switch s := r.Spec.(type) {
	case *Service:
		if r.Metadata.Name == "localhost" {
			l.Add("metadata.name", "localhost is reserved", "another name")
		}
		s.check(&l)
	case *TrafficPolicy:
		s.check(&l)
	case *TrafficSplit:
		checkWeights("spec.split", s.Split, &l)
	case *Route:
		s.check(&l)
	case *Gateway:
		s.check(&l)
	case *External:
		if r.Metadata.Name == "localhost" {
			l.Add("metadata.name", "localhost is reserved", "another name")
		}
		s.check(&l)
	case *Supervisor:
		s.check(r.Metadata.Name, &l)
	}
	return l
}

func (s *Service) check(l *Violations) {
	checkPorts("spec.ports", s.Ports, l)
	if n := s.Pool; n != nil && n.Size != nil && *n.Size > 1 {
		for i, p := range s.Ports {
			if p.Number > 0 {
				l.Add(violation.Index("spec.ports", i)+".number", fmt.Sprintf("%d processes cannot listen on one port", *n.Size),
					"leave the number out, so that each process is given its own in $PORT, or pool.size: 1")
			}
		}
	}
	seen := map[string]bool{}
	for i, u := range s.Uses {
		if seen[u] {
			l.Add(violation.Index("spec.uses", i), u+" is written twice", "keep one")
		}
		seen[u] = true
	}
	if s.Placement != nil {
		for i, h := range s.Placement.Hosts {
			if h == "" || strings.ContainsAny(h, "/ \t\n[]?\\") {
				l.Add(violation.Index("spec.placement.hosts", i), fmt.Sprintf("%q is no name of a host", h), "a name, in which * stands for any text")
			}
		}
	}
	s.checkHealth(l)
	checkAddresses("spec.ports", s.Ports, l)
	s.checkIntercept(l)
	if s.Run != nil {
		s.Run.check(s.Ports, l)
	}
}

func checkPorts(path string, ports []Port, l *Violations) {
	names, numbers := map[string]bool{}, map[int]string{}
	for i, p := range ports {
		at := violation.Index(path, i)
		if p.Name != "" && names[p.Name] {
			l.Add(at+".name", "another port is named "+p.Name, "another name")
		}
		names[p.Name] = true
		if other, dup := numbers[p.Number]; dup && p.Number != 0 {
			l.Add(at+".number", fmt.Sprintf("port %s has number %d too", other, p.Number), "another number, or none")
		}
		numbers[p.Number] = p.Name
	}
}

func (r *Run) check(ports []Port, l *Violations) {
	for i, c := range r.Command {
		at := violation.Index("spec.run.command", i)
		if i == 0 && c == "" {
			l.Add(at, "names no program", "such as python3")
		}
		checkTemplate(at, c, l)
	}
	checkTemplate("spec.run.dir", r.Dir, l)
	reserved := map[string]string{"PORT": "the first port's number"}
	for _, p := range ports {
		reserved[PortVar(p.Name)] = "the number of port " + p.Name
	}
	for k, v := range r.Env {
		at := violation.Entry("spec.run.env", k)
		switch {
		case !isEnvName(k):
			l.Add(at, fmt.Sprintf("%q is no name of an environment variable", k), "letters, digits and _, not beginning with a digit")
		case reserved[k] != "":
			l.Add(at, k+" is set for the process: it is "+reserved[k], "another name, or ports[].number for a number of your own")
		case strings.HasPrefix(k, "OUTRIGGER_"):
			l.Add(at, k+" is set for the process: names that begin with OUTRIGGER_ are reserved", "another name")
		}
		checkTemplate(at, v, l)
	}
	if b := restartBackoff(r); b != nil {
		checkOrder("spec.run.restart.backoff", "base", "max", b.Base, b.Max, DefaultRestartBase, DefaultRestartLongest, l)
	}
}

func restartBackoff(r *Run) *RestartBackoff {
	if r.Restart == nil {
		return nil
	}
	return r.Restart.Backoff
}

// checkOrder says where a first duration is longer than a second one, defaults applied.
func checkOrder(path, low, high string, a, b, da, db time.Duration, l *Violations) {
	at := violation.Field(path, low)
	if a == 0 {
		a, at = da, violation.Field(path, high)
	}
	if b == 0 {
		b = db
	}
	if a > b {
		l.Add(at, fmt.Sprintf("%s %s is longer than %s %s", low, schema.FormatDuration(a), high, schema.FormatDuration(b)),
			low+" at most "+high)
	}
}

func (s *Service) checkHealth(l *Violations) {
	h := s.Health
	if h == nil {
		return
	}
	n := 0
	fits := func(Protocol) bool { return true }
	kind := ""
	if h.HTTP != "" {
		n, kind = n+1, "http"
		fits = func(p Protocol) bool { return p == HTTP || p == WebSocket || p == Auto }
	}
	if h.GRPC != nil {
		n, kind = n+1, "grpc"
		fits = func(p Protocol) bool { return p == GRPC }
	}
	if h.TCP {
		n, kind = n+1, "tcp"
		fits = func(Protocol) bool { return true }
	}
	switch {
	case n == 0:
		l.Add("spec.health", "says not how to probe", "one of http: /healthz, grpc: \"\", tcp: true")
		return
	case n > 1:
		l.Add("spec.health", "says more than one way to probe", "exactly one of http, grpc and tcp")
		return
	}
	for _, p := range s.Ports {
		if h.Port != "" && p.Name == h.Port {
			if !fits(p.Protocol) {
				l.Add("spec.health.port", fmt.Sprintf("port %s speaks %s, which a probe by %s cannot", p.Name, p.Protocol, kind), "a port that speaks "+kind+", or tcp: true")
			}
			return
		}
		if h.Port == "" && fits(p.Protocol) {
			return
		}
	}
	if h.Port != "" {
		l.Add("spec.health.port", "there is no port "+h.Port, schema.DidYouMean(h.Port, portNames(s.Ports)))
	} else if len(s.Ports) > 0 {
		l.Add("spec.health."+kind, "no port speaks "+kind, "tcp: true, or a port with protocol: "+kind)
	}
}

func portNames(ports []Port) []string {
	var out []string
	for _, p := range ports {
		out = append(out, p.Name)
	}
	return out
}

func checkWeights(path string, list []Weighted, l *Violations) {
	sum, seen := 0, map[string]bool{}
	for i, w := range list {
		if w.Version != "" && seen[w.Version] {
			l.Add(violation.Index(path, i)+".version", "version "+w.Version+" is written twice", "keep one, with the sum of the weights")
		}
		seen[w.Version] = true
		sum += max(w.Share(), 0)
	}
	if len(list) > 0 && sum == 0 {
		l.Add(path, "the weights sum to zero", "at least one weight above 0")
	}
}

func (g *Gateway) check(l *Violations) {
	if g.SocketMode != "" && !strings.HasPrefix(g.Listen, "unix:") {
		l.Add("spec.socketMode", "is for a Unix socket, and listen is none", "listen: unix:/path, or no socketMode")
	}
	g.TLS.check(l)
	seen := map[string]int{}
	for i := range g.Routes {
		r := &g.Routes[i]
		at := violation.Index("spec.routes", i)
		if r.Path != nil {
			r.Path.check(at+".path", "segments", l)
		}
		if r.Host == "" && r.Path == nil && len(g.Routes) > 1 {
			l.Add(at, "takes every call, beside other routes", "host or path; for the rest, path: /")
		}
		checkRewrite(at+".rewrite", r.Rewrite, l)
		key := strings.ToLower(r.Host) + " " + r.Path.String()
		if j, dup := seen[key]; dup {
			l.Add(at, fmt.Sprintf("takes the same calls as routes[%d]", j), "another host or path")
		} else {
			seen[key] = i
		}
	}
}

func (e *External) check(l *Violations) {
	e.TLS.check(e, l)
	if len(e.Ports) > 0 && e.Protocol != "" {
		l.Add("spec.protocol", "is written beside ports", "either protocol, for one port, or ports")
	}
	checkPorts("spec.ports", e.Ports, l)
	for i, p := range e.Ports {
		if len(p.Addresses) > 0 {
			l.Add(violation.Index("spec.ports", i)+".addresses", "has no place in an External: intercepted callers reach it by its endpoints' addresses", "leave it out")
		}
		if p.Number == 0 && len(e.Ports) > 1 {
			l.Add(violation.Index("spec.ports", i)+".number", "is missing", "the port's number at every endpoint, such as 5432")
		}
	}
	sum, seen := 0, map[string]bool{}
	for i, ep := range e.Endpoints {
		at := violation.Index("spec.endpoints", i) + ".address"
		_, _, err := net.SplitHostPort(ep.Address)
		switch {
		case ep.Address == "":
		case err == nil && len(e.Ports) > 1:
			l.Add(at, "names a port, where there are several", "a host alone; the ports give the numbers")
		case err != nil && (len(e.Ports) == 0 || len(e.Ports) == 1 && e.Ports[0].Number == 0):
			l.Add(at, "names no port", "host:port, such as db.example:5432")
		}
		if seen[ep.Address] && ep.Address != "" {
			l.Add(at, ep.Address+" is written twice", "keep one, with the sum of the weights")
		}
		seen[ep.Address] = true
		sum += max(ep.Share(), 0)
	}
	if len(e.Endpoints) > 0 && sum == 0 {
		l.Add("spec.endpoints", "the weights sum to zero", "at least one weight above 0")
	}
}

func (s *Supervisor) check(name string, l *Violations) {
	seen := map[string]bool{}
	for i, c := range s.Children {
		at := violation.Index("spec.children", i)
		key := "service " + c.Service
		switch {
		case c.Service == "" && c.Supervisor == "":
			l.Add(at, "names no child", "service: NAME or supervisor: NAME")
			continue
		case c.Service != "" && c.Supervisor != "":
			l.Add(at, "names a service and a supervisor", "one child each")
			continue
		case c.Supervisor != "":
			key = "supervisor " + c.Supervisor
		}
		if seen[key] {
			l.Add(at, key+" is written twice", "keep one")
		}
		seen[key] = true
	}
}

// InOrder returns the children in the order in which they are started.
func (s *Supervisor) InOrder() []SupervisorChild {
	out := slices.Clone(s.Children)
	sort.SliceStable(out, func(i, j int) bool { return out[i].Order < out[j].Order })
	return out
}
