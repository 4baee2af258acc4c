package compile

import (
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// retryKey is where a route's whole retry policy is.
const retryKey = xdsname.MetadataKey + "/retry"

// place is where routes are being compiled: for which listener, with which chain. The zero chain (nil) means that no
// listener uses them yet: they are then checked, and not built.
type place struct {
	listener string
	chain    []httpFilter
	// mostSpecificWins is RouteConfiguration.most_specific_header_mutations_wins.
	mostSpecificWins bool
	maxDirectBody    *wrapperspb.UInt32Value // RouteConfiguration.max_direct_response_body_size_bytes
	config           level                   // the route configuration's own
	// needs gathers the clusters that are referred to.
	needs map[string]bool
}

// level is what one level of a route configuration says of filters and header fields.
type level struct {
	filters map[string]override
	headers headerOps
}

// routeDef is a compiled route configuration: its own virtual hosts, and what those found on demand need.
type routeDef struct {
	name       string
	ignorePort bool
	vhds       bool
	hosts      []*snapshot.VirtualHost
	place      place // config and mostSpecificWins, for virtual hosts that come later
}

func (c *Compiler) routeConfig(r *report, path string, m *routev3.RouteConfiguration, pl place) *routeDef {
	checkFields(r, path, m)
	d := &routeDef{name: m.GetName(), ignorePort: m.GetIgnorePortInHostMatching(), vhds: m.GetVhds() != nil}
	if d.vhds {
		source(r, join(path, "vhds.config_source"), m.GetVhds().GetConfigSource())
	}
	noRouteMetadata(r, join(path, "metadata"), m.GetMetadata())
	pl.mostSpecificWins, pl.maxDirectBody = m.GetMostSpecificHeaderMutationsWins(), m.GetMaxDirectResponseBodySizeBytes()
	if m.GetValidateClusters().GetValue() {
		r.add(join(path, "validate_clusters"), "true is not served by this sidecar: a route waits for its cluster")
	}
	pl.config = level{c.overrides(r, path, pl.listener, pl.chain, m.GetTypedPerFilterConfig()), readHeaderOps(r, path, m)}
	names, domains := map[string]bool{}, map[string]bool{}
	for i, v := range m.GetVirtualHosts() {
		p := at(path, "virtual_hosts", i)
		if names[v.GetName()] {
			r.add(join(p, "name"), "%q is used twice", v.GetName())
		}
		names[v.GetName()] = true
		vh := c.virtualHost(r, p, v, &pl)
		for k, dom := range vh.Domains {
			if domains[dom] {
				r.add(at(p, "domains", k), "%q is another virtual host's already", dom)
			}
			domains[dom] = true
		}
		d.hosts = append(d.hosts, vh)
	}
	d.place = pl
	return d
}

func noRouteMetadata(r *report, path string, m *corev3.Metadata) { ourMetadataAt(r, path, m, nil) }

func (c *Compiler) virtualHost(r *report, path string, m *routev3.VirtualHost, pl *place) *snapshot.VirtualHost {
	vh := &snapshot.VirtualHost{Name: m.GetName()}
	if m.GetName() == "" {
		r.add(join(path, "name"), "is missing")
	}
	if len(m.GetDomains()) == 0 {
		r.add(join(path, "domains"), "must name at least one")
	}
	for i, d := range m.GetDomains() {
		d = strings.ToLower(d)
		if d == "" || strings.Count(d, "*") > 1 || strings.Contains(strings.Trim(d, "*"), "*") {
			r.add(at(path, "domains", i), "%q is not a name, *.suffix, prefix.* or *", d)
		}
		vh.Domains = append(vh.Domains, d)
	}
	noRouteMetadata(r, join(path, "metadata"), m.GetMetadata())
	scope := pl.listener + "|" + m.GetName()
	lv := level{c.overrides(r, path, scope, pl.chain, m.GetTypedPerFilterConfig()), readHeaderOps(r, path, m)}
	names := map[string]int{}
	for _, rt := range m.GetRoutes() {
		names[rt.GetName()]++
	}
	for i, rt := range m.GetRoutes() {
		id := rt.GetName()
		if id == "" || names[id] > 1 {
			id = fmt.Sprintf("%s#%d", id, i)
		}
		vh.Routes = append(vh.Routes, c.route(r, at(path, "routes", i), rt, m, lv, scope+"|"+id, pl))
	}
	return vh
}

func (c *Compiler) route(r *report, path string, m *routev3.Route, host *routev3.VirtualHost, hostLevel level, scope string, pl *place) *snapshot.Route {
	md, retry := &outriggerv1.RouteMetadata{}, &outriggerv1.RetryPolicy{}
	ourMetadataAt(r, join(path, "metadata"), m.GetMetadata(), map[string]proto.Message{xdsname.MetadataKey: md, retryKey: retry})
	out := &snapshot.Route{Name: m.GetName(), Pattern: md.GetPathPattern(), Match: routeMatch(r, join(path, "match"), m.GetMatch())}
	lv := level{c.overrides(r, path, scope, pl.chain, m.GetTypedPerFilterConfig()), readHeaderOps(r, path, m)}
	switch a := m.GetAction().(type) {
	case *routev3.Route_Route:
		f := &snapshot.Forward{HeadTimeout: md.GetHeadTimeout()}
		out.Forward = f
		c.forward(r, join(path, "route"), a.Route, f, pl)
		f.Retry = retryOf(r, path, m, a.Route, host, retry)
		if f.PrefixRewrite != "" && (out.Match.Kind == snapshot.PathMatcher || out.Match.Kind == snapshot.PathTemplate) {
			f.PathRewrite, f.PrefixRewrite = f.PrefixRewrite, "" // as in Envoy, where the whole path is what matched
		}
		for i, w := range a.Route.GetWeightedClusters().GetClusters() {
			wp := at(join(path, "route.weighted_clusters"), "clusters", i)
			wl := level{c.overrides(r, wp, scope+"|"+w.GetName(), pl.chain, w.GetTypedPerFilterConfig()), readHeaderOps(r, wp, w)}
			if i < len(f.Clusters) && (wl.filters != nil || len(wl.headers.request)+len(wl.headers.response) > 0) {
				f.Clusters[i].Filters = pl.filters(r, wp, &wl, lv, hostLevel)
				if f.Clusters[i].Filters == nil {
					f.Clusters[i].Filters = []snapshot.Filter{}
				}
			}
		}
	case *routev3.Route_Redirect:
		out.Redirect = redirect(r, join(path, "redirect"), a.Redirect)
	case *routev3.Route_DirectResponse:
		out.Direct = direct(r, join(path, "direct_response"), a.DirectResponse)
		if n := pl.maxDirectBody; n != nil && len(out.Direct.Body) > int(n.GetValue()) {
			r.add(join(path, "direct_response.body"), "is %d bytes long; max_direct_response_body_size_bytes is %d", len(out.Direct.Body), n.GetValue())
		}
		if out.Match.Kind == snapshot.PathConnect && out.Direct.Status < 300 {
			r.add(join(path, "direct_response.status"), "%d would promise a CONNECT a tunnel that is not there", out.Direct.Status)
		}
	default:
		r.add(path, "says nothing to do: route, redirect or direct_response is needed")
	}
	out.Filters = pl.filters(r, path, nil, lv, hostLevel)
	return out
}

// filters builds a chain: the connection manager's with the most specific settings, then the header operations,
// which in Envoy belong to the router.
func (pl *place) filters(r *report, path string, weighted *level, route, host level) []snapshot.Filter {
	if pl.chain == nil {
		return nil
	}
	levels := []level{route, host, pl.config}
	if weighted != nil {
		levels = append([]level{*weighted}, levels...)
	}
	overrides, ops := make([]map[string]override, len(levels)), make([]headerOps, len(levels))
	for i, l := range levels {
		overrides[i] = l.filters
		if pl.mostSpecificWins {
			ops[len(levels)-1-i] = l.headers
		} else {
			ops[i] = l.headers
		}
	}
	chain := effective(pl.chain, pl.listener, overrides...)
	if h := headerFilter(ops...); h != nil {
		chain = append(chain, h)
	}
	if len(chain) > exchange.MaxFilters {
		r.add(path, "comes to %d filters; %d are possible", len(chain), exchange.MaxFilters)
	}
	return chain
}

func routeMatch(r *report, path string, m *routev3.RouteMatch) (out snapshot.Match) {
	out.FoldCase = m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out.Kind, out.Path = snapshot.PathPrefix, p.Prefix
		if p.Prefix == "/" || p.Prefix == "" {
			out.Kind = snapshot.PathAny
		}
	case *routev3.RouteMatch_Path:
		out.Kind, out.Path = snapshot.PathExact, p.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out.Kind, out.Path = snapshot.PathSegments, p.PathSeparatedPrefix
		if s := p.PathSeparatedPrefix; len(s) < 2 || s[0] != '/' || strings.HasSuffix(s, "/") || strings.ContainsAny(s, "?#") {
			r.add(join(path, "path_separated_prefix"), "%q must begin with / and neither end with it nor hold ? or #", s)
		}
	case *routev3.RouteMatch_SafeRegex:
		out.Kind, out.Matcher = snapshot.PathMatcher, regex(r, join(path, "safe_regex"), p.SafeRegex)
	case *routev3.RouteMatch_PathMatchPolicy:
		p2 := join(path, "path_match_policy.typed_config")
		t := &uritemplatev3.UriTemplateMatchConfig{}
		if unpack(r, p2, p.PathMatchPolicy.GetTypedConfig(), t) {
			tpl, err := snapshot.ParseTemplate(t.GetPathTemplate())
			if err != nil {
				r.add(join(p2, "path_template"), "%v", err)
			}
			out.Kind, out.Template = snapshot.PathTemplate, tpl
		}
	case *routev3.RouteMatch_ConnectMatcher_:
		out.Kind = snapshot.PathConnect
	default:
		r.add(path, "says no path to match")
	}
	if f := m.GetRuntimeFraction(); f != nil && runtimeShare(r, join(path, "runtime_fraction"), f, 1_000_000) != 1_000_000 {
		r.add(join(path, "runtime_fraction"), "only the whole is served by this sidecar; weighted_clusters can split")
	}
	out.GRPC = m.GetGrpc() != nil
	for i, h := range m.GetHeaders() {
		hm := headerMatch(r, at(path, "headers", i), h)
		if s, ok := hm.Matcher.(*stringMatcher); ok && hm.Name == ":method" && s.kind == exact && !s.fold && !hm.Invert && out.Method == "" {
			out.Method = s.text
			continue
		}
		out.Headers = append(out.Headers, hm)
	}
	for i, q := range m.GetQueryParameters() {
		p := at(path, "query_parameters", i)
		qm := snapshot.QueryMatch{Name: q.GetName()}
		switch s := q.GetQueryParameterMatchSpecifier().(type) {
		case *routev3.QueryParameterMatcher_StringMatch:
			qm.Matcher = stringMatch(r, join(p, "string_match"), s.StringMatch)
		case *routev3.QueryParameterMatcher_PresentMatch:
			if !s.PresentMatch {
				r.add(join(p, "present_match"), "false is not served by this sidecar")
			}
		}
		out.Query = append(out.Query, qm)
	}
	return out
}

