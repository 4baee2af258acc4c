package snapshot

import "time"

// HTTPOptions is what a listener does to heads, and asks of connections, beyond what all listeners do. HTTP.Options
// is nil where all of it is off.
type HTTPOptions struct {
	// Via is appended to the Via field of requests and responses, or "" for none.
	Via string
	// ServerName is the Server field's value, as Server says; "" leaves the field alone.
	ServerName string
	Server     ServerMode
	// SkipForwardedFor: X-Forwarded-For does not get the peer's address, though UseRemoteAddress is set.
	SkipForwardedFor bool
	// ForwardedPort sets X-Forwarded-Port to the port of the connection's own end.
	ForwardedPort bool
	// Forwarded appends an element to the Forwarded field (RFC 7239): for, host, proto.
	Forwarded bool
	// RequestIDInResponse answers with the request's x-request-id.
	RequestIDInResponse bool

	StripPort StripPortMode
	// ListenPort is the listener's port, which StripMatchingPort compares; 0 where it has none.
	ListenPort int
	// StripTrailingDot takes the dot from the end of a Host.
	StripTrailingDot bool
	EscapedSlashes   EscapedSlashesMode
	Underscores      UnderscoreMode
	// DefaultHost is the authority of an HTTP/1.0 request that names none.
	DefaultHost string
	// Continue: a caller's Expect: 100-continue is sent on, and the callee's 100 back. Otherwise the sidecar itself
	// says Continue.
	Continue bool

	// RequestTimeout is from a request's head to its end; DrainTimeout is the grace between the two GOAWAYs of
	// HTTP/2; LingerTimeout is how long a connection is read on after its last answer. 0 means none, 1 s, 2 s.
	RequestTimeout, DrainTimeout, LingerTimeout time.Duration
	// MaxRequests ends a connection after so many requests; 0 means no limit.
	MaxRequests uint32
}

// ServerMode says what becomes of the Server field of responses.
type ServerMode uint8

// Modes of the Server field.
const (
	ServerOverwrite ServerMode = iota
	ServerIfAbsent
	ServerPassThrough // also on answers of our own
)

// StripPortMode says which port is taken off a Host. That of a CONNECT stays.
type StripPortMode uint8

// Which port is taken off.
const (
	StripNoPort StripPortMode = iota
	StripMatchingPort
	StripAnyPort
)

// EscapedSlashesMode says what becomes of %2F and %5C in a path.
type EscapedSlashesMode uint8

// What becomes of escaped slashes.
const (
	SlashesKeep     EscapedSlashesMode = iota
	SlashesReject                      // 400
	SlashesRedirect                    // 307 to the unescaped path; gRPC is refused
	SlashesForward                     // unescaped
)

// UnderscoreMode says what becomes of fields with an underscore in their name.
type UnderscoreMode uint8

// What becomes of such fields.
const (
	UnderscoresAllow UnderscoreMode = iota
	UnderscoresReject
	UnderscoresDrop
)

// HTTP2Options is how HTTP/2 connections of a listener or a cluster differ from the usual ones; nil where they do not.
type HTTP2Options struct {
	// StreamWindow and ConnWindow are how many bytes a peer may send ahead of what was passed on; 0 means 256 KiB and
	// 16 MiB.
	StreamWindow, ConnWindow uint32
	// TableSize bounds HPACK's dynamic tables, ours and what we use of the peer's, where HasTableSize; else 4,096 bytes.
	TableSize    uint32
	HasTableSize bool
	// MaxStreams is how many streams are opened at once on a connection to an upstream, where the peer allows more; 0
	// means no limit of ours. A listener has HTTP.MaxStreams.
	MaxStreams uint32
	// PingInterval sends a PING that often, ± PingJitter percent; PingIdle one before a stream is opened on a connection
	// that was silent for so long. A connection whose PING is not answered within PingTimeout is closed. 0 means never.
	PingInterval, PingIdle, PingTimeout time.Duration
	PingJitter                          float64
	// MaxOutbound and MaxOutboundControl are how many frames of any kind, and PING, SETTINGS and RST_STREAM frames, may
	// wait for a peer that does not read before the connection is closed; 0 means no limit of this kind.
	MaxOutbound, MaxOutboundControl uint32
}
