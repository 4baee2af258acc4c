package snapshot

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
