package compile

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// validation is how the other side's certificate is judged.
type validation struct {
	roots  *x509.CertPool // nil: no chain is asked for
	cas    []*x509.Certificate
	sans   []sanMatch
	hashes map[[32]byte]bool // of the certificate
	spkis  map[[32]byte]bool // of its public key
	// print tells validations apart, so that a session is not resumed under another.
	print [32]byte
}

type sanMatch struct {
	typ   tlsv3.SubjectAltNameMatcher_SanType // unspecified: any
	exact string                              // the name, where the matcher is exact; else ""
	m     snapshot.Matcher
	text  string
}

// validate reads the parts of validation contexts, each over the one before: Envoy merges the secret's into the default.
func validate(r *report, read readFunc, parts ...checkPart) *validation {
	v := &validation{}
	sum := sha256.New()
	any := false
	for _, p := range parts {
		m := p.m
		if m == nil {
			continue
		}
		any = true
		fmt.Fprintf(sum, "%v", m)
		if s := m.GetTrustedCa(); s != nil {
			path := join(p.path, "trusted_ca")
			b := read(r, path, s)
			sum.Write(b)
			if b == nil {
				continue
			}
			v.roots, v.cas = x509.NewCertPool(), certificates(r, path, b)
			for _, ca := range v.cas {
				v.roots.AddCert(ca)
			}
		}
		if m.GetSystemRootCerts() != nil {
			pool, err := x509.SystemCertPool()
			if err != nil {
				r.add(join(p.path, "system_root_certs"), "%v", err)
			} else if v.roots == nil {
				v.roots = pool
			}
		}
		for i, s := range m.GetMatchTypedSubjectAltNames() {
			path := at(p.path, "match_typed_subject_alt_names", i)
			switch s.GetSanType() {
			case tlsv3.SubjectAltNameMatcher_DNS, tlsv3.SubjectAltNameMatcher_URI, tlsv3.SubjectAltNameMatcher_EMAIL, tlsv3.SubjectAltNameMatcher_IP_ADDRESS:
			default:
				r.add(join(path, "san_type"), "%v is not served by this sidecar; DNS, URI, EMAIL and IP_ADDRESS are", s.GetSanType())
			}
			v.sans = append(v.sans, sanMatch{
				typ: s.GetSanType(), exact: s.GetMatcher().GetExact(), m: stringMatch(r, join(path, "matcher"), s.GetMatcher()), text: s.GetMatcher().String(),
			})
		}
		for i, s := range m.GetMatchSubjectAltNames() { //nolint:staticcheck // deprecated, and still what many servers emit
			path := at(p.path, "match_subject_alt_names", i)
			v.sans = append(v.sans, sanMatch{exact: s.GetExact(), m: stringMatch(r, path, s), text: s.String()})
		}
		for i, s := range m.GetVerifyCertificateHash() {
			b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
			v.hashes = digest(r, at(p.path, "verify_certificate_hash", i), "hexadecimal", v.hashes, b, err)
		}
		for i, s := range m.GetVerifyCertificateSpki() {
			b, err := base64.StdEncoding.DecodeString(s)
			v.spkis = digest(r, at(p.path, "verify_certificate_spki", i), "base64", v.spkis, b, err)
		}
	}
	if !any {
		return nil
	}
	if len(v.sans) > 0 && v.roots == nil {
		r.add(join(parts[0].path, "match_typed_subject_alt_names"), noCA)
	}
	sum.Sum(v.print[:0])
	return v
}

// noCA says what names are without a CA.
const noCA = "a name is worth nothing where no CA vouches for it: trusted_ca is needed"

// checkPart is a validation context and where it stands.
type checkPart struct {
	path string
	m    *tlsv3.CertificateValidationContext
}

func digest(r *report, path, form string, set map[[32]byte]bool, b []byte, err error) map[[32]byte]bool {
	if err != nil || len(b) != 32 {
		r.add(path, "must be a SHA-256 in %s", form)
		return set
	}
	if set == nil {
		set = map[[32]byte]bool{}
	}
	set[[32]byte(b)] = true
	return set
}

