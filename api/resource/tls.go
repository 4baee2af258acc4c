package resource

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// GatewayTLS has a Gateway speak TLS. Files are looked at every second: a renewed certificate serves the connections that
// are made after it, and those that are open stay.
type GatewayTLS struct {
	_ struct{} `later:"hosts, alpn, cipherSuites, curves, ocsp, acme"`
	// Certificate is a PEM file: the certificate, then those of the CAs between it and the root. A path is relative to the
	// file that says so.
	Certificate string `yaml:"certificate" required:"true" example:"tls/public.pem"`
	// Key is the certificate's key, a PEM file.
	Key string `yaml:"key" required:"true" example:"tls/public.key"`
	// More are further certificates: each connection is shown the first that fits the name it asks for (SNI).
	More []KeyPair `yaml:"more" maxItems:"64"`
	// ClientCA is a PEM file of the CAs whose certificates clients are to show; none: clients show none.
	ClientCA string `yaml:"clientCa" example:"tls/clients.pem"`
	// ClientCertificate says whether a client without a certificate is refused. One that it shows is verified either way.
	ClientCertificate string `yaml:"clientCertificate" enum:"required, optional" default:"required" example:"optional"`
	// ClientNames are names of which a client's certificate must have one: DNS names, URIs as spiffe://…, IP or e-mail
	// addresses.
	ClientNames []string `yaml:"clientNames" maxItems:"1024" default:"any" example:"partner.example"`
	// MinVersion is the lowest version of TLS that is spoken.
	MinVersion string `yaml:"minVersion" enum:"1.2, 1.3" default:"1.2" example:"1.3"`
	// ForwardClientCertificate tells the service of the client's certificate in the field x-forwarded-client-cert, as Envoy
	// does; what a client wrote there itself is removed in any case.
	ForwardClientCertificate bool `yaml:"forwardClientCertificate" default:"false" example:"true"`
}

// KeyPair is a certificate and its key.
type KeyPair struct {
	// Certificate is a PEM file: the certificate, then those of the CAs between it and the root.
	Certificate string `yaml:"certificate" required:"true" example:"tls/shop.pem"`
	// Key is the certificate's key, a PEM file.
	Key string `yaml:"key" required:"true" example:"tls/shop.key"`
}

// ExternalTLS has calls to an External go over TLS. The server's certificate is always verified.
type ExternalTLS struct {
	_ struct{} `later:"spki, hashes, alpn, insecure"`
	// CA is a PEM file of the CAs that may have signed the server's certificate. A path is relative to the file that says so.
	CA string `yaml:"ca" default:"those of the system" example:"tls/partner-ca.pem"`
	// SNI is the name that the server is asked for, and that its certificate must have.
	SNI string `yaml:"sni" format:"authority" default:"the endpoints' host, where all have one name" example:"api.partner.example"`
	// Names are names of which the server's certificate must have one, in the place of sni: DNS names, URIs as spiffe://…,
	// IP or e-mail addresses.
	Names []string `yaml:"names" maxItems:"1024" default:"sni" example:"spiffe://partner.example/api"`
	// Certificate is a PEM file with the certificate that is shown to the server; none where it asks for none.
	Certificate string `yaml:"certificate" default:"none" example:"tls/client.pem"`
	// Key is the certificate's key, a PEM file.
	Key string `yaml:"key" example:"tls/client.key"`
	// MinVersion is the lowest version of TLS that is spoken.
	MinVersion string `yaml:"minVersion" enum:"1.2, 1.3" default:"1.2" example:"1.3"`
}

// Values of GatewayTLS.ClientCertificate.
const (
	ClientRequired = "required"
	ClientOptional = "optional"
)

func (t *GatewayTLS) check(l *Violations) {
	if t == nil {
		return
	}
	if t.ClientCA == "" {
		if t.ClientCertificate != "" {
			l.Add("spec.tls.clientCertificate", "is written without clientCa, which would verify it", "clientCa: FILE, the CAs of your clients")
		}
		if len(t.ClientNames) > 0 {
			l.Add("spec.tls.clientNames", "is written without clientCa: names that no CA vouches for say nothing", "clientCa: FILE, the CAs of your clients")
		}
		if t.ForwardClientCertificate {
			l.Add("spec.tls.forwardClientCertificate", "is written without clientCa: clients are asked for no certificate", "clientCa: FILE, the CAs of your clients")
		}
	}
	checkCertNames("spec.tls.clientNames", t.ClientNames, l)
}

func checkCertNames(path string, names []string, l *Violations) {
	for i, n := range names {
		if n == "" || strings.ContainsAny(n, " \t\r\n*") {
			l.Add(violation.Index(path, i), fmt.Sprintf("%q is no name of a certificate", n), "a DNS name, a URI as spiffe://mesh/orders, an IP or an e-mail address; a certificate's *.example.com takes a.example.com")
		}
	}
}

