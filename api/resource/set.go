package resource

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// ValidateSet returns what is wrong between the resources of a whole set: references to nothing, keys written twice,
// splits and policies that contradict each other, ports and listeners that collide, cycles, and policies on ports that
// cannot carry them. What is wrong within each is found by Parse and Validate. The set is only read.
func ValidateSet(set []*Resource) Violations {
	return ValidateSetKnown(set, func(string, string) bool { return false })
}

// ValidateSetKnown is ValidateSet where services outside the set may be named too: known says which, for example
// because a catalog lists them. Nothing is asked of their versions and ports.
func ValidateSetKnown(set []*Resource, known func(tenant, service string) bool) Violations {
	c := &setCheck{set: set, known: known, services: map[id]*named{}, supervisors: map[id]*Resource{}}
	c.index()
	Of(set, c.service)
	Of(set, c.policy)
	Of(set, c.split)
	Of(set, c.route)
	Of(set, c.gateway)
	Of(set, c.supervisor)
	c.sameProtocols()
	c.ports()
	c.intercepts()
	c.afterCycles()
	c.supervisorCycles()
	c.list.Sort()
	return c.list
}

// id is a name within a tenant.
type id struct{ tenant, name string }

// named is what goes by one service's name: Services and Externals.
type named struct {
	resources []*Resource
	versions  []string
	ports     []Port
	// version is false where an External says none: any version may then be meant.
	anyVersion bool
}

func (n *named) port(name string) (Port, bool) {
	for _, p := range n.ports {
		if p.Name == name {
			return p, true
		}
	}
	return Port{}, false
}

func (n *named) any(fits func(Protocol) bool) bool {
	return slices.ContainsFunc(n.ports, func(p Port) bool { return fits(p.Protocol) })
}

type setCheck struct {
	set         []*Resource
	known       func(tenant, service string) bool
	services    map[id]*named
	supervisors map[id]*Resource
	hints       int // searches for a similar name so far
	list        Violations
}

// add reports a violation of r's field at path.
func (c *setCheck) add(r *Resource, path, message, hint string) {
	c.list = append(c.list, r.locate(Violation{Path: path, Message: message, Hint: hint}))
}

// where names a resource and its place.
func where(r *Resource) string {
	if file, line := r.File(); file != "" {
		return fmt.Sprintf("%s (%s:%d)", r.Key(), file, line)
	}
	return r.Key().String()
}

// index collects what can be referred to, and finds keys and claims that are written twice.
func (c *setCheck) index() {
	keys := map[Key]*Resource{}
	claims := map[string]*Resource{}
	claim := func(r *Resource, what, path, hint string) {
		if first := claims[what]; first != nil {
			c.add(r, path, fmt.Sprintf("%s has a %s already: %s", strings.SplitN(what, " ", 3)[2], r.Kind, where(first)), hint)
			return
		}
		claims[what] = r
	}
	for _, r := range c.set {
		k := r.Key()
		if first := keys[k]; first != nil {
			hint := "another name, or keep one"
			if r.Kind == KindService {
				hint = "another version, or keep one"
			}
			c.add(r, "metadata.name", fmt.Sprintf("is written twice: %s is there already", where(first)), hint)
			continue
		}
		keys[k] = r
		switch s := r.Spec.(type) {
		case *Service:
			c.named(r, s.Version, s.Ports)
		case *External:
			c.named(r, s.Version, s.PortList())
		case *Supervisor:
			c.supervisors[id{r.Tenant(), r.Name()}] = r
		case *TrafficSplit:
			if s.Service != "" {
				claim(r, fmt.Sprintf("%s split service %s", r.Tenant(), s.Service), "spec.service", "one TrafficSplit for each service")
			}
		case *TrafficPolicy:
			what := "service " + s.Service
			if s.Version != "" {
				what += " version " + s.Version
			}
			if s.Service != "" {
				claim(r, fmt.Sprintf("%s policy %s", r.Tenant(), what), "spec.service", "one TrafficPolicy for a service, and one for each version; calls are told apart under methods")
			}
		}
	}
}

