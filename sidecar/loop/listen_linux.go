package loop

import (
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const acceptsATurn = 64

// Acceptor takes new connections; it is called on the loop whose listener accepted.
type Acceptor interface {
	// OnAccept is given a non-blocking descriptor, which it owns.
	OnAccept(fd int, peer netip.AddrPort)
	// OnAcceptError is told of errors that are not the peer's: too many open files. Accepting goes on a little later.
	OnAcceptError(err error)
}

// Holder is an Acceptor that does not always take connections.
type Holder interface {
	// Hold says that new connections are to wait in the socket's queue; it is asked again a little later.
	Hold() bool
}

// Listener accepts on one loop. The same listening socket may be on several loops.
type Listener struct {
	c     *Conn
	a     Acceptor
	l     *Loop
	timer Timer
}

// Listen watches a listening, non-blocking socket. The loop takes a duplicate of the descriptor.
func (l *Loop) Listen(fd int, a Acceptor) (*Listener, error) {
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(d, true); err != nil {
		unix.Close(d)
		return nil, os.NewSyscallError("fcntl", err)
	}
	ln := &Listener{a: a, l: l}
	if ln.c, err = l.register(d, ln, unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil {
		return nil, err
	}
	return ln, nil
}

// Close stops accepting. Connections that wait in the socket's queue stay there for whoever else holds it.
func (ln *Listener) Close() {
	if ln.c.closed {
		return
	}
	ln.l.StopTimer(&ln.timer)
	ln.c.close()
}

// OnRead accepts.
func (ln *Listener) OnRead(c *Conn) {
	if h, ok := ln.a.(Holder); ok && h.Hold() {
		ln.pause(c)
		return
	}
	for range acceptsATurn {
		fd, sa, err := unix.Accept4(int(c.fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR:
			continue
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			ln.a.OnAcceptError(os.NewSyscallError("accept", err))
			ln.pause(c)
			return
		default:
			ln.a.OnAcceptError(os.NewSyscallError("accept", err))
			return
		}
		ap := addrPort(sa)
		if ap.IsValid() {
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
		ln.a.OnAccept(fd, ap)
	}
}

// pause stops accepting for a while.
func (ln *Listener) pause(c *Conn) {
	c.paused = true
	ev := unix.EpollEvent{Fd: c.fd, Pad: c.gen}
	_ = unix.EpollCtl(ln.l.epfd, unix.EPOLL_CTL_DEL, int(c.fd), &ev)
	ln.l.SetTimer(&ln.timer, 100*time.Millisecond, ln)
}

// OnTimer goes on accepting after a shortage.
func (ln *Listener) OnTimer(*Timer) {
	c := ln.c
	c.paused = false
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: c.fd, Pad: c.gen}
	if err := unix.EpollCtl(ln.l.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &ev); err != nil {
		ln.a.OnAcceptError(os.NewSyscallError("epoll_ctl", err))
	}
}

// OnDrained does nothing: a listener does not write.
func (ln *Listener) OnDrained(*Conn) {}

// OnHangup does nothing: a listener has no peer.
func (ln *Listener) OnHangup(*Conn) {}

// OnConnect does nothing: a listener does not connect.
func (ln *Listener) OnConnect(*Conn, error) {}

// OnWriteError does nothing: a listener does not write.
func (ln *Listener) OnWriteError(*Conn, error) {}
