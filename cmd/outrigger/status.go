package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

func (a *app) statusCommand() *cobra.Command {
	var wait time.Duration
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the mesh is, or wait until it is ready",
		Long: `Show how the mesh is on this host. With --wait, return once every instance is ready (exit code 0), or with the reason
(exit code 1) when the time is over or waiting is of no use.`,
		Args: cobra.NoArgs,
	}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if err := oneOf("-o", output, "text", "json"); err != nil {
			return err
		}
		if wait < 0 {
			return &usageError{"--wait is less than zero"}
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		var st admin.Status
		waiting := cmd.Flags().Changed("wait")
		if waiting {
			st, err = cl.WaitReady(cmd.Context(), wait)
		} else {
			st, err = cl.Status(cmd.Context())
		}
		if err != nil {
			return err
		}
		if output == "json" {
			if err := printJSON(a.out, st); err != nil {
				return err
			}
		} else if err := printStatus(a.out, st); err != nil {
			return err
		}
		if waiting && !st.Ready {
			why := "the mesh is not ready"
			if !st.Fatal {
				why = fmt.Sprintf("the mesh is not ready after %v", wait)
			}
			if len(st.Reasons) > 0 {
				why += ": " + strings.Join(st.Reasons, "; ")
			}
			return fmt.Errorf("%s", why)
		}
		return nil
	})
	c.Flags().DurationVar(&wait, "wait", 0, "wait until all is ready, at most this `long`, for example 60s")
	c.Flags().StringVarP(&output, "output", "o", "text", "`format`: text or json")
	return c
}

func printStatus(out io.Writer, st admin.Status) error {
	state := "ready"
	if !st.Ready {
		state = "not ready"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Mesh:\t%s\n", state)
	for _, r := range st.Reasons {
		fmt.Fprintf(w, "\t%s\n", r)
	}
	fmt.Fprintf(w, "Control plane:\tpid %d on host %s, %s old, version %s\n", st.PID, st.Host, age(st.Started), st.Version)
	fmt.Fprintf(w, "Revision:\t%d in the %s store\n", st.Revision, st.Store)
	if st.Edge != "" {
		fmt.Fprintf(w, "Edge:\thttp://%s\n", st.Edge)
	}
	fmt.Fprintf(w, "API:\t%s\n", st.API)
	ready, instances := 0, 0
	for _, p := range st.Processes {
		if p.Service == "" {
			continue
		}
		instances++
		if p.Ready {
			ready++
		}
	}
	fmt.Fprintf(w, "Instances:\t%d of %d ready\n", ready, instances)
	for _, p := range st.Processes {
		if p.Intercept != "" {
			fmt.Fprintf(w, "Intercepted:\t%s: %s\n", p.Instance, p.Intercept)
		}
	}
	for _, c := range st.Clients {
		if c.Kind == "envoy" || c.Kind == "grpc" {
			fmt.Fprintf(w, "Foreign client:\t%s\n", c.Node)
			for _, s := range c.Skipped {
				fmt.Fprintf(w, "\tskips %s\n", s)
			}
		}
	}
	for _, x := range st.Warnings {
		fmt.Fprintf(w, "Warning:\t%s\n", x)
	}
	return w.Flush()
}

func (a *app) historyCommand() *cobra.Command {
	var output string
	var limit int
	c := &cobra.Command{Use: "history", Short: "List the revisions, newest first", Args: cobra.NoArgs}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if err := oneOf("-o", output, "table", "json"); err != nil {
			return err
		}
		if limit < 1 {
			return &usageError{"--limit is less than one"}
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		h, err := cl.History(cmd.Context(), limit)
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(a.out, h)
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "REVISION\tTIME\tBY\tSOURCE\tCHANGES")
		for _, r := range h {
			n := fmt.Sprint(r.Number)
			if r.Current {
				n += " (in force)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n, r.Time.Local().Format(time.DateTime), dash(r.Author), dash(r.Source), dash(r.Summary))
		}
		return w.Flush()
	})
	c.Flags().IntVar(&limit, "limit", 50, "how `many` at most")
	c.Flags().StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return c
}

func (a *app) bootstrapCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "bootstrap envoy|grpc SERVICE",
		Short: "Print the bootstrap of a foreign client",
		Long: `Print the bootstrap with which an unmodified Envoy, or a proxyless gRPC program, takes its configuration from this
control plane and calls the mesh in the name of SERVICE.`,
		Example: "  outrigger bootstrap envoy orders > envoy.yaml\n  outrigger bootstrap grpc orders > bootstrap.json",
		Args:    cobra.ExactArgs(2),
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		if err := oneOf("client", args[0], "envoy", "grpc"); err != nil {
			return err
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		if err := checkAddress(listen); err != nil {
			return &usageError{fmt.Sprintf("--listen %q: %v", listen, err)}
		}
		b, err := cl.Bootstrap(cmd.Context(), admin.BootstrapRequest{Kind: args[0], Tenant: a.tenant, Service: args[1], Listen: listen})
		if err != nil {
			return err
		}
		_, err = a.out.Write(b)
		return err
	})
	c.Flags().StringVar(&listen, "listen", admin.DefaultEnvoyListen, "`address` on which an Envoy takes calls, routed by Host")
	a.tenantFlag(c)
	return c
}

func printLine(out io.Writer, v any) error {
	return json.NewEncoder(out).Encode(v)
}
