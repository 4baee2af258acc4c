package schema

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Bounds of one input: they stop aliases that multiply, and recursion.
const (
	MaxNodes = 400_000 // a value counts one, and one more for each 32 bytes of its text
	MaxDepth = 64
)

// Place is where something is written; both count from 1.
type Place struct{ Line, Column int }

// Decoder turns nodes into structs, strictly: what a struct's tags do not allow is a violation. The zero value is
// ready. It is for one input and one goroutine.
type Decoder struct {
	// List are the violations found so far, each with Path, Line and Column.
	List violation.List
	// Places tells where each path was written: a field's key, a list's element.
	Places map[string]Place
	// Nodes counts what was read, over several decoders where they share it; nil counts for this one alone.
	Nodes *int

	types    map[reflect.Type]*Struct
	depth    int
	overflow bool
}

// Report adds a violation of what is at path, written at n.
func (d *Decoder) Report(path string, n *yaml.Node, message, hint string) {
	v := violation.Violation{Path: path, Message: message, Hint: hint}
	if n != nil {
		v.Line, v.Column = n.Line, n.Column
	}
	d.List = append(d.List, v)
}

// Struct decodes the mapping n into the struct that v points to.
func (d *Decoder) Struct(path string, n *yaml.Node, v any) {
	n, leave := d.Enter(path, n)
	if n == nil {
		return
	}
	defer leave()
	d.structValue(path, n, reflect.ValueOf(v).Elem(), nil)
}

// Enter follows an alias and counts nodes and depth. It returns nil where a bound is passed, which it reports once;
// otherwise leave is to be called when the node is done with.
func (d *Decoder) Enter(path string, n *yaml.Node) (node *yaml.Node, leave func()) {
	if d.Nodes == nil {
		d.Nodes = new(int)
	}
	text := n.Value
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		text = n.Alias.Value
	}
	if *d.Nodes += 1 + len(text)/32; *d.Nodes > MaxNodes || d.depth >= MaxDepth {
		if !d.overflow {
			d.overflow = true
			d.Report(path, n, "is too large or nested too deeply",
				fmt.Sprintf("at most %d values, aliases expanded, and %d levels", MaxNodes, MaxDepth))
		}
		return nil, nil
	}
	for hops := 0; n.Kind == yaml.AliasNode; hops++ {
		if n.Alias == nil || hops > MaxDepth {
			d.Report(path, n, "alias refers to nothing", "")
			return nil, nil
		}
		n = n.Alias
	}
	d.depth++
	return n, func() { d.depth-- }
}

// Fields calls fn for each entry of a mapping, after reporting keys that are not text or are there twice.
func (d *Decoder) Fields(path string, n *yaml.Node, fn func(key, value *yaml.Node)) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			d.Report(path, k, "has a key that is not text", "")
			continue
		}
		if k.ShortTag() == "!!merge" {
			d.Report(violation.Entry(path, k.Value), k, "merge keys are not supported", "write the fields out; an alias may stand for a whole value")
			continue
		}
		if line, dup := seen[k.Value]; dup {
			d.Report(violation.Entry(path, k.Value), k, fmt.Sprintf("is written twice, first in line %d", line), "keep one")
			continue
		}
		seen[k.Value] = k.Line
		fn(k, v)
	}
}

// At notes where path is written.
func (d *Decoder) At(path string, n *yaml.Node) {
	if d.Places == nil {
		d.Places = map[string]Place{}
	}
	d.Places[path] = Place{n.Line, n.Column}
}

func (d *Decoder) of(t reflect.Type) *Struct {
	if d.types == nil {
		d.types = map[reflect.Type]*Struct{}
	}
	s := d.types[t]
	if s == nil {
		s = Of(t)
		d.types[t] = s
	}
	return s
}

func (d *Decoder) structValue(path string, n *yaml.Node, v reflect.Value, f *Field) {
	s := d.of(v.Type())
	if n.Kind == yaml.ScalarNode && f != nil && f.Short != "" {
		sf := s.Field(f.Short)
		d.value(path, n, v.FieldByIndex(sf.Index), sf)
		return
	}
	if n.Kind != yaml.MappingNode {
		d.Report(path, n, "needs fields, "+describe(n)+" is written", fieldsHint(s))
		return
	}
	d.Fields(path, n, func(k, val *yaml.Node) {
		at := violation.Entry(path, k.Value)
		d.At(at, k)
		sf := s.Field(k.Value)
		switch {
		case sf != nil:
			d.value(at, val, v.FieldByIndex(sf.Index), sf)
		case slices.Contains(s.Later, k.Value):
			d.later(at, k, val)
		case slices.Contains(s.Misplaced, k.Value):
			d.Report(at, k, k.Value+" does not belong here", "it is written for the whole resource")
		default:
			d.Report(at, k, "unknown field "+k.Value, DidYouMean(k.Value, s.names()))
		}
	})
}

