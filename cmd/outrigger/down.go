package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/host"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// endWait is how long the control plane may take to end after it has stopped everything.
const endWait = 15 * time.Second

func (a *app) downCommand() *cobra.Command {
	var now bool
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop the mesh on this host",
		Long: `Stop the mesh on this host: gateways first, then services in the reverse order of their start. Calls in flight are
finished. It works also where the control plane has died; resources stay in the store.`,
		Args: cobra.NoArgs,
	}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		state, err := a.state()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w at %s: there is no such directory", admin.ErrNoControlPlane, state)
		}
		return a.down(ctx, state, now)
	})
	c.Flags().BoolVar(&now, "now", false, "kill instead of draining")
	return c
}

func (a *app) down(ctx context.Context, state string, now bool) error {
	tell := func(s string) { fmt.Fprintln(a.out, s) }
	cl := admin.NewClient(state)
	defer cl.Close()
	err := cl.Down(ctx, now, tell)
	switch {
	case err == nil:
		if err := waitReleased(ctx, state); err != nil {
			return err
		}
		tell("all stopped")
		return nil
	case !errors.Is(err, admin.ErrNoControlPlane):
		if _, held := controlplane.Holder(state); held || ctx.Err() != nil {
			return err
		}
		// It died while it was stopping: go on where it left off.
	}
	if err := controlplane.CheckState(state); err != nil {
		return err
	}
	s, err := controlplane.OpenState(state)
	if err != nil {
		return err
	}
	defer s.Close()
	n := 0
	err = host.DownOffline(ctx, s.Dir, host.NewLauncher(runnerProgram()), runner.StopOptions{NoDrain: now, Kill: now}, func(line string) {
		n++
		tell(line)
	})
	if err != nil {
		return fmt.Errorf("not all stopped: %w", err)
	}
	if n == 0 {
		tell("nothing is running")
		return nil
	}
	tell("all stopped (the control plane was not running)")
	return nil
}

// waitReleased waits until the control plane has let go of its state directory.
func waitReleased(ctx context.Context, state string) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		pid, held := controlplane.Holder(state)
		if !held {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("everything has stopped, but the control plane (pid %d) does not end", pid)
		case <-t.C:
		}
	}
}
