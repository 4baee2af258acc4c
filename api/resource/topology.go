package resource

import "time"

// Gateway opens a listener for calls from outside the mesh.
type Gateway struct {
	_ struct{} `later:"placement, authorization, rateLimit"`
	// Listen is the address: "host:port", or "unix:" and the absolute path of a Unix socket.
	Listen string `yaml:"listen" required:"true" format:"listen" example:"127.0.0.1:8443"`
	// ProxyProtocol: every connection begins with a PROXY header (version 1 or 2), from which the client's address is taken: for
	// X-Forwarded-For, for balancing by address and for logs. One without it is refused, so that nobody can pass the proxy
	// before it by.
	ProxyProtocol bool `yaml:"proxyProtocol" default:"false" example:"true"`
	// SocketMode says who may connect to a Unix socket, in octal.
	SocketMode string `yaml:"socketMode" enum:"0600, 0660, 0666" default:"0600" example:"0660"`
	// TLS has the listener speak TLS; without it, it speaks plain HTTP.
	TLS *GatewayTLS `yaml:"tls"`
	// HTTP is how HTTP is treated that comes from outside.
	HTTP *GatewayHTTP `yaml:"http"`
	// Routes say which calls go where. A host is compared first, then the longest path.
	Routes []GatewayRoute `yaml:"routes" required:"true" maxItems:"1024"`
}

// GatewayRoute sends calls on to a service. At least one of host and path is written, except in the only route of a
// gateway.
type GatewayRoute struct {
	_ struct{} `later:"retry, timeout, headers, redirect, version"`
	// Host is the authority without a port; "*.example.com" takes any one below.
	Host string `yaml:"host" format:"hostPattern" default:"any" example:"feed.local"`
	// Path is the path; a string is compared by segments.
	Path *PathMatch `yaml:"path" short:"segments" default:"any" example:"/api"`
	// Service takes the calls, by its own routes, splits and policies.
	Service string `yaml:"service" required:"true" format:"label" example:"orders"`
	// Port is the name of the service's port.
	Port string `yaml:"port" format:"label" default:"the first" example:"http"`
	// Rewrite changes path or host on the way.
	Rewrite *Rewrite `yaml:"rewrite"`
}

// External is a service that runs outside the mesh, under a name within it.
type External struct {
	_ struct{} `later:"health, discovery, uses"`
	// Version is the version that the endpoints serve.
	Version string `yaml:"version" format:"version" default:"none" example:"1.0.0"`
	// Protocol is what the endpoints speak, where there is one port: it is then named like the protocol. Either this
	// or ports is written.
	Protocol Protocol `yaml:"protocol" enum:"http, grpc, websocket, tcp, auto" default:"http" example:"tcp"`
	// Ports are named ports, each with its number.
	Ports []Port `yaml:"ports" maxItems:"64"`
	// Endpoints are where it is reached.
	Endpoints []Endpoint `yaml:"endpoints" required:"true" maxItems:"10000"`
	// TLS has calls go over TLS; without it, they go in the clear.
	TLS *ExternalTLS `yaml:"tls"`
}

// Endpoint is one place where an External is reached.
type Endpoint struct {
	_ struct{} `later:"priority, health"`
	// Address is "host:port", or a host alone where ports give the numbers.
	Address string `yaml:"address" required:"true" format:"address" example:"db.example:5432"`
	// Weight is the share of the calls, relative to the other endpoints.
	Weight *int `yaml:"weight" min:"0" max:"1000000" default:"1" example:"2"`
	// Zone is where the endpoint is.
	Zone string `yaml:"zone" example:"eu-1a"`
}

// PortList returns the ports, also where only the protocol is written; its port has number 0, and each endpoint's
// address gives its own.
func (e *External) PortList() []Port {
	if len(e.Ports) > 0 {
		return e.Ports
	}
	p := e.Protocol
	if p == "" {
		p = HTTP
	}
	return []Port{{Name: string(p), Protocol: p}}
}

// Share is the weight, 1 where none is written.
func (e Endpoint) Share() int {
	if e.Weight == nil {
		return 1
	}
	return *e.Weight
}

// Values of Supervisor.Strategy.
const (
	OneForOne  = "one-for-one"
	OneForAll  = "one-for-all"
	RestForOne = "rest-for-one"
)

// Supervisor says what happens when services fail, as in Erlang/OTP.
type Supervisor struct {
	_ struct{} `later:"placement, autoShutdown"`
	// Strategy: when a child fails, restart it alone (one-for-one), all children (one-for-all), or it and those
	// started after it (rest-for-one).
	Strategy string `yaml:"strategy" enum:"one-for-one, one-for-all, rest-for-one" default:"one-for-one" example:"rest-for-one"`
	// Intensity is how many failures are borne before the supervisor itself fails.
	Intensity *Intensity `yaml:"intensity"`
	// Children are started in this order, and stopped in the reverse one.
	Children []SupervisorChild `yaml:"children" required:"true" maxItems:"1024"`
}

// Intensity is how many restarts are borne in a window.
type Intensity struct {
	// Restarts is how many.
	Restarts *int `yaml:"restarts" min:"0" max:"1000000" default:"3" example:"3"`
	// Within is the window.
	Within time.Duration `yaml:"within" min:"1ms" max:"168h" default:"60s" example:"60s"`
}

// SupervisorChild is a service, all its versions included, or another supervisor: exactly one is written.
type SupervisorChild struct {
	// Service is a service's name.
	Service string `yaml:"service" format:"label" example:"inventory"`
	// Supervisor is another supervisor's name.
	Supervisor string `yaml:"supervisor" format:"label" example:"web"`
	// Critical: the supervisor fails at once when this child does, whatever the intensity.
	Critical bool `yaml:"critical" default:"false" example:"true"`
	// Order moves the child: lower is started earlier; children of equal order start as they are written.
	Order int `yaml:"order" min:"-1000" max:"1000" default:"0" example:"10"`
}

// Defaults of a Supervisor, where nothing is written.
const (
	DefaultStrategy = OneForOne
	DefaultRestarts = 3
	DefaultWithin   = 60 * time.Second
)