// later reports a field that the design defines and this version does not serve: where it holds fields, each of them.
func (d *Decoder) later(path string, k, val *yaml.Node) {
	if val.Kind == yaml.MappingNode && len(val.Content) > 0 {
		d.Fields(path, val, func(sub, _ *yaml.Node) {
			at := violation.Entry(path, sub.Value)
			d.Report(at, sub, "not served by this version: "+lastTwo(at), "leave "+k.Value+" out")
		})
		return
	}
	d.Report(path, k, "not served by this version: "+lastTwo(path), "leave it out")
}

func (s *Struct) names() []string {
	var out []string
	for i := range s.Fields {
		out = append(out, s.Fields[i].Name)
	}
	return out
}

func fieldsHint(s *Struct) string { return "fields of it are " + strings.Join(s.names(), ", ") }

// lastTwo is the end of a path, as "resources.memory" or "run.resources".
func lastTwo(path string) string {
	p := strings.Split(path, ".")
	if len(p) > 2 {
		p = p[len(p)-2:]
	}
	if len(p) == 2 && p[0] == "spec" {
		p = p[1:]
	}
	return strings.Join(p, ".")
}

func (d *Decoder) value(path string, n *yaml.Node, v reflect.Value, f *Field) {
	n, leave := d.Enter(path, n)
	if n == nil {
		return
	}
	defer leave()
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.Report(path, n, "has no value", "leave the field out, or write "+valueHint(f))
		return
	}
	if v.CanAddr() && v.Addr().Type().Implements(customType) {
		v.Addr().Interface().(Custom).DecodeNode(d, path, n)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.kind(path, n, p.Elem(), f, true)
		v.Set(p)
	default:
		d.kind(path, n, v, f, false)
	}
}

func valueHint(f *Field) string {
	if f.Example != "" {
		return "one such as " + f.Example
	}
	return "a value of type " + TypeName(f)
}

func (d *Decoder) kind(path string, n *yaml.Node, v reflect.Value, f *Field, pointer bool) {
	switch v.Kind() {
	case reflect.Struct:
		d.structValue(path, n, v, f)
	case reflect.Slice:
		d.slice(path, n, v, f)
	case reflect.Map:
		d.mapValue(path, n, v, f)
	default:
		d.scalar(path, n, v, f, pointer)
	}
}

func (d *Decoder) slice(path string, n *yaml.Node, v reflect.Value, f *Field) {
	if n.Kind != yaml.SequenceNode {
		hint := "write [" + n.Value + "]"
		if n.Kind != yaml.ScalarNode {
			hint = "begin each entry with -"
		}
		d.Report(path, n, "needs a list, "+describe(n)+" is written", hint)
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		at := violation.Index(path, i)
		d.At(at, c)
		d.value(at, c, out.Index(i), f)
	}
	if len(n.Content) > 0 || f.Keep {
		v.Set(out)
	}
}

func (d *Decoder) mapValue(path string, n *yaml.Node, v reflect.Value, f *Field) {
	if n.Kind != yaml.MappingNode {
		d.Report(path, n, "needs names with values, "+describe(n)+" is written", "as {name: value}")
		return
	}
	out := reflect.MakeMap(v.Type())
	d.Fields(path, n, func(k, val *yaml.Node) {
		at := violation.Entry(path, k.Value)
		d.At(at, k)
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(at, val, e, f)
		out.SetMapIndex(reflect.ValueOf(k.Value).Convert(v.Type().Key()), e)
	})
	if out.Len() > 0 {
		v.Set(out)
	}
}