func (c *Compiler) forward(r *report, path string, m *routev3.RouteAction, f *snapshot.Forward, pl *place) {
	switch s := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if s.Cluster == "" {
			r.add(join(path, "cluster"), "is missing")
		}
		f.Clusters, f.TotalWeight = []snapshot.WeightedCluster{c.weighted(s.Cluster, 1, pl)}, 1
	case *routev3.RouteAction_ClusterHeader:
		f.ClusterHeader = strings.ToLower(s.ClusterHeader)
	case *routev3.RouteAction_WeightedClusters:
		var sum uint64
		for i, w := range s.WeightedClusters.GetClusters() {
			if w.GetName() == "" {
				r.add(at(join(path, "weighted_clusters"), "clusters", i)+".name", "is missing")
			}
			weight := uint32(1)
			if w.GetWeight() != nil {
				weight = w.GetWeight().GetValue()
			}
			sum += uint64(weight)
			f.Clusters = append(f.Clusters, c.weighted(w.GetName(), weight, pl))
		}
		if sum == 0 || sum > 1<<32-1 {
			r.add(join(path, "weighted_clusters"), "the weights sum to %d", sum)
		}
		if t := s.WeightedClusters.GetTotalWeight(); t != nil && uint64(t.GetValue()) != sum { //nolint:staticcheck // still emitted
			r.add(join(path, "weighted_clusters.total_weight"), "is %d, the weights sum to %d", t.GetValue(), sum)
		}
		f.TotalWeight = uint32(sum)
	default:
		r.add(path, "names no cluster")
	}
	f.Timeout = duration(r, join(path, "timeout"), m.GetTimeout(), 15*time.Second)
	f.IdleTimeout = duration(r, join(path, "idle_timeout"), m.GetIdleTimeout(), 0)
	if d := m.GetMaxStreamDuration(); d != nil {
		if v := duration(r, join(path, "max_stream_duration.max_stream_duration"), d.GetMaxStreamDuration(), 0); v != 0 {
			r.add(join(path, "max_stream_duration.max_stream_duration"), "only 0 is served by this sidecar; timeout bounds an exchange")
		}
		if g := d.GetGrpcTimeoutHeaderMax(); g != nil {
			f.UseGRPCTimeout, f.GRPCTimeoutMax = true, duration(r, join(path, "max_stream_duration.grpc_timeout_header_max"), g, 0)
		}
	}
	f.PrefixRewrite = m.GetPrefixRewrite()
	noControl(r, join(path, "prefix_rewrite"), f.PrefixRewrite)
	f.HostRewrite = m.GetHostRewriteLiteral()
	noControl(r, join(path, "host_rewrite_literal"), f.HostRewrite)
	if f.ForwardHost = m.GetAppendXForwardedHost(); f.ForwardHost && f.HostRewrite == "" {
		r.add(join(path, "append_x_forwarded_host"), "has its place beside host_rewrite_literal alone")
	}
	for i, h := range m.GetHashPolicy() {
		p := at(path, "hash_policy", i)
		hp := snapshot.HashPolicy{Terminal: h.GetTerminal()}
		switch s := h.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			hp.Header = strings.ToLower(s.Header.GetHeaderName())
		case *routev3.RouteAction_HashPolicy_Cookie_:
			hp.Cookie = s.Cookie.GetName()
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			hp.Query = s.QueryParameter.GetName()
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			hp.SourceIP = s.ConnectionProperties.GetSourceIp()
		}
		if hp.Header == "" && hp.Cookie == "" && hp.Query == "" && !hp.SourceIP {
			r.add(p, "names no source")
		}
		f.Hash = append(f.Hash, hp)
	}
	for i, u := range m.GetUpgradeConfigs() {
		p := at(path, "upgrade_configs", i)
		t := upgradeToken(r, p, u.GetUpgradeType())
		f.Upgrades = append(f.Upgrades, snapshot.RouteUpgrade{Token: t, Off: u.GetEnabled() != nil && !u.GetEnabled().GetValue()})
		if u.GetConnectConfig() != nil {
			if f.TerminateConnect = true; t != "connect" {
				r.add(join(p, "connect_config"), "has its place beside upgrade_type CONNECT alone")
			}
		}
	}
}

