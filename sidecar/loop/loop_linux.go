// Package loop is the event loop that the data path runs on: one goroutine, one epoll, many connections.
//
// Everything that belongs to a loop (connections, timers, buffers, and all that protocols hang on them) is
// touched by that loop's goroutine only, so nothing here takes a lock on the way of a request. Other goroutines
// reach a loop by [Loop.Post] alone. A connection is edge-triggered: a [Handler] reads until the socket is
// empty or pauses; what is written is gathered and goes out once, when the handler returns or, for
// connections that ask for it, at the end of the turn.
//
// The loop's epoll descriptor is itself watched by Go's own poller, so a waiting loop holds no thread
// (a blocking epoll_wait costs 0.5 µs more a request, and far more at part load). Ready sockets are read and
// written by RawSyscall, which does not tell the scheduler: no call here can block.
//
// Protocols do not belong here; nor does anything that knows what the bytes mean.
package loop

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/internal/stat"
)

const (
	// ScratchSize is the length of a loop's read buffer.
	ScratchSize = 64 << 10
	// BufSize is the capacity of the pooled output buffers.
	BufSize     = 16 << 10
	eventsATurn = 128
	maxFreeBufs = 256
	// An output buffer that a batch of answers has made grow is needed again by the next batch: a few are kept.
	maxGrownBytes = 4 * BufSize
	maxGrownBufs  = 8
)

// Task is work handed to a loop by Post.
type Task interface{ RunOnLoop() }

// TaskFunc makes a function a Task.
type TaskFunc func()

// RunOnLoop calls f.
func (f TaskFunc) RunOnLoop() { f() }

// Loop is one event loop. Its methods are called on it, but for Post, Start and Stop.
type Loop struct {
	// Index numbers the loops of a process from 0.
	Index int
	// Spliced counts the bytes that Splice has moved. It may be replaced before Start.
	Spliced *stat.Counter
	// Scratch is where handlers read to; its content is theirs until they return.
	Scratch []byte

	epfd, wakefd, timerfd int
	conns                 []*Conn
	gen                   int32
	events                [eventsATurn]unix.EpollEvent
	now                   int64
	wheel                 wheel
	armed                 int64
	flushNow, flushLater  []*Conn
	spareLater            []*Conn
	again, spareAgain     []*Conn
	deferred              []Task
	bufs, small           [][]byte
	grown                 [][]byte // buffers of more than BufSize
	pipes                 []*pipe
	npipes                int    // free and lent
	seal                  []byte // where layers seal to
	nconns                int
	load                  atomic.Int64
	stalls                stallQueue
	delay                 *delayProbe // nil: the queue's delay is not measured
	held, heldLimit       int64
	heldNow               atomic.Int64
	evicted               atomic.Uint64
	pressed               bool

	mu     sync.Mutex
	posts  []Task
	spare  []Task
	asleep atomic.Bool
	stop   atomic.Bool
	done   chan struct{}
	file   *os.File
	err    error
}

// New makes a loop; Start runs it.
func New(index int) (*Loop, error) {
	l := &Loop{Index: index, Scratch: make([]byte, ScratchSize), conns: make([]*Conn, 256), done: make(chan struct{}), armed: noTimer, Spliced: &stat.Counter{}}
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(l.epfd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	if l.timerfd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		unix.Close(l.epfd)
		unix.Close(l.wakefd)
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	for _, fd := range []int{l.wakefd, l.timerfd} {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
		if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, os.NewSyscallError("epoll_ctl", err)
		}
	}
	l.now = Nanotime()
	l.wheel.init(l.now)
	return l, nil
}

//go:linkname runtimeNano runtime.nanotime
func runtimeNano() int64

// Nanotime is the monotonic clock in nanoseconds.
func Nanotime() int64 { return runtimeNano() }

// Now is the time at which the loop's turn began, in monotonic nanoseconds.
func (l *Loop) Now() int64 { return l.now }

// Conns is the number of open connections, listeners not counted.
func (l *Loop) Conns() int { return l.nconns }

// Load is Conns as other goroutines may ask for it.
func (l *Loop) Load() int64 { return l.load.Load() }

