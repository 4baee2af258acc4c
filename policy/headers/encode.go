package headers

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// MaxOperations is how many fields may be named in each direction; Envoy takes no more.
const MaxOperations = 1000

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List {
	l := schema.Check(path, s)
	if s.Request == nil && s.Response == nil {
		l.Add(path, "says nothing", "request or response")
	}
	s.Request.validate(path+".request", &l)
	s.Response.validate(path+".response", &l)
	return l
}

func (o *Operations) validate(path string, l *violation.List) {
	if o == nil {
		return
	}
	n := len(o.Set) + len(o.Add) + len(o.Remove)
	switch {
	case n == 0:
		l.Add(path, "says nothing", "set, add or remove")
	case n > MaxOperations:
		l.Add(path, fmt.Sprintf("names %d fields", n), fmt.Sprintf("at most %d", MaxOperations))
	}
	seen := map[string]string{} // lower-case name to where it was
	name := func(at, what, field string) {
		lower := strings.ToLower(field)
		switch {
		case !schema.IsToken(field):
			l.Add(at, fmt.Sprintf("%q is no name of a header field", field), "letters, digits and -")
			return
		case slices.Contains(framing, lower):
			l.Add(at, field+" cannot be changed: it says how messages are told apart", "another field")
		case lower == "host":
			l.Add(at, "Host is not changed here", "rewrite.host of a Route")
		case strings.HasPrefix(lower, "x-outrigger-"):
			l.Add(at, field+" is used between sidecars", "another field")
		}
		if other, dup := seen[lower]; dup {
			l.Add(at, fmt.Sprintf("%s is under %s too", field, other), "one operation for each field; names are compared without regard to case")
		}
		seen[lower] = what
	}
	for _, f := range slices.Sorted(maps.Keys(o.Set)) {
		at := violation.Entry(path+".set", f)
		name(at, "set", f)
		value(at, o.Set[f], l)
	}
	for _, f := range slices.Sorted(maps.Keys(o.Add)) {
		at := violation.Entry(path+".add", f)
		name(at, "add", f)
		value(at, o.Add[f], l)
	}
	for i, f := range o.Remove {
		name(violation.Index(path+".remove", i), "remove", f)
	}
}

// framing are the fields of RFC 9112 §6 and RFC 9110 §7.6.1.
var framing = []string{"content-length", "transfer-encoding", "connection", "upgrade", "keep-alive", "proxy-connection", "te", "trailer"}

func value(path, v string, l *violation.List) {
	switch {
	case strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		l.Add(path, "holds a line break or another control character", "text on one line")
	case len(v) > 16384:
		l.Add(path, fmt.Sprintf("has %d bytes", len(v)), "at most 16384")
	case v != strings.TrimSpace(v):
		l.Add(path, "begins or ends with a space, which does not arrive", "the value without it")
	}
}

// Merge returns what holds where base is written for the wider scope and over for the narrower one: both do what they
// say, and where both name a field, over's operation alone. Either may be nil.
func Merge(base, over *Spec) *Spec {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	return &Spec{Request: merge(base.Request, over.Request), Response: merge(base.Response, over.Response)}
}

func merge(base, over *Operations) *Operations {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	named := map[string]bool{}
	m := &Operations{Set: map[string]string{}, Add: map[string]string{}}
	for f, v := range over.Set {
		m.Set[f], named[strings.ToLower(f)] = v, true
	}
	for f, v := range over.Add {
		m.Add[f], named[strings.ToLower(f)] = v, true
	}
	for _, f := range over.Remove {
		m.Remove, named[strings.ToLower(f)] = append(m.Remove, f), true
	}
	for f, v := range base.Set {
		if !named[strings.ToLower(f)] {
			m.Set[f] = v
		}
	}
	for f, v := range base.Add {
		if !named[strings.ToLower(f)] {
			m.Add[f] = v
		}
	}
	for _, f := range base.Remove {
		if !named[strings.ToLower(f)] {
			m.Remove = append(m.Remove, f)
		}
	}
	return m
}

// Encode adds to request_headers_to_add, request_headers_to_remove and the same of responses, of the route. Envoy
// removes before it adds.
func Encode(s *Spec, r *routev3.Route) {
	if s == nil {
		return
	}
	if o := s.Request; o != nil {
		r.RequestHeadersToRemove = append(r.RequestHeadersToRemove, lower(o.Remove)...)
		r.RequestHeadersToAdd = append(r.RequestHeadersToAdd, options(o)...)
	}
	if o := s.Response; o != nil {
		r.ResponseHeadersToRemove = append(r.ResponseHeadersToRemove, lower(o.Remove)...)
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, options(o)...)
	}
}

func lower(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, strings.ToLower(n))
	}
	slices.Sort(out)
	return out
}

func options(o *Operations) (out []*corev3.HeaderValueOption) {
	add := func(m map[string]string, action corev3.HeaderValueOption_HeaderAppendAction) {
		for _, f := range slices.Sorted(maps.Keys(m)) {
			out = append(out, &corev3.HeaderValueOption{
				// A % begins a command in Envoy's values.
				Header:         &corev3.HeaderValue{Key: strings.ToLower(f), Value: strings.ReplaceAll(m[f], "%", "%%")},
				AppendAction:   action,
				KeepEmptyValue: m[f] == "",
			})
		}
	}
	add(o.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	add(o.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	return out
}
