package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

func (a *app) psCommand() *cobra.Command {
	var output string
	c := &cobra.Command{Use: "ps", Short: "List this host's instances", Args: cobra.NoArgs}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if err := oneOf("-o", output, "table", "json"); err != nil {
			return err
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		ps, err := cl.Processes(cmd.Context())
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(a.out, ps)
		}
		return printProcesses(a.out, ps)
	})
	c.Flags().StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return c
}

func printProcesses(out io.Writer, ps []admin.Process) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	// Most meshes intercept nothing: the column is there where there is something in it.
	head, intercepted := "INSTANCE\tSTATE\tREADY\tRESTARTS\tPID\tSIDECAR\tADDRESS\tAGE", slices.ContainsFunc(ps, func(p admin.Process) bool { return p.Intercept != "" })
	if intercepted {
		head += "\tINTERCEPT"
	}
	fmt.Fprintln(w, head)
	for _, p := range ps {
		ready := "no"
		if p.Ready {
			ready = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s", p.Instance, p.State, ready, p.Restarts, pid(p.PID), pid(p.Sidecar.PID), dash(p.Address), age(p.Since))
		if intercepted {
			fmt.Fprintf(w, "\t%s", dash(p.Intercept))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range ps {
		if p.Reason != "" && !p.Ready {
			fmt.Fprintf(out, "%s: %s\n", p.Instance, p.Reason)
		}
	}
	return nil
}

func pid(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

func (a *app) logsCommand() *cobra.Command {
	q := admin.LogQuery{}
	c := &cobra.Command{
		Use:   "logs [NAME]",
		Short: "Show the output of processes",
		Long: `Show the output of processes, standard output and error together. NAME is a service, SERVICE@VERSION or an
instance's id; without it all are shown. Where there is more than one instance each line begins with its id.`,
		Args: cobra.MaximumNArgs(1),
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			q.Name = args[0]
		}
		q.Tenant = a.tenant
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		err = cl.Logs(ctx, q, a.out)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
	c.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on until interrupted")
	c.Flags().IntVarP(&q.Tail, "tail", "n", 100, "last `lines` of each instance to begin with; -1 for all that is kept")
	c.Flags().BoolVar(&q.Sidecar, "sidecar", false, "the sidecar's log in place of the process's output")
	a.tenantFlag(c)
	return c
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var output string
	var since uint64
	c := &cobra.Command{Use: "events", Short: "Show what happened on this host", Args: cobra.NoArgs}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if err := oneOf("-o", output, "text", "json"); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		epoch := ""
		if since > 0 {
			st, err := cl.Status(ctx)
			if err != nil {
				return err
			}
			epoch = st.Epoch
		}
		err = cl.Events(ctx, epoch, since, follow, func(e admin.Event) bool {
			if output == "json" {
				return printLine(a.out, e) == nil
			}
			who := e.Instance
			if who == "" {
				who = strings.TrimSuffix(e.Service+"@"+e.Version, "@")
			}
			_, err := fmt.Fprintf(a.out, "%6d  %s  %-22s %-24s %s\n", e.Number, e.Time.Local().Format("15:04:05.000"), e.Kind, dash(who), e.Text)
			return err == nil
		})
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	c.Flags().Uint64Var(&since, "since", 0, "only events after this `number`")
	c.Flags().StringVarP(&output, "output", "o", "text", "`format`: text or json (a line each)")
	return c
}

func (a *app) upgradeCommand() *cobra.Command {
	var program string
	c := &cobra.Command{
		Use:   "upgrade [NAME...]",
		Short: "Replace sidecars by new ones, with no call lost",
		Long: `Replace sidecars by new ones, one after the other, with no call lost. NAME is a service, SERVICE@VERSION or an instance's id; without one
all sidecars are replaced, those of gateways last.

A new sidecar is started beside the old one, takes its configuration, and accepts on the same sockets once it is ready; the old one accepts no
more, finishes its calls until its drain ends (30 s), and ends. Processes are not touched. If a new sidecar does not become ready, the old one
stays, and the upgrade ends there.

--sidecar names another program. It stays in force over restarts, after an upgrade of all for new instances too. An upgrade without
--sidecar goes back to the program beside outrigger, as it is on disk by then.`,
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		if program != "" {
			abs, err := filepath.Abs(program)
			if err != nil {
				return err
			}
			program = abs
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		return cl.Upgrade(cmd.Context(), admin.UpgradeRequest{Tenant: a.tenant, Names: args, Sidecar: program}, func(u admin.Upgraded) {
			if u.New == 0 {
				fmt.Fprintf(a.out, "%s takes it when it starts\n", u.Instance)
				return
			}
			fmt.Fprintf(a.out, "%s upgraded (sidecar %d, was %d)\n", u.Instance, u.New, u.Old)
		})
	})
	c.Flags().StringVar(&program, "sidecar", "", "`path` of the sidecar's program (default: the one beside outrigger)")
	a.tenantFlag(c)
	return c
}

func (a *app) opCommand(op admin.Op, use, short, more string) *cobra.Command {
	c := &cobra.Command{
		Use:   use + " NAME",
		Short: short,
		Long:  short + ". NAME is a service, SERVICE@VERSION or an instance's id." + more,
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		ids, err := cl.Operate(cmd.Context(), a.tenant, args[0], op)
		if err != nil {
			return err
		}
		past := map[admin.Op]string{admin.Start: "started", admin.Stop: "stopped", admin.Restart: "restarted", admin.Kill: "killed"}
		for _, id := range ids {
			fmt.Fprintf(a.out, "%s %s\n", id, past[op])
		}
		return nil
	})
	a.tenantFlag(c)
	return c
}
