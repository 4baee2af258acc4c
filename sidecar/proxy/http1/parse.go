// Package http1 is HTTP/1.1 (RFC 9112): a codec over bytes, and the server's and the client's side of a connection.
//
// The codec (parse.go, body.go, write.go) knows nothing of sockets. It is strict: what two implementations
// could read differently (two lengths, a length and chunks, bare line feeds, folded fields, control
// characters, odd chunk sizes) is refused, never guessed. Views of a head point into the buffer that it was
// parsed in. What an exchange then goes through is proxy/pipeline's.
package http1

import (
	"bytes"
	"math/bits"
	"unsafe"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// Limits bound a head.
type Limits struct {
	Bytes  int // of the whole head
	Fields int
}

// DefaultLimits are DESIGN's: 60 KiB and 100 fields.
var DefaultLimits = Limits{Bytes: 60 << 10, Fields: 100}

// Error is why a message was refused. Status is the answer for it, if it was a request.
type Error struct {
	Status int
	Reason string
}

func (e *Error) Error() string { return e.Reason }

func bad(reason string) *Error { return &Error{400, reason} }

// The refusals; values, so that refusing does not allocate.
var (
	errLine       = bad("malformed request line")
	errStatusLine = bad("malformed status line")
	errVersion    = &Error{505, "HTTP version is not 1.0 or 1.1"}
	errBareLF     = bad("line ends without CR")
	errName       = bad("malformed field name")
	errFold       = bad("folded field line")
	errValue      = bad("control character in a field value")
	errHost       = bad("needs exactly one valid Host")
	errTwoLengths = bad("conflicting Content-Length")
	errLength     = bad("malformed Content-Length")
	errBothFrames = bad("both Content-Length and Transfer-Encoding")
	errCoding     = &Error{501, "transfer coding other than chunked"}
	errTE10       = bad("Transfer-Encoding in an HTTP/1.0 message")
	errTooLarge   = &Error{431, "head too large"}
	errTooMany    = &Error{431, "too many fields"}
	errTarget     = bad("malformed request target")
	errChunk      = bad("malformed chunk")
	errTrailer    = bad("malformed trailer")
)

// Framing is what a head says about its message's body and connection.
type Framing struct {
	// Length is the Content-Length, or -1.
	Length   int64
	Chunked  bool
	Close    bool // the connection ends with this message
	HTTP10   bool
	Expect   bool // 100-continue
	Upgrade  bool // Connection: upgrade with an Upgrade field
	Trailers bool // TE: trailers
}

var tokenChar = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

const ones = 0x0101010101010101

// badValue says whether a field value holds a control character other than HTAB.
func badValue(b []byte) bool {
	for len(b) >= 8 {
		x := *(*uint64)(unsafe.Pointer(unsafe.SliceData(b)))
		low := (x - ones*0x20) &^ x & (ones * 0x80)
		y := x ^ ones*0x7f
		del := (y - ones) &^ y & (ones * 0x80)
		if low|del != 0 {
			for _, c := range b[bits.TrailingZeros64(low|del)>>3 : 8] {
				if c < 0x20 && c != '\t' || c == 0x7f {
					return true
				}
			}
		}
		b = b[8:]
	}
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// ParseRequest reads a request's head from the start of b. It returns the head's length, 0 while it is not
// complete. h's strings point into b.
func ParseRequest(b []byte, h *exchange.Head, f *Framing, lim Limits) (int, *Error) {
	skip := 0
	for skip+1 < len(b) && skip < 4 && b[skip] == '\r' && b[skip+1] == '\n' {
		skip += 2 // RFC 9112 §2.2: empty lines before a request line
	}
	e := bytes.IndexByte(b[skip:], '\n')
	if e < 0 {
		if len(b) > lim.Bytes {
			return 0, errTooLarge
		}
		if string(b[skip:]) == "\r" {
			return 0, nil // half of an empty line
		}
		if !plausible(b[skip:]) {
			return 0, errLine
		}
		return 0, nil
	}
	line := b[skip : skip+e]
	if e < 1 || line[e-1] != '\r' {
		return 0, errBareLF
	}
	line = line[:e-1]
	i := 0
	for i < len(line) && tokenChar[line[i]] {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return 0, errLine
	}
	v := len(line) - 9
	if v <= i || line[v] != ' ' || string(line[v+1:v+6]) != "HTTP/" {
		return 0, errLine
	}
	if string(line[v+6:v+8]) != "1." || line[v+8]|1 != '1' {
		return 0, errVersion
	}
	f.HTTP10 = line[v+8] == '0'
	target := line[i+1 : v]
	if len(target) == 0 {
		return 0, errTarget
	}
	for _, c := range target {
		if c <= ' ' || c == 0x7f || c == '#' {
			return 0, errTarget
		}
	}
	h.Method = str(line[:i])
	n, err := parseFields(b, skip+e+1, h, f, lim)
	if n == 0 || err != nil {
		return 0, err
	}
	if err := parseTarget(h, str(target), f); err != nil {
		return 0, err
	}
	return n, nil
}

// plausible says whether b could be the beginning of a request line; so TLS or HTTP/2 on the wrong port is
// answered at once and not awaited.
func plausible(b []byte) bool {
	for i, c := range b {
		if c == ' ' {
			return i > 0
		}
		if !tokenChar[c] {
			return false
		}
		if i > 32 {
			return false
		}
	}
	return true
}

// parseTarget sets authority and path from the target (RFC 9112 §3.2) and the Host field.
func parseTarget(h *exchange.Head, target string, f *Framing) *Error {
	host, hasHost := h.Header.GetKnown(exchange.Host)
	if hasHost && !validAuthority(host) {
		return errHost
	}
	if !hasHost && !f.HTTP10 {
		return errHost
	}
	h.Scheme, h.Authority = "http", host
	switch {
	case h.Method == "CONNECT":
		if !validAuthority(target) || !hasPort(target) {
			return errTarget // §3.2.3
		}
		if target != host {
			h.Header.SetKnown(exchange.Host, target)
		}
		h.Authority = target
		h.Path = ""
	case target[0] == '/':
		h.Path = target
	case target == "*" && h.Method == "OPTIONS":
		h.Path = target
	default: // absolute form: its authority takes the place of Host (§3.2.2)
		i := 0
		for i < len(target) && target[i] != ':' {
			i++
		}
		if i == 0 || len(target) < i+4 || target[i:i+3] != "://" {
			return errTarget
		}
		scheme := target[:i]
		if !exchange.EqualFold(scheme, "http") && !exchange.EqualFold(scheme, "https") {
			return errTarget
		}
		rest := target[i+3:]
		j := 0
		for j < len(rest) && rest[j] != '/' && rest[j] != '?' {
			j++
		}
		if j == 0 || !validAuthority(rest[:j]) {
			return errTarget
		}
		h.Authority = rest[:j]
		switch {
		case j == len(rest):
			h.Path = "/"
		case rest[j] == '?':
			return errTarget // "http://host?query" has no path to send on
		default:
			h.Path = rest[j:]
		}
		if h.Authority != host {
			h.Header.SetKnown(exchange.Host, h.Authority)
		}
	}
	return nil
}

// hasPort says whether an authority ends in a port.
func hasPort(s string) bool {
	i := len(s) - 1
	for i > 0 && s[i]-'0' < 10 {
		i--
	}
	return i > 0 && s[i] == ':' && i < len(s)-1 && len(s)-i <= 6
}

// validAuthority refuses what cannot be an authority and would be dangerous in a log, a route or a new head.
func validAuthority(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '/', c == '?', c == '#', c == '@', c == '\\', c == ',', c == '"', c == '<', c == '>':
			return false
		}
	}
	return true
}

