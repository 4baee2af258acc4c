package compile

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

const (
	// maxPEM bounds a file of certificates or a key.
	maxPEM = 4 << 20
	// pollFiles is how often files that certificates come from are looked at for a change.
	pollFiles = time.Second
	// ticketAge is for how long tickets are sealed with one key; they are opened for as long again.
	ticketAge = 24 * time.Hour
)

// material is what was made of a context's certificates.
type material struct {
	certs []tls.Certificate
	cas   []*x509.Certificate
	check *validation
}

// stamp tells versions of a file apart.
type stamp struct {
	info fs.FileInfo // nil: there is none
}

func stampOf(name string) stamp {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

func (s stamp) same(o stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == o.info
	}
	return s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime()) && os.SameFile(s.info, o.info)
}

// readFunc reads a data source; what it reads of files is remembered, so that a change of them is noticed.
type readFunc func(r *report, path string, s *corev3.DataSource) []byte

func reading(files map[string]stamp) readFunc {
	return func(r *report, path string, s *corev3.DataSource) []byte {
		switch k := s.GetSpecifier().(type) {
		case *corev3.DataSource_InlineString:
			return []byte(k.InlineString)
		case *corev3.DataSource_InlineBytes:
			return k.InlineBytes
		case *corev3.DataSource_Filename:
			b, err := readFile(k.Filename, files)
			if err != nil {
				r.add(join(path, "filename"), "%v", err)
				return nil
			}
			return b
		}
		r.add(path, "says nothing to read: filename, inline_string or inline_bytes is needed")
		return nil
	}
}

func readFile(name string, files map[string]stamp) ([]byte, error) {
	files[name] = stampOf(name) // before it is read: what changes meanwhile is read again
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxPEM:
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxPEM)
	}
	return b, nil
}

// pair reads a certificate with its key.
func pair(r *report, read readFunc, path string, m *tlsv3.TlsCertificate) (cert tls.Certificate, ok bool) {
	n := len(r.errs)
	chain := read(r, join(path, "certificate_chain"), m.GetCertificateChain())
	key := read(r, join(path, "private_key"), m.GetPrivateKey())
	if len(r.errs) > n {
		return cert, false
	}
	if certificates(r, join(path, "certificate_chain"), chain); len(r.errs) > n {
		return cert, false
	}
	if k, _ := pem.Decode(key); k == nil {
		r.add(join(path, "private_key"), "holds no key in PEM")
		return cert, false
	} else if k.Type == "ENCRYPTED PRIVATE KEY" || k.Headers["DEK-Info"] != "" {
		r.add(join(path, "private_key"), "is encrypted, which is not served by this sidecar")
		return cert, false
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		r.add(join(path, "private_key"), "%v", err)
		return cert, false
	}
	return cert, true
}

