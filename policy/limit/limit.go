// Package limit is the policy that bounds what one caller may have open to a service: what users write, defaults, and
// how it is told in xDS. The caller's sidecar applies it.
package limit

// Spec bounds what each caller's sidecar may have open to the service. What is over a limit is answered with 503,
// flag UO.
type Spec struct {
	_ struct{} `later:"concurrency, queue"`
	// Connections is how many connections may be open to the service.
	Connections *int `yaml:"connections" min:"1" max:"4294967295" default:"1024" example:"200"`
	// Pending is how many calls may wait for a connection.
	Pending *int `yaml:"pending" min:"1" max:"4294967295" default:"1024" example:"100"`
	// Requests is how many calls may be in flight.
	Requests *int `yaml:"requests" min:"1" max:"4294967295" default:"1024" example:"500"`
	// Preconnect is how many HTTP/1.1 connections are kept to an instance for each one that is in use, so that a call finds
	// one ready. 1 makes none ahead.
	Preconnect *float64 `yaml:"preconnect" min:"1" max:"3" default:"1" example:"1.5"`
}

// Defaults, where nothing is written.
const (
	DefaultConnections = 1024
	DefaultPending     = 1024
	DefaultRequests    = 1024
)
