// Package retry is the policy that tries a failed call again: what users write, defaults (it is on by default), and
// how it is told in xDS. The caller's sidecar applies it.
package retry

import "time"

// Spec says when a call is tried again, how often and how soon. Nothing is tried again once a response has begun.
type Spec struct {
	_ struct{} `later:"hedging"`
	// Attempts is the number of tries at most, the first included; 1 switches retries off.
	Attempts int `yaml:"attempts" min:"1" max:"32" default:"3" example:"3"`
	// On lists the conditions for another try: connect-failure (no connection), refused-stream (the upstream said
	// that it did not begin), reset (the connection or stream ended before the response's head), unavailable (a 503
	// that a sidecar made, or gRPC UNAVAILABLE), 5xx, gateway-error (502, 503, 504), retriable-4xx (409),
	// per-try-timeout. With [] only statuses and grpcStatuses are conditions.
	On []string `yaml:"on" keep:"true" enum:"connect-failure, refused-stream, reset, unavailable, 5xx, gateway-error, retriable-4xx, per-try-timeout" default:"[connect-failure, refused-stream, reset, unavailable]" example:"[connect-failure, refused-stream, unavailable]"`
	// Budget bounds the retries of all calls to the service together. It is written for the whole service only.
	Budget *Budget `yaml:"budget"`
	// Backoff is the wait before another try.
	Backoff *Backoff `yaml:"backoff"`
	// PerTry bounds each try; the same as timeout.perTry, which holds where both are written.
	PerTry *time.Duration `yaml:"perTry" min:"0s" max:"24h" default:"none" example:"500ms"`
	// AnyMethod tries again also calls that are not idempotent (POST, PATCH, every gRPC method); otherwise these are
	// only tried again where it is certain that they were not executed.
	AnyMethod *bool `yaml:"anyMethod" default:"false" example:"true"`
	// Statuses are further HTTP statuses that are tried again.
	Statuses []int `yaml:"statuses" min:"400" max:"599" example:"[429]"`
	// GRPCStatuses are further gRPC codes that are tried again, by name or number.
	GRPCStatuses []string `yaml:"grpcStatuses" example:"[RESOURCE_EXHAUSTED]"`
	// MaxBody is how many bytes of a request's body are kept for another try; a longer body is not tried again once
	// it has been passed on.
	MaxBody *int `yaml:"maxBody" unit:"bytes" min:"0" max:"16777216" default:"65536" example:"1Mi"`
}

// Budget bounds retries to a share of the calls of the last 10 s, plus a floor.
type Budget struct {
	// Percent is the share.
	Percent *float64 `yaml:"percent" min:"0" max:"100" default:"20" example:"20"`
	// PerSecond is always allowed.
	PerSecond *int `yaml:"perSecond" min:"0" max:"1000000" default:"10" example:"10"`
}

// Backoff is how the wait before another try grows. The wait is between 0 and the step, at random (full jitter).
type Backoff struct {
	// Kind is how the step grows.
	Kind string `yaml:"kind" enum:"exponential, linear, fibonacci" default:"exponential" example:"linear"`
	// Base is the first step.
	Base *time.Duration `yaml:"base" min:"1ms" max:"1h" default:"25ms" example:"25ms"`
	// Max is the longest step.
	Max *time.Duration `yaml:"max" min:"1ms" max:"1h" default:"250ms" example:"250ms"`
}

// Defaults, where nothing is written.
const (
	DefaultAttempts  = 3
	DefaultPercent   = 20.0
	DefaultPerSecond = 10
	DefaultBackoff   = "exponential"
	DefaultBase      = 25 * time.Millisecond
	DefaultMax       = 250 * time.Millisecond
	DefaultMaxBody   = 64 << 10
)

// DefaultOn returns the conditions that hold where none are written.
func DefaultOn() []string {
	return []string{"connect-failure", "refused-stream", "reset", "unavailable"}
}
