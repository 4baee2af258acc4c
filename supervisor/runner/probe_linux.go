package runner

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// listening is a listening TCP socket as /proc/net/tcp tells.
type listening struct {
	addr  netip.AddrPort
	inode string
}

// allListening lists the listening TCP sockets of the network namespace.
func allListening() []listening {
	var out []listening
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue // no IPv6
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode: proc_net_tcp(5)
			w := strings.Fields(s.Text())
			if len(w) < 10 || w[3] != "0A" {
				continue
			}
			if a, ok := parseHexAddr(w[1]); ok {
				out = append(out, listening{addr: a, inode: w[9]})
			}
		}
		_ = f.Close()
	}
	return out
}

// parseHexAddr reads an address of /proc/net/tcp: words of 32 bits in the byte order of the machine (little endian on all that
// Outrigger is built for), a colon, the port.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	b, herr := hex.DecodeString(host)
	if !ok || err != nil || herr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(p)), ok
}

// sockets adds the inodes of the sockets that pid has open to m. It reports false where they may not be read.
func sockets(pid int, m map[string]int) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	d, err := os.Open(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrPermission)
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			l, lerr := os.Readlink(dir + "/" + n)
			if lerr != nil {
				if errors.Is(lerr, fs.ErrPermission) {
					return false
				}
				continue
			}
			if inode, ok := strings.CutPrefix(l, "socket:["); ok {
				m[strings.TrimSuffix(inode, "]")] = pid
			}
		}
		if err != nil {
			return true
		}
	}
}

// tree lists the live processes of the instance: root, what descends from it, and what forked away.
func tree(r *process.Reaper, root int) []process.Info {
	all, err := process.All()
	if err != nil {
		return nil
	}
	var out []process.Info
	for _, i := range all {
		if i.PID == root {
			out = append(out, i)
		}
	}
	return append(living(append(out, process.Descendants(all, root, nil)...)), strays(r)...)
}

// strays lists the live processes that forked away.
func strays(r *process.Reaper) []process.Info {
	s, err := r.Strays()
	if err != nil {
		return nil
	}
	return living(s)
}

func living(all []process.Info) []process.Info {
	live := all[:0]
	for _, i := range all {
		if !i.Zombie {
			live = append(live, i)
		}
	}
	return live
}

// ports tells where processes listen.
type ports struct {
	own    []netip.AddrPort // sockets of theirs
	others []listening      // everybody else's
	blind  bool             // not all of theirs could be seen
}

func portsOf(procs []process.Info) ports {
	inodes := map[string]int{}
	var p ports
	for _, i := range procs {
		if !sockets(i.PID, inodes) {
			p.blind = true
		}
	}
	for _, l := range allListening() {
		if _, ok := inodes[l.inode]; ok {
			p.own = append(p.own, l.addr)
		} else {
			p.others = append(p.others, l)
		}
	}
	return p
}

func (p ports) has(port int) bool {
	for _, a := range p.own {
		if int(a.Port()) == port {
			return true
		}
	}
	return false
}

// holder names the process that listens on port, other than ours, or "".
func (p ports) holder(port int) string {
	for _, l := range p.others {
		if int(l.addr.Port()) != port {
			continue
		}
		all, _ := process.All()
		for _, i := range all {
			m := map[string]int{}
			if sockets(i.PID, m); m[l.inode] != 0 {
				return fmt.Sprintf("%s (pid %d)", i.Name, i.PID)
			}
		}
		return "another process"
	}
	return ""
}

// accepts says whether somebody accepts on port of loopback, IPv4 or IPv6.
func accepts(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	for _, host := range []string{"127.0.0.1", "::1"} {
		if c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

// notListening says why a live process does not accept on its port.
func notListening(procs []process.Info, port int, timeout time.Duration) (Cause, string) {
	p := portsOf(procs)
	var there []string
	seen := map[string]bool{}
	for _, a := range p.own {
		if s := a.String(); !seen[s] {
			seen[s] = true
			there = append(there, s)
		}
	}
	switch {
	case p.has(port):
		return CauseOtherPort, fmt.Sprintf("listens on %s, where it cannot be reached over loopback", strings.Join(there, ", "))
	case len(there) > 0:
		return CauseOtherPort, fmt.Sprintf("listens on %s, not on $PORT %d", strings.Join(there, ", "), port)
	}
	if h := p.holder(port); h != "" {
		return CausePortTaken, fmt.Sprintf("does not listen: %s has its port %d", h, port)
	}
	return CauseNoListen, fmt.Sprintf("runs, but did not listen on $PORT %d within %v, nor on any other", port, timeout)
}
