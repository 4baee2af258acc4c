package resource

import "time"

// GatewayHTTP is how a gateway treats HTTP that comes from outside.
type GatewayHTTP struct {
	// GRPCWeb lets browsers call gRPC services: gRPC-Web, binary and text, is translated. Access from pages of other
	// origins (CORS) is another matter.
	GRPCWeb bool `yaml:"grpcWeb" default:"false" example:"true"`
	// Via is appended to the Via field of requests and responses.
	Via string `yaml:"via" format:"fieldValue" default:"none" example:"1.1 public"`
	// ServerName takes the place of the Server field of responses.
	ServerName string `yaml:"serverName" format:"fieldValue" default:"the service's own" example:"shop"`
	// TrustedHops is how many proxies stand before the gateway: so many entries of X-Forwarded-For, from the right, are
	// believed, and X-Forwarded-Proto with them.
	TrustedHops int `yaml:"trustedHops" min:"0" max:"64" default:"0" example:"1"`
	// Forwarded adds an element of the Forwarded field (RFC 7239) too: for, host and proto.
	Forwarded bool `yaml:"forwarded" default:"false" example:"true"`
	// ForwardedPort sets X-Forwarded-Port.
	ForwardedPort bool `yaml:"forwardedPort" default:"false" example:"true"`
	// KeepRequestID believes a caller's x-request-id; otherwise each call gets a new one.
	KeepRequestID bool `yaml:"keepRequestID" default:"false" example:"true"`
	// StripPort takes the port off the Host that services see.
	StripPort bool `yaml:"stripPort" default:"false" example:"true"`
	// MergeSlashes makes one slash of several in a path.
	MergeSlashes bool `yaml:"mergeSlashes" default:"false" example:"true"`
	// EscapedSlashes is what becomes of a path with %2F or %5C: kept, refused with 400, or unescaped, by a redirect or on the
	// way.
	EscapedSlashes string `yaml:"escapedSlashes" enum:"keep, reject, redirect, unescape" default:"keep" example:"reject"`
	// Underscores is what becomes of fields with an underscore in their name, which some services take for a hyphen.
	Underscores string `yaml:"underscores" enum:"allow, reject, drop" default:"allow" example:"drop"`
	// RequestTimeout is how long a request may take to come whole, uploads too.
	RequestTimeout time.Duration `yaml:"requestTimeout" min:"1ms" max:"24h" default:"none" example:"30s"`
	// MaxRequests ends a connection after so many requests.
	MaxRequests int `yaml:"maxRequests" min:"1" max:"1000000000" default:"no limit" example:"10000"`
}
