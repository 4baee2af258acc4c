package tlsconn

import (
	"crypto/sha256"
	"strings"
)

// Forwarded is the peer's certificate as an element of x-forwarded-client-cert (Envoy's documentation of that field): its
// hash, and what else is asked for. It is made once for a connection. The peer has shown one.
func (t *Conn) Forwarded(subject, uri, dns bool) string {
	if t.forwarded != "" {
		return t.forwarded
	}
	c := t.info.Peer
	var b strings.Builder
	b.WriteString("Hash=")
	const digits = "0123456789abcdef"
	for _, x := range sha256.Sum256(c.Raw) {
		b.WriteByte(digits[x>>4])
		b.WriteByte(digits[x&15])
	}
	if subject {
		b.WriteString(";Subject=")
		quote(&b, c.Subject.String(), true)
	}
	if uri {
		for _, u := range c.URIs {
			b.WriteString(";URI=")
			quote(&b, u.String(), false)
		}
	}
	if dns {
		for _, n := range c.DNSNames {
			b.WriteString(";DNS=")
			quote(&b, n, false)
		}
	}
	t.forwarded = b.String()
	return t.forwarded
}

// quote writes a value, in quotes where it must be; a character that cannot be in a field becomes a question mark.
func quote(b *strings.Builder, s string, always bool) {
	quotes := always || strings.ContainsAny(s, `,;="`)
	if quotes {
		b.WriteByte('"')
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f:
			b.WriteByte('?')
		case c == '"' || c == '\\' && quotes:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	if quotes {
		b.WriteByte('"')
	}
}
