package loop

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST, which has the same number.
const soOriginalDst = 80

// OriginalDst is where the peer of an accepted connection meant to connect to, when a rule of the kernel's has redirected it
// here (nftables' redirect, iptables' REDIRECT); the zero value where it meant us.
func (c *Conn) OriginalDst() netip.AddrPort {
	if c.closed {
		return netip.AddrPort{}
	}
	sa, err := unix.Getsockname(int(c.fd))
	if err != nil {
		return netip.AddrPort{}
	}
	local := addrPort(sa)
	if !local.IsValid() {
		return netip.AddrPort{}
	}
	var dst netip.AddrPort
	if local.Addr().Is4() {
		// A struct sockaddr_in, read by the one call of its size that there is.
		m, err := unix.GetsockoptIPv6Mreq(int(c.fd), unix.IPPROTO_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}
		}
		b := m.Multiaddr
		dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
	} else {
		m, err := unix.GetsockoptIPv6MTUInfo(int(c.fd), unix.IPPROTO_IPV6, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}
		}
		p := (*[2]byte)(unsafe.Pointer(&m.Addr.Port)) // it is in the order of the network
		dst = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), uint16(p[0])<<8|uint16(p[1]))
	}
	if dst == local {
		return netip.AddrPort{}
	}
	return dst
}
