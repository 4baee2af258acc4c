package controlplane

import (
	"reflect"
	"testing"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/ads"
)

func TestNotCarried(t *testing.T) {
	const head = "apiVersion: outrigger.dev/v1\nmetadata: {name: x}\n"
	policy := head + `kind: TrafficPolicy
spec:
  service: orders
  timeout: 2s
  balance: {strategy: random}
  limits: {connections: 5, pending: 5, requests: 5}
  methods:
    - {match: {method: GET}, retry: {attempts: 2}, rateLimit: {max: 1, window: 1s}, headers: {request: {set: {x-a: b}}}}
`
	route := head + `kind: Route
spec:
  service: orders
  rules:
    - {match: {query: {debug: "1"}}, rewrite: {path: /}}
    - {match: {path: /old}, redirect: {path: /new}}
`
	const retry = "retry (budget, back-off; the nearest standard policy stands in)"
	for _, c := range []struct {
		name, doc, kind string
		external        bool
		want            []string
	}{
		{"Envoy", policy, ads.KindEnvoy, false, []string{retry}},
		{"gRPC", policy, ads.KindGRPC, false, []string{retry, "headers", "balance (round-robin stands in)", "limits.connections", "limits.pending"}},
		{"gRPC to what has no sidecar", policy, ads.KindGRPC, true, []string{retry, "headers", "rateLimit", "balance (round-robin stands in)", "limits.connections", "limits.pending"}},
		{"Envoy, rules", route, ads.KindEnvoy, false, nil},
		{"gRPC, rules", route, ads.KindGRPC, false, []string{"rewrite", "rules with conditions on the query", "redirect (such calls fail)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rs, bad := resource.Parse("", []byte(c.doc))
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			if got := notCarried(rs[0], c.kind, c.external); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