// ServerName is the name that the server is asked for: SNI, or the host that all endpoints share; "" where there is none.
func (e *External) ServerName() string {
	if e.TLS != nil && e.TLS.SNI != "" {
		return e.TLS.SNI
	}
	name := ""
	for _, ep := range e.Endpoints {
		host := ep.Address
		if h, _, err := net.SplitHostPort(ep.Address); err == nil {
			host = h
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || name != "" && name != host {
			return ""
		}
		name = host
	}
	return name
}

func (t *ExternalTLS) check(e *External, l *Violations) {
	if t == nil {
		return
	}
	if t.SNI == "" && e.ServerName() == "" && len(t.Names) == 0 {
		l.Add("spec.tls", "says not whose certificate is expected: the endpoints have no name in common", "sni: api.partner.example, or names")
	}
	if strings.Contains(t.SNI, ":") {
		l.Add("spec.tls.sni", "holds a port", "the name alone")
	}
	if t.Certificate != "" && t.Key == "" {
		l.Add("spec.tls.key", "is missing", "the key of certificate, a PEM file")
	}
	if t.Key != "" && t.Certificate == "" {
		l.Add("spec.tls.certificate", "is missing", "the certificate of key, a PEM file")
	}
	checkCertNames("spec.tls.names", t.Names, l)
}

// tlsFile is a file that a resource takes certificates from.
type tlsFile struct {
	path string // of the field
	name *string
}

// certFiles are the files of r.
func certFiles(r *Resource) (out []tlsFile) {
	add := func(path string, name *string) {
		if *name != "" {
			out = append(out, tlsFile{path, name})
		}
	}
	switch s := r.Spec.(type) {
	case *Gateway:
		if t := s.TLS; t != nil {
			add("spec.tls.certificate", &t.Certificate)
			add("spec.tls.key", &t.Key)
			add("spec.tls.clientCa", &t.ClientCA)
			for i := range t.More {
				add(violation.Index("spec.tls.more", i)+".certificate", &t.More[i].Certificate)
				add(violation.Index("spec.tls.more", i)+".key", &t.More[i].Key)
			}
		}
	case *External:
		if t := s.TLS; t != nil {
			add("spec.tls.ca", &t.CA)
			add("spec.tls.certificate", &t.Certificate)
			add("spec.tls.key", &t.Key)
		}
	}
	return out
}

// checkTLS finds what is wrong with the files that r takes certificates from. read is os.ReadFile, or a test's.
func checkTLS(r *Resource, read func(string) ([]byte, error), add func(path, message, hint string)) {
	if read == nil {
		read = os.ReadFile
	}
	data := map[string][]byte{}
	for _, f := range certFiles(r) {
		b, err := read(*f.name)
		switch {
		case err != nil:
			add(f.path, fmt.Sprintf("%s: %s", *f.name, reason(err)), "a PEM file that is there, and that the sidecar's user can read")
		case strings.HasSuffix(f.path, ".key"):
			if k, _ := pem.Decode(b); k == nil || !strings.Contains(k.Type, "PRIVATE KEY") {
				add(f.path, *f.name+" holds no private key in PEM", "a file that begins with -----BEGIN PRIVATE KEY-----")
			} else if k.Type == "ENCRYPTED PRIVATE KEY" || k.Headers["DEK-Info"] != "" {
				add(f.path, *f.name+" is encrypted", "the key without a password: openssl pkey -in FILE -out PLAIN")
			} else {
				data[f.path] = b
			}
		default:
			if certs, err := Certificates(b); err != nil {
				add(f.path, *f.name+" "+err.Error(), "a file that begins with -----BEGIN CERTIFICATE-----")
			} else if data[f.path] = b; time.Now().After(certs[0].NotAfter) {
				add(f.path, fmt.Sprintf("%s holds a certificate that ended at %s", *f.name, certs[0].NotAfter.UTC().Format(time.RFC3339)), "a renewed one")
			}
		}
	}
	for path, cert := range data {
		base, ok := strings.CutSuffix(path, ".certificate")
		if key := data[base+".key"]; ok && key != nil {
			if _, err := tls.X509KeyPair(cert, key); err != nil {
				add(base+".key", strings.TrimPrefix(err.Error(), "tls: "), "the key of "+base+".certificate")
			}
		}
	}
}

// Certificates reads all certificates of a PEM file; there is one at least, or an error.
func Certificates(b []byte) (out []*x509.Certificate, err error) {
	for rest := bytes.TrimSpace(b); len(rest) > 0; {
		var k *pem.Block
		if k, rest = pem.Decode(rest); k == nil {
			break
		}
		if k.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(k.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("holds no certificate in PEM")
	}
	return out, nil
}

// ResolveFiles makes the files of certificates absolute: they are relative to the file that says so, cwd stands in where
// there is none. It is to be called where the files are, before resources are sent anywhere.
func ResolveFiles(set []*Resource, cwd string) {
	for _, r := range set {
		for _, f := range certFiles(r) {
			if !filepath.IsAbs(*f.name) {
				*f.name = filepath.Join(baseDir(r, cwd), *f.name)
			}
		}
	}
}

// SystemCA returns the file of the system's CAs, "" where there is none in the usual places (crypto/x509 knows the same).
func SystemCA() string {
	files := []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
	if f := os.Getenv("SSL_CERT_FILE"); f != "" {
		files = append([]string{f}, files...)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() {
			return f
		}
	}
	return ""
}
