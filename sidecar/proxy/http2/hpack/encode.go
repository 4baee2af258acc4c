package hpack

import (
	"strings"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// Encoder encodes the header blocks of one connection. The zero value uses a table of the default size.
type Encoder struct {
	ring   []*exchange.Entry
	ins    int // entries inserted so far; entry number k (from 1) is at ring[(k-1)&mask]
	n      int
	size   int
	max    int
	begun  bool
	limit  int  // what we use at most; 0 is the default, -1 none
	update bool // the next block begins with a size update
	least  int  // the smallest size since the last block
	index  map[nameValue]int
}

type nameValue struct{ name, value string }

// SetLimit bounds the table, whatever the peer offers; before the first block.
func (e *Encoder) SetLimit(n int) {
	if e.limit = n; n == 0 {
		e.limit = -1
	}
	e.SetMax(TableSize) // what the peer offers until it says otherwise
}

func (e *Encoder) begin() {
	if !e.begun {
		e.begun, e.max = true, TableSize
	}
}

// SetMax obeys the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *Encoder) SetMax(n uint32) {
	e.begin()
	v := TableSize
	if e.limit != 0 {
		v = max(e.limit, 0)
	}
	v = min(int(n), v)
	if v == e.max && !e.update {
		return
	}
	if !e.update || v < e.least {
		e.least = v
	}
	e.update = true
	e.max = v
	e.evict(v)
}

// Start begins a block.
func (e *Encoder) Start(dst []byte) []byte {
	e.begin()
	if e.update {
		e.update = false
		if e.least < e.max {
			dst = appendInt(dst, 0x20, 5, e.least)
		}
		dst = appendInt(dst, 0x20, 5, e.max)
	}
	return dst
}

func (e *Encoder) evict(to int) {
	for e.size > to && e.n > 0 {
		k := e.ins - e.n
		o := e.ring[k&(len(e.ring)-1)]
		e.size -= len(o.Name) + len(o.Value) + entryOverhead
		if nv := (nameValue{o.Name, o.Value}); e.index[nv] == k+1 {
			delete(e.index, nv)
		}
		e.ring[k&(len(e.ring)-1)] = nil
		e.n--
	}
}

func (e *Encoder) insert(o *exchange.Entry) bool {
	size := len(o.Name) + len(o.Value) + entryOverhead
	if size > e.max/2 {
		return false // it would push out half of the others
	}
	e.evict(e.max - size)
	if e.index == nil {
		e.index = map[nameValue]int{}
	}
	if e.n == len(e.ring) {
		old := e.ring
		e.ring = make([]*exchange.Entry, max(8, 2*len(old)))
		for k := e.ins - e.n; k < e.ins; k++ {
			e.ring[k&(len(e.ring)-1)] = old[k&(len(old)-1)]
		}
	}
	e.ring[e.ins&(len(e.ring)-1)] = o
	e.ins++
	e.n++
	e.size += size
	e.index[nameValue{o.Name, o.Value}] = e.ins
	return true
}

// Field appends one field. What a peer referred to in its table is put into this one too; what it has put there and not
// referred to yet is not, for it may never come again; others as their name suggests.
func (e *Encoder) Field(dst []byte, f *exchange.Field) []byte {
	never := f.Flags&exchange.NeverIndexed != 0
	if f.Entry != nil && !never {
		return e.Entry(dst, f.Entry)
	}
	return e.field(dst, f.Name, f.Value, f.Known, never, f.Flags&exchange.Inserted == 0)
}

// Entry appends a shared field.
func (e *Encoder) Entry(dst []byte, o *exchange.Entry) []byte {
	if o.Static != 0 && (o.Value != "" || o.Static > 14) {
		return append(dst, 0x80|o.Static)
	}
	if o.Encoder == e && o.EncoderPos > e.ins-e.n {
		return appendInt(dst, 0x80, 7, staticLen+e.ins-o.EncoderPos+1)
	}
	if k := e.index[nameValue{o.Name, o.Value}]; k > e.ins-e.n {
		o.Encoder, o.EncoderPos = e, k
		return appendInt(dst, 0x80, 7, staticLen+e.ins-k+1)
	}
	if !e.insert(o) {
		return e.literal(dst, 0x00, 4, o.StaticName, o.Name, o.Value)
	}
	o.Encoder, o.EncoderPos = e, e.ins
	return e.literal(dst, 0x40, 6, o.StaticName, o.Name, o.Value)
}

