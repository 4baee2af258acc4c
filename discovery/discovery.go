// Package discovery says who is there: the endpoints of services, wherever they are registered.
//
// It holds the contract ([Source]) and the types that cross it. Each package below is one source and the only importer of
// its client: static for endpoints that are written down, consul for Consul's catalog. What is made of endpoints is not
// decided here; controlplane/resolve merges them into the model.
package discovery

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// DefaultTenant owns what names no tenant.
const DefaultTenant = "default"

// Protocol is what an endpoint speaks.
type Protocol string

// Protocols.
const (
	HTTP      Protocol = "http"
	GRPC      Protocol = "grpc"
	WebSocket Protocol = "websocket"
	TCP       Protocol = "tcp"
	Auto      Protocol = "auto"
)

// Valid says whether p is one of the protocols.
func (p Protocol) Valid() bool {
	return p == HTTP || p == GRPC || p == WebSocket || p == TCP || p == Auto
}

// Health is what the source thinks of an endpoint.
type Health uint8

// Healths, in the order of preference.
const (
	Unknown   Health = iota // the source does not check
	Healthy                 // all checks pass
	Degraded                // a check warns; it may be used
	Unhealthy               // a check fails, or the endpoint is being withdrawn
)

// String is the health's name in lower case.
func (h Health) String() string {
	switch h {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Unhealthy:
		return "unhealthy"
	}
	return "unknown"
}

// Serves says whether an endpoint of this health may be used.
func (h Health) Serves() bool { return h != Unhealthy }

// Endpoint is one port of one instance. It is immutable once it was given to a sink.
type Endpoint struct {
	// ID is the instance's id, unique in its source. An instance with several ports has an Endpoint for each.
	ID string
	// Instance is the instance's id on its host, where Ours: instances on two hosts may share it. "" where foreign.
	Instance string
	// Tenant owns the service; never "".
	Tenant string
	// Service is the service's name.
	Service string
	// Version is the service's version; "" where none is known.
	Version string
	// Address is where to connect to: an IP address or a host name, without a port.
	Address string
	// Port is the port's number, 1 to 65535.
	Port uint16
	// PortName is the port's name: "http" where a foreign service has just one and gives it no name.
	PortName string
	// Protocol is what is spoken there.
	Protocol Protocol
	// Health is what the source thinks of it.
	Health Health
	// Weight is its share of calls beside other endpoints, 1 to 65535; sources say 1 where none is written.
	Weight uint32
	// Host is the machine's name, Zone what it is grouped with; "" where that is not known.
	Host, Zone string
	// Ours says that a sidecar of this mesh stands before the instance; otherwise it is foreign.
	Ours bool
	// Metadata is what else was written at its registration; nil where nothing was. It must not be written to.
	Metadata map[string]string
}

// HostPort is the address and the port in the form that net.Dial takes.
func (e Endpoint) HostPort() string {
	return net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
}

// String names the endpoint for logs.
func (e Endpoint) String() string {
	return fmt.Sprintf("%s:%s(%s)", e.ID, e.PortName, e.HostPort())
}

// Equal says whether two endpoints are the same in all that they say.
func (e Endpoint) Equal(o Endpoint) bool {
	em, om := e.Metadata, o.Metadata
	return maps.Equal(em, om) &&
		e.ID == o.ID && e.Instance == o.Instance && e.Tenant == o.Tenant && e.Service == o.Service && e.Version == o.Version &&
		e.Address == o.Address && e.Port == o.Port && e.PortName == o.PortName && e.Protocol == o.Protocol &&
		e.Health == o.Health && e.Weight == o.Weight && e.Host == o.Host && e.Zone == o.Zone && e.Ours == o.Ours
}

// Sort puts endpoints in the order of tenant, service, id and port name, which is that of every Update.
func Sort(eps []Endpoint) {
	slices.SortFunc(eps, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Service, b.Service),
			cmp.Compare(a.ID, b.ID), cmp.Compare(a.PortName, b.PortName))
	})
}

// Query says which endpoints are wanted. The zero Query wants all.
type Query struct {
	// Tenant and Service restrict to one tenant and one service; "" does not restrict.
	Tenant, Service string
}

// Matches says whether the query wants e.
func (q Query) Matches(e Endpoint) bool {
	return (q.Tenant == "" || q.Tenant == e.Tenant) && (q.Service == "" || q.Service == e.Service)
}

// Update is all that a source knows at a moment; it replaces the Update before it.
type Update struct {
	// Endpoints is every endpoint that matches the query, sorted by Sort, the unhealthy ones too. It must not be
	// written to.
	Endpoints []Endpoint
	// Stale says that some of it is kept from before: the source cannot be reached, or says of a service that it has no
	// instances at all where it had some, which is not believed at once.
	Stale bool
	// Since is when Stale began; the zero time where it is false.
	Since time.Time
	// Err is why the source could not be asked; nil where it could.
	Err error
}

// Source tells who is there.
type Source interface {
	// Watch calls sink with an Update as soon as the source has answered or failed for the first time, and then with each
	// change, until ctx ends; it returns ctx's error then, and another only where q or the source's configuration can
	// never work. Calls to one sink do not overlap; changes that occur while it runs are told as one. A failing source
	// never takes away endpoints that it told before: it tells them again, with Stale set. Safe for concurrent use.
	Watch(ctx context.Context, q Query, sink func(Update)) error
}
