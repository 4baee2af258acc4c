// Package snapshot is the sidecar's compiled view of its configuration: immutable types, the match indexes
// over them, and the interface that every filter implements.
//
// sidecar/compile makes these values from Envoy v3 resources; proxy reads them. All that is slow or can fail
// has happened before: nothing here parses, compiles or looks up a name that could have been resolved. What
// changes while a snapshot lives (endpoints, connections, counters) is behind [ClusterRef] and [Upstream], and
// is kept by sidecar/upstream from one snapshot to the next.
package snapshot

import (
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/internal/sockopt"
)

// Snapshot is all that the sidecar serves at one time.
type Snapshot struct {
	// Version identifies the snapshot in the config dump.
	Version string
	// Listeners by name.
	Listeners map[string]*Listener
}

// Protocol is what a listener or an upstream speaks.
type Protocol uint8

// Protocols. Auto accepts HTTP/1.1 and HTTP/2 with prior knowledge on a listener; on an upstream it means the
// protocol that the request came by.
const (
	Auto Protocol = iota
	HTTP1
	HTTP2
	TCP
)

// Direction is a listener's place in the mesh; it decides which end of a policy runs.
type Direction uint8

// Directions.
const (
	Unspecified Direction = iota
	Inbound               // calls to the sidecar's own instance
	Outbound              // calls that its instance makes
	Edge                  // a gateway: calls from outside the mesh
)

// Listener is one address that the sidecar accepts on.
type Listener struct {
	Name string
	// Network is "tcp" or "unix"; Address "127.0.0.1:8080" or a path.
	Network, Address string
	// Mode are the permissions of a Unix socket, 0 for the owner's alone.
	Mode uint32
	// Backlog is how many connections may wait to be accepted, up to the host's somaxconn; 0 leaves what the socket has.
	Backlog   int
	Direction Direction
	// TLS is what connections are encrypted with; nil where they are not.
	TLS *ServerTLS
	// Unbound: no socket is opened; another listener hands over what was meant for Address (Envoy's bind_to_port: false).
	Unbound bool
	// HandOver: a connection that the kernel redirected here is handed to the unbound listener with the address that it was
	// meant for, where there is one (Envoy's use_original_dst).
	HandOver bool
	// MaxConnections is how many connections there may be at a time; 0 means that only the sidecar's own limit holds.
	MaxConnections int64
	// Front is what stands before the protocols; nil where nothing does.
	Front *Front
	// Exactly one of HTTP and TCP is set, but where Front has chains of its own: then none is.
	HTTP *HTTP
	TCP  *TCPProxy
}

// HTTP is a listener's HTTP connection manager.
type HTTP struct {
	StatPrefix string
	Codec      Protocol // Auto, HTTP1 or HTTP2
	// Routes is the current route table, which an update of the route configuration alone replaces.
	Routes *RoutesRef
	// OnDemand fetches a virtual host that the table lacks; nil where there is no such discovery.
	OnDemand OnDemand
	// UseRemoteAddress: the peer is the client; X-Forwarded-For gets its address appended. Otherwise the
	// field's rightmost untrusted address is the client.
	UseRemoteAddress bool
	// TrustedHops is how many proxies' entries of X-Forwarded-For are trusted, counted from the right.
	TrustedHops int
	// GenerateRequestID adds an x-request-id where there is none; PreserveRequestID keeps a caller's.
	GenerateRequestID, PreserveRequestID bool
	NormalizePath, MergeSlashes          bool
	// StripInternal removes fields that only sidecars exchange (ReasonHeader, AttemptHeader): at the edge and
	// towards the application.
	StripInternal bool
	// ClientCert is what becomes of x-forwarded-client-cert.
	ClientCert ClientCert
	// Upgrades lists the upgrade tokens that are let through, in lower case: "websocket", "connect".
	Upgrades []string
	// Options is what few listeners ask for; nil where all of it is off.
	Options *HTTPOptions

	// Durations; 0 means none.
	IdleTimeout       time.Duration // a connection with no exchange
	HeaderTimeout     time.Duration // from a head's first byte to its last
	StreamIdleTimeout time.Duration // an exchange in which nothing moves
	FlushTimeout      time.Duration // in which a caller must take something of what waits for it
	MaxConnectionAge  time.Duration // ± 10 %
	// MaxRequestHeaderBytes and MaxRequestFields bound a head; 0 means 60 KiB and 100.
	MaxRequestHeaderBytes, MaxRequestFields int
	// MaxStreams is the number of concurrent HTTP/2 streams; 0 means 1,024.
	MaxStreams uint32
	// AllowConnect takes extended CONNECT (RFC 8441): upgrades over HTTP/2.
	AllowConnect bool
	// HTTP2 is what differs from the usual; nil: nothing.
	HTTP2 *HTTP2Options
}

// TCPProxy relays bytes.
type TCPProxy struct {
	StatPrefix  string
	Clusters    []WeightedCluster
	TotalWeight uint32
	IdleTimeout time.Duration // 0 means none
	// MaxDuration ends a connection however busy it is; 0 means never.
	MaxDuration time.Duration
	// MaxConnectAttempts bounds the tries to connect; 0 means as many as there are in 2 s.
	MaxConnectAttempts int
}