func (c *setCheck) named(r *Resource, version string, ports []Port) {
	k := id{r.Tenant(), r.Name()}
	n := c.services[k]
	if n == nil {
		n = &named{}
		c.services[k] = n
	}
	n.resources = append(n.resources, r)
	if version == "" {
		n.anyVersion = true
	} else {
		n.versions = append(n.versions, version)
	}
	n.ports = append(n.ports, ports...)
}

// find looks a service up and reports where there is none.
func (c *setCheck) find(r *Resource, path, name string) *named {
	if name == "" {
		return nil // said to be missing
	}
	if n := c.services[id{r.Tenant(), name}]; n != nil {
		return n
	}
	if !c.known(r.Tenant(), name) {
		c.add(r, path, "there is no service "+name, c.nameHint(r, name))
	}
	return nil
}

// maxHints bounds the searches for similar names: each compares with all of them.
const maxHints = 100

func (c *setCheck) nameHint(r *Resource, name string) string {
	var names []string
	if c.hints++; c.hints > maxHints {
		return "a Service or an External of that name must be there"
	}
	for k := range c.services {
		if k.tenant == r.Tenant() {
			names = append(names, k.name)
		}
		if k.name == name && k.tenant != r.Tenant() {
			return fmt.Sprintf("there is one of tenant %s; this is of tenant %s", k.tenant, r.Tenant())
		}
	}
	sort.Strings(names)
	if m := schema.Suggest(name, names); m != "" {
		return "did you mean " + m + "?"
	}
	return "a Service or an External of that name must be there"
}

func (c *setCheck) version(r *Resource, path string, n *named, service, version string) {
	if n == nil || version == "" || n.anyVersion || slices.Contains(n.versions, version) {
		return
	}
	c.add(r, path, fmt.Sprintf("service %s has no version %s", service, version), "there are "+strings.Join(n.versions, ", "))
}

func (c *setCheck) service(r *Resource, s *Service) {
	for i, u := range s.Uses {
		c.find(r, violation.Index("spec.uses", i), u)
	}
	for i, d := range s.after() {
		path := violation.Entry("spec.run.start.after", d.Service)
		if r.origin == nil || r.origin.places[path].Line == 0 {
			path = violation.Index("spec.run.start.after", i)
		}
		n := c.find(r, path, d.Service)
		if n != nil && !slices.ContainsFunc(n.resources, func(x *Resource) bool { return x.Kind == KindService }) {
			c.add(r, path, d.Service+" is external: it is not started here", "leave it out")
		}
	}
}

// after is what the start waits for.
func (s *Service) after() After {
	if s.Run == nil || s.Run.Start == nil {
		return nil
	}
	return s.Run.Start.After
}

func (c *setCheck) policy(r *Resource, s *TrafficPolicy) {
	n := c.find(r, "spec.service", s.Service)
	c.version(r, "spec.version", n, s.Service, s.Version)
	if n == nil {
		return
	}
	if !n.any(Protocol.IsHTTP) {
		for _, f := range s.httpFields() {
			c.add(r, "spec."+f, fmt.Sprintf("is for HTTP and gRPC, and service %s speaks tcp alone", s.Service),
				"leave it out; balance, outlier and limits apply to tcp")
		}
		return
	}
	for i := range s.Methods {
		c.grpc(r, violation.Index("spec.methods", i)+".match.grpc", n, s.Service, s.Methods[i].Match.GRPC)
	}
}

// httpFields are the fields that say something only of HTTP.
func (t *TrafficPolicy) httpFields() (out []string) {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"timeout", t.Timeout != nil},
		{"retry", t.Retry != nil},
		{"rateLimit", t.RateLimit != nil},
		{"fault", t.Fault != nil},
		{"headers", t.Headers != nil},
		{"methods", len(t.Methods) > 0},
	} {
		if f.set {
			out = append(out, f.name)
		}
	}
	return out
}

func (c *setCheck) grpc(r *Resource, path string, n *named, service, grpc string) {
	if grpc != "" && !n.any(func(p Protocol) bool { return p == GRPC }) {
		c.add(r, path, fmt.Sprintf("service %s has no port that speaks grpc", service), "protocol: grpc at the port, or match.path")
	}
}

