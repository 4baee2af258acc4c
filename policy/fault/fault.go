// Package fault is the policy that delays or refuses calls on purpose: what users write, and how it is told in xDS.
// The callee's sidecar applies it.
package fault

import "time"

// Spec is what is done to calls. Both may be written; a call may then be delayed and refused.
type Spec struct {
	_ struct{} `later:"partition, connect, throttle, corrupt, when, until"`
	// Delay holds calls up.
	Delay *Delay `yaml:"delay"`
	// Abort answers calls instead of the service.
	Abort *Abort `yaml:"abort"`
}

// Delay holds calls up before the service sees them.
type Delay struct {
	// Duration is how long.
	Duration time.Duration `yaml:"duration" required:"true" min:"1ms" max:"1h" example:"250ms"`
	// Percent is the share of calls.
	Percent *float64 `yaml:"percent" min:"0" max:"100" default:"100" example:"10"`
}

// Abort answers calls instead of the service.
type Abort struct {
	// Status is the HTTP status of the answer; a gRPC call gets the code that stands for it.
	Status int `yaml:"status" required:"true" min:"200" max:"599" example:"503"`
	// Percent is the share of calls.
	Percent *float64 `yaml:"percent" min:"0" max:"100" default:"100" example:"10"`
}

// DefaultPercent is the share of calls where none is written.
const DefaultPercent = 100.0
