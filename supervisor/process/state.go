package process

import (
	"fmt"
	"time"
)

// State is where the process of an instance is in its life.
type State string

// States.
const (
	Created    State = "created"    // known, never started
	Starting   State = "starting"   // waiting for its sidecar, or started and not yet accepting
	Running    State = "running"    // alive, and accepts on its first port
	Stopping   State = "stopping"   // told to end: drains, or got its stop signal
	Stopped    State = "stopped"    // ended because it was told to, or for good with nothing wrong
	Failed     State = "failed"     // ended, and its restarts are used up or not allowed
	Restarting State = "restarting" // ended, and waits for its next start
)

// next lists the states that may follow each.
var next = map[State][]State{
	Created:    {Starting, Stopping, Stopped},
	Starting:   {Running, Restarting, Failed, Stopping, Stopped},
	Running:    {Starting, Restarting, Failed, Stopping, Stopped},
	Stopping:   {Stopped, Failed},
	Stopped:    {Starting, Stopping},
	Failed:     {Starting, Stopping, Stopped},
	Restarting: {Starting, Failed, Stopping, Stopped},
}

// Live says whether a process in this state may have an operating system process.
func (s State) Live() bool { return s == Starting || s == Running || s == Stopping }

// To checks that the state may change to n.
func (s State) To(n State) error {
	for _, ok := range next[s] {
		if ok == n {
			return nil
		}
	}
	return fmt.Errorf("a process that is %s cannot become %s", s, n)
}

// Exit is how an operating system process ended.
type Exit struct {
	PID    int           `json:"pid"`
	At     time.Time     `json:"at"`
	Lived  time.Duration `json:"lived"`            // ns
	Code   int           `json:"code"`             // -1 where a signal ended it
	Signal string        `json:"signal,omitempty"` // SIGKILL, …
	Core   bool          `json:"core,omitempty"`   // it left a core dump
	// OOM is a guess: it was ended by a SIGKILL that was not ours while the kernel's count of out-of-memory kills grew.
	OOM    bool          `json:"oom,omitempty"`
	User   time.Duration `json:"user"`   // ns of CPU time
	System time.Duration `json:"system"` // ns of CPU time
	MaxRSS int64         `json:"maxRSS"` // bytes
}

// OK says whether it ended by itself with code 0.
func (e Exit) OK() bool { return e.Signal == "" && e.Code == 0 }

// String tells the exit in words: "exited with code 3", "killed by SIGSEGV (core dumped)".
func (e Exit) String() string {
	switch {
	case e.Signal == "":
		return fmt.Sprintf("exited with code %d", e.Code)
	case e.OOM:
		return "killed by " + e.Signal + ", probably because memory ran out"
	case e.Core:
		return "killed by " + e.Signal + " (core dumped)"
	default:
		return "killed by " + e.Signal
	}
}
