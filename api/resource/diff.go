package resource

import (
	"bytes"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// schemaDiff compares two canonical nodes: maps by key, lists by position, everything else by value.
func schemaDiff(path string, a, b *yaml.Node, out []Change) []Change {
	switch {
	case a.Kind == yaml.MappingNode && b.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(a.Content); i += 2 {
			key := a.Content[i].Value
			at := violation.Entry(path, key)
			if other := entry(b, key); other != nil {
				out = schemaDiff(at, a.Content[i+1], other, out)
			} else {
				out = append(out, Change{Path: at, Old: string(schema.JSON(a.Content[i+1]))})
			}
		}
		for i := 0; i+1 < len(b.Content); i += 2 {
			if key := b.Content[i].Value; entry(a, key) == nil {
				out = append(out, Change{Path: violation.Entry(path, key), New: string(schema.JSON(b.Content[i+1]))})
			}
		}
		return out
	case a.Kind == yaml.SequenceNode && b.Kind == yaml.SequenceNode:
		for i := range max(len(a.Content), len(b.Content)) {
			at := violation.Index(path, i)
			switch {
			case i >= len(a.Content):
				out = append(out, Change{Path: at, New: string(schema.JSON(b.Content[i]))})
			case i >= len(b.Content):
				out = append(out, Change{Path: at, Old: string(schema.JSON(a.Content[i]))})
			default:
				out = schemaDiff(at, a.Content[i], b.Content[i], out)
			}
		}
		return out
	}
	if x, y := schema.JSON(a), schema.JSON(b); !bytes.Equal(x, y) {
		out = append(out, Change{Path: path, Old: string(x), New: string(y)})
	}
	return out
}

func entry(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