// upgradeToken reads the name of an upgrade.
func upgradeToken(r *report, path, token string) string {
	token = strings.ToLower(token)
	switch token {
	case "":
		r.add(join(path, "upgrade_type"), "is missing")
	case "connect-udp":
		r.add(join(path, "upgrade_type"), "%s is not served by this sidecar", token)
	case "h2c":
		r.add(join(path, "upgrade_type"), "h2c is not served by this sidecar; HTTP/2 begins with prior knowledge")
	}
	return token
}

func (c *Compiler) weighted(name string, weight uint32, pl *place) snapshot.WeightedCluster {
	if pl.needs != nil && weight > 0 {
		pl.needs[name] = true
	}
	w := snapshot.WeightedCluster{Weight: weight}
	if pl.chain != nil {
		w.Ref = c.opts.Sink.Ref(name)
	}
	return w
}

// conditions of Envoy's retry_on and of ours, and what they mean.
var conditions = map[string]snapshot.RetryOn{
	"5xx":                    snapshot.On5xx | snapshot.OnConnectFailure | snapshot.OnRefusedStream | snapshot.OnReset | snapshot.OnPerTryTimeout,
	"gateway-error":          snapshot.OnGatewayError | snapshot.OnPerTryTimeout,
	"reset":                  snapshot.OnReset,
	"reset-before-request":   snapshot.OnRefusedStream | snapshot.OnConnectFailure,
	"connect-failure":        snapshot.OnConnectFailure,
	"retriable-4xx":          snapshot.OnRetriable4xx,
	"refused-stream":         snapshot.OnRefusedStream,
	"retriable-status-codes": snapshot.OnStatus,
}

