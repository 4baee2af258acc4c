package xds

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/policy/fault"
	"github.com/outrigger-mesh/outrigger/policy/headers"
	"github.com/outrigger-mesh/outrigger/policy/ratelimit"
	"github.com/outrigger-mesh/outrigger/policy/retry"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// routes are those of one port of a service: its rules, then what no rule takes, each once for every method policy, in
// the order in which they are tried. gw is the gateway's route that leads here, or nil.
func (b *builder) routes(s *model.Service, p model.Port, gw *model.GatewayRoute) ([]*routev3.Route, error) {
	var out []*routev3.Route
	rules := append(append([]model.Rule(nil), s.Rules...), model.Rule{Name: "default"})
	for i := range rules {
		rule := &rules[i]
		policy := &s.Policy
		if to := b.versions(s, rule); len(to) == 1 {
			if v := s.Version(to[0].Version); v != nil {
				policy = &v.Policy
			}
		}
		for _, k := range callerMethods(policy, s.External) {
			m := model.Method{MethodPolicies: policy.MethodPolicies}
			name := rule.Name
			if k < len(policy.Methods) {
				m = policy.Methods[k]
				name = fmt.Sprintf("%s#%d", rule.Name, k)
			}
			routes, err := b.route(s, p, gw, rule, m, k < len(policy.Methods))
			if err != nil {
				return nil, fmt.Errorf("route %s: %w", name, err)
			}
			for _, r := range routes {
				r.Name = name
				if gw != nil {
					r.Name = gw.Name + ":" + name
				}
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// callerMethods are the indexes of the method policies that the caller's side has to tell apart, and one past the end
// for the calls that none takes. Where no method differs in what the caller does, that is the only one.
func callerMethods(p *model.Policy, external bool) []int {
	differs := false
	for _, m := range p.Methods {
		base, own := p.MethodPolicies, m.MethodPolicies
		if !external { // the callee's sidecar does these
			base.RateLimit, base.Fault, own.RateLimit, own.Fault = nil, nil, nil, nil
		}
		differs = differs || !reflect.DeepEqual(base, own)
	}
	if !differs {
		return []int{len(p.Methods)}
	}
	out := make([]int, len(p.Methods)+1)
	for i := range out {
		out[i] = i
	}
	return out
}

// versions are where a rule's calls go; nil for all versions alike.
func (b *builder) versions(s *model.Service, rule *model.Rule) []model.Weighted {
	if len(rule.To) > 0 {
		return rule.To
	}
	return s.Split
}

// destination is where calls to a port go, with clusters in the place of versions.
func (b *builder) destination(s *model.Service, p model.Port, rule *model.Rule) []model.Weighted {
	to := s.Split
	if rule != nil {
		to = b.versions(s, rule)
	}
	if len(to) == 0 {
		return []model.Weighted{{Version: xdsname.Cluster(s.Tenant, s.Name, p.Name, ""), Weight: 1}}
	}
	out := make([]model.Weighted, len(to))
	for i, w := range to {
		out[i] = model.Weighted{Version: xdsname.Cluster(s.Tenant, s.Name, p.Name, w.Version), Weight: w.Weight}
	}
	return out
}

// route is one rule for the calls of one method policy: no route where no call can be both, and two where a rewrite
// needs it.
func (b *builder) route(s *model.Service, p model.Port, gw *model.GatewayRoute, rule *model.Rule, m model.Method, isMethod bool) ([]*routev3.Route, error) {
	rewrite := rule.Rewrite
	conds := []condition{routeCondition(rule.Match)}
	if isMethod {
		conds = append(conds, methodCondition(m.Match))
	}
	if gw != nil {
		var ok bool
		var err error
		if conds, ok, err = through(gw, conds); !ok || err != nil {
			return nil, err
		}
		rewrite = both(gw.Rewrite, rule.Rewrite)
	}
	var out []*routev3.Route
	from := 0 // whose path is rewritten: the gateway's, or the rule's where that has a rewrite of its own
	if gw != nil && rule.Rewrite != nil && rule.Rewrite.Path != "" {
		from = 1
	}
	for _, alt := range rewritten(conds, from, rewrite) {
		match, ok := b.all(alt.conds, alt.rewrite != "")
		if !ok {
			continue
		}
		r := &routev3.Route{Match: match}
		if err := b.act(r, s, p, rule, m.MethodPolicies, rewrite, alt.rewrite); err != nil {
			return nil, err
		}
		if err := b.annotate(r, alt.conds); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// through are conditions as they look from a gateway: what comes in still has the path that the gateway rewrites. false:
// no call fulfils them.
func through(gw *model.GatewayRoute, conds []condition) ([]condition, bool, error) {
	out := []condition{{path: gw.Path}}
	if gw.Rewrite == nil || gw.Rewrite.Path == "" || gw.Path == nil {
		return append(out, conds...), true, nil
	}
	from := strings.TrimRight(gw.Path.Segments+gw.Path.Prefix, "/")
	to := strings.TrimRight(gw.Rewrite.Path, "/")
	for _, c := range conds {
		if c.path == nil {
			out = append(out, c)
			continue
		}
		if from == "" {
			return nil, false, nil
		}
		q := *c.path
		for _, field := range []*string{&q.Exact, &q.Segments, &q.Template, &q.Prefix} {
			if *field == "" {
				continue
			}
			rest, ok := strings.CutPrefix(*field, to)
			if !ok {
				return nil, false, nil
			}
			*field = from + rest
		}
		if q.Regex != "" {
			if to != "" {
				return nil, false, fmt.Errorf("a path by regex (%s) cannot be told behind a gateway's rewrite to %s: only behind one to /", q.Regex, gw.Rewrite.Path)
			}
			q.Regex = regexp.QuoteMeta(from) + "(?:" + q.Regex + ")"
		}
		c.path = &q
		out = append(out, c)
	}
	return out, true, nil
}

// both are a gateway's rewrite and the rule's; the rule's, which comes later, holds where both say something.
func both(gw, rule *resource.Rewrite) *resource.Rewrite {
	if gw == nil || rule == nil {
		if gw == nil {
			return rule
		}
		return gw
	}
	out := *gw
	if rule.Path != "" {
		out.Path = rule.Path
	}
	if rule.Host != "" {
		out.Host = rule.Host
	}
	return &out
}

type alternative struct {
	conds   []condition
	rewrite string
}

// rewritten are the conditions such that prefix_rewrite does what a rewrite of the path means. /v2 → / by segments needs
// two: /v2 alone becomes /, and /v2/x becomes /x and not //x. What was matched otherwise is replaced as a whole: that is
// how prefix_rewrite treats all but prefixes.
func rewritten(conds []condition, from int, rw *resource.Rewrite) []alternative {
	if rw == nil || rw.Path == "" {
		return []alternative{{conds: conds}}
	}
	// with puts a path first, which is the one that is rewritten, and drops what follows from it.
	with := func(p resource.PathMatch) []condition {
		out := append([]condition{{path: &p}}, conds...)
		for i := range out[1:] {
			if c := &out[i+1]; c.path != nil && c.path.Segments != "" && implied(*c.path, p) {
				c.path = nil
			}
		}
		return out
	}
	switch p := conds[from].path; {
	case p == nil:
		return []alternative{{with(resource.PathMatch{Regex: "/.*"}), rw.Path}}
	case strings.Trim(p.Segments, "/") != "":
		base, to := strings.TrimRight(p.Segments, "/"), strings.TrimRight(rw.Path, "/")
		return []alternative{
			{with(resource.PathMatch{Exact: base}), rw.Path},
			{with(resource.PathMatch{Prefix: base + "/"}), to + "/"},
		}
	default:
		return []alternative{{with(*p), rw.Path}}
	}
}

// implied says whether a condition by segments follows from an exact path or a prefix made of it.
func implied(seg, p resource.PathMatch) bool {
	base := strings.TrimRight(seg.Segments, "/")
	return p.Exact == base || p.Prefix == base+"/"
}

// act says what happens to the calls: the policies write their own fields.
func (b *builder) act(r *routev3.Route, s *model.Service, p model.Port, rule *model.Rule, policies resource.MethodPolicies, rw *resource.Rewrite, path string) error {
	switch {
	case rule.Redirect != nil:
		r.Action = redirect(rule.Redirect)
	case rule.Direct != nil:
		d := &routev3.DirectResponseAction{Status: uint32(rule.Direct.Status)}
		if rule.Direct.Body != "" {
			d.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: rule.Direct.Body}}
		}
		r.Action = &routev3.Route_DirectResponse{DirectResponse: d}
	default:
		r.Action = &routev3.Route_Route{Route: forward(b.destination(s, p, rule), rw, path)}
	}
	headers.Encode(headers.Merge(policies.Headers, rule.Headers), r)
	to := timeout.Merge(policies.Timeout, rule.Timeout)
	grpc := p.Protocol == resource.GRPC
	if err := timeout.Encode(to, grpc, r); err != nil {
		return err
	}
	if err := retry.Encode(policies.Retry, timeout.PerTryOf(to), r); err != nil {
		return err
	}
	b.trimRetry(r)
	if s.External && b.kind != GRPC {
		if err := ratelimit.Encode(policies.RateLimit, 1, r); err != nil {
			return err
		}
		if err := fault.Encode(policies.Fault, r); err != nil {
			return err
		}
	}
	if b.foreign() {
		r.Metadata = nil
		if a := r.GetRoute(); a != nil && !grpc && (to == nil || to.Overall == nil) {
			a.Timeout = durationpb.New(0) // see the package comment
		}
	}
	return nil
}

// trimRetry takes from a sidecar's retry_policy the conditions on headers, by which an Envoy does some of what our own
// policy in the metadata says in full: a sidecar refuses fields that it does not serve.
func (b *builder) trimRetry(r *routev3.Route) {
	if p := r.GetRoute().GetRetryPolicy(); p != nil && !b.foreign() {
		p.RetriableHeaders, p.RetriableRequestHeaders = nil, nil
	}
}

func forward(to []model.Weighted, rw *resource.Rewrite, path string) *routev3.RouteAction {
	a := &routev3.RouteAction{PrefixRewrite: path}
	if rw != nil && rw.Host != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: rw.Host}
	}
	if len(to) == 1 {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: to[0].Version}
		return a
	}
	w := &routev3.WeightedCluster{}
	for _, c := range to {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: c.Version, Weight: wrapperspb.UInt32(c.Weight)})
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
	return a
}

