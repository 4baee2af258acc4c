package intercept

import (
	"fmt"
	"net/netip"
)

// statement is a part of a rule: a match, or what is done. Its text and its expressions (in kernel_linux.go) say the same,
// which the tests hold against nft itself.
type statement interface {
	text() string
}

// tcp matches TCP.
type tcp struct{}

func (tcp) text() string { return "meta l4proto tcp" }

// port matches the TCP port that is connected to.
type port uint16

func (p port) text() string { return fmt.Sprintf("tcp dport %d", uint16(p)) }

// uid matches the user of the process that connects.
type uid uint32

func (u uid) text() string { return fmt.Sprintf("meta skuid %d", uint32(u)) }

// cgroup matches the cgroup, or one above it, of the process that connects.
type cgroup Cgroup

func (c cgroup) text() string {
	return fmt.Sprintf("socket cgroupv2 level %d %q", c.Level, Cgroup(c).shown())
}

// address matches a destination or a source.
type address struct {
	dst    bool
	prefix netip.Prefix
}

func (a address) text() string {
	family, field := "ip", "saddr"
	if a.prefix.Addr().Is6() {
		family = "ip6"
	}
	if a.dst {
		field = "daddr"
	}
	p := a.prefix.Masked()
	s := p.String()
	if p.IsSingleIP() {
		s = p.Addr().String()
	}
	return family + " " + field + " " + s
}

// iifname matches the interface that a packet came by.
type iifname string

func (i iifname) text() string { return fmt.Sprintf("iifname %q", string(i)) }

// notLocal matches what is not for this machine.
type notLocal struct{}

func (notLocal) text() string { return "fib daddr type != local" }

// redirected matches connections whose destination was changed.
type redirected struct{}

func (redirected) text() string { return "ct status dnat" }

type verdictKind string

const (
	doReturn verdictKind = "return"
	doAccept verdictKind = "accept"
	doJump   verdictKind = "jump"
)

type verdict struct {
	kind verdictKind
	to   string
}

func (v verdict) text() string {
	if v.to != "" {
		return string(v.kind) + " " + v.to
	}
	return string(v.kind)
}

// redirect leads a connection to a port of this machine.
type redirect uint16

func (r redirect) text() string { return fmt.Sprintf("redirect to :%d", uint16(r)) }

// reset refuses a connection; it follows a port.
type reset struct{}

func (reset) text() string { return "reject with tcp reset" }
