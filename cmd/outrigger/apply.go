package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

func filesFlag(c *cobra.Command, files *[]string) {
	c.Flags().StringArrayVarP(files, "filename", "f", nil, "`file`, directory (its .yaml, .yml and .json files) or - for standard input; may be repeated")
	if err := c.MarkFlagRequired("filename"); err != nil {
		panic(err) // the flag is named one line above
	}
}

func (a *app) applyRequest(verb string, files []string) (admin.ApplyRequest, error) {
	docs, err := readDocuments(files, a.in)
	if err != nil {
		return admin.ApplyRequest{}, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return admin.ApplyRequest{}, fmt.Errorf("working directory: %w", err)
	}
	return admin.ApplyRequest{Source: sourceOf(verb, files), Dir: wd, Documents: docs}, nil
}

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dryRun, prune bool
	var expected uint64
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Put resources in force",
		Long: `Put resources in force: those that are new are added, those that exist are replaced, all at once or not at all.

Everything is checked before anything changes; what is wrong is told with file, line and field.`,
		Args: cobra.NoArgs,
	}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		req, err := a.applyRequest("apply", files)
		if err != nil {
			return err
		}
		req.Prune, req.DryRun = prune, dryRun
		if cmd.Flags().Changed("expect-revision") {
			req.ExpectedRevision = &expected
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		res, err := cl.Apply(cmd.Context(), req)
		if err != nil {
			return err
		}
		printResult(a.out, a.errOut, res)
		return nil
	})
	filesFlag(c, &files)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check everything, change nothing")
	c.Flags().BoolVar(&prune, "prune", false, "also remove what the same files applied before and no longer hold")
	c.Flags().Uint64Var(&expected, "expect-revision", 0, "refuse where another `revision` is in force")
	return c
}

func (a *app) diffCommand() *cobra.Command {
	var files []string
	var prune bool
	c := &cobra.Command{
		Use:   "diff -f FILE|DIR|-",
		Short: "Show what apply would change, field by field",
		Args:  cobra.NoArgs,
	}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		req, err := a.applyRequest("apply", files)
		if err != nil {
			return err
		}
		req.Prune = prune
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		res, err := cl.Diff(cmd.Context(), req)
		if err != nil {
			return err
		}
		printDiff(a.out, res)
		return nil
	})
	filesFlag(c, &files)
	c.Flags().BoolVar(&prune, "prune", false, "as apply --prune")
	return c
}

func (a *app) deleteCommand() *cobra.Command {
	var dryRun bool
	var ver string
	c := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Remove a resource",
		Long: `Remove a resource. For a service, NAME is all its versions and NAME@VERSION (or --version) one. What others refer
to cannot be removed.`,
		Example: "  outrigger delete route orders-beta\n  outrigger delete service orders@2.0.0",
		Args:    cobra.ExactArgs(2),
	}
	c.RunE = does(func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		k := admin.Key{Tenant: a.tenant, Kind: args[0], Name: args[1], Version: ver}
		if name, v, ok := strings.Cut(k.Name, "@"); ok && ver == "" {
			k.Name, k.Version = name, v
		}
		res, err := cl.Delete(cmd.Context(), k, dryRun)
		if err != nil {
			return err
		}
		printResult(a.out, a.errOut, res)
		return nil
	})
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check everything, change nothing")
	c.Flags().StringVar(&ver, "version", "", "`version` of a service")
	a.tenantFlag(c)
	return c
}

func changeName(c admin.Change) string {
	s := c.Kind + "/"
	if c.Tenant != "" && c.Tenant != "default" {
		s += c.Tenant + "."
	}
	s += c.Name
	if c.Version != "" {
		s += "@" + c.Version
	}
	return s
}

var pastTense = map[string]string{
	admin.ActionCreate: "created", admin.ActionUpdate: "changed", admin.ActionDelete: "removed", admin.ActionKeep: "unchanged",
}

func printResult(out, errOut io.Writer, res admin.ApplyResult) {
	for _, w := range res.Warnings {
		fmt.Fprintf(errOut, "warning: %s\n", w)
	}
	for _, c := range res.Changes {
		fmt.Fprintf(out, "%s %s\n", changeName(c), pastTense[c.Action])
	}
	switch {
	case res.DryRun && res.Changed:
		fmt.Fprintf(out, "dry run: nothing was changed; revision %d is in force\n", res.Revision)
	case !res.Changed:
		fmt.Fprintf(out, "nothing to change; revision %d is in force\n", res.Revision)
	default:
		fmt.Fprintf(out, "revision %d is in force\n", res.Revision)
	}
}

func printDiff(out io.Writer, res admin.ApplyResult) {
	sign := map[string]string{admin.ActionCreate: "+", admin.ActionUpdate: "~", admin.ActionDelete: "-"}
	n := 0
	for _, c := range res.Changes {
		if c.Action == admin.ActionKeep {
			continue
		}
		n++
		fmt.Fprintf(out, "%s %s\n", sign[c.Action], changeName(c))
		for _, f := range c.Fields {
			switch {
			case f.Old == "":
				fmt.Fprintf(out, "    + %s: %s\n", f.Path, f.New)
			case f.New == "":
				fmt.Fprintf(out, "    - %s: %s\n", f.Path, f.Old)
			default:
				fmt.Fprintf(out, "    ~ %s: %s -> %s\n", f.Path, f.Old, f.New)
			}
		}
	}
	if n == 0 {
		fmt.Fprintln(out, "no difference")
	}
}
