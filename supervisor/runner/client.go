package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// ErrGone says that no runner answers.
var ErrGone = errors.New("the runner does not answer")

// Client speaks to the runner of one instance. Every call opens a connection of its own, so a Client is safe for concurrent
// use, needs no closing, and outlives a runner that is started anew.
type Client struct {
	dir string
}

// StopOptions change how a runner stops; the zero value does as the spec says.
type StopOptions struct {
	NoDrain bool `json:"noDrain,omitempty"` // skip the sidecar's drain
	Kill    bool `json:"kill,omitempty"`    // skip the stop signal and its timeout too
}

// Dial returns a client for the instance in dir, once its runner has answered. The error wraps [ErrGone] where none does.
func Dial(ctx context.Context, dir string) (*Client, error) {
	c := &Client{dir: dir}
	if _, err := c.State(ctx, math.MaxUint64); err != nil {
		return nil, err
	}
	return c, nil
}

// Dir is the instance's directory.
func (c *Client) Dir() string { return c.dir }

// State returns the instance's state, with the kept events that are numbered after since: 0 for all, math.MaxUint64 for none.
func (c *Client) State(ctx context.Context, since uint64) (State, error) {
	var s State
	err := c.call(ctx, request{Method: "state", Since: since}, &s)
	return s, err
}

// Start starts what is not running, and forgets past restarts. It returns when the start is under way; events tell
// how it ends. Starting what runs does nothing.
func (c *Client) Start(ctx context.Context) error { return c.call(ctx, request{Method: "start"}, nil) }

// Stop stops process and sidecar and returns when they are gone: the sidecar drains, calls in flight end or are cut at the deadline, the
// process group gets its stop signal, then KILL; then the sidecar ends. The runner stays and keeps the listening
// sockets; until the next start it closes connections that arrive. If ctx ends first the stop goes on.
func (c *Client) Stop(ctx context.Context, o StopOptions) error {
	return c.call(ctx, request{Method: "stop", Stop: &o}, nil)
}

// Restart is Stop and Start in one, with the stored spec. Connections that arrive in between wait in the sockets' queues.
func (c *Client) Restart(ctx context.Context, o StopOptions) error {
	return c.call(ctx, request{Method: "restart", Stop: &o}, nil)
}

// Kill sends SIGKILL to the process group: a fault, after which the process is restarted as its policy says. Where there
// is no process, the sidecar is killed.
func (c *Client) Kill(ctx context.Context) error { return c.call(ctx, request{Method: "kill"}, nil) }

// KillSidecar sends SIGKILL to the sidecar: a fault, after which it is restarted at once with the same sockets.
func (c *Client) KillSidecar(ctx context.Context) error {
	return c.call(ctx, request{Method: "kill-sidecar"}, nil)
}

// Drain makes the sidecar lame duck and returns when it has drained, or its deadline has passed. Nothing is stopped.
// A zero d means the spec's.
func (c *Client) Drain(ctx context.Context, d Drain) error {
	return c.call(ctx, request{Method: "drain", Drain: &d}, nil)
}

// Update stores a new spec, opens its further sockets, and returns what of it is not in force until a Restart ("process") or a ReplaceSidecar ("sidecar").
// Restart policy, stop and drain settings are in force at once. The instance and its directory cannot change.
func (c *Client) Update(ctx context.Context, s Spec) (pending []Who, err error) {
	err = c.call(ctx, request{Method: "update", Spec: &s}, &pending)
	return pending, err
}

// ReplaceSidecar starts a sidecar of the stored spec with the same sockets, waits until it is ready, and lets the old one drain and end. No
// connection is refused. If the new one does not become ready, it is ended, the old one stays, and the error says why.
// It returns when the new one is in place; the old one's end is told by an event.
func (c *Client) ReplaceSidecar(ctx context.Context) error {
	return c.call(ctx, request{Method: "replace-sidecar"}, nil)
}

// UpgradeSidecar is ReplaceSidecar with another program, an absolute path. Only once that sidecar is ready does it go into the stored spec:
// one that does not become ready changes nothing.
func (c *Client) UpgradeSidecar(ctx context.Context, program string) error {
	return c.call(ctx, request{Method: "replace-sidecar", Program: program}, nil)
}

// Exit stops everything and ends the runner. It returns when the runner has ended all else and is about to end.
func (c *Client) Exit(ctx context.Context, o StopOptions) error {
	return c.call(ctx, request{Method: "exit", Stop: &o}, nil)
}

// Events calls f for each event numbered after since, those kept first, then as they happen, until ctx ends, f returns an
// error, or the runner is gone (the error then wraps [ErrGone]). Events no longer kept are missing: numbers tell.
func (c *Client) Events(ctx context.Context, since uint64, f func(Event) error) error {
	conn, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(request{Method: "events", Since: since}); err != nil {
		return c.gone(ctx, err)
	}
	dec := json.NewDecoder(bufio.NewReader(conn))
	for {
		var r response
		if err := dec.Decode(&r); err != nil {
			return c.gone(ctx, err)
		}
		if r.Error != nil {
			return r.Error
		}
		if r.Event == nil {
			continue
		}
		if err := f(*r.Event); err != nil {
			return err
		}
	}
}

// request and response are the lines of the control socket.
type request struct {
	Method string       `json:"method"`
	Since  uint64       `json:"since,omitempty"`
	Stop   *StopOptions `json:"stop,omitempty"`
	Drain  *Drain       `json:"drain,omitempty"`
	Spec   *Spec        `json:"spec,omitempty"`
	// Program is the sidecar's program for replace-sidecar; "" is the stored spec's.
	Program string `json:"program,omitempty"`
}

type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	Event  *Event          `json:"event,omitempty"`
}

// Error is a runner's refusal.
type Error struct {
	Code string `json:"code"` // invalid, conflict, failed, denied
	Text string `json:"text"`
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

func (c *Client) open(ctx context.Context) (*net.UnixConn, error) {
	conn, err := unixsock.Dial(ctx, filepath.Join(c.dir, SocketFile))
	if err != nil {
		return nil, c.gone(ctx, err)
	}
	return conn, nil
}

func (c *Client) call(ctx context.Context, q request, result any) error {
	conn, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return c.gone(ctx, err)
	}
	var r response
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return c.gone(ctx, err)
	}
	if r.Error != nil {
		return r.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		return fmt.Errorf("read the runner's answer: %w", err)
	}
	return nil
}

func (c *Client) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s: %w", ErrGone, filepath.Base(c.dir), err)
}
