// Package handoff is the channel between a runner and its sidecar: listening sockets and a few words travel over it.
//
// It is one Unix stream socket pair. The sidecar's end is the descriptor that [EnvName] names. Messages are JSON
// lines; the descriptors of a message travel beside its first byte, and the message says how many they are. The
// sidecar greets with hello; the runner answers with every listening socket that it holds. For a listener that is not
// among them the sidecar asks (listen); the runner opens it, keeps it for the next sidecar, and passes it on.
// The sidecar says ready and drained; the runner says drain and process.
//
// Both ends outlive the other: when the runner is gone, [Peer.Commands] is closed and the sidecar serves on; when the sidecar
// is gone, [Server.Serve] returns. The package holds no policy: when to restart or drain is decided in
// supervisor/runner, how to drain in the sidecar.
package handoff

import (
	"errors"
	"os"
	"time"
)

// EnvName is the environment variable that names the sidecar's descriptor, in decimal (the runner uses 3).
const EnvName = "OUTRIGGER_HANDOFF"

// Limits of the protocol. A peer that breaks one is cut off.
const (
	maxLine    = 256 << 10 // bytes of one message
	maxFDs     = 64        // descriptors beside one message; the kernel takes 253
	writeLimit = 5 * time.Second
)

// ErrNoRunner says that this process was not started by a runner.
var ErrNoRunner = errors.New("no runner: " + EnvName + " is not set")

// ErrClosed says that the other end is gone or was cut off.
var ErrClosed = errors.New("handoff: the other end is gone")

// Identity says which instance a sidecar belongs to.
type Identity struct {
	Instance string `json:"instance"` // its xDS node id: orders-1.0.0-0
	Service  string `json:"service,omitempty"`
	Version  string `json:"version,omitempty"`
	Tenant   string `json:"tenant,omitempty"`
	Kind     string `json:"kind"`          // sidecar or gateway
	Dir      string `json:"dir,omitempty"` // the instance's directory, absolute
}

// Socket is a listening socket that the runner holds.
type Socket struct {
	Name    string   `json:"name"`            // unique in one runner
	Network string   `json:"network"`         // tcp, tcp4, tcp6, unix
	Address string   `json:"address"`         // the actual address: never port 0
	Asked   string   `json:"asked,omitempty"` // the address that was asked for
	File    *os.File `json:"-"`               // non-blocking, close-on-exec; on the sidecar's side a copy of its own to close
}

// Greeting is the runner's answer to hello.
type Greeting struct {
	Identity Identity
	Sockets  []Socket // the caller owns the files
	Process  Process  // the state of the process when the runner answered
}

// Command is what a runner tells its sidecar: a [Drain] or a [Process].
type Command interface{ command() }

// Drain asks the sidecar to end its work and then to say drained.
type Drain struct {
	// Propagation is how long the sidecar accepts new calls while it already announces that it goes
	// (GOAWAY, Connection: close), so that callers can learn of it.
	Propagation time.Duration
	// Deadline is how long calls in flight may take after that. 0: they are cut at once.
	Deadline time.Duration
	// Handover says that another sidecar already accepts on the same sockets: stop accepting at once, refuse nothing.
	Handover bool
}

// Process tells the state of the instance's process.
type Process struct {
	State  string // as supervisor/process spells it: created, starting, running, stopping, stopped, failed, restarting; none for a gateway
	PID    int    // 0 where there is none
	Reason string // a plain sentence, or ""
}

func (Drain) command()   {}
func (Process) command() {}
