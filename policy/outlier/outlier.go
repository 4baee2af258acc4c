// Package outlier is the policy that stops calling an endpoint which keeps failing: what users write, defaults (it is
// on by default), and how it is told in xDS. The caller's sidecar applies it.
package outlier

import "time"

// Spec says when an endpoint is ejected and for how long.
type Spec struct {
	_ struct{} `later:"successRate, latency, ratio"`
	// Consecutive is the number of 5xx answers or transport failures in a row after which an endpoint is ejected.
	Consecutive int `yaml:"consecutive" min:"1" max:"1000000" default:"5" example:"5"`
	// BaseEjection is how long the first ejection lasts; each further one lasts longer.
	BaseEjection time.Duration `yaml:"baseEjection" min:"1ms" max:"24h" default:"30s" example:"30s"`
	// MaxEjection is how long an ejection lasts at most.
	MaxEjection time.Duration `yaml:"maxEjection" min:"1ms" max:"24h" default:"300s" example:"5m"`
	// MaxPercent is the share of endpoints that may be ejected at once, but one where there are two or more. 0
	// switches outlier detection off.
	MaxPercent *int `yaml:"maxPercent" min:"0" max:"100" default:"10" example:"50"`
}

// Defaults, where nothing is written.
const (
	DefaultConsecutive  = 5
	DefaultBaseEjection = 30 * time.Second
	DefaultMaxEjection  = 300 * time.Second
	DefaultMaxPercent   = 10
)
