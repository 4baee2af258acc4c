package pipeline

import (
	"strconv"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer/consistenthash"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// requestID keeps or makes the x-request-id. That of a caller from outside is not believed, unless told (Envoy:
// preserve_external_request_id).
func (s *Stream) requestID() {
	if v, ok := s.Req.Header.GetKnown(exchange.XRequestID); ok && v != "" && len(v) <= 128 &&
		(s.http.PreserveRequestID || !s.http.UseRemoteAddress) {
		s.ID = v
		return
	}
	b := s.Alloc(36)[:0]
	b = appendUUID(b, s.w.Rand(), s.w.Rand())
	s.ID = viewString(b)
	s.Req.Header.SetKnown(exchange.XRequestID, s.ID)
}

// appendUUID appends a version 4 UUID; not for secrets.
func appendUUID(b []byte, x, y uint64) []byte {
	x = x&^0xf000 | 0x4000
	y = y&^(3<<62) | 2<<62
	b = appendHex(b, x>>32, 8)
	b = append(b, '-')
	b = appendHex(b, x>>16&0xffff, 4)
	b = append(b, '-')
	b = appendHex(b, x&0xffff, 4)
	b = append(b, '-')
	b = appendHex(b, y>>48, 4)
	b = append(b, '-')
	return appendHex(b, y&(1<<48-1), 12)
}

func appendHex(b []byte, v uint64, n int) []byte {
	const digits = "0123456789abcdef"
	for i := n - 1; i >= 0; i-- {
		b = append(b, digits[v>>(4*uint(i))&15])
	}
	return b
}

// normalize applies RFC 3986 §6 to the path as Envoy's normalize_path does; false: the path cannot be.
func (s *Stream) normalize() bool {
	p := s.Req.Path
	if s.http.NormalizePath {
		n, ok := normalizePath(p)
		if !ok {
			return false
		}
		p = n
	}
	if s.http.MergeSlashes && strings.Contains(p, "//") {
		p = mergeSlashes(p)
	}
	s.Req.Path = p
	return true
}

// escapeInPath are the characters that stand in a path only percent-encoded (RFC 3986 §3.3, as Envoy takes it); special
// are those at which normalization has something to do.
var escapeInPath, special = func() (escape, special [256]bool) {
	for c := range 256 {
		escape[c] = c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>^`{|}", byte(c)) >= 0
		special[c] = escape[c] || c == '%' || c == '\\' || c == '.'
	}
	return escape, special
}()

// normalizePath removes dot segments, turns backslashes into slashes, decodes percent-encoded unreserved characters and
// encodes what may not stand in a path. A path that needs none of it is returned as it is. It refuses NUL, encoded
// too, and malformed encodings: what would become of those behind us nobody knows.
func normalizePath(p string) (string, bool) {
	plain := true
	end := len(p)
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '?' || c == '#' {
			end = i
			break
		}
		if special[c] && (c != '.' || i > 0 && p[i-1] == '/') {
			plain = false
		}
	}
	if plain {
		return p, true
	}
	path, rest := p[:end], p[end:]
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(path)+16)
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == 0:
			return "", false
		case c == '\\':
			b = append(b, '/')
		case c == '%':
			if i+2 >= len(path) {
				return "", false
			}
			hi, lo := unhex(path[i+1]), unhex(path[i+2])
			if hi > 15 || lo > 15 {
				return "", false
			}
			d := hi<<4 | lo
			if d == 0 {
				return "", false
			}
			if unreserved(d) {
				b = append(b, d)
			} else {
				b = append(b, path[i:i+3]...) // the service may care for the case of hex digits
			}
			i += 2
		case escapeInPath[c]:
			b = append(b, '%', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	out := make([]string, 0, 8)
	segs := strings.Split(string(b), "/")
	for i, seg := range segs {
		last := i == len(segs)-1
		switch seg {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 1 { // above the root is the root (RFC 3986 §5.2.4)
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, seg)
		}
	}
	n := strings.Join(out, "/")
	if n == "" {
		n = "/"
	}
	return n + rest, true
}

func unhex(c byte) byte {
	switch {
	case c-'0' < 10:
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func mergeSlashes(p string) string {
	b := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] == '?' {
			return string(append(b, p[i:]...))
		}
		if p[i] == '/' && len(b) > 0 && b[len(b)-1] == '/' {
			continue
		}
		b = append(b, p[i])
	}
	return string(b)
}

// rewrite applies the route's rewrites to the request.
func (s *Stream) rewrite() {
	f := s.fwd
	if f.PathRewrite != "" {
		q := s.Req.Path[len(s.Req.PathOnly()):]
		s.Req.Path = s.Concat(f.PathRewrite, q)
	} else if f.PrefixRewrite != "" {
		m := &s.route.Match
		if (m.Kind == snapshot.PathPrefix || m.Kind == snapshot.PathSegments || m.Kind == snapshot.PathExact) && len(s.Req.Path) >= len(m.Path) {
			s.Req.Path = rewritePrefix(s.Req.Path, m.Path, f.PrefixRewrite)
		}
	}
	if f.HostRewrite != "" {
		if f.ForwardHost {
			s.append(&s.Req.Header, exchange.XForwardedHost, s.Req.Authority)
		}
		s.Req.Authority = f.HostRewrite
		if s.Req.Header.Has(exchange.Host) {
			s.Req.Header.SetKnown(exchange.Host, f.HostRewrite)
		}
	}
}

// rewritePrefix replaces a matched prefix; the result never lacks or doubles the slash between.
func rewritePrefix(path, prefix, to string) string {
	rest := path[len(prefix):]
	switch {
	case strings.HasSuffix(to, "/") && strings.HasPrefix(rest, "/"):
		rest = rest[1:]
	case rest != "" && rest[0] != '/' && rest[0] != '?' && !strings.HasSuffix(to, "/") && strings.HasSuffix(prefix, "/"):
		to += "/"
	}
	if to == "" && (rest == "" || rest[0] != '/') {
		to = "/"
	}
	return to + rest
}

// hash computes the consistent-hashing key from the route's policies, as Envoy combines them.
func (s *Stream) hash() {
	for i := range s.fwd.Hash {
		p := &s.fwd.Hash[i]
		v, ok := "", false
		switch {
		case p.Header != "":
			if p.Header[0] == ':' {
				switch p.Header {
				case ":path":
					v, ok = s.Req.Path, true
				case ":authority":
					v, ok = s.Req.Authority, true
				case ":method":
					v, ok = s.Req.Method, true
				}
			} else {
				v, ok = s.Req.Header.Get(p.Header)
			}
		case p.Cookie != "":
			v, ok = s.cookie(p.Cookie)
		case p.Query != "":
			v, ok = queryValue(s.Req.Query(), p.Query)
		case p.SourceIP:
			if s.Client.IsValid() {
				b := s.Alloc(64)[:0]
				v, ok = viewString(s.Client.AppendTo(b)), true
			}
		}
		if !ok {
			continue
		}
		h := consistenthash.Hash(v)
		if s.HasHash {
			h = s.Hash<<1 | s.Hash>>63 ^ h
		}
		s.Hash, s.HasHash = h, true
		if p.Terminal {
			return
		}
	}
}

func (s *Stream) cookie(name string) (string, bool) {
	v, ok := s.Req.Header.GetKnown(exchange.Cookie)
	for ok && v != "" {
		part, rest, _ := strings.Cut(v, ";")
		k, val, has := strings.Cut(strings.TrimSpace(part), "=")
		if has && k == name {
			return val, true
		}
		v = rest
	}
	return "", false
}

func queryValue(q, name string) (string, bool) {
	for q != "" {
		part, rest, _ := strings.Cut(q, "&")
		k, v, _ := strings.Cut(part, "=")
		if k == name {
			return v, true
		}
		q = rest
	}
	return "", false
}

// grpcDeadline begins the call's deadline from grpc-timeout; false: the call has been answered.
func (s *Stream) grpcDeadline(now int64) bool {
	if !s.fwd.UseGRPCTimeout {
		return true
	}
	v, ok := s.Req.Header.GetKnown(exchange.GRPCTimeout)
	if !ok {
		return true
	}
	d, ok := parseGRPCTimeout(v)
	if !ok {
		s.fail(400, exchange.DownstreamProtocolError, "malformed grpc-timeout")
		return false
	}
	if m := s.fwd.GRPCTimeoutMax; m > 0 && d > m {
		d = m
	}
	s.expires = max(s.Start+int64(d), 1)
	if s.expires <= now {
		s.timedOut()
		return false
	}
	s.idleTimer = false
	s.w.Loop.SetTimer(&s.deadline, time.Duration(s.expires-now), s)
	return true
}

// setGRPCTimeout tells the upstream what is left of the call's time.
func (s *Stream) setGRPCTimeout() {
	left := max(s.expires-s.w.Loop.Now(), 0)
	b := s.Alloc(12)[:0]
	b = appendGRPCTimeout(b, left)
	s.Req.Header.SetKnown(exchange.GRPCTimeout, viewString(b))
}

// parseGRPCTimeout reads a grpc-timeout: up to eight digits and a unit.
func parseGRPCTimeout(v string) (time.Duration, bool) {
	n := len(v) - 1
	if n < 1 || n > 8 {
		return 0, false
	}
	var d int64
	for i := range n {
		c := v[i] - '0'
		if c > 9 {
			return 0, false
		}
		d = d*10 + int64(c)
	}
	switch v[n] {
	case 'H':
		if d > 2_000_000 {
			d = 2_000_000 // a duration holds no more
		}
		return time.Duration(d) * time.Hour, true
	case 'M':
		return time.Duration(d) * time.Minute, true
	case 'S':
		return time.Duration(d) * time.Second, true
	case 'm':
		return time.Duration(d) * time.Millisecond, true
	case 'u':
		return time.Duration(d) * time.Microsecond, true
	case 'n':
		return time.Duration(d), true
	}
	return 0, false
}

// appendGRPCTimeout writes a duration in the finest unit that fits eight digits, rounded up.
func appendGRPCTimeout(b []byte, ns int64) []byte {
	unit := [...]struct {
		c byte
		n int64
	}{{'n', 1}, {'u', 1e3}, {'m', 1e6}, {'S', 1e9}, {'M', 60e9}, {'H', 3600e9}}
	for _, u := range unit {
		if v := (ns + u.n - 1) / u.n; v < 100_000_000 {
			return append(strconv.AppendInt(b, v, 10), u.c)
		}
	}
	return append(b, "99999999H"...)
}

// Jitter is d ± 10 %, in nanoseconds, so that connections of one age do not end together.
func Jitter(d time.Duration, rnd uint64) int64 {
	n := int64(d)
	return n - n/10 + int64(rnd>>11)%(n/5+1)
}
