package loop

import (
	"testing"

	"golang.org/x/sys/unix"
)

// probe is a Handler that counts.
type probe struct {
	drained, read int
	onWriteError  func()
}

func (p *probe) OnRead(*Conn)           { p.read++ }
func (p *probe) OnDrained(*Conn)        { p.drained++ }
func (p *probe) OnHangup(*Conn)         {}
func (p *probe) OnConnect(*Conn, error) {}
func (p *probe) OnWriteError(*Conn, error) {
	if p.onWriteError != nil {
		p.onWriteError()
	}
}

// pair is a connection on l, which no goroutine runs, and its peer's descriptor.
func pair(t *testing.T, l *Loop, h Handler) (*Conn, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Adopt(fds[0], h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); unix.Close(fds[1]) })
	c.wr = true
	return c, fds[1]
}

func newLoop(t *testing.T) *Loop {
	t.Helper()
	l, err := New(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.epfd); unix.Close(l.wakefd); unix.Close(l.timerfd) })
	return l
}

func drain(fd int) (n int) {
	b := make([]byte, 1<<20)
	for {
		k, err := unix.Read(fd, b)
		if k <= 0 || err != nil {
			return n
		}
		n += k
	}
}

// Whoever was told that a connection is blocked is told that it is not any more, also where it was written to in the
// turn in which it became writable.
func TestDrainedIsToldOfABatch(t *testing.T) {
	l, p := newLoop(t), &probe{}
	c, peer := pair(t, l, p)
	c.Batch = true
	for !c.Blocked() {
		c.Write(make([]byte, 1<<20))
	}
	l.endTurn()
	for c.Waiting() > 0 && p.drained == 0 {
		if drain(peer) == 0 {
			t.Fatal("nothing comes")
		}
		c.Write([]byte("another connection's event"))
		l.event(c, unix.EPOLLOUT)
		l.endTurn()
	}
	if p.drained != 1 {
		t.Fatalf("told %d times", p.drained)
	}
}

// What a write that fails at the end of a turn makes on another connection goes out in that turn.
func TestFailedWriteAtTheEndOfATurn(t *testing.T) {
	l := newLoop(t)
	other, otherPeer := pair(t, l, &probe{})
	failed, ran := 0, 0
	c, peer := pair(t, l, &probe{onWriteError: func() {
		failed++
		other.Write([]byte("your upstream has gone"))
		l.Defer(TaskFunc(func() { ran++ }))
	}})
	c.Batch = true
	unix.Shutdown(peer, unix.SHUT_RDWR)
	c.Write([]byte("x"))
	l.endTurn()
	if n := drain(otherPeer); failed != 1 || n != 22 || ran != 1 {
		t.Fatalf("failed %d, %d bytes came, %d tasks ran", failed, n, ran)
	}
}

// FIN follows what waits.
func TestCloseWriteAfterWhatWaits(t *testing.T) {
	l := newLoop(t)
	c, peer := pair(t, l, &probe{})
	total := 0
	for !c.Blocked() {
		c.Write(make([]byte, 1<<20))
		total += 1 << 20
	}
	c.CloseWrite()
	got := 0
	for turns := 0; got < total; turns++ {
		if turns > 1000 {
			t.Fatalf("%d of %d bytes", got, total)
		}
		got += drain(peer)
		l.event(c, unix.EPOLLOUT)
	}
	if n, err := unix.Read(peer, make([]byte, 1)); n != 0 || err != nil {
		t.Fatal("no end", n, err)
	}
}

// An answer that came before a write failed is read.
func TestReadAfterAFailedWrite(t *testing.T) {
	l, p := newLoop(t), &probe{}
	c, peer := pair(t, l, p)
	unix.Write(peer, []byte("too large"))
	unix.Shutdown(peer, unix.SHUT_RDWR)
	c.Write([]byte("more of the upload"))
	c.Flush()
	c.Write([]byte("and more"))
	if c.Closed() || c.Waiting() > 0 {
		t.Fatal("closed, or keeps what cannot go out")
	}
	l.turn(0)
	b := make([]byte, 100)
	n, r := c.Read(b)
	if p.read != 1 || r != OK || string(b[:n]) != "too large" {
		t.Fatal(p.read, r, string(b[:n]))
	}
	if _, r = c.Read(b); r != EOF && r != Error {
		t.Fatal("no end", r)
	}
}
