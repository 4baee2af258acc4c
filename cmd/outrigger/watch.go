package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

// watcher prints how the mesh comes up, and what happens to it afterwards.
type watcher struct {
	app      *app
	p        *controlplane.Plane
	st       *stages
	out      io.Writer
	terminal bool
	line     bool // a progress line stands there, to be replaced
}

// run prints until ctx ends. It sends one error, or nil, to started: how the start went.
func (w *watcher) run(ctx context.Context, o upOptions, state string, started chan<- error) {
	waitCtx, cancel := ctx, context.CancelFunc(func() {})
	if o.detached {
		waitCtx, cancel = context.WithTimeout(ctx, o.wait)
	}
	defer cancel()
	status, err := w.untilReady(waitCtx)
	if ctx.Err() != nil {
		return
	}
	w.clear()
	if err == nil && status.Ready {
		n := 0
		for _, p := range status.Processes {
			if p.Service != "" {
				n++
			}
		}
		w.st.say("ready: %d of %d instances", n, n)
	}
	var why error
	if err != nil || !status.Ready {
		why = w.explain(status, err, o)
	}
	if why == nil || !o.detached {
		w.places(status, state, o)
	}
	if why != nil && !o.detached {
		fmt.Fprintf(w.out, "\noutrigger: %v\nThe rest goes on. Mend it and 'outrigger apply' again, or end all with Ctrl-C.\n", why)
	}
	started <- why
	if !o.detached {
		w.follow(ctx, status)
	}
}

// untilReady prints progress until the mesh is ready, cannot become so, or ctx ends.
func (w *watcher) untilReady(ctx context.Context) (admin.Status, error) {
	shown := map[string]bool{}
	for {
		changed := w.p.Changed()
		s, err := w.p.Status(ctx)
		if err != nil {
			return s, err
		}
		ready, all := 0, 0
		waits := ""
		for _, p := range s.Processes {
			all++
			if p.Ready {
				ready++
				if !shown[p.Instance] {
					shown[p.Instance] = true
					w.clear()
					w.st.say("%s", readyLine(p))
				}
				continue
			}
			if waits == "" {
				waits = p.Instance + " (" + p.State + ")"
			}
		}
		if s.Ready || s.Fatal {
			return s, nil
		}
		if w.terminal && waits != "" {
			w.clear()
			fmt.Fprintf(w.out, "          %d of %d ready, waiting for %s", ready, all, waits)
			w.line = true
		}
		select {
		case <-ctx.Done():
			return s, nil
		case <-changed:
		}
	}
}

func readyLine(p admin.Process) string {
	at := ""
	if p.Address != "" {
		at = " at " + p.Address
	}
	if p.PID == 0 {
		return fmt.Sprintf("%s ready (sidecar %d)%s", p.Instance, p.Sidecar.PID, at)
	}
	return fmt.Sprintf("%s ready (pid %d, sidecar %d)%s", p.Instance, p.PID, p.Sidecar.PID, at)
}

// explain says what is missing, with the last output of what failed.
func (w *watcher) explain(s admin.Status, err error, o upOptions) error {
	if err != nil {
		return err
	}
	for _, p := range s.Processes {
		if p.Ready || len(p.LastOutput) == 0 {
			continue
		}
		fmt.Fprintf(w.out, "\n%s: %s; its last output:\n", p.Instance, p.Reason)
		for _, l := range p.LastOutput {
			fmt.Fprintf(w.out, "    | %s\n", l)
		}
	}
	if len(s.Reasons) == 0 {
		return errors.New("not everything became ready")
	}
	late := ""
	if !s.Fatal {
		late = fmt.Sprintf("not ready within %v: ", o.wait)
	}
	var heads []string
	for _, r := range s.Reasons { // the output was shown above
		head, _, _ := strings.Cut(r, "\n")
		heads = append(heads, head)
	}
	return errors.New(late + strings.Join(heads, "\n  "))
}

func (w *watcher) places(s admin.Status, state string, o upOptions) {
	fmt.Fprintln(w.out)
	if s.Edge != "" {
		fmt.Fprintf(w.out, "  Edge   http://%s   a service by name: curl -H 'Host: %s' http://%s/\n", s.Edge, exampleService(s), s.Edge)
	}
	fmt.Fprintf(w.out, "  API    %s\n", shorter(s.API))
	flag := ""
	if shorter(state) != ".outrigger" {
		flag = " --state " + shorter(state)
	}
	if o.detached {
		fmt.Fprintf(w.out, "  Next   outrigger status%s, outrigger logs -f%s, outrigger down%s\n\n", flag, flag, flag)
	} else {
		fmt.Fprintf(w.out, "  Next   in another terminal: outrigger ps%s, outrigger logs -f%s; Ctrl-C stops all\n\n", flag, flag)
	}
}

func exampleService(s admin.Status) string {
	for _, p := range s.Processes {
		if p.Service != "" {
			return p.Service
		}
	}
	return "SERVICE"
}

// follow prints changes of processes, and what clients reject.
func (w *watcher) follow(ctx context.Context, s admin.Status) {
	_ = w.p.Events(ctx, s.Epoch, s.LastEvent, true, func(e admin.Event) bool {
		switch e.Kind {
		case "process.running", "process.stopped", "process.failed", "process.restarting",
			"sidecar.exit", "client.rejected", "revision.applied", "resource.invalid":
			who := e.Instance
			if who != "" && !strings.Contains(e.Text, who) {
				who += ": "
			} else {
				who = ""
			}
			fmt.Fprintf(w.out, "%s  %s%s\n", e.Time.Local().Format(time.TimeOnly), who, e.Text)
		}
		return true
	})
}

// clear removes the progress line.
func (w *watcher) clear() {
	if w.line {
		fmt.Fprint(w.out, "\r\x1b[K")
		w.line = false
	}
}