var grpcConditions = map[string]uint32{"cancelled": 1, "deadline-exceeded": 4, "internal": 13, "resource-exhausted": 8, "unavailable": 14}

const (
	maxAttempts    = 64
	defaultMaxBody = 64 << 10
	largestMaxBody = 64 << 20
	defaultBase    = 25 * time.Millisecond
	defaultMax     = 250 * time.Millisecond
)

// retryOf reads our whole policy, else the standard one of the route, else the virtual host's.
func retryOf(r *report, path string, m *routev3.Route, a *routev3.RouteAction, host *routev3.VirtualHost, ours *outriggerv1.RetryPolicy) *snapshot.Retry {
	if m.GetMetadata().GetTypedFilterMetadata()[retryKey] != nil {
		return ourRetry(r, atKey(join(path, "metadata"), "typed_filter_metadata", retryKey), ours)
	}
	if p := a.GetRetryPolicy(); p != nil {
		return standardRetry(r, join(path, "route.retry_policy"), p)
	}
	if p := host.GetRetryPolicy(); p != nil {
		return standardRetry(r, path[:strings.LastIndex(path, "routes[")]+"retry_policy", p)
	}
	return nil
}

func ourRetry(r *report, path string, p *outriggerv1.RetryPolicy) *snapshot.Retry {
	out := &snapshot.Retry{
		Attempts: int(min(p.GetAttempts(), maxAttempts)), AnyMethod: p.GetAnyMethod(),
		PerTry:  duration(r, join(path, "per_try"), p.GetPerTry(), 0),
		Base:    duration(r, join(path, "base"), p.GetBase(), defaultBase),
		Max:     duration(r, join(path, "max"), p.GetMax(), defaultMax),
		MaxBody: int(min(p.GetMaxBodyBytes(), largestMaxBody)),
	}
	if out.MaxBody == 0 {
		out.MaxBody = defaultMaxBody
	}
	switch p.GetBackoff() {
	case outriggerv1.RetryPolicy_BACKOFF_UNSPECIFIED, outriggerv1.RetryPolicy_BACKOFF_EXPONENTIAL:
		out.Backoff = snapshot.Exponential
	case outriggerv1.RetryPolicy_BACKOFF_LINEAR:
		out.Backoff = snapshot.Linear
	case outriggerv1.RetryPolicy_BACKOFF_FIBONACCI:
		out.Backoff = snapshot.Fibonacci
	default:
		r.add(join(path, "backoff"), "%v is not known to this sidecar", p.GetBackoff())
	}
	for i, s := range p.GetOn() {
		switch on := conditions[s]; {
		case s == "unavailable":
			out.On |= snapshot.OnUnavailable
		case s == "per-try-timeout":
			out.On |= snapshot.OnPerTryTimeout
		case s == "5xx":
			out.On |= snapshot.On5xx
		case s == "gateway-error":
			out.On |= snapshot.OnGatewayError
		case on != 0 && s != "retriable-status-codes":
			out.On |= on
		default:
			r.add(at(path, "on", i), "%q is not known to this sidecar", s)
		}
	}
	for i, s := range p.GetStatuses() {
		status(r, at(path, "statuses", i), s)
		out.On |= snapshot.OnStatus
		out.Statuses = append(out.Statuses, int(s))
	}
	for i, s := range p.GetGrpcStatuses() {
		if s == 0 || s > 16 {
			r.add(at(path, "grpc_statuses", i), "must be from 1 to 16")
			continue
		}
		out.On |= snapshot.OnGRPCStatus
		out.GRPCStatuses |= 1 << s
	}
	out.Max = max(out.Max, out.Base)
	if out.Attempts <= 1 || out.On == 0 {
		return nil
	}
	return out
}

