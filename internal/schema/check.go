package schema

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Check returns what the tags find wrong with v, a struct or a pointer to one, which is at path. Numbers, durations
// and texts that are zero and not behind a pointer count as not written.
func Check(path string, v any) violation.List {
	c := checker{types: map[reflect.Type]*Struct{}}
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Pointer {
		if rv.IsNil() {
			return nil
		}
		rv = rv.Elem()
	}
	c.structValue(path, rv)
	return c.list
}

type checker struct {
	types map[reflect.Type]*Struct
	list  violation.List
}

func (c *checker) of(t reflect.Type) *Struct {
	s := c.types[t]
	if s == nil {
		s = Of(t)
		c.types[t] = s
	}
	return s
}

func (c *checker) structValue(path string, v reflect.Value) {
	s := c.of(v.Type())
	for i := range s.Fields {
		f := &s.Fields[i]
		fv := v.FieldByIndex(f.Index)
		at := violation.Field(path, f.Name)
		if empty(fv) {
			if f.Required {
				c.list.Add(at, "is missing", missingHint(f))
			}
			continue
		}
		c.value(at, f, fv)
	}
}

func missingHint(f *Field) string {
	switch {
	case len(f.Enum) > 0:
		return "one of " + strings.Join(f.Enum, ", ")
	case f.Example != "":
		return "such as " + f.Example
	}
	return "a value of type " + TypeName(f)
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

func (c *checker) value(path string, f *Field, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.value(path, f, v.Elem())
		}
	case reflect.Struct:
		c.structValue(path, v)
	case reflect.Slice:
		if f.MaxItems > 0 && v.Len() > f.MaxItems {
			c.list.Add(path, fmt.Sprintf("has %d entries", v.Len()), fmt.Sprintf("at most %d", f.MaxItems))
		}
		if v.Type().Elem().Kind() == reflect.Struct && v.Type().Implements(encoderType) {
			return
		}
		for i := 0; i < v.Len(); i++ {
			c.value(violation.Index(path, i), f, v.Index(i))
		}
	case reflect.Map:
		for _, k := range sortedKeys(v) {
			c.value(violation.Entry(path, k), f, v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key())))
		}
	default:
		if m, h := Scalar(f, v); m != "" {
			c.list.Add(path, m, h)
		}
	}
}

func sortedKeys(v reflect.Value) []string {
	keys := make([]string, 0, v.Len())
	for _, k := range v.MapKeys() {
		keys = append(keys, k.String())
	}
	slices.Sort(keys)
	return keys
}

// Scalar says what a field's tags find wrong with a scalar value: a message and a hint, "" for nothing.
func Scalar(f *Field, v reflect.Value) (message, hint string) {
	switch {
	case v.Type() == durationType:
		return durationRange(f, time.Duration(v.Int()))
	case v.CanInt():
		if len(f.Enum) > 0 {
			return enum(f, strconv.FormatInt(v.Int(), 10))
		}
		return numberRange(f, float64(v.Int()), strconv.FormatInt(v.Int(), 10))
	case v.CanFloat():
		return numberRange(f, v.Float(), strconv.FormatFloat(v.Float(), 'g', -1, 64))
	case v.Kind() == reflect.String:
		s := v.String()
		if f.MaxLength > 0 && len(s) > f.MaxLength {
			return fmt.Sprintf("has %d bytes", len(s)), fmt.Sprintf("at most %d", f.MaxLength)
		}
		if len(f.Enum) > 0 {
			return enum(f, s)
		}
		if check := formats[f.Format]; check != nil {
			return check(s)
		}
	}
	return "", ""
}

func enum(f *Field, s string) (message, hint string) {
	switch {
	case slices.Contains(f.Enum, s):
		return "", ""
	case slices.Contains(f.Later, s):
		return "not served by this version: " + s, "one of " + strings.Join(f.Enum, ", ")
	}
	h := "one of " + strings.Join(f.Enum, ", ")
	if m := Suggest(s, f.Enum); m != "" {
		h = "did you mean " + m + "? " + h
	}
	return fmt.Sprintf("unknown value %q", s), h
}

func numberRange(f *Field, n float64, text string) (message, hint string) {
	lo, hi := math.Inf(-1), math.Inf(1)
	if f.Min != "" {
		lo, _ = strconv.ParseFloat(f.Min, 64)
	}
	if f.Max != "" {
		hi, _ = strconv.ParseFloat(f.Max, 64)
	}
	if n >= lo && n <= hi {
		return "", ""
	}
	return text + " is out of range", rangeHint(f)
}

func durationRange(f *Field, d time.Duration) (message, hint string) {
	if f.Min != "" {
		if lo, _ := time.ParseDuration(f.Min); d < lo {
			return FormatDuration(d) + " is out of range", rangeHint(f)
		}
	}
	if f.Max != "" {
		if hi, _ := time.ParseDuration(f.Max); d > hi {
			return FormatDuration(d) + " is out of range", rangeHint(f)
		}
	}
	return "", ""
}

func rangeHint(f *Field) string {
	switch {
	case f.Max == "":
		return "at least " + f.Min
	case f.Min == "":
		return "at most " + f.Max
	}
	return f.Min + " to " + f.Max
}

// FormatDuration writes a duration as people do: "1m30s", "60s" is "1m", "0s".
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