// ParseResponse reads a response's head from the start of b, as ParseRequest does.
func ParseResponse(b []byte, h *exchange.Head, f *Framing, lim Limits) (int, *Error) {
	e := bytes.IndexByte(b, '\n')
	if e < 0 {
		if len(b) > lim.Bytes || len(b) >= 5 && string(b[:5]) != "HTTP/" {
			return 0, errStatusLine
		}
		return 0, nil
	}
	if e < 13 || b[e-1] != '\r' || string(b[:7]) != "HTTP/1." || b[7]|1 != '1' || b[8] != ' ' {
		return 0, errStatusLine
	}
	f.HTTP10 = b[7] == '0'
	s := 0
	for _, c := range b[9:12] {
		if c-'0' > 9 {
			return 0, errStatusLine
		}
		s = s*10 + int(c-'0')
	}
	if s < 100 || s > 599 {
		return 0, errStatusLine
	}
	h.Status = s
	if rest := b[12 : e-1]; len(rest) > 0 {
		if rest[0] != ' ' || badValue(rest) {
			return 0, errStatusLine
		}
		h.Reason = str(rest[1:])
	}
	return parseFields(b, e+1, h, f, lim)
}

func parseFields(b []byte, p int, h *exchange.Head, f *Framing, lim Limits) (int, *Error) {
	hd := &h.Header
	hd.Raw = b
	closes := false
	f.Length, f.Chunked, f.Close, f.Expect, f.Upgrade, f.Trailers = -1, false, f.HTTP10, false, false, false
	sawTE := false
	for {
		e := bytes.IndexByte(b[p:], '\n')
		if e < 0 {
			if len(b) > lim.Bytes {
				return 0, errTooLarge
			}
			return 0, nil
		}
		e += p
		if e == p || b[e-1] != '\r' {
			return 0, errBareLF
		}
		if e >= lim.Bytes {
			return 0, errTooLarge
		}
		if e == p+1 {
			break
		}
		if len(hd.Fields) >= lim.Fields {
			return 0, errTooMany
		}
		i := p
		for tokenChar[b[i]] {
			i++
		}
		if b[i] != ':' || i == p {
			if b[p] == ' ' || b[p] == '\t' {
				return 0, errFold
			}
			return 0, errName
		}
		vs, ve := i+1, e-1
		for vs < ve && (b[vs] == ' ' || b[vs] == '\t') {
			vs++
		}
		for ve > vs && (b[ve-1] == ' ' || b[ve-1] == '\t') {
			ve--
		}
		if badValue(b[vs:ve]) {
			return 0, errValue
		}
		fl := exchange.Field{Name: str(b[p:i]), Value: str(b[vs:ve]), Start: uint32(p), End: uint32(e + 1)}
		fl.Known = exchange.Lookup(fl.Name)
		switch fl.Known {
		case exchange.Other:
		case exchange.Host:
			if hd.Has(exchange.Host) {
				return 0, errHost
			}
		case exchange.ContentLength:
			n, ok := parseLength(fl.Value)
			if !ok {
				return 0, errLength
			}
			if f.Length >= 0 {
				if f.Length != n {
					return 0, errTwoLengths
				}
				fl.Flags |= exchange.Dropped // the same twice: send it on once
			}
			f.Length = n
		case exchange.TransferEncoding:
			if sawTE || !exchange.EqualFold(fl.Value, "chunked") {
				return 0, errCoding
			}
			sawTE = true
			fl.Flags |= exchange.Dropped
		case exchange.Connection, exchange.KeepAlive, exchange.ProxyConnection, exchange.HTTP2Settings:
			fl.Flags |= exchange.Dropped
		case exchange.TE: // of what a connection takes only that trailers are wanted is passed on: the next one has them too
			if f.Trailers || !hasToken(fl.Value, "trailers") {
				fl.Flags |= exchange.Dropped
				break
			}
			f.Trailers = true
			if fl.Value != "trailers" {
				fl.Value, fl.Start, fl.End = "trailers", 0, 0
			}
		case exchange.Upgrade:
			fl.Flags |= exchange.Dropped
			h.Protocol = fl.Value
		case exchange.Expect:
			if exchange.EqualFold(fl.Value, "100-continue") {
				f.Expect = true
			}
		}
		hd.Append(fl)
		if fl.Known == exchange.Connection {
			f.connection(fl.Value)
			closes = closes || f.Close && hasToken(fl.Value, "close")
		}
		p = e + 1
	}
	if sawTE {
		if f.Length >= 0 {
			return 0, errBothFrames
		}
		if f.HTTP10 {
			return 0, errTE10
		}
		f.Chunked = true
	}
	hd.Raw = b[:p+2]
	f.Close = f.Close || closes // whatever else another Connection field says
	h.ContentLength = f.Length
	if f.Upgrade && h.Protocol == "" {
		f.Upgrade = false
	}
	f.dropNominated(hd)
	return p + 2, nil
}