func (c *setCheck) split(r *Resource, s *TrafficSplit) {
	n := c.find(r, "spec.service", s.Service)
	c.weighted(r, "spec.split", n, s.Service, s.Split)
}

func (c *setCheck) weighted(r *Resource, path string, n *named, service string, list []Weighted) {
	for i, w := range list {
		c.version(r, violation.Index(path, i)+".version", n, service, w.Version)
	}
}

func (c *setCheck) route(r *Resource, s *Route) {
	n := c.find(r, "spec.service", s.Service)
	if n == nil {
		return
	}
	if !n.any(Protocol.IsHTTP) {
		c.add(r, "spec.service", fmt.Sprintf("a Route is for HTTP and gRPC, and service %s speaks tcp alone", s.Service), "a TrafficSplit shares tcp out among versions")
	}
	for i := range s.Rules {
		rule := &s.Rules[i]
		path := violation.Index("spec.rules", i)
		c.weighted(r, path+".to", n, s.Service, rule.To)
		if rule.Match != nil {
			c.grpc(r, path+".match.grpc", n, s.Service, rule.Match.GRPC)
		}
	}
}

func (c *setCheck) gateway(r *Resource, s *Gateway) {
	for i := range s.Routes {
		g := &s.Routes[i]
		path := violation.Index("spec.routes", i)
		n := c.find(r, path+".service", g.Service)
		if n == nil {
			continue
		}
		if g.Port == "" {
			if !n.any(Protocol.IsHTTP) {
				c.add(r, path+".service", fmt.Sprintf("a Gateway carries HTTP and gRPC, and service %s speaks tcp alone", g.Service), "a service with a port that speaks http, grpc or websocket")
			}
			continue
		}
		p, ok := n.port(g.Port)
		switch {
		case !ok:
			c.add(r, path+".port", fmt.Sprintf("service %s has no port %s", g.Service, g.Port), schema.DidYouMean(g.Port, portNames(n.ports)))
		case !p.Protocol.IsHTTP():
			c.add(r, path+".port", fmt.Sprintf("port %s of service %s speaks tcp", g.Port, g.Service), "a port that speaks http, grpc or websocket")
		}
	}
}

func (c *setCheck) supervisor(r *Resource, s *Supervisor) {
	for i, ch := range s.Children {
		path := violation.Index("spec.children", i)
		switch {
		case ch.Service != "" && ch.Supervisor == "":
			n := c.find(r, path+".service", ch.Service)
			if n != nil && !slices.ContainsFunc(n.resources, func(x *Resource) bool { return x.Kind == KindService }) {
				c.add(r, path+".service", ch.Service+" is external: there is no process to supervise", "leave it out")
			}
		case ch.Supervisor != "" && ch.Service == "" && c.supervisors[id{r.Tenant(), ch.Supervisor}] == nil:
			var names []string
			for k := range c.supervisors {
				if k.tenant == r.Tenant() {
					names = append(names, k.name)
				}
			}
			sort.Strings(names)
			c.add(r, path+".supervisor", "there is no supervisor "+ch.Supervisor, schema.DidYouMean(ch.Supervisor, names))
		}
	}
}

// sameProtocols finds ports of one name that speak differently from version to version: calls go to all of them.
func (c *setCheck) sameProtocols() {
	for _, n := range c.services {
		first := map[string]*Resource{}
		speaks := map[string]Protocol{}
		for _, r := range n.resources {
			var ports []Port
			switch s := r.Spec.(type) {
			case *Service:
				ports = s.Ports
			case *External:
				ports = s.PortList()
			}
			for i, p := range ports {
				if first[p.Name] == nil {
					first[p.Name], speaks[p.Name] = r, p.Protocol
				} else if speaks[p.Name] != p.Protocol {
					path := violation.Index("spec.ports", i) + ".protocol"
					c.add(r, path, fmt.Sprintf("port %s speaks %s here and %s in %s", p.Name, p.Protocol, speaks[p.Name], where(first[p.Name])),
						"one protocol for a port in all versions")
				}
			}
		}
	}
}
