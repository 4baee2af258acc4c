package main

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// engine is one epoll loop over all connections, in one goroutine: the client's own CPU is kept small, since it shares
// a core with the backend.
type engine struct {
	common
	protocol protocol
	epoll    int
	conns    []*conn
	began    time.Time
	now      int64 // nanoseconds since began, as of the last wait
	// The measurement, in nanoseconds since began. start is 0 before it.
	start, end    int64
	before, after usage
	hist          histogram
	bytes         int64
	errors        int
	firstError    string
	scratch       []byte
}

// protocol speaks on connections. It appends to conn.out; the engine writes.
type protocol interface {
	// open is called once a connection stands.
	open(e *engine, c *conn) error
	// input takes what was read; the slice is the engine's.
	input(e *engine, c *conn, p []byte) error
	// due starts what is to be started by the clock, and returns when it wants to be called again (nanoseconds since
	// the beginning); 0 for a protocol that is driven by answers alone.
	due(e *engine) int64
}

// conn is one connection. state is the protocol's.
type conn struct {
	fd     int
	stream stream
	out    []byte
	waits  bool // for room to write
	http   httpState
	http2  *http2State
}

// stream is the transport: the socket itself, or TLS on it.
type stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
}

// again says that a non-blocking socket has nothing, or no room. crypto/tls keeps a connection whole after an error
// that calls itself temporary.
type again struct{}

func (again) Error() string   { return "would block" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// socket is a raw socket; before nonblock it blocks.
type socket int

func (s socket) Read(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(s), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			if n == 0 {
				return 0, errors.New("the peer closed the connection")
			}
			return int(n), nil
		case syscall.EAGAIN:
			return 0, again{}
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

func (s socket) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(s), uintptr(unsafe.Pointer(&p[done])), uintptr(len(p)-done))
		switch errno {
		case 0:
			done += int(n)
		case syscall.EAGAIN:
			return done, again{}
		case syscall.EINTR:
		default:
			return done, errno
		}
	}
	return done, nil
}

// dial connects a blocking socket.
func dial(addr string) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// A peer that says nothing ends the handshake, not the bench.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return 0, err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

// run opens the connections, warms up, measures. wrap makes the transport of a connected socket.
func (e *engine) run(wrap func(fd int) (stream, error)) error {
	runtime.LockOSThread()
	// Timers are to fire when they are due, not up to 50 µs later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	e.scratch = make([]byte, 256<<10)
	e.began = time.Now()
	for range e.common.conns {
		fd, err := dial(e.addr)
		if err != nil {
			return err
		}
		c := &conn{fd: fd}
		if c.stream, err = wrap(fd); err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(len(e.conns))}
		e.conns = append(e.conns, c)
		if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return err
		}
	}
	e.now = int64(time.Since(e.began))
	warmed := e.now + int64(e.warm)
	for _, c := range e.conns {
		if err := e.protocol.open(e, c); err != nil {
			return err
		}
		e.flush(c)
	}
	next := e.protocol.due(e)
	events := make([]unix.EpollEvent, 512)
	for {
		until := warmed
		if e.start != 0 {
			until = e.end
		}
		if next != 0 {
			until = min(until, next)
		}
		n := e.wait(events, until)
		e.now = int64(time.Since(e.began))
		for i := range events[:n] {
			c := e.conns[events[i].Fd]
			if c.stream == nil {
				continue
			}
			if events[i].Events&unix.EPOLLOUT != 0 {
				e.flush(c)
			}
			if events[i].Events&^unix.EPOLLOUT != 0 {
				e.read(c)
			}
		}
		if next != 0 {
			next = e.protocol.due(e)
		}
		switch {
		case e.start == 0 && e.now >= warmed:
			e.before = e.read0()
			e.now = int64(time.Since(e.began))
			e.start, e.end = e.now, e.now+int64(e.time)
		case e.start != 0 && e.now >= e.end:
			e.end = e.now
			e.after = e.read0()
			return nil
		}
	}
}

func (e *engine) read0() usage {
	u, err := readUsage(e.watch)
	if err != nil {
		e.broke(err)
	}
	return u
}

// wait is epoll_pwait2: its timeout is in nanoseconds.
func (e *engine) wait(events []unix.EpollEvent, until int64) int {
	left := max(0, until-int64(time.Since(e.began)))
	ts := unix.NsecToTimespec(left)
	n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(e.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func (e *engine) read(c *conn) {
	for {
		n, err := c.stream.Read(e.scratch)
		if err != nil {
			if errors.As(err, new(again)) {
				break
			}
			e.fail(c, err)
			return
		}
		if e.start != 0 {
			e.bytes += int64(n)
		}
		if err := e.protocol.input(e, c, e.scratch[:n]); err != nil {
			e.fail(c, err)
			return
		}
		// Level-triggered: what else there is shows at the next wait, but what TLS holds back does not.
		if _, plain := c.stream.(socket); plain || len(c.out) > 0 {
			break
		}
	}
	e.flush(c)
}

func (e *engine) flush(c *conn) {
	if len(c.out) == 0 || c.stream == nil {
		return
	}
	n, err := c.stream.Write(c.out)
	c.out = c.out[:copy(c.out, c.out[n:])]
	if err != nil && !errors.As(err, new(again)) {
		e.fail(c, err)
		return
	}
	if waits := len(c.out) > 0; waits != c.waits {
		c.waits = waits
		ev := unix.EpollEvent{Events: unix.EPOLLIN}
		for i := range e.conns {
			if e.conns[i] == c {
				ev.Fd = int32(i)
			}
		}
		if waits {
			ev.Events |= unix.EPOLLOUT
		}
		_ = unix.EpollCtl(e.epoll, unix.EPOLL_CTL_MOD, c.fd, &ev)
	}
}

// answered counts one answer to what was sent, or due, at sent.
func (e *engine) answered(sent int64) {
	if e.start != 0 {
		e.hist.add(e.now - sent)
	}
}

// fail ends a connection. Nothing is tried again: a run with an error is not a result.
func (e *engine) fail(c *conn, err error) {
	e.broke(err)
	unix.Close(c.fd)
	c.stream = nil
}

func (e *engine) broke(err error) {
	e.errors++
	if e.firstError == "" {
		e.firstError = err.Error()
	}
}
