package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/supervisor/logfile"
)

// upOptions are up's flags.
type upOptions struct {
	files    []string
	edge     string
	consul   string
	host     string
	detach   bool
	detached bool
	wait     time.Duration
	debug    bool
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up [-f FILE|DIR|-]",
		Short: "Start the mesh on this host",
		Long: `Start a control plane for this host, put the resources of the files in force, and run what they say: each service
process with a sidecar beside it, and an edge through which to call them.

The files are a source of their own: what an earlier 'up' with the same files applied, and they no longer hold, is
removed. Without files, what the store holds is run. Where a control plane has died, its mesh is taken over as it runs.

Ctrl-C stops everything in reverse order, finishing calls in flight; a second Ctrl-C kills. With --detach the command
returns once all is ready; if something cannot start, everything that it started is stopped again and the exit code is 1.`,
		Example: "  outrigger up -f examples/shop\n  outrigger up -f mesh.yaml --detach --edge 127.0.0.1:9000",
		Args:    cobra.NoArgs,
	}
	c.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if o.edge != "" {
			if err := checkAddress(o.edge); err != nil {
				return &usageError{fmt.Sprintf("--edge %q: %v", o.edge, err)}
			}
		}
		state, err := a.state()
		if err != nil {
			return err
		}
		if o.detach && !o.detached {
			return a.detach(cmd.Context(), state)
		}
		if !o.detached {
			return a.up(cmd.Context(), state, o, a.out, nil)
		}
		r := newReporter()
		err = a.up(cmd.Context(), state, o, r, r.end)
		if err != nil {
			var silent *silentError
			if !errors.As(err, &silent) {
				fmt.Fprintf(r, "outrigger: %v\n", err)
			}
			r.end(codeOf(err))
			return &silentError{codeOf(err)}
		}
		r.end(exitDone)
		return nil
	})
	f := c.Flags()
	f.StringArrayVarP(&o.files, "filename", "f", nil, "`file`, directory (its .yaml, .yml and .json files) or - for standard input; may be repeated")
	f.StringVar(&o.edge, "edge", "127.0.0.1:8080", "`address` on which the mesh is called from outside; \"\" for none")
	f.BoolVar(&o.detach, "detach", false, "return when all is ready, and run on in the background")
	f.DurationVar(&o.wait, "wait", 2*time.Minute, "with --detach: give up when not all is ready within this `time`")
	f.StringVar(&o.consul, "consul", "", "`address` of a Consul agent that keeps resources and services, in place of the embedded store")
	f.StringVar(&o.host, "host", "", "`name` of this host in placements (default: the system's)")
	f.BoolVar(&o.debug, "debug", false, "write more into the control plane's log")
	f.BoolVar(&o.detached, "detached", false, "this is the process in the background")
	if err := f.MarkHidden("detached"); err != nil {
		panic(err) // the flag is named one line above
	}
	return c
}

func checkAddress(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want HOST:PORT, for example 127.0.0.1:8080")
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return fmt.Errorf("%q is not a port", port)
	}
	return nil
}

// quietWait is how long an end waits for the progress printed so far.
const quietWait = 2 * time.Second

// stages prints what is done, one line each with its time.
type stages struct {
	w     io.Writer
	begun time.Time
}

