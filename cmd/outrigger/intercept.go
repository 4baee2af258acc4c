package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) interceptCommand() *cobra.Command {
	var dryRun bool
	var output string
	c := &cobra.Command{
		Use:   "intercept NAME",
		Short: "Show or renew the rules that redirect connections to sidecars",
		Long: `Put the rules once more into the kernel that redirect the connections of instances to their sidecars (spec.intercept of
a service), for example after something else has flushed all rules. The control plane puts and removes them by itself when
instances start and stop, and looks every 2 s whether they are there. NAME is a service, SERVICE@VERSION or an instance's id.

With --dry-run the rules are only printed, in the syntax of nft: each instance has one table, which holds all of them.`,
		Example: "  outrigger intercept --dry-run front\n  outrigger intercept front",
		Args:    cobra.ExactArgs(1),
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		if err := oneOf("-o", output, "text", "json"); err != nil {
			return err
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		got, err := cl.Interceptions(cmd.Context(), a.tenant, args[0], !dryRun)
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(a.out, got)
		}
		for i, x := range got {
			if !dryRun {
				state := "in force"
				if !x.InForce {
					state = "not in force: the instance does not run"
				}
				fmt.Fprintf(a.out, "%s: table inet %s is %s\n", x.Instance, x.Table, state)
				continue
			}
			if i > 0 {
				fmt.Fprintln(a.out)
			}
			state := ""
			if !x.InForce {
				state = ", which does not run: these are not in force"
			}
			fmt.Fprintf(a.out, "# %s%s\n%s", x.Instance, state, x.Rules)
		}
		if len(got) == 0 {
			fmt.Fprintf(a.out, "nothing of %s is intercepted (spec.intercept)\n", args[0])
		}
		return nil
	})
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print the rules, change nothing")
	c.Flags().StringVarP(&output, "output", "o", "text", "`format`: text or json")
	a.tenantFlag(c)
	return c
}
