package snapshot

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Front is what stands between a listener's socket and its protocols: what is read or looked at before a protocol gets the
// connection (Envoy's listener filters), and the choice among several filter chains.
type Front struct {
	// ProxyProtocol takes a connection's addresses from the PROXY header that it begins with; nil where none is expected.
	ProxyProtocol *ProxyProtocol
	// SniffTLS and SniffHTTP look at the first bytes, and leave them there (Envoy's tls_inspector and http_inspector).
	SniffTLS, SniffHTTP bool
	// Timeout is how long that may take; 0 means for ever. A connection that has said nothing by then goes on with what is known
	// of it where Continue is set, so that a protocol in which the server speaks first can begin; else it is closed.
	Timeout  time.Duration
	Continue bool
	// Chains are matched as Envoy does; Default, or nil, takes what matches none. Both are empty where the listener's own
	// HTTP or TCP takes everything.
	Chains  []Chain
	Default *Listener
}

// ProxyProtocol says how the PROXY protocol is spoken by those who connect.
type ProxyProtocol struct {
	// Optional: a connection that does not begin with a header is taken as it is. Whoever connects can then say of itself
	// what it likes or nothing at all.
	Optional bool
	// NoV1 and NoV2 refuse a version.
	NoV1, NoV2 bool
}

// Chain is one filter chain of several.
type Chain struct {
	// Key is the same over versions of the listener.
	Key   string
	Match ChainMatch
	// Listener is the listener with this chain's HTTP or TCP alone.
	Listener *Listener
}

// ChainMatch is a filter chain's condition; an empty field says nothing. (Envoy: FilterChainMatch)
type ChainMatch struct {
	DestinationPort uint16
	Destinations    []netip.Prefix
	// ServerNames are exact names or "*.suffix", in lower case.
	ServerNames []string
	// Transport is "tls" or "raw_buffer".
	Transport string
	// Protocols are those of ALPN, or what SniffHTTP found: "http/1.0", "http/1.1" or "h2c".
	Protocols     []string
	DirectSources []netip.Prefix
	SourceType    SourceType
	Sources       []netip.Prefix
	SourcePorts   []uint16
}

// SourceType is where a connection comes from.
type SourceType uint8

// Source types.
const (
	AnySource SourceType = iota
	LocalSource
	ExternalSource
)

// Preface is what is known of a connection before a protocol has it.
type Preface struct {
	// Peer and Local are the connection's addresses, those of a PROXY header where it has one; Direct is the peer that the
	// socket has.
	Peer, Local, Direct netip.AddrPort
	// TLS: it begins with a ClientHello, which asks for ServerName and offers Protocols. Otherwise Protocols is what SniffHTTP
	// found.
	TLS        bool
	ServerName string
	Protocols  []string
}

// Match finds the chain for a connection; nil where none takes it. As in Envoy the conditions are looked at one after
// another, each keeping the chains that are most specific in it, with no way back: destination port, destination address,
// server name, transport, application protocols, peer's address, source type, source address, source port.
func (f *Front) Match(p *Preface) *Listener {
	cs := make([]*Chain, len(f.Chains))
	for i := range f.Chains {
		cs[i] = &f.Chains[i]
	}
	for _, rank := range []func(*ChainMatch) int{
		func(m *ChainMatch) int { return one(m.DestinationPort != 0, m.DestinationPort == p.Local.Port()) },
		func(m *ChainMatch) int { return prefixRank(m.Destinations, p.Local.Addr()) },
		func(m *ChainMatch) int { return nameRank(m.ServerNames, p.ServerName) },
		func(m *ChainMatch) int { return one(m.Transport != "", (m.Transport == "tls") == p.TLS) },
		func(m *ChainMatch) int {
			return one(len(m.Protocols) > 0, slices.ContainsFunc(m.Protocols, func(s string) bool { return slices.Contains(p.Protocols, s) }))
		},
		func(m *ChainMatch) int { return prefixRank(m.DirectSources, p.Direct.Addr()) },
		func(m *ChainMatch) int {
			local := p.Peer.Addr().IsLoopback() || p.Peer.Addr() == p.Local.Addr()
			return one(m.SourceType != AnySource, (m.SourceType == LocalSource) == local)
		},
		func(m *ChainMatch) int { return prefixRank(m.Sources, p.Peer.Addr()) },
		func(m *ChainMatch) int {
			return one(len(m.SourcePorts) > 0, slices.Contains(m.SourcePorts, p.Peer.Port()))
		},
	} {
		best, kept := 0, cs[:0]
		for _, c := range cs {
			r := rank(&c.Match)
			if r > best {
				best, kept = r, kept[:0]
			}
			if r == best && r > 0 {
				kept = append(kept, c)
			}
		}
		cs = kept
	}
	if len(cs) > 0 {
		return cs[0].Listener
	}
	return f.Default
}

// one ranks a condition that holds or not: 0 does not match, 1 says nothing, 2 matches.
func one(said, holds bool) int {
	switch {
	case !said:
		return 1
	case holds:
		return 2
	}
	return 0
}

// prefixRank is higher the longer the prefix that holds the address.
func prefixRank(ps []netip.Prefix, a netip.Addr) int {
	if len(ps) == 0 {
		return 1
	}
	best := 0
	for _, p := range ps {
		if p.Contains(a.Unmap()) {
			best = max(best, 2+p.Bits())
		}
	}
	return best
}

// nameRank prefers an exact name, then the longest suffix.
func nameRank(names []string, name string) int {
	if len(names) == 0 {
		return 1
	}
	best := 0
	for _, n := range names {
		switch {
		case n == name && name != "":
			return 1 << 16
		case strings.HasPrefix(n, "*.") && len(name) > len(n)-1 && strings.HasSuffix(name, n[1:]):
			best = max(best, 2+len(n))
		}
	}
	return best
}
