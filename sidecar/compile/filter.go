package compile

import (
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	mutatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	localratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/filter/fault"
	"github.com/outrigger-mesh/outrigger/sidecar/filter/grpcweb"
	"github.com/outrigger-mesh/outrigger/sidecar/filter/headers"
	"github.com/outrigger-mesh/outrigger/sidecar/filter/ratelimit"
	"github.com/outrigger-mesh/outrigger/sidecar/limit"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// builder makes a filter for the place in the configuration that identity names; nil where its settings do nothing.
// State that is to outlive a snapshot is found by identity.
type builder func(identity string) snapshot.Filter

// reader reads one kind of filter configuration.
type reader func(c *Compiler, r *report, path string, body *anypb.Any) builder

// readers are the kinds of filter that this sidecar knows, by the type of their settings, on the connection manager
// and on routes alike.
func readers() map[string]reader {
	return map[string]reader{
		typeURL("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"):         readRateLimit,
		typeURL("envoy.extensions.filters.http.fault.v3.HTTPFault"):                        readFault,
		typeURL("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"):                       readGRPCWeb,
		typeURL("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"):         readMutation,
		typeURL("envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"): readRouteMutation,
	}
}

var (
	routerURL       = typeURL("envoy.extensions.filters.http.router.v3.Router")
	filterConfigURL = typeURL("envoy.config.route.v3.FilterConfig")
)

// httpFilter is one entry of a connection manager's chain.
type httpFilter struct {
	name     string
	build    builder // nil: only routes that give settings have it
	disabled bool
}

// override is what a route, virtual host, … says of a filter by its name.
type override struct {
	build    builder
	disabled bool
	scope    string // identity of the place
}

func (c *Compiler) httpFilters(r *report, path string, fs []*hcmv3.HttpFilter) []httpFilter {
	out := []httpFilter{}
	names := map[string]bool{}
	for i, f := range fs {
		p := at(path, "http_filters", i)
		last := i == len(fs)-1
		any := f.GetTypedConfig()
		if any.GetTypeUrl() == routerURL {
			unpack(r, join(p, "typed_config"), any, &routerv3.Router{})
			if !last {
				r.add(p, "the router must be the last filter")
			}
			continue
		}
		if last {
			r.add(p, "the last filter must be the router")
		}
		if names[f.GetName()] {
			r.add(join(p, "name"), "%q is used twice", f.GetName())
		}
		names[f.GetName()] = true
		read := c.readers[any.GetTypeUrl()]
		if read == nil {
			if !f.GetIsOptional() {
				r.add(join(p, "typed_config"), "filter %q of type %q is not known to this sidecar and not optional", f.GetName(), any.GetTypeUrl())
			}
			continue
		}
		out = append(out, httpFilter{name: f.GetName(), build: read(c, r, join(p, "typed_config"), any), disabled: f.GetDisabled()})
	}
	if len(fs) == 0 {
		r.add(join(path, "http_filters"), "must end with the router")
	}
	if len(out) >= exchange.MaxFilters {
		r.add(join(path, "http_filters"), "holds %d filters; %d are possible", len(out), exchange.MaxFilters-1)
	}
	return out
}

// overrides reads typed_per_filter_config. chain is nil where it is not known.
func (c *Compiler) overrides(r *report, path, scope string, chain []httpFilter, m map[string]*anypb.Any) map[string]override {
	if len(m) == 0 {
		return nil
	}
	out := map[string]override{}
	for name, any := range m {
		p := atKey(path, "typed_per_filter_config", name)
		o, optional := override{scope: scope}, false
		if any.GetTypeUrl() == filterConfigURL {
			fc := &routev3.FilterConfig{}
			if !unpack(r, p, any, fc) {
				continue
			}
			o.disabled, optional, any = fc.GetDisabled(), fc.GetIsOptional(), fc.GetConfig()
			p = join(p, "config")
		}
		if any != nil {
			read := c.readers[any.GetTypeUrl()]
			switch {
			case read != nil:
				o.build = read(c, r, p, any)
			case optional:
				continue
			default:
				r.add(p, "settings of type %q are not known to this sidecar and not optional", any.GetTypeUrl())
				continue
			}
		}
		if chain != nil && !inChain(chain, name) {
			if !optional {
				r.add(p, "the listener's chain has no filter %q", name)
			}
			continue
		}
		out[name] = o
	}
	return out
}

func inChain(chain []httpFilter, name string) bool {
	for i := range chain {
		if chain[i].name == name {
			return true
		}
	}
	return false
}

// effective builds a route's chain. levels are the overrides from the most to the least specific; listener names the
// place of the connection manager's own settings.
func effective(chain []httpFilter, listener string, levels ...map[string]override) []snapshot.Filter {
	var out []snapshot.Filter
	for i := range chain {
		f := &chain[i]
		build, scope, disabled := f.build, listener, f.disabled
		for _, l := range levels {
			if o, ok := l[f.name]; ok {
				disabled = o.disabled
				if o.build != nil {
					build, scope = o.build, o.scope
				}
				break
			}
		}
		if disabled || build == nil {
			continue
		}
		if b := build(scope + "|" + f.name); b != nil {
			out = append(out, b)
		}
	}
	return out
}

func readRateLimit(c *Compiler, r *report, path string, any *anypb.Any) builder {
	m := &localratev3.LocalRateLimit{}
	if !unpack(r, path, any, m) {
		return nil
	}
	cfg := ratelimit.Config{
		Name: token(m.GetStatPrefix()), Status: int(m.GetStatus().GetCode()), Rand: c.opts.Rand,
		Enabled:  runtimeShare(r, join(path, "filter_enabled"), m.GetFilterEnabled(), 0),
		Enforced: runtimeShare(r, join(path, "filter_enforced"), m.GetFilterEnforced(), 0),
		Announce: m.GetEnableXRatelimitHeaders() != 0,
	}
	if cfg.Status != 0 && (cfg.Status < 400 || cfg.Status > 599) {
		r.add(join(path, "status.code"), "must be from 400 to 599")
	}
	b := m.GetTokenBucket()
	if b == nil {
		if cfg.Enabled > 0 {
			r.add(join(path, "token_bucket"), "is missing")
		}
		return func(string) snapshot.Filter { return nil }
	}
	fill := duration(r, join(path, "token_bucket.fill_interval"), b.GetFillInterval(), 0)
	tokens := int64(1)
	if t := b.GetTokensPerFill(); t != nil {
		tokens = int64(t.GetValue())
	}
	if b.GetMaxTokens() == 0 || tokens == 0 {
		r.add(join(path, "token_bucket"), "max_tokens and tokens_per_fill must be at least 1")
	}
	if fill < time.Millisecond {
		r.add(join(path, "token_bucket.fill_interval"), "must be at least 1 ms")
	}
	rate := limit.NewRate(tokens, int64(fill), int64(b.GetMaxTokens()))
	cfg.Quota, cfg.Window = tokens, int64((fill+time.Second-1)/time.Second)
	return func(identity string) snapshot.Filter {
		if cfg.Enabled == 0 {
			return nil
		}
		f := cfg
		f.Bucket = &limit.Bound{Bucket: c.opts.Limits.Bucket(identity), Rate: rate}
		f.Refused, f.Passed, f.Unenforced = c.rateCounter(f.Name, "refused"), c.rateCounter(f.Name, "passed"), c.rateCounter(f.Name, "unenforced")
		return ratelimit.New(f)
	}
}

func (c *Compiler) rateCounter(name, result string) *stat.Counter {
	return c.opts.Stats.Counter("outrigger_rate_limit_total", "Requests that met a local rate limit, by what became of them.",
		stat.Label{Name: "limit", Value: name}, stat.Label{Name: "result", Value: result})
}

// token makes a name that can stand in a RateLimit field.
func token(s string) string {
	s = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c) {
			return c
		}
		return '_'
	}, s)
	if s == "" {
		return "default"
	}
	return s
}

