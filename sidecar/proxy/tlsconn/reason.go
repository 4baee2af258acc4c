package tlsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// Errors that end a handshake without crypto/tls.
var (
	ErrTimeout = errors.New("the handshake did not end in time")
	ErrBusy    = errors.New("too many handshakes at once")
	ErrNotTLS  = errors.New("what came is not TLS")
	// ErrNoSecret: a certificate or a CA that comes by SDS has not come yet.
	ErrNoSecret = errors.New("the certificate has not come yet")
)

// Reason is why a handshake failed, as a label of few values.
type Reason string

// Reasons.
const (
	OK               Reason = "ok"
	Timeout          Reason = "timeout"
	Busy             Reason = "busy"
	NotTLS           Reason = "not_tls"
	NoSecret         Reason = "no_secret"
	Gone             Reason = "closed"              // the peer closed or reset the connection
	NoCertificate    Reason = "no_certificate"      // the client showed none, and must
	Expired          Reason = "certificate_expired" // or is not valid yet
	UnknownAuthority Reason = "unknown_authority"   // no trusted CA has signed it
	WrongName        Reason = "wrong_name"          // the certificate is for others
	BadCertificate   Reason = "bad_certificate"     // anything else about it
	Versions         Reason = "no_shared_version"   // of TLS
	Ciphers          Reason = "no_shared_cipher"    // suites, or curves
	ALPN             Reason = "no_shared_alpn"      // application protocols
	Refused          Reason = "refused_by_peer"     // an alert of the peer's
	Other            Reason = "other"
)

// NameError says that a certificate is genuine and for somebody else.
type NameError struct{ Text string }

// Error is a plain sentence.
func (e *NameError) Error() string { return e.Text }

// Explain tells why a handshake failed: as a label, and in a plain sentence. client says that the certificate at fault, if
// one is, was shown by a client.
func Explain(err error, client bool) (Reason, string) {
	peer := "the server"
	if client {
		peer = "the client"
	}
	var (
		invalid   x509.CertificateInvalidError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		name      *NameError
		record    tls.RecordHeaderError
		op        *net.OpError
	)
	switch text := err.Error(); {
	case errors.Is(err, ErrTimeout):
		return Timeout, text
	case errors.Is(err, ErrBusy):
		return Busy, text
	case errors.Is(err, ErrNotTLS):
		return NotTLS, text
	case errors.Is(err, ErrNoSecret):
		return NoSecret, text
	case errors.As(err, &invalid):
		if invalid.Reason == x509.Expired {
			c := invalid.Cert
			if c != nil && time.Now().Before(c.NotBefore) {
				return Expired, peer + "'s certificate is not valid before " + c.NotBefore.UTC().Format(time.RFC3339) + of(c)
			}
			if c != nil {
				return Expired, peer + "'s certificate expired at " + c.NotAfter.UTC().Format(time.RFC3339) + of(c)
			}
			return Expired, peer + "'s certificate has expired"
		}
		return BadCertificate, peer + "'s certificate is not accepted: " + invalid.Error()
	case errors.As(err, &authority):
		return UnknownAuthority, peer + "'s certificate is not signed by a CA that is trusted here" + of(authority.Cert)
	case errors.As(err, &host):
		return WrongName, peer + "'s certificate is " + names(host.Certificate) + ", not for " + host.Host
	case errors.As(err, &name):
		return WrongName, peer + "'s certificate is not accepted: " + name.Text
	case errors.As(err, &record):
		if client {
			return NotTLS, "what came is not TLS"
		}
		return NotTLS, "the server does not answer in TLS"
	case errors.As(err, &op) && op.Op == "remote error":
		return Refused, peer + " refused the handshake: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, errBroken):
		return Gone, peer + " closed the connection during the handshake"
	default:
		text = strings.TrimPrefix(text, "tls: ")
		switch {
		case strings.Contains(text, "didn't provide a certificate"):
			return NoCertificate, "the client showed no certificate, and one is required"
		case strings.Contains(text, "unsupported versions"), strings.Contains(text, "unsupported protocol version"):
			return Versions, "no version of TLS is shared: " + text
		case strings.Contains(text, "cipher suite"), strings.Contains(text, "curve"), strings.Contains(text, "key exchange"):
			return Ciphers, text
		case strings.Contains(text, "application protocol"), strings.Contains(text, "ALPN"):
			return ALPN, text
		case strings.Contains(text, "certificate"), strings.Contains(text, "x509"):
			return BadCertificate, peer + ": " + text
		}
		return Other, text
	}
}

// of names a certificate.
func of(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	s := " (subject " + c.Subject.String()
	if i := c.Issuer.String(); i != "" {
		s += ", issuer " + i
	}
	return s + ")"
}

// names tells whom a certificate is for.
func names(c *x509.Certificate) string {
	if c == nil {
		return "for others"
	}
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	if len(out) == 0 {
		return "for no name at all"
	}
	const most = 5
	if len(out) > most {
		out = append(out[:most], "others")
	}
	return "for " + strings.Join(out, ", ")
}
