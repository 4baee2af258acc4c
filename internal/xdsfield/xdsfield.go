// Package xdsfield finds the places in Envoy v3 messages that several policies write, each its own fields of them:
// circuit breaker thresholds, typed metadata, per-filter configuration. What is written there is the policies' business.
package xdsfield

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Threshold returns the cluster's circuit breaker thresholds for the default priority, added where they are missing.
func Threshold(c *clusterv3.Cluster) *clusterv3.CircuitBreakers_Thresholds {
	if c.CircuitBreakers == nil {
		c.CircuitBreakers = &clusterv3.CircuitBreakers{}
	}
	for _, t := range c.CircuitBreakers.Thresholds {
		if t.Priority == corev3.RoutingPriority_DEFAULT {
			return t
		}
	}
	t := &clusterv3.CircuitBreakers_Thresholds{}
	c.CircuitBreakers.Thresholds = append(c.CircuitBreakers.Thresholds, t)
	return t
}

// SetRouteMetadata puts m among the route's typed metadata.
func SetRouteMetadata(r *routev3.Route, key string, m proto.Message) error {
	a, err := Any(m)
	if err != nil {
		return fmt.Errorf("metadata %s: %w", key, err)
	}
	if r.Metadata == nil {
		r.Metadata = &corev3.Metadata{}
	}
	if r.Metadata.TypedFilterMetadata == nil {
		r.Metadata.TypedFilterMetadata = map[string]*anypb.Any{}
	}
	r.Metadata.TypedFilterMetadata[key] = a
	return nil
}

// RouteMetadata reads the route's typed metadata of that key into m, which stays as it is where there is none.
func RouteMetadata(r *routev3.Route, key string, m proto.Message) error {
	a := r.GetMetadata().GetTypedFilterMetadata()[key]
	if a == nil {
		return nil
	}
	if err := a.UnmarshalTo(m); err != nil {
		return fmt.Errorf("metadata %s: %w", key, err)
	}
	return nil
}

// PerFilter wraps a route's own configuration of a filter, so that a client which does not know the filter passes
// over it.
func PerFilter(m proto.Message) (*anypb.Any, error) {
	a, err := Any(m)
	if err != nil {
		return nil, err
	}
	return Any(&routev3.FilterConfig{Config: a, IsOptional: true})
}

// Any packs m; the same message gives the same bytes.
func Any(m proto.Message) (*anypb.Any, error) {
	a := &anypb.Any{}
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("packing %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return a, nil
}
