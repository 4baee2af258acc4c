package xdsclient

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

// maxNodes bounds what a document comes to with its aliases followed: a few lines of YAML can say more than fits
// into memory.
const maxNodes = 1 << 18

// document reads YAML (which JSON is a part of) against protobuf messages in protobuf's JSON mapping. It notes the
// line of every field, so that whoever refuses one later can say where it is written.
type document struct {
	lines map[string]int // by path
	errs  violation.List
	nodes int
}

func parseDocument(b []byte) (*document, *yaml.Node) {
	d := &document{lines: map[string]int{}}
	root := &yaml.Node{}
	if err := yaml.Unmarshal(b, root); err != nil {
		d.errs.Add("", strings.TrimPrefix(err.Error(), "yaml: "), "")
		return d, nil
	}
	if len(root.Content) == 0 {
		d.errs.Add("", "is empty", "an Envoy v3 bootstrap in YAML or JSON")
		return d, nil
	}
	return d, d.resolve("", root.Content[0])
}

func (d *document) bad(path, hint, format string, args ...any) {
	d.errs = append(d.errs, violation.Violation{Path: path, Line: d.line(path), Message: fmt.Sprintf(format, args...), Hint: hint})
}

// line is where a path is written: that of the nearest one around it that is written at all.
func (d *document) line(path string) int {
	for path != "" {
		if n := d.lines[path]; n > 0 {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// resolve follows an alias; nil where the document has become too large.
func (d *document) resolve(path string, n *yaml.Node) *yaml.Node {
	if d.nodes++; d.nodes == maxNodes {
		d.bad(path, "", "the document holds more than %d values, aliases followed", maxNodes)
	}
	if d.nodes >= maxNodes {
		return nil
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// field is one entry of a mapping.
type field struct {
	name, path string
	value      *yaml.Node
}

// fields are a mapping's entries, those that are null left out; a name that stands there twice is refused.
func (d *document) fields(path string, n *yaml.Node, pathOf func(path, name string) string) []field {
	if n.Kind != yaml.MappingNode {
		d.bad(path, "", "must be an object")
		return nil
	}
	var out []field
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode {
			d.bad(path, "", "has a key on line %d that is not a name", k.Line)
			continue
		}
		p := pathOf(path, k.Value)
		d.lines[p] = k.Line
		if seen[k.Value] {
			d.bad(p, "", "is written twice")
			continue
		}
		seen[k.Value] = true
		v := d.resolve(p, n.Content[i+1])
		if v == nil {
			return out
		}
		if v.Tag != "!!null" {
			out = append(out, field{k.Value, p, v})
		}
	}
	return out
}

// object goes through a message that has no descriptor here, by its fields' proto names; camelCase is accepted, as
// in protobuf's JSON. What is not among them is refused.
func (d *document) object(path string, n *yaml.Node, fields map[string]func(path string, n *yaml.Node)) {
	for _, f := range d.fields(path, n, protoPath) {
		if read := fields[snake(f.name)]; read != nil {
			read(f.path, f.value)
		} else {
			d.bad(f.path, "", "is not served by this sidecar")
		}
	}
}

// list goes through the elements of a list.
func (d *document) list(path string, n *yaml.Node, each func(path string, n *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.bad(path, "", "must be a list")
		return
	}
	for i, e := range n.Content {
		p := violation.Index(path, i)
		d.lines[p] = e.Line
		if e = d.resolve(p, e); e == nil {
			return
		}
		each(p, e)
	}
}

// protoPath is the path of a message's field, by its proto name.
func protoPath(path, name string) string { return violation.Field(path, snake(name)) }

// entryPath is the path of a map's entry, as sidecar/compile writes it.
func entryPath(path, key string) string { return path + "[" + strconv.Quote(key) + "]" }

func snake(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// message reads m, and reports whether nothing of it is wrong. That its fields are served is asked of the caller.
func (d *document) message(path string, n *yaml.Node, m proto.Message) bool {
	before := len(d.errs)
	v := d.value(path, n, m.ProtoReflect().Descriptor())
	if len(d.errs) > before {
		return false
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = protojson.Unmarshal(b, m)
	}
	if err != nil {
		d.bad(path, "", "%s", plain(err))
	}
	return err == nil
}

// checked reads m and refuses what of it is not served.
func (d *document) checked(path string, n *yaml.Node, m proto.Message) bool {
	if !d.message(path, n, m) {
		return false
	}
	errs := compile.Unserved(m)
	for _, e := range errs {
		d.bad(violation.Field(path, e.Field), "", "%s", e.Reason)
	}
	return len(errs) == 0
}

// value turns a message into what encoding/json takes, checking every name and value on the way.
func (d *document) value(path string, n *yaml.Node, md protoreflect.MessageDescriptor) any {
	if md.FullName() == "google.protobuf.Any" {
		return d.anyValue(path, n)
	}
	if md.FullName().Parent() == "google.protobuf" { // these have a JSON form of their own
		before := len(d.errs)
		v := d.plainValue(path, n, true)
		if t, err := protoregistry.GlobalTypes.FindMessageByName(md.FullName()); err == nil && len(d.errs) == before {
			d.try(path, v, t.New().Interface())
		}
		return v
	}
	return d.fieldsOf(path, n, md, false)
}

func (d *document) fieldsOf(path string, n *yaml.Node, md protoreflect.MessageDescriptor, inAny bool) any {
	out, set := map[string]any{}, map[protoreflect.FullName]string{}
	for _, f := range d.fields(path, n, protoPath) {
		if inAny && f.name == "@type" {
			out["@type"] = f.value.Value
			continue
		}
		fd := md.Fields().ByName(protoreflect.Name(f.name))
		if fd == nil {
			fd = md.Fields().ByJSONName(f.name)
		}
		if fd == nil {
			d.bad(f.path, schema.DidYouMean(snake(f.name), compile.ServedFields(md.FullName())), "is not a field of %s", md.FullName())
			continue
		}
		name := string(fd.Name())
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if other := set[o.FullName()]; other != "" {
				d.bad(f.path, "", "cannot stand beside %s: only one of them holds", other)
				continue
			}
			set[o.FullName()] = name
		}
		if _, twice := out[name]; twice {
			d.bad(f.path, "", "is written twice, as %s and in camelCase", name)
			continue
		}
		out[name] = d.fieldValue(f.path, f.value, fd, md)
	}
	return out
}

func (d *document) fieldValue(path string, n *yaml.Node, fd protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor) any {
	one := func(path string, n *yaml.Node) any {
		if fd.Message() != nil {
			return d.value(path, n, fd.Message())
		}
		return d.scalar(path, n, fd, md)
	}
	switch {
	case fd.IsMap():
		out := map[string]any{}
		for _, f := range d.fields(path, n, entryPath) {
			if v := fd.MapValue(); v.Message() != nil {
				out[f.name] = d.value(f.path, f.value, v.Message())
			} else {
				out[f.name] = d.plainValue(f.path, f.value, false)
			}
		}
		return out
	case fd.IsList():
		out := []any{}
		d.list(path, n, func(path string, n *yaml.Node) { out = append(out, one(path, n)) })
		return out
	}
	return one(path, n)
}

// scalar checks one value alone, so that what is wrong with it has a path.
func (d *document) scalar(path string, n *yaml.Node, fd protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor) any {
	before := len(d.errs)
	v := d.plainValue(path, n, false)
	if len(d.errs) > before {
		return nil
	}
	if s, isName := v.(string); isName && fd.Enum() != nil {
		if fd.Enum().Values().ByName(protoreflect.Name(s)) == nil {
			var names []string
			for i := range fd.Enum().Values().Len() {
				names = append(names, string(fd.Enum().Values().Get(i).Name()))
			}
			d.bad(path, schema.DidYouMean(s, names), "%q is not a %s", s, fd.Enum().Name())
		}
		return v
	}
	if t, err := protoregistry.GlobalTypes.FindMessageByName(md.FullName()); err == nil {
		probe := v
		if fd.IsList() {
			probe = []any{v}
		}
		d.try(path, map[string]any{string(fd.Name()): probe}, t.New().Interface())
	}
	return v
}

// try reports why v cannot be read as m.
func (d *document) try(path string, v any, m proto.Message) {
	b, err := json.Marshal(v)
	if err == nil {
		err = protojson.Unmarshal(b, m)
	}
	if err != nil {
		d.bad(path, "", "%s", plain(err))
	}
}

// anyValue opens an embedded message by its @type.
func (d *document) anyValue(path string, n *yaml.Node) any {
	url := ""
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "@type" {
				url = n.Content[i+1].Value
				d.lines[violation.Field(path, "@type")] = n.Content[i].Line
			}
		}
	}
	if url == "" {
		d.bad(path, "an object with @type", "names no type")
		return nil
	}
	t, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		d.bad(violation.Field(path, "@type"), "", "%s is not served by this sidecar", url)
		return nil
	}
	md := t.Descriptor()
	if md.FullName().Parent() == "google.protobuf" {
		return d.plainValue(path, n, true)
	}
	return d.fieldsOf(path, n, md, true)
}

// plainValue is a value as YAML has it. whole allows objects and lists too.
func (d *document) plainValue(path string, n *yaml.Node, whole bool) any {
	switch n.Kind {
	case yaml.MappingNode:
		if !whole {
			d.bad(path, "", "must be a single value, not an object")
			return nil
		}
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if v := d.resolve(path, n.Content[i+1]); v != nil {
				out[n.Content[i].Value] = d.plainValue(violation.Field(path, n.Content[i].Value), v, true)
			}
		}
		return out
	case yaml.SequenceNode:
		if !whole {
			d.bad(path, "", "must be a single value, not a list")
			return nil
		}
		out := []any{}
		d.list(path, n, func(path string, n *yaml.Node) { out = append(out, d.plainValue(path, n, true)) })
		return out
	}
	switch n.Tag {
	case "!!str", "!!timestamp", "!!binary":
		return n.Value
	}
	var v any
	if err := n.Decode(&v); err != nil {
		d.bad(path, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return v
}

// plain is what protojson says without the place in a text that nobody has written.
func plain(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	s = strings.TrimPrefix(s, "proto: ")
	if _, rest, ok := strings.Cut(s, "): "); ok && strings.HasPrefix(s, "(line ") {
		s = rest
	}
	return s
}
