package resource

import (
	"fmt"
	"net/netip"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Values of Intercept.By.
const (
	ByCgroup    = "cgroup"
	ByUID       = "uid"
	ByNamespace = "namespace"
)

// Values of Intercept.Egress.
const (
	EgressAllow = "allow"
	EgressDeny  = "deny"
)

// Defaults of Intercept, where nothing is written.
const (
	DefaultBy     = ByCgroup
	DefaultEgress = EgressAllow
)

// Intercept leads a process's TCP connections through its sidecar without the process knowing. It needs Linux with
// nf_tables, and root; where that is not there, the process is not started. Port 22 and loopback are never intercepted.
type Intercept struct {
	_ struct{} `later:"dns, udp"`
	// Outbound is what the process connects to.
	Outbound bool `yaml:"outbound" default:"false" example:"true"`
	// Inbound is what other machines connect to at the process's ports.
	Inbound bool `yaml:"inbound" default:"false" example:"true"`
	// By is how the process's connections are told from others: by a cgroup of its own (cgroup v2), by the user that it
	// runs as (run.user), or not at all: namespace takes all that is made in the network namespace of the control
	// plane, but by the mesh itself, and is for containers.
	By string `yaml:"by" enum:"cgroup, uid, namespace" default:"cgroup" example:"uid"`
	// Exclude is what is let be.
	Exclude *InterceptExclude `yaml:"exclude"`
	// Egress says what becomes of outbound connections to places that the mesh does not know: allow passes them
	// through, deny answers 403 where it is HTTP, and resets others.
	Egress string `yaml:"egress" enum:"allow, deny" default:"allow" example:"deny"`
}

// InterceptExclude is what is not intercepted.
type InterceptExclude struct {
	// Ports are let be in both directions: the ports that are connected to.
	Ports []int `yaml:"ports" min:"1" max:"65535" maxItems:"256" example:"[5432, 9100]"`
	// CIDRs are let be: outbound as destinations, inbound as sources.
	CIDRs []string `yaml:"cidrs" format:"cidr" maxItems:"256" example:"[10.9.0.0/16, 'fd00::/8']"`
	// UIDs are users whose outbound connections are let be.
	UIDs []int `yaml:"uids" min:"0" max:"4294967294" maxItems:"256" example:"[1001]"`
}

// IsZero says whether nothing is intercepted; i may be nil.
func (i *Intercept) IsZero() bool { return i == nil || !i.Outbound && !i.Inbound }

// Mode is By, or its default.
func (i *Intercept) Mode() string {
	if i.By == "" {
		return DefaultBy
	}
	return i.By
}

func (s *Service) checkIntercept(l *Violations) {
	i := s.Intercept
	if i == nil {
		return
	}
	if i.IsZero() {
		l.Add("spec.intercept", "intercepts nothing", "outbound: true, inbound: true, or both")
		return
	}
	if i.Egress != "" && !i.Outbound {
		l.Add("spec.intercept.egress", "is about outbound connections, which are not intercepted", "outbound: true")
	}
	if i.By != "" && !i.Outbound {
		l.Add("spec.intercept.by", "is about outbound connections, which are not intercepted", "outbound: true")
	}
	if !i.Outbound {
		return
	}
	many := s.Pool != nil && s.Pool.Size != nil && *s.Pool.Size > 1
	switch i.Mode() {
	case ByUID:
		if s.Run != nil && s.Run.User == "" {
			l.Add("spec.run.user", "is missing, where intercept.by is uid", "a user of the process's own, who is not the control plane's; or intercept.by: cgroup")
		}
		if many {
			l.Add("spec.intercept.by", fmt.Sprintf("the %d processes of the pool run as one user, which does not tell them apart", *s.Pool.Size), "cgroup, or pool.size: 1")
		}
	case ByNamespace:
		if many {
			l.Add("spec.intercept.by", fmt.Sprintf("the %d processes of the pool are in one namespace, which does not tell them apart", *s.Pool.Size), "cgroup, or pool.size: 1")
		}
	}
}

// checkAddresses looks at where intercepted callers reach the ports.
func checkAddresses(path string, ports []Port, l *Violations) {
	seen := map[netip.AddrPort]bool{}
	for i, p := range ports {
		for j, a := range p.Addresses {
			at := violation.Index(violation.Index(path, i)+".addresses", j)
			ap, err := netip.ParseAddrPort(a)
			switch {
			case err != nil || ap.Port() == 0 || ap.Addr().Zone() != "":
				l.Add(at, fmt.Sprintf("%q is no IP address with a port", a), "such as 10.96.0.10:80 or [fd00::10]:80")
			case ap.Addr().IsLoopback() || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast():
				l.Add(at, a+" is not intercepted", "an address that is neither loopback nor for many")
			case ap.Port() == 22:
				l.Add(at, "port 22 is never intercepted", "another port")
			case seen[ap]:
				l.Add(at, a+" is written twice", "keep one")
			}
			seen[ap] = true
		}
	}
}

// intercepts finds virtual addresses that two services claim, and services whose connections cannot be told apart.
func (c *setCheck) intercepts() {
	type claim struct {
		r    *Resource
		port string
	}
	claims := map[netip.AddrPort]claim{}
	told := map[string][]taken{} // by what tells connections apart: a user, or nothing
	Of(c.set, func(r *Resource, s *Service) {
		for i, p := range s.Ports {
			for j, a := range p.Addresses {
				ap, err := netip.ParseAddrPort(a)
				if err != nil {
					continue
				}
				first, dup := claims[ap]
				if dup && (first.r.Tenant() != r.Tenant() || first.r.Name() != r.Name() || first.port != p.Name) {
					c.add(r, violation.Index(violation.Index("spec.ports", i)+".addresses", j), a+" leads to "+where(first.r)+" already", "another address")
					continue
				}
				claims[ap] = claim{r, p.Name}
			}
		}
		if s.Intercept.IsZero() || !s.Intercept.Outbound || s.Run == nil || s.Pool != nil && s.Pool.Size != nil && *s.Pool.Size == 0 {
			return
		}
		var key, message, hint string
		t := taken{r: r}
		if s.Placement != nil {
			t.hosts = s.Placement.Hosts
		}
		switch s.Intercept.Mode() {
		case ByUID:
			if key = s.Run.User; key == "" {
				return
			}
			t.path, message, hint = "spec.run.user", "runs as "+key+" too: their connections cannot be told apart by uid", "another user, or intercept.by: cgroup"
		case ByNamespace:
			t.path, message, hint = "spec.intercept.by", "takes all of the namespace already", "cgroup, for both"
		default:
			return
		}
		for _, o := range told[key] {
			if sharesHost(o, t) {
				c.add(r, t.path, where(o.r)+" "+message, hint)
				return
			}
		}
		told[key] = append(told[key], t)
	})
}