func readGRPCWeb(_ *Compiler, r *report, path string, any *anypb.Any) builder {
	if !unpack(r, path, any, &grpcwebv3.GrpcWeb{}) {
		return nil
	}
	return func(string) snapshot.Filter { return grpcweb.New() }
}

func readFault(c *Compiler, r *report, path string, any *anypb.Any) builder {
	m := &faultv3.HTTPFault{}
	if !unpack(r, path, any, m) {
		return nil
	}
	cfg := fault.Config{Rand: c.opts.Rand, MaxActive: int64(m.GetMaxActiveFaults().GetValue()), Headers: headerMatches(r, path, m.GetHeaders())}
	if m.GetMaxActiveFaults() != nil && cfg.MaxActive == 0 {
		return func(string) snapshot.Filter { return nil } // no fault may be active
	}
	if d := m.GetDelay(); d != nil {
		switch s := d.GetFaultDelaySecifier().(type) {
		case *commonfaultv3.FaultDelay_FixedDelay:
			cfg.Delay = duration(r, join(path, "delay.fixed_delay"), s.FixedDelay, 0)
		default:
			r.add(join(path, "delay"), "only fixed_delay is served by this sidecar")
		}
		cfg.DelayShare = million(r, join(path, "delay.percentage"), d.GetPercentage())
	}
	if a := m.GetAbort(); a != nil {
		switch s := a.GetErrorType().(type) {
		case *faultv3.FaultAbort_HttpStatus:
			if cfg.AbortStatus = int(s.HttpStatus); cfg.AbortStatus < 200 || cfg.AbortStatus > 599 {
				r.add(join(path, "abort.http_status"), "must be from 200 to 599")
			}
		case *faultv3.FaultAbort_GrpcStatus:
			cfg.GRPC, cfg.AbortGRPC = true, s.GrpcStatus
		default:
			r.add(join(path, "abort"), "only http_status and grpc_status are served by this sidecar")
		}
		cfg.AbortShare = million(r, join(path, "abort.percentage"), a.GetPercentage())
	}
	return func(identity string) snapshot.Filter {
		if cfg.DelayShare == 0 && cfg.AbortShare == 0 {
			return nil
		}
		f, place := cfg, stat.Label{Name: "place", Value: identity}
		f.Active = c.opts.Stats.Gauge("outrigger_faults_active", "Requests that are being delayed on purpose.", place)
		counter := func(kind string) *stat.Counter {
			return c.opts.Stats.Counter("outrigger_faults_total", "Faults that were injected, or not because too many were active.",
				place, stat.Label{Name: "fault", Value: kind})
		}
		f.Delayed, f.Aborted, f.Overflowed = counter("delay"), counter("abort"), counter("overflow")
		return fault.New(f)
	}
}

