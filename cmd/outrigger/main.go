// Command outrigger is the control plane, the supervisor of this host's processes, and the command line that
// speaks with them.
//
// This package reads flags, composes the parts and prints; what the parts do is theirs: package controlplane runs
// the control plane, controlplane/admin is the API that every command but up uses. The data path is another
// command, outrigger-sidecar, and each instance's keeper a third, outrigger-runner; both are expected beside this one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitDone = iota
	exitFailed
	exitUsage
	exitNotFound
	exitNoControlPlane
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole command: it prints errors and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, errOut: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var silent *silentError
	if errors.As(err, &silent) {
		return silent.code
	}
	var failed *failedError
	if !errors.As(err, &failed) { // of cobra: a flag, an argument or a command that is not there
		fmt.Fprintf(errOut, "outrigger: %v\nRun 'outrigger --help' for the commands and their flags.\n", err)
		return exitUsage
	}
	fmt.Fprintf(errOut, "outrigger: %v\n", failed.err)
	if errors.Is(err, admin.ErrNoControlPlane) {
		fmt.Fprintf(errOut, "Start one with 'outrigger up -f FILE', or name its state directory with --state.\n")
	}
	return codeOf(failed.err)
}

// failedError is an error of a command that was understood.
type failedError struct{ err error }

func (e *failedError) Error() string { return e.err.Error() }
func (e *failedError) Unwrap() error { return e.err }

// silentError ends the command with a code; all was said already.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is a mistake in the arguments that cobra does not see.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func codeOf(err error) int {
	var p *admin.Problem
	var u *usageError
	switch {
	case errors.Is(err, admin.ErrNoControlPlane):
		return exitNoControlPlane
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &p) && p.Status == 404:
		return exitNotFound
	}
	return exitFailed
}

// does makes a RunE whose errors are told apart from cobra's own.
func does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := f(cmd, args); err != nil {
			return &failedError{err}
		}
		return nil
	}
}