// Start runs the loop on a goroutine of its own until Stop.
func (l *Loop) Start() error {
	if err := unix.SetNonblock(l.epfd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	l.file = os.NewFile(uintptr(l.epfd), "epoll")
	rc, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	go func() {
		defer close(l.done)
		turns := 0
		err := rc.Read(func(uintptr) bool { return l.spin(&turns) })
		if err != nil && !errors.Is(err, os.ErrClosed) {
			l.err = err
		}
		l.closeAll()
	}()
	return nil
}

// Stop ends the loop, closes its connections without a word and waits until it has ended. It is called from
// another goroutine.
func (l *Loop) Stop() {
	l.stop.Store(true)
	l.wake()
	<-l.done
}

func (l *Loop) closeAll() {
	for _, c := range l.conns {
		if c != nil {
			c.close()
		}
	}
	for _, p := range l.pipes {
		l.closePipe(p)
	}
	l.pipes = nil
	l.file.Close()
	unix.Close(l.wakefd)
	unix.Close(l.timerfd)
	if l.delay != nil {
		unix.Close(l.delay.fd)
	}
}

// Post hands a task to the loop, from any goroutine. It does not wait. Tasks run in the order of their posting.
func (l *Loop) Post(t Task) {
	l.mu.Lock()
	l.posts = append(l.posts, t)
	l.mu.Unlock()
	if l.asleep.CompareAndSwap(true, false) {
		l.wake()
	}
}

func (l *Loop) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(l.wakefd, one[:]) // full is as good: it wakes
}

func (l *Loop) runPosts() bool {
	l.mu.Lock()
	ps := l.posts
	if len(ps) == 0 {
		l.mu.Unlock()
		return false
	}
	l.posts = l.spare[:0]
	l.mu.Unlock()
	for i, t := range ps {
		ps[i] = nil
		t.RunOnLoop()
		l.flushDirty()
	}
	l.spare = ps[:0]
	return true
}

// spin turns the loop until nothing is ready; false sends the goroutine to Go's poller.
func (l *Loop) spin(turns *int) bool {
	for !l.stop.Load() {
		n := epollNow(l.epfd, l.events[:])
		if n == 0 && len(l.again) == 0 {
			l.now = Nanotime()
			if l.runPosts() {
				l.endTurn()
				continue
			}
			if l.delay != nil {
				l.delay.rest(l.now)
			}
			l.arm()
			l.asleep.Store(true)
			l.mu.Lock()
			more := len(l.posts) > 0
			l.mu.Unlock()
			if more || l.stop.Load() {
				l.asleep.Store(false)
				continue
			}
			return false
		}
		l.asleep.Store(false)
		l.now = Nanotime()
		if l.delay != nil {
			l.delay.begin(l.now)
		}
		l.turn(n)
		if *turns++; *turns&15 == 0 {
			runtime.Gosched() // the configuration's goroutines and the collector want their turn
		}
	}
	return true
}

