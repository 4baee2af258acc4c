package xds

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
)

// condition is what a call must fulfil: all that is written.
type condition struct {
	path    *resource.PathMatch
	method  string
	headers map[string]resource.ValueMatch
	query   map[string]resource.ValueMatch
	grpc    bool
}

func routeCondition(m resource.RouteMatch) condition {
	c := condition{path: m.Path, method: m.Method, headers: m.Headers, query: m.Query, grpc: m.GRPC != ""}
	if c.grpc {
		c.path = grpcPath(m.GRPC)
	}
	return c
}

func methodCondition(m resource.MethodMatch) condition {
	c := condition{path: m.Path, method: m.Method, grpc: m.GRPC != ""}
	if c.grpc {
		c.path = grpcPath(m.GRPC)
	}
	return c
}

// grpcPath is the path of a gRPC method, or the prefix of a service's.
func grpcPath(s string) *resource.PathMatch {
	if strings.Contains(s, "/") {
		return &resource.PathMatch{Exact: "/" + s}
	}
	return &resource.PathMatch{Prefix: "/" + s + "/"}
}

// all is the conjunction of conditions. Envoy has one place for a path: the first path of the list takes it, unless an
// exact one makes the others needless; further ones are conditions on :path. false: no call can fulfil all.
func (b *builder) all(conds []condition, keepFirst bool) (*routev3.RouteMatch, bool) {
	var paths []*resource.PathMatch
	method, grpc := "", false
	m := &routev3.RouteMatch{}
	for _, c := range conds {
		if c.path != nil && !slices.ContainsFunc(paths, func(p *resource.PathMatch) bool { return *p == *c.path }) {
			paths = append(paths, c.path)
		}
		if c.method != "" {
			if method != "" && method != c.method {
				return nil, false
			}
			method = c.method
		}
		grpc = grpc || c.grpc
		for _, name := range slices.Sorted(maps.Keys(c.headers)) {
			m.Headers = append(m.Headers, header(name, c.headers[name]))
		}
		for _, name := range slices.Sorted(maps.Keys(c.query)) {
			m.QueryParameters = append(m.QueryParameters, query(name, c.query[name]))
		}
	}
	if method != "" {
		if b.kind == GRPC { // every gRPC call is a POST
			if method != "POST" {
				return nil, false
			}
		} else {
			m.Headers = append(m.Headers, header(":method", resource.ValueMatch{Exact: &method}))
		}
	}
	paths, ok := reduce(paths, keepFirst)
	if !ok {
		return nil, false
	}
	var first *resource.PathMatch
	if len(paths) > 0 {
		first = paths[0]
		for _, p := range paths[1:] {
			if b.kind == GRPC {
				return nil, false // it knows no :path; see the package comment
			}
			m.Headers = append(m.Headers, header(":path", resource.ValueMatch{Regex: "(?:" + pathRegex(p) + `)(?:\?.*)?`}))
		}
	}
	if grpc && b.kind != GRPC {
		m.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	return m, b.setPath(m, first)
}

// reduce drops what an exact path implies, and finds what excludes each other.
func reduce(paths []*resource.PathMatch, keepFirst bool) ([]*resource.PathMatch, bool) {
	for _, e := range paths {
		if e.Exact == "" {
			continue
		}
		for _, p := range paths {
			re, err := regexp.Compile("^(?:" + pathRegex(p) + ")$")
			if err != nil || !re.MatchString(e.Exact) {
				return nil, false
			}
		}
		if !keepFirst || paths[0] == e {
			return []*resource.PathMatch{e}, true
		}
		return []*resource.PathMatch{paths[0], e}, true
	}
	return paths, true
}

// pathRegex is a condition on a path as a regular expression that matches the whole of it.
func pathRegex(p *resource.PathMatch) string {
	switch {
	case p.Exact != "":
		return regexp.QuoteMeta(p.Exact)
	case p.Segments != "":
		return regexp.QuoteMeta(strings.TrimSuffix(p.Segments, "/")) + `(?:/[^?]*)?`
	case p.Template != "":
		return templateRegex(p.Template)
	case p.Regex != "":
		return p.Regex
	}
	return regexp.QuoteMeta(p.Prefix) + `[^?]*`
}

func templateRegex(t string) string {
	var b strings.Builder
	for t != "" {
		open := strings.IndexByte(t, '{')
		if open < 0 {
			b.WriteString(regexp.QuoteMeta(t))
			break
		}
		b.WriteString(regexp.QuoteMeta(t[:open]))
		end := strings.IndexByte(t[open:], '}')
		if end < 0 {
			b.WriteString(regexp.QuoteMeta(t[open:]))
			break
		}
		if strings.HasSuffix(t[open:open+end], "=**") {
			b.WriteString(`[^?]*`)
		} else {
			b.WriteString(`[^/?]+`)
		}
		t = t[open+end+1:]
	}
	return b.String()
}

func (b *builder) setPath(m *routev3.RouteMatch, p *resource.PathMatch) bool {
	prefix := func(s string) { m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: s} }
	regex := func(s string) {
		m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}
	}
	switch {
	case p == nil && b.kind == GRPC:
		prefix("")
	case p == nil:
		prefix("/")
	case p.Exact != "":
		m.PathSpecifier = &routev3.RouteMatch_Path{Path: p.Exact}
	case p.Segments != "" && strings.Trim(p.Segments, "/") == "":
		prefix("/")
	case p.Segments != "" && b.kind == GRPC:
		regex(pathRegex(p))
	case p.Segments != "":
		m.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: strings.TrimRight(p.Segments, "/")}
	case p.Template != "" && b.kind == GRPC:
		regex(templateRegex(p.Template))
	case p.Template != "":
		a, err := xdsfield.Any(&uritemplatev3.UriTemplateMatchConfig{PathTemplate: p.Template})
		if err != nil {
			return false
		}
		m.PathSpecifier = &routev3.RouteMatch_PathMatchPolicy{PathMatchPolicy: &corev3.TypedExtensionConfig{
			Name: "envoy.path.match.uri_template.uri_template_matcher", TypedConfig: a,
		}}
	case p.Regex != "":
		regex(p.Regex)
	default:
		prefix(p.Prefix)
	}
	return true
}

func stringMatcher(v resource.ValueMatch) *matcherv3.StringMatcher {
	switch {
	case v.Exact != nil:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: *v.Exact}}
	case v.Prefix != "":
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: v.Prefix}}
	case v.Suffix != "":
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: v.Suffix}}
	case v.Regex != "":
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: v.Regex},
		}}
	}
	return nil
}

func header(name string, v resource.ValueMatch) *routev3.HeaderMatcher {
	h := &routev3.HeaderMatcher{Name: strings.ToLower(name)}
	if s := stringMatcher(v); s != nil {
		h.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
		return h
	}
	h.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
	h.InvertMatch = v.Present != nil && !*v.Present
	return h
}

func query(name string, v resource.ValueMatch) *routev3.QueryParameterMatcher {
	q := &routev3.QueryParameterMatcher{Name: name}
	if s := stringMatcher(v); s != nil {
		q.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: s}
		return q
	}
	q.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: v.Present == nil || *v.Present}
	return q
}
