package runner

import (
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// State is what a runner tells of its instance. It is a copy.
type State struct {
	Instance string `json:"instance"`
	Service  string `json:"service,omitempty"`
	Version  string `json:"version,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Kind     string `json:"kind"`
	Order    int    `json:"order"`

	RunnerPID int       `json:"runnerPID"`
	Since     time.Time `json:"since"` // when the runner started

	State    process.State `json:"state"` // of the process; of the sidecar, where there is no process
	Reason   string        `json:"reason,omitempty"`
	StateAt  time.Time     `json:"stateAt"`       // when it took this state
	PID      int           `json:"pid,omitempty"` // 0: no process now
	Restarts int           `json:"restarts"`      // of the process, since the runner started
	// Ready says that the instance can serve: the process runs and the sidecar is ready.
	Ready bool   `json:"ready"`
	Ports []Port `json:"ports,omitempty"`

	Sidecar SidecarState `json:"sidecar"`
	Sockets []Socket     `json:"sockets,omitempty"`

	Exits     []ExitRecord `json:"exits,omitempty"` // the last 20, of process and sidecar, oldest first
	LastEvent uint64       `json:"lastEvent"`
	Events    []Event      `json:"events,omitempty"` // those after the number asked for, as far as they are kept
	// Dropped counts bytes of output that could not be written to the output files.
	Dropped int64 `json:"dropped,omitempty"`
	// Swept counts processes that the instance's process left behind and that were killed.
	Swept int `json:"swept,omitempty"`
}

// SidecarState is the sidecar's part of a [State].
type SidecarState struct {
	PID      int       `json:"pid,omitempty"` // 0: none now
	Ready    bool      `json:"ready"`
	Draining bool      `json:"draining,omitempty"`
	Restarts int       `json:"restarts"`
	StartAt  time.Time `json:"startAt,omitzero"`
	Reason   string    `json:"reason,omitempty"` // why it last ended or could not start
}

// Socket is a listening socket that the runner holds.
type Socket struct {
	Name    string `json:"name"`
	Network string `json:"network"`
	Address string `json:"address"` // the actual one
}

// ExitRecord is one end of a process or a sidecar.
type ExitRecord struct {
	Who    Who          `json:"who"`
	Exit   process.Exit `json:"exit"`
	Reason string       `json:"reason"` // in words; for a process that ended before it ran, with the reason told apart
}

// Who says whom an event is about.
type Who string

// Parts of an instance.
const (
	TheProcess Who = "process"
	TheSidecar Who = "sidecar"
	TheRunner  Who = "runner"
)

// EventKind says what happened.
type EventKind string

// Kinds of events.
const (
	StateChanged    EventKind = "state"            // State and Reason are the new ones
	Exited          EventKind = "exit"             // Exit and Reason tell how
	Swept           EventKind = "swept"            // processes left behind were killed; Reason counts them
	SidecarStarted  EventKind = "sidecar-started"  // PID
	SidecarReady    EventKind = "sidecar-ready"    //
	SidecarFailed   EventKind = "sidecar-failed"   // it could not be started: Reason
	SidecarReplaced EventKind = "sidecar-replaced" // by PID
	Draining        EventKind = "draining"         //
	Drained         EventKind = "drained"          // Reason says whether the deadline cut it short
	Updated         EventKind = "updated"          // the spec was replaced
	OutputDropped   EventKind = "output-dropped"   // output could not be written: Reason
	Ending          EventKind = "ending"           // the last event: the runner ends
)

// Cause tells apart why a process did not come to run, or ended.
type Cause string

// Causes.
const (
	CauseNotFound      Cause = "not-found"       // no such executable
	CauseNotExecutable Cause = "not-executable"  // no permission, a directory, or no known format
	CauseInterpreter   Cause = "bad-interpreter" // the script's interpreter or the dynamic loader is missing
	CauseStart         Cause = "start"           // any other error of fork or exec
	CauseExited        Cause = "exited"          // it ended before it accepted
	CauseForked        Cause = "forked-away"     // the main process ended with 0, a descendant lives on
	CauseOtherPort     Cause = "other-port"      // it listens, not on the port that it was told
	CausePortTaken     Cause = "port-taken"      // somebody else listens on its port
	CauseNoListen      Cause = "never-listened"  // alive, and listens nowhere
	CauseEnded         Cause = "ended"           // it ended after it had run
)

// Event is something that happened to an instance. Numbers count from 1 without a gap for the runner's life; the last
// 256 are kept.
type Event struct {
	Number uint64        `json:"number"`
	Time   time.Time     `json:"time"`
	Kind   EventKind     `json:"kind"`
	Who    Who           `json:"who"`
	State  process.State `json:"state,omitempty"`
	From   process.State `json:"from,omitempty"`
	PID    int           `json:"pid,omitempty"`
	Reason string        `json:"reason,omitempty"` // a plain sentence
	Cause  Cause         `json:"cause,omitempty"`
	// Output holds the last lines of output where the process failed, oldest first, at most 20.
	Output []string      `json:"output,omitempty"`
	Exit   *process.Exit `json:"exit,omitempty"`
	// Delay is how long a process that is restarting waits, in ns.
	Delay    time.Duration `json:"delay,omitempty"`
	Restarts int           `json:"restarts,omitempty"`
}
