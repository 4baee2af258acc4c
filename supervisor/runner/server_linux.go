package runner

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

const (
	maxRequest     = 4 << 20          // bytes
	requestTimeout = 5 * time.Second  // from the connection to the whole request
	writeTimeout   = 10 * time.Second // for one line to a client that does not read
)

// serve answers the control socket until it is closed and every connection has ended.
func (r *runner) serve(l *unixsock.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.log.Error("accept on the control socket", "error", err)
			t := time.NewTimer(50 * time.Millisecond) // too many open files, most likely
			<-t.C
			continue
		}
		conns.Add(1)
		go func() {
			defer conns.Done()
			defer func() { _ = c.Close() }()
			r.converse(c)
		}()
	}
}

func (r *runner) converse(c *net.UnixConn) {
	answer := func(v response) error {
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		return json.NewEncoder(c).Encode(v)
	}
	peer, err := unixsock.Peer(c)
	if err != nil || peer.UID != uint32(os.Getuid()) && peer.UID != 0 {
		_ = answer(response{Error: &Error{Code: "denied", Text: "the runner speaks to its own user only"}})
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(requestTimeout))
	var q request
	if err := json.NewDecoder(io.LimitReader(c, maxRequest)).Decode(&q); err != nil {
		if !errors.Is(err, io.EOF) {
			_ = answer(response{Error: &Error{Code: "invalid", Text: "not a request: " + err.Error()}})
		}
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	if q.Method == "events" {
		r.stream(c, q.Since, answer)
		return
	}
	result, err := r.do(q)
	v := response{}
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e = &Error{Code: "failed", Text: err.Error()}
		}
		v.Error = e
	} else if v.Result, err = json.Marshal(result); err != nil {
		v.Error = &Error{Code: "failed", Text: err.Error()}
	}
	_ = answer(v)
}

// do carries out one request. What it started goes on when the client leaves.
func (r *runner) do(q request) (any, error) {
	var stop StopOptions
	if q.Stop != nil {
		stop = *q.Stop
	}
	switch q.Method {
	case "state":
		return r.snapshot(q.Since), nil
	case "kill":
		return nil, r.kill(TheProcess)
	case "kill-sidecar":
		return nil, r.kill(TheSidecar)
	case "exit":
		return nil, r.end(context.Background(), stop)
	}
	operate, ok := map[string]func() (any, error){
		"start": func() (any, error) { return nil, r.start() },
		"stop": func() (any, error) {
			err := r.stop(stop)
			if err == nil {
				r.sockets.refuse()
			}
			return nil, err
		},
		"restart":         func() (any, error) { return nil, r.restart(stop) },
		"replace-sidecar": func() (any, error) { return nil, r.replace(q.Program) },
		"drain": func() (any, error) {
			r.mu.Lock()
			d := r.spec.Drain
			r.mu.Unlock()
			if q.Drain != nil && *q.Drain != (Drain{}) {
				d = *q.Drain
			}
			r.drain(d)
			return nil, nil
		},
		"update": func() (any, error) {
			if q.Spec == nil {
				return nil, &Error{Code: "invalid", Text: "update without a specification"}
			}
			return r.update(*q.Spec)
		},
	}[q.Method]
	if !ok {
		return nil, &Error{Code: "invalid", Text: "unknown method " + q.Method}
	}
	r.mu.Lock()
	exiting := r.exitStarted
	r.mu.Unlock()
	if exiting {
		return nil, &Error{Code: "conflict", Text: errExiting.Error()}
	}
	if stop.Kill {
		r.hurry() // whatever drain or stop is under way
	}
	_ = r.begin(context.Background())
	defer r.finish()
	return operate()
}

// stream sends events until the client leaves or the runner ends.
func (r *runner) stream(c *net.UnixConn, since uint64, answer func(response) error) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [64]byte
		for {
			if _, err := c.Read(b[:]); err != nil {
				return
			}
		}
	}()
	defer func() {
		_ = c.Close()
		<-gone
	}()
	for {
		var events []Event
		if !r.await(gone, func() bool {
			events = r.after(since)
			return len(events) > 0
		}) {
			return
		}
		for i := range events {
			since = events[i].Number
			if answer(response{Event: &events[i]}) != nil || events[i].Kind == Ending {
				return
			}
		}
	}
}
