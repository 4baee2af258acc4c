package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
)

// Bounds of one file.
const (
	// MaxFileBytes is the size of a file at most.
	MaxFileBytes = 4 << 20
	// MaxResources is the number of resources in a file at most.
	MaxResources = 10_000
)

// Parse reads the resources of one file: YAML in one or more documents, or JSON values. file is the name for
// messages, "" where there is no file. A document may also be a list of resources. apiVersion may be left out in all
// but the first.
//
// It returns all violations within the resources (what Validate finds included), with file, line and column, and the
// resources whose kind and name could be read, also where they have violations, so that the caller can go on to
// ValidateSet and tell all at once. Violations that concern several resources are ValidateSet's.
func Parse(file string, data []byte) ([]*Resource, Violations) {
	p := &parser{file: file}
	if len(data) > MaxFileBytes {
		p.fail(0, fmt.Sprintf("has %d bytes", len(data)), fmt.Sprintf("at most %d: split the file", MaxFileBytes))
		return nil, p.list
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		p.fail(0, "is not text in UTF-8", "YAML or JSON, encoded in UTF-8")
		return nil, p.list
	}
	docs, ok := jsonNodes(data)
	if !ok {
		docs = p.yamlNodes(data)
	}
	for _, doc := range docs {
		p.document(doc)
	}
	p.list.Sort()
	return p.out, p.list
}

type parser struct {
	file    string
	out     []*Resource
	list    Violations
	seen    int
	nodes   int  // counted over the whole file
	version bool // apiVersion was written once
}

func (p *parser) fail(line int, message, hint string) {
	p.list = append(p.list, Violation{File: p.file, Line: line, Message: message, Hint: hint})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// yamlNodes reads documents up to the first that is not YAML.
func (p *parser) yamlNodes(data []byte) (docs []*yaml.Node) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		n := &yaml.Node{}
		err := dec.Decode(n)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			line, text := 0, err.Error()
			if m := yamlLine.FindStringSubmatch(text); m != nil {
				line, _ = strconv.Atoi(m[1])
				text = m[2]
			}
			p.fail(line, "is not YAML: "+text, "see the line and the one before it")
			return docs
		}
		if len(n.Content) == 1 {
			docs = append(docs, n.Content[0])
		}
		if len(docs) > MaxResources {
			p.fail(n.Line, fmt.Sprintf("holds more than %d documents", MaxResources), "split the file")
			return docs
		}
	}
}

func (p *parser) document(n *yaml.Node) {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		return
	case n.Kind == yaml.SequenceNode:
		for _, c := range n.Content {
			p.resource(c)
		}
	default:
		p.resource(n)
	}
}

// resource decodes and validates one resource.
func (p *parser) resource(n *yaml.Node) {
	if p.seen++; p.seen > MaxResources {
		if p.seen == MaxResources+1 {
			p.fail(n.Line, fmt.Sprintf("holds more than %d resources", MaxResources), "split the file")
		}
		return
	}
	r := &Resource{origin: &origin{file: p.file, line: n.Line}}
	d := &schema.Decoder{Nodes: &p.nodes}
	n, leave := d.Enter("", n)
	if n == nil {
		p.take(r, d)
		return
	}
	defer leave()
	if n.Kind != yaml.MappingNode {
		d.Report("", n, "is no resource", "a map with apiVersion, kind, metadata and spec")
		p.take(r, d)
		return
	}
	r.origin.line = n.Line
	known := p.decode(r, d, n)
	r.origin.places = d.Places
	decoded := len(d.List)
	if known {
		for _, v := range r.check() {
			if !covered(v.Path, d.List[:decoded]) {
				at := r.origin.at(v.Path)
				v.Line, v.Column = at.Line, at.Column
				d.List = append(d.List, v)
			}
		}
	}
	p.take(r, d)
	if known && r.Metadata.Name != "" {
		p.out = append(p.out, r)
	}
}

// take keeps what was found wrong with r.
func (p *parser) take(r *Resource, d *schema.Decoder) {
	name := ""
	if r.Kind != "" && r.Metadata.Name != "" {
		name = r.Key().String()
	}
	for _, v := range d.List {
		v.File, v.Resource = p.file, name
		p.list = append(p.list, v)
	}
}

// covered says whether the path, or what is around it, could not be decoded: it is then not missing too.
func covered(path string, decoded Violations) bool {
	for _, v := range decoded {
		if v.Path == path || strings.HasPrefix(path, v.Path) && v.Path != "" && strings.ContainsRune(".[", rune(path[len(v.Path)])) {
			return true
		}
	}
	return false
}

// decode reads the parts of a resource and says whether its kind is known.
func (p *parser) decode(r *Resource, d *schema.Decoder, n *yaml.Node) bool {
	var apiVersion, kind, metadata, spec *yaml.Node
	d.Fields("", n, func(k, v *yaml.Node) {
		d.At(k.Value, k)
		for v.Kind == yaml.AliasNode && v.Alias != nil && v.Alias != v {
			v = v.Alias
		}
		switch k.Value {
		case "apiVersion":
			apiVersion = v
		case "kind":
			kind = v
		case "metadata":
			metadata = v
		case "spec":
			spec = v
		default:
			d.Report(k.Value, k, "unknown field "+k.Value, schema.DidYouMean(k.Value, []string{"apiVersion", "kind", "metadata", "spec"}))
		}
	})
	switch {
	case apiVersion != nil && apiVersion.Kind == yaml.ScalarNode && apiVersion.Value == APIVersion:
		p.version = true
	case apiVersion != nil:
		p.version = true // say it once
		d.Report("apiVersion", apiVersion, "unknown apiVersion "+apiVersion.Value, "this version serves "+APIVersion)
	case !p.version:
		p.version = true
		d.Report("apiVersion", n, "is missing", "apiVersion: "+APIVersion)
	}
	if metadata != nil {
		d.Struct("metadata", metadata, &r.Metadata)
	}
	if kind == nil {
		d.Report("kind", n, "is missing", kindHint(""))
		return false
	}
	r.Kind = Kind(kind.Value)
	r.Spec = newSpec(r.Kind)
	if r.Spec == nil {
		r.Kind = ""
		if kind.Kind != yaml.ScalarNode {
			d.Report("kind", kind, "is no text", kindHint(""))
		} else {
			message := fmt.Sprintf("unknown kind %q", kind.Value)
			if kind.Value == "Authorization" { // the design defines it
				message = "not served by this version: kind Authorization"
			}
			d.Report("kind", kind, message, kindHint(kind.Value))
		}
		return false
	}
	if spec == nil {
		d.Report("spec", n, "is missing", "")
	} else {
		d.Struct("spec", spec, r.Spec)
	}
	if metadata == nil {
		d.Report("metadata", n, "is missing", "metadata: {name: …}")
	}
	return true
}

func kindHint(s string) string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	if m := schema.Suggest(s, names); m != "" {
		return "did you mean " + m + "?"
	}
	return "one of " + strings.Join(names, ", ")
}
