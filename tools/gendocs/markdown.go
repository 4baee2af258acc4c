package main

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/internal/schema"
)

const intro = `# Resources

<!-- Generated from the Go types by tools/gendocs. Change the types and their comments, then run make generate. -->

Resources are written in YAML, in one or more documents a file, or in JSON. Each has the fields

| Field | What |
|---|---|
| ` + "`apiVersion`" + ` | ` + "`outrigger.dev/v1`" + `; it may be left out in all documents of a file but the first |
| ` + "`kind`" + ` | one of the kinds below |
| ` + "`metadata`" + ` | its name and owner, see [Metadata](#metadata) |
| ` + "`spec`" + ` | what it says, see its kind |

A resource is identified by its tenant, kind and name, a Service also by its version. A field that is not listed here is
refused, and so is a list or value that does not fit. What is not written has its default; it is not filled in.

Durations have a unit: ` + "`250ms`, `10s`, `5m`, `1h30m`" + `. Bytes are a number, or one with ` + "`Ki`, `Mi` or `Gi`" + `.
`

// writer writes the page. Objects that stand in several places are described once, at the end.
type writer struct {
	bytes.Buffer
	c      comments
	err    error
	places map[reflect.Type]int
	shared []reflect.Type
}

func markdown(c comments) ([]byte, error) {
	w := &writer{c: c, places: map[reflect.Type]int{}}
	for _, s := range kinds() {
		w.count(reflect.TypeOf(s).Elem(), map[reflect.Type]bool{})
	}
	w.WriteString(intro)
	w.object("Metadata", "metadata", reflect.TypeOf(resource.Metadata{}), 2)
	for _, s := range kinds() {
		w.object(string(s.Kind()), "spec", reflect.TypeOf(s).Elem(), 2)
	}
	fmt.Fprintf(w, "\n# Objects that stand in several places\n")
	for i := 0; i < len(w.shared); i++ {
		t := w.shared[i]
		w.object(title(t), "", t, 2)
	}
	fmt.Fprintf(w, "\n# Formats\n\n| Format | What |\n|---|---|\n")
	formats := schema.Formats()
	for _, name := range slices.Sorted(maps.Keys(formats)) {
		fmt.Fprintf(w, "| %s | %s |\n", name, formats[name])
	}
	return w.Bytes(), w.err
}

// count counts in how many places each object stands.
func (w *writer) count(t reflect.Type, within map[reflect.Type]bool) {
	if within[t] {
		return
	}
	within[t] = true
	for _, f := range schema.Of(t).Fields {
		if b := base(f.Type); object(b) {
			if w.places[b]++; w.places[b] == 1 {
				w.count(b, within)
			}
		}
	}
	delete(within, t)
}

// title names a shared object: "PathMatch", "headers", "retry.Backoff".
func title(t reflect.Type) string {
	if pkg := t.PkgPath(); strings.Contains(pkg, "/policy/") {
		name := pkg[strings.LastIndex(pkg, "/")+1:]
		if t.Name() == "Spec" {
			return name
		}
		return name + "." + t.Name()
	}
	return t.Name()
}

// object writes a section: what the object is, its fields, and the objects within.
func (w *writer) object(name, path string, t reflect.Type, level int) {
	fmt.Fprintf(w, "\n%s %s\n\n", strings.Repeat("#", level), name)
	doc := w.c.of(t)
	if doc == "" {
		w.err = fmt.Errorf("type %s has no comment", t)
	}
	fmt.Fprintf(w, "%s\n\n", sentence(doc, t.Name(), ""))
	s := schema.Of(t)
	fmt.Fprintf(w, "| Field | Type | Allowed | Default | Example | What |\n|---|---|---|---|---|---|\n")
	var inner []*schema.Field
	for i := range s.Fields {
		f := &s.Fields[i]
		w.row(f, path)
		if b := base(f.Type); object(b) {
			if w.places[b] > 1 {
				if !slices.Contains(w.shared, b) {
					w.shared = append(w.shared, b)
				}
			} else {
				inner = append(inner, f)
			}
		}
	}
	if len(s.Later) > 0 {
		fmt.Fprintf(w, "\nNot served by this version, and refused: %s.\n", code(s.Later))
	}
	for _, f := range inner {
		at := f.Name
		if path != "" {
			at = path + "." + f.Name
		}
		if f.Type.Kind() == reflect.Slice {
			at += "[]"
		}
		w.object("`"+at+"`", at, base(f.Type), min(level+1, 4))
	}
}

func (w *writer) row(f *schema.Field, path string) {
	doc := w.c.field(f.Owner, f.GoName)
	if doc == "" {
		w.err = fmt.Errorf("field %s of %s has no comment", f.GoName, f.Owner)
	}
	kind := schema.TypeName(f)
	if b := base(f.Type); object(b) && w.places[b] > 1 {
		kind = strings.Replace(kind, "object", "["+title(b)+"](#"+anchor(title(b))+")", 1)
	}
	def := f.Default
	if f.Required {
		def = "**required**"
	}
	fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s | %s |\n", f.Name, kind, allowed(f), cell(def), cell(ticks(f.Example)), cell(sentence(doc, f.GoName, f.Name)))
}

// allowed tells range, values and format.
func allowed(f *schema.Field) string {
	var out []string
	if len(f.Enum) > 0 {
		out = append(out, code(f.Enum))
	}
	if len(f.Later) > 0 {
		out = append(out, "not yet: "+strings.Join(f.Later, ", "))
	}
	switch {
	case f.Min != "" && f.Max != "":
		out = append(out, f.Min+" to "+f.Max)
	case f.Min != "":
		out = append(out, "at least "+f.Min)
	case f.Max != "":
		out = append(out, "at most "+f.Max)
	}
	if f.Format != "" {
		out = append(out, "[format "+f.Format+"](#formats)")
	}
	if f.MaxItems > 0 {
		out = append(out, fmt.Sprintf("at most %d entries", f.MaxItems))
	}
	return cell(strings.Join(out, "; "))
}

func code(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }

func ticks(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func anchor(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, ".", ""))
}

// sentence takes the Go name from the beginning of a comment: "Attempts is the number" becomes "The number", and what
// cannot be read without it keeps the name as it is written.
func sentence(doc, goName, name string) string {
	rest, ok := strings.CutPrefix(doc, goName+" ")
	if !ok {
		if r, colon := strings.CutPrefix(doc, goName+": "); colon {
			return upper(r)
		}
		return doc
	}
	for _, verb := range []string{"is ", "are "} {
		if r, ok := strings.CutPrefix(rest, verb); ok {
			return upper(r)
		}
	}
	if name == goName {
		return doc
	}
	return upper(rest)
}

func upper(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
