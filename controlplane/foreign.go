package controlplane

import (
	"slices"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/ads"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
)

// notCarried names what a foreign client leaves out of a resource: what Envoy or proxyless gRPC has no field for, or a
// field that it does not read (gRFC A28, A37, A42). external: the service has no sidecars, so that its callers do the
// callee's part too.
func notCarried(r *resource.Resource, kind string, external bool) []string {
	var out []string
	add := func(there bool, name string) {
		if there && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	grpc := kind == ads.KindGRPC
	switch t := r.Spec.(type) {
	case *resource.TrafficPolicy:
		parts := []resource.MethodPolicies{t.MethodPolicies}
		for _, m := range t.Methods {
			parts = append(parts, m.MethodPolicies)
		}
		for _, mp := range parts {
			add(mp.Retry != nil, "retry (budget, back-off; the nearest standard policy stands in)")
			add(grpc && mp.Headers != nil, "headers")
			add(grpc && external && mp.RateLimit != nil, "rateLimit")
			add(grpc && external && mp.Fault != nil, "fault")
		}
		add(grpc && t.Balance != nil && t.Balance.Strategy == "random", "balance (round-robin stands in)")
		add(grpc && t.Limits != nil && t.Limits.Connections != nil, "limits.connections")
		add(grpc && t.Limits != nil && t.Limits.Pending != nil, "limits.pending")
	case *resource.External:
		add(grpc && t.TLS != nil, "tls (a proxyless gRPC client takes no certificates from files: calls to it fail)")
	case *resource.Route:
		if !grpc {
			return nil
		}
		for _, rule := range t.Rules {
			add(rule.Headers != nil, "headers")
			add(rule.Rewrite != nil, "rewrite")
			add(rule.Redirect != nil, "redirect (such calls fail)")
			add(rule.Direct != nil, "direct (such calls fail)")
			add(rule.Match != nil && len(rule.Match.Query) > 0, "rules with conditions on the query")
		}
	}
	return out
}

// outside says whether the service that a resource is about runs outside the mesh.
func outside(m *model.Model, x *stored) bool {
	if m == nil {
		return false
	}
	name := aboutService(x.res)
	for _, s := range m.Services {
		if s.Tenant == x.key.Tenant && s.Name == name {
			return s.External
		}
	}
	return false
}

func foreignOf(node string) (ads.Foreign, bool) {
	p := strings.Split(node, "~")
	if len(p) != 4 {
		return ads.Foreign{}, false
	}
	return ads.Foreign{Kind: p[0], Tenant: p[1], Service: p[2]}, true
}

// nodeName is a foreign client's id without its signature, which is a secret.
func nodeName(f ads.Foreign) string { return f.Kind + "~" + f.Tenant + "~" + f.Service }
