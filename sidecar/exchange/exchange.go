// Package exchange is one request and its response on their way through a sidecar, whatever the protocol.
//
// It is the leaf of the hot path: filters, balancers' requests and codecs meet in an [Exchange], and it knows
// none of them. An Exchange belongs to one event loop; but for [Exchange.Resume], all of its methods are
// called on that loop only. Exchanges are pooled: nothing may keep a pointer to one, or a string out of its
// headers, after its End.
package exchange

import (
	"net/netip"
	"unsafe"

	"github.com/outrigger-mesh/outrigger/balancer"
)

// Proto is the protocol that an exchange arrived by.
type Proto uint8

// Protocols.
const (
	HTTP11 Proto = iota
	HTTP10
	HTTP2
)

// Head is a request's or a response's head.
type Head struct {
	// Method, Scheme, Authority and Path belong to requests; Path includes the query. Views, as in Field.
	Method, Scheme, Authority, Path string
	// Protocol is the :protocol of an extended CONNECT, or the token of an HTTP/1.1 Upgrade.
	Protocol string
	// Status belongs to responses: 100 to 599.
	Status int
	// Reason is an HTTP/1.1 reason phrase, or "".
	Reason string
	// ContentLength is the declared length in bytes, or -1.
	ContentLength int64
	Header        Header
}

// Reset empties the head and keeps its memory.
func (h *Head) Reset() {
	h.Method, h.Scheme, h.Authority, h.Path, h.Protocol, h.Reason = "", "", "", "", "", ""
	h.Status, h.ContentLength = 0, -1
	h.Header.Reset()
}

// PathOnly returns the path without its query.
func (h *Head) PathOnly() string {
	for i := 0; i < len(h.Path); i++ {
		if h.Path[i] == '?' {
			return h.Path[:i]
		}
	}
	return h.Path
}

// Query returns what follows the path's question mark, or "".
func (h *Head) Query() string {
	if p := h.PathOnly(); len(p) < len(h.Path) {
		return h.Path[len(p)+1:]
	}
	return ""
}

// MaxFilters bounds a filter chain; compile refuses longer ones.
const MaxFilters = 24

// Slot is one filter's memory of one exchange, empty when the exchange begins.
type Slot struct {
	N int64
	P any
}

// Stage tells a request's body from a response's.
type Stage uint8

// Stages.
const (
	Request Stage = iota
	Response
)

// Transformer changes a body in passing. Transform appends to dst what src becomes; end says that src is the
// last of it. An error resets the exchange. It is called on the loop and must not block.
type Transformer interface {
	Transform(dst, src []byte, end bool) ([]byte, error)
}

// Controller is what drives an exchange; proxy/pipeline implements it.
type Controller interface {
	Resume()
	ResumeAfter(nanoseconds int64)
	Buffer(stage Stage, limit int)
	Transform(stage Stage, t Transformer)
	Now() int64
}

// Exchange is one request and its response.
type Exchange struct {
	balancer.Request
	// Req and Resp are the heads. Resp is valid from the Response stage on.
	Req, Resp Head
	// Trailer holds the request's trailers, RespTrailer the response's; empty until they arrived.
	Trailer, RespTrailer Header

	Ctl Controller

	// Peer is the address of the connection that the request came by; Client (in balancer.Request) is the
	// caller's address as far as it can be trusted.
	Peer netip.AddrPort
	// ID is the request id (x-request-id).
	ID string
	// Flags explain the answer.
	Flags Flag
	// Details is a plain sentence for the log and for an answer of our own.
	Details string
	// Start is the loop's time, in monotonic nanoseconds, at which the head was complete.
	Start int64
	// Attempts counts the tries, the first included.
	Attempts uint16
	Proto    Proto
	// GRPC says that the request's content type is application/grpc.
	GRPC bool
	// Local says that the response is the sidecar's own.
	Local bool
	// Secure says that the request came over TLS.
	Secure bool
	// LocalBody is the body of a response of our own.
	LocalBody string
	// ReqBody is what Buffer collected of the request's body, RespBody of the response's.
	ReqBody, RespBody []byte
	// BodyOverflow says that the body being buffered is larger than the limit that the filter gave.
	BodyOverflow bool

	// Route is the matched *snapshot.Route, pinned.
	Route any

	cur   int
	slots [MaxFilters]Slot
	arena []byte
}

// Reset makes x ready for a new exchange, and keeps its memory.
func (x *Exchange) Reset() {
	x.Request = balancer.Request{}
	x.Req.Reset()
	x.Resp.Reset()
	x.Trailer.Reset()
	x.RespTrailer.Reset()
	x.ID, x.Details, x.LocalBody = "", "", ""
	x.Flags, x.Attempts = 0, 0
	x.GRPC, x.Local, x.Secure, x.BodyOverflow = false, false, false, false
	x.ReqBody, x.RespBody = nil, nil
	x.Route = nil
	x.Peer = netip.AddrPort{}
	x.cur = 0
	x.arena = x.arena[:0]
}

// ClearSlots empties the memory of the first n filters.
func (x *Exchange) ClearSlots(n int) { clear(x.slots[:n]) }

// SetFilter says which filter of the chain is being called.
func (x *Exchange) SetFilter(i int) { x.cur = i }

// Slot is the memory of the filter that is being called.
func (x *Exchange) Slot() *Slot { return &x.slots[x.cur] }

// Resume wakes an exchange that a filter suspended: that filter is called again, at the same stage. It is to
// be called once for each Suspend, may be called from any goroutine, also before the filter has returned, and
// does nothing once the exchange has ended.
func (x *Exchange) Resume() { x.Ctl.Resume() }

// ResumeAfter is Resume after that many nanoseconds, without a goroutine; for a filter about to suspend.
func (x *Exchange) ResumeAfter(nanoseconds int64) { x.Ctl.ResumeAfter(nanoseconds) }

// Buffer asks that the body of the given stage be collected, up to limit bytes, and the filter, which returns
// Suspend, be called again when it is whole or BodyOverflow is set.
func (x *Exchange) Buffer(stage Stage, limit int) { x.Ctl.Buffer(stage, limit) }

// Transform puts t between the body's source and its destination, after those put there earlier. A message that has no
// body at all is not transformed.
func (x *Exchange) Transform(stage Stage, t Transformer) { x.Ctl.Transform(stage, t) }

// Now is the loop's time in monotonic nanoseconds.
func (x *Exchange) Now() int64 { return x.Ctl.Now() }

// Respond prepares an answer of our own. body is plain text, for gRPC the status message. A filter returns
// Respond afterwards; it may add response header fields to x.Resp.Header first.
func (x *Exchange) Respond(status int, flags Flag, body string) {
	x.Resp.Reset()
	x.Resp.Status = status
	x.Local = true
	x.Flags |= flags
	x.LocalBody = body
	x.Details = body
}

// Concat joins parts into a string that is valid until the exchange ends, without garbage.
func (x *Exchange) Concat(parts ...string) string {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := x.Alloc(n)[:0]
	for _, p := range parts {
		b = append(b, p...)
	}
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Alloc returns n bytes that are valid until the exchange ends.
func (x *Exchange) Alloc(n int) []byte {
	if cap(x.arena)-len(x.arena) < n {
		x.arena = make([]byte, 0, max(1024, 2*n))
	}
	s := len(x.arena)
	x.arena = x.arena[:s+n]
	return x.arena[s : s+n : s+n]
}
