// Package proxyproto reads and writes the header of the PROXY protocol, versions 1 and 2: the addresses of a connection that
// reached us through a proxy which does not speak the connection's own protocol.
// (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt)
//
// It is a codec over bytes. When a header is expected, and whom to believe one, is the listener's: see sidecar/proxy.
package proxyproto

import (
	"bytes"
	"errors"
	"hash/crc32"
	"net/netip"
	"strconv"
)

// Header is what a connection's header says.
type Header struct {
	// Version is 1 or 2.
	Version int
	// Source and Destination are the original connection's; both are invalid where the header names none: the proxy speaks for
	// itself (a health check), or the connection was not TCP over IP.
	Source, Destination netip.AddrPort
}

// Limits of a header: version 1 says 107 bytes itself (§2.1), version 2 could have 64 KiB, of which addresses and a client
// certificate's names need a fraction.
const (
	maxV1 = 107
	maxV2 = 16 << 10
)

// Max is how many bytes Parse may ask for.
const Max = maxV2

const sigV1 = "PROXY "

const sigV2 = "\r\n\r\n\x00\r\nQUIT\n"

// Errors of Parse.
var (
	ErrNone     = errors.New("the connection does not begin with a PROXY header")
	errV1       = errors.New("the PROXY header of version 1 is malformed")
	errLongV1   = errors.New("the PROXY header of version 1 is longer than 107 bytes")
	errVersion  = errors.New("the PROXY header has a version other than 1 and 2")
	errCommand  = errors.New("the PROXY header has a command other than LOCAL and PROXY")
	errFamily   = errors.New("the PROXY header has an address family or transport that does not exist")
	errDatagram = errors.New("the PROXY header speaks of datagrams")
	errShort    = errors.New("the PROXY header is too short for its addresses")
	errLongV2   = errors.New("the PROXY header of version 2 is longer than 16 KiB")
	errTLV      = errors.New("the PROXY header has a field that is longer than the header")
	errSum      = errors.New("the PROXY header's checksum is wrong")
)

// Parse reads the header at the front of b, and says how long it is. n is 0 with no error where b may become a header with
// more bytes. Any error but ErrNone means a header that is malformed; the connection is to be closed.
func Parse(b []byte) (h Header, n int, err error) {
	switch {
	case hasPart(b, sigV2):
		if len(b) < 16 {
			return h, 0, nil
		}
		return parseV2(b)
	case hasPart(b, sigV1):
		if len(b) < len(sigV1) {
			return h, 0, nil
		}
		return parseV1(b)
	}
	return h, 0, ErrNone
}

// hasPart says whether b begins with sig, or is a beginning of it.
func hasPart(b []byte, sig string) bool {
	if len(b) < len(sig) {
		return len(b) == 0 || sig[:len(b)] == string(b)
	}
	return string(b[:len(sig)]) == sig
}

// parseV1: PROXY TCP4 192.0.2.1 192.0.2.2 1024 80 CR LF, or PROXY UNKNOWN and anything (§2.1).
func parseV1(b []byte) (h Header, n int, err error) {
	h.Version = 1
	end := bytes.IndexByte(b[:min(len(b), maxV1)], '\n')
	if end < 0 {
		if len(b) >= maxV1 {
			return h, 0, errLongV1
		}
		return h, 0, nil
	}
	if b[end-1] != '\r' {
		return h, 0, errV1
	}
	line := b[len(sigV1) : end-1]
	if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
		return h, 0, errV1
	}
	proto, rest, more := bytes.Cut(line, []byte{' '})
	if string(proto) == "UNKNOWN" {
		return h, end + 1, nil
	}
	four := string(proto) == "TCP4"
	if !more || !four && string(proto) != "TCP6" {
		return h, 0, errV1
	}
	var f [4][]byte
	for i := range f {
		f[i], rest, more = bytes.Cut(rest, []byte{' '})
		if more != (i < 3) {
			return h, 0, errV1
		}
	}
	var ok [4]bool
	var src, dst netip.Addr
	var sp, dp uint16
	src, ok[0] = addr(f[0], four)
	dst, ok[1] = addr(f[1], four)
	sp, ok[2] = port(f[2])
	dp, ok[3] = port(f[3])
	if ok != [4]bool{true, true, true, true} {
		return h, 0, errV1
	}
	h.Source, h.Destination = netip.AddrPortFrom(src, sp), netip.AddrPortFrom(dst, dp)
	return h, end + 1, nil
}

func addr(b []byte, four bool) (netip.Addr, bool) {
	a, err := netip.ParseAddr(string(b))
	if err != nil || a.Zone() != "" || four != a.Is4() {
		return a, false
	}
	return a.Unmap(), true
}

