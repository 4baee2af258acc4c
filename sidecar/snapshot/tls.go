package snapshot

import (
	"crypto/tls"
	"sync/atomic"
	"time"
)

// ServerTLS is how a listener's connections are encrypted. It is stable over the versions of its certificates: a renewed
// one serves the connections that are made after it.
type ServerTLS struct {
	// HandshakeTimeout is how long a handshake may take; 0 means 10 s.
	HandshakeTimeout time.Duration
	p                atomic.Pointer[tls.Config]
}

// Load returns the configuration of the next handshake, or nil while a certificate has not come.
func (s *ServerTLS) Load() *tls.Config { return s.p.Load() }

// Store replaces the configuration.
func (s *ServerTLS) Store(c *tls.Config) { s.p.Store(c) }

// ClientTLS is how connections to a cluster's endpoints are encrypted. It is stable over the versions of its certificates.
type ClientTLS struct{ p atomic.Pointer[ClientConfigs] }

// ClientConfigs are the configurations of the next handshake, by the protocol that is wanted: they differ in ALPN.
type ClientConfigs struct{ HTTP1, HTTP2, TCP *tls.Config }

// Load returns the configuration for a protocol, or nil while a certificate has not come.
func (t *ClientTLS) Load(p Protocol) *tls.Config {
	c := t.p.Load()
	switch {
	case c == nil:
		return nil
	case p == HTTP2:
		return c.HTTP2
	case p == HTTP1:
		return c.HTTP1
	}
	return c.TCP
}

// Store replaces the configurations.
func (t *ClientTLS) Store(c *ClientConfigs) { t.p.Store(c) }
