package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

// app is what the commands share.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	stateFlag   string
	tenant      string
}

// state is the state directory, absolute.
func (a *app) state() (string, error) {
	s, err := filepath.Abs(a.stateFlag)
	if err != nil {
		return "", fmt.Errorf("state directory %s: %w", a.stateFlag, err)
	}
	return s, nil
}

func (a *app) client() (*admin.Client, error) {
	s, err := a.state()
	if err != nil {
		return nil, err
	}
	return admin.NewClient(s), nil
}

func (a *app) root() *cobra.Command {
	def := os.Getenv("OUTRIGGER_STATE")
	if def == "" {
		def = ".outrigger"
	}
	c := &cobra.Command{
		Use:   "outrigger",
		Short: "Run services written in any language as one mesh",
		Long: `Outrigger runs services written in any language as one mesh. It starts and supervises their processes, puts a
sidecar beside each one, and carries their calls under the policy that you write.

Begin with 'outrigger up -f FILE'.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 no control plane.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: true,
		},
	}
	c.PersistentFlags().StringVar(&a.stateFlag, "state", def, "state `directory` of the control plane; $OUTRIGGER_STATE")
	c.AddGroup(&cobra.Group{ID: "mesh", Title: "The mesh:"}, &cobra.Group{ID: "resources", Title: "Resources:"},
		&cobra.Group{ID: "processes", Title: "Processes:"}, &cobra.Group{ID: "other", Title: "Other:"})
	group := func(id string, cs ...*cobra.Command) {
		for _, s := range cs {
			s.GroupID = id
			c.AddCommand(s)
		}
	}
	group("mesh", a.upCommand(), a.statusCommand(), a.downCommand())
	group("resources", a.applyCommand(), a.getCommand(), a.diffCommand(), a.deleteCommand(), a.historyCommand())
	group("processes", a.psCommand(), a.logsCommand(), a.eventsCommand(),
		a.opCommand(admin.Start, "start", "Start what was stopped or has failed", ""),
		a.opCommand(admin.Stop, "stop", "Stop instances; they stay stopped until started", ""),
		a.opCommand(admin.Restart, "restart", "Stop instances in order and start them again", ""),
		a.opCommand(admin.Kill, "kill", "Kill processes, as a fault would",
			"\n\nA killed process is restarted as its policy says; use stop for one that is to stay away."),
		a.interceptCommand(), a.upgradeCommand())
	group("other", a.bootstrapCommand(), a.versionCommand())
	c.AddCommand(a.referenceCommand())
	c.SetHelpCommandGroupID("other")
	c.SetCompletionCommandGroupID("other")
	return c
}

func (a *app) tenantFlag(c *cobra.Command) {
	c.Flags().StringVar(&a.tenant, "tenant", "default", "`tenant` that owns what is named")
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: does(func(*cobra.Command, []string) error {
			fmt.Fprintf(a.out, "outrigger %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		}),
	}
}
