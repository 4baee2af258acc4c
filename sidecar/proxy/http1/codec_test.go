package http1

import (
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

func parse(s string, lim Limits) (exchange.Head, Framing, int, *Error) {
	var h exchange.Head
	var f Framing
	h.Reset()
	n, err := ParseRequest([]byte(s), &h, &f, lim)
	return h, f, n, err
}

func TestParseRequestRefuses(t *testing.T) {
	const ok = "Host: x\r\n"
	for name, c := range map[string]struct {
		in     string
		status int
	}{
		"both lengths (RFC 9112 §6.1)":                   {"POST / HTTP/1.1\r\n" + ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"both lengths, the other order":                  {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400},
		"two differing lengths (§6.3)":                   {"POST / HTTP/1.1\r\n" + ok + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400},
		"a list of lengths (§6.3)":                       {"POST / HTTP/1.1\r\n" + ok + "Content-Length: 3, 3\r\n\r\n", 400},
		"a signed length (RFC 9110 §8.6)":                {"POST / HTTP/1.1\r\n" + ok + "Content-Length: +3\r\n\r\n", 400},
		"a negative length":                              {"POST / HTTP/1.1\r\n" + ok + "Content-Length: -3\r\n\r\n", 400},
		"a hexadecimal length":                           {"POST / HTTP/1.1\r\n" + ok + "Content-Length: 0x3\r\n\r\n", 400},
		"a length with space inside":                     {"POST / HTTP/1.1\r\n" + ok + "Content-Length: 3 3\r\n\r\n", 400},
		"an empty length":                                {"POST / HTTP/1.1\r\n" + ok + "Content-Length:\r\n\r\n", 400},
		"a length that overflows":                        {"POST / HTTP/1.1\r\n" + ok + "Content-Length: 99999999999999999999\r\n\r\n", 400},
		"an unknown coding (§6.1)":                       {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: xchunked\r\n\r\n", 501},
		"chunked is not last (§6.1)":                     {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked, gzip\r\n\r\n", 501},
		"chunked twice (§6.1)":                           {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
		"chunked in a list":                              {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: chunked,\r\n\r\n", 501},
		"a quoted coding":                                {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: \"chunked\"\r\n\r\n", 501},
		"identity":                                       {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: identity\r\n\r\n", 501},
		"a vertical tab before the coding (§5.5)":        {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding: \vchunked\r\n\r\n", 400},
		"space before the colon (§5.1)":                  {"POST / HTTP/1.1\r\n" + ok + "Transfer-Encoding : chunked\r\n\r\n", 400},
		"coding in HTTP/1.0 (§6.1)":                      {"POST / HTTP/1.0\r\n" + ok + "Transfer-Encoding: chunked\r\n\r\n", 400},
		"a folded line (§5.2)":                           {"GET / HTTP/1.1\r\n" + ok + "A: b\r\n c\r\n\r\n", 400},
		"space before the first field (§2.2)":            {"GET / HTTP/1.1\r\n A: b\r\n" + ok + "\r\n", 400},
		"a bare LF in the request line (§2.2)":           {"GET / HTTP/1.1\n" + ok + "\r\n", 400},
		"a bare LF in a field (§2.2)":                    {"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400},
		"a bare LF at the end":                           {"GET / HTTP/1.1\r\n" + ok + "\n", 400},
		"a bare CR in a value (§2.2)":                    {"GET / HTTP/1.1\r\n" + ok + "A: b\rc\r\n\r\n", 400},
		"a bare CR in the target":                        {"GET /a\rb HTTP/1.1\r\n" + ok + "\r\n", 400},
		"NUL in a value (RFC 9110 §5.5)":                 {"GET / HTTP/1.1\r\n" + ok + "A: b\x00c\r\n\r\n", 400},
		"DEL in a value":                                 {"GET / HTTP/1.1\r\n" + ok + "A: b\x7fc\r\n\r\n", 400},
		"NUL in a name (RFC 9110 §5.1)":                  {"GET / HTTP/1.1\r\n" + ok + "A\x00: b\r\n\r\n", 400},
		"an empty name":                                  {"GET / HTTP/1.1\r\n" + ok + ": b\r\n\r\n", 400},
		"no colon":                                       {"GET / HTTP/1.1\r\n" + ok + "Abc\r\n\r\n", 400},
		"no Host (§3.2)":                                 {"GET / HTTP/1.1\r\n\r\n", 400},
		"two Hosts (§3.2)":                               {"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
		"a Host with user information (RFC 9110 §4.2.4)": {"GET / HTTP/1.1\r\nHost: a@x\r\n\r\n", 400},
		"a Host with a path":                             {"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400},
		"two Hosts in a list":                            {"GET / HTTP/1.1\r\nHost: x, y\r\n\r\n", 400},
		"absolute form without authority (§3.2.2)":       {"GET http:///a HTTP/1.1\r\n" + ok + "\r\n", 400},
		"absolute form of another scheme":                {"GET ftp://x/ HTTP/1.1\r\n" + ok + "\r\n", 400},
		"a relative target (§3.2)":                       {"GET a HTTP/1.1\r\n" + ok + "\r\n", 400},
		"a fragment (§3.2)":                              {"GET /a#b HTTP/1.1\r\n" + ok + "\r\n", 400},
		"asterisk for another method (§3.2.4)":           {"GET * HTTP/1.1\r\n" + ok + "\r\n", 400},
		"space in the target (§3.2)":                     {"GET /a b HTTP/1.1\r\n" + ok + "\r\n", 400},
		"two spaces":                                     {"GET  / HTTP/1.1\r\n" + ok + "\r\n", 400},
		"no target":                                      {"GET HTTP/1.1\r\n" + ok + "\r\n", 400},
		"a method that is no token (§3.1)":               {"G(T / HTTP/1.1\r\n" + ok + "\r\n", 400},
		"HTTP/2.0 (§2.3)":                                {"GET / HTTP/2.0\r\n" + ok + "\r\n", 505},
		"a version in lower case (§2.3)":                 {"GET / http/1.1\r\n" + ok + "\r\n", 400},
		"HTTP/1.2":                                       {"GET / HTTP/1.2\r\n" + ok + "\r\n", 505},
		"TLS":                                            {"\x16\x03\x01\x02\x00", 400},
		"three empty lines (§2.2)":                       {"\r\n\r\n\r\nGET / HTTP/1.1\r\n" + ok + "\r\n", 400},
	} {
		if _, _, n, err := parse(c.in, DefaultLimits); err == nil || err.Status != c.status || n != 0 {
			t.Errorf("%s: %d %v, want %d", name, n, err, c.status)
		}
	}
}

func TestParseRequestTakes(t *testing.T) {
	for _, c := range []struct {
		in, method, authority, path string
		frame                       Framing
	}{
		{"GET /a?b HTTP/1.1\r\nHost: x:1\r\n\r\n", "GET", "x:1", "/a?b", Framing{Length: -1}},
		{"\r\nGET / HTTP/1.1\r\nHost:x\r\n\r\n", "GET", "x", "/", Framing{Length: -1}},                          // §2.2
		{"GET / HTTP/1.0\r\n\r\n", "GET", "", "/", Framing{Length: -1, HTTP10: true, Close: true}},              // §3.2, §9.3
		{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET", "", "/", Framing{Length: -1, HTTP10: true}}, // §9.3
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "POST", "x", "/", Framing{Length: 3}},
		{"POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: Chunked\t\r\n\r\n", "POST", "x", "/", Framing{Length: -1, Chunked: true}}, // §7
		{"GET http://y:2/z HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "y:2", "/z", Framing{Length: -1}},                                    // §3.2.2
		{"GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "y", "/", Framing{Length: -1}},
		{"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS", "x", "*", Framing{Length: -1}},                                                     // §3.2.4
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", "GET", "x", "/", Framing{Length: -1, Close: true}}, // §9.6
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: a, CLOSE\r\n\r\n", "GET", "x", "/", Framing{Length: -1, Close: true}},
		{"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", "PUT", "x", "/", Framing{Length: 1, Expect: true}}, // RFC 9110 §10.1.1
	} {
		h, f, n, err := parse(c.in+"rest", DefaultLimits)
		if err != nil || n != len(c.in) || h.Method != c.method || h.Authority != c.authority || h.Path != c.path || f != c.frame {
			t.Errorf("%q: %d %v %+v %+v", c.in, n, err, h, f)
		}
		for i := range c.in { // a part of it is neither refused nor taken
			if _, _, n, err := parse(c.in[:i], DefaultLimits); n != 0 || err != nil {
				t.Errorf("%q: %d %v", c.in[:i], n, err)
			}
		}
	}
}

// The host that is sent on is the one that was routed by (§3.2.2).
func TestAbsoluteFormReplacesHost(t *testing.T) {
	h, _, _, err := parse("GET http://real/z HTTP/1.1\r\nA: b\r\nHost: other\r\nC: d\r\n\r\n", DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	got := string(AppendRequest(nil, &h, &How{Length: -1}))
	if got != "GET /z HTTP/1.1\r\nA: b\r\nHost: real\r\nC: d\r\n\r\n" {
		t.Fatalf("%q", got)
	}
}

// Fields of the connection, and those that it names, are not sent on (RFC 9110 §7.6.1); what frames and routes cannot
// be named away.
func TestHopByHop(t *testing.T) {
	h, _, _, err := parse("POST / HTTP/1.1\r\nHost: x\r\nConnection: X-Own, host, content-length, authorization, keep-alive\r\nX-Own: 1\r\nKeep-Alive: 5\r\n"+
		"Content-Length: 2\r\nAuthorization: a\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nProxy-Connection: close\r\nY: z\r\n\r\n", DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	got := string(AppendRequest(nil, &h, &How{Length: 2}))
	if got != "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nAuthorization: a\r\nTE: trailers\r\nY: z\r\n\r\n" {
		t.Fatalf("%q", got)
	}
}

func TestLimits(t *testing.T) {
	lim := Limits{Bytes: 1000, Fields: 10}
	long := strings.Repeat("a", 1100)
	for name, in := range map[string]string{
		"a long target":          "GET /" + long + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a long target, no end":  "GET /" + long,
		"a long value":           "GET / HTTP/1.1\r\nHost: x\r\nA: " + long + "\r\n\r\n",
		"a long value, no end":   "GET / HTTP/1.1\r\nHost: x\r\nA: " + long,
		"too many fields":        "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 10) + "\r\n",
		"too many bytes of many": "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+long[:200]+"\r\n", 6) + "\r\n",
	} {
		if _, _, n, err := parse(in, lim); err == nil || err.Status != 431 || n != 0 { // RFC 6585 §5
			t.Errorf("%s: %d %v", name, n, err)
		}
	}
	if _, _, n, err := parse("GET / HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("A: b\r\n", 9)+"\r\n"+long, lim); n == 0 || err != nil {
		t.Error("the body counts as head", n, err)
	}
}

func TestParseResponse(t *testing.T) {
	for in, want := range map[string]int{
		"HTTP/1.1 200 OK\r\n\r\n":       200,
		"HTTP/1.1 200\r\n\r\n":          200, // §4: the reason is absent with its space
		"HTTP/1.0 599 \r\nA: b\r\n\r\n": 599,
		"HTTP/1.1 099 x\r\n\r\n":        0,
		"HTTP/1.1 600 x\r\n\r\n":        0,
		"HTTP/1.1 20 x\r\n\r\n":         0,
		"HTTP/1.1 2000 x\r\n\r\n":       0,
		"HTTP/2.0 200 OK\r\n\r\n":       0,
		"HTTP/1.1 200 OK\n\r\n":         0,
		"HTTP/1.1 200 O\x00K\r\n\r\n":   0,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 0, // §6.3
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":          0, // §6.3
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n":                                      0, // §5.2
		"SSH-2.0-x\r\n\r\n":                                                          0,
	} {
		var h exchange.Head
		var f Framing
		n, err := ParseResponse([]byte(in), &h, &f, DefaultLimits)
		if want == 0 && err == nil || want != 0 && (err != nil || h.Status != want || n != len(in)) {
			t.Errorf("%q: %d %v %d", in, n, err, h.Status)
		}
	}
}

// body reads s in pieces of n bytes.
func body(f *Framing, s string, n int) (data string, used int, b *Body, err *Error) {
	b = new(Body)
	b.InitRequest(f)
	for used < len(s) && !b.Done() {
		p := s[used:min(len(s), used+n)]
		for len(p) > 0 && !b.Done() {
			d, k, e := b.Next([]byte(p))
			data += string(d)
			used += k
			p = p[k:]
			if e != nil {
				return data, used, b, e
			}
		}
	}
	return data, used, b, nil
}

func TestChunks(t *testing.T) {
	chunked := &Framing{Length: -1, Chunked: true}
	for in, want := range map[string]string{
		"0\r\n\r\n":             "",
		"3\r\nabc\r\n0\r\n\r\n": "abc",
		"3\r\nabc\r\n00A\r\n0123456789\r\n000\r\n\r\n": "abc0123456789",
		"3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n":          "abc", // §7.1.1
		"3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n":        "abc", // §7.1.2
	} {
		for n := 1; n <= len(in); n++ {
			got, used, b, err := body(chunked, in+"next", n)
			if err != nil || got != want || used != len(in) || !b.Done() {
				t.Fatalf("%q by %d: %q %d %v", in, n, got, used, err)
			}
		}
		for i := range in {
			if _, _, b, err := body(chunked, in[:i], 100); err != nil || b.Done() {
				t.Fatalf("%q: %v %v", in[:i], err, b.Done())
			}
		}
	}
	for _, in := range []string{ // all §7.1
		"\r\n", "g\r\n", "-1\r\n", "+1\r\n", "0x1\r\n", " 1\r\n", "1 \r\nx\r\n", "1\t;a\r\n", "1\n", "1\rx", "1\r\nab\r\n",
		"1\r\na\n", "1\r\na\rx", "ffffffffffffffff\r\n", "0000000000000001\r\na\r\n", "1;a\nb\r\n", "1;\x00\r\n", "1;\rx",
		"0\r\n\n", "0\r\nA: b\n\r\n", "1;" + strings.Repeat("x", 5000) + "\r\n", "0\r\nA: " + strings.Repeat("x", 17000),
	} {
		for _, n := range []int{1, 1 << 20} {
			if _, _, b, err := body(chunked, in, n); err == nil {
				t.Errorf("%.40q by %d was taken (done %v)", in, n, b.Done())
			}
		}
	}
}

func TestTrailers(t *testing.T) {
	_, _, b, err := body(&Framing{Length: -1, Chunked: true}, "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: y\r\nTransfer-Encoding: chunked\r\nX-Other: 2\r\n\r\n", 3)
	if err != nil {
		t.Fatal(err)
	}
	var h exchange.Header
	if err := b.Trailers(&h); err == nil && len(h.Fields) == 2 {
		if got := string(AppendLastChunk(nil, &h)); got != "0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n" { // RFC 9110 §6.5.1
			t.Fatalf("%q", got)
		}
	} else if err == nil {
		t.Fatal(h.Fields)
	}
	for _, bad := range []string{"0\r\nA b\r\n\r\n", "0\r\nA: b\x00\r\n\r\n", "0\r\n A: b\r\n\r\n"} {
		_, _, b, err := body(&Framing{Length: -1, Chunked: true}, bad, 100)
		if err == nil && b.Trailers(&h) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestResponseBodies(t *testing.T) { // §6.3
	for _, c := range []struct {
		method     string
		status     int
		f          Framing
		done, till bool
	}{
		{"GET", 200, Framing{Length: -1}, false, true},
		{"GET", 200, Framing{Length: 0}, true, false},
		{"GET", 200, Framing{Length: 3}, false, false},
		{"GET", 200, Framing{Length: -1, Chunked: true}, false, false},
		{"HEAD", 200, Framing{Length: 3}, true, false},
		{"GET", 204, Framing{Length: 3}, true, false},
		{"GET", 304, Framing{Length: 3}, true, false},
		{"GET", 103, Framing{Length: -1}, true, false},
		{"CONNECT", 200, Framing{Length: -1}, true, false},
	} {
		var b Body
		b.InitResponse(c.method, c.status, &c.f)
		if b.Done() != c.done || b.UntilClose() != c.till {
			t.Errorf("%+v: %v %v", c, b.Done(), b.UntilClose())
		}
	}
}

func TestWrite(t *testing.T) {
	h, _, _, err := parse("POST /a HTTP/1.1\r\nHost: x\r\nA: 1\r\nContent-Length: 9\r\nB: 2\r\n\r\n", DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	h.Header.Set("b", "3")
	h.Header.Add("C", "4")
	if got := string(AppendRequest(nil, &h, &How{Length: -1, Chunked: true, Trailers: true})); got !=
		"POST /a HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 3\r\nC: 4\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n" {
		t.Errorf("%q", got)
	}
	var r exchange.Head
	r.Reset()
	r.Status = 299
	if got := string(AppendResponse(nil, &r, &How{Length: 4, Close: true})); got != "HTTP/1.1 299 \r\nContent-Length: 4\r\nConnection: close\r\n\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(AppendChunk(nil, make([]byte, 255))); !strings.HasPrefix(got, "ff\r\n") || !strings.HasSuffix(got, "\r\n") {
		t.Errorf("%q", got)
	}
}
