package snapshot

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// RouteTable finds the route of a request. It is immutable.
type RouteTable struct {
	Name, Version string
	// IgnorePort: the authority's port does not take part in finding the virtual host.
	IgnorePort bool

	exact    map[string]*VirtualHost
	suffixes []wildcard // "*.example.com", longest first
	prefixes []wildcard // "orders.*", longest first
	any      *VirtualHost
}

type wildcard struct {
	text string
	vh   *VirtualHost
}

// VirtualHost is the routes of one or more authorities.
type VirtualHost struct {
	Name    string
	Domains []string
	Routes  []*Route

	used atomic.Bool
}

// TakeUsed says whether Match was called since the last TakeUsed: on-demand discovery lets go of virtual hosts
// that nobody calls.
func (vh *VirtualHost) TakeUsed() bool { return vh.used.Swap(false) }

// NewRouteTable indexes virtual hosts. Where two claim a domain the first wins; compile reports the other.
func NewRouteTable(name, version string, ignorePort bool, hosts []*VirtualHost) *RouteTable {
	t := &RouteTable{Name: name, Version: version, IgnorePort: ignorePort, exact: map[string]*VirtualHost{}}
	for _, vh := range hosts {
		for _, d := range vh.Domains {
			d = strings.ToLower(d)
			switch {
			case d == "*":
				if t.any == nil {
					t.any = vh
				}
			case strings.HasPrefix(d, "*"):
				t.suffixes = insertLongest(t.suffixes, wildcard{d[1:], vh})
			case strings.HasSuffix(d, "*"):
				t.prefixes = insertLongest(t.prefixes, wildcard{d[:len(d)-1], vh})
			default:
				if t.exact[d] == nil {
					t.exact[d] = vh
				}
			}
		}
	}
	return t
}

func insertLongest(l []wildcard, w wildcard) []wildcard {
	i := 0
	for i < len(l) && len(l[i].text) >= len(w.text) {
		i++
	}
	l = append(l, wildcard{})
	copy(l[i+1:], l[i:])
	l[i] = w
	return l
}

// StripPort returns an authority without its port.
func StripPort(authority string) string {
	for i := len(authority) - 1; i > 0 && len(authority)-i <= 6; i-- {
		switch c := authority[i]; {
		case c == ':':
			return authority[:i]
		case c < '0' || c > '9':
			return authority
		}
	}
	return authority
}

// Host finds the virtual host of an authority: exact, longest suffix, longest prefix, "*"; nil for none.
func (t *RouteTable) Host(authority string) *VirtualHost {
	if len(t.exact) == 0 && t.suffixes == nil && t.prefixes == nil {
		return t.any
	}
	if t.IgnorePort {
		authority = StripPort(authority)
	}
	if vh := t.exact[authority]; vh != nil {
		return vh
	}
	for i := 0; i < len(authority); i++ {
		if c := authority[i]; c-'A' < 26 {
			authority = strings.ToLower(authority) // rare: clients send lower case
			break
		}
	}
	if vh := t.host(authority); vh != nil {
		return vh
	}
	return t.any
}

func (t *RouteTable) host(a string) *VirtualHost {
	if vh := t.exact[a]; vh != nil {
		return vh
	}
	for i := range t.suffixes {
		if w := &t.suffixes[i]; len(a) > len(w.text) && strings.HasSuffix(a, w.text) {
			return w.vh
		}
	}
	for i := range t.prefixes {
		if w := &t.prefixes[i]; len(a) > len(w.text) && strings.HasPrefix(a, w.text) {
			return w.vh
		}
	}
	return nil
}

// Match returns the first route that takes the request, or nil.
func (vh *VirtualHost) Match(x *exchange.Exchange) *Route {
	if !vh.used.Load() { // the load keeps the cache line shared
		vh.used.Store(true)
	}
	if x.Req.Method == "CONNECT" {
		return vh.matchConnect(x)
	}
	path := x.Req.PathOnly()
	for _, r := range vh.Routes {
		if r.Match.matches(x, path) {
			return r
		}
	}
	return nil
}

func (vh *VirtualHost) matchConnect(x *exchange.Exchange) *Route {
	for _, r := range vh.Routes {
		if r.Match.Kind == PathConnect && r.Match.matches(x, "") {
			return r
		}
	}
	return nil
}