func redirect(d *resource.Redirect) *routev3.Route_Redirect {
	codes := map[int]routev3.RedirectAction_RedirectResponseCode{
		301: routev3.RedirectAction_MOVED_PERMANENTLY, 302: routev3.RedirectAction_FOUND, 303: routev3.RedirectAction_SEE_OTHER,
		307: routev3.RedirectAction_TEMPORARY_REDIRECT, 308: routev3.RedirectAction_PERMANENT_REDIRECT,
	}
	out := &routev3.RedirectAction{HostRedirect: d.Host, PortRedirect: uint32(d.Port), ResponseCode: codes[d.Status]}
	if d.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: d.Scheme}
	}
	if d.Path != "" {
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: d.Path}
	}
	return &routev3.Route_Redirect{Redirect: out}
}

// annotate names the path for metrics and traces.
func (b *builder) annotate(r *routev3.Route, conds []condition) error {
	if b.foreign() {
		return nil
	}
	for _, c := range conds {
		if c.path == nil || c.path.Template+c.path.Exact+c.path.Segments == "" {
			continue
		}
		m := &outriggerv1.RouteMetadata{}
		if err := xdsfield.RouteMetadata(r, xdsname.MetadataKey, m); err != nil {
			return err
		}
		m.PathPattern = c.path.Template + c.path.Exact + c.path.Segments
		if err := xdsfield.SetRouteMetadata(r, xdsname.MetadataKey, m); err != nil {
			return err
		}
	}
	return nil
}

