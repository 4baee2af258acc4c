package snapshot

import "strings"

// Template is a compiled path template: /users/{id} takes one segment for {id}, {rest=**} at the end takes
// what is left. Variables hold no slash and are never empty, but for the rest.
type Template struct {
	parts []templatePart
	rest  bool // the last part takes all that is left
}

type templatePart struct {
	literal, name string
	variable      bool
}

// TemplateError says why a template cannot be used.
type TemplateError struct{ Template, Reason string }

func (e *TemplateError) Error() string { return "path template " + e.Template + ": " + e.Reason }

// ParseTemplate compiles s.
func ParseTemplate(s string) (*Template, error) {
	bad := func(why string) (*Template, error) { return nil, &TemplateError{s, why} }
	if !strings.HasPrefix(s, "/") {
		return bad("must begin with /")
	}
	t := &Template{}
	segs := strings.Split(s[1:], "/")
	for i, seg := range segs {
		switch {
		case seg == "*":
			t.parts = append(t.parts, templatePart{variable: true})
		case seg == "**" || strings.HasPrefix(seg, "{") && strings.HasSuffix(seg, "=**}"):
			if i != len(segs)-1 {
				return bad("** must be last")
			}
			if seg != "**" && (len(seg) < len("{x=**}") || strings.ContainsAny(seg[1:len(seg)-len("=**}")], "{}*=")) {
				return bad("a variable is {name}, {name=*} or, last, {name=**}")
			}
			t.rest = true
		case strings.HasPrefix(seg, "{") && strings.HasSuffix(seg, "}"):
			name, pattern, ok := strings.Cut(seg[1:len(seg)-1], "=")
			if name == "" || strings.ContainsAny(name, "{}*") || ok && pattern != "*" {
				return bad("a variable is {name}, {name=*} or, last, {name=**}")
			}
			t.parts = append(t.parts, templatePart{name: name, variable: true})
		case strings.ContainsAny(seg, "{}*"):
			return bad("a variable must be a whole segment")
		default:
			t.parts = append(t.parts, templatePart{literal: seg})
		}
	}
	return t, nil
}

// Match says whether the template takes a path (without query).
func (t *Template) Match(path string) bool { return t.walk(path, "", nil) }

// Value returns what the template's variable of that name takes of path.
func (t *Template) Value(path, name string) (string, bool) {
	var v string
	if t.walk(path, name, &v) && v != "" {
		return v, true
	}
	return "", false
}

func (t *Template) walk(path, name string, value *string) bool {
	if len(path) == 0 || path[0] != '/' {
		return false
	}
	p := path[1:]
	for i := range t.parts {
		part := &t.parts[i]
		n := strings.IndexByte(p, '/')
		seg := p
		if n >= 0 {
			seg = p[:n]
		}
		if part.variable {
			if seg == "" {
				return false
			}
			if value != nil && part.name == name {
				*value = seg
			}
		} else if seg != part.literal {
			return false
		}
		last := i == len(t.parts)-1
		switch {
		case n < 0:
			return last && !t.rest // what stands for the rest comes after a slash
		case last && !t.rest:
			return false
		}
		p = p[n+1:]
	}
	return t.rest
}
