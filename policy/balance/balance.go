// Package balance is the policy that names a service's balancing strategy: what users write, its default, and how it
// is told in xDS. The strategies themselves are in balancer.
package balance

// Spec chooses how an endpoint is found for a call.
type Spec struct {
	_ struct{} `later:"hash, ring, maglev, slowStart, panic, locality, weights"`
	// Strategy names the balancer. With least-connections the endpoint with fewer calls in flight of two chosen at
	// random takes the call.
	Strategy string `yaml:"strategy" required:"true" enum:"round-robin, random, least-connections" later:"weighted-round-robin, least-response-time, peak-ewma, ring, maglev, bounded, consistent-hash, sticky, power-of-two" default:"round-robin" example:"least-connections"`
}

// DefaultStrategy is used where none is written.
const DefaultStrategy = "round-robin"
