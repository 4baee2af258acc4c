package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/internal/schema"
)

// jsonSchema writes a JSON Schema (2020-12) for editors. It is narrower than nothing and wider than the decoder: what
// concerns several fields is left to `outrigger apply --dry-run`.
func jsonSchema(c comments) ([]byte, error) {
	g := &generator{c: c, defs: map[string]any{}}
	var oneOf []any
	for _, s := range kinds() {
		oneOf = append(oneOf, map[string]any{
			"type":                 "object",
			"additionalProperties": false,
			"required":             []string{"kind", "metadata", "spec"},
			"description":          c.of(reflect.TypeOf(s).Elem()),
			"properties": map[string]any{
				"apiVersion": map[string]any{"const": resource.APIVersion},
				"kind":       map[string]any{"const": s.Kind()},
				"metadata":   g.ref(reflect.TypeOf(resource.Metadata{})),
				"spec":       g.ref(reflect.TypeOf(s).Elem()),
			},
		})
	}
	out, err := json.MarshalIndent(map[string]any{
		"$schema":  "https://json-schema.org/draft/2020-12/schema",
		"$comment": "Generated from the Go types by tools/gendocs.",
		"title":    "Outrigger resource",
		"oneOf":    oneOf,
		"$defs":    g.defs,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the JSON Schema: %w", err)
	}
	return append(out, '\n'), nil
}

type generator struct {
	c    comments
	defs map[string]any
}

// ref describes a struct under $defs and refers to it.
func (g *generator) ref(t reflect.Type) map[string]any {
	name := title(t)
	if _, done := g.defs[name]; !done {
		g.defs[name] = nil // a place, for types that hold themselves
		props := map[string]any{}
		var required []string
		s := schema.Of(t)
		for i := range s.Fields {
			f := &s.Fields[i]
			p := g.value(f, f.Type)
			if doc := g.c.field(f.Owner, f.GoName); doc != "" {
				p["description"] = sentence(doc, f.GoName, f.Name)
			}
			props[f.Name] = p
			if f.Required {
				required = append(required, f.Name)
			}
		}
		def := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
		if len(required) > 0 {
			def["required"] = required
		}
		g.defs[name] = def
	}
	return map[string]any{"$ref": "#/$defs/" + name}
}

func (g *generator) value(f *schema.Field, t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeOf(resource.After(nil)):
		name := map[string]any{"type": "string"}
		return map[string]any{"oneOf": []any{
			map[string]any{"type": "array", "items": name},
			map[string]any{"type": "object", "additionalProperties": map[string]any{"enum": []string{resource.Healthy, resource.Started}}},
		}}
	case t == reflect.TypeOf(time.Duration(0)):
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.value(f, t.Elem())
	case reflect.Slice:
		out := map[string]any{"type": "array", "items": g.value(f, t.Elem())}
		if f.MaxItems > 0 {
			out["maxItems"] = f.MaxItems
		}
		return out
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.value(f, t.Elem())}
	case reflect.Struct:
		ref := g.ref(t)
		if f.Short != "" {
			sf := schema.Of(t).Field(f.Short)
			return map[string]any{"oneOf": []any{g.value(sf, sf.Type), ref}}
		}
		return ref
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		out := map[string]any{"type": "string"}
		if len(f.Enum) > 0 {
			out["enum"] = f.Enum
		}
		if f.Format == "label" {
			out["pattern"] = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
		}
		if f.MaxLength > 0 {
			out["maxLength"] = f.MaxLength
		}
		return out
	}
	out := map[string]any{"type": "integer"}
	if t.Kind() == reflect.Float64 {
		out["type"] = "number"
	}
	if f.Unit == "bytes" {
		out["type"] = []string{"integer", "string"}
	}
	if len(f.Enum) > 0 {
		var enum []int
		for _, e := range f.Enum {
			n, _ := strconv.Atoi(e)
			enum = append(enum, n)
		}
		out["enum"] = enum
	}
	if n, err := strconv.ParseFloat(f.Min, 64); err == nil {
		out["minimum"] = n
	}
	if n, err := strconv.ParseFloat(f.Max, 64); err == nil {
		out["maximum"] = n
	}
	return out
}
