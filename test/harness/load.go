package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Load is what a load client sends. Every call is sent once, on a connection that the client opened itself:
// net/http's client would send some calls again on its own, so none of it is used but the codec.
type Load struct {
	Addr    string      // host:port, or several, used by turns: worker n takes the nth
	Addrs   []string    // instead of Addr
	Host    string      // authority; default Addr
	Method  string      // default GET
	Path    string      // default /
	Header  http.Header // more fields
	Body    string
	Workers int // default 8
	// Calls is how many calls to make; 0 means until Stop.
	Calls int
	// Pause is a worker's rest between two calls.
	Pause time.Duration
	// FreshConnections opens a connection for each call.
	FreshConnections bool
	// Timeout is for one call; default 20 s.
	Timeout time.Duration
	// Want is the expected status; default any below 400.
	Want int
}

// Failure is a call that did not end well.
type Failure struct {
	At     time.Time // when it failed
	Began  time.Time
	Reason string // refused, reset, ended, timeout, status 503, …
	Err    error
}

// Result is what became of the calls.
type Result struct {
	Calls    int
	Failed   int
	Reasons  map[string]int
	Failures []Failure // the first thousand
	Versions map[string]int
	// Instances counts answers by x-instance.
	Instances map[string]int
	Took      time.Duration
}

// String is a line for a log.
func (r Result) String() string {
	s := fmt.Sprintf("%d calls in %v, %d failed, versions %v", r.Calls, r.Took.Round(time.Millisecond), r.Failed, r.Versions)
	if r.Failed > 0 {
		s += fmt.Sprintf(", reasons %v", r.Reasons)
		for _, f := range r.Failures[:min(5, len(r.Failures))] {
			s += fmt.Sprintf("\n  %s after %v: %v", f.At.Format("15:04:05.000"), f.At.Sub(f.Began).Round(time.Microsecond), f.Err)
		}
	}
	return s
}

// Running is load in progress. Its methods are for one goroutine at a time.
type Running struct {
	t      testing.TB
	load   Load
	cancel context.CancelFunc
	wg     sync.WaitGroup
	began  time.Time
	left   atomic.Int64
	done   atomic.Int64
	ok     atomic.Int64
	lastOK atomic.Int64 // unix nanoseconds

	mu  sync.Mutex
	res Result
}

// StartLoad starts load. It is stopped when the test ends, at the latest.
func StartLoad(t testing.TB, l Load) *Running {
	t.Helper()
	if len(l.Addrs) == 0 {
		l.Addrs = []string{l.Addr}
	}
	l.Method = orElse(l.Method, http.MethodGet)
	l.Path = orElse(l.Path, "/")
	if l.Workers == 0 {
		l.Workers = 8
	}
	if l.Timeout == 0 {
		l.Timeout = 20 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Running{
		t: t, load: l, cancel: cancel, began: time.Now(),
		res: Result{Reasons: map[string]int{}, Versions: map[string]int{}, Instances: map[string]int{}},
	}
	r.left.Store(int64(l.Calls))
	for n := range l.Workers {
		r.wg.Go(func() { r.work(ctx, l.Addrs[n%len(l.Addrs)]) })
	}
	t.Cleanup(func() { r.Stop() })
	return r
}

// DoLoad makes l.Calls calls and returns what became of them.
func DoLoad(t testing.TB, l Load) Result {
	t.Helper()
	if l.Calls == 0 {
		t.Fatal("DoLoad needs a number of calls")
	}
	return StartLoad(t, l).Wait()
}

// Wait waits for a load of a given number of calls to be through.
func (r *Running) Wait() Result {
	r.wg.Wait()
	return r.Stop()
}

// Stop lets every worker finish the call that it is at, and returns what became of all.
func (r *Running) Stop() Result {
	r.cancel()
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.res.Took == 0 {
		r.res.Took = time.Since(r.began)
	}
	return r.res
}

// Done is the number of calls so far, failed ones included.
func (r *Running) Done() int { return int(r.done.Load()) }

// Now is the result so far.
func (r *Running) Now() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.res
	c.Failures = slices.Clone(c.Failures)
	c.Versions, c.Instances, c.Reasons = maps.Clone(c.Versions), maps.Clone(c.Instances), maps.Clone(c.Reasons)
	c.Took = time.Since(r.began)
	return c
}

// More waits until n more calls have ended, well or not.
func (r *Running) More(n int) {
	r.t.Helper()
	want := r.done.Load() + int64(n)
	Eventually(r.t, 60*time.Second, func() error {
		if have := r.done.Load(); have < want {
			return fmt.Errorf("%d of %d calls made", have, want)
		}
		return nil
	})
}

