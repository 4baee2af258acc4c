// Package xdsname builds and reads the names of the xDS resources that the control plane and the sidecar
// agree on. It is all that the two share besides the resources themselves.
//
//	listener        inbound/<port>                        calls to the sidecar's own instance
//	                outbound                              one listener that routes by Host
//	                outbound/<tenant>/<service>/<port>    calls to one service
//	                gateway/<name>, edge                  calls from outside
//	                intercept/outbound/<address>          redirected calls of the instance
//	                intercept/inbound/<port>              redirected calls to it
//	                intercept/<tenant>/<service>/<port>/<address>   unbound: what was meant for an address of a service
//	route config    the listener's name; a listener of one service uses service/<tenant>/<service>/<port>
//	cluster         inbound/<port>                        the process itself
//	                <tenant>/<service>/<port>             all versions
//	                <tenant>/<service>/<port>/<version>   one version
//	                intercept/through, intercept/denied   where a redirected call was meant to go, and nowhere
//
// <port> is the port's name. A proxyless gRPC client asks for a listener by what it dials: xds:///orders is
// orders, of the client's tenant, the first gRPC port; orders:admin is the port of that name.
package xdsname

import "strings"

// Fixed names.
const (
	Outbound = "outbound"
	Edge     = "edge"
)

// InboundListener names the listener, its route configuration and its cluster, of one port of an instance.
func InboundListener(port string) string { return "inbound/" + port }

// OutboundListener names the listener for one port of a service.
func OutboundListener(tenant, service, port string) string {
	return "outbound/" + tenant + "/" + service + "/" + port
}

// GatewayListener names a gateway's listener and route configuration.
func GatewayListener(name string) string { return "gateway/" + name }

// ServiceRoutes names the route configuration for one port of a service.
func ServiceRoutes(tenant, service, port string) string {
	return "service/" + tenant + "/" + service + "/" + port
}

// Names of interception: the route configuration that routes redirected HTTP by Host, and two clusters.
const (
	Intercept        = "intercept/outbound"
	InterceptThrough = "intercept/through"
	InterceptDenied  = "intercept/denied"
)

// InterceptOutbound names the listener at address for an instance's own redirected calls.
func InterceptOutbound(address string) string { return Intercept + "/" + address }

// InterceptInbound names the listener for redirected calls to one port of an instance.
func InterceptInbound(port string) string { return "intercept/inbound/" + port }

// InterceptListener names the unbound listener for what was meant for one address of a service.
func InterceptListener(tenant, service, port, address string) string {
	return "intercept/" + tenant + "/" + service + "/" + port + "/" + address
}

// Cluster names the cluster of one port of a service, of one version or, where version is "", of all.
func Cluster(tenant, service, port, version string) string {
	s := tenant + "/" + service + "/" + port
	if version != "" {
		s += "/" + version
	}
	return s
}

// ClusterName is a cluster's name, taken apart.
type ClusterName struct {
	Inbound                        bool
	Tenant, Service, Port, Version string
}

// ParseCluster reads a cluster's name; false where it is not one of ours.
func ParseCluster(name string) (ClusterName, bool) {
	p := strings.Split(name, "/")
	switch {
	case len(p) == 2 && p[0] == "inbound":
		return ClusterName{Inbound: true, Port: p[1]}, true
	case len(p) == 3:
		return ClusterName{Tenant: p[0], Service: p[1], Port: p[2]}, true
	case len(p) == 4:
		return ClusterName{Tenant: p[0], Service: p[1], Port: p[2], Version: p[3]}, true
	}
	return ClusterName{}, false
}

// MetadataKey is the namespace of our metadata on nodes, routes and clusters.
const MetadataKey = "outrigger.dev"