// RoutesRef is the place of a route table, stable over its versions.
type RoutesRef struct {
	Name string
	p    atomic.Pointer[RouteTable]
}

// Load returns the current table, or nil before the first.
func (r *RoutesRef) Load() *RouteTable { return r.p.Load() }

// Store replaces the table.
func (r *RoutesRef) Store(t *RouteTable) { r.p.Store(t) }

// OnDemand finds virtual hosts by name at the first call.
type OnDemand interface {
	// Want asks for host (an authority, in lower case, without port). done is called once, from any goroutine,
	// when the table has it or it is known not to exist, at the latest after a second. The returned function
	// withdraws the interest.
	Want(host string, done func()) (cancel func())
}

// ClusterRef is the place of a cluster, stable over its versions: routes refer to it, and what they refer to
// may come later or change without them.
type ClusterRef struct {
	Name string
	p    atomic.Pointer[Cluster]
}

// Load returns the current cluster, or nil while it is not known.
func (r *ClusterRef) Load() *Cluster { return r.p.Load() }

// Store replaces the cluster.
func (r *ClusterRef) Store(c *Cluster) { r.p.Store(c) }

// WeightedCluster is one destination of a split.
type WeightedCluster struct {
	Ref    *ClusterRef
	Weight uint32
	// Filters, where not nil, replaces the route's chain for exchanges that go here.
	Filters []Filter
}

// Cluster is one version of an upstream cluster's configuration.
type Cluster struct {
	Name string
	// Protocol is what the endpoints speak: Auto, HTTP1, HTTP2 or TCP.
	Protocol       Protocol
	ConnectTimeout time.Duration // 0 means 1 s
	// IdleTimeout closes unused connections; 0 means 1 h.
	IdleTimeout time.Duration
	Strategy    balancer.Strategy
	LB          balancer.Config
	// Limits for each upstream; 0 means 1,024 (retries: no limit but the budget).
	MaxConnections, MaxPending, MaxRequests, MaxRetries uint32
	Budget                                              *RetryBudget // nil: the default budget
	Outlier                                             *Outlier
	Health                                              *HealthCheck
	// MaxRequestsPerConnection ends a connection after so many exchanges; 0 means no limit.
	MaxRequestsPerConnection uint32
	// Preconnect is how many HTTP/1.1 connections there should be for each that is in use or waited for, from 1 to 3; 0 or 1
	// makes none ahead.
	Preconnect float64
	// TLS is what connections are encrypted with; nil where they are not.
	TLS *ClientTLS
	// MaxConnectionAge ends a connection that is so old, ± 10 %, when its exchanges have ended; 0 means no limit.
	MaxConnectionAge time.Duration
	// MaxResponseHeaderBytes and MaxResponseFields bound a response's head; 0 means 60 KiB and 240 fields (HTTP/2: 100).
	MaxResponseHeaderBytes, MaxResponseFields int
	// HTTP2 is what differs from the usual; nil: nothing.
	HTTP2 *HTTP2Options
	// Internal says that the endpoints are sidecars: ReasonHeader in their answers is believed.
	Internal bool
	// Local says that the endpoint is the sidecar's own instance.
	Local bool
	// Socket is how sockets are set up; nil for the system's defaults.
	Socket *sockopt.Options
	// ProxyProtocol is the version, 1 or 2, of the PROXY header that every connection begins with; 0 for none. It names the caller of
	// a TCP connection; those of HTTP carry the calls of many, and say that they are our own.
	ProxyProtocol int
	// DNS is how the endpoints' host names are looked up; nil where their addresses are literal.
	DNS *DNS
	// OriginalDst: the endpoint is where the caller meant to connect when the kernel redirected it here. There are no others,
	// and Strategy has no say.
	OriginalDst bool

	// Runtime is what sidecar/upstream keeps for the cluster's name.
	Runtime Upstream
}

// Upstream is the living side of a cluster, known to sidecar/upstream.
type Upstream interface {
	// ClusterName returns the name under which the table keeps it.
	ClusterName() string
}

// RetryBudget bounds retries to a share of the requests in the last 10 s, plus a floor.
type RetryBudget struct {
	Percent   float64 // of requests; default 20
	PerSecond uint32  // always allowed; default 10
}

// Outlier is passive health checking (Envoy's outlier detection).
type Outlier struct {
	Consecutive5xx     uint32        // default 5; transport failures count
	BaseEjection       time.Duration // default 30 s, doubling
	MaxEjection        time.Duration // default 300 s
	MaxEjectionPercent uint32        // default 10, but one where there are two or more
}

// HealthCheck is active probing of a cluster's endpoints.
type HealthCheck struct {
	// Exactly one of HTTPPath, GRPC and TCP is used.
	HTTPPath string
	HTTPHost string
	GRPC     bool
	// GRPCService is the service named in the grpc.health.v1 request.
	GRPCService    string
	TCP            bool
	Interval       time.Duration // default 10 s
	Timeout        time.Duration // default 1 s
	UnhealthyAfter int           // default 3
	HealthyAfter   int           // default 1
}
