// Package timeout is the policy that bounds how long a call may take: what users write, defaults, and how it is told
// in xDS. The caller's sidecar applies it.
package timeout

import "time"

// Spec bounds a call. Written as a plain duration it is the overall timeout: `timeout: 2s`.
type Spec struct {
	// Overall is from the request's end to the response's head, all tries included. 0s means none. For gRPC the
	// caller's grpc-timeout holds; what is written here bounds it.
	Overall *time.Duration `yaml:"overall" min:"0s" max:"24h" default:"15s (gRPC: the caller's grpc-timeout, else none)" example:"2s"`
	// PerTry bounds each try. 0s means that only the overall timeout does.
	PerTry *time.Duration `yaml:"perTry" min:"0s" max:"24h" default:"none" example:"500ms"`
	// Idle ends an exchange in which nothing moves, in either direction. 0s means never.
	Idle *time.Duration `yaml:"idle" min:"0s" max:"168h" default:"5m" example:"1m"`
}

// Defaults, where nothing is written.
const (
	DefaultOverall       = 15 * time.Second // HTTP; gRPC has none
	DefaultIdle          = 5 * time.Minute  // a stream
	DefaultConnIdle      = time.Hour        // a connection
	DefaultConnectLocal  = time.Second
	DefaultConnectRemote = 5 * time.Second
	DefaultHandshake     = 10 * time.Second // of a caller's TLS handshake
)
