package exchange

import "strings"

// Known identifies the header fields that the data path or its filters look up often. A field that is not in
// the list has Other and is found by comparing names.
type Known uint8

// The known fields. Pseudo-header fields are not among them: a Head has members for those.
const (
	Other Known = iota
	Host
	Connection
	KeepAlive
	ProxyConnection
	TransferEncoding
	TE
	Trailer
	Upgrade
	ContentLength
	ContentType
	ContentEncoding
	Expect
	XForwardedFor
	XForwardedProto
	XForwardedHost
	XForwardedPort
	XForwardedClientCert
	XRequestID
	Forwarded
	Via
	TraceParent
	GRPCTimeout
	GRPCStatus
	GRPCMessage
	RetryAfter
	Cookie
	SetCookie
	Authorization
	Date
	Server
	Location
	CacheControl
	AcceptEncoding
	IdempotencyKey
	HTTP2Settings
	OutriggerReason // our own answers' response flags: see ReasonHeader
	OutriggerAttempt
	numKnown
)

// ReasonHeader is the field in which a sidecar tells the caller's sidecar that an answer is its own and not
// the service's: its value is the response flags. It is removed before an answer leaves the mesh.
const ReasonHeader = "x-outrigger-reason"

// AttemptHeader carries the number of the try, from 1, from the caller's sidecar to the callee's.
const AttemptHeader = "x-outrigger-attempt"

var knownNames = [numKnown]string{
	Host: "host", Connection: "connection", KeepAlive: "keep-alive", ProxyConnection: "proxy-connection",
	TransferEncoding: "transfer-encoding", TE: "te", Trailer: "trailer", Upgrade: "upgrade",
	ContentLength: "content-length", ContentType: "content-type", ContentEncoding: "content-encoding",
	Expect: "expect", XForwardedFor: "x-forwarded-for", XForwardedProto: "x-forwarded-proto",
	XForwardedHost: "x-forwarded-host", XForwardedPort: "x-forwarded-port", XForwardedClientCert: "x-forwarded-client-cert", XRequestID: "x-request-id", Forwarded: "forwarded", Via: "via",
	TraceParent: "traceparent", GRPCTimeout: "grpc-timeout", GRPCStatus: "grpc-status",
	GRPCMessage: "grpc-message", RetryAfter: "retry-after", Cookie: "cookie", SetCookie: "set-cookie",
	Authorization: "authorization", Date: "date", Server: "server", Location: "location",
	CacheControl: "cache-control", AcceptEncoding: "accept-encoding", IdempotencyKey: "idempotency-key",
	HTTP2Settings: "http2-settings", OutriggerReason: ReasonHeader, OutriggerAttempt: AttemptHeader,
}

// knownByLen lists the known fields of each name length, so that a lookup compares one or two names.
var knownByLen = func() (t [24][]Known) {
	for k := Other + 1; k < numKnown; k++ {
		n := len(knownNames[k])
		t[n] = append(t[n], k)
	}
	return t
}()

// Name returns the field's name in lower case, or "" for Other.
func (k Known) Name() string { return knownNames[k] }

// Lookup returns the Known of a field name in any case.
func Lookup(name string) Known {
	if len(name) >= len(knownByLen) {
		return Other
	}
	for _, k := range knownByLen[len(name)] {
		if EqualFold(name, knownNames[k]) {
			return k
		}
	}
	return Other
}

// TrailerAllowed says whether a field may be a trailer: not where it frames, routes, authenticates or describes the
// message (RFC 9110 §6.5.1), nor where only sidecars set it.
func (k Known) TrailerAllowed() bool {
	switch k {
	case Host, ContentLength, TransferEncoding, Connection, TE, Trailer, Upgrade, KeepAlive, ProxyConnection, Expect,
		Authorization, Cookie, SetCookie, ContentEncoding, ContentType, CacheControl, OutriggerReason,
		OutriggerAttempt, HTTP2Settings:
		return false
	}
	return true
}