// Literal appends a field that has no shared entry. The name may be in any case.
func (e *Encoder) Literal(dst []byte, name, value string, k exchange.Known, never bool) []byte {
	return e.field(dst, name, value, k, never, true)
}

func (e *Encoder) field(dst []byte, name, value string, k exchange.Known, never, mayInsert bool) []byte {
	sn := staticOf[k]
	if k == exchange.Other {
		sn = staticNames[name]
	}
	switch {
	case never:
		return e.literal(dst, 0x10, 4, sn, name, value)
	case !repeats(k, name):
		return e.literal(dst, 0x00, 4, sn, name, value)
	}
	if i := e.index[nameValue{name, value}]; i > e.ins-e.n {
		return appendInt(dst, 0x80, 7, staticLen+e.ins-i+1)
	}
	if !mayInsert {
		return e.literal(dst, 0x00, 4, sn, name, value)
	}
	o := &exchange.Entry{Name: strings.ToLower(name), Value: strings.Clone(value), Known: k, StaticName: sn}
	if o.Name == name {
		o.Name = strings.Clone(name)
	}
	if !e.insert(o) {
		return e.literal(dst, 0x00, 4, sn, name, value)
	}
	return e.literal(dst, 0x40, 6, sn, name, value)
}

// repeats says whether a field's value is likely to come again on the same connection.
func repeats(k exchange.Known, name string) bool {
	switch k {
	case exchange.ContentLength, exchange.Date, exchange.XRequestID, exchange.TraceParent, exchange.GRPCTimeout,
		exchange.GRPCMessage, exchange.Authorization, exchange.Cookie, exchange.SetCookie, exchange.Location,
		exchange.IdempotencyKey, exchange.RetryAfter, exchange.Expect, exchange.Forwarded:
		return false
	case exchange.Other:
		return name[0] != ':' || name == ":authority"
	}
	return true
}

func (e *Encoder) literal(dst []byte, first byte, prefix uint, sn uint8, name, value string) []byte {
	if sn != 0 {
		dst = appendInt(dst, first, prefix, int(sn))
	} else {
		dst = append(dst, first)
		dst = appendInt(dst, 0, 7, len(name))
		at := len(dst)
		dst = append(dst, name...)
		for i := at; i < len(dst); i++ {
			if c := dst[i]; c-'A' < 26 {
				dst[i] = c | 0x20
			}
		}
	}
	dst = appendInt(dst, 0, 7, len(value))
	return append(dst, value...)
}

// Status appends :status.
func (e *Encoder) Status(dst []byte, status int) []byte {
	switch status {
	case 200:
		return append(dst, 0x88)
	case 204:
		return append(dst, 0x89)
	case 206:
		return append(dst, 0x8a)
	case 304:
		return append(dst, 0x8b)
	case 400:
		return append(dst, 0x8c)
	case 404:
		return append(dst, 0x8d)
	case 500:
		return append(dst, 0x8e)
	}
	return append(dst, 0x08, 3, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10))
}

// Pseudo appends a request's pseudo-header field.
func (e *Encoder) Pseudo(dst []byte, index uint8, value string) []byte {
	switch index {
	case Method:
		if value == "GET" {
			return append(dst, 0x82)
		}
		if value == "POST" {
			return append(dst, 0x83)
		}
	case Path:
		if value == "/" {
			return append(dst, 0x84)
		}
		return e.literal(dst, 0, 4, Path, "", value)
	case Scheme:
		if value == "http" {
			return append(dst, 0x86)
		}
		if value == "https" {
			return append(dst, 0x87)
		}
	}
	name := staticTable[index].Name
	if i := e.index[nameValue{name, value}]; i > e.ins-e.n {
		return appendInt(dst, 0x80, 7, staticLen+e.ins-i+1)
	}
	o := &exchange.Entry{Name: name, Value: strings.Clone(value), StaticName: index}
	if !e.insert(o) {
		return e.literal(dst, 0x00, 4, index, name, value)
	}
	return e.literal(dst, 0x40, 6, index, name, value)
}

func appendInt(dst []byte, first byte, prefix uint, v int) []byte {
	m := 1<<prefix - 1
	if v < m {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(m))
	for v -= m; v >= 128; v >>= 7 {
		dst = append(dst, byte(v)|128)
	}
	return append(dst, byte(v))
}
