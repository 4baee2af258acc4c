package schema

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Encode returns the canonical form of a struct or a pointer to one: fields in the order of the type, maps by key, what
// is not written left out, a short form where only its field is set. It is nil where nothing is set.
func Encode(v any) *yaml.Node {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer {
		rv = rv.Elem()
	}
	e := encoder{types: map[reflect.Type]*Struct{}}
	return e.structValue(rv, "")
}

type encoder struct{ types map[reflect.Type]*Struct }

func (e *encoder) of(t reflect.Type) *Struct {
	s := e.types[t]
	if s == nil {
		s = Of(t)
		e.types[t] = s
	}
	return s
}

func (e *encoder) structValue(v reflect.Value, short string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	s := e.of(v.Type())
	for i := range s.Fields {
		f := &s.Fields[i]
		fv := v.FieldByIndex(f.Index)
		if empty(fv) && !(f.Keep && !fv.IsNil()) {
			continue
		}
		x := e.value(fv, f)
		if x == nil {
			continue
		}
		n.Content = append(n.Content, Text(f.Name), x)
	}
	if short != "" && len(n.Content) == 2 && n.Content[0].Value == short && n.Content[1].Kind == yaml.ScalarNode {
		return n.Content[1]
	}
	return n
}

func (e *encoder) value(v reflect.Value, f *Field) *yaml.Node {
	if v.Type().Implements(encoderType) {
		return v.Interface().(CustomEncoder).EncodeNode()
	}
	switch v.Kind() {
	case reflect.Pointer:
		return e.value(v.Elem(), f)
	case reflect.Struct:
		return e.structValue(v, f.Short)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for i := 0; i < v.Len(); i++ {
			n.Content = append(n.Content, e.value(v.Index(i), f))
		}
		return n
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, k := range sortedKeys(v) {
			n.Content = append(n.Content, Text(k), e.value(v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key())), f))
		}
		return n
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}
	case reflect.Float64:
		x := strconv.FormatFloat(v.Float(), 'f', -1, 64)
		tag := "!!float"
		if _, err := strconv.ParseInt(x, 10, 64); err == nil {
			tag = "!!int"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: x}
	case reflect.String:
		return Text(v.String())
	}
	if v.Type() == durationType {
		return Text(FormatDuration(time.Duration(v.Int())))
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v.Int(), 10)}
}

// Text is a node that holds text, quoted where YAML would read it as something else.
func Text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if n.Style == 0 {
		probe := yaml.Node{Kind: yaml.ScalarNode, Value: s}
		if probe.ShortTag() != "!!str" {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	return n
}

// JSON writes a node that Encode returned as JSON, without spaces.
func JSON(n *yaml.Node) []byte {
	var b bytes.Buffer
	writeJSON(&b, n)
	return b.Bytes()
}

func writeJSON(b *bytes.Buffer, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			writeText(b, n.Content[i].Value)
			b.WriteByte(':')
			writeJSON(b, n.Content[i+1])
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, c)
		}
		b.WriteByte(']')
	default:
		if n.Tag == "!!int" || n.Tag == "!!float" || n.Tag == "!!bool" {
			b.WriteString(n.Value)
			return
		}
		writeText(b, n.Value)
	}
}

func writeText(b *bytes.Buffer, s string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string cannot fail
	b.Truncate(b.Len() - 1)
}
