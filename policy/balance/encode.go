package balance

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	"google.golang.org/protobuf/proto"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List { return schema.Check(path, s) }

// Merge returns what holds where base is written for the wider scope and over for the narrower one. Either may be nil.
func Merge(base, over *Spec) *Spec {
	if over != nil {
		return over
	}
	return base
}

// Encode writes c.load_balancing_policy, and c.lb_policy for clients that do not read it. A nil s is the default. Clients
// take the first policy of the list that they know: proxyless gRPC has no random, so that round robin stands last.
func Encode(s *Spec, c *clusterv3.Cluster) error {
	name := DefaultStrategy
	if s != nil && s.Strategy != "" {
		name = s.Strategy
	}
	type policy struct {
		name   string
		config proto.Message
	}
	last := policy{"envoy.load_balancing_policies.round_robin", &roundrobinv3.RoundRobin{}}
	policies := []policy{last}
	c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
	switch name {
	case "round-robin":
	case "random":
		c.LbPolicy = clusterv3.Cluster_RANDOM
		policies = []policy{{"envoy.load_balancing_policies.random", &randomv3.Random{}}, last}
	case "least-connections":
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		policies = []policy{{"envoy.load_balancing_policies.least_request", &leastrequestv3.LeastRequest{}}, last}
	default:
		return fmt.Errorf("balance: unknown strategy %q", name)
	}
	c.LoadBalancingPolicy = &clusterv3.LoadBalancingPolicy{}
	for _, p := range policies {
		a, err := xdsfield.Any(p.config)
		if err != nil {
			return fmt.Errorf("balance: %w", err)
		}
		c.LoadBalancingPolicy.Policies = append(c.LoadBalancingPolicy.Policies, &clusterv3.LoadBalancingPolicy_Policy{
			TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: p.name, TypedConfig: a},
		})
	}
	return nil
}
