// Package xdsname builds and reads the names of the xDS resources that the control plane and the sidecar
// agree on. It is all that the two share besides the resources themselves.
//
//	listener        inbound/<port>                        calls to the sidecar's own instance
//	                outbound                              one listener that routes by Host
//	                outbound/<tenant>/<service>/<port>    calls to one service
//	                gateway/<name>, edge                  calls from outside
//	route config    the listener's name; a listener of one service uses service/<tenant>/<service>/<port>
//	cluster         inbound/<port>                        the process itself
//	                <tenant>/<service>/<port>             all versions
//	                <tenant>/<service>/<port>/<version>   one version
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
