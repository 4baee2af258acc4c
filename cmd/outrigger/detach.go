package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/outrigger-mesh/outrigger/controlplane"
)

// The detached control plane tells its start over descriptor 3: lines to print, and one last line that begins with
// exitMark and holds the exit code of `up --detach`.
const (
	reportFD = 3
	exitMark = "\x00exit "
)

// detach starts this program again in a session of its own and prints what it tells until it is ready or has failed.
func (a *app) detach(ctx context.Context, state string) error {
	if err := controlplane.CheckState(state); err != nil {
		return err
	}
	if pid, held := controlplane.Holder(state); held {
		return &controlplane.HeldError{Dir: state, PID: pid}
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(state, controlplane.LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the control plane's log: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	defer r.Close()

	cmd := exec.Command(exe, append(os.Args[1:], "--detached")...)
	cmd.Stdin = os.Stdin
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w} // reportFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return fmt.Errorf("start the control plane: %w", err)
	}
	_ = w.Close()
	defer func() { _ = cmd.Process.Release() }()

	sigs := make(chan os.Signal, 2)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(sigs)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-sigs:
				_ = cmd.Process.Signal(s) // it stops what it started, and tells so
			case <-ctx.Done():
				_ = cmd.Process.Signal(syscall.SIGTERM)
				return
			}
		}
	}()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if code, ok := strings.CutPrefix(line, exitMark); ok {
			n, err := strconv.Atoi(strings.TrimSpace(code))
			switch {
			case err != nil:
				return fmt.Errorf("the control plane told %q", line)
			case n != exitDone:
				return &silentError{n}
			}
			return nil
		}
		fmt.Fprint(a.out, line)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the control plane ended while it started; see %s", log.Name())
		}
		if err != nil {
			return fmt.Errorf("hear from the control plane: %w", err)
		}
	}
}

// reporter is the other end: what a detached control plane prints.
type reporter struct{ f *os.File }

func newReporter() *reporter { return &reporter{os.NewFile(reportFD, "report")} }

func (r *reporter) Write(p []byte) (int, error) {
	if r.f == nil {
		return len(p), nil
	}
	// Who waited may have gone away: the control plane goes on.
	_, _ = r.f.Write(p)
	return len(p), nil
}

// end tells the exit code, once.
func (r *reporter) end(code int) {
	if r.f == nil {
		return
	}
	fmt.Fprintf(r.f, "%s%d\n", exitMark, code)
	_ = r.f.Close()
	r.f = nil
}

// leaveTerminal lets go of the standard input, which belongs to whoever started this.
func leaveTerminal() {
	if null, err := os.Open(os.DevNull); err == nil {
		_ = syscall.Dup3(int(null.Fd()), 0, 0)
		_ = null.Close()
	}
}
