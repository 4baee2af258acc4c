package resource

import (
	"github.com/outrigger-mesh/outrigger/policy/balance"
	"github.com/outrigger-mesh/outrigger/policy/fault"
	"github.com/outrigger-mesh/outrigger/policy/headers"
	"github.com/outrigger-mesh/outrigger/policy/limit"
	"github.com/outrigger-mesh/outrigger/policy/outlier"
	"github.com/outrigger-mesh/outrigger/policy/ratelimit"
	"github.com/outrigger-mesh/outrigger/policy/retry"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// TrafficPolicy says how calls to a service are made and taken.
type TrafficPolicy struct {
	_ struct{} `later:"circuitBreaker, cache, idempotency, validation, authorization, mirror, hedging, queue, concurrency, quota, transform, egress, priority, shed, sticky"`
	// Service is the service that the policy is for.
	Service string `yaml:"service" required:"true" format:"label" example:"orders"`
	// Version narrows the policy to one version; what is written here holds over the policy for all versions.
	Version        string `yaml:"version" format:"version" default:"all versions" example:"1.0.0"`
	MethodPolicies `yaml:",inline"`
	// Balance chooses among endpoints.
	Balance *balance.Spec `yaml:"balance"`
	// Outlier stops calling endpoints that keep failing.
	Outlier *outlier.Spec `yaml:"outlier"`
	// Limits bounds what is open to the service.
	Limits *limit.Spec `yaml:"limits"`
	// Methods are policies for some of the calls; the first that matches holds over what is written above.
	Methods []Method `yaml:"methods" maxItems:"1024"`
}

// MethodPolicies are the policies that may differ from method to method.
type MethodPolicies struct {
	// Timeout bounds how long a call may take.
	Timeout *timeout.Spec `yaml:"timeout" short:"overall" example:"2s"`
	// Retry tries failed calls again.
	Retry *retry.Spec `yaml:"retry"`
	// RateLimit bounds how often the service is called.
	RateLimit *ratelimit.Spec `yaml:"rateLimit"`
	// Fault delays or refuses calls on purpose.
	Fault *fault.Spec `yaml:"fault"`
	// Headers changes header fields.
	Headers *headers.Spec `yaml:"headers"`
}

// Method is a policy for the calls that match.
type Method struct {
	_ struct{} `later:"circuitBreaker, cache, idempotency, validation, authorization, mirror, hedging, queue, concurrency, quota, transform, priority, shed" misplaced:"balance, outlier, limits, version"`
	// Match says which calls.
	Match          MethodMatch `yaml:"match" required:"true"`
	MethodPolicies `yaml:",inline"`
}

// MethodMatch says which calls a method policy is for: all parts that are written must hold.
type MethodMatch struct {
	_ struct{} `later:"headers, query"`
	// Method is the HTTP method.
	Method string `yaml:"method" format:"method" example:"GET"`
	// Path is the path; a string is a template, in which {name} stands for one segment and {name=**}, last, for the
	// rest.
	Path *PathMatch `yaml:"path" short:"template" example:"/users/{id}"`
	// GRPC is a gRPC method, "package.Service/Method", or all of a service, "package.Service".
	GRPC string `yaml:"grpc" format:"grpc" example:"shop.Orders/Get"`
}

// TrafficSplit shares the calls to a service out among its versions.
type TrafficSplit struct {
	_ struct{} `later:"sticky, when"`
	// Service is the service.
	Service string `yaml:"service" required:"true" format:"label" example:"orders"`
	// Split are the versions and their shares.
	Split []Weighted `yaml:"split" required:"true" maxItems:"256"`
}

// Weighted is a version and its share of the calls.
type Weighted struct {
	// Version is a version of the service.
	Version string `yaml:"version" required:"true" format:"version" example:"2.0.0"`
	// Weight is the share, relative to the other weights; 0 gets no calls.
	Weight *int `yaml:"weight" min:"0" max:"1000000" default:"1" example:"10"`
}

// Share is the weight, 1 where none is written.
func (w Weighted) Share() int {
	if w.Weight == nil {
		return 1
	}
	return *w.Weight
}

// Route says where calls to a service go, where more than a split is needed. Rules take precedence as in the Gateway
// API: exact path, longest prefix, method, most headers, most query parameters, then name and order of writing.
type Route struct {
	// Service is the service whose calls are routed.
	Service string `yaml:"service" required:"true" format:"label" example:"orders"`
	// Rules are the rules; calls that none takes go as a split says, or to all versions.
	Rules []Rule `yaml:"rules" required:"true" maxItems:"1024"`
}

// Rule is one rule of a Route. It may forward (to, the default), redirect or answer directly.
type Rule struct {
	_ struct{} `later:"mirror, retry, rateLimit, fault, sticky, transform"`
	// Match says which calls; without it, all.
	Match *RouteMatch `yaml:"match"`
	// To are the versions that take the calls; without it, they go as a split says, or to all versions.
	To []Weighted `yaml:"to" maxItems:"256"`
	// Rewrite changes path or host on the way.
	Rewrite *Rewrite `yaml:"rewrite"`
	// Redirect answers with another location.
	Redirect *Redirect `yaml:"redirect"`
	// Direct answers without the service.
	Direct *Direct `yaml:"direct"`
	// Headers changes header fields.
	Headers *headers.Spec `yaml:"headers"`
	// Timeout bounds how long a call may take; it holds over that of a TrafficPolicy.
	Timeout *timeout.Spec `yaml:"timeout" short:"overall" example:"2s"`
}

// RouteMatch says which calls a rule takes: all parts that are written must hold.
type RouteMatch struct {
	_ struct{} `later:"when, cookies"`
	// Path is the path; a string is compared by segments: /v2 takes /v2 and /v2/x, not /v20.
	Path *PathMatch `yaml:"path" short:"segments" example:"/v2"`
	// Method is the HTTP method.
	Method string `yaml:"method" format:"method" example:"GET"`
	// Headers are conditions on header fields; a string is compared exactly.
	Headers map[string]ValueMatch `yaml:"headers" short:"exact" example:"{x-beta: '1'}"`
	// Query are conditions on query parameters; a string is compared exactly.
	Query map[string]ValueMatch `yaml:"query" short:"exact" example:"{debug: '1'}"`
	// GRPC is a gRPC method, "package.Service/Method", or all of a service, "package.Service".
	GRPC string `yaml:"grpc" format:"grpc" example:"shop.Orders/Get"`
}

// PathMatch is a condition on a path, without its query. Exactly one field is set.
type PathMatch struct {
	// Segments takes the path itself and all below it, by whole segments.
	Segments string `yaml:"segments" format:"path" example:"/v2"`
	// Exact takes this path only.
	Exact string `yaml:"exact" format:"path" example:"/v2/orders"`
	// Template takes paths by segments, with {name} for any one and {name=**}, last, for the rest.
	Template string `yaml:"template" format:"path" example:"/users/{id}"`
	// Regex takes paths that the regular expression (RE2) matches as a whole.
	Regex string `yaml:"regex" format:"regex" example:"/v[0-9]+/.*"`
	// Prefix takes paths that begin with these bytes.
	Prefix string `yaml:"prefix" format:"path" example:"/v"`
}

// ValueMatch is a condition on a value. Exactly one field is set.
type ValueMatch struct {
	// Exact takes this value only.
	Exact *string `yaml:"exact" example:"beta"`
	// Prefix takes values that begin so.
	Prefix string `yaml:"prefix" example:"be"`
	// Suffix takes values that end so.
	Suffix string `yaml:"suffix" example:"ta"`
	// Regex takes values that the regular expression (RE2) matches as a whole.
	Regex string `yaml:"regex" format:"regex" example:"beta-[0-9]+"`
	// Present takes any value (true), or the absence of one (false).
	Present *bool `yaml:"present" example:"true"`
}

// Rewrite changes a request on its way.
type Rewrite struct {
	// Path replaces what the rule matched by segments or by prefix, and the whole path where it matched otherwise.
	Path string `yaml:"path" format:"path" example:"/"`
	// Host replaces the authority.
	Host string `yaml:"host" format:"authority" example:"orders.internal"`
}

// Redirect answers with another location. What is not written stays as it was.
type Redirect struct {
	// Status is the answer's status.
	Status int `yaml:"status" enum:"301, 302, 303, 307, 308" default:"301" example:"308"`
	// Scheme is the scheme of the location.
	Scheme string `yaml:"scheme" enum:"http, https" example:"https"`
	// Host is the host of the location.
	Host string `yaml:"host" format:"authority" example:"shop.example"`
	// Port is the port of the location.
	Port int `yaml:"port" min:"1" max:"65535" example:"8443"`
	// Path is the path of the location; it replaces the whole path.
	Path string `yaml:"path" format:"path" example:"/new"`
}

// DefaultRedirectStatus is used where a Redirect names none.
const DefaultRedirectStatus = 301

// Direct answers without the service.
type Direct struct {
	// Status is the answer's status.
	Status int `yaml:"status" required:"true" min:"200" max:"599" example:"404"`
	// Body is the answer's body, at most 4096 bytes.
	Body string `yaml:"body" maxLength:"4096" example:"gone"`
}
