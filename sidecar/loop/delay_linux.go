package loop

import (
	"os"

	"golang.org/x/sys/unix"
)

// The delay of a loop's queue is measured by an event of its own: an eventfd is made readable, goes to the end of the
// kernel's list of ready sockets, and is found there when all before it have been served. What lies between is what a
// request that had just arrived would have waited. Only a loop that does not come to rest is measured, and that every
// delayEvery; one that sleeps has no queue.

const (
	delayEvery = 5e6 // nanoseconds
	// delayAfter is the number of turns without a rest after which measuring begins.
	delayAfter = 4
)

type delayProbe struct {
	fd     int
	f      func(now, delay int64)
	sent   int64 // when the event was made; 0: none is under way
	last   int64
	turns  int // since the loop slept, which ended at woke
	woke   int64
	rested bool // f was told that the queue is empty
}

// MeasureDelay has f told the queue's delay, on the loop; 0 says that the loop rests. It is called before Start.
func (l *Loop) MeasureDelay(f func(now, delay int64)) error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.delay = &delayProbe{fd: fd, f: f, rested: true}
	return nil
}

// begin is called at the beginning of a turn.
func (p *delayProbe) begin(now int64) {
	if p.turns++; p.turns == 1 {
		p.woke = now
	}
	if p.sent != 0 || now-p.last < delayEvery || p.turns < delayAfter && now-p.woke < delayEvery {
		return
	}
	one := [8]byte{1}
	if _, err := unix.Write(p.fd, one[:]); err == nil {
		p.sent = Nanotime()
	}
}

// found is called when the event's turn has come.
func (p *delayProbe) found() {
	var b [8]byte
	_, _ = rawRead(p.fd, b[:]) // only to make it unreadable
	now := Nanotime()
	if p.sent == 0 {
		return
	}
	p.last, p.rested = now, false
	d := now - p.sent
	p.sent = 0
	p.f(now, d)
}

// rest is called when nothing is ready.
func (p *delayProbe) rest(now int64) {
	p.turns = 0
	if !p.rested {
		p.rested = true
		p.f(now, 0)
	}
}
