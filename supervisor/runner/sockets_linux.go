package runner

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/outrigger-mesh/outrigger/internal/handoff"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// backlog is how many connections queue on a socket while no sidecar accepts; the kernel caps it at net.core.somaxconn.
const backlog = 4096

// socketTable holds the sidecar's listening sockets. It is safe for concurrent use.
type socketTable struct {
	mu    sync.Mutex
	held  []*heldSocket // in the order of opening
	guard []net.Listener
	wait  sync.WaitGroup
}

type heldSocket struct {
	handoff.Socket
	fixed bool // the spec lists it
}

// open returns the socket called name, opening it unless one of the same name, network and address is held. One of that
// name with another address is replaced, once the new one is open.
func (t *socketTable) open(l Listen, fixed bool) (handoff.Socket, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := -1
	for i, h := range t.held {
		if h.Name == l.Name {
			old = i
			if h.Network == l.Network && (h.Asked == l.Address || h.Address == l.Address || h.Address == spelled(l)) {
				h.fixed = h.fixed || fixed
				return h.Socket, nil
			}
		}
	}
	f, actual, err := openSocket(l.Network, l.Address)
	if err != nil {
		return handoff.Socket{}, fmt.Errorf("listen on %s for %s: %w", l.Address, l.Name, err)
	}
	h := &heldSocket{
		Socket: handoff.Socket{Name: l.Name, Network: l.Network, Address: actual, Asked: l.Address, File: f}, fixed: fixed,
	}
	if old >= 0 {
		t.held[old].close()
		h.fixed = h.fixed || t.held[old].fixed
		t.held[old] = h
	} else {
		t.held = append(t.held, h)
	}
	return h.Socket, nil
}

// spelled returns the address as the table spells it, so that localhost:80 is known to be 127.0.0.1:80.
func spelled(l Listen) string {
	if l.Network == "unix" {
		return l.Address
	}
	a, err := net.ResolveTCPAddr(l.Network, l.Address)
	if err != nil {
		return l.Address
	}
	if a.IP == nil {
		a.IP = net.IPv6unspecified
		if l.Network == "tcp4" {
			a.IP = net.IPv4zero
		}
	}
	return a.String()
}

// release closes the socket called name unless the spec lists it.
func (t *socketTable) release(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, h := range t.held {
		if h.Name == name && !h.fixed {
			h.close()
			t.held = append(t.held[:i], t.held[i+1:]...)
			return
		}
	}
}

func (t *socketTable) all() []handoff.Socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]handoff.Socket, len(t.held))
	for i, h := range t.held {
		out[i] = h.Socket
	}
	return out
}

// refuse begins to close every connection that arrives, so that nobody waits for a sidecar that was stopped. The
// addresses stay ours.
func (t *socketTable) refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.guard != nil {
		return
	}
	for _, h := range t.held {
		l, err := net.FileListener(h.File)
		if err != nil {
			continue
		}
		t.guard = append(t.guard, l)
		t.wait.Add(1)
		go func() {
			defer t.wait.Done()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if tcp, ok := c.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0) // a reset, as a port without a listener gives
				}
				_ = c.Close()
			}
		}()
	}
}

// admit ends refuse.
func (t *socketTable) admit() {
	t.mu.Lock()
	guard := t.guard
	t.guard = nil
	t.mu.Unlock()
	for _, l := range guard {
		_ = l.Close()
	}
	t.wait.Wait()
}

func (t *socketTable) close() {
	t.admit()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.held {
		h.close()
	}
	t.held = nil
}

func (h *heldSocket) close() {
	if h.Network == "unix" {
		_ = os.Remove(h.Address)
	}
	_ = h.File.Close()
}

// openSocket opens a listening socket and returns it with its actual address.
func openSocket(network, address string) (*os.File, string, error) {
	if network == "unix" {
		return openUnix(address)
	}
	a, err := net.ResolveTCPAddr(network, address)
	if err != nil {
		return nil, "", err
	}
	ap := a.AddrPort()
	addr := ap.Addr().Unmap()
	wild := a.IP == nil
	if wild || network == "tcp6" && addr.Is4() {
		addr = netip.IPv6Unspecified()
	}
	if network == "tcp4" && wild {
		addr = netip.IPv4Unspecified()
	}
	f, actual, err := openTCP(addr, int(ap.Port()), network, a.Zone)
	if err != nil && wild && network == "tcp" { // no IPv6 here
		f, actual, err = openTCP(netip.IPv4Unspecified(), int(ap.Port()), network, "")
	}
	return f, actual, err
}

func openTCP(addr netip.Addr, port int, network, zone string) (_ *os.File, _ string, err error) {
	family := syscall.AF_INET
	var sa syscall.Sockaddr
	if addr.Is4() {
		sa = &syscall.SockaddrInet4{Port: port, Addr: addr.As4()}
	} else {
		family = syscall.AF_INET6
		s6 := &syscall.SockaddrInet6{Port: port, Addr: addr.As16()}
		if zone != "" {
			if ifi, err := net.InterfaceByName(zone); err == nil {
				s6.ZoneId = uint32(ifi.Index)
			}
		}
		sa = s6
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = syscall.Close(fd)
		}
	}()
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return nil, "", os.NewSyscallError("setsockopt", err)
	}
	if family == syscall.AF_INET6 {
		only := 1
		if network == "tcp" && addr.IsUnspecified() {
			only = 0
		}
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, only); err != nil {
			return nil, "", os.NewSyscallError("setsockopt", err)
		}
	}
	if err := syscall.Bind(fd, sa); err != nil {
		return nil, "", os.NewSyscallError("bind", err)
	}
	if err := syscall.Listen(fd, backlog); err != nil {
		return nil, "", os.NewSyscallError("listen", err)
	}
	got, err := syscall.Getsockname(fd)
	if err != nil {
		return nil, "", os.NewSyscallError("getsockname", err)
	}
	actual := ""
	switch s := got.(type) {
	case *syscall.SockaddrInet4:
		actual = netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port)).String()
	case *syscall.SockaddrInet6:
		a := netip.AddrFrom16(s.Addr)
		if zone != "" {
			a = a.WithZone(zone)
		}
		actual = netip.AddrPortFrom(a, uint16(s.Port)).String()
	}
	f, err := hold(fd, actual)
	return f, actual, err
}

// hold wraps a listening socket so that the runner's own poller does not watch it: else the runner would wake for every
// connection of its sidecar. A file is polled if it is non-blocking when it is wrapped.
func hold(fd int, name string) (*os.File, error) {
	if err := syscall.SetNonblock(fd, false); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return f, nil
}

func openUnix(path string) (*os.File, string, error) {
	if strings.HasPrefix(path, "@") {
		return nil, "", fmt.Errorf("%s: an abstract socket has no mode, so anybody could use it", path)
	}
	l, err := unixsock.Listen(path)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = l.UnixListener.Close() }() // not l: its path stays
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, "", err
	}
	fd := -1
	if cerr := raw.Control(func(own uintptr) {
		r, _, e := syscall.Syscall(syscall.SYS_FCNTL, own, syscall.F_DUPFD_CLOEXEC, 3)
		if e != 0 {
			err = os.NewSyscallError("fcntl", e)
			return
		}
		fd = int(r)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, "", err
	}
	f, err := hold(fd, path)
	return f, path, err
}