func (s *stages) say(format string, a ...any) {
	fmt.Fprintf(s.w, "%7.2fs  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, a...))
}

// up runs the control plane until it is told to end. ready, where it is not nil, is called once with the exit code of
// a start that went well.
func (a *app) up(ctx context.Context, state string, o upOptions, out io.Writer, ready func(int)) error {
	st := &stages{out, time.Now()}
	if err := checkPrograms(); err != nil {
		return err
	}
	var req *admin.ApplyRequest
	if len(o.files) > 0 {
		r, err := a.applyRequest("up", o.files)
		if err != nil {
			return err
		}
		r.Prune = true
		if err := controlplane.CheckDocuments(r); err != nil {
			return err
		}
		req = &r
		n := "file"
		if len(r.Documents) != 1 {
			n = "files"
		}
		st.say("read %d %s", len(r.Documents), n)
	}
	if o.detached {
		leaveTerminal()
	}
	_, statErr := os.Stat(state)
	dir, err := controlplane.OpenState(state)
	if err != nil {
		return err
	}
	defer dir.Close()
	if errors.Is(statErr, os.ErrNotExist) {
		// A start that is refused leaves nothing behind; what holds an instance is never removed.
		defer func() { controlplane.RemoveUnused(state) }()
	}
	st.say("state directory %s", shorter(state))

	log := a.logger(state, o)
	p, err := controlplane.New(controlplane.Options{
		State: dir, Host: o.host, Edge: o.edge, Consul: o.consul, Version: version,
		RunnerProgram: runnerProgram(), SidecarProgram: sidecarProgram(), Log: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := p.Close(); err != nil {
			log.Error("close", "error", err)
		}
	}()
	st.say("%s store, revision %d", p.StoreName(), p.Revision())

	if req != nil {
		res, err := p.Apply(ctx, *req)
		if err != nil {
			return err
		}
		counts := map[string]int{}
		for _, c := range res.Changes {
			counts[c.Action]++
		}
		st.say("checked %d resources%s: revision %d", len(res.Changes)-counts[admin.ActionDelete], describe(counts), res.Revision)
	}
	if err := p.CheckEdge(); err != nil {
		return err
	}

	// From here on things run, and end in order whatever happens.
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(sigs)
	serveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- p.Serve(serveCtx) }()
	finish := func() error {
		signal.Reset(syscall.SIGINT, syscall.SIGTERM) // nothing is left to be ended in order but this process
		cancel()
		err := <-served
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}

	w := &watcher{app: a, p: p, st: st, out: out, terminal: !o.detached && isTerminal(out)}
	watchCtx, stopWatch := context.WithCancel(serveCtx)
	defer stopWatch()
	first := make(chan error, 1)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		w.run(watchCtx, o, state, first)
	}()
	quiet := func() {
		stopWatch()
		select {
		case <-watching:
		case <-time.After(quietWait): // it prints to somebody who does not read
		}
	}
	for {
		select {
		case err := <-first: // the start is over
			first = nil
			switch {
			case err == nil && ready != nil:
				ready(exitDone)
				st.w = io.Discard
			case err != nil && o.detached:
				quiet()
				fmt.Fprintf(out, "outrigger: %v\n", err)
				st.say("stopping what was started")
				return errors.Join(&silentError{exitFailed}, stop(ctx, p, st, sigs, served), finish())
			}
		case <-sigs:
			quiet()
			st.begun, st.w = time.Now(), out
			st.say("stopping; once more to kill")
			err := errors.Join(stop(ctx, p, st, sigs, served), finish())
			if err == nil {
				st.say("all stopped")
			}
			if o.detached && first != nil {
				return errors.Join(&silentError{exitFailed}, err) // it was told to end before it was ready
			}
			return err
		case <-p.DownDone(): // by way of the API
			quiet()
			st.say("stopped by 'outrigger down'")
			return finish()
		case err := <-served:
			quiet()
			cancel()
			return fmt.Errorf("the control plane ended: %w", err)
		}
	}
}

// stop takes the mesh down, or joins who does so already. A signal meanwhile makes it kill instead of wait; from then on
// a further one ends this process at once, as signals do.
func stop(ctx context.Context, p *controlplane.Plane, st *stages, sigs <-chan os.Signal, served chan error) error {
	tell := func(s string) { st.say("%s", s) }
	downCtx, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	down := make(chan error, 1)
	go func() { down <- p.Down(downCtx, false, tell) }()
	for {
		select {
		case err := <-down:
			return err
		case <-sigs:
			signal.Reset(syscall.SIGINT, syscall.SIGTERM)
			st.say("killing; once more to leave it at that")
			go func() { _ = p.Down(downCtx, true, func(string) {}) }()
		case err := <-served: // before it could stop anything
			served <- err
			return nil
		}
	}
}

func describe(counts map[string]int) string {
	var parts []string
	for _, x := range []struct{ action, word string }{{admin.ActionCreate, "new"}, {admin.ActionUpdate, "changed"}, {admin.ActionDelete, "removed"}, {admin.ActionKeep, "as before"}} {
		if n := counts[x.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, x.word))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// logger writes to the state directory's control.log, which is rotated.
func (a *app) logger(state string, o upOptions) *slog.Logger {
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	w := logfile.New(filepath.Join(state, controlplane.LogFile), logfile.Options{})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// shorter is a path relative to the working directory where that is shorter.
func shorter(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || len(rel) >= len(path) {
		return path
	}
	return rel
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
