package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what a pipe holds. The kernel counts in pages, and a received segment takes one at least.
	pipeSize = 256 << 10
	// maxPipes bounds the pipes of a loop: one for each connection that is spliced to and does not take what is in it,
	// and one for all the others. Where they are used up, bytes are copied. An unprivileged user has 64 MiB of pipes in
	// all (fs.pipe-user-pages-soft); beyond it the kernel makes them of one page or two.
	maxPipes = 64
	// maxFreePipes are kept for the next.
	maxFreePipes = 8
)

// pipe carries bytes from one socket to another without their passing through this process.
type pipe struct {
	r, w int
	n    int // bytes in it
}

// pipe lends an empty pipe, or nil where there is none to be had.
func (l *Loop) pipe() *pipe {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p
	}
	if l.npipes >= maxPipes {
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize) // a smaller one serves, by more calls
	l.npipes++
	return &pipe{r: fds[0], w: fds[1]}
}

// freePipe takes a pipe back. One that still holds something is closed.
func (l *Loop) freePipe(p *pipe) {
	if p.n == 0 && len(l.pipes) < maxFreePipes {
		l.pipes = append(l.pipes, p)
		return
	}
	l.closePipe(p)
}

func (l *Loop) closePipe(p *pipe) {
	l.npipes--
	unix.Close(p.r)
	unix.Close(p.w)
}

func rawSplice(from, to, n int) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if e == 0 {
			return int(n), 0
		}
		if e != syscall.EINTR {
			return -1, e
		}
	}
}

// Splice moves up to limit bytes, which must be above 0, from c to dst by splice(2). Unsupported says that nothing was
// moved and that they have to be copied: there is no pipe, or no such thing as splicing these two.
//
// What dst does not take waits in the pipe, which is dst's until it has gone: see [Conn.Blocked]. Nothing is read while
// dst has other output that waits; then the result is Again, and dst is blocked. As with Write, dst may have failed and be
// closed afterwards.
func (c *Conn) Splice(dst *Conn, limit int) (int, ReadResult) {
	if c.noSplice || dst.noSplice || dst.broken || dst.connecting { // first: what a layer holds makes no socket readable
		return 0, Unsupported
	}
	if !c.rd {
		return 0, Again
	}
	dst.flush()
	if dst.closed || dst.Waiting() > 0 {
		return 0, Again
	}
	p := c.l.pipe()
	if p == nil {
		return 0, Unsupported
	}
	n, e := rawSplice(int(c.fd), p.w, min(limit, pipeSize))
	if e != 0 || n == 0 {
		c.l.freePipe(p)
		switch e {
		case 0:
			return 0, EOF
		case syscall.EAGAIN:
			c.rd = false
			return 0, Again
		case syscall.EINVAL, syscall.ENOSYS, syscall.EPERM:
			c.noSplice = true
			return 0, Unsupported
		}
		return 0, Error
	}
	c.l.Spliced.Add(uint64(n))
	p.n = n
	dst.pipe = p
	dst.drainPipe()
	return n, OK
}

// drainPipe sends what is in the pipe, as far as the socket takes it; it says whether the pipe is empty.
func (c *Conn) drainPipe() bool {
	p := c.pipe
	for c.wr && p.n > 0 {
		n, e := rawSplice(p.r, int(c.fd), p.n)
		switch e {
		case 0:
			p.n -= n
		case syscall.EAGAIN:
			c.wr = false
		case syscall.EINVAL, syscall.ENOSYS, syscall.EPERM:
			c.noSplice = true
			if !c.emptyPipe() {
				return false
			}
		default:
			c.fail(e)
			return false
		}
	}
	if p.n > 0 {
		return false
	}
	c.pipe = nil
	c.l.freePipe(p)
	return true
}

// emptyPipe takes back what a socket does not take by splice: it waits as any other output.
func (c *Conn) emptyPipe() bool {
	p := c.pipe
	b := make([]byte, p.n, p.n+len(c.out)-c.off)
	for k := 0; k < len(b); {
		n, e := rawRead(p.r, b[k:])
		if e != 0 || n == 0 {
			c.fail(syscall.EIO)
			return false
		}
		k += n
	}
	p.n = 0
	b = append(b, c.out[c.off:]...)
	if c.out != nil {
		c.l.FreeBuf(c.out)
	}
	c.out, c.off = b, 0
	c.markDirty()
	return true
}
