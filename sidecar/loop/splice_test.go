package loop

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpPair is a connection on l, which no goroutine runs, and its peer's descriptor.
func tcpPair(t testing.TB, l *Loop, h Handler) (*Conn, int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a := ln.Addr().(*net.TCPAddr)
	peer, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(peer, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetNonblock(peer, true)
	own, err := ln.(*net.TCPListener).Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := own.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetNonblock(fd, true)
	c, err := l.Adopt(fd, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); unix.Close(peer) })
	c.wr = true
	return c, peer
}

func noPipes(t *testing.T, l *Loop) {
	t.Helper()
	for _, p := range l.pipes {
		if p.n != 0 {
			t.Errorf("a free pipe holds %d bytes", p.n)
		}
		l.closePipe(p)
	}
	if l.pipes = nil; l.npipes != 0 {
		t.Errorf("%d pipes are lost", l.npipes)
	}
}

// Everything arrives, in its order, when the reader is slow: what does not fit waits in one pipe, whatever is written behind
// it comes behind it, and OnDrained tells when it is gone.
func TestSpliceToSlowReader(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			l, p := newLoop(t), &probe{}
			t.Cleanup(func() { noPipes(t, l) })
			var src, dst *Conn
			var in, out int
			if network == "tcp" {
				src, in = tcpPair(t, l, &probe{})
				dst, out = tcpPair(t, l, p)
			} else {
				src, in = pair(t, l, &probe{})
				dst, out = pair(t, l, p)
			}
			want := make([]byte, 8<<20)
			rand.Read(want)
			dst.Write([]byte("head"))
			left, blocked, got := want, 0, []byte{}
			buf := make([]byte, 1<<20)
			moved := 0
			for moved < len(want) || dst.Waiting() > 0 {
				if n, err := unix.Write(in, left); err == nil {
					left = left[n:]
				}
				src.rd = true
				for moved < len(want) && !dst.Blocked() {
					n, r := src.Splice(dst, len(want)-moved)
					if r == Again {
						break
					}
					if r != OK {
						t.Fatal(r)
					}
					if moved += n; moved == len(want) {
						dst.Write([]byte("tail"))
					}
				}
				if dst.Blocked() {
					blocked++
					if _, r := src.Splice(dst, 1); r != Again {
						t.Fatal("more was taken for a blocked connection: ", r)
					}
					n, err := unix.Read(out, buf[:1+blocked*9973%100_000])
					if err == nil {
						got = append(got, buf[:n]...)
					}
				}
				l.event(dst, unix.EPOLLOUT)
				l.flushDirty()
			}
			for {
				n, err := unix.Read(out, buf)
				if err != nil || n <= 0 {
					break
				}
				got = append(got, buf[:n]...)
			}
			if !bytes.Equal(got, append(append([]byte("head"), want...), "tail"...)) {
				t.Fatalf("%d bytes came of %d, or others", len(got), len(want)+8)
			}
			if blocked == 0 || p.drained == 0 {
				t.Fatalf("blocked %d times, drained %d: nothing was shown", blocked, p.drained)
			}
			if l.Spliced.Value() != uint64(len(want)) {
				t.Errorf("%d spliced", l.Spliced.Value())
			}
		})
	}
}

// An end is told as such, and so is a connection that broke.
func TestSpliceEnds(t *testing.T) {
	l := newLoop(t)
	t.Cleanup(func() { noPipes(t, l) })
	dst, _ := tcpPair(t, l, &probe{})
	src, in := tcpPair(t, l, &probe{})
	src.rd = true
	if _, r := src.Splice(dst, 1); r != Again {
		t.Fatal("empty: ", r)
	}
	_ = unix.Shutdown(in, unix.SHUT_WR)
	src.rd = true
	if _, r := src.Splice(dst, 1); r != EOF {
		t.Fatal("ended: ", r)
	}
	src, in = tcpPair(t, l, &probe{})
	_ = unix.SetsockoptLinger(in, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	fd, _ := unix.FcntlInt(uintptr(in), unix.F_DUPFD_CLOEXEC, 0)
	_ = unix.Close(in)
	_ = unix.Close(fd)
	src.rd = true
	if _, r := src.Splice(dst, 1); r != Error {
		t.Fatal("reset: ", r)
	}
	p := &probe{}
	failed := 0
	p.onWriteError = func() { failed++ }
	gone, out := tcpPair(t, l, p)
	_ = unix.SetsockoptLinger(out, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	fd, _ = unix.FcntlInt(uintptr(out), unix.F_DUPFD_CLOEXEC, 0)
	_ = unix.Close(out)
	_ = unix.Close(fd)
	src, in = tcpPair(t, l, &probe{})
	_, _ = unix.Write(in, []byte("x"))
	src.rd = true
	for src.rd && !gone.closed {
		src.Splice(gone, 1)
	}
	if failed != 1 || !gone.closed {
		t.Fatalf("a destination that has gone: told %d times, closed %v", failed, gone.closed)
	}
}

// Where the pipes are used up, whoever wants to splice copies.
func TestSpliceWithoutPipes(t *testing.T) {
	l := newLoop(t)
	src, in := tcpPair(t, l, &probe{})
	dst, _ := tcpPair(t, l, &probe{})
	_, _ = unix.Write(in, []byte("x"))
	src.rd = true
	l.npipes = maxPipes
	if _, r := src.Splice(dst, 1); r != Unsupported {
		t.Fatal(r)
	}
	if n, r := src.Read(l.Scratch); n != 1 || r != OK {
		t.Fatal(n, r)
	}
}

// BenchmarkMove is the CPU of passing a piece on, by reading and writing it and by splicing it: what SpliceLeast in
// proxy/http1 stands on.
func BenchmarkMove(b *testing.B) {
	for _, size := range []int{4 << 10, 16 << 10, 32 << 10, 64 << 10, 256 << 10} {
		for _, how := range []string{"copy", "splice"} {
			b.Run(fmt.Sprintf("%s/%dKiB", how, size>>10), func(b *testing.B) {
				l, err := New(0)
				if err != nil {
					b.Fatal(err)
				}
				l.Scratch = make([]byte, 256<<10)
				src, in := tcpPair(b, l, &probe{})
				dst, out := tcpPair(b, l, &probe{})
				for _, fd := range []int{in, out, int(src.fd), int(dst.fd)} {
					_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
					_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
				}
				piece, sink := make([]byte, size), make([]byte, 1<<20)
				var cpu time.Duration
				for b.Loop() {
					if _, err := unix.Write(in, piece); err != nil {
						b.Fatal(err)
					}
					began := now(b)
					for n := 0; n < size; {
						src.rd = true
						var k int
						var r ReadResult
						if how == "copy" {
							if k, r = src.Read(l.Scratch); r == OK {
								dst.Write(l.Scratch[:k])
								dst.Flush()
							}
						} else {
							k, _ = src.Splice(dst, size-n)
						}
						n += k
					}
					cpu += now(b) - began
					for n := 0; n < size; {
						k, _ := unix.Read(out, sink)
						n += max(k, 0)
					}
				}
				b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// now is the CPU time of the process.
func now(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
