package resource

import (
	"fmt"
	"net/textproto"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/policy/timeout"
)

func (t *TrafficPolicy) check(l *Violations) {
	if t.Balance != nil {
		*l = append(*l, t.Balance.Validate("spec.balance")...)
	}
	if t.Outlier != nil {
		*l = append(*l, t.Outlier.Validate("spec.outlier")...)
	}
	if t.Limits != nil {
		*l = append(*l, t.Limits.Validate("spec.limits")...)
	}
	t.MethodPolicies.check("spec", l)
	seen := map[string]int{}
	for i := range t.Methods {
		m := &t.Methods[i]
		at := violation.Index("spec.methods", i)
		m.MethodPolicies.check(at, l)
		if m.Retry != nil && m.Retry.Budget != nil {
			l.Add(at+".retry.budget", "is one for all calls to the service", "write it under spec.retry.budget")
		}
		checkCallMatch(at+".match", m.Match.Path, m.Match.Method, m.Match.GRPC, l)
		if m.Match.Path != nil {
			m.Match.Path.check(at+".match.path", "template", l)
		}
		if m.Match == (MethodMatch{}) {
			continue // said to be missing
		}
		key := m.Match.Method + " " + m.Match.Path.String() + " " + m.Match.GRPC
		if j, dup := seen[key]; dup {
			l.Add(at+".match", fmt.Sprintf("takes the same calls as methods[%d], which comes first", j), "one entry for both")
		} else {
			seen[key] = i
		}
	}
}

func (m *MethodPolicies) check(path string, l *Violations) {
	if m.Timeout != nil {
		*l = append(*l, m.Timeout.Validate(path+".timeout")...)
	}
	if m.Retry != nil {
		*l = append(*l, m.Retry.Validate(path+".retry")...)
		if m.Retry.PerTry != nil && m.Timeout != nil {
			perTryWithin(path+".retry.perTry", *m.Retry.PerTry, m.Timeout.Overall, l)
			if p := m.Timeout.PerTry; p != nil && *p != *m.Retry.PerTry {
				l.Add(path+".retry.perTry", "differs from timeout.perTry", "write it in one of the two places")
			}
		}
	}
	if m.RateLimit != nil {
		*l = append(*l, m.RateLimit.Validate(path+".rateLimit")...)
	}
	if m.Fault != nil {
		*l = append(*l, m.Fault.Validate(path+".fault")...)
	}
	if m.Headers != nil {
		*l = append(*l, m.Headers.Validate(path+".headers")...)
	}
}

func perTryWithin(path string, perTry time.Duration, overall *time.Duration, l *Violations) {
	if overall != nil && *overall > 0 && perTry > *overall {
		l.Add(path, fmt.Sprintf("%s is longer than the overall timeout %s", schema.FormatDuration(perTry), schema.FormatDuration(*overall)),
			"at most the overall timeout")
	}
}

func checkCallMatch(path string, p *PathMatch, method, grpc string, l *Violations) {
	if grpc != "" && p != nil {
		l.Add(path+".grpc", "is written beside path", "either: a gRPC method is a path")
	}
	if grpc != "" && method != "" && method != "POST" {
		l.Add(path+".grpc", "is written beside method "+method, "leave the method out: gRPC uses POST")
	}
}

// String is the condition as text, "" for nil.
func (p *PathMatch) String() string {
	switch {
	case p == nil:
		return ""
	case p.Segments != "":
		return p.Segments
	case p.Exact != "":
		return "exact " + p.Exact
	case p.Template != "":
		return "template " + p.Template
	case p.Regex != "":
		return "regex " + p.Regex
	case p.Prefix != "":
		return "prefix " + p.Prefix
	}
	return ""
}

// check finds what is wrong with a path; short is the field that a plain string stands for.
func (p *PathMatch) check(path, short string, l *Violations) {
	n := 0
	for _, s := range []string{p.Segments, p.Exact, p.Template, p.Regex, p.Prefix} {
		if s != "" {
			n++
		}
	}
	if n != 1 {
		l.Add(path, "says not one way to compare", "a string, or exactly one of {exact}, {template}, {regex}, {prefix}, {segments}")
	}
	if p.Template != "" {
		checkPathTemplate(at(path, short, "template"), p.Template, l)
	}
	if strings.ContainsAny(p.Segments, "{}*") {
		l.Add(at(path, short, "segments"), fmt.Sprintf("%s is compared as it is, braces and stars too", p.Segments), "{template: "+p.Segments+"}")
	}
}

