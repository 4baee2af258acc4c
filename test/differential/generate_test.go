package differential

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes scripts. All that is random comes from r.
type generator struct {
	r  *rand.Rand
	id int
}

func (g *generator) one(of ...string) string { return of[g.r.IntN(len(of))] }
func (g *generator) num(of ...int) int       { return of[g.r.IntN(len(of))] }
func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

// kinds are what exchanges are about, with how many there are of each.
var kinds = []struct {
	name  string
	count int
	make  func(g *generator, s *script)
}{
	{"plain", 260, plain},
	{"trailers", 80, trailers},
	{"no-body", 60, noBody},
	{"informational", 50, informational},
	{"expect", 40, expect},
	{"early-answer", 60, earlyAnswer},
	{"caller-leaves", 80, callerLeaves},
	{"upstream-breaks", 100, upstreamBreaks},
	{"half-close", 40, halfClose},
	{"fields", 100, oddFields},
	{"paths", 80, paths},
	{"malformed", 0, nil}, // see malformed
	{"grpc", 100, grpc},
	{"routes", 60, routes},
	{"retry", 50, retry},
	{"timeout", 24, timeout},
	{"websocket", 20, websocket},
	{"http10", 30, http10},
	{"large", 20, large},
	{"goaway", 10, goAway},
	{"tcp", 60, tcp},
}

// generate makes all scripts of a seed.
func generate(seed uint64) (all []*script) {
	g := &generator{r: rand.New(rand.NewPCG(seed, 1))}
	for _, k := range kinds {
		for range k.count {
			g.id++
			s := &script{
				id: g.id, kind: k.name, down: 1 + g.r.IntN(2), up: 1 + g.r.IntN(2), method: "GET", host: "differential.example",
				path: fmt.Sprintf("/case-%d", g.id),
			}
			k.make(g, s)
			s.fields = append(s.fields, field{"X-Case", fmt.Sprint(s.id)})
			if s.down == 2 && s.frame == "chunked" {
				s.frame = ""
			}
			all = append(all, s)
		}
	}
	for _, m := range malformed {
		for up := 1; up <= 2; up++ {
			g.id++
			s := &script{id: g.id, kind: "malformed", down: 1, up: up, method: "with", path: m.what, local: true, raw: m.raw}
			s.ops = []op{{who: 'c', do: "head", end: true}}
			s.tries = [][]op{{{do: "head", status: 200, frame: "length", end: true}}} // where it is taken
			all = append(all, s)
		}
	}
	return all
}

// request makes the caller's part: head, body in pieces, end.
func (g *generator) request(s *script, sizes ...int) {
	total := 0
	for _, n := range sizes {
		total += n
	}
	if len(sizes) == 0 {
		s.ops = append(s.ops, op{who: 'c', do: "head", end: true})
		return
	}
	s.frame = g.one("length", "chunked")
	if s.down == 2 {
		s.frame = g.one("length", "")
	}
	s.length = total
	s.ops = append(s.ops, op{who: 'c', do: "head"})
	for i, n := range sizes {
		last := i == len(sizes)-1
		s.ops = append(s.ops, op{who: 'c', do: "data", n: n, end: last && g.chance(50)})
	}
	if last := &s.ops[len(s.ops)-1]; !last.end {
		s.ops = append(s.ops, op{who: 'c', do: "end"})
	}
}

// answer makes the upstream's part.
func (g *generator) answer(s *script, status int, fs []field, sizes ...int) {
	total := 0
	for _, n := range sizes {
		total += n
	}
	o := op{who: 'u', do: "head", status: status, fields: fs, length: total}
	if len(sizes) == 0 {
		o.frame, o.end = "length", true
		s.ops = append(s.ops, o)
		return
	}
	o.frame = g.one("length", "chunked", "close")
	if s.up == 2 {
		o.frame = g.one("length", "")
	}
	s.ops = append(s.ops, o)
	for i, n := range sizes {
		last := i == len(sizes)-1
		s.ops = append(s.ops, op{who: 'u', do: "data", n: n, end: last && g.chance(50)})
	}
	if last := &s.ops[len(s.ops)-1]; !last.end {
		s.ops = append(s.ops, op{who: 'u', do: "end"})
	}
}