// certificates reads all certificates of a PEM file.
func certificates(r *report, path string, b []byte) (out []*x509.Certificate) {
	for rest := b; ; {
		var k *pem.Block
		if k, rest = pem.Decode(rest); k == nil {
			break
		}
		if k.Type != "CERTIFICATE" && k.Type != "TRUSTED CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(k.Bytes)
		if err != nil {
			r.add(path, "holds a certificate that cannot be read: %v", err)
			return nil
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		r.add(path, "holds no certificate in PEM")
	}
	return out
}

// judge verifies a peer's certificate, on each handshake and each resumption. now is the time.
func (v *validation) judge(s tls.ConnectionState, usage x509.ExtKeyUsage, sni string) error {
	if len(s.PeerCertificates) == 0 {
		if usage == x509.ExtKeyUsageClientAuth {
			return nil // one that is required is asked for by crypto/tls
		}
		return errors.New("x509: the server showed no certificate")
	}
	leaf := s.PeerCertificates[0]
	if v.roots != nil {
		inter := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			inter.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: v.roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: time.Now()}); err != nil {
			return err
		}
	}
	if len(v.hashes)+len(v.spkis) > 0 && !v.hashes[sha256.Sum256(leaf.Raw)] && !v.spkis[sha256.Sum256(leaf.RawSubjectPublicKeyInfo)] {
		return errors.New("x509: certificate is none of those that are pinned")
	}
	if sni != "" && v.roots != nil {
		if err := leaf.VerifyHostname(sni); err != nil {
			return err
		}
	}
	if len(v.sans) == 0 {
		return nil
	}
	for i := range v.sans {
		if v.sans[i].match(leaf) {
			return nil
		}
	}
	return &tlsconn.NameError{Text: fmt.Sprintf("it is for %s, and none of these is what is asked for: %s", strings.Join(sanTexts(leaf), ", "), v.wanted())}
}

func (v *validation) wanted() string {
	var out []string
	for _, s := range v.sans {
		t := s.text
		if s.exact != "" {
			t = s.exact
		}
		out = append(out, t)
	}
	return strings.Join(out, ", ")
}

func sanTexts(c *x509.Certificate) (out []string) {
	out = append(out, c.DNSNames...)
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	if out = append(out, c.EmailAddresses...); len(out) == 0 {
		return []string{"no name at all"}
	}
	return out
}

func (s *sanMatch) match(c *x509.Certificate) bool {
	is := func(t tlsv3.SubjectAltNameMatcher_SanType) bool {
		return s.typ == t || s.typ == tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED
	}
	if is(tlsv3.SubjectAltNameMatcher_DNS) {
		for _, n := range c.DNSNames {
			if s.m.Match(n) || s.exact != "" && wildcard(n, s.exact) {
				return true
			}
		}
	}
	if is(tlsv3.SubjectAltNameMatcher_URI) {
		for _, u := range c.URIs {
			if s.m.Match(u.String()) {
				return true
			}
		}
	}
	if is(tlsv3.SubjectAltNameMatcher_EMAIL) {
		for _, e := range c.EmailAddresses {
			if s.m.Match(e) {
				return true
			}
		}
	}
	if is(tlsv3.SubjectAltNameMatcher_IP_ADDRESS) {
		for _, ip := range c.IPAddresses {
			if s.m.Match(ip.String()) {
				return true
			}
		}
	}
	return false
}

// wildcard says whether the certificate's name, "*.example.com", covers a host: one label, as in RFC 6125 §6.4.3.
func wildcard(name, host string) bool {
	rest, ok := strings.CutPrefix(name, "*.")
	if !ok {
		return strings.EqualFold(name, host)
	}
	label, tail, ok := strings.Cut(host, ".")
	return ok && label != "" && strings.EqualFold(tail, rest)
}
