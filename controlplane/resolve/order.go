package resolve

import (
	"cmp"
	"slices"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
)

// sortRules puts rules in the order of the Gateway API (HTTPRouteRule, GRPCRouteRule): exact path, longest path,
// method, most headers, most query parameters, then the route's name and the order written (rules come sorted by
// those two). A gRPC method counts as an exact path, a gRPC service as a prefix.
func sortRules(rules []model.Rule) {
	slices.SortStableFunc(rules, func(a, b model.Rule) int {
		return cmp.Or(
			comparePaths(path(a.Match), path(b.Match)),
			cmp.Compare(given(b.Match.Method), given(a.Match.Method)),
			cmp.Compare(len(b.Match.Headers), len(a.Match.Headers)),
			cmp.Compare(len(b.Match.Query), len(a.Match.Query)),
		)
	})
}

// path is a rule's condition on the path, the one that a gRPC method is included.
func path(m resource.RouteMatch) *resource.PathMatch {
	switch {
	case m.GRPC == "":
		return m.Path
	case strings.Contains(m.GRPC, "/"):
		return &resource.PathMatch{Exact: "/" + m.GRPC}
	}
	return &resource.PathMatch{Prefix: "/" + m.GRPC + "/"}
}

func given(s string) int {
	if s == "" {
		return 0
	}
	return 1
}

// comparePaths orders conditions on a path: what takes fewer paths first. Of the kinds that the Gateway API leaves to
// the implementation, templates come after exact paths, by their literal length among prefixes, and regular
// expressions after them.
func comparePaths(a, b *resource.PathMatch) int {
	ka, la := rank(a)
	kb, lb := rank(b)
	return cmp.Or(cmp.Compare(ka, kb), cmp.Compare(lb, la))
}

func rank(p *resource.PathMatch) (kind, length int) {
	switch {
	case p == nil:
		return 3, 0
	case p.Exact != "":
		return 0, len(p.Exact)
	case p.Template != "":
		n, depth := 0, 0
		for _, c := range p.Template {
			switch {
			case c == '{':
				depth++
			case c == '}':
				depth--
			case depth == 0:
				n++
			}
		}
		return 1, n
	case p.Regex != "":
		return 2, len(p.Regex)
	case p.Segments != "":
		return 1, len(p.Segments)
	}
	return 1, len(p.Prefix)
}