// PathKind says how Match.Path is compared.
type PathKind uint8

// Kinds of path match.
const (
	PathPrefix   PathKind = iota // by bytes
	PathSegments                 // by whole segments: /v2 takes /v2 and /v2/x, not /v20
	PathExact
	PathTemplate // segments with {name} for one segment, {name=**} at the end for the rest
	PathMatcher  // a compiled matcher: regular expressions
	PathAny
	PathConnect // CONNECT requests, which have no path and are taken by no other kind
)

// Matcher is a compiled test of a string; compile hides regular expressions behind it.
type Matcher interface{ Match(s string) bool }

// Match is a route's condition: all parts must hold.
type Match struct {
	Kind     PathKind
	Path     string
	FoldCase bool
	Template *Template
	Matcher  Matcher
	// Method is an exact method, or "".
	Method  string
	GRPC    bool
	Headers []HeaderMatch
	Query   []QueryMatch
	// Share is the share of requests taken, in parts of a million; 0 means all.
	Share uint32
}

// HeaderMatch is a condition on one field; :method, :path, :authority and :scheme may be named too.
type HeaderMatch struct {
	Name    string
	Known   exchange.Known
	Matcher Matcher // nil: presence
	Invert  bool
	// MissingAsEmpty compares an absent field as "".
	MissingAsEmpty bool
}

// QueryMatch is a condition on one query parameter.
type QueryMatch struct {
	Name    string
	Matcher Matcher // nil: presence
}

func (m *Match) matches(x *exchange.Exchange, path string) bool {
	switch m.Kind {
	case PathPrefix:
		if !hasPrefix(path, m.Path, m.FoldCase) {
			return false
		}
	case PathSegments:
		if !hasPrefix(path, m.Path, m.FoldCase) || len(path) > len(m.Path) && path[len(m.Path)] != '/' {
			return false
		}
	case PathExact:
		if path != m.Path && !(m.FoldCase && strings.EqualFold(path, m.Path)) {
			return false
		}
	case PathTemplate:
		if !m.Template.Match(path) {
			return false
		}
	case PathMatcher:
		if !m.Matcher.Match(path) {
			return false
		}
	case PathConnect:
		if x.Req.Method != "CONNECT" {
			return false
		}
	}
	if m.Method != "" && m.Method != x.Req.Method {
		return false
	}
	if m.GRPC && !x.GRPC {
		return false
	}
	for i := range m.Headers {
		if !m.Headers[i].matches(x) {
			return false
		}
	}
	for i := range m.Query {
		if !m.Query[i].matches(x.Req.Query()) {
			return false
		}
	}
	return true
}

func hasPrefix(s, prefix string, fold bool) bool {
	if len(s) < len(prefix) {
		return false
	}
	if fold {
		return strings.EqualFold(s[:len(prefix)], prefix)
	}
	return s[:len(prefix)] == prefix
}

// Matches says whether the request fulfils the condition.
func (h *HeaderMatch) Matches(x *exchange.Exchange) bool { return h.matches(x) }

func (h *HeaderMatch) matches(x *exchange.Exchange) bool {
	var v string
	var ok bool
	switch {
	case h.Known != exchange.Other && h.Known != exchange.Host:
		v, ok = x.Req.Header.GetKnown(h.Known)
	case len(h.Name) > 0 && h.Name[0] == ':':
		ok = true
		switch h.Name {
		case ":method":
			v = x.Req.Method
		case ":path":
			v = x.Req.Path
		case ":authority":
			v = x.Req.Authority
		case ":scheme":
			v = x.Req.Scheme
		default:
			ok = false
		}
	case h.Known == exchange.Host:
		v, ok = x.Req.Authority, true
	default:
		v, ok = x.Req.Header.Get(h.Name)
	}
	if !ok && !h.MissingAsEmpty {
		return h.Matcher == nil && h.Invert
	}
	if h.Matcher == nil {
		return ok != h.Invert
	}
	return h.Matcher.Match(v) != h.Invert
}

func (q *QueryMatch) matches(query string) bool {
	for len(query) > 0 {
		part, rest, _ := strings.Cut(query, "&")
		k, v, _ := strings.Cut(part, "=")
		if k == q.Name {
			return q.Matcher == nil || q.Matcher.Match(v)
		}
		query = rest
	}
	return false
}