// secret finds a secret; nil where it has not come, which is no error.
func (c *Compiler) secret(r *report, ref *secretRef, files map[string]stamp) *tlsv3.Secret {
	if ref.file == "" {
		return c.secrets[ref.name]
	}
	b, err := readFile(ref.file, files)
	if err == nil {
		var s *tlsv3.Secret
		if s, err = secretIn(b, ref.name); err == nil {
			inner := &report{}
			checkSecret(inner, s, reading(files))
			for _, e := range inner.errs {
				r.add(join(ref.path, "sds_config"), "%s: secret %s: %s %s", ref.file, ref.name, e.path, e.reason)
			}
			return s
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: %w", ref.file, err)
	}
	r.add(join(ref.path, "sds_config"), "%v", err)
	return nil
}

// secretIn finds a secret in a file as Envoy takes it: a DiscoveryResponse in YAML or JSON.
func secretIn(b []byte, name string) (*tlsv3.Secret, error) {
	var doc any
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	j, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	m := &discoveryv3.DiscoveryResponse{}
	if err := protojson.Unmarshal(j, m); err != nil {
		return nil, fmt.Errorf("is not a DiscoveryResponse: %w", err)
	}
	for _, a := range m.GetResources() {
		s := &tlsv3.Secret{}
		if a.GetTypeUrl() == SecretType && proto.Unmarshal(a.GetValue(), s) == nil && s.GetName() == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("holds no secret %q", name)
}

// checkSecret refuses a secret that cannot be used.
func checkSecret(r *report, m *tlsv3.Secret, read readFunc) {
	checkFields(r, "", m)
	if !r.ok() {
		return
	}
	switch k := m.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		pair(r, read, "tls_certificate", k.TlsCertificate)
	case *tlsv3.Secret_ValidationContext:
		v := &report{}
		validate(v, read, checkPart{"validation_context", k.ValidationContext})
		for _, e := range v.errs {
			if e.reason != noCA { // the context that refers to it may have one
				r.errs = append(r.errs, e)
			}
		}
	default:
		r.add("", "is neither a tls_certificate nor a validation_context")
	}
}

// material makes what is in use of a context's certificates. missing names the secrets that have not come.
func (c *Compiler) material(r *report, d *tlsDef) (m *material, missing []string) {
	m = &material{}
	d.files = map[string]stamp{}
	read := reading(d.files)
	for _, s := range d.certs {
		cert, path := s.inline, s.path
		if s.ref != nil {
			k := c.secret(r, s.ref, d.files)
			if k == nil {
				missing = append(missing, s.ref.name)
				continue
			}
			if cert = k.GetTlsCertificate(); cert == nil {
				r.add(s.path, "secret %s is no tls_certificate", s.ref.name)
				continue
			}
			path = s.path + " (secret " + s.ref.name + ").tls_certificate"
		}
		if p, ok := pair(r, read, path, cert); ok {
			m.certs = append(m.certs, p)
		}
	}
	parts := []checkPart{{d.checkAt, d.check}}
	if ref := d.checkSDS; ref != nil {
		k := c.secret(r, ref, d.files)
		switch {
		case k == nil:
			missing = append(missing, ref.name)
		case k.GetValidationContext() == nil:
			r.add(ref.path, "secret %s is no validation_context", ref.name)
		default:
			parts = append(parts, checkPart{ref.path + " (secret " + ref.name + ").validation_context", k.GetValidationContext()})
		}
	}
	if len(missing) > 0 || !r.ok() {
		return m, missing
	}
	m.check = validate(r, read, parts...)
	if d.require && (m.check == nil || m.check.roots == nil && len(m.check.hashes)+len(m.check.spkis) == 0) {
		r.add(join(d.path, "require_client_certificate"), "asks for a certificate that nothing verifies: trusted_ca is needed")
	}
	if m.check != nil {
		m.cas = m.check.cas
	}
	return m, nil
}

// renew makes a context's configuration anew and puts it in use, unless something is wrong with it or has not come.
func (c *Compiler) renew(r *report, d *tlsDef) {
	n := len(r.errs)
	m, missing := c.material(r, d)
	if len(r.errs) > n || len(missing) > 0 {
		return
	}
	cfg := d.base.Clone()
	cfg.Certificates = m.certs
	cfg.DynamicRecordSizingDisabled = true // a record is what a turn has gathered: small ones cost more than they bring
	if d.server != nil {
		c.serverConfig(d, cfg, m)
		d.server.Store(cfg)
	} else {
		d.client.Store(d.clientConfigs(cfg, m))
	}
	if !d.ready || d.made == nil || !sameCerts(d.made, m) {
		c.renewed = append(c.renewed, shortType(d.typ)+" "+d.name)
	}
	d.made, d.ready, d.stale = m, true, nil
	c.countExpiry(d)
}

func sameCerts(a, b *material) bool {
	return slices.EqualFunc(a.certs, b.certs, func(x, y tls.Certificate) bool {
		return slices.EqualFunc(x.Certificate, y.Certificate, bytes.Equal)
	}) && slices.EqualFunc(a.cas, b.cas, func(x, y *x509.Certificate) bool { return x.Equal(y) })
}

func (c *Compiler) serverConfig(d *tlsDef, cfg *tls.Config, m *material) {
	v := m.check
	switch {
	case v == nil || v.roots == nil && len(v.hashes)+len(v.spkis) == 0:
		if d.require {
			cfg.ClientAuth = tls.RequireAnyClientCert
		}
	case v.roots == nil && d.require:
		cfg.ClientAuth = tls.RequireAnyClientCert
	case v.roots == nil:
		cfg.ClientAuth = tls.RequestClientCert
	case d.require: // crypto/tls verifies, which gives the client an alert that says what is wrong
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, v.roots
	default:
		cfg.ClientAuth, cfg.ClientCAs = tls.VerifyClientCertIfGiven, v.roots
	}
	requireSNI := d.requireSNI
	if v != nil || requireSNI {
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if requireSNI && s.ServerName == "" {
				return errNoSNI
			}
			if v == nil {
				return nil
			}
			return v.judge(s, x509.ExtKeyUsageClientAuth, "")
		}
	}
	c.setTicketKeys(cfg, d, v)
}

