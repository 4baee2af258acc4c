package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
)

// jsonNodes reads data as JSON values, one after the other; false where it is not JSON. Nodes know their lines, and
// keep keys that are written twice.
func jsonNodes(data []byte) ([]*yaml.Node, bool) {
	t := bytes.TrimLeft(data, " \t\r\n")
	if len(t) == 0 || t[0] != '{' && t[0] != '[' {
		return nil, false
	}
	r := &jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data}
	r.dec.UseNumber()
	for i, c := range data {
		if c == '\n' {
			r.newlines = append(r.newlines, i)
		}
	}
	var out []*yaml.Node
	for {
		n, err := r.value(0)
		if errors.Is(err, io.EOF) {
			return out, true
		}
		if err != nil {
			return nil, false
		}
		out = append(out, n)
	}
}

type jsonReader struct {
	dec      *json.Decoder
	data     []byte
	newlines []int // offsets
}

// place sets where the token begins that is read next.
func (r *jsonReader) place(n *yaml.Node) {
	at := int(r.dec.InputOffset())
	for at < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[at]) >= 0 {
		at++
	}
	l := sort.SearchInts(r.newlines, at)
	n.Line, n.Column = l+1, at+1
	if l > 0 {
		n.Column = at - r.newlines[l-1]
	}
}

func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	n := &yaml.Node{}
	r.place(n)
	t, err := r.dec.Token()
	if err != nil {
		if depth > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if depth > 2*schema.MaxDepth {
		return nil, fmt.Errorf("nested too deeply")
	}
	n.Kind = yaml.ScalarNode
	switch x := t.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if x == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for r.dec.More() {
			c, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		_, err := r.dec.Token()
		return n, err
	case string:
		n.Tag, n.Value, n.Style = "!!str", x, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", x.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(x)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}