// EqualFold says whether name equals lower, which is in lower case, but for ASCII case.
func EqualFold(name, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i := 0; i < len(lower); i++ {
		c := name[i]
		if c-'A' < 26 {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// FieldFlags qualify a Field.
type FieldFlags uint8

// Qualities of a field.
const (
	// Dropped fields are not sent on and not found; they keep their place so that raw runs stay whole.
	Dropped FieldFlags = 1 << iota
	// NeverIndexed fields are relayed as HPACK literals that must not be indexed (RFC 7541 §6.2.3).
	NeverIndexed
	// Inserted fields came as HPACK literals that went into the peer's table just now: nothing has referred to them yet.
	Inserted
)

// Entry is a field that an HPACK decoder shares between all exchanges that refer to its table entry, so that
// the encoder of another connection finds its own entry by pointer. Only codecs use it.
type Entry struct {
	Name, Value string
	Known       Known
	Static      uint8 // index in the static table of this name and value, or 0
	StaticName  uint8 // index in the static table of this name, or 0
	Invalid     bool  // HTTP does not allow this field: it is in the table, and whoever refers to it is refused
	// Encoder is a one-place memory of where the last encoder that wrote this entry put it.
	Encoder    any
	EncoderPos int
}

// Field is one header field. Name and Value are views that stay valid until the exchange ends, no longer.
type Field struct {
	Name, Value string
	Entry       *Entry // nil unless it came from an HPACK table
	Start, End  uint32 // the raw line, with its CRLF, in Header.Raw; End is 0 where there is none
	Known       Known
	Flags       FieldFlags
}

// Header is an ordered list of fields. The zero value is empty and ready. It is not safe for concurrent use.
type Header struct {
	// Fields holds all fields, dropped ones too.
	Fields []Field
	// Raw is the head's bytes that Start and End refer to, or nil.
	Raw   []byte
	first [numKnown]uint8 // 1 + index of the first field of each Known
}

// MaxFields is the largest number of fields that a Header holds; codecs refuse more.
const MaxFields = 250

// Reset empties the header and keeps its memory.
func (h *Header) Reset() {
	h.Fields = h.Fields[:0]
	h.Raw = nil
	h.first = [numKnown]uint8{}
}

// Append adds f as a codec found it, without looking for others of its name.
func (h *Header) Append(f Field) {
	h.Fields = append(h.Fields, f)
	if f.Known != Other && h.first[f.Known] == 0 {
		h.first[f.Known] = uint8(len(h.Fields))
	}
}

// Add appends a field.
func (h *Header) Add(name, value string) {
	h.Append(Field{Name: name, Value: value, Known: Lookup(name)})
}

// AddKnown appends a known field.
func (h *Header) AddKnown(k Known, value string) {
	h.Append(Field{Name: knownNames[k], Value: value, Known: k})
}

// Find returns the index of the first field of that name (in any case), or -1.
func (h *Header) Find(name string) int {
	if k := Lookup(name); k != Other {
		return h.FindKnown(k)
	}
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Flags&Dropped == 0 && f.Known == Other && len(f.Name) == len(name) && strings.EqualFold(f.Name, name) {
			return i
		}
	}
	return -1
}

// FindKnown returns the index of the first field that is k, or -1.
func (h *Header) FindKnown(k Known) int {
	i := int(h.first[k]) - 1
	if i < 0 || h.Fields[i].Flags&Dropped == 0 {
		return i
	}
	for i++; i < len(h.Fields); i++ {
		if f := &h.Fields[i]; f.Known == k && f.Flags&Dropped == 0 {
			return i
		}
	}
	return -1
}

// Get returns the first value of a field, and whether there is one.
func (h *Header) Get(name string) (string, bool) {
	if i := h.Find(name); i >= 0 {
		return h.Fields[i].Value, true
	}
	return "", false
}

// GetKnown returns the first value of a known field, and whether there is one.
func (h *Header) GetKnown(k Known) (string, bool) {
	if i := h.FindKnown(k); i >= 0 {
		return h.Fields[i].Value, true
	}
	return "", false
}

// Has says whether a known field is present.
func (h *Header) Has(k Known) bool { return h.FindKnown(k) >= 0 }

// Set replaces all fields of that name by one.
func (h *Header) Set(name, value string) {
	i := h.Find(name)
	if i < 0 {
		h.Add(name, value)
		return
	}
	h.setAt(i, name, value)
}

// SetKnown replaces all fields that are k by one.
func (h *Header) SetKnown(k Known, value string) {
	i := h.FindKnown(k)
	if i < 0 {
		h.AddKnown(k, value)
		return
	}
	h.setAt(i, knownNames[k], value)
}

func (h *Header) setAt(i int, name, value string) {
	f := &h.Fields[i]
	f.Value, f.Entry, f.Start, f.End = value, nil, 0, 0
	for j := i + 1; j < len(h.Fields); j++ {
		if g := &h.Fields[j]; g.Known == f.Known && strings.EqualFold(g.Name, name) {
			g.Flags |= Dropped
		}
	}
}

// Del removes all fields of that name and says whether there was one.
func (h *Header) Del(name string) bool {
	i := h.Find(name)
	if i < 0 {
		return false
	}
	k := h.Fields[i].Known
	for ; i < len(h.Fields); i++ {
		if f := &h.Fields[i]; f.Known == k && strings.EqualFold(f.Name, name) {
			f.Flags |= Dropped
		}
	}
	return true
}

// DelKnown removes all fields that are k.
func (h *Header) DelKnown(k Known) {
	i := h.FindKnown(k)
	if i < 0 {
		return
	}
	for ; i < len(h.Fields); i++ {
		if f := &h.Fields[i]; f.Known == k {
			f.Flags |= Dropped
		}
	}
}

// CopyFrom makes h a deep copy of src that does not share memory with it: for an exchange that outlives the
// buffer its head was parsed in.
func (h *Header) CopyFrom(src *Header) {
	h.Reset()
	h.first = src.first
	h.Raw = append([]byte(nil), src.Raw...)
	h.Fields = append(h.Fields, src.Fields...)
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Entry == nil {
			f.Name, f.Value = strings.Clone(f.Name), strings.Clone(f.Value)
		}
	}
}