var errNoSNI = errors.New("tls: the client named no server (SNI), and must")

// setTicketKeys derives the keys of session tickets from one that lives as long as the process: a renewed certificate
// leaves sessions valid, another way to judge clients does not.
func (c *Compiler) setTicketKeys(cfg *tls.Config, d *tlsDef, v *validation) {
	day := c.at.UnixNano() / int64(ticketAge)
	var keys [][32]byte
	for _, n := range []int64{day, day - 1} {
		h := hmac.New(sha256.New, c.ticketSecret[:])
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		h.Write(b[:])
		fmt.Fprintf(h, "%s %t %t ", d.name, d.require, d.requireSNI)
		if v != nil {
			h.Write(v.print[:])
		}
		keys = append(keys, [32]byte(h.Sum(nil)))
	}
	cfg.SetSessionTicketKeys(keys)
	d.keyDay = day
}

func (d *tlsDef) clientConfigs(cfg *tls.Config, m *material) *snapshot.ClientConfigs {
	v, sni := m.check, ""
	if d.sniSAN {
		sni = cfg.ServerName
	}
	cfg.InsecureSkipVerify = true // as Envoy: a certificate is judged as the validation context says, and by nothing else
	if v != nil {
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return v.judge(s, x509.ExtKeyUsageServerAuth, sni) }
	}
	if d.sessions > 0 {
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(d.sessions)
	}
	alpn := func(protocols ...string) *tls.Config {
		if len(d.alpn) > 0 {
			protocols = d.alpn
		}
		k := cfg.Clone()
		k.NextProtos = protocols
		return k
	}
	return &snapshot.ClientConfigs{HTTP1: alpn("http/1.1"), HTTP2: alpn("h2"), TCP: alpn()}
}

// contexts are those of all listeners and clusters, of waiting versions too.
func (c *Compiler) contexts() (out []*tlsDef) {
	for _, u := range c.units {
		for _, v := range u.versions() {
			out = append(out, v.def.contexts()...)
		}
	}
	for _, cs := range c.clusters {
		if d := cs.def.tls; d != nil {
			out = append(out, d)
		}
	}
	return out
}

func (d *listenerDef) contexts() (out []*tlsDef) {
	for _, cd := range d.chains {
		if cd.tls != nil {
			out = append(out, cd.tls)
		}
	}
	return out
}

func (d *tlsDef) refs() (out []*secretRef) {
	for _, s := range d.certs {
		if s.ref != nil {
			out = append(out, s.ref)
		}
	}
	if d.checkSDS != nil {
		out = append(out, d.checkSDS)
	}
	return out
}

// setSecret takes in a secret that was checked alone, and gives it to those that refer to it; where it does not fit one of
// them, it is refused and the last one stays.
func (c *Compiler) setSecret(r *report, m *tlsv3.Secret) {
	files := map[string]stamp{}
	checkSecret(r, m, reading(files))
	if !r.ok() {
		return
	}
	old, had := c.secrets[m.GetName()]
	c.secrets[m.GetName()] = m
	var users []*tlsDef
	for _, d := range c.contexts() {
		if slices.ContainsFunc(d.refs(), func(ref *secretRef) bool { return ref.file == "" && ref.name == m.GetName() }) {
			users = append(users, d)
		}
	}
	for _, d := range users {
		inner := &report{}
		kept := d.files
		c.material(inner, d) // only to see whether it fits
		d.files = kept
		for _, e := range inner.errs {
			r.add("", "does not fit %s %s: %s %s", shortType(d.typ), d.name, e.path, e.reason)
		}
	}
	if !r.ok() {
		delete(c.secrets, m.GetName())
		if had {
			c.secrets[m.GetName()] = old
		}
		return
	}
	for _, d := range users {
		c.renew(r, d)
	}
}

