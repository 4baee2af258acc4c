package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// What is taken is taken by net/http too, with the same meaning: what two parsers read differently is smuggled.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET http://y/z HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: a, close\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h exchange.Head
		var fr Framing
		h.Reset()
		n, err := ParseRequest(b, &h, &fr, DefaultLimits)
		if err != nil || n == 0 {
			if n != 0 {
				t.Fatal("refused and taken")
			}
			return
		}
		if n > len(b) {
			t.Fatal("more than there is")
		}
		out := AppendRequest(nil, &h, &How{Length: fr.Length, Chunked: fr.Chunked})
		if h.Method != "CONNECT" {
			var h2 exchange.Head
			var fr2 Framing
			h2.Reset()
			m, err := ParseRequest(out, &h2, &fr2, Limits{Bytes: len(out) + 1, Fields: exchange.MaxFields})
			if err != nil || m != len(out) || h2.Method != h.Method || h2.Path != h.Path || h2.Authority != h.Authority ||
				fr2.Length != fr.Length || fr2.Chunked != fr.Chunked {
				t.Fatalf("sent on as %q: %v", out, err)
			}
		}
		r, rerr := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
		if rerr != nil {
			return // net/http may be stricter, about URLs for one
		}
		if r.Method != h.Method || r.ContentLength != fr.Length && !(fr.Length < 0 && (r.ContentLength == 0 || fr.Chunked)) ||
			(len(r.TransferEncoding) > 0) != fr.Chunked {
			t.Fatalf("net/http reads %q as %s, %d, %v", out, r.Method, r.ContentLength, r.TransferEncoding)
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 404 No\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h exchange.Head
		var fr Framing
		h.Reset()
		n, err := ParseResponse(b, &h, &fr, DefaultLimits)
		if err != nil || n == 0 {
			return
		}
		out := AppendResponse(nil, &h, &How{Length: fr.Length, Chunked: fr.Chunked})
		var h2 exchange.Head
		var fr2 Framing
		h2.Reset()
		m, err := ParseResponse(out, &h2, &fr2, Limits{Bytes: len(out) + 1, Fields: exchange.MaxFields})
		if err != nil || m != len(out) || h2.Status != h.Status || fr2.Length != fr.Length || fr2.Chunked != fr.Chunked {
			t.Fatalf("sent on as %q: %v", out, err)
		}
		if r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil); err == nil {
			if r.StatusCode != h.Status {
				t.Fatalf("net/http reads %q as %d", out, r.StatusCode)
			}
			r.Body.Close()
		}
	})
}

// A chunked body means the same in any pieces, and the same to net/http where that takes it.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "a;b=c\r\n0123456789\r\n0\r\nA: b\r\n\r\n", "1\r\na\r\n1\r\nb\r\n00\r\n\r\n"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		fr := &Framing{Length: -1, Chunked: true}
		whole, used, b, err := body(fr, string(in), len(in)+1)
		got, used2, b2, err2 := body(fr, string(in), int(step)+1)
		if whole != got || used != used2 || b.Done() != b2.Done() || (err == nil) != (err2 == nil) {
			t.Fatalf("%q %d %v, in pieces %q %d %v", whole, used, err, got, used2, err2)
		}
		if err != nil || !b.Done() {
			return
		}
		var h exchange.Header
		if b.Trailers(&h) != nil {
			return
		}
		r, rerr := http.ReadRequest(bufio.NewReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + string(in[:used]))))
		if rerr != nil {
			t.Fatal(rerr)
		}
		data, rerr := io.ReadAll(r.Body)
		if rerr == nil && string(data) != whole {
			t.Fatalf("net/http reads %q, we %q", data, whole)
		}
	})
}