func (g *generator) sizes(most int) (l []int) {
	for range g.r.IntN(most + 1) {
		l = append(l, g.num(1, 2, 100, 1000, 4095, 4096, 8191, 16384, 16385, 30000))
	}
	return l
}

func (g *generator) someFields() (fs []field) {
	for i := range g.r.IntN(4) {
		fs = append(fs, field{fmt.Sprintf("X-Field-%d", g.r.IntN(3)), fmt.Sprintf("value %d", i)})
	}
	return fs
}

func plain(g *generator, s *script) {
	s.method = g.one("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE")
	s.fields = g.someFields()
	var up []int
	if s.method != "GET" {
		up = g.sizes(3)
	}
	g.request(s, up...)
	g.answer(s, g.num(200, 200, 200, 201, 202, 206, 301, 400, 401, 403, 404, 409, 429, 500, 502, 503, 504, 599), append(g.someFields(), field{"Content-Type", "text/plain"}), g.sizes(3)...)
}

func trailers(g *generator, s *script) {
	s.method = "POST"
	if g.chance(50) {
		g.request(s, 100, 2000)
		if s.down == 1 {
			s.frame = "chunked"
			s.fields = append(s.fields, field{"Trailer", "X-Sum"})
		}
		last := len(s.ops) - 1
		if s.ops[last].do == "end" {
			s.ops = s.ops[:last]
		} else {
			s.ops[last].end = false
		}
		s.ops = append(s.ops, op{who: 'c', do: "trailers", fields: []field{{"X-Sum", "42"}, {"X-More", "a, b"}}})
	} else {
		g.request(s)
	}
	o := op{who: 'u', do: "head", status: 200, fields: g.someFields(), frame: "chunked"}
	if s.up == 2 {
		o.frame = ""
	}
	if g.chance(30) {
		o.fields = append(o.fields, field{"Trailer", "X-Result"})
	}
	s.fields = append(s.fields, field{"TE", "trailers"})
	s.ops = append(s.ops, o)
	for range g.r.IntN(3) {
		s.ops = append(s.ops, op{who: 'u', do: "data", n: g.num(1, 500, 20000)})
	}
	s.ops = append(s.ops, op{who: 'u', do: "trailers", fields: []field{{"X-Result", "done"}, {"Server-Timing", "db;dur=1"}}})
}

func noBody(g *generator, s *script) {
	switch g.r.IntN(3) {
	case 0:
		s.method = "HEAD"
		g.request(s)
		o := op{who: 'u', do: "head", status: g.num(200, 404, 500), frame: g.one("length", "", "chunked"), length: 1234, end: true}
		if s.up == 2 && o.frame == "chunked" {
			o.frame = ""
		}
		s.ops = append(s.ops, o)
	case 1:
		g.request(s)
		o := op{who: 'u', do: "head", status: 304, frame: g.one("length", ""), length: 77, end: true, fields: []field{{"ETag", `"x"`}}}
		s.ops = append(s.ops, o)
	default:
		s.method = g.one("GET", "PUT", "DELETE")
		g.request(s)
		s.ops = append(s.ops, op{who: 'u', do: "head", status: 204, end: true})
	}
}

func informational(g *generator, s *script) {
	s.method = g.one("GET", "POST")
	if s.method == "POST" {
		g.request(s, 10)
	} else {
		g.request(s)
	}
	for range 1 + g.r.IntN(2) {
		s.ops = append(s.ops, op{who: 'u', do: "info", status: 103, fields: []field{{"Link", "</a.css>; rel=preload"}}})
	}
	g.answer(s, 200, nil, g.sizes(2)...)
}

// expect: the caller waits for 100 before it sends its body, or is refused.
func expect(g *generator, s *script) {
	s.method = "PUT"
	s.fields = []field{{"Expect", "100-continue"}}
	s.frame, s.length = "length", 500
	s.ops = []op{{who: 'c', do: "head"}, {who: 'c', do: "data", n: 500, end: true}}
	g.answer(s, 200, nil, 10)
}

