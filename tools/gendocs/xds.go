package main

import (
	"bytes"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

const xdsIntro = `# Envoy v3 fields that a sidecar serves

<!-- Generated from the table of sidecar/compile by tools/gendocs. Change the table, then run make generate. -->

A sidecar takes Envoy v3 resources from any control plane that speaks delta ADS, and from a bootstrap file
(` + "`outrigger-sidecar -c FILE`" + `, YAML or JSON). This page lists every field that it serves, message by message. A field that is not
listed is refused by its path: in a bootstrap with file and line, on the wire with a NACK of that resource alone, whose last good
version stays in use. Nothing is left out in silence.

Sub-messages are listed under their own names. What a field means is what [Envoy's reference](https://www.envoyproxy.io/docs/envoy/latest/api-v3/api)
says; the notes say which values alone are taken, and why a field that is taken changes nothing. Lists of extensions (filters,
balancing policies, path matchers, transport sockets) take the types that are listed here. ` + "`typed_per_filter_config`" + ` takes the settings of those filters, wrapped in
` + "`FilterConfig`" + ` or not. On a bootstrap, see [run one sidecar](../howto/static-sidecar.md).

`

// xdsPage is the reference of the subset of xDS that is served.
func xdsPage() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xdsIntro)
	for _, group := range []struct{ title, prefix string }{
		{"Bootstrap", "envoy.config.bootstrap."},
		{"Listeners", "envoy.config.listener."},
		{"Routes", "envoy.config.route."},
		{"Clusters", "envoy.config.cluster."},
		{"Endpoints", "envoy.config.endpoint."},
		{"Extensions", "envoy.extensions."},
		{"Shared messages", "envoy."},
		{"Outrigger's own", "outrigger."},
	} {
		fmt.Fprintf(&b, "## %s\n", group.title)
		for _, m := range compile.ServedMessages() {
			if !strings.HasPrefix(string(m), group.prefix) || group.prefix == "envoy." && grouped(m) {
				continue
			}
			if err := messageTable(&b, m); err != nil {
				return nil, err
			}
		}
		b.WriteString("\n")
	}
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n'), nil
}

func grouped(m protoreflect.FullName) bool {
	for _, p := range []string{"envoy.config.bootstrap.", "envoy.config.listener.", "envoy.config.route.", "envoy.config.cluster.", "envoy.config.endpoint.", "envoy.extensions."} {
		if strings.HasPrefix(string(m), p) {
			return true
		}
	}
	return false
}

func messageTable(b *bytes.Buffer, m protoreflect.FullName) error {
	fmt.Fprintf(b, "\n### `%s`\n\n", m)
	fields := compile.Served(m)
	if len(fields) == 0 {
		b.WriteString("No fields: the message itself says what is meant.\n")
		return nil
	}
	var md protoreflect.MessageDescriptor
	if t, err := protoregistry.GlobalTypes.FindMessageByName(m); err == nil {
		md = t.Descriptor()
	}
	b.WriteString("| Field | Type | Notes |\n|---|---|---|\n")
	for _, f := range fields {
		typ := ""
		if md != nil {
			fd := md.Fields().ByName(f.Name)
			if fd == nil {
				return fmt.Errorf("%s has no field %s", m, f.Name)
			}
			typ = "`" + fieldType(fd) + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.Name, typ, f.Note)
	}
	return nil
}

func fieldType(fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.IsMap():
		return "map of " + kind(fd.MapKey()) + " to " + kind(fd.MapValue())
	case fd.IsList():
		return "list of " + kind(fd)
	}
	return kind(fd)
}

func kind(fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.Message() != nil:
		return strings.TrimPrefix(string(fd.Message().FullName()), "google.protobuf.")
	case fd.Enum() != nil:
		return string(fd.Enum().FullName())
	}
	return fd.Kind().String()
}
