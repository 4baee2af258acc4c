package resolve

import (
	"fmt"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/policy/balance"
	"github.com/outrigger-mesh/outrigger/policy/fault"
	"github.com/outrigger-mesh/outrigger/policy/headers"
	"github.com/outrigger-mesh/outrigger/policy/limit"
	"github.com/outrigger-mesh/outrigger/policy/outlier"
	"github.com/outrigger-mesh/outrigger/policy/ratelimit"
	"github.com/outrigger-mesh/outrigger/policy/retry"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

// policies merges TrafficPolicies: a service's own, then, for each version, that version's over it. Where several are
// for the same service and version, what the first by name says holds.
func (r *resolver) policies(sorted []*resource.Resource) {
	own := map[*model.Version]*model.Policy{}
	resource.Of(sorted, func(res *resource.Resource, p *resource.TrafficPolicy) {
		s := r.named(res, "spec.service", p.Service)
		if s == nil {
			return
		}
		said := policyOf(p)
		if p.Version == "" {
			s.Policy = over(s.Policy, said)
			return
		}
		v := s.Version(p.Version)
		if v == nil {
			r.violation(res, "spec.version", "service %q has no version %q", s.Name, p.Version)
			return
		}
		if own[v] != nil {
			said = over(*own[v], said)
		}
		own[v] = &said
	})
	for _, s := range r.m.Services {
		for _, v := range s.Versions {
			v.Policy = s.Policy
			if own[v] != nil {
				v.Policy = over(*own[v], s.Policy)
			}
			complete(&v.Policy)
		}
		complete(&s.Policy)
	}
}

func policyOf(p *resource.TrafficPolicy) model.Policy {
	out := model.Policy{MethodPolicies: p.MethodPolicies, Balance: p.Balance, Outlier: p.Outlier, Limits: p.Limits}
	for _, m := range p.Methods {
		out.Methods = append(out.Methods, model.Method{Match: m.Match, MethodPolicies: m.MethodPolicies})
	}
	return out
}

// over is what p and base say together; p holds. Its methods are tried first.
func over(p, base model.Policy) model.Policy {
	out := model.Policy{
		MethodPolicies: merge(p.MethodPolicies, base.MethodPolicies),
		Balance:        balance.Merge(base.Balance, p.Balance),
		Outlier:        outlier.Merge(base.Outlier, p.Outlier),
		Limits:         limit.Merge(base.Limits, p.Limits),
	}
	out.Methods = append(append(out.Methods, p.Methods...), base.Methods...)
	return out
}

// complete merges what holds for all methods into each of them.
func complete(p *model.Policy) {
	methods := make([]model.Method, len(p.Methods))
	for i, m := range p.Methods {
		methods[i] = model.Method{Match: m.Match, MethodPolicies: merge(m.MethodPolicies, p.MethodPolicies)}
	}
	p.Methods = methods
	if len(methods) == 0 {
		p.Methods = nil
	}
}

// merge lays p over base, policy by policy, as each policy says.
func merge(p, base resource.MethodPolicies) resource.MethodPolicies {
	return resource.MethodPolicies{
		Timeout:   timeout.Merge(base.Timeout, p.Timeout),
		Retry:     retry.Merge(base.Retry, p.Retry),
		RateLimit: ratelimit.Merge(base.RateLimit, p.RateLimit),
		Fault:     fault.Merge(base.Fault, p.Fault),
		Headers:   headers.Merge(base.Headers, p.Headers),
	}
}

func (r *resolver) route(res *resource.Resource, spec *resource.Route) {
	s := r.named(res, "spec.service", spec.Service)
	if s == nil {
		return
	}
	for i, rule := range spec.Rules {
		out := model.Rule{
			Name: fmt.Sprintf("%s/%d", res.Name(), i), Rewrite: rule.Rewrite, Redirect: rule.Redirect, Direct: rule.Direct,
			Headers: rule.Headers, Timeout: rule.Timeout,
			To: r.weighted(res, s, fmt.Sprintf("spec.rules[%d].to", i), rule.To),
		}
		if rule.Match != nil {
			out.Match = *rule.Match
		}
		if len(rule.To) > 0 && len(out.To) == 0 {
			continue // every destination is missing: a violation each, and the rule would otherwise take calls astray
		}
		s.Rules = append(s.Rules, out)
	}
}