// scalar reads one value and checks it. A zero that is not behind a pointer would later count as not written, so that
// it is checked here.
func (d *Decoder) scalar(path string, n *yaml.Node, v reflect.Value, f *Field, pointer bool) {
	if n.Kind != yaml.ScalarNode {
		d.Report(path, n, "needs "+article(TypeName(&Field{Type: v.Type(), Unit: f.Unit}))+", "+describe(n)+" is written", exampleHint(f))
		return
	}
	before := len(d.List)
	tag := n.ShortTag()
	switch {
	case v.Type() == durationType:
		d.duration(path, n, v, tag)
	case v.Kind() == reflect.String:
		if tag != "!!str" && tag != "!!timestamp" {
			d.Report(path, n, "needs text, "+describe(n)+" is written", fmt.Sprintf("write %q in quotes", n.Value))
			return
		}
		if strings.ContainsRune(n.Value, 0) {
			d.Report(path, n, "holds a NUL", "text without one")
			return
		}
		v.SetString(n.Value)
	case v.Kind() == reflect.Bool:
		var b bool
		if tag != "!!bool" || n.Decode(&b) != nil {
			d.Report(path, n, "needs true or false, "+describe(n)+" is written", "")
			return
		}
		v.SetBool(b)
	case v.CanInt():
		d.integer(path, n, v, f, tag)
	case v.CanFloat():
		var x float64
		if tag != "!!int" && tag != "!!float" || n.Decode(&x) != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			d.Report(path, n, "needs a number, "+describe(n)+" is written", numberHint(n, f))
			return
		}
		v.SetFloat(x)
	}
	if len(d.List) > before {
		return
	}
	m, h := Scalar(f, v)
	if m != "" && !(v.Kind() == reflect.String && v.Len() == 0) {
		d.Report(path, n, m, h)
	} else if v.Kind() == reflect.String && v.Len() == 0 && !pointer && (f.Required || f.Format != "" || len(f.Enum) > 0) {
		d.Report(path, n, "is empty", missingHint(f))
	}
}

func (d *Decoder) duration(path string, n *yaml.Node, v reflect.Value, tag string) {
	const hint = "a duration such as 10s or 250ms"
	if tag == "!!int" || tag == "!!float" {
		d.Report(path, n, n.Value+" has no unit", hint)
		return
	}
	x, err := time.ParseDuration(n.Value)
	switch {
	case tag != "!!str" || err != nil:
		if _, e := strconv.ParseFloat(n.Value, 64); e == nil {
			d.Report(path, n, n.Value+" has no unit", hint)
			return
		}
		d.Report(path, n, fmt.Sprintf("%q is no duration", n.Value), hint)
	case x < 0:
		d.Report(path, n, n.Value+" is negative", hint)
	default:
		v.SetInt(int64(x))
	}
}

func (d *Decoder) integer(path string, n *yaml.Node, v reflect.Value, f *Field, tag string) {
	var x int64
	if f.Unit == "bytes" && tag == "!!str" {
		for i, unit := range []string{"Ki", "Mi", "Gi"} {
			if t, ok := strings.CutSuffix(n.Value, unit); ok {
				if y, err := strconv.ParseInt(t, 10, 32); err == nil {
					v.SetInt(y << (10 * (i + 1)))
					return
				}
			}
		}
		d.Report(path, n, fmt.Sprintf("%q is no size", n.Value), "bytes, as 65536, 64Ki or 1Mi")
		return
	}
	if tag != "!!int" || n.Decode(&x) != nil {
		d.Report(path, n, "needs a whole number, "+describe(n)+" is written", numberHint(n, f))
		return
	}
	if v.OverflowInt(x) {
		d.Report(path, n, n.Value+" is out of range", rangeHint(f))
		return
	}
	v.SetInt(x)
}

func numberHint(n *yaml.Node, f *Field) string {
	if n.ShortTag() == "!!str" {
		if _, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return "write " + n.Value + " without quotes"
		}
		if t, ok := strings.CutSuffix(n.Value, "%"); ok {
			return "write " + t + ": it is in percent"
		}
	}
	return exampleHint(f)
}

func exampleHint(f *Field) string {
	if f.Example == "" {
		return ""
	}
	return "such as " + f.Example
}

func article(s string) string {
	switch {
	case s == "string":
		return "text"
	case strings.ContainsRune("aeiou", rune(s[0])):
		return "an " + s
	}
	return "a " + s
}

// describe says what kind of thing is written.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the truth value " + n.Value
	case "!!null":
		return "nothing"
	}
	if len(n.Value) > 40 {
		return "text"
	}
	return fmt.Sprintf("the text %q", n.Value)
}
