package proxy

import (
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// What sniffHTTP finds, by the names that filter_chain_match.application_protocols uses.
const (
	http10 = "http/1.0"
	http11 = "http/1.1"
	h2c    = "h2c"
)

// maxRequestLine is how far the version of HTTP/1 is looked for.
const maxRequestLine = 16 << 10

// sniffHTTP tells HTTP by a connection's first bytes: the preface of HTTP/2, or a request line of HTTP/1. "" with more false
// is something else. A request line is told by its version alone, so that "GET key" of another protocol is not taken for one.
func sniffHTTP(b []byte) (version string, more bool) {
	switch http2.LooksLikePreface(b) {
	case 0:
		return "", true
	case 1:
		if len(b) < len(http2.Preface) {
			return "", true
		}
		return h2c, false
	}
	i := 0
	for ; i < len(b) && b[i] != ' '; i++ {
		if c := b[i]; c < 'A' || c > 'Z' && c != '_' && (c < 'a' || c > 'z') || i > 32 {
			if c != '-' || i == 0 || i > 32 {
				return "", false
			}
		}
	}
	if i == len(b) {
		return "", true
	}
	if i == 0 {
		return "", false
	}
	for j := i; j < len(b); j++ {
		switch c := b[j]; {
		case c == '\n':
			line := b[i:j]
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			const at = " HTTP/1.x"
			if len(line) < len(at)+1 {
				return "", false
			}
			switch string(line[len(line)-len(at):]) {
			case " HTTP/1.1":
				return http11, false
			case " HTTP/1.0":
				return http10, false
			}
			return "", false
		case c < ' ' && c != '\t' && c != '\r' || c == 0x7f:
			return "", false
		}
	}
	return "", len(b) < maxRequestLine
}

// sniffTLS tells TLS by a ClientHello, and what it asks for: tls is said only where it is whole, or too long for one that is.
func sniffTLS(b []byte, p *snapshot.Preface) (tls, more bool) {
	h, more, err := tlsconn.ParseHello(b)
	switch {
	case err != nil:
		return false, false
	case more && len(b) < tlsconn.MaxHello:
		return false, true
	}
	p.ServerName, p.Protocols = h.ServerName, h.ALPN
	return true, false
}
