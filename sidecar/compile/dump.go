package compile

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
)

// Status is one resource as the config dump shows it.
type Status struct {
	TypeURL, Name string
	// Version is that of the last good resource, "" where there was none.
	Version string
	// Rejected is the version that was refused and not replaced since, with Errors.
	Rejected string
	Errors   []ResourceError
	Static   bool
	// Warming says that a newer version waits for what it names.
	Warming bool
	Updated time.Time
	// Body is the last good resource, or nil.
	Body *anypb.Any
}

// Dump returns all resources, sorted by type and name.
func (c *Compiler) Dump() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Status
	for typ, es := range c.entries {
		for name, e := range es {
			s := Status{
				TypeURL: typ, Name: name, Version: e.version, Rejected: e.rejected, Errors: e.errors, Static: e.static,
				Updated: e.updated, Body: e.body,
			}
			switch typ {
			case ListenerType:
				s.Warming = c.units[name] != nil && c.units[name].pending != nil
			case ClusterType:
				s.Warming = !c.warm(name)
			case RouteType:
				for _, u := range c.units {
					for _, v := range u.chains() {
						s.Warming = s.Warming || v.def.rds == name && v.routes.pending != nil
					}
				}
			case VirtualHostType:
				for _, u := range c.units {
					for _, v := range u.chains() {
						s.Warming = s.Warming || u.active.chain(v.def.key) == v && v.hosts[name] != nil && v.hosts[name].pending != nil
					}
				}
			}
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name)) })
	return out
}

// Rejected returns the resources last refused and not replaced since.
func (c *Compiler) Rejected() []ResourceError {
	var out []ResourceError
	for _, s := range c.Dump() {
		out = append(out, s.Errors...)
	}
	return out
}

// Version names the last snapshot, "" before the first.
func (c *Compiler) Version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// HostActive says whether the virtual host of that resource name is in the table of a listener.
func (c *Compiler) HostActive(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.units {
		if u.active == nil {
			continue
		}
		for _, v := range u.active.chains {
			if p := v.hosts[name]; p != nil && p.active != nil {
				return true
			}
		}
	}
	return false
}

// HostUsed says whether the virtual host of that resource name was matched since it was last asked.
func (c *Compiler) HostUsed(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := false
	for _, u := range c.units {
		for _, v := range u.chains() {
			if p := v.hosts[name]; p != nil && p.active != nil {
				used = p.active.host.TakeUsed() || used
			}
		}
	}
	return used
}

// Settled says whether every listener that was ever taken is served, else which one still waits for what it names.
func (c *Compiler) Settled() (ok bool, waiting string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, u := range c.units {
		if u.active == nil {
			return false, name
		}
	}
	return true, ""
}