// connection takes what a Connection field says of the connection.
func (f *Framing) connection(v string) {
	switch {
	case len(v) == 10 && exchange.EqualFold(v, "keep-alive"):
		f.Close = false
	case len(v) == 5 && exchange.EqualFold(v, "close"):
		f.Close = true
	default:
		eachToken(v, func(t string) {
			switch {
			case exchange.EqualFold(t, "close"):
				f.Close = true
			case exchange.EqualFold(t, "keep-alive"):
				if f.HTTP10 {
					f.Close = false
				}
			case exchange.EqualFold(t, "upgrade"):
				f.Upgrade = true
			}
		})
	}
}

// dropNominated drops the fields that Connection names (RFC 9110 §7.6.1). Fields that decide routing or framing
// cannot be nominated away.
func (f *Framing) dropNominated(h *exchange.Header) {
	for i := range h.Fields {
		if h.Fields[i].Known != exchange.Connection || len(h.Fields[i].Value) <= 5 || exchange.EqualFold(h.Fields[i].Value, "keep-alive") {
			continue
		}
		eachToken(h.Fields[i].Value, func(t string) {
			switch exchange.Lookup(t) {
			case exchange.Host, exchange.ContentLength, exchange.TransferEncoding, exchange.Authorization,
				exchange.XForwardedFor, exchange.XForwardedProto, exchange.XRequestID, exchange.OutriggerReason,
				exchange.OutriggerAttempt, exchange.TE:
				return
			}
			h.Del(t)
		})
	}
}

func eachToken(v string, f func(string)) {
	for len(v) > 0 {
		i := 0
		for i < len(v) && v[i] != ',' {
			i++
		}
		t := v[:i]
		for len(t) > 0 && (t[0] == ' ' || t[0] == '\t') {
			t = t[1:]
		}
		for len(t) > 0 && (t[len(t)-1] == ' ' || t[len(t)-1] == '\t') {
			t = t[:len(t)-1]
		}
		if t != "" {
			f(t)
		}
		if i == len(v) {
			return
		}
		v = v[i+1:]
	}
}

func hasToken(v, token string) (found bool) {
	eachToken(v, func(t string) {
		if exchange.EqualFold(t, token) {
			found = true
		}
	})
	return found
}

func parseLength(v string) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(v); i++ {
		c := v[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	return n, true
}
