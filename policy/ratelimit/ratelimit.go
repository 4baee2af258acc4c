// Package ratelimit is the policy that bounds how often a service is called: what users write, defaults, and how it is
// told in xDS. The callee's sidecar applies it.
package ratelimit

import "time"

// Spec allows a number of calls in each window of time. What is over the limit is answered with 429.
type Spec struct {
	_ struct{} `later:"key, redis, store, headers, status"`
	// Max is the number of calls allowed in a window.
	Max int `yaml:"max" required:"true" min:"1" max:"1000000000" example:"100"`
	// Window is the time in which they are allowed.
	Window time.Duration `yaml:"window" required:"true" min:"50ms" max:"24h" example:"60s"`
	// Burst is how many calls may come at once.
	Burst int `yaml:"burst" min:"1" max:"1000000000" default:"max" example:"20"`
	// Kind is the algorithm.
	Kind string `yaml:"kind" enum:"token-bucket" later:"sliding, fixed" default:"token-bucket" example:"token-bucket"`
	// Scope says what the limit is for: each instance by itself, or the service, whose limit is divided by the
	// instances that are up.
	Scope string `yaml:"scope" enum:"instance, service" default:"instance" example:"service"`
}

// Values of Spec.Scope, and the defaults where nothing is written.
const (
	ScopeInstance = "instance"
	ScopeService  = "service"

	DefaultKind  = "token-bucket"
	DefaultScope = ScopeInstance
)
