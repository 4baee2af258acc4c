// Package grpcweb lets browsers call gRPC services: it translates gRPC-Web, binary and text, which needs neither HTTP/2
// nor trailers, into gRPC and back (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md).
//
// A call is told by its content type. Messages are framed alike in both, so a binary body passes as it is; the response's
// trailers become a last frame of the body. In the text form the body is base64, of one or more padded pieces.
package grpcweb

import (
	"errors"
	"strings"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

const (
	web     = "application/grpc-web"
	text    = "application/grpc-web-text"
	grpc    = "application/grpc"
	trailer = 0x80 // marks the frame that holds the trailers
)

// What a slot remembers.
const (
	active     = 1 << iota
	textAnswer // the answer goes out as text
)

// Filter translates. It is safe for concurrent use.
type Filter struct{ snapshot.Pass }

// New makes a filter.
func New() *Filter { return &Filter{} }

// kind says whether a content type is gRPC-Web, whether in text, and what it says of the messages ("+proto").
func kind(ct string) (isText, ok bool, suffix string) {
	switch {
	case len(ct) >= len(text) && exchange.EqualFold(ct[:len(text)], text):
		isText, suffix = true, ct[len(text):]
	case len(ct) >= len(web) && exchange.EqualFold(ct[:len(web)], web):
		suffix = ct[len(web):]
	default:
		return false, false, ""
	}
	return isText, suffix == "" || suffix[0] == '+' || suffix[0] == ';' || suffix[0] == ' ', suffix
}

// Request makes a gRPC call of a gRPC-Web call; anything else passes.
func (*Filter) Request(x *exchange.Exchange) snapshot.Verdict {
	ct, has := x.Req.Header.GetKnown(exchange.ContentType)
	if !has {
		return snapshot.Continue
	}
	isText, ok, suffix := kind(ct)
	if !ok {
		return snapshot.Continue
	}
	slot := x.Slot()
	slot.N = active
	answerText := isText
	if accept, ok := x.Req.Header.Get("accept"); ok { // it may want the other form
		if t, ok, _ := kind(accept); ok {
			answerText = t
		}
	}
	if answerText {
		slot.N |= textAnswer
	}
	x.GRPC = true
	x.Req.Header.SetKnown(exchange.ContentType, x.Concat(grpc, suffix))
	if isText {
		x.Transform(exchange.Request, &decoder{})
	}
	return snapshot.Continue
}

// Response makes a gRPC-Web answer of a gRPC one. One that is not gRPC, as of a service that is not, passes.
func (*Filter) Response(x *exchange.Exchange) snapshot.Verdict {
	n := x.Slot().N
	if n&active == 0 {
		return snapshot.Continue
	}
	h := &x.Resp.Header
	ct, _ := h.GetKnown(exchange.ContentType)
	if len(ct) < len(grpc) || !exchange.EqualFold(ct[:len(grpc)], grpc) {
		return snapshot.Continue
	}
	suffix := ct[len(grpc):]
	as := web
	if n&textAnswer != 0 {
		as = text
	}
	h.SetKnown(exchange.ContentType, x.Concat(as, suffix))
	h.DelKnown(exchange.Trailer)
	if h.Has(exchange.GRPCStatus) {
		return snapshot.Continue // trailers alone: the head may hold them
	}
	x.Transform(exchange.Response, &encoder{x: x, text: n&textAnswer != 0})
	return snapshot.Continue
}

// encoder puts the trailers into the body, and the body into base64.
type encoder struct {
	x    *exchange.Exchange
	text bool
}

// Transform takes a piece. In the text form each piece is padded, so that none waits for the next.
func (e *encoder) Transform(dst, src []byte, end bool) ([]byte, error) {
	if t := &e.x.RespTrailer; end && len(t.Fields) > 0 {
		src = appendTrailers(src[:len(src):len(src)], t)
		t.Reset()
	}
	if e.text {
		return appendBase64(dst, src), nil
	}
	return append(dst, src...), nil
}

// appendTrailers appends the frame of the trailers.
func appendTrailers(dst []byte, t *exchange.Header) []byte {
	at := len(dst)
	dst = append(dst, trailer, 0, 0, 0, 0)
	for i := range t.Fields {
		f := &t.Fields[i]
		if f.Flags&exchange.Dropped != 0 {
			continue
		}
		dst = append(append(append(append(dst, strings.ToLower(f.Name)...), ": "...), f.Value...), "\r\n"...)
	}
	n := len(dst) - at - 5
	dst[at+1], dst[at+2], dst[at+3], dst[at+4] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return dst
}

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// appendBase64 is RFC 4648 §4, with padding.
func appendBase64(dst, src []byte) []byte {
	for ; len(src) >= 3; src = src[3:] {
		v := uint(src[0])<<16 | uint(src[1])<<8 | uint(src[2])
		dst = append(dst, digits[v>>18], digits[v>>12&63], digits[v>>6&63], digits[v&63])
	}
	switch len(src) {
	case 1:
		v := uint(src[0]) << 16
		dst = append(dst, digits[v>>18], digits[v>>12&63], '=', '=')
	case 2:
		v := uint(src[0])<<16 | uint(src[1])<<8
		dst = append(dst, digits[v>>18], digits[v>>12&63], digits[v>>6&63], '=')
	}
	return dst
}

// values are the six bits of each digit; 255 for what is none.
var values = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i := range len(digits) {
		t[digits[i]] = byte(i)
	}
	return t
}()

var (
	errBase64 = errors.New("the gRPC-Web text is not base64")
	errShort  = errors.New("the gRPC-Web text ends within a group of base64")
)

// decoder reads base64: groups of four, of which any may be padded.
type decoder struct {
	bits uint32
	n    uint8 // digits of the group so far, padding included
	pad  uint8
}

// Transform takes a piece.
func (d *decoder) Transform(dst, src []byte, end bool) ([]byte, error) {
	for _, c := range src {
		switch v := values[c]; {
		case c == '=' && d.n >= 2:
			d.pad++
			d.bits <<= 6
		case v == 255 || d.pad > 0:
			return dst, errBase64
		default:
			d.bits = d.bits<<6 | uint32(v)
		}
		if d.n++; d.n < 4 {
			continue
		}
		dst = append(dst, byte(d.bits>>16))
		if d.pad < 2 {
			dst = append(dst, byte(d.bits>>8))
		}
		if d.pad < 1 {
			dst = append(dst, byte(d.bits))
		}
		*d = decoder{}
	}
	if end && d.n > 0 {
		return dst, errShort
	}
	return dst, nil
}
