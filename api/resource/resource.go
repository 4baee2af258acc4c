// Package resource holds what users write: the kinds, their keys, strict decoding of YAML and JSON, validation of one
// resource and of a whole set, and the canonical form that the store keeps.
//
// The way of a resource is Parse (bytes to resources; all violations at once) → ValidateSet (references, ports, cycles)
// → MarshalJSON (canonical: no defaults filled in). What resources mean together is the business of
// controlplane/resolve; how a policy is told in xDS that of policy/*. Nothing here touches the host it runs on but
// through the lookup that CheckHost is given.
//
// The struct tags are the rules of the format; internal/schema reads them. Docs are generated from the same types.
package resource

import (
	"fmt"
	"strings"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// APIVersion is the version of the format.
const APIVersion = "outrigger.dev/v1"

// DefaultTenant owns what names no tenant.
const DefaultTenant = "default"

// Kind names a kind of resource as it is written.
type Kind string

// The kinds.
const (
	KindService       Kind = "Service"
	KindTrafficPolicy Kind = "TrafficPolicy"
	KindTrafficSplit  Kind = "TrafficSplit"
	KindRoute         Kind = "Route"
	KindGateway       Kind = "Gateway"
	KindExternal      Kind = "External"
	KindSupervisor    Kind = "Supervisor"
)

// Kinds returns all kinds in the order in which they are listed.
func Kinds() []Kind {
	return []Kind{KindService, KindTrafficPolicy, KindTrafficSplit, KindRoute, KindGateway, KindExternal, KindSupervisor}
}

// ParseKind reads a kind's name in any case, in singular or plural ("service", "Services").
func ParseKind(s string) (Kind, bool) {
	for _, k := range Kinds() {
		one := strings.ToLower(string(k))
		many := one + "s"
		if strings.HasSuffix(one, "y") {
			many = strings.TrimSuffix(one, "y") + "ies"
		}
		if l := strings.ToLower(s); l == one || l == many {
			return k, true
		}
	}
	return "", false
}

// Key identifies a resource. It is comparable.
type Key struct {
	Tenant string
	Kind   Kind
	Name   string
	// Version is set for a Service, and "" for every other kind.
	Version string
}

// String is "Kind/name", "Service/name@version", and "Kind/tenant.name" for a tenant other than the default one.
func (k Key) String() string {
	s := k.Name
	if k.Tenant != DefaultTenant {
		s = k.Tenant + "." + s
	}
	if k.Version != "" {
		s += "@" + k.Version
	}
	return string(k.Kind) + "/" + s
}

// Path is the key as a path for stores: "tenant/Kind/name", "tenant/Service/name/version".
func (k Key) Path() string {
	s := k.Tenant + "/" + string(k.Kind) + "/" + k.Name
	if k.Version != "" {
		s += "/" + k.Version
	}
	return s
}

// ParseKeyPath reads what Path writes.
func ParseKeyPath(s string) (Key, error) {
	p := strings.Split(s, "/")
	if len(p) != 3 && len(p) != 4 {
		return Key{}, fmt.Errorf("key %q is not tenant/kind/name", s)
	}
	k := Key{Tenant: p[0], Kind: Kind(p[1]), Name: p[2]}
	if len(p) == 4 {
		k.Version = p[3]
	}
	if newSpec(k.Kind) == nil || (k.Kind == KindService) != (len(p) == 4) || len(p) == 4 && k.Version == "" {
		return Key{}, fmt.Errorf("key %q names no kind of resource, or a version where there is none", s)
	}
	return k, nil
}

// Less orders keys by tenant, kind (as Kinds lists them), name and version.
func (k Key) Less(o Key) bool {
	switch {
	case k.Tenant != o.Tenant:
		return k.Tenant < o.Tenant
	case k.Kind != o.Kind:
		return kindOrder(k.Kind) < kindOrder(o.Kind)
	case k.Name != o.Name:
		return k.Name < o.Name
	}
	return lessVersion(k.Version, o.Version)
}

func kindOrder(k Kind) int {
	for i, x := range Kinds() {
		if x == k {
			return i
		}
	}
	return len(Kinds())
}

// Metadata names a resource.
type Metadata struct {
	// Name is a DNS label: lower-case letters, digits and "-", at most 63.
	Name string `yaml:"name" required:"true" format:"label" example:"orders"`
	// Tenant owns the resource.
	Tenant string `yaml:"tenant" format:"label" default:"default" example:"acme"`
	// Labels are for people and tools; nothing here depends on them.
	Labels map[string]string `yaml:"labels" example:"{team: shop}"`
}

// Resource is one thing that a user wrote. It is not safe for concurrent change; once validated it is only read.
type Resource struct {
	Kind     Kind
	Metadata Metadata
	// Spec is never nil in a resource that Parse or UnmarshalJSON returned; its type belongs to Kind.
	Spec Spec

	origin *origin
}

// Spec is what a resource says: one of *Service, *TrafficPolicy, *TrafficSplit, *Route, *Gateway, *External and
// *Supervisor.
type Spec interface {
	// Kind is the kind that the spec belongs to.
	Kind() Kind
}

// New makes a resource of the default tenant.
func New(name string, spec Spec) *Resource {
	return &Resource{Kind: spec.Kind(), Metadata: Metadata{Name: name}, Spec: spec}
}

// Tenant is the tenant that owns the resource, the default one where none is written.
func (r *Resource) Tenant() string {
	if r.Metadata.Tenant == "" {
		return DefaultTenant
	}
	return r.Metadata.Tenant
}

// Name is the resource's name.
func (r *Resource) Name() string { return r.Metadata.Name }

// Key is the resource's key.
func (r *Resource) Key() Key {
	k := Key{Tenant: r.Tenant(), Kind: r.Kind, Name: r.Metadata.Name}
	if s, ok := r.Spec.(*Service); ok {
		k.Version = s.Version
	}
	return k
}

// File returns the file and line where the resource begins, or "" and 0 where it did not come from a file.
func (r *Resource) File() (file string, line int) {
	if r.origin == nil {
		return "", 0
	}
	return r.origin.file, r.origin.line
}

// Of calls fn for each resource of set whose spec is a T, in the order of set:
//
//	resource.Of(set, func(r *resource.Resource, s *resource.Service) { … })
func Of[T Spec](set []*Resource, fn func(r *Resource, spec T)) {
	for _, r := range set {
		if s, ok := r.Spec.(T); ok {
			fn(r, s)
		}
	}
}

// Violation is one thing that is wrong with what a user wrote.
type Violation = violation.Violation

// Violations is all that is wrong; as an error it prints one a line.
type Violations = violation.List

func newSpec(k Kind) Spec {
	switch k {
	case KindService:
		return &Service{}
	case KindTrafficPolicy:
		return &TrafficPolicy{}
	case KindTrafficSplit:
		return &TrafficSplit{}
	case KindRoute:
		return &Route{}
	case KindGateway:
		return &Gateway{}
	case KindExternal:
		return &External{}
	case KindSupervisor:
		return &Supervisor{}
	}
	return nil
}

// Kind implements Spec.
func (*Service) Kind() Kind { return KindService }

// Kind implements Spec.
func (*TrafficPolicy) Kind() Kind { return KindTrafficPolicy }

// Kind implements Spec.
func (*TrafficSplit) Kind() Kind { return KindTrafficSplit }

// Kind implements Spec.
func (*Route) Kind() Kind { return KindRoute }

// Kind implements Spec.
func (*Gateway) Kind() Kind { return KindGateway }

// Kind implements Spec.
func (*External) Kind() Kind { return KindExternal }

// Kind implements Spec.
func (*Supervisor) Kind() Kind { return KindSupervisor }