// earlyAnswer: the upstream answers before the request is whole, and the caller, seeing that, stops.
func earlyAnswer(g *generator, s *script) {
	s.method = "POST"
	s.frame, s.length = g.one("length", "chunked"), 100_000
	s.ops = append(s.ops, op{who: 'c', do: "head"}, op{who: 'c', do: "data", n: g.num(1, 1000, 20000)})
	g.answer(s, g.num(200, 403, 413, 500), nil, g.sizes(2)...)
}

func callerLeaves(g *generator, s *script) {
	s.method = "POST"
	how := op{who: 'c', do: g.one("close", "reset"), code: 8}
	switch g.r.IntN(3) {
	case 0: // within its request
		s.frame, s.length = g.one("length", "chunked"), 50_000
		s.ops = append(s.ops, op{who: 'c', do: "head"}, op{who: 'c', do: "data", n: g.num(1, 1000, 20000)}, how)
	case 1: // waiting
		g.request(s, g.sizes(2)...)
		s.ops = append(s.ops, how)
	default: // within the answer
		g.request(s, g.sizes(1)...)
		o := op{who: 'u', do: "head", status: 200, frame: g.one("length", "chunked"), length: 50_000}
		if s.up == 2 {
			o.frame = ""
		}
		s.ops = append(s.ops, o, op{who: 'u', do: "data", n: 3000}, how)
	}
}

func upstreamBreaks(g *generator, s *script) {
	s.method = g.one("GET", "POST")
	if s.method == "POST" {
		g.request(s, g.sizes(2)...)
	} else {
		g.request(s)
	}
	reset := op{who: 'u', do: "reset", code: uint32(g.num(0, 1, 2, 8, 11))}
	switch g.r.IntN(3) {
	case 0: // before its answer; a POST, since what is idempotent we ask again where the connection had been used before
		if s.method == "GET" {
			s.method, s.ops = "POST", nil
			g.request(s)
		}
		s.ops = append(s.ops, reset)
	case 1: // within it
		o := op{who: 'u', do: "head", status: 200, frame: g.one("length", "chunked"), length: 50_000}
		if s.up == 2 {
			o.frame = g.one("length", "")
		}
		s.ops = append(s.ops, o, op{who: 'u', do: "data", n: g.num(1, 3000)}, reset)
	default: // an answer that is none
		if s.up == 2 {
			s.ops = append(s.ops, op{who: 'u', do: "head", status: g.num(200, 503), frame: "length", length: 3}, op{who: 'u', do: "data", n: 10, end: true})
			return
		}
		s.ops = append(s.ops, op{who: 'u', do: "write", text: g.one(
			"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "SSH-2.0-x\r\n", "HTTP/1.1 999 No\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		)}, op{who: 'u', do: "reset"})
	}
}

// halfClose: the caller closes its half behind its request. That cannot be told from a caller that has gone.
func halfClose(g *generator, s *script) {
	s.down = 1
	s.method = g.one("GET", "POST")
	if s.method == "POST" {
		g.request(s, g.sizes(2)...)
	} else {
		g.request(s)
	}
	s.ops = append(s.ops, op{who: 'c', do: "half"})
}

