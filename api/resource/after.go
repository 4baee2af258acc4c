package resource

import (
	"fmt"
	"sort"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// DecodeNode reads a list of names, or a map from name to condition.
func (a *After) DecodeNode(d *schema.Decoder, path string, n *yaml.Node) {
	add := func(at string, name *yaml.Node, condition string) {
		if name.Kind != yaml.ScalarNode || name.ShortTag() != "!!str" || !schema.IsLabel(name.Value) {
			d.Report(at, name, "is not a service's name", "such as inventory")
			return
		}
		for _, x := range *a {
			if x.Service == name.Value {
				d.Report(at, name, name.Value+" is written twice", "keep one")
				return
			}
		}
		*a = append(*a, Dependency{Service: name.Value, Condition: condition})
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			at := violation.Index(path, i)
			c, leave := d.Enter(at, c)
			if c == nil {
				return
			}
			d.At(at, c)
			add(at, c, Healthy)
			leave()
		}
	case yaml.MappingNode:
		d.Fields(path, n, func(k, v *yaml.Node) {
			at := violation.Entry(path, k.Value)
			d.At(at, k)
			v, leave := d.Enter(at, v)
			if v == nil {
				return
			}
			defer leave()
			switch {
			case v.Kind == yaml.ScalarNode && (v.Value == Healthy || v.Value == Started):
				add(at, k, v.Value)
			case v.Kind == yaml.ScalarNode && v.Value == "completed":
				d.Report(at, v, "not served by this version: completed", "healthy or started")
			default:
				d.Report(at, v, fmt.Sprintf("unknown condition %q", v.Value), "healthy or started")
			}
		})
	default:
		d.Report(path, n, "needs a list of services, or a map from service to condition", "such as [inventory] or {inventory: started}")
	}
	sort.Slice(*a, func(i, j int) bool { return (*a)[i].Service < (*a)[j].Service })
}

// EncodeNode writes a list where all conditions are healthy, else a map.
func (a After) EncodeNode() *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, x := range a {
		if x.Condition == Started {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
	}
	for _, x := range a {
		n.Content = append(n.Content, schema.Text(x.Service))
		if n.Kind == yaml.MappingNode {
			n.Content = append(n.Content, schema.Text(x.Condition))
		}
	}
	return n
}

// TypeName tells the type in documentation.
func (After) TypeName() string { return "list of names, or map from name to condition" }
