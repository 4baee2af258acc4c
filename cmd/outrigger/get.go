package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

func (a *app) getCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "get [KIND [NAME]]",
		Short: "Show resources, and what of them is in force",
		Long: `Show resources, what of them is in force, who rejected them and why, and which policies a foreign client does not
carry. KIND is any kind in singular or plural; a service's NAME may be NAME@VERSION.`,
		Example: "  outrigger get\n  outrigger get services\n  outrigger get trafficpolicy orders -o yaml",
		Args:    cobra.MaximumNArgs(2),
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		if err := oneOf("-o", output, "table", "yaml", "json"); err != nil {
			return err
		}
		k := admin.Key{}
		if cmd.Flags().Changed("tenant") {
			k.Tenant = a.tenant
		}
		if len(args) > 0 {
			k.Kind = args[0]
		}
		if len(args) > 1 {
			k.Name, k.Version, _ = strings.Cut(args[1], "@")
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		rs, err := cl.Resources(cmd.Context(), k)
		if err != nil {
			return err
		}
		switch output {
		case "json":
			return printResourcesJSON(a.out, rs)
		case "yaml":
			return printResourcesYAML(a.out, rs)
		}
		return printResources(a.out, rs)
	})
	c.Flags().StringVarP(&output, "output", "o", "table", "`format`: table, yaml or json")
	a.tenantFlag(c)
	return c
}

func oneOf(flag, got string, want ...string) error {
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return &usageError{fmt.Sprintf("%s %q: want %s", flag, got, strings.Join(want, ", "))}
}

func printResources(out io.Writer, rs []admin.Resource) error {
	if len(rs) == 0 {
		fmt.Fprintln(out, "no resources")
		return nil
	}
	tenants := false
	for _, r := range rs {
		tenants = tenants || r.Tenant != "default"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	head := "KIND\tNAME\tVERSION\tSTATE\tWRITTEN IN"
	if tenants {
		head = "TENANT\t" + head
	}
	fmt.Fprintln(w, head)
	for _, r := range rs {
		if tenants {
			fmt.Fprintf(w, "%s\t", r.Tenant)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Kind, r.Name, dash(r.Version), r.Status.State, dash(r.Origin))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range rs {
		name := r.Kind + "/" + r.Name
		if r.Version != "" {
			name += "@" + r.Version
		}
		for _, p := range r.Status.Problems {
			fmt.Fprintf(out, "%s: %s\n", name, p)
		}
		for _, j := range r.Status.Rejections {
			fmt.Fprintf(out, "%s: rejected by %s (%s): %s\n", name, j.Node, j.Name, j.Reason)
		}
		for _, n := range r.Status.NotCarried {
			fmt.Fprintf(out, "%s: %s does not carry: %s\n", name, n.Node, strings.Join(n.Policies, ", "))
		}
		for _, n := range r.Status.Notes {
			fmt.Fprintf(out, "%s: %s\n", name, n)
		}
	}
	return nil
}

// withStatus is the resource as it was written, with what became of it.
func withStatus(r admin.Resource) (map[string]any, error) {
	var m map[string]any
	if err := json.Unmarshal(r.Manifest, &m); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", r.Kind, r.Name, err)
	}
	b, err := json.Marshal(r.Status)
	if err != nil {
		return nil, err
	}
	var s map[string]any
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	s["origin"], s["source"] = r.Origin, r.Source
	m["status"] = s
	return m, nil
}

func printResourcesJSON(out io.Writer, rs []admin.Resource) error {
	list := make([]map[string]any, 0, len(rs))
	for _, r := range rs {
		m, err := withStatus(r)
		if err != nil {
			return err
		}
		list = append(list, m)
	}
	return printJSON(out, list)
}

// printResourcesYAML writes documents that can be applied again: what became of them stands in comments.
func printResourcesYAML(out io.Writer, rs []admin.Resource) error {
	for i, r := range rs {
		// JSON is YAML: decoding it as a node keeps the canonical order of fields.
		var n yaml.Node
		if err := yaml.Unmarshal(r.Manifest, &n); err != nil {
			return fmt.Errorf("%s/%s: %w", r.Kind, r.Name, err)
		}
		block(&n)
		b, err := yaml.Marshal(&n)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(out, "---")
		}
		fmt.Fprintf(out, "# %s; written in %s\n", r.Status.State, dash(r.Origin))
		for _, p := range r.Status.Problems {
			fmt.Fprintf(out, "# %s\n", p)
		}
		for _, j := range r.Status.Rejections {
			fmt.Fprintf(out, "# rejected by %s (%s): %s\n", j.Node, j.Name, j.Reason)
		}
		for _, c := range r.Status.NotCarried {
			fmt.Fprintf(out, "# %s does not carry: %s\n", c.Node, strings.Join(c.Policies, ", "))
		}
		fmt.Fprintf(out, "%s", b)
	}
	return nil
}

// block drops the flow style and the quotes that JSON brings.
func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
