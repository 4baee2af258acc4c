package loop

import (
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handler is a protocol's side of a connection. Its methods are called on the loop; each may close the connection.
type Handler interface {
	// OnRead is called when the socket has something to read, or its end. The handler reads until Read says
	// Again, or pauses, or calls Yield to go on in the next turn.
	OnRead(c *Conn)
	// OnDrained is called when output that had to wait has gone out.
	OnDrained(c *Conn)
	// OnHangup is called when the peer has closed or reset the connection while reading is paused.
	OnHangup(c *Conn)
	// OnConnect tells how a Dial went.
	OnConnect(c *Conn, err error)
	// OnWriteError is called when writing failed and nothing is left to read; the connection is closed.
	OnWriteError(c *Conn, err error)
}

// Conn is a socket on a loop.
type Conn struct {
	l   *Loop
	h   Handler
	out []byte // gathered or waiting output; off bytes of it have gone
	off int
	fd  int32
	gen int32
	// pipe is output too, and goes before out; nil but while the socket does not take what was spliced.
	pipe *pipe
	lay  *layered // nil where the wire's bytes are the handler's
	// race is what connects it, where it has no socket yet; nil otherwise.
	race *race
	// addrs are the peer's address and ours where they are not the socket's; nil otherwise.
	addrs *[2]netip.AddrPort

	rd, wr     bool // the socket is readable, writable as far as known
	hup        bool // the peer sent FIN or the connection broke
	paused     bool
	connecting bool
	closed     bool
	dirty      bool
	queued     bool
	broken     bool // writing has failed; what the peer had sent before is still to be read
	finLater   bool // FIN follows what waits
	noSplice   bool // the socket cannot be spliced from or to
	// Batch delays output to the end of the loop's turn: for multiplexed protocols.
	Batch bool
	// StallTime is how long the peer may take nothing of what waits before a StallHandler is told; 0 means for ever.
	StallTime time.Duration
	stall     *Stall
	tally     *Tally // counts the connection, or nil
	held      int    // bytes of out that are accounted for
}

// ReadResult says how a Read went.
type ReadResult uint8

// Results of Read.
const (
	OK          ReadResult = iota // n > 0 bytes were read
	Again                         // nothing now; OnRead follows
	EOF                           // the peer has finished
	Error                         // the connection is broken
	Unsupported                   // not in this way: see Splice
)

// Loop is the loop that the connection is on.
func (c *Conn) Loop() *Loop { return c.l }

// SetHandler hands the connection to another protocol.
func (c *Conn) SetHandler(h Handler) { c.h = h }

// Closed says whether Close was called.
func (c *Conn) Closed() bool { return c.closed }

// Hangup says whether the peer is known to have closed its side or all of the connection.
func (c *Conn) Hangup() bool { return c.hup }

func rawRead(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if e == 0 {
			return int(n), 0
		}
		if e != syscall.EINTR {
			return -1, e
		}
	}
}

func rawWrite(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if e == 0 {
			return int(n), 0
		}
		if e != syscall.EINTR {
			return -1, e
		}
	}
}

func rawWritev(fd int, v []unix.Iovec) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)))
		if e == 0 {
			return int(n), 0
		}
		if e != syscall.EINTR {
			return -1, e
		}
	}
}

// Read reads what is there into b, which must not be empty.
func (c *Conn) Read(b []byte) (int, ReadResult) {
	if c.lay != nil {
		return c.lay.read(b)
	}
	return c.ReadWire(b)
}

// ReadWire reads what is there of the socket's own bytes into b, which must not be empty. It is for layers.
func (c *Conn) ReadWire(b []byte) (int, ReadResult) {
	if !c.rd {
		return 0, Again
	}
	n, e := rawRead(int(c.fd), b)
	switch {
	case e == syscall.EAGAIN:
		c.rd = false
		return 0, Again
	case e != 0:
		return 0, Error
	case n == 0:
		return 0, EOF
	}
	if n < len(b) && !c.hup {
		c.rd = false // a short read has emptied the socket; the next byte makes a new edge
	}
	return n, OK
}

// Pause stops or resumes reading. Resuming calls OnRead in the next turn if something is there.
func (c *Conn) Pause(on bool) {
	if c.paused == on {
		return
	}
	c.paused = on
	if !on && c.readable() {
		c.Yield()
	}
}