// Route is one rule with what happens to the requests it takes. Exactly one of Forward, Redirect and Direct is set.
type Route struct {
	Name string
	// Pattern is how the route's path is named in metrics and traces, "" for Name.
	Pattern string
	Match   Match

	Forward  *Forward
	Redirect *Redirect
	Direct   *Direct

	// Filters is the effective chain, the connection manager's with the route's own settings.
	Filters []Filter
}

// Forward sends the request to a cluster.
type Forward struct {
	Clusters    []WeightedCluster
	TotalWeight uint32
	// ClusterHeader names a field that names the cluster, or "".
	ClusterHeader string

	// Timeout is from the request's end to the response's end (Envoy's route timeout); 0 means none. Where
	// HeadTimeout is set, it ends with the response's head instead.
	Timeout     time.Duration
	HeadTimeout bool
	// GRPCTimeoutMax bounds a grpc-timeout; 0 means unbounded. UseGRPCTimeout: grpc-timeout, where present,
	// takes the place of Timeout.
	GRPCTimeoutMax time.Duration
	UseGRPCTimeout bool
	// IdleTimeout is for an exchange in which nothing moves; 0 means the listener's.
	IdleTimeout time.Duration
	Retry       *Retry

	// PrefixRewrite replaces the matched path prefix; PathRewrite the whole path; HostRewrite the authority. ""
	// leaves them.
	PrefixRewrite, PathRewrite, HostRewrite string
	Hash                                    []HashPolicy
	// Upgrades says which upgrades are let through, over what the listener says.
	Upgrades []RouteUpgrade
	// TerminateConnect: a CONNECT ends here, and its bytes go to the endpoint as they are; else the endpoint gets the
	// CONNECT itself.
	TerminateConnect bool
	// ForwardHost sets X-Forwarded-Host to the authority that HostRewrite replaces.
	ForwardHost bool
}

// RouteUpgrade is a token, in lower case, and whether it is not let through.
type RouteUpgrade struct {
	Token string
	Off   bool
}

// RetryOn is a set of conditions for another try.
type RetryOn uint32

// The conditions.
const (
	OnConnectFailure RetryOn = 1 << iota // no connection was made, or the callee's sidecar said so
	OnRefusedStream                      // the upstream said that it did not begin
	OnReset                              // the connection or stream ended before the response's head
	OnUnavailable                        // a 503 of our own making, or gRPC UNAVAILABLE
	On5xx                                // any 5xx, or no answer
	OnGatewayError                       // 502, 503, 504
	OnRetriable4xx                       // 409
	OnStatus                             // one of Retry.Statuses
	OnGRPCStatus                         // one of Retry.GRPCStatuses
	OnPerTryTimeout
)

// Backoff is how the wait before another try grows.
type Backoff uint8

// Kinds of backoff.
const (
	Exponential Backoff = iota
	Linear
	Fibonacci
)

// Retry says when and how often a request is tried again. Nothing is retried once a response has begun.
type Retry struct {
	On RetryOn
	// Attempts is the number of tries at most, the first included.
	Attempts     int
	PerTry       time.Duration // 0 means none
	Statuses     []int
	GRPCStatuses uint32 // bit n: gRPC status n
	Backoff      Backoff
	Base, Max    time.Duration // full jitter: 0 to the step's length; defaults 25 ms, 250 ms
	// AnyMethod tries again also what is not idempotent; otherwise such a request is only tried again where it
	// was certainly not executed.
	AnyMethod bool
	// MaxBody is how many bytes of a request's body are kept for another try; default 64 KiB. A longer body is
	// not tried again once it has been passed on.
	MaxBody int
}

// HashPolicy is one source of a consistent-hashing key.
type HashPolicy struct {
	Header, Cookie, Query string
	SourceIP              bool
	// Terminal ends the list when this source gave a key.
	Terminal bool
}

// Redirect answers with another location.
type Redirect struct {
	Status                   int
	Scheme, Host, Path       string
	PrefixRewrite            string
	Port                     int
	StripQuery, HTTPSDefault bool
}

// Direct answers without an upstream.
type Direct struct {
	Status int
	Body   string
}
