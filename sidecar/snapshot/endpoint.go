package snapshot

import "time"

// DNS is how a cluster's host names are looked up.
type DNS struct {
	// Refresh is the time between lookups, ± 10 %.
	Refresh time.Duration
	// FailureBase is the wait after a lookup that failed, doubled for each in a row up to FailureMax; 0 means Refresh.
	FailureBase, FailureMax time.Duration
	Family                  Family
	// Logical: each name is one endpoint, whichever of its addresses is connected to (Envoy's LOGICAL_DNS); otherwise each
	// address is one (STRICT_DNS).
	Logical bool
}

// Family says which addresses of a name are used.
type Family uint8

// Families.
const (
	AllFamilies Family = iota
	V4Only
	V6Only
	V4Preferred // IPv6 where there is no IPv4
	V6Preferred
)

// Health is what discovery says of an endpoint. Active and passive checks of the sidecar's own come on top.
type Health uint8

// Healths. Unknown counts as healthy, as in Envoy.
const (
	HealthUnknown Health = iota
	Healthy
	Unhealthy
	// Draining endpoints take nothing new; what they have in flight goes on.
	Draining
)

// EndpointSpec is one endpoint as discovery describes it: plain data, which sidecar/upstream turns into a
// *balancer.Endpoint that outlives it. Two specs with the same Address are the same endpoint.
type EndpointSpec struct {
	// ID names the instance behind the endpoint; it equals Address where nothing better is known.
	ID string
	// Network is "tcp" or "unix"; Address is "host:port" with a literal IP address, or a path.
	Network, Address string
	// More are further addresses of the same endpoint, tried where the first does not answer soon.
	More []string
	// Version is the service version, or "".
	Version string
	// Hostname is the endpoint's own name for health checks and authority rewriting, or "".
	Hostname string
	// Region, Zone and SubZone are the locality.
	Region, Zone, SubZone string
	// Weight is relative to the other endpoints of the cluster, at least 1. A locality's weight plays no part, as in
	// Envoy without locality-weighted balancing.
	Weight uint32
	// Priority is the tier, 0 the first.
	Priority uint32
	Health   Health
}