// Paused says whether reading is paused.
func (c *Conn) Paused() bool { return c.paused }

// Yield calls OnRead again in the next turn, so that others come first.
func (c *Conn) Yield() {
	if !c.queued && !c.closed {
		c.queued = true
		c.l.again = append(c.l.again, c)
	}
}

func (c *Conn) markDirty() {
	if c.dirty {
		return
	}
	c.dirty = true
	if c.Batch {
		c.l.flushLater = append(c.l.flushLater, c)
	} else {
		c.l.flushNow = append(c.l.flushNow, c)
	}
}

// Out is the output being gathered, to be appended to and handed back by SetOut.
func (c *Conn) Out() []byte {
	if c.out == nil {
		c.out = c.l.Buf()
		c.off = 0
	}
	return c.out
}

// SetOut takes back what Out gave, with more appended.
func (c *Conn) SetOut(b []byte) {
	c.out = b
	if c.closed || c.broken {
		c.freeOut()
		return
	}
	if c.held != 0 {
		c.hold(c.capacity())
	}
	if len(b) > c.off {
		c.markDirty()
	} else if c.off == 0 && !c.dirty {
		c.l.FreeBuf(c.out)
		c.out = nil
	}
}

// Write gathers b for output, or sends it at once together with what is gathered when that is much. b is not
// kept. It never blocks: what the socket does not take waits in memory, see Waiting.
func (c *Conn) Write(b []byte) {
	if c.closed || c.broken || len(b) == 0 {
		return
	}
	if n := len(c.out); n+len(b) <= BufSize || c.off > 0 || !c.wr || c.connecting || c.pipe != nil {
		c.SetOut(append(c.Out(), b...))
		return
	}
	if c.lay != nil {
		c.writeLayered(b)
		return
	}
	v := [2]unix.Iovec{}
	k := 0
	if len(c.out) > 0 {
		v[k].Base = unsafe.SliceData(c.out)
		v[k].SetLen(len(c.out))
		k++
	}
	v[k].Base = unsafe.SliceData(b)
	v[k].SetLen(len(b))
	n, e := rawWritev(int(c.fd), v[:k+1])
	if e != 0 && e != syscall.EAGAIN {
		c.fail(e)
		return
	}
	if e != 0 {
		n = 0
	}
	total := len(c.out) + len(b)
	if n == total {
		c.freeOut()
		return
	}
	if n < len(c.out) {
		c.off = n
		c.out = append(c.out, b...)
	} else {
		n -= len(c.out)
		c.freeOut()
		c.out = append(c.Out(), b[n:]...)
	}
	c.stuck()
}

func (c *Conn) freeOut() {
	if c.out != nil {
		c.l.FreeBuf(c.out)
		c.out, c.off = nil, 0
	}
	if c.pipe != nil {
		c.l.freePipe(c.pipe)
		c.pipe = nil
	}
	c.freeWire()
	c.unstick()
}

// Waiting is the number of bytes that the socket has not taken yet, what is gathered included.
func (c *Conn) Waiting() int {
	n := len(c.out) - c.off
	if c.pipe != nil {
		n += c.pipe.n
	}
	if c.lay != nil {
		n += len(c.lay.wire) - c.lay.off
	}
	return n
}

// Blocked says that the socket does not take more now: whoever feeds the connection should stop until OnDrained.
func (c *Conn) Blocked() bool { return c.Waiting() > 0 && !c.wr }

// Flush sends what is gathered, as far as the socket takes it.
func (c *Conn) Flush() { c.flush() }

func (c *Conn) flush() {
	if c.closed || c.connecting {
		return
	}
	if c.lay != nil {
		c.flushLayered()
		return
	}
	if c.out == nil && c.pipe == nil {
		return
	}
	if c.pipe != nil && !c.drainPipe() {
		return
	}
	for c.wr && c.off < len(c.out) {
		n, e := rawWrite(int(c.fd), c.out[c.off:])
		if e == syscall.EAGAIN {
			c.stuck()
			return
		}
		if e != 0 {
			c.fail(e)
			return
		}
		c.off += n
	}
	if c.off == len(c.out) {
		c.freeOut()
		if c.finLater {
			c.fin()
		}
	}
}

