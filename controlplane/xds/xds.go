// Package xds tells the model to a node in Envoy v3 resources: a pure function, model × node → resources. Each policy
// writes its own fields (policy/*.Encode); what is not a policy is written here. Names are in internal/xdsname; when and
// in what order resources go out is controlplane/ads.
//
// There are four kinds of node. A sidecar has a listener for each port of its instance, one that routes by Host, and one for
// each port that it uses. A gateway has one. An Envoy has the one that routes by Host, with no word of ours in it. A
// proxyless gRPC client asks for a listener by the name that it dials.
//
// What a foreign client is not told: our metadata, so the whole retry policy (it gets the nearest of its own). Envoy's
// route timeout ends with the response, not with its head, and would cut streams: where nobody wrote a timeout, an Envoy
// has none for HTTP. gRPC clients know no template and no second condition on a path: a template becomes a regular
// expression, and a rule that needs two conditions on the path is left out for them.
package xds

import (
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"

	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

// Kind is a kind of node.
type Kind string

// Kinds of nodes.
const (
	Sidecar Kind = "sidecar"
	Gateway Kind = "gateway"
	Envoy   Kind = "envoy"
	GRPC    Kind = "grpc"
)

// Node is who is told.
type Node struct {
	ID   string
	Kind Kind
	// Tenant and Service are for Envoy and GRPC; the others' are in the model.
	Tenant, Service string
	// Listen is where an Envoy's listener is, "host:port".
	Listen string
}

// NodeOf reads an xDS node. What a node may see follows from its id, which ads has verified; from its metadata comes only
// where an Envoy listens.
func NodeOf(n *corev3.Node) Node {
	out := Node{ID: n.GetId()}
	if p := strings.Split(out.ID, "~"); len(p) == 4 {
		out.Kind, out.Tenant, out.Service = Kind(p[0]), p[1], p[2]
		out.Listen = n.GetMetadata().GetFields()[xdsname.MetadataKey].GetStructValue().GetFields()["listen"].GetStringValue()
	}
	return out
}

// Config is what one node is told. It is immutable but for what Find makes, and safe for concurrent use.
type Config struct {
	b      *builder
	listed map[string]map[string]proto.Message
	errs   []error
}

// Build makes a node's configuration; nil for a node that is not in the model.
func Build(m *model.Model, n Node) *Config {
	b := &builder{m: m, kind: n.Kind}
	c := &Config{b: b, listed: map[string]map[string]proto.Message{}}
	switch {
	case n.Kind == Envoy || n.Kind == GRPC:
		b.tenant = n.Tenant
		b.allow = foreignUses(m, model.ServiceKey{Tenant: n.Tenant, Name: n.Service})
		if n.Kind == Envoy {
			c.envoy(n)
		}
	case m.Locals[n.ID] != nil:
		b.kind = Sidecar
		c.sidecar(m.Locals[n.ID])
	default:
		g := gateway(m, n.ID)
		if g == nil {
			return nil
		}
		b.kind, b.tenant = Gateway, g.Tenant
		c.gateway(g)
	}
	return c
}

func gateway(m *model.Model, id string) *model.Gateway {
	for _, g := range m.Gateways {
		if g.Node == id {
			return g
		}
	}
	return nil
}

// foreignUses is what a foreign client of a service may call: what any version declares, or, where one declares
// nothing, all of the tenant.
func foreignUses(m *model.Model, k model.ServiceKey) map[model.ServiceKey]bool {
	s := m.Services[k]
	if s == nil {
		return nil
	}
	out := map[model.ServiceKey]bool{}
	for _, v := range s.Versions {
		if !v.UsesDeclared {
			return nil
		}
		for _, u := range v.Uses {
			out[u] = true
		}
	}
	return out
}

// Errors are what could not be told; the resources that it concerns are left out, and all others are whole.
func (c *Config) Errors() error { return errors.Join(c.errs...) }

// Listed are the resources of a type that a node gets which asks for all, by name.
func (c *Config) Listed(typeURL string) map[string]proto.Message { return c.listed[typeURL] }

// Find returns the resource of a name, listed or one that the node may ask for; nil where there is none.
func (c *Config) Find(typeURL, name string) proto.Message {
	if r := c.listed[typeURL][name]; r != nil {
		return r
	}
	r, err := c.find(typeURL, name)
	if err != nil {
		return nil
	}
	return r
}

func (c *Config) find(typeURL, name string) (proto.Message, error) {
	b := c.b
	switch typeURL {
	case resource.ListenerType:
		if b.kind != GRPC {
			return nil, nil
		}
		host, port, _ := strings.Cut(name, ":")
		s := b.service(b.tenant, host)
		if s == nil {
			return nil, nil
		}
		for _, p := range s.Ports {
			if p.Protocol == "grpc" && (port == "" || port == p.Name) {
				return b.apiListener(name, s, p)
			}
		}
	case resource.RouteType:
		p := strings.Split(name, "/")
		if len(p) != 4 || p[0] != "service" {
			return nil, nil
		}
		if s := b.service(p[1], p[2]); s != nil {
			if port, ok := s.Port(p[3]); ok && p[3] != "" && port.Protocol.IsHTTP() {
				return b.serviceRoutes(s, port)
			}
		}
	case resource.ClusterType, resource.EndpointType:
		p, ok := xdsname.ParseCluster(name)
		if !ok || p.Inbound {
			return nil, nil
		}
		s := b.service(p.Tenant, p.Service)
		if s == nil {
			return nil, nil
		}
		port, ok := s.Port(p.Port)
		if !ok || p.Port == "" || name != xdsname.Cluster(p.Tenant, p.Service, p.Port, p.Version) || p.Version != "" && s.Version(p.Version) == nil {
			return nil, nil
		}
		if typeURL == resource.EndpointType {
			return b.endpoints(s, port, p.Version), nil
		}
		return b.cluster(s, port, p.Version)
	case resource.VirtualHostType:
		for _, rc := range []string{xdsname.Outbound, xdsname.Edge} {
			host, ok := strings.CutPrefix(name, rc+"/")
			if table, _ := c.listed[resource.RouteType][rc].(*routev3.RouteConfiguration); !ok || table.GetVhds() == nil {
				continue
			}
			if s := b.service(b.tenant, strings.TrimSuffix(host, ".localhost")); s != nil {
				return b.virtualHost(name, s, []string{host}, rc == xdsname.Outbound)
			}
		}
	}
	return nil, nil
}

func (c *Config) add(typeURL, name string, m proto.Message, err error) {
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: %w", name, err))
		return
	}
	if c.listed[typeURL] == nil {
		c.listed[typeURL] = map[string]proto.Message{}
	}
	c.listed[typeURL][name] = m
}

// addService lists the clusters and endpoints of all ports and versions of a service.
func (c *Config) addService(s *model.Service) {
	for _, p := range s.Ports {
		c.addCluster(s, p, "")
		for _, v := range s.Versions {
			if v.Version != "" {
				c.addCluster(s, p, v.Version)
			}
		}
	}
}

func (c *Config) addCluster(s *model.Service, p model.Port, version string) {
	name := xdsname.Cluster(s.Tenant, s.Name, p.Name, version)
	cl, err := c.b.cluster(s, p, version)
	c.add(resource.ClusterType, name, cl, err)
	if err == nil && cl.GetEdsClusterConfig() != nil {
		c.add(resource.EndpointType, name, c.b.endpoints(s, p, version), nil)
	}
}