func epollNow(epfd int, ev []unix.EpollEvent) int {
	n, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(unsafe.SliceData(ev))), uintptr(len(ev)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

func (l *Loop) turn(n int) {
	if len(l.again) > 0 {
		q := l.again
		l.again = l.spareAgain[:0]
		for i, c := range q {
			q[i] = nil
			c.queued = false
			if !c.closed && c.readable() && !c.paused {
				c.h.OnRead(c)
				l.flushDirty()
			}
		}
		l.spareAgain = q[:0]
	}
	for i := range n {
		e := &l.events[i]
		fd := int(e.Fd)
		if fd == l.wakefd || fd == l.timerfd {
			var b [8]byte
			_, _ = rawRead(fd, b[:]) // only to make it unreadable
			if fd == l.timerfd {
				l.armed = noTimer
			}
			continue
		}
		if l.delay != nil && fd == l.delay.fd {
			l.delay.found()
			continue
		}
		c := l.conns[fd]
		if c == nil || c.gen != e.Pad {
			continue // closed by an earlier event of this turn
		}
		l.event(c, e.Events)
		l.flushDirty()
	}
	l.runPosts()
	l.endTurn()
}

func (l *Loop) endTurn() {
	if l.now/tick >= l.wheel.soonAt {
		l.wheel.advance(l.now)
		l.flushDirty()
	} else {
		l.wheel.advance(l.now)
	}
	for len(l.flushLater) > 0 {
		q := l.flushLater
		l.flushLater = l.spareLater[:0]
		for i, c := range q {
			q[i] = nil
			c.dirty = false
			c.flush()
		}
		l.spareLater = q[:0]
		l.flushDirty() // a write that failed may have made answers on other connections
	}
}

// Defer runs t when the event that is being handled is over. It is called on the loop.
func (l *Loop) Defer(t Task) { l.deferred = append(l.deferred, t) }

// flushDirty runs what was deferred and sends what was gathered, until neither makes more of the other.
func (l *Loop) flushDirty() {
	for len(l.deferred) > 0 || len(l.flushNow) > 0 {
		if n := len(l.deferred) - 1; n >= 0 {
			t := l.deferred[n]
			l.deferred[n] = nil
			l.deferred = l.deferred[:n]
			t.RunOnLoop()
			continue
		}
		n := len(l.flushNow) - 1
		c := l.flushNow[n]
		l.flushNow[n] = nil
		l.flushNow = l.flushNow[:n]
		c.dirty = false
		c.flush()
	}
}

func (l *Loop) arm() {
	at := l.wheel.soonAt
	if at == noTimer || at >= l.armed {
		return
	}
	l.armed = at
	var ts unix.ItimerSpec
	ns := max(at*tick-l.now, 1000)
	ts.Value = unix.NsecToTimespec(ns)
	_ = unix.TimerfdSettime(l.timerfd, 0, &ts, nil) // fails on bad arguments alone
}

// SetTimer arranges for h.OnTimer(t) in d; a timer that is set is moved.
func (l *Loop) SetTimer(t *Timer, d time.Duration, h TimerHandler) {
	l.wheel.set(t, l.now+max(int64(d), 0), h)
}

// StopTimer stops a timer; stopping a stopped one does nothing.
func (l *Loop) StopTimer(t *Timer) { l.wheel.stop(t) }

// TimerLeft is how long an active timer still has.
func (l *Loop) TimerLeft(t *Timer) time.Duration { return time.Duration(t.at*tick - l.now) }

// Buf lends an empty buffer of at least BufSize bytes; FreeBuf takes it back.
func (l *Loop) Buf() []byte {
	if n := len(l.grown); n > 0 {
		b := l.grown[n-1]
		l.grown = l.grown[:n-1]
		return b
	}
	if n := len(l.bufs); n > 0 {
		b := l.bufs[n-1]
		l.bufs = l.bufs[:n-1]
		return b
	}
	return make([]byte, 0, BufSize)
}

// FreeBuf returns a buffer got from Buf. One that has grown is left to the collector, but for a few.
func (l *Loop) FreeBuf(b []byte) {
	switch {
	case cap(b) == BufSize && len(l.bufs) < maxFreeBufs:
		l.bufs = append(l.bufs, b[:0])
	case cap(b) > BufSize && cap(b) <= maxGrownBytes && len(l.grown) < maxGrownBufs:
		l.grown = append(l.grown, b[:0])
	}
}

func (l *Loop) register(fd int, h Handler, events uint32) (*Conn, error) {
	for fd >= len(l.conns) {
		l.conns = append(l.conns, make([]*Conn, len(l.conns))...)
	}
	l.gen++
	c := &Conn{l: l, fd: int32(fd), gen: l.gen, h: h}
	e := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: l.gen}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	l.conns[fd] = c
	return c, nil
}

const connEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff

// Adopt puts an accepted, non-blocking descriptor on the loop.
func (l *Loop) Adopt(fd int, h Handler) (*Conn, error) {
	c, err := l.register(fd, h, connEvents)
	if err == nil {
		l.nconns++
		l.load.Add(1)
	}
	return c, err
}

// SmallBufSize is the capacity of the buffers for request heads.
const SmallBufSize = 4 << 10

// SmallBuf lends an empty buffer of SmallBufSize bytes; FreeSmallBuf takes it back.
func (l *Loop) SmallBuf() []byte {
	if n := len(l.small); n > 0 {
		b := l.small[n-1]
		l.small = l.small[:n-1]
		return b
	}
	return make([]byte, 0, SmallBufSize)
}

// FreeSmallBuf returns a buffer got from SmallBuf. One that has grown is left to the collector.
func (l *Loop) FreeSmallBuf(b []byte) {
	if cap(b) == SmallBufSize && len(l.small) < 4*maxFreeBufs {
		l.small = append(l.small, b[:0])
	}
}