// fail is a write that the socket refused. A peer that answers early and closes leaves its answer in our socket:
// where there is something to read, output is thrown away and reading tells how it ends.
func (c *Conn) fail(e syscall.Errno) {
	h := c.h
	c.freeOut()
	if !c.paused {
		var b [1]byte
		if n, r := c.peekWire(b[:]); r == OK && n > 0 {
			c.broken, c.rd, c.hup = true, true, true
			c.Yield()
			return
		}
	}
	c.Close()
	h.OnWriteError(c, os.NewSyscallError("write", e))
}

// Close closes the connection. What is gathered is tried once and what the socket does not take is lost. No
// method of the handler is called any more.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	if c.lay != nil {
		c.lastLayered()
	} else if c.pipe != nil && c.wr {
		_, _ = rawSplice(c.pipe.r, int(c.fd), c.pipe.n) // what is left of it is the reason to lose the rest
	} else if c.out != nil && c.wr && !c.connecting && c.off < len(c.out) {
		_, _ = rawWrite(int(c.fd), c.out[c.off:]) // the last that is tried
	}
	c.close()
	c.l.left()
}

// Reset closes the connection so that the peer sees a reset.
func (c *Conn) Reset() {
	if c.closed {
		return
	}
	unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	c.freeOut()
	c.close()
	c.l.left()
}

// CloseWrite sends FIN after what is gathered and what waits. Nothing may be written after it.
func (c *Conn) CloseWrite() {
	c.flush()
	if c.closed {
		return
	}
	if c.Waiting() > 0 {
		c.finLater = true
		return
	}
	c.fin()
}

func (c *Conn) close() {
	c.closed = true
	if c.tally != nil {
		c.tally.Add(-1)
	}
	c.freeOut()
	if c.race != nil {
		c.race.end()
		c.race = nil
		if c.lay != nil {
			c.lay.Closed()
		}
		return
	}
	if c.lay != nil {
		c.lay.Closed()
	}
	if c.l.conns[c.fd] == c {
		c.l.conns[c.fd] = nil
	}
	unix.Close(int(c.fd))
}

func (l *Loop) event(c *Conn, ev uint32) {
	if ev&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.rd = true
	}
	if ev&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.hup = true
	}
	if c.connecting {
		if ev&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
			return
		}
		c.connecting = false
		if n, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || n != 0 {
			if err == nil {
				err = syscall.Errno(n)
			}
			h := c.h
			c.close()
			l.left()
			h.OnConnect(c, os.NewSyscallError("connect", err))
			return
		}
		c.wr = true
		c.h.OnConnect(c, nil)
		if c.closed {
			return
		}
	} else if ev&unix.EPOLLOUT != 0 && !c.wr {
		c.wr = true
		if c.Waiting() > 0 {
			c.flush()
			if c.closed {
				return
			}
			if c.Waiting() == 0 {
				c.h.OnDrained(c)
				if c.closed {
					return
				}
			}
		}
	}
	if !c.rd {
		return
	}
	if !c.paused {
		if !c.queued {
			c.h.OnRead(c)
		}
	} else if c.hup {
		c.h.OnHangup(c)
	}
}

// SetAddrs replaces what Peer and Local say: by what a proxy before us says of the connection.
func (c *Conn) SetAddrs(peer, local netip.AddrPort) { c.addrs = &[2]netip.AddrPort{peer, local} }

// Peer is the address of the other side, or the zero value for a Unix socket.
func (c *Conn) Peer() netip.AddrPort {
	if c.addrs != nil {
		return c.addrs[0]
	}
	sa, err := unix.Getpeername(int(c.fd))
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// Local is the address of this side, or the zero value for a Unix socket.
func (c *Conn) Local() netip.AddrPort {
	if c.addrs != nil {
		return c.addrs[1]
	}
	sa, err := unix.Getsockname(int(c.fd))
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// FD is the connection's descriptor, for socket options.
func (c *Conn) FD() int { return int(c.fd) }

// Peek looks at what is there without taking it: at one byte at least, where there is one. b must not be empty.
func (c *Conn) Peek(b []byte) (int, ReadResult) {
	if c.lay != nil {
		return c.lay.peek(b)
	}
	return c.peekWire(b)
}

func (c *Conn) peekWire(b []byte) (int, ReadResult) {
	n, _, err := unix.Recvfrom(int(c.fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN:
		return 0, Again
	case err != nil:
		return 0, Error
	case n == 0:
		return 0, EOF
	}
	return n, OK
}

func (l *Loop) left() {
	l.nconns--
	l.load.Add(-1)
}
