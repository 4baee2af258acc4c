// Package builtin holds the only list of the strategies that Outrigger brings along.
package builtin

import (
	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/consistenthash"
	"github.com/outrigger-mesh/outrigger/balancer/leastconn"
	"github.com/outrigger-mesh/outrigger/balancer/random"
	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
)

// All returns every strategy. A new one is added here and nowhere else.
func All() []balancer.Strategy {
	return []balancer.Strategy{roundrobin.Strategy{}, random.Strategy{}, leastconn.Strategy{}, consistenthash.Strategy{}}
}
