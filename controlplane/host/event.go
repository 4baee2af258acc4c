package host

import (
	"context"
	"fmt"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/eventlog"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// Event is something that happened on this host: with a runner, with an instance, or in the tree of supervisors.
type Event struct {
	// Kind is a dotted word: process.running, process.exit, sidecar.ready, instance.drained, runner.adopted,
	// supervisor.child-restarting, …
	Kind                     string
	Time                     time.Time
	Tenant, Service, Version string
	Instance                 string
	State                    string // of the process, where it has changed
	PID                      int
	Text                     string // a plain sentence
	Output                   []string
	Supervisor               string
}

// Events is the log of this host's events, numbered from 1 for each run of the control plane.
func (h *Host) Events() *eventlog.Log[Event] { return h.events }

func (h *Host) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Instance != "" && e.Service == "" {
		h.mu.Lock()
		u := h.byID[e.Instance]
		h.mu.Unlock()
		if u != nil {
			e.Tenant, e.Service, e.Version = u.service.Tenant, u.service.Name, u.version
		}
	}
	h.events.Append(e)
}

// runnerEvent passes an instance's event on.
func (h *Host) runnerEvent(id string, e runner.Event) {
	out := Event{Time: e.Time, Instance: id, PID: e.PID, Text: e.Reason, Output: e.Output}
	who := string(e.Who)
	switch e.Kind {
	case runner.StateChanged:
		out.Kind, out.State = who+"."+string(e.State), string(e.State)
		if out.Text == "" {
			out.Text = fmt.Sprintf("%s is %s", id, e.State)
		}
		if e.Delay > 0 {
			out.Text += fmt.Sprintf(" (again in %s)", e.Delay)
		}
	case runner.Exited:
		out.Kind = who + ".exit"
		if out.Text == "" && e.Exit != nil {
			out.Text = e.Exit.String()
		}
	case runner.SidecarStarted, runner.SidecarReady, runner.SidecarFailed, runner.SidecarReplaced:
		out.Kind = "sidecar." + string(e.Kind)[len("sidecar-"):]
	default:
		out.Kind = "instance." + string(e.Kind)
	}
	if out.Text == "" {
		out.Text = id + ": " + string(e.Kind)
	}
	h.emit(out)
}

// mergeEvents copies the supervisors' events to the host's.
func (h *Host) mergeEvents(ctx context.Context) {
	for since := uint64(0); ; {
		entries, _, err := h.supLog.Wait(ctx, since)
		if err != nil {
			// What was appended until the end is told all the same.
			entries, _ = h.supLog.Since(since)
		}
		for _, e := range entries {
			since = e.Seq
			h.emit(supervisorEvent(e))
		}
		h.bump() // who waits for readiness waits also for what is given up
		if err != nil {
			return
		}
	}
}

func supervisorEvent(e eventlog.Entry[supervisor.Event]) Event {
	out := Event{Kind: "supervisor." + string(e.Event.Kind), Time: e.At, Supervisor: e.Event.Supervisor, Instance: e.Event.Child}
	out.Text = e.Event.Supervisor + ": " + string(e.Event.Kind)
	if e.Event.Child != "" {
		out.Text += " " + e.Event.Child
	}
	if e.Event.Kind == supervisor.ChildRestarting {
		out.Text += fmt.Sprintf(" in %s (%d in the window)", e.Event.Delay, e.Event.Restarts)
	}
	if e.Event.Err != nil {
		out.Text += ": " + e.Event.Err.Error()
	}
	return out
}
