// Package hpack is HPACK (RFC 7541) for a relay: a decoded table entry is an object that all exchanges share, so
// that the encoder of another connection finds its own entry by pointer, without hashing strings. Many peers put every field
// into the table, those that never come again too: an entry is shared only once it is referred to, and its memory is used
// again otherwise. The package is pure: bytes in, fields out, and knows no connection.
package hpack

import (
	"errors"
	"unsafe"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// TableSize is the dynamic table that we offer to peers: the protocol's default.
const TableSize = 4096

// ErrCompression is a header block that breaks the table's state: the connection must end.
var ErrCompression = errors.New("malformed header block")

// ErrField is a field that HTTP/2 does not allow: the stream is refused, the table is in order.
var ErrField = errors.New("malformed field")

const entryOverhead = 32

// Decoder decodes the header blocks of one connection. The zero value has the default table.
type Decoder struct {
	ring  []*entry // a power of two; the newest is at head-1
	head  int
	n     int
	size  int
	max   int // set by the peer's size updates
	limit int // what we let the peer use; 0 is the default, -1 none
	acked bool
	must  bool // the next block has to begin with a size update
	begun bool
	block []byte
	first bool
}

// SetLimit offers the peer a table of that many bytes, once it has acknowledged it; before the first block.
func (d *Decoder) SetLimit(n int) {
	if d.limit = n; n == 0 {
		d.limit = -1
	}
}

// Limit is what the peer is offered.
func (d *Decoder) Limit() int {
	switch d.limit {
	case 0:
		return TableSize
	case -1:
		return 0
	}
	return d.limit
}

// Acknowledged: the peer knows what it is offered. A smaller table than it had must be confirmed by its next block
// (RFC 7541 §4.2).
func (d *Decoder) Acknowledged() {
	d.acked = true
	if !d.begun {
		d.begun, d.max = true, TableSize
	}
	d.must = d.max > d.Limit()
}

// sizeAllowed is the largest size update that the peer may send.
func (d *Decoder) sizeAllowed() int {
	if !d.acked {
		return max(TableSize, d.Limit())
	}
	return d.Limit()
}

// entry is a place in the table. Name and value lie in buf.
type entry struct {
	exchange.Entry
	buf    []byte
	shared bool // an exchange refers to it: it is the collector's, once it leaves the table
}

// maxKept bounds the buffer that an entry keeps for the next one in its place, in bytes: with the 128 entries that the
// default table has at most, 64 KiB a connection.
const maxKept = 512

// Start begins a header block.
func (d *Decoder) Start(block []byte) {
	if !d.begun {
		d.begun, d.max = true, TableSize
	}
	d.block, d.first = block, true
}

// at returns the entry of an index that is not in the static table, or nil.
func (d *Decoder) at(i int) *entry {
	i -= staticLen + 1
	if i >= d.n {
		return nil
	}
	return d.ring[(d.head-1-i)&(len(d.ring)-1)]
}

// share returns the entry of an index for an exchange to keep, or nil.
func (d *Decoder) share(i int) *exchange.Entry {
	if i <= staticLen {
		return staticTable[i]
	}
	e := d.at(i)
	if e == nil {
		return nil
	}
	e.shared = true
	return &e.Entry
}

func (d *Decoder) evict(to int) {
	for d.size > to && d.n > 0 {
		at := &d.ring[(d.head-d.n)&(len(d.ring)-1)]
		e := *at
		d.size -= len(e.Name) + len(e.Value) + entryOverhead
		d.n--
		if e.shared || cap(e.buf) > maxKept {
			*at = nil
		}
	}
}

// insert puts a copy of a field into the table.
func (d *Decoder) insert(f *exchange.Field, staticName uint8, valid bool) {
	size := len(f.Name) + len(f.Value) + entryOverhead
	d.evict(d.max - size)
	if size > d.max {
		return
	}
	if d.n == len(d.ring) {
		old := d.ring
		d.ring = make([]*entry, max(8, 2*len(old)))
		for i := range d.n {
			d.ring[i] = old[(d.head-d.n+i)&(len(old)-1)]
		}
		d.head = d.n
	}
	at := &d.ring[d.head&(len(d.ring)-1)]
	if *at == nil {
		*at = &entry{}
	}
	e := *at
	e.buf = append(append(e.buf[:0], f.Name...), f.Value...)
	text := unsafe.String(unsafe.SliceData(e.buf), len(e.buf))
	e.Entry = exchange.Entry{Name: text[:len(f.Name)], Value: text[len(f.Name):], Known: f.Known, StaticName: staticName}
	if !valid {
		e.Known, e.Invalid = exchange.Other, true
	}
	d.head++
	d.n++
	d.size += size
}

// Next decodes one field into f; its strings live as long as x's exchange. name is the field's static name index,
// or 0. done says that the block is used up and f is not set. After ErrField decoding can go on.
func (d *Decoder) Next(f *exchange.Field, x *exchange.Exchange) (name uint8, done bool, err error) {
	for {
		b := d.block
		if len(b) == 0 {
			return 0, true, nil
		}
		c := b[0]
		if d.must && c&0xe0 != 0x20 {
			return 0, false, ErrCompression
		}
		switch {
		case c&0x80 != 0: // indexed
			i, rest, ok := readInt(b, 7)
			if !ok || i == 0 {
				return 0, false, ErrCompression
			}
			e := d.share(i)
			if e == nil {
				return 0, false, ErrCompression
			}
			d.block, d.first = rest, false
			*f = exchange.Field{Name: e.Name, Value: e.Value, Known: e.Known, Entry: e}
			if e.Invalid {
				return 0, false, ErrField
			}
			return e.StaticName, false, nil
		case c&0xe0 == 0x20: // table size update, only at a block's beginning
			n, rest, ok := readInt(b, 5)
			if !ok || n > d.sizeAllowed() || !d.first {
				return 0, false, ErrCompression
			}
			d.block, d.must = rest, false
			d.max = n
			d.evict(n)
			continue
		}
		prefix := uint(4)
		if c&0x40 != 0 {
			prefix = 6
		}
		i, rest, ok := readInt(b, prefix)
		if !ok {
			return 0, false, ErrCompression
		}
		*f = exchange.Field{}
		if c&0xf0 == 0x10 {
			f.Flags = exchange.NeverIndexed
		}
		valid := true
		switch {
		case i > staticLen:
			e := d.at(i)
			if e == nil {
				return 0, false, ErrCompression
			}
			f.Known, name = e.Known, e.StaticName
			switch {
			case name != 0:
				f.Name = staticTable[name].Name
			case f.Known != exchange.Other:
				f.Name = f.Known.Name()
			default: // the entry may be gone before the exchange is
				s := x.Alloc(len(e.Name))
				copy(s, e.Name)
				f.Name = unsafe.String(unsafe.SliceData(s), len(s))
			}
			if e.Invalid {
				valid = validName(f.Name)
			}
		case i > 0:
			e := staticTable[i]
			f.Name, f.Known, name = e.Name, e.Known, e.StaticName
		default:
			if f.Name, rest, ok = d.str(rest, x); !ok {
				return 0, false, ErrCompression
			}
			if valid = validName(f.Name); valid {
				f.Known = exchange.Lookup(f.Name)
				name = staticNames[f.Name]
			}
		}
		if f.Value, rest, ok = d.str(rest, x); !ok {
			return 0, false, ErrCompression
		}
		valid = valid && validValue(f.Value)
		d.block, d.first = rest, false
		if c&0x40 != 0 {
			d.insert(f, name, valid)
			f.Flags |= exchange.Inserted
		}
		if !valid {
			return 0, false, ErrField
		}
		return name, false, nil
	}
}

// Skip decodes the rest of the block for the table's sake alone.
func (d *Decoder) Skip(x *exchange.Exchange) error {
	var f exchange.Field
	for {
		_, done, err := d.Next(&f, x)
		if done {
			return nil
		}
		if err == ErrCompression {
			return err
		}
	}
}

func readInt(b []byte, prefix uint) (int, []byte, bool) {
	m := 1<<prefix - 1
	v := int(b[0]) & m
	b = b[1:]
	if v < m {
		return v, b, true
	}
	for shift := uint(0); shift < 28; shift += 7 {
		if len(b) == 0 {
			return 0, nil, false
		}
		c := b[0]
		b = b[1:]
		v += int(c&127) << shift
		if c < 128 {
			return v, b, true
		}
	}
	return 0, nil, false
}

func (d *Decoder) str(b []byte, x *exchange.Exchange) (string, []byte, bool) {
	if len(b) == 0 {
		return "", nil, false
	}
	huffman := b[0]&0x80 != 0
	n, b, ok := readInt(b, 7)
	if !ok || n > len(b) {
		return "", nil, false
	}
	if !huffman {
		s := x.Alloc(n)
		copy(s, b[:n])
		return unsafe.String(unsafe.SliceData(s), n), b[n:], true
	}
	// at most 8/5 of the coded length
	s := x.Alloc(n*8/5 + 1)[:0]
	s, ok = appendHuffman(s, b[:n])
	if !ok {
		return "", nil, false
	}
	return unsafe.String(unsafe.SliceData(s), len(s)), b[n:], true
}

var nameChar = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" {
		t[c] = true
	}
	return t
}()

func validName(s string) bool {
	i := 0
	if len(s) > 1 && s[0] == ':' {
		i = 1
	}
	for ; i < len(s); i++ {
		if !nameChar[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

func validValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	n := len(s)
	return n == 0 || s[0] != ' ' && s[0] != '\t' && s[n-1] != ' ' && s[n-1] != '\t'
}