// at is the path of a field, which is the value itself where it was written in the short form; where it was not, the
// place is found all the same, since it lies within.
func at(path, short, field string) string {
	if short == field {
		return path
	}
	return path + "." + field
}

func (r *Route) check(l *Violations) {
	for i := range r.Rules {
		rule := &r.Rules[i]
		path := violation.Index("spec.rules", i)
		if m := rule.Match; m != nil {
			m.check(path+".match", l)
		}
		checkWeights(path+".to", rule.To, l)
		n := 0
		for _, set := range []bool{len(rule.To) > 0, rule.Redirect != nil, rule.Direct != nil} {
			if set {
				n++
			}
		}
		if n > 1 {
			l.Add(path, "says more than one of to, redirect and direct", "one of them")
		}
		if rule.Rewrite != nil && (rule.Redirect != nil || rule.Direct != nil) {
			l.Add(path+".rewrite", "has no effect: the call is answered here", "leave it out")
		}
		if rule.Timeout != nil && (rule.Redirect != nil || rule.Direct != nil) {
			l.Add(path+".timeout", "has no effect: the call is answered here", "leave it out")
		}
		if n == 0 && rule.Rewrite == nil && rule.Headers == nil && rule.Timeout == nil {
			l.Add(path, "does nothing", "to, redirect, direct, rewrite, headers or timeout")
		}
		checkRewrite(path+".rewrite", rule.Rewrite, l)
		if rd := rule.Redirect; rd != nil && *rd == (Redirect{Status: rd.Status}) {
			l.Add(path+".redirect", "leads back to where it came from", "at least one of scheme, host, port and path")
		}
		if rule.Timeout != nil {
			*l = append(*l, rule.Timeout.Validate(path+".timeout")...)
			checkRuleTimeout(path+".timeout", rule.Timeout, l)
		}
		if rule.Headers != nil {
			*l = append(*l, rule.Headers.Validate(path+".headers")...)
		}
	}
}

func checkRuleTimeout(path string, t *timeout.Spec, l *Violations) {
	if t.Overall == nil && t.PerTry == nil && t.Idle == nil {
		l.Add(path, "says nothing", "a duration such as 2s, or {overall, perTry, idle}")
	}
}

func checkRewrite(path string, r *Rewrite, l *Violations) {
	if r != nil && *r == (Rewrite{}) {
		l.Add(path, "says nothing", "path or host")
	}
}

func (m *RouteMatch) check(path string, l *Violations) {
	checkCallMatch(path, m.Path, m.Method, m.GRPC, l)
	if m.Path != nil {
		m.Path.check(path+".path", "segments", l)
	}
	lower := map[string]string{}
	for name, v := range m.Headers {
		at := violation.Entry(path+".headers", name)
		if !schema.IsToken(strings.TrimPrefix(name, ":")) {
			l.Add(at, fmt.Sprintf("%q is no name of a header field", name), "letters, digits and -")
		}
		if strings.HasPrefix(name, ":") {
			l.Add(at, fmt.Sprintf("%q is no header field", name), "match.path or match.method")
		}
		c := textproto.CanonicalMIMEHeaderKey(name)
		if other, dup := lower[c]; dup {
			l.Add(violation.Entry(path+".headers", max(name, other)), fmt.Sprintf("is the same field as %s", min(name, other)), "keep one: names are compared without regard to case")
		}
		lower[c] = name
		v.check(at, l)
	}
	for name, v := range m.Query {
		v.check(violation.Entry(path+".query", name), l)
	}
}

func (v ValueMatch) check(path string, l *Violations) {
	n := 0
	for _, set := range []bool{v.Exact != nil, v.Prefix != "", v.Suffix != "", v.Regex != "", v.Present != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		l.Add(path, "says not one way to compare", "a string, or exactly one of {exact}, {prefix}, {suffix}, {regex}, {present}")
	}
}
