package resource

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
)

// node is the canonical form: apiVersion, kind, metadata, spec.
func (r *Resource) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	add := func(key string, v *yaml.Node) { n.Content = append(n.Content, schema.Text(key), v) }
	add("apiVersion", schema.Text(APIVersion))
	add("kind", schema.Text(string(r.Kind)))
	add("metadata", schema.Encode(&r.Metadata))
	add("spec", schema.Encode(r.Spec))
	return n
}

// MarshalJSON writes the canonical form: the same bytes for the same content, with no defaults filled in. It is what
// the store keeps.
func (r *Resource) MarshalJSON() ([]byte, error) {
	if r.Spec == nil {
		return nil, fmt.Errorf("resource %s has no spec", r.Metadata.Name)
	}
	return schema.JSON(r.node()), nil
}

// UnmarshalJSON reads one resource, strictly; the error is a Violations. It takes what MarshalJSON wrote, and any
// other JSON that Parse takes.
func (r *Resource) UnmarshalJSON(data []byte) error {
	set, list := Parse("", data)
	if len(list) > 0 {
		return list
	}
	if len(set) != 1 {
		return fmt.Errorf("reading a resource: %d resources instead of one", len(set))
	}
	*r = *set[0]
	r.origin = nil
	return nil
}

// Marshal writes resources as YAML, one document each, in the canonical form.
func Marshal(set ...*Resource) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	for _, r := range set {
		if err := enc.Encode(r.node()); err != nil {
			return nil, fmt.Errorf("writing %s as YAML: %w", r.Key(), err)
		}
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	return b.Bytes(), nil
}

// Equal says whether two resources have the same content, wherever they were written.
func Equal(a, b *Resource) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(schema.JSON(a.node()), schema.JSON(b.node()))
}

// Change is one field that differs between two versions of a resource.
type Change struct {
	// Path is the field; "" is the whole resource, which was added or removed.
	Path string `json:"path"`
	// Old and New are the values as compact JSON, "" for none.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// String is the change on one line: "path: old → new".
func (c Change) String() string {
	path := c.Path
	if path != "" {
		path += ": "
	}
	switch {
	case c.Old == "":
		return "+ " + path + c.New
	case c.New == "":
		return "- " + path + c.Old
	}
	return "~ " + path + c.Old + " → " + c.New
}

// Diff lists the fields that differ between two versions of a resource, in the order of the canonical form. Either may
// be nil: the resource was added or removed.
func Diff(before, after *Resource) []Change {
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		return []Change{{New: string(schema.JSON(after.node()))}}
	case after == nil:
		return []Change{{Old: string(schema.JSON(before.node()))}}
	}
	return schemaDiff("", before.node(), after.node(), nil)
}