func readMutation(_ *Compiler, r *report, path string, any *anypb.Any) builder {
	m := &mutatev3.HeaderMutation{}
	if !unpack(r, path, any, m) {
		return nil
	}
	return mutations(r, join(path, "mutations"), m.GetMutations())
}

func readRouteMutation(_ *Compiler, r *report, path string, any *anypb.Any) builder {
	m := &mutatev3.HeaderMutationPerRoute{}
	if !unpack(r, path, any, m) {
		return nil
	}
	return mutations(r, join(path, "mutations"), m.GetMutations())
}

func mutations(r *report, path string, m *mutatev3.Mutations) builder {
	ops := func(field string, ms []*mutationv3.HeaderMutation, response bool) (out []headers.Op) {
		for i, h := range ms {
			p := at(path, field, i)
			switch a := h.GetAction().(type) {
			case *mutationv3.HeaderMutation_Remove:
				out = append(out, headers.Op{Action: headers.Remove, Name: fieldName(r, join(p, "remove"), a.Remove)})
			case *mutationv3.HeaderMutation_Append:
				out = append(out, headerOp(r, join(p, "append"), a.Append, response))
			default:
				r.add(p, "says nothing to do")
			}
		}
		return out
	}
	req := ops("request_mutations", m.GetRequestMutations(), false)
	resp := ops("response_mutations", m.GetResponseMutations(), true)
	return func(string) snapshot.Filter {
		if len(req)+len(resp) == 0 {
			return nil
		}
		return headers.New(req, resp)
	}
}