func port(b []byte) (uint16, bool) {
	if len(b) == 0 || len(b) > 5 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return uint16(n), n <= 65535
}

const (
	familyUnspec = 0
	familyINET   = 1
	familyINET6  = 2
	familyUnix   = 3
	tlvCRC32C    = 3
)

// parseV2 reads the binary header (§2.2).
func parseV2(b []byte) (h Header, n int, err error) {
	h.Version = 2
	command, family, transport := b[12]&15, b[13]>>4, b[13]&15
	n = 16 + int(be16(b[14:]))
	switch {
	case b[12]>>4 != 2:
		return h, 0, errVersion
	case command > 1:
		return h, 0, errCommand
	case family > familyUnix || transport > 2:
		return h, 0, errFamily
	case n > maxV2:
		return h, 0, errLongV2
	case len(b) < n:
		return h, 0, nil
	}
	p := b[16:n]
	size := [...]int{familyUnspec: 0, familyINET: 12, familyINET6: 36, familyUnix: 216}[family]
	if command == 0 { // LOCAL: whatever addresses there are say nothing, and neither need they be whole
		if len(p) < size {
			return h, n, nil
		}
	} else {
		switch {
		case transport == 2 && family != familyUnspec:
			return h, 0, errDatagram
		case len(p) < size:
			return h, 0, errShort
		}
		switch {
		case transport != 1:
		case family == familyINET:
			h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[0:4])), be16(p[8:]))
			h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[4:8])), be16(p[10:]))
		case family == familyINET6:
			h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[0:16])).Unmap(), be16(p[32:]))
			h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[16:32])).Unmap(), be16(p[34:]))
		}
	}
	if family == familyUnspec { // what follows may be anything
		return h, n, nil
	}
	return h, n, fields(b[:n], 16+size)
}

// fields checks the type-length-value fields of a header, which begin at i, and its checksum, where it has one (§2.2.3).
func fields(b []byte, i int) error {
	for i < len(b) {
		if len(b)-i < 3 {
			return errTLV
		}
		typ, n := b[i], int(be16(b[i+1:]))
		if i += 3; n > len(b)-i {
			return errTLV
		}
		if typ == tlvCRC32C {
			if n != 4 {
				return errSum
			}
			table := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Update(0, table, b[:i])
			sum = crc32.Update(sum, table, []byte{0, 0, 0, 0})
			if crc32.Update(sum, table, b[i+4:]) != be32(b[i:]) {
				return errSum
			}
		}
		i += n
	}
	return nil
}

// Append appends a header of that version, 1 or 2, for a connection from src to dst. Where one of them is not valid, the
// header says that the connection is the proxy's own: UNKNOWN, or LOCAL.
func Append(b []byte, version int, src, dst netip.AddrPort) []byte {
	known := src.IsValid() && dst.IsValid()
	four := known && src.Addr().Unmap().Is4() && dst.Addr().Unmap().Is4()
	if version == 1 {
		if !known {
			return append(b, "PROXY UNKNOWN\r\n"...)
		}
		if four {
			b = append(b, "PROXY TCP4 "...)
		} else {
			b = append(b, "PROXY TCP6 "...)
		}
		b = append(appendAddr(b, src.Addr(), four), ' ')
		b = append(appendAddr(b, dst.Addr(), four), ' ')
		b = append(strconv.AppendUint(b, uint64(src.Port()), 10), ' ')
		b = strconv.AppendUint(b, uint64(dst.Port()), 10)
		return append(b, '\r', '\n')
	}
	b = append(b, sigV2...)
	switch {
	case !known:
		return append(b, 0x20, 0, 0, 0)
	case four:
		s, d := src.Addr().Unmap().As4(), dst.Addr().Unmap().As4()
		b = append(append(append(b, 0x21, familyINET<<4|1, 0, 12), s[:]...), d[:]...)
	default:
		s, d := src.Addr().As16(), dst.Addr().As16()
		b = append(append(append(b, 0x21, familyINET6<<4|1, 0, 36), s[:]...), d[:]...)
	}
	return append(b, byte(src.Port()>>8), byte(src.Port()), byte(dst.Port()>>8), byte(dst.Port()))
}

func be16(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

func be32(b []byte) uint32 { return uint32(be16(b))<<16 | uint32(be16(b[2:])) }

func appendAddr(b []byte, a netip.Addr, four bool) []byte {
	if four {
		return a.Unmap().AppendTo(b)
	}
	if a = a.WithZone(""); a.Is4() { // mixed families: the other one is IPv6 (RFC 4291 §2.5.5.2)
		a = netip.AddrFrom16(a.As16())
	}
	return a.AppendTo(b)
}