// inboundRoutes are the callee's: what the methods say that it does, then the process itself. The caller bounds time; here
// only what does not move ends.
func (b *builder) inboundRoutes(s *model.Service, v *model.Version, p model.Port) (*routev3.RouteConfiguration, error) {
	name := xdsname.InboundListener(p.Name)
	vh := &routev3.VirtualHost{Name: name, Domains: []string{"*"}}
	instances := 0
	for _, e := range s.Endpoints {
		if e.Healthy && !e.Draining {
			instances++
		}
	}
	methods := append(append([]model.Method(nil), v.Policy.Methods...), model.Method{MethodPolicies: v.Policy.MethodPolicies})
	for i, m := range methods {
		conds := []condition{methodCondition(m.Match)}
		match, ok := b.all(conds, false)
		if !ok {
			continue
		}
		r := &routev3.Route{
			Name: fmt.Sprintf("method#%d", i), Match: match,
			Action: &routev3.Route_Route{Route: forward([]model.Weighted{{Version: name, Weight: 1}}, nil, "")},
		}
		if i == len(methods)-1 {
			r.Name = "default"
		}
		none := time.Duration(0)
		idle := timeout.Merge(&timeout.Spec{}, m.Timeout)
		if err := timeout.Encode(&timeout.Spec{Overall: &none, Idle: idle.Idle}, p.Protocol == resource.GRPC, r); err != nil {
			return nil, err
		}
		if err := retry.Encode(restarting(), 0, r); err != nil {
			return nil, err
		}
		b.trimRetry(r)
		if err := ratelimit.Encode(m.RateLimit, instances, r); err != nil {
			return nil, err
		}
		if err := fault.Encode(m.Fault, r); err != nil {
			return nil, err
		}
		if err := b.annotate(r, conds); err != nil {
			return nil, err
		}
		vh.Routes = append(vh.Routes, r)
	}
	return &routev3.RouteConfiguration{Name: name, IgnorePortInHostMatching: true, VirtualHosts: []*routev3.VirtualHost{vh}}, nil
}

