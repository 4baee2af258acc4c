package limit

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List { return schema.Check(path, s) }

// Merge returns what holds where base is written for the wider scope and over for the narrower one, field by field.
// Either may be nil.
func Merge(base, over *Spec) *Spec {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	m := *base
	if over.Connections != nil {
		m.Connections = over.Connections
	}
	if over.Pending != nil {
		m.Pending = over.Pending
	}
	if over.Requests != nil {
		m.Requests = over.Requests
	}
	if over.Preconnect != nil {
		m.Preconnect = over.Preconnect
	}
	return &m
}

// Encode writes max_connections, max_pending_requests and max_requests of the cluster's thresholds, and its
// preconnect_policy where connections are made ahead. A nil s is the default.
func Encode(s *Spec, c *clusterv3.Cluster) {
	if s == nil {
		s = &Spec{}
	}
	value := func(p *int, d int) *wrapperspb.UInt32Value {
		if p != nil {
			d = *p
		}
		return wrapperspb.UInt32(uint32(d))
	}
	t := xdsfield.Threshold(c)
	t.MaxConnections = value(s.Connections, DefaultConnections)
	t.MaxPendingRequests = value(s.Pending, DefaultPending)
	t.MaxRequests = value(s.Requests, DefaultRequests)
	if s.Preconnect != nil && *s.Preconnect > 1 {
		c.PreconnectPolicy = &clusterv3.Cluster_PreconnectPolicy{PerUpstreamPreconnectRatio: wrapperspb.Double(*s.Preconnect)}
	}
}
