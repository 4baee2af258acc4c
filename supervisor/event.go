package supervisor

import (
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/eventlog"
)

// EventKind says what happened.
type EventKind string

// Kinds of events. Those about a child name it; the last three are about the supervisor itself.
const (
	ChildAdded      EventKind = "child-added"
	ChildStarting   EventKind = "child-starting"
	ChildRunning    EventKind = "child-running"    // it is ready, or does not say when it is
	ChildFailed     EventKind = "child-failed"     // Err says why
	ChildEnded      EventKind = "child-ended"      // normally
	ChildRestarting EventKind = "child-restarting" // after Delay; Restarts counts those in the window
	ChildStopping   EventKind = "child-stopping"
	ChildKilled     EventKind = "child-killed" // its shutdown time is over
	ChildStopped    EventKind = "child-stopped"
	ChildGivenUp    EventKind = "child-given-up" // its own intensity is exceeded
	ChildRemoved    EventKind = "child-removed"
	Started         EventKind = "supervisor-started" // all children have been started
	Failed          EventKind = "supervisor-failed"  // Err is what its parent gets
	Stopped         EventKind = "supervisor-stopped" // no child is left
)

// Event is something that happened under a supervisor.
type Event struct {
	Kind       EventKind
	Supervisor string
	Child      string
	Err        error
	Delay      time.Duration
	Restarts   int
}

// EventLog is where supervisors write their events, numbered from 1.
type EventLog = eventlog.Log[Event]

// State is a child's, or a supervisor's.
type State string

// States.
const (
	StateIdle       State = "idle"       // not started yet
	StateStarting   State = "starting"   // started and not ready yet
	StateRunning    State = "running"    //
	StateRestarting State = "restarting" // waits for its restart
	StateStopping   State = "stopping"   //
	StateStopped    State = "stopped"    // ended normally, or was stopped
	StateFailed     State = "failed"     // given up
)

// Node is a part of the tree as it is at one moment.
type Node struct {
	Name  string
	State State
	// Kind is the restart kind; of a supervisor too, as of any child.
	Kind     Kind
	Critical bool
	// Since is when it took its state; zero before the first start.
	Since time.Time
	// Restarts counts since the parent began to serve.
	Restarts int
	// LastError is the last failure, or nil.
	LastError error
	// Supervisor tells the rest of one that is a supervisor; nil for others.
	Supervisor *SupervisorNode
	// Children, in order of starting. Also an Inspector that is no supervisor may have some.
	Children []Node
}

// SupervisorNode is what a supervisor has besides.
type SupervisorNode struct {
	Strategy  Strategy
	Intensity Intensity
	// Recent is how many restarts are in the window now.
	Recent int
	Counts Counts
}

// Counts is what OTP's count_children tells.
type Counts struct {
	// Specs is the number of children known, Active of those that run, Supervisors and Workers of each sort.
	Specs, Active, Supervisors, Workers int
}
