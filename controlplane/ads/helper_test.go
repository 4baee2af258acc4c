package ads

import "strings"

// policies make use of what xDS has places for.
const policies = `
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: orders}
spec:
  service: orders
  balance: {strategy: least-connections}
  retry: {attempts: 3, perTry: 1s}
  methods:
  - match: {method: GET, path: "/users/{id}"}
    timeout: 2s
    headers: {request: {set: {x-a: b}}}
---
apiVersion: outrigger.dev/v1
kind: Route
metadata: {name: beta}
spec:
  service: orders
  rules:
  - {match: {path: /v2, headers: {x-beta: "1"}}, to: [{version: 2.0.0}], rewrite: {path: /}}
  - {match: {path: {exact: /old}}, redirect: {path: /new, status: 308}}
  - {match: {path: {regex: "/r[0-9]+"}, query: {q: {present: true}}}, direct: {status: 404, body: gone}}
`

// without drops the first document that contains text.
func without(docs, text string) string {
	var out []string
	dropped := false
	for _, d := range strings.Split(docs, "\n---\n") {
		if !dropped && strings.Contains(d, text) {
			dropped = true
			continue
		}
		out = append(out, d)
	}
	return strings.Join(out, "\n---\n")
}

// has says whether any node was sent a resource of that name and not its removal.
func (m *mesh) has(name string) bool {
	for _, n := range m.Status() {
		for _, r := range n.Resources {
			if r.Name == name {
				return true
			}
		}
	}
	return false
}