func oddFields(g *generator, s *script) {
	long := strings.Repeat("l", g.num(1000, 8000, 20000))
	many := func() (fs []field) {
		for i := range 60 {
			fs = append(fs, field{fmt.Sprintf("x-many-%d", i), strings.Repeat("m", i)})
		}
		return fs
	}
	h1only := s.down == 1
	list := [][]field{
		{{"X-Empty", ""}},
		{{"X-Twice", "1"}, {"x-twice", "2"}, {"X-TWICE", "1"}},
		{{"X-Long", long}},
		many(),
		{{"X-Text", "caf\xc3\xa9 \xff\xfe"}},
		{{"X-Tab", "a\tb"}},
		{{"X-Odd!#$%&'*+.^_`|~", "x"}},
		{{"Cookie", "a=b; c=d"}, {"Cookie", "e=f"}},
		{{"X-Forwarded-For", "192.0.2.7"}},
		{{"X-Forwarded-For", "192.0.2.7, 198.51.100.9"}, {"X-Forwarded-Proto", "https"}},
		{{"Via", "1.1 other"}},
		{{"Forwarded", "for=192.0.2.7"}},
		{{"X-Request-Id", "mine"}},
		{{"Accept-Encoding", "gzip"}, {"Range", "bytes=0-1"}},
		{{"Authorization", "Bearer x.y.z"}},
		{{"Content-Type", "text/plain; charset=\"utf-8\""}},
		{{"User-Agent", ""}},
		{{"X-Comma", "a,,b"}, {"X-Comma", ""}},
		{{"X_Under_Score", "1"}},
		{{"Date", "Tue, 15 Nov 1994 08:12:31 GMT"}},
		{{"TE", "trailers"}},
		{{"Max-Forwards", "3"}},
		{{"Server", "mine"}},
		{{"Warning", "199 x \"y\""}},
	}
	if h1only {
		list = append(list,
			[]field{{"Connection", "X-Nominated"}, {"X-Nominated", "1"}}, []field{{"Connection", "close, X-Nominated"}, {"X-Nominated", "1"}, {"X-Stays", "1"}},
			[]field{{"Keep-Alive", "timeout=5"}, {"Connection", "keep-alive"}}, []field{{"Proxy-Connection", "keep-alive"}}, []field{{"TE", "gzip, trailers"}},
			[]field{{"Upgrade", "h2c"}, {"Connection", "upgrade, HTTP2-Settings"}, {"HTTP2-Settings", "AAMAAABkAAQAAP__"}}, []field{{"Connection", "close"}})
	}
	s.fields = list[g.r.IntN(len(list))]
	g.request(s)
	answers := [][]field{
		{{"X-Empty", ""}},
		{{"Set-Cookie", "a=b"}, {"Set-Cookie", "c=d; Path=/"}},
		{{"X-Long", long}},
		many(),
		{{"X-Text", "\xe2\x82\xac\xff"}},
		{{"Date", "Tue, 15 Nov 1994 08:12:31 GMT"}},
		{{"Server", "theirs"}},
		{{"Location", "http://other/"}},
		{{"Content-Encoding", "gzip"}, {"Vary", "Accept-Encoding"}},
		{{"X-Twice", "1"}, {"X-Twice", "2"}},
		{{"Retry-After", "3"}},
		{{"Alt-Svc", "h3=\":443\""}},
		{{"X-Forwarded-For", "198.51.100.1"}},
		{{"X-Tab", "a\tb"}},
		{{"WWW-Authenticate", "Basic realm=\"x\""}},
	}
	if s.up == 1 {
		answers = append(answers, []field{{"Connection", "X-Hop"}, {"X-Hop", "1"}}, []field{{"Keep-Alive", "timeout=5"}}, []field{{"Connection", "close"}}, []field{{"Upgrade", "h2c"}}, []field{{"Proxy-Connection", "close"}})
	}
	g.answer(s, 200, answers[g.r.IntN(len(answers))], g.sizes(1)...)
}

func paths(g *generator, s *script) {
	p := fmt.Sprintf("case-%d", s.id)
	s.path = g.one("/a/../"+p, "/./"+p, "//"+p, "/a//b///"+p, "/"+p+"?x=/../y&z=//", "/"+p+"/%41%7e%2d", "/"+p+"/%2fx%2F", "/"+p+"/a%20b", "/"+p+"/..", "/"+p+"/.", "/x/%2e%2e/"+p,
		"/"+p+"/a\\b", "/"+p+"/%zz", "/"+p+"/%", "/"+p+"?%zz", "/"+p+"/caf\xc3\xa9", "/"+p+"/%C3%A9", "/../"+p, "/"+p+"/a;b=c", "/"+p+"/a:b@c!$&'()*+,=", "/"+p+"?", "/"+p+"??a=b?c", "/"+p+"/%00",
		"/"+p+"/\"<>^`{|}", "/"+p+"/[a]'", "/"+p+"/a%5Cb", "/"+p+"/...", "/"+p+"/.../..", "/"+p+"/a/b/../../c", "/"+p+"/%2E%2e/x", "/"+p+"#frag", "/"+p+"/"+strings.Repeat("x", 5000))
	s.host = g.one("differential.example", "differential.example", "differential.example:8080", "UPPER.example", "127.0.0.1", "[::1]:80", "a_b.example", "x")
	if s.down == 1 && g.chance(15) {
		s.path = "http://absolute.example" + s.path
	}
	g.request(s)
	g.answer(s, 200, nil, 3)
}

