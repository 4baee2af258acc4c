package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Possible returns why this process cannot set rules, nil where it can.
func Possible() error {
	_, err := List("")
	return err
}

// List returns the names of the tables that begin with prefix.
func List(prefix string) ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, explain("open nftables", err)
	}
	all, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, explain("list the tables of nftables", err)
	}
	var out []string
	for _, t := range all {
		if strings.HasPrefix(t.Name, prefix) {
			out = append(out, t.Name)
		}
	}
	return out, nil
}

// Put puts the table in force, in the place of one of the same name, in one transaction. Connections that are open stay as
// they are.
func (r Rules) Put() error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("intercept: %w", err)
	}
	k := r
	if r.Cgroup.Path != "" {
		id, err := r.Cgroup.id()
		if err != nil {
			return err
		}
		k.Cgroup.inode = id
	}
	c, err := nftables.New()
	if err != nil {
		return explain("open nftables", err)
	}
	t := &nftables.Table{Name: r.Table, Family: nftables.TableFamilyINet}
	c.AddTable(t) // so that there is one to be deleted
	c.DelTable(t)
	c.AddTable(t)
	for _, ch := range k.chains() {
		nc := &nftables.Chain{Name: ch.name, Table: t}
		if b := ch.base; b != nil {
			policy := nftables.ChainPolicyAccept
			nc.Type, nc.Hooknum, nc.Priority, nc.Policy = nftables.ChainType(b.kind), b.hook.number(), nftables.ChainPriorityRef(nftables.ChainPriority(b.priority)), &policy
		}
		c.AddChain(nc)
		for _, rule := range ch.rules {
			var es []expr.Any
			for _, s := range rule {
				es = append(es, expressions(s)...)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: es})
		}
	}
	if err := c.Flush(); err != nil {
		return explain("set the rules of "+r.Table, err)
	}
	return nil
}

// Remove takes a table out, with all that it holds. That there is none is no error.
func Remove(table string) error {
	c, err := nftables.New()
	if err != nil {
		return explain("open nftables", err)
	}
	c.DelTable(&nftables.Table{Name: table, Family: nftables.TableFamilyINet})
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return explain("remove the rules of "+table, err)
	}
	return nil
}

// RemoveAll takes out all tables whose names begin with prefix and that keep does not want, and returns their names.
func RemoveAll(prefix string, keep func(table string) bool) ([]string, error) {
	all, err := List(prefix)
	if err != nil {
		return nil, err
	}
	var out []string
	var errs []error
	for _, t := range all {
		if keep(t) {
			continue
		}
		if err := Remove(t); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, t)
	}
	return out, errors.Join(errs...)
}

func explain(doing string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %w: interception needs root (CAP_NET_ADMIN)", doing, err)
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%s: %w: interception needs a kernel with nf_tables", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func (h hook) number() *nftables.ChainHook {
	switch h {
	case hookOutput:
		return nftables.ChainHookOutput
	case hookPrerouting:
		return nftables.ChainHookPrerouting
	default:
		return nftables.ChainHookInput
	}
}

// reg is the only register that is needed: each statement loads what it compares.
const reg = 1

func equal(b []byte) expr.Any   { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b} }
func differs(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: b} }

func big16(n uint16) []byte    { return binary.BigEndian.AppendUint16(nil, n) }
func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
func native64(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }

// expressions is a statement as the kernel takes it.
func expressions(s statement) []expr.Any {
	switch s := s.(type) {
	case tcp:
		return isTCP()
	case port:
		return append(isTCP(), &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, equal(big16(uint16(s))))
	case uid:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: reg}, equal(native32(uint32(s)))}
	case cgroup:
		return []expr.Any{&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: uint32(s.Level), Register: reg}, equal(native64(s.inode))}
	case address:
		return s.expressions()
	case iifname:
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, s)
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}, equal(name)}
	case notLocal:
		return []expr.Any{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, differs(native32(unix.RTN_LOCAL))}
	case redirected:
		const dnat = 1 << 5 // IPS_DST_NAT
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: native32(dnat), Xor: native32(0)},
			differs(native32(0)),
		}
	case verdict:
		kind := map[verdictKind]expr.VerdictKind{doReturn: expr.VerdictReturn, doAccept: expr.VerdictAccept, doJump: expr.VerdictJump}[s.kind]
		return []expr.Any{&expr.Verdict{Kind: kind, Chain: s.to}}
	case redirect:
		return []expr.Any{&expr.Immediate{Register: reg, Data: big16(uint16(s))}, &expr.Redir{RegisterProtoMin: reg}}
	case reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} // a port was matched before it, so it is TCP
	}
	panic(fmt.Sprintf("intercept: statement %T has no expression", s))
}

func isTCP() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal([]byte{unix.IPPROTO_TCP})}
}

func (a address) expressions() []expr.Any {
	p := a.prefix.Masked()
	family, offset, n := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if p.Addr().Is6() {
		family, offset, n = unix.NFPROTO_IPV6, 8, 16
	}
	if a.dst {
		offset += n
	}
	es := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal([]byte{family}),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
	}
	if !p.IsSingleIP() {
		mask := make([]byte, n)
		for i := range p.Bits() {
			mask[i/8] |= 1 << (7 - i%8)
		}
		es = append(es, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: n, Mask: mask, Xor: make([]byte, n)})
	}
	return append(es, equal(p.Addr().AsSlice()))
}