// headerFields are the four lists that route configurations, virtual hosts, routes and weighted clusters have.
type headerFields interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

// headerOps are one level's operations; removals come first, as in Envoy.
type headerOps struct{ request, response []headers.Op }

func readHeaderOps(r *report, path string, m headerFields) (o headerOps) {
	for i, n := range m.GetRequestHeadersToRemove() {
		o.request = append(o.request, headers.Op{Action: headers.Remove, Name: fieldName(r, at(path, "request_headers_to_remove", i), n)})
	}
	for i, h := range m.GetRequestHeadersToAdd() {
		o.request = append(o.request, headerOp(r, at(path, "request_headers_to_add", i), h, false))
	}
	for i, n := range m.GetResponseHeadersToRemove() {
		o.response = append(o.response, headers.Op{Action: headers.Remove, Name: fieldName(r, at(path, "response_headers_to_remove", i), n)})
	}
	for i, h := range m.GetResponseHeadersToAdd() {
		o.response = append(o.response, headerOp(r, at(path, "response_headers_to_add", i), h, true))
	}
	return o
}

// headerFilter joins the levels' operations in the order given; nil where there are none.
func headerFilter(levels ...headerOps) snapshot.Filter {
	var req, resp []headers.Op
	for _, l := range levels {
		req, resp = append(req, l.request...), append(resp, l.response...)
	}
	if len(req)+len(resp) == 0 {
		return nil
	}
	return headers.New(req, resp)
}

func headerOp(r *report, path string, h *corev3.HeaderValueOption, response bool) headers.Op {
	op := headers.Op{Name: fieldName(r, join(path, "header.key"), h.GetHeader().GetKey()), KeepEmpty: h.GetKeepEmptyValue()}
	v, err := headers.Parse(h.GetHeader().GetValue(), response)
	if err != nil {
		r.add(join(path, "header.value"), "%v", err)
	}
	op.Value = v
	switch h.GetAppendAction() {
	case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
		if a := h.GetAppend(); a != nil && !a.GetValue() { //nolint:staticcheck // deprecated, and still what many servers emit
			op.Action = headers.Overwrite
		}
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		op.Action = headers.AddIfAbsent
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		op.Action = headers.Overwrite
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		op.Action = headers.OverwriteIfExist
	default:
		r.add(join(path, "append_action"), "%v is not served by this sidecar", h.GetAppendAction())
	}
	return op
}

// fieldName checks a field's name. What frames a message, or belongs to the head's first line, cannot be changed so.
func fieldName(r *report, path, name string) string {
	n := strings.ToLower(name)
	switch {
	case n == "":
		r.add(path, "is missing")
	case n[0] == ':' || n == "host":
		r.add(path, "%q cannot be changed by a header operation", name)
	default:
		for i := range len(n) {
			if c := n[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
				r.add(path, "%q is not a field's name", name)
				return n
			}
		}
		switch exchange.Lookup(n) {
		case exchange.Connection, exchange.TransferEncoding, exchange.ContentLength, exchange.Upgrade, exchange.KeepAlive,
			exchange.ProxyConnection, exchange.TE, exchange.Trailer, exchange.HTTP2Settings:
			r.add(path, "%q frames the message and cannot be changed", name)
		}
	}
	return n
}
