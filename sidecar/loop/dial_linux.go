package loop

import (
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/internal/sockopt"
)

// Target is where a connection is made to, and how.
type Target struct {
	// Network is "tcp" or "unix"; Address is "host:port" with a literal address, or a path.
	Network, Address string
	// More are further addresses of the same endpoint, in the order in which they are tried: the next one where those before
	// have failed, or have not answered for a while; whichever connects first is taken (RFC 8305).
	More []string
	// Socket is nil for the system's defaults.
	Socket *sockopt.Options
}

// attemptDelay is how long an address may take before the next one is tried beside it (RFC 8305 §8).
const attemptDelay = 250 * time.Millisecond

// Dial is DialTo one address with the system's defaults.
func (l *Loop) Dial(network, address string, h Handler) (*Conn, error) {
	return l.DialTo(&Target{Network: network, Address: address}, h)
}

// DialTo begins a connection. h.OnConnect tells how it went, unless an error is returned at once. Closing the Conn gives up.
func (l *Loop) DialTo(t *Target, h Handler) (*Conn, error) {
	if len(t.More) > 0 {
		return l.race(t, h)
	}
	return l.attempt(t.Network, t.Address, t.Socket, h)
}

// attempt begins a connection to one address.
func (l *Loop) attempt(network, address string, o *sockopt.Options, h Handler) (*Conn, error) {
	sa, family, err := sockaddr(network, address)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if family != unix.AF_UNIX {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if o != nil {
			if err := setOptions(o, fd, family); err != nil {
				unix.Close(fd)
				return nil, err
			}
		}
	}
	err = unix.Connect(fd, sa)
	if err != nil && err != unix.EINPROGRESS { // EAGAIN: a Unix socket whose backlog is full
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := l.Adopt(fd, h)
	if err != nil {
		return nil, err
	}
	c.connecting = true
	return c, nil
}

func setOptions(o *sockopt.Options, fd, family int) error {
	opt := func(level, name, value int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, name, value))
	}
	if o.KeepAlive {
		if err := opt(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
			return err
		}
		for name, v := range map[int]int{unix.TCP_KEEPIDLE: o.KeepAliveIdle, unix.TCP_KEEPINTVL: o.KeepAliveInterval, unix.TCP_KEEPCNT: o.KeepAliveProbeTimes} {
			if v > 0 {
				if err := opt(unix.IPPROTO_TCP, name, v); err != nil {
					return err
				}
			}
		}
	}
	for _, x := range o.Options {
		if err := opt(x.Level, x.Name, x.Value); err != nil {
			return err
		}
	}
	src := o.Source
	if family == unix.AF_INET6 {
		src = o.Source6
	}
	if !src.IsValid() {
		return nil
	}
	if src.Port() == 0 { // the port is chosen at connect, among those that are free towards the destination
		_ = opt(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	sa, _, err := sockaddr("tcp", src.String())
	if err != nil {
		return err
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}

func sockaddr(network, address string) (unix.Sockaddr, int, error) {
	if network == "unix" {
		return &unix.SockaddrUnix{Name: address}, unix.AF_UNIX, nil
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, 0, &net.AddrError{Err: "want IP:port", Addr: address}
	}
	if a := ap.Addr().Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: a.As4()}, unix.AF_INET, nil
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}, unix.AF_INET6, nil
}

// race tries several addresses for one Conn, which has no socket until one of them is connected and becomes its own.
type race struct {
	l     *Loop
	c     *Conn
	t     *Target
	next  int // of More
	live  []*Conn
	timer Timer
	err   error // the last
}

func (l *Loop) race(t *Target, h Handler) (*Conn, error) {
	r := &race{l: l, t: t}
	r.begin(t.Address)
	if len(r.live) == 0 && !r.more() {
		return nil, r.err
	}
	r.c = &Conn{l: l, fd: -1, h: h, connecting: true, race: r}
	l.nconns++
	l.load.Add(1)
	l.SetTimer(&r.timer, attemptDelay, r)
	return r.c, nil
}

func (r *race) begin(address string) {
	c, err := r.l.attempt(r.t.Network, address, r.t.Socket, r)
	if err != nil {
		r.err = err
		return
	}
	r.live = append(r.live, c)
}

// more tries the next address that can be tried at all; false where there is none left.
func (r *race) more() bool {
	for n := len(r.live); r.next < len(r.t.More); {
		r.next++
		if r.begin(r.t.More[r.next-1]); len(r.live) > n {
			return true
		}
	}
	return false
}

// OnTimer tries the next address beside those that have not answered.
func (r *race) OnTimer(*Timer) {
	if r.more() && r.next < len(r.t.More) {
		r.l.SetTimer(&r.timer, attemptDelay, r)
	}
}

// OnConnect takes the first that connects; after one that failed the next is tried at once.
func (r *race) OnConnect(w *Conn, err error) {
	for i, c := range r.live {
		if c == w {
			r.live = append(r.live[:i], r.live[i+1:]...)
			break
		}
	}
	c := r.c
	if err != nil {
		r.err = err
		if r.more() {
			r.l.SetTimer(&r.timer, attemptDelay, r)
			return
		}
		if len(r.live) > 0 {
			return
		}
		r.end()
		c.closed, c.race = true, nil
		c.freeOut()
		r.l.left()
		c.h.OnConnect(c, r.err)
		return
	}
	r.end()
	c.race, c.connecting = nil, false
	c.fd, c.gen, c.rd, c.wr, c.hup = w.fd, w.gen, w.rd, true, w.hup
	r.l.conns[c.fd] = c
	w.closed = true // its socket lives on
	r.l.left()
	c.h.OnConnect(c, nil)
	if !c.closed && c.rd && !c.paused {
		c.Yield()
	}
}

// end gives up what is still under way.
func (r *race) end() {
	r.l.StopTimer(&r.timer)
	for _, c := range r.live {
		c.Close()
	}
	r.live = nil
}

// OnRead does nothing: an address that is being tried has nothing to read.
func (r *race) OnRead(*Conn) {}

// OnDrained does nothing: nothing is written.
func (r *race) OnDrained(*Conn) {}

// OnHangup does nothing: OnConnect tells.
func (r *race) OnHangup(*Conn) {}

// OnWriteError does nothing: nothing is written.
func (r *race) OnWriteError(*Conn, error) {}
