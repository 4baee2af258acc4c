// Package sockopt says how sockets that connect are set up. It holds values alone: sidecar/compile reads them, sidecar/loop sets
// them.
package sockopt

import "net/netip"

// Options are set before a socket connects.
type Options struct {
	// Source and Source6 are bound to, for the address family of the destination, where they are valid. Port 0 means any.
	Source, Source6 netip.AddrPort
	// KeepAlive probes a connection that is silent; its fields are in the system's units, 0 means the system's default.
	KeepAlive                                             bool
	KeepAliveIdle, KeepAliveInterval, KeepAliveProbeTimes int
	// Options are set as they are.
	Options []Option
}

// Option is an option with a number as its value (setsockopt).
type Option struct{ Level, Name, Value int }