func standardRetry(r *report, path string, p *routev3.RetryPolicy) *snapshot.Retry {
	out := &snapshot.Retry{Attempts: 2, AnyMethod: true, MaxBody: defaultMaxBody, PerTry: duration(r, join(path, "per_try_timeout"), p.GetPerTryTimeout(), 0)}
	if n := p.GetNumRetries(); n != nil {
		out.Attempts = 1 + int(min(n.GetValue(), maxAttempts))
	}
	for s := range strings.SplitSeq(p.GetRetryOn(), ",") {
		s = strings.TrimSpace(s)
		if s == "" {
			continue
		}
		if code, ok := grpcConditions[s]; ok {
			out.On |= snapshot.OnGRPCStatus
			out.GRPCStatuses |= 1 << code
		} else if on := conditions[s]; on != 0 {
			out.On |= on
		} else {
			r.add(join(path, "retry_on"), "%q is not served by this sidecar", s)
		}
	}
	for i, s := range p.GetRetriableStatusCodes() {
		status(r, at(path, "retriable_status_codes", i), s)
		out.Statuses = append(out.Statuses, int(s))
	}
	for i, h := range p.GetRetryHostPredicate() {
		if t := h.GetTypedConfig().GetTypeUrl(); h.GetName() != "envoy.retry_host_predicates.previous_hosts" &&
			!strings.HasSuffix(t, ".previous_hosts.v3.PreviousHostsPredicate") {
			r.add(at(path, "retry_host_predicate", i), "only previous_hosts is served by this sidecar, always")
		}
	}
	out.Base = duration(r, join(path, "retry_back_off.base_interval"), p.GetRetryBackOff().GetBaseInterval(), defaultBase)
	out.Max = max(duration(r, join(path, "retry_back_off.max_interval"), p.GetRetryBackOff().GetMaxInterval(), 10*out.Base), out.Base)
	if out.Attempts <= 1 || out.On == 0 {
		return nil
	}
	return out
}