// restarting is how the own process is tried again that accepts no connection: the runner is starting it again, which
// takes some hundred milliseconds. With full jitter the tries span about 1.5 s, 3 s at most.
func restarting() *retry.Spec {
	anyMethod, base, longest := true, 150*time.Millisecond, 500*time.Millisecond
	percent, floor := 100.0, 1000
	return &retry.Spec{
		Attempts: 8, On: []string{"connect-failure"}, AnyMethod: &anyMethod,
		Backoff: &retry.Backoff{Kind: "linear", Base: &base, Max: &longest},
		Budget:  &retry.Budget{Percent: &percent, PerSecond: &floor},
	}
}

// gatewayRoutes are a gateway's: those of one host and then those of any, in a virtual host each.
func (b *builder) gatewayRoutes(name string, g *model.Gateway) (*routev3.RouteConfiguration, error) {
	rc := &routev3.RouteConfiguration{Name: name, IgnorePortInHostMatching: true}
	hosts := []string{}
	seen := map[string]bool{}
	for _, r := range g.Routes {
		if !seen[r.Host] {
			seen[r.Host] = true
			hosts = append(hosts, r.Host)
		}
	}
	for _, host := range hosts {
		vh := &routev3.VirtualHost{Name: host, Domains: []string{host}}
		if host == "" {
			vh.Name, vh.Domains = "*", []string{"*"}
		}
		for _, own := range []bool{true, false} {
			for i := range g.Routes {
				r := &g.Routes[i]
				if own != (r.Host == host) || !own && r.Host != "" {
					continue
				}
				s := b.service(r.To.Tenant, r.To.Name)
				if s == nil {
					continue
				}
				p, ok := s.Port(r.To.Port)
				if !ok || !p.Protocol.IsHTTP() {
					continue
				}
				routes, err := b.routes(s, p, r)
				if err != nil {
					return nil, err
				}
				vh.Routes = append(vh.Routes, routes...)
			}
		}
		rc.VirtualHosts = append(rc.VirtualHosts, vh)
	}
	return rc, nil
}
