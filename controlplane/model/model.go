// Package model is the control plane's resolved view: references resolved, policies merged, rules in the order in which
// they are tried, and who is there. controlplane/resolve makes it; controlplane/xds tells it to the sidecars; the
// supervisor's side reads from it what runs here.
//
// A Model and all that hangs from it is immutable once resolve has returned it: share it, never change it. There is no
// protobuf in it and no state. Slices have a fixed order (said at each), so that equal inputs give equal models.
package model

import (
	"cmp"
	"net/netip"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/policy/balance"
	"github.com/outrigger-mesh/outrigger/policy/headers"
	"github.com/outrigger-mesh/outrigger/policy/limit"
	"github.com/outrigger-mesh/outrigger/policy/outlier"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// ServiceKey names a service over all its versions. It is comparable.
type ServiceKey struct {
	Tenant, Name string
}

// String is the name, with "tenant." before it for a tenant other than the default one.
func (k ServiceKey) String() string {
	if k.Tenant != resource.DefaultTenant {
		return k.Tenant + "." + k.Name
	}
	return k.Name
}

// Compare orders keys by tenant and name.
func (k ServiceKey) Compare(o ServiceKey) int {
	return cmp.Or(cmp.Compare(k.Tenant, o.Tenant), cmp.Compare(k.Name, o.Name))
}

// PortKey names one port of a service. It is comparable.
type PortKey struct {
	ServiceKey
	// Port is the port's name.
	Port string
}

// Model is the mesh as one host sees it.
type Model struct {
	// Revision is the number of the resources' revision.
	Revision uint64
	// Host is the name of this host.
	Host string
	// Services holds every service: of resources, externals, and those only found by discovery.
	Services map[ServiceKey]*Service
	// Gateways are this host's, by name; the edge, where there is one, is the last.
	Gateways []*Gateway
	// Locals are this host's instances with a sidecar, by id.
	Locals map[string]*Local
}

// Service is all versions of a service.
type Service struct {
	ServiceKey
	// External: it runs outside the mesh; its endpoints have no sidecars.
	External bool
	// TLS is how calls to an external are encrypted; nil where they are not. ServerName is what it is asked for.
	TLS        *resource.ExternalTLS
	ServerName string
	// Ports are those of all versions: in the order of the newest version, then what only older ones have.
	Ports []Port
	// Addresses are those by which redirected callers reach a port, by its name, in order.
	Addresses map[string][]netip.AddrPort
	// Versions are in ascending order. The only version of a service without one has the name "".
	Versions []*Version
	// Policy holds for all versions.
	Policy Policy
	// Split shares calls out that no rule takes; nil where they go to all versions alike. Weights are over 0.
	Split []Weighted
	// Rules are in order of precedence: the first that matches is taken.
	Rules []Rule
	// Endpoints are ordered by version, instance and address.
	Endpoints []*Endpoint
}

// Port returns the port of a name, or of "" the first.
func (s *Service) Port(name string) (Port, bool) {
	for _, p := range s.Ports {
		if name == "" || p.Name == name {
			return p, true
		}
	}
	return Port{}, false
}

// Version returns the version of a name, or nil.
func (s *Service) Version(name string) *Version {
	for _, v := range s.Versions {
		if v.Version == name {
			return v
		}
	}
	return nil
}

// Port is a port that callers see. The numbers are the endpoints'.
type Port struct {
	Name     string
	Protocol resource.Protocol
}

// Version is one version of a service.
type Version struct {
	Version string
	// Ports are this version's, in the order written.
	Ports []Port
	// Policy is the service's with this version's own over it.
	Policy Policy
	// Spec is what runs it: run, pool, placement, health, uses. It is nil for an external, and for a version that is
	// only known by discovery.
	Spec *resource.Service
	// Uses are the services that it calls, in order; it is meaningful where UsesDeclared.
	Uses []ServiceKey
	// UsesDeclared: Uses is all that it may be told; otherwise it asks on demand.
	UsesDeclared bool
	// Here: its placement matches this host.
	Here bool
}

// Policy is what TrafficPolicies say, merged. A nil spec means the defaults.
type Policy struct {
	// MethodPolicies hold for calls that none of Methods takes.
	resource.MethodPolicies
	Balance *balance.Spec
	Outlier *outlier.Spec
	Limits  *limit.Spec
	// Methods are tried in order; the first that matches holds, and is already merged with MethodPolicies.
	Methods []Method
}

// Method is the policies of some of a service's calls.
type Method struct {
	Match resource.MethodMatch
	resource.MethodPolicies
}

// Weighted is a version's share.
type Weighted struct {
	Version string
	// Weight is over 0, relative to the others.
	Weight uint32
}

// Rule is one rule of a Route.
type Rule struct {
	// Name is the Route's name and the rule's place in it: "orders-beta/0".
	Name  string
	Match resource.RouteMatch
	// To are the versions that take the call; nil where the service's split, or all versions, do.
	To       []Weighted
	Rewrite  *resource.Rewrite
	Redirect *resource.Redirect
	Direct   *resource.Direct
	Headers  *headers.Spec
	Timeout  *timeout.Spec
}

// Endpoint is where one instance is reached.
type Endpoint struct {
	// Instance is the instance's id; for an external "", for one found by discovery what discovery calls it.
	Instance string
	Version  string
	// Host is the host that it runs on, "" where that is not known.
	Host string
	// Addresses are "host:port" by the port's name: the inbound sidecar's, or the endpoint's own where External.
	Addresses map[string]string
	// Healthy: its health check passes. Only healthy endpoints are chosen.
	Healthy bool
	// Draining: it takes no new calls.
	Draining bool
	// Weight is at least 1.
	Weight uint32
	// Zone is where it is, "" where that is not known.
	Zone string
	// External: there is no sidecar of this mesh before it.
	External bool
	// Local: it is on this host.
	Local bool
}

// Gateway is a listener for calls from outside.
type Gateway struct {
	Tenant, Name string
	// Node is the id of its sidecar: "gateway-NAME" or "edge".
	Node string
	// Edge: it routes by Host to any service of its tenant, and Routes is empty.
	Edge bool
	// Listen is "host:port", or "unix:" and a path; Mode is then who may connect, 0 for the owner alone.
	Listen string
	Mode   uint32
	// ProxyProtocol: every connection begins with a PROXY header.
	ProxyProtocol bool
	// TLS is what it speaks, or nil.
	TLS *resource.GatewayTLS
	// HTTP is what was written of HTTP, or nil.
	HTTP *resource.GatewayHTTP
	// Routes are in order of precedence.
	Routes []GatewayRoute
}

// GatewayRoute sends calls on to a service.
type GatewayRoute struct {
	// Name is the gateway's name and the route's place in it as written.
	Name string
	// Host is "" for any, a name, or "*.example.com".
	Host    string
	Path    *resource.PathMatch
	To      PortKey
	Rewrite *resource.Rewrite
}

// Local is one instance of this host, with the addresses that it was given.
type Local struct {
	// ID is the instance's id, which is its sidecar's node id.
	ID      string
	Service ServiceKey
	Version string
	// Inbound are the addresses that its sidecar takes calls on, by port name.
	Inbound map[string]string
	// Process are the addresses that the process itself listens on, by port name.
	Process map[string]string
	// Outbound is where it sends calls that are routed by Host; "" for no such listener.
	Outbound string
	// Uses are the listeners for each port of each service that it uses.
	Uses map[PortKey]string
	// Intercept is where its connections are redirected to; nil where they are not.
	Intercept *Intercept
}

// Intercept is where the connections of an instance are redirected to.
type Intercept struct {
	// Outbound is where its own go, an address for each family.
	Outbound []string
	// Inbound is where those of others to its ports go, by port name.
	Inbound map[string]string
}
