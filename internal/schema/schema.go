// Package schema reads the rules of the written format off struct tags, and decodes, checks and encodes by them: one
// set of tags serves the strict decoder, validation, the canonical form and the generated reference.
//
// It knows no kind of resource and no policy; those are in api/resource and policy/*. Tags of a field:
//
//	yaml       its name; ",inline" for an embedded struct
//	required   "true": must be written
//	enum       allowed values, separated by ", "
//	later      values that the design defines and this version does not serve; on the blank field: such fields
//	misplaced  on the blank field: fields that are written in the resource, but not here
//	min, max   range of a number or a duration
//	format     a rule of formats for text, see Formats
//	unit       "bytes": a number, or one with Ki, Mi, Gi
//	keep       "true": an empty list differs from none
//	short      the field of the struct that a plain scalar stands for
//	maxItems, maxLength
//	default, example   for documentation
package schema

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Custom is a type that decodes and encodes itself.
type Custom interface {
	// DecodeNode reads n, which is at path, and reports what is wrong to d.
	DecodeNode(d *Decoder, path string, n *yaml.Node)
}

// CustomEncoder is the other half of Custom, on the value.
type CustomEncoder interface {
	// EncodeNode returns the canonical form, nil for nothing.
	EncodeNode() *yaml.Node
	// TypeName tells the type in documentation.
	TypeName() string
}

// Struct is what a struct type's tags say.
type Struct struct {
	Type   reflect.Type
	Fields []Field
	// Later are fields that this version does not serve; Misplaced fields that belong elsewhere.
	Later, Misplaced []string
}

// Field is what one field's tags say.
type Field struct {
	Name  string
	Index []int
	Type  reflect.Type
	// Owner and GoName identify the field in the source.
	Owner  reflect.Type
	GoName string

	Required, Keep      bool
	Enum, Later         []string
	Min, Max            string
	Format, Unit, Short string
	MaxItems, MaxLength int
	Default, Example    string
}

// Field returns the field of that name, or nil.
func (s *Struct) Field(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// Of reads the tags of a struct type.
func Of(t reflect.Type) *Struct {
	s := &Struct{Type: t}
	s.add(t, nil)
	return s
}

func (s *Struct) add(t reflect.Type, index []int) {
	for i := 0; i < t.NumField(); i++ {
		sf := t.Field(i)
		at := append(append([]int(nil), index...), i)
		if sf.Name == "_" {
			s.Later = append(s.Later, list(sf.Tag.Get("later"))...)
			s.Misplaced = append(s.Misplaced, list(sf.Tag.Get("misplaced"))...)
			continue
		}
		name, opt, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if opt == "inline" {
			s.add(sf.Type, at)
			continue
		}
		if name == "" || !sf.IsExported() {
			continue
		}
		f := Field{
			Name: name, Index: at, Type: sf.Type, Owner: t, GoName: sf.Name,
			Required: sf.Tag.Get("required") == "true", Keep: sf.Tag.Get("keep") == "true",
			Enum: list(sf.Tag.Get("enum")), Later: list(sf.Tag.Get("later")),
			Min: sf.Tag.Get("min"), Max: sf.Tag.Get("max"),
			Format: sf.Tag.Get("format"), Unit: sf.Tag.Get("unit"), Short: sf.Tag.Get("short"),
			Default: sf.Tag.Get("default"), Example: sf.Tag.Get("example"),
		}
		f.MaxItems, _ = strconv.Atoi(sf.Tag.Get("maxItems"))
		f.MaxLength, _ = strconv.Atoi(sf.Tag.Get("maxLength"))
		s.Fields = append(s.Fields, f)
	}
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ", ")
}

var (
	durationType = reflect.TypeOf(time.Duration(0))
	customType   = reflect.TypeOf((*Custom)(nil)).Elem()
	encoderType  = reflect.TypeOf((*CustomEncoder)(nil)).Elem()
)

// TypeName tells a field's type as a user writes it.
func TypeName(f *Field) string { return typeName(f, f.Type) }

func typeName(f *Field, t reflect.Type) string {
	switch {
	case t.Implements(encoderType):
		return reflect.Zero(t).Interface().(CustomEncoder).TypeName()
	case t == durationType:
		return "duration"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(f, t.Elem())
	case reflect.Slice:
		return "list of " + typeName(f, t.Elem())
	case reflect.Map:
		return "map to " + typeName(f, t.Elem())
	case reflect.Struct:
		if f.Short != "" {
			if sf := Of(t).Field(f.Short); sf != nil {
				return "object or " + typeName(sf, sf.Type)
			}
		}
		return "object"
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	case reflect.String:
		return "string"
	}
	if f.Unit == "bytes" {
		return "bytes"
	}
	return "integer"
}

// Suggest returns the candidate that is most like s, "" where none is near.
func Suggest(s string, candidates []string) string {
	best, at := "", 1+len(s)/3
	for _, c := range candidates {
		if strings.EqualFold(s, c) {
			return c
		}
		if d := distance(strings.ToLower(s), strings.ToLower(c)); d <= at && (best == "" || d < at) {
			best, at = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, change or swap with a neighbour (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// DidYouMean is the hint for a name that is not among the candidates.
func DidYouMean(s string, candidates []string) string {
	if c := Suggest(s, candidates); c != "" {
		return "did you mean " + c + "?"
	}
	if len(candidates) == 0 {
		return ""
	}
	return "one of " + strings.Join(candidates, ", ")
}