// malformed are heads (and what is behind) that a strict reader refuses, or that two readers could take differently. ID is
// the exchange's number.
var malformed = []struct{ what, raw string }{
	{"no Host", "GET /case-ID HTTP/1.1\r\n\r\n"},
	{"two Hosts", "GET /case-ID HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
	{"a space in Host", "GET /case-ID HTTP/1.1\r\nHost: a b\r\n\r\n"},
	{"bare LF", "GET /case-ID HTTP/1.1\nHost: a\n\n"},
	{"a folded line", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"},
	{"a space before the colon", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n"},
	{"a field without a colon", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"},
	{"an empty field name", "GET /case-ID HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"},
	{"NUL in a value", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n"},
	{"a control character in a value", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"},
	{"a bare CR in a value", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"},
	{"a space before the first field", "GET /case-ID HTTP/1.1\r\n Host: a\r\n\r\n"},
	{"two spaces before the target", "GET  /case-ID HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"two spaces behind the target", "GET /case-ID  HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"a space behind the version", "GET /case-ID HTTP/1.1 \r\nHost: a\r\n\r\n"},
	{"a tab in the request line", "GET\t/case-ID HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"HTTP/2.0", "GET /case-ID HTTP/2.0\r\nHost: a\r\n\r\n"},
	{"HTTP/1.2", "GET /case-ID HTTP/1.2\r\nHost: a\r\n\r\n"},
	{"a version in lower case", "GET /case-ID http/1.1\r\nHost: a\r\n\r\n"},
	{"no version", "GET /case-ID\r\n\r\n"},
	{"a method that is no token", "G@T /case-ID HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"a target without a slash", "GET case-ID HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"a control character in the target", "GET /case-ID\x01 HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"another scheme", "GET ftp://a/case-ID HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"an asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"Content-Length and Transfer-Encoding", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"two Content-Lengths", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"},
	{"a list of Content-Lengths", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc"},
	{"a sign in Content-Length", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"},
	{"Content-Length in hexadecimal", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc"},
	{"a negative Content-Length", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"},
	{"Content-Length beyond 64 bits", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"},
	{"a space in Content-Length", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc"},
	{"an empty Content-Length", "POST /case-ID HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"},
	{"gzip before chunked", "POST /case-ID HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
	{"gzip behind chunked", "POST /case-ID HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"},
	{"chunked twice", "POST /case-ID HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"an unknown coding", "POST /case-ID HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
	{"the coding identity", "POST /case-ID HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"},
	{"a vertical tab before chunked", "POST /case-ID HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"},
	{"chunked in HTTP/1.0", "POST /case-ID HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
	{"a head beyond 64 KiB", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70000) + "\r\n\r\n"},
	{"150 fields", "GET /case-ID HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 150) + "\r\n"},
	{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"},
	{"a name beyond ASCII", "GET /case-ID HTTP/1.1\r\nHost: a\r\nX\xff: b\r\n\r\n"},
	{"user information in Host", "GET /case-ID HTTP/1.1\r\nHost: user@a\r\n\r\n"},
	{"a slash in Host", "GET /case-ID HTTP/1.1\r\nHost: a/b\r\n\r\n"},
	{"a fragment", "TRACE /case-ID#x HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"a comma in Host", "GET /case-ID HTTP/1.1\r\nHost: a,b\r\n\r\n"},
}

func grpc(g *generator, s *script) {
	s.down, s.method, s.host = 2, "POST", "grpc.example"
	s.path = fmt.Sprintf("/case-%d.Service/Method", s.id)
	s.fields = []field{{"content-type", g.one("application/grpc", "application/grpc+proto")}, {"te", "trailers"}}
	if g.chance(30) {
		s.fields = append(s.fields, field{"grpc-accept-encoding", "gzip"}, field{"x-meta-bin", "AAEC"})
	}
	status := field{"grpc-status", g.one("0", "0", "0", "2", "5", "13", "14")}
	head := op{who: 'u', do: "head", status: 200, fields: []field{{"content-type", "application/grpc"}}, frame: "chunked"}
	if s.up == 2 {
		head.frame = ""
	}
	end := op{who: 'u', do: "trailers", fields: []field{status, {"grpc-message", "caf%C3%A9"}}}
	s.ops = append(s.ops, op{who: 'c', do: "head"})
	switch g.r.IntN(4) {
	case 0: // one and one
		s.ops = append(s.ops, op{who: 'c', do: "data", n: g.num(5, 100, 20000), end: true}, head, op{who: 'u', do: "data", n: g.num(5, 100, 20000)}, end)
	case 1: // both ways at once
		s.ops = append(s.ops, op{who: 'c', do: "data", n: 10}, head)
		for range 1 + g.r.IntN(4) {
			s.ops = append(s.ops, op{who: 'u', do: "data", n: g.num(5, 3000)}, op{who: 'c', do: "data", n: g.num(5, 3000)})
		}
		s.ops = append(s.ops, op{who: 'c', do: "end"}, end)
	case 2: // an answer of trailers alone
		s.ops = append(s.ops, op{who: 'c', do: "data", n: 20, end: true})
		o := op{who: 'u', do: "head", status: 200, fields: append(head.fields, end.fields...), end: true, frame: "length"}
		if s.up == 2 {
			o.frame = ""
		}
		s.ops = append(s.ops, o)
	default: // it breaks
		s.ops = append(s.ops, op{who: 'c', do: "data", n: 20, end: true})
		if g.chance(50) {
			s.ops = append(s.ops, head, op{who: 'u', do: "data", n: 50})
		}
		s.ops = append(s.ops, op{who: 'u', do: "reset", code: uint32(g.num(2, 8, 11))})
	}
}

func routes(g *generator, s *script) {
	p := fmt.Sprintf("case-%d", s.id)
	s.method = g.one("GET", "POST")
	switch g.r.IntN(6) {
	case 0:
		s.path, s.local = "/redirect/"+p+g.one("", "?a=b"), true
	case 1:
		s.path, s.local = "/https/"+p+g.one("", "?a=b"), true
		s.host = g.one("a.example", "a.example:8080")
	case 2:
		s.path, s.local = "/direct/"+p, true
		s.method = g.one("GET", "HEAD")
	case 3:
		s.path = "/rewrite/" + p + g.one("", "/x", "?q=/rewrite/", "/a%20b?c")
	case 4:
		s.path = "/headers/" + p
		s.fields = []field{{"X-Old", "old"}, {"X-Gone", "1"}, {"X-Added", "by-caller"}}
	default:
		s.path, s.local = "/nowhere/"+p, true
		if s.down == 2 && g.chance(50) {
			s.method = "POST"
			s.fields = []field{{"content-type", "application/grpc"}, {"te", "trailers"}}
		}
	}
	g.request(s)
	if !s.local {
		g.answer(s, 200, []field{{"X-Secret", "s"}, {"X-Answer", "by-upstream"}}, 5)
	}
}

func retry(g *generator, s *script) {
	s.path = fmt.Sprintf("/retry/case-%d", s.id)
	s.method = g.one("GET", "PUT", "DELETE")
	if s.method == "PUT" {
		g.request(s, g.sizes(2)...)
	} else {
		g.request(s)
	}
	bad := func() []op {
		if g.chance(50) {
			return []op{{do: "head", status: g.num(500, 502, 503, 504), frame: "length", length: 3}, {do: "data", n: 3, end: true}}
		}
		return []op{{do: "reset", code: uint32(g.num(2, 7, 11))}}
	}
	good := []op{{do: "head", status: g.num(200, 404), frame: "length", length: 5}, {do: "data", n: 5, end: true}}
	for range g.r.IntN(4) {
		s.tries = append(s.tries, bad())
	}
	s.tries = append(s.tries, good)
}

func timeout(g *generator, s *script) {
	p := fmt.Sprintf("case-%d", s.id)
	s.method = g.one("GET", "POST")
	silent := []op{{do: "silent"}}
	switch g.r.IntN(4) {
	case 0:
		s.path, s.tries = "/timeout/"+p, [][]op{silent}
	case 1:
		s.path, s.tries = "/try/"+p, [][]op{silent, {{do: "head", status: 200, frame: "length", length: 5}, {do: "data", n: 5, end: true}}}
		s.method = "GET"
	case 2:
		s.path, s.tries = "/try/"+p, [][]op{silent, silent, silent}
		s.method = "GET"
	default:
		s.down, s.method = 2, "POST"
		s.path, s.tries = "/grpc-timeout/"+p, [][]op{silent}
		s.fields = []field{{"content-type", "application/grpc"}, {"te", "trailers"}, {"grpc-timeout", "300m"}}
	}
	g.request(s)
}

func websocket(g *generator, s *script) {
	s.down, s.up = 1, 1
	s.fields = []field{{"Connection", g.one("upgrade", "Upgrade, keep-alive")}, {"Upgrade", g.one("websocket", "WebSocket")}, {"Sec-WebSocket-Key", "x"}}
	s.ops = append(s.ops, op{who: 'c', do: "head"})
	if g.chance(30) {
		g.answer(s, g.num(200, 403, 426), nil, 10)
		return
	}
	s.ops = append(s.ops, op{who: 'u', do: "head", status: 101, fields: []field{{"Connection", "upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Accept", "JVxkmtKFjDcI/Pm/AGPEKSN6wT8="}}})
	for range 1 + g.r.IntN(4) {
		s.ops = append(s.ops, op{who: 'c', do: "data", n: g.num(1, 2000)}, op{who: 'u', do: "data", n: g.num(1, 2000)})
	}
	s.ops = append(s.ops, op{who: 'u', do: "reset"})
}

// http10: the caller speaks HTTP/1.0, the upstream answers in any framing.
func http10(g *generator, s *script) {
	s.down = 1
	s.raw = "GET /case-ID HTTP/1.0\r\nHost: old.example\r\n" + g.one("", "Connection: keep-alive\r\n", "Connection: close\r\n") + "X-Case: ID\r\n\r\n"
	s.ops = append(s.ops, op{who: 'c', do: "head", end: true})
	g.answer(s, g.num(200, 404), g.someFields(), g.sizes(2)...)
}

// large: bodies beyond every window and buffer, both ways.
func large(g *generator, s *script) {
	s.method = "POST"
	var up, down []int
	for range 4 {
		up, down = append(up, 200_000), append(down, 200_000)
	}
	g.request(s, up...)
	g.answer(s, 200, nil, down...)
}

// goAway: the upstream announces its connection's end within an exchange, which goes on.
func goAway(g *generator, s *script) {
	s.up, s.alone = 2, true
	g.request(s)
	g.answer(s, 200, nil, 1000, 2000)
	s.ops = append(s.ops[:2:2], append([]op{{who: 'u', do: "goaway"}}, s.ops[2:]...)...)
}

// tcp: bytes both ways, halves that end at different times, resets.
func tcp(g *generator, s *script) {
	s.down, s.up, s.method, s.path = 0, 0, "", ""
	s.ops = append(s.ops, op{who: 'c', do: "head"})
	for range g.r.IntN(4) {
		s.ops = append(s.ops, op{who: []byte("cu")[g.r.IntN(2)], do: "data", n: g.num(1, 1000, 40000)})
	}
	switch g.r.IntN(5) {
	case 0: // the caller ends first, and still reads
		s.ops = append(s.ops, op{who: 'c', do: "end"}, op{who: 'u', do: "data", n: 5000}, op{who: 'u', do: "end"})
	case 1: // the upstream ends first, and still reads
		s.ops = append(s.ops, op{who: 'u', do: "end"}, op{who: 'c', do: "data", n: 5000}, op{who: 'c', do: "end"})
	case 2:
		s.ops = append(s.ops, op{who: 'c', do: "reset"})
	case 3:
		s.ops = append(s.ops, op{who: 'u', do: "reset"})
	default:
		s.ops = append(s.ops, op{who: 'c', do: "close"})
	}
}