// MoreGood waits until n more calls have ended well, and returns when the last did.
func (r *Running) MoreGood(n int) time.Time {
	r.t.Helper()
	want := r.ok.Load() + int64(n)
	Eventually(r.t, 60*time.Second, func() error {
		if have := r.ok.Load(); have < want {
			return fmt.Errorf("%d of %d good calls", have, want)
		}
		return nil
	})
	return time.Unix(0, r.lastOK.Load())
}

func (r *Running) work(ctx context.Context, addr string) {
	c := &client{load: &r.load, addr: addr}
	defer c.close()
	for ctx.Err() == nil {
		if r.load.Calls > 0 && r.left.Add(-1) < 0 {
			return
		}
		began := time.Now()
		version, instance, err := c.call()
		r.note(began, version, instance, err)
		if r.load.Pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(r.load.Pause):
			}
		}
	}
}

func (r *Running) note(began time.Time, version, instance string, err error) {
	now := time.Now()
	r.mu.Lock()
	r.res.Calls++
	if err != nil {
		r.res.Failed++
		reason := Reason(err)
		r.res.Reasons[reason]++
		if len(r.res.Failures) < 1000 {
			r.res.Failures = append(r.res.Failures, Failure{At: now, Began: began, Reason: reason, Err: err})
		}
	} else {
		r.res.Versions[version]++
		r.res.Instances[instance]++
	}
	r.mu.Unlock()
	if err == nil {
		r.lastOK.Store(now.UnixNano())
		r.ok.Add(1)
	}
	r.done.Add(1)
}

// client is one worker's connection.
type client struct {
	load *Load
	addr string
	conn net.Conn
	in   *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// call makes one call, once. Where the connection turns out to be dead the call has failed.
func (c *client) call() (version, instance string, err error) {
	if c.load.FreshConnections {
		c.close()
	}
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.addr, c.load.Timeout)
		if err != nil {
			return "", "", fmt.Errorf("connecting: %w", err)
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	keep := false
	defer func() {
		if !keep {
			c.close()
		}
	}()
	_ = c.conn.SetDeadline(time.Now().Add(c.load.Timeout))
	req, err := http.NewRequest(c.load.Method, "http://"+orElse(c.load.Host, c.addr)+c.load.Path, strings.NewReader(c.load.Body))
	if err != nil {
		return "", "", err
	}
	for k, v := range c.load.Header {
		req.Header[k] = v
	}
	if err := req.Write(c.conn); err != nil {
		return "", "", fmt.Errorf("sending: %w", err)
	}
	res, err := http.ReadResponse(c.in, req)
	if err != nil {
		return "", "", fmt.Errorf("reading the answer: %w", err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return "", "", fmt.Errorf("reading the body: %w", err)
	}
	keep = !res.Close
	if bad := c.load.Want == 0 && res.StatusCode >= 400 || c.load.Want != 0 && res.StatusCode != c.load.Want; bad {
		return "", "", &StatusError{Code: res.StatusCode, Reason: res.Header.Get("X-Outrigger-Reason"), Body: string(body[:min(len(body), 200)])}
	}
	return res.Header.Get("X-Version"), res.Header.Get("X-Instance"), nil
}

// StatusError is an answer of a status that was not wanted.
type StatusError struct {
	Code         int
	Reason, Body string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d %s: %s", e.Code, e.Reason, strings.TrimSpace(e.Body))
}

// Reason puts an error of a call into a word or two.
func Reason(err error) string {
	var s *StatusError
	switch {
	case errors.As(err, &s):
		return fmt.Sprintf("status %d", s.Code)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "ended"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	}
	return "other"
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Get makes one GET and returns the status and the body; it fails the test where there is no answer.
func Get(t testing.TB, addr, host, path string) (int, string, http.Header) {
	t.Helper()
	status, body, header, err := TryGet(addr, host, path)
	if err != nil {
		t.Fatal(err)
	}
	return status, body, header
}

// TryGet is Get where it may fail.
func TryGet(addr, host, path string) (int, string, http.Header, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return 0, "", nil, fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	req, err := http.NewRequest(http.MethodGet, "http://"+orElse(host, addr)+path, nil)
	if err != nil {
		return 0, "", nil, err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return 0, "", nil, fmt.Errorf("sending: %w", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, "", nil, fmt.Errorf("reading the answer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), res.Header, err
}
