package intercept

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// By is how the connections of an instance are told from others.
type By string

// Ways of telling.
const (
	ByCgroup    By = "cgroup"    // those of the processes in Rules.Cgroup
	ByUID       By = "uid"       // those of processes that run as Rules.UID
	ByNamespace By = "namespace" // all in the network namespace, but those of the processes in Rules.Cgroup: the sidecars
)

// sshPort is never redirected, in either direction, so that a mistake locks nobody out.
const sshPort = 22

// priority of the nat chains: just before dstnat (-100), where container engines have theirs. The first chain that
// translates a connection has it.
const priority = -101

// Redirect leads connections to a port to a listener.
type Redirect struct{ Port, To uint16 }

// Rules is what the table of one instance holds.
type Rules struct {
	// Table is the table's name; see Name.
	Table string
	By    By
	// Cgroup is for ByCgroup the process's, for ByNamespace the one that all sidecars are in.
	Cgroup Cgroup
	// UID is the process's user, for ByUID.
	UID uint32
	// Outbound is the port, on 127.0.0.1 and ::1, of the listener that takes what the process connects to; 0: outbound
	// connections are let be.
	Outbound uint16
	// Inbound are the process's ports, and those of the listeners, on all addresses, that take what comes from
	// other machines.
	Inbound []Redirect
	// Ports are let be in both directions, besides 22: as the port that is connected to.
	Ports []uint16
	// CIDRs are let be: outbound as the destination, inbound as the source.
	CIDRs []netip.Prefix
	// UIDs are let be outbound: processes that run as these users.
	UIDs []uint32
}

// Prefix is how the names of all tables of a state directory begin.
func Prefix(stateDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(stateDir)))
	return "outrigger-" + hex.EncodeToString(sum[:4]) + "-"
}

// Name is the name of an instance's table. What nft does not take in a name (the + of a version) becomes _.
func Name(stateDir, instance string) string {
	return Prefix(stateDir) + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, instance)
}

// Check returns what would make the rules dangerous or without effect.
func (r Rules) Check() error {
	switch {
	case r.Table == "":
		return errors.New("the table has no name")
	case r.Outbound == 0 && len(r.Inbound) == 0:
		return errors.New("nothing is to be intercepted")
	case r.By == ByUID && r.UID == 0:
		return errors.New("by uid: the user is root, as whom the sidecar runs too: its own calls would come back to it")
	case r.By != ByUID && r.Outbound != 0 && (r.Cgroup.Path == "" || r.Cgroup.Level == 0):
		return fmt.Errorf("by %s: no cgroup is named", r.By)
	case r.By != ByUID && r.By != ByCgroup && r.By != ByNamespace:
		return fmt.Errorf("by %q: want cgroup, uid or namespace", r.By)
	}
	return nil
}

// chain is a chain of the table; base is its first line, "" where others jump to it.
type chain struct {
	name string
	base *base
	// rules are lists of statements.
	rules [][]statement
}

// base is what makes a chain one that the kernel enters.
type base struct {
	kind     string // nat, filter
	hook     hook
	priority int32
}

type hook string

const (
	hookOutput     hook = "output"
	hookPrerouting hook = "prerouting"
	hookInput      hook = "input"
)

// chains are the table's chains, in an order in which each is known before it is jumped to.
func (r Rules) chains() []chain {
	var out []chain
	rule := func(s ...statement) []statement { return s }
	if r.Outbound != 0 {
		take := chain{name: "outbound-take"}
		// What is for loopback stays: the listeners that a process is told of are there.
		take.rules = append(take.rules,
			rule(address{dst: true, prefix: netip.MustParsePrefix("127.0.0.0/8")}, verdict{kind: doReturn}),
			rule(address{dst: true, prefix: netip.MustParsePrefix("::1/128")}, verdict{kind: doReturn}),
			rule(port(sshPort), verdict{kind: doReturn}))
		for _, p := range r.Ports {
			take.rules = append(take.rules, rule(port(p), verdict{kind: doReturn}))
		}
		for _, u := range r.UIDs {
			take.rules = append(take.rules, rule(uid(u), verdict{kind: doReturn}))
		}
		for _, p := range r.CIDRs {
			take.rules = append(take.rules, rule(address{dst: true, prefix: p}, verdict{kind: doReturn}))
		}
		take.rules = append(take.rules, rule(tcp{}, redirect(r.Outbound)))

		first := chain{name: "outbound", base: &base{"nat", hookOutput, priority}}
		jump := verdict{kind: doJump, to: take.name}
		switch r.By {
		case ByUID:
			first.rules = append(first.rules, rule(uid(r.UID), tcp{}, jump))
		case ByNamespace:
			first.rules = append(first.rules, rule(cgroup(r.Cgroup), verdict{kind: doReturn}), rule(tcp{}, jump))
		default:
			first.rules = append(first.rules, rule(cgroup(r.Cgroup), tcp{}, jump))
		}
		out = append(out, take, first)
	}
	if len(r.Inbound) > 0 {
		in := chain{name: "inbound", base: &base{"nat", hookPrerouting, priority}}
		// From this machine, and for others than this machine: not ours to take.
		in.rules = append(in.rules,
			rule(iifname("lo"), verdict{kind: doReturn}),
			rule(notLocal{}, verdict{kind: doReturn}),
			rule(port(sshPort), verdict{kind: doReturn}))
		for _, p := range r.Ports {
			in.rules = append(in.rules, rule(port(p), verdict{kind: doReturn}))
		}
		for _, p := range r.CIDRs {
			in.rules = append(in.rules, rule(address{prefix: p}, verdict{kind: doReturn}))
		}
		// The listeners are on all addresses, since that is where a redirect leads: but only by it are they reached.
		guard := chain{name: "inbound-guard", base: &base{"filter", hookInput, 0}}
		guard.rules = append(guard.rules, rule(iifname("lo"), verdict{kind: doAccept}))
		for _, d := range r.Inbound {
			in.rules = append(in.rules, rule(port(d.Port), redirect(d.To)))
			guard.rules = append(guard.rules,
				rule(port(d.To), redirected{}, verdict{kind: doAccept}),
				rule(port(d.To), reset{}))
		}
		out = append(out, in, guard)
	}
	return out
}

// String is the table in the syntax of nft: what `nft -f` takes and, but for its spelling, what `nft list table` shows.
func (r Rules) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", r.Table)
	for i, c := range r.chains() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.base != nil {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.base.kind, c.base.hook, c.base.priority)
		}
		for _, rule := range c.rules {
			b.WriteString("\t\t")
			for j, s := range rule {
				if j > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(s.text())
			}
			b.WriteByte('\n')
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