// poll renews the contexts whose files have changed and those whose ticket keys are a day old. What is wrong with a
// changed file is told, and what was read before it stays in use.
func (c *Compiler) poll(now time.Time, res *Result) {
	ds := c.contexts()
	if len(ds) == 0 {
		return
	}
	wait := ticketAge
	for _, d := range ds {
		if len(d.files) > 0 {
			wait = pollFiles
		}
	}
	if now.Before(c.pollAt) {
		sooner(&res.Next, c.pollAt)
		return
	}
	c.pollAt = now.Add(wait)
	sooner(&res.Next, c.pollAt)
	day := now.UnixNano() / int64(ticketAge)
	for _, d := range ds {
		changed := false
		for name, s := range d.files {
			changed = changed || !s.same(stampOf(name))
		}
		if !changed && (d.server == nil || d.keyDay == day || !d.ready) {
			continue
		}
		r := &report{}
		c.renew(r, d)
		d.stale = r.errs
		for _, e := range r.errs {
			res.Errors = append(res.Errors, ResourceError{TypeURL: d.typ, Name: d.name, Field: e.path, Reason: e.reason + "; what was read before stays in use"})
		}
	}
}

// Certificate is one that is in use, or one of a CA that others are judged by.
type Certificate struct {
	// TypeURL and Name are the resource's that it is for, Field where in it.
	TypeURL, Name, Field string
	// CA: it judges others; else it is shown to them.
	CA bool
	// Subject, Issuer and Serial are the certificate's; Names what it is for.
	Subject, Issuer, Serial string
	Names                   []string
	NotBefore, NotAfter     time.Time
	// Error says why it could not be renewed, "" where nothing is wrong.
	Error string
}

// Certificates returns all that are in use, by resource.
func (c *Compiler) Certificates() []Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Certificate
	for _, d := range c.contexts() {
		if d.made == nil {
			continue
		}
		problem := ""
		if len(d.stale) > 0 {
			problem = d.stale[0].path + " " + d.stale[0].reason
		}
		add := func(x *x509.Certificate, ca bool, field string) {
			out = append(out, Certificate{
				TypeURL: d.typ, Name: d.name, Field: field, CA: ca, Subject: x.Subject.String(), Issuer: x.Issuer.String(),
				Serial: x.SerialNumber.Text(16), Names: sanTexts(x), NotBefore: x.NotBefore, NotAfter: x.NotAfter, Error: problem,
			})
		}
		for i, k := range d.made.certs {
			add(k.Leaf, false, d.certs[i].path)
		}
		for _, x := range d.made.cas {
			add(x, true, join(d.path, "common_tls_context"))
		}
	}
	slices.SortStableFunc(out, func(a, b Certificate) int { return bytes.Compare([]byte(a.TypeURL+a.Name), []byte(b.TypeURL+b.Name)) })
	return out
}

// countExpiry shows when the first of a context's certificates ends.
func (c *Compiler) countExpiry(d *tlsDef) {
	for _, set := range []struct {
		kind string
		ends []time.Time
	}{{"own", ends(d.made.certs)}, {"ca", caEnds(d.made.cas)}} {
		if len(set.ends) == 0 {
			continue
		}
		c.opts.Stats.Gauge("outrigger_tls_certificate_expiry_timestamp_seconds", "When the first of the certificates that are in use ends, in Unix time.",
			stat.Label{Name: "resource", Value: shortType(d.typ)}, stat.Label{Name: "name", Value: d.name}, stat.Label{Name: "kind", Value: set.kind},
		).Set(slices.MinFunc(set.ends, time.Time.Compare).Unix())
	}
}

func ends(certs []tls.Certificate) (out []time.Time) {
	for _, k := range certs {
		out = append(out, k.Leaf.NotAfter)
	}
	return out
}

func caEnds(cas []*x509.Certificate) (out []time.Time) {
	for _, x := range cas {
		out = append(out, x.NotAfter)
	}
	return out
}

// wantedSecrets are those that are asked for by ADS.
func (c *Compiler) wantedSecrets() map[string]bool {
	out := map[string]bool{}
	for _, d := range c.contexts() {
		for _, ref := range d.refs() {
			if ref.ads {
				out[ref.name] = true
			}
		}
	}
	for name := range maps.Clone(c.secrets) { // let go of what nothing refers to
		if e := c.entries[SecretType][name]; !out[name] && (e == nil || !e.static) {
			delete(c.secrets, name)
			delete(c.entries[SecretType], name)
		}
	}
	return out
}