func status(r *report, path string, s uint32) {
	if s < 100 || s > 599 {
		r.add(path, "must be from 100 to 599")
	}
}

func redirect(r *report, path string, m *routev3.RedirectAction) *snapshot.Redirect {
	out := &snapshot.Redirect{Host: m.GetHostRedirect(), Port: int(m.GetPortRedirect()), StripQuery: m.GetStripQuery()}
	noControl(r, join(path, "host_redirect"), out.Host)
	switch s := m.GetSchemeRewriteSpecifier().(type) {
	case *routev3.RedirectAction_HttpsRedirect:
		if s.HttpsRedirect {
			out.Scheme, out.HTTPSDefault = "https", true
		}
	case *routev3.RedirectAction_SchemeRedirect:
		out.Scheme = strings.ToLower(s.SchemeRedirect)
		noControl(r, join(path, "scheme_redirect"), out.Scheme)
	}
	switch s := m.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PathRedirect:
		out.Path = s.PathRedirect
		noControl(r, join(path, "path_redirect"), out.Path)
	case *routev3.RedirectAction_PrefixRewrite:
		out.PrefixRewrite = s.PrefixRewrite
		noControl(r, join(path, "prefix_rewrite"), out.PrefixRewrite)
	}
	if m.GetPortRedirect() > 65535 {
		r.add(join(path, "port_redirect"), "must be at most 65535")
	}
	switch m.GetResponseCode() {
	case routev3.RedirectAction_MOVED_PERMANENTLY:
		out.Status = 301
	case routev3.RedirectAction_FOUND:
		out.Status = 302
	case routev3.RedirectAction_SEE_OTHER:
		out.Status = 303
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		out.Status = 307
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		out.Status = 308
	default:
		r.add(join(path, "response_code"), "is unknown")
	}
	return out
}

func direct(r *report, path string, m *routev3.DirectResponseAction) *snapshot.Direct {
	if m.GetStatus() < 200 || m.GetStatus() > 599 {
		r.add(join(path, "status"), "must be from 200 to 599")
	}
	if m.GetBody().GetFilename() != "" {
		r.add(join(path, "body.filename"), "is not served by this sidecar")
	}
	body := m.GetBody().GetInlineString()
	if b := m.GetBody().GetInlineBytes(); b != nil {
		body = string(b)
	}
	return &snapshot.Direct{Status: int(m.GetStatus()), Body: body}
}
