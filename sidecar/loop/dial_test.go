package loop

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/internal/sockopt"
)

// caller dials, says hello when it is connected, and tells.
type caller struct {
	probe
	done chan error
	got  chan string
}

func (c *caller) OnConnect(k *Conn, err error) {
	if err == nil {
		k.Write([]byte("hello"))
	}
	c.done <- err
}

func (c *caller) OnRead(k *Conn) {
	b := make([]byte, 64)
	if n, r := k.Read(b); r == OK {
		c.got <- string(b[:n])
	}
}

func running(t *testing.T) *Loop {
	t.Helper()
	l, err := New(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	return l
}

func on(l *Loop, f func()) {
	done := make(chan struct{})
	l.Post(TaskFunc(func() { f(); close(done) }))
	<-done
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// deaf is an address where nobody answers and nobody refuses: its queue is full.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Connect(c, sa)
		t.Cleanup(func() { unix.Close(c) })
	}
	return addrPort(sa).String()
}

// The first address that answers is taken, whether those before it refuse or are silent; the connection is as any other, and
// nothing is left of the others.
func TestDialSeveralAddresses(t *testing.T) {
	ln := listen(t)
	gone := listen(t)
	gone.Close()
	none, good, silent := gone.Addr().String(), ln.Addr().String(), deaf(t)
	for _, addrs := range [][]string{{good, none}, {none, good}, {silent, good}, {none, silent, none, good}, {"[2001:db8::ffff]:1", good}} {
		l := running(t)
		h := &caller{done: make(chan error, 1), got: make(chan string, 1)}
		var c *Conn
		on(l, func() {
			var err error
			if c, err = l.DialTo(&Target{Network: "tcp", Address: addrs[0], More: addrs[1:]}, h); err != nil {
				t.Error(err)
			}
		})
		if c == nil {
			continue
		}
		if err := <-h.done; err != nil {
			t.Fatal(addrs, err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(peer, b); err != nil || string(b) != "hello" {
			t.Fatal(addrs, string(b), err)
		}
		io.WriteString(peer, "answer")
		if s := <-h.got; s != "answer" {
			t.Fatal(s)
		}
		on(l, func() {
			if l.Conns() != 1 {
				t.Errorf("%v: %d connections are open", addrs, l.Conns())
			}
			c.Close()
			if l.Conns() != 0 {
				t.Errorf("%v: %d connections are left", addrs, l.Conns())
			}
		})
		peer.Close()
	}
}

// Where no address answers, the last reason is told; one that is given up is not told of.
func TestDialSeveralInVain(t *testing.T) {
	gone := listen(t)
	gone.Close()
	none, silent := gone.Addr().String(), deaf(t)
	l := running(t)
	h := &caller{done: make(chan error, 1)}
	on(l, func() {
		if _, err := l.DialTo(&Target{Network: "tcp", Address: none, More: []string{none, none}}, h); err != nil {
			h.done <- err
		}
	})
	if err := <-h.done; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	on(l, func() {
		c, err := l.DialTo(&Target{Network: "tcp", Address: silent, More: []string{silent}}, h)
		if err != nil {
			t.Error(err)
			return
		}
		c.Write([]byte("x"))
		c.Close()
		if l.Conns() != 0 {
			t.Errorf("%d connections are left", l.Conns())
		}
	})
	select {
	case err := <-h.done:
		t.Error("told: ", err)
	case <-time.After(20 * time.Millisecond):
	}
}

// Options of sockets arrive.
func TestSocketOptions(t *testing.T) {
	ln := listen(t)
	l := running(t)
	h := &caller{done: make(chan error, 1), got: make(chan string, 1)}
	o := &sockopt.Options{
		Source: netip.MustParseAddrPort("127.0.0.7:0"), KeepAlive: true, KeepAliveIdle: 7, KeepAliveInterval: 3, KeepAliveProbeTimes: 2,
		Options: []sockopt.Option{{Level: unix.IPPROTO_TCP, Name: unix.TCP_USER_TIMEOUT, Value: 1234}},
	}
	var c *Conn
	on(l, func() {
		var err error
		if c, err = l.DialTo(&Target{Network: "tcp", Address: ln.Addr().String(), Socket: o}, h); err != nil {
			t.Error(err)
		}
	})
	if err := <-h.done; err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if a := peer.RemoteAddr().(*net.TCPAddr); a.IP.String() != "127.0.0.7" {
		t.Error(a)
	}
	on(l, func() {
		for _, k := range []struct{ level, name, want int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 7},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 3},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 2},
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1234},
		} {
			if v, err := unix.GetsockoptInt(c.FD(), k.level, k.name); v != k.want || err != nil {
				t.Errorf("option %d/%d is %d, %v", k.level, k.name, v, err)
			}
		}
	})
}
