package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http1"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// The codecs are fuzzed as what they are, state machines behind a socket: bytes go in by pieces, and what comes out is
// compared with a model that reads the same bytes at once. The sockets are Unix sockets, since there it can be
// told when the peer has read a piece.

// fuzzMesh is a data path that listens on a Unix socket in front of one upstream on another; neither retries.
func fuzzMesh(f *testing.F, proto snapshot.Protocol, upstream string) (*mesh, string) {
	dir, err := os.MkdirTemp("", "fuzz") // not TempDir: the path of a socket has 108 bytes
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	m := newMesh(f, proto, nil)
	m.fwd.Retry = nil
	m.http.NormalizePath = false
	sock := filepath.Join(dir, "down")
	m.snap.Listeners["unix"] = &snapshot.Listener{Name: "unix", Network: "unix", Address: sock, Direction: snapshot.Inbound, HTTP: m.http}
	// A connection has one exchange: what an upstream sends behind an answer would be the next one's where it begins in time.
	one := &snapshot.Cluster{Name: "c", Protocol: proto, Strategy: roundrobin.Strategy{}, MaxRequestsPerConnection: 1}
	if err := errors.Join(m.Apply(m.snap), m.Table().SetCluster(one), m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Network: "unix", Address: upstream, Weight: 1}})); err != nil {
		f.Fatal(err)
	}
	return m, sock
}

// fuzzUpstream serves each connection with f.
func fuzzUpstream(f *testing.F, serve func(c *net.UnixConn)) string {
	dir, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "up")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

func dialUnix(t testing.TB, sock string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sock})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// inPieces writes b: for each of cuts a piece of that many bytes and one, then what is left. It waits until a piece was
// read before it writes the next, but not forever: a reader may have reasons not to.
func inPieces(c *net.UnixConn, b, cuts []byte) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for len(b) > 0 {
		n := len(b)
		if len(cuts) > 0 {
			n, cuts = min(n, int(cuts[0])+1), cuts[1:]
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
		for range 500 {
			unread := 0
			if raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }) != nil || unread == 0 {
				break
			}
			runtime.Gosched()
		}
	}
}

// echoed is what the echoing upstream answers to a request.
func echoed(h *exchange.Head, body []byte) string {
	return fmt.Sprintf("%s %q %q %d %08x", h.Method, h.Path, h.Authority, len(body), crc32.ChecksumIEEE(body))
}

// requests reads requests from b as a server should. It calls each for every whole one, until that says false, and
// returns what comes then: "refused", "broken" (a body that cannot be read), or "more" where more bytes are needed.
func requests(b []byte, each func(h *exchange.Head, f *http1.Framing, body []byte) bool) string {
	for len(b) > 0 {
		var h exchange.Head
		var f http1.Framing
		h.Reset()
		n, err := http1.ParseRequest(b, &h, &f, http1.DefaultLimits)
		switch {
		case err != nil:
			return "refused"
		case n == 0:
			return "more"
		}
		b = b[n:]
		var body http1.Body
		var data []byte
		for body.InitRequest(&f); !body.Done(); {
			d, n, err := body.Next(b)
			if err != nil {
				return "broken"
			}
			data = append(data, d...)
			b = b[n:]
			if n == 0 && !body.Done() {
				return "more"
			}
		}
		var tr exchange.Header
		if f.Chunked && body.Trailers(&tr) != nil {
			return "broken"
		}
		if !each(&h, &f, data) {
			return "over"
		}
	}
	return "more"
}

// However a connection's bytes are cut, each request in them is passed on once and answered in its order, and nothing
// else is: the upstream sees what the parser reads in the whole.
func FuzzHTTP1Server(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: y\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\nHEAD / HTTP/1.0\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhelloDELETE /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET http://y/z HTTP/1.1\r\nHost: x\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: a, b\r\nA: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
		"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", "\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n",
	} {
		for _, cuts := range []string{"", "\x00\x01\x02", strings.Repeat("\x00", 200), strings.Repeat("\x10", 20)} {
			f.Add([]byte(s), []byte(cuts))
		}
	}
	var seen atomic.Int64
	m, sock := fuzzMesh(f, snapshot.HTTP1, fuzzUpstream(f, func(c *net.UnixConn) {
		var in []byte
		buf := make([]byte, 32<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			in = append(in, buf[:n]...)
			at := 0
			if end := requests(in, func(h *exchange.Head, _ *http1.Framing, body []byte) bool {
				seen.Add(1)
				at++ // one request at a time comes here
				out := echoed(h, body)
				if h.Method == "HEAD" {
					out = ""
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: %d\r\n\r\n%s", echoed(h, body), len(echoed(h, body)), out)
				return true
			}); end != "more" {
				return // what we send on is never malformed: the answer is missed then
			}
			if at > 0 {
				in = in[:0]
			}
		}
	}))
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		var want []string
		loose := false
		end := requests(b, func(h *exchange.Head, f *http1.Framing, body []byte) bool {
			switch {
			case h.Method == "CONNECT":
				want = append(want, "405")
				return false
			case f.Upgrade:
				loose = true
				return false
			}
			want = append(want, h.Method+" 200 "+echoed(h, body))
			return !f.Close
		})
		before := seen.Load()
		c := dialUnix(t, sock)
		defer c.Close()
		go inPieces(c, b, cuts)
		r := bufio.NewReader(c)
		answer := func(method string) (*http.Response, error) {
			for {
				resp, err := http.ReadResponse(r, &http.Request{Method: method})
				if err != nil || resp.StatusCode >= 200 {
					return resp, err
				}
			}
		}
		for i, w := range want {
			method, _, _ := strings.Cut(w, " ")
			resp, err := answer(method)
			if err != nil {
				t.Fatalf("no answer to request %d of %q: %v", i, want, err)
			}
			body, err := io.ReadAll(resp.Body)
			got := fmt.Sprintf("%s %d %s", method, resp.StatusCode, resp.Header.Get("X-Echo"))
			if resp.StatusCode != 200 {
				got = resp.Status[:3]
			}
			if got != w || err != nil || resp.StatusCode == 200 && method != "HEAD" && string(body) != resp.Header.Get("X-Echo") {
				t.Fatalf("answer %d is %q %q, %v; want %q", i, got, body, err, w)
			}
		}
		if loose {
			return
		}
		if end == "refused" || end == "broken" {
			resp, err := answer("GET")
			if err != nil || resp.StatusCode < 400 {
				t.Fatalf("%s: %v %v", end, resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		_ = c.CloseWrite()
		if rest, err := io.ReadAll(r); err != nil && !errors.Is(err, unix.ECONNRESET) || bytes.Contains(rest, []byte(" 200 ")) {
			t.Fatalf("%s, then %q, %v", end, rest, err)
		}
		settled(t, m)
		n := seen.Load() - before
		if answered := int64(len(want)); n != answered && !(n == answered-1 && answered > 0 && want[answered-1] == "405") {
			t.Fatalf("the upstream saw %d requests, %d were answered", n, answered)
		}
	})
}

// response reads a final response from b as a client should; whole is false where it is not all there or cannot be read.
func response(b []byte, method string) (h *exchange.Head, body []byte, whole bool) {
	for {
		h = new(exchange.Head)
		var f http1.Framing
		h.Reset()
		n, err := http1.ParseResponse(b, h, &f, http1.Limits{Bytes: http1.DefaultLimits.Bytes, Fields: exchange.MaxFields - 10})
		if n == 0 || err != nil || h.Status == 101 {
			return nil, nil, false
		}
		b = b[n:]
		if h.Status < 200 {
			continue
		}
		var in http1.Body
		in.InitResponse(method, h.Status, &f)
		for !in.Done() {
			d, n, err := in.Next(b)
			if err != nil {
				return h, body, false
			}
			body = append(body, d...)
			b = b[n:]
			if n == 0 && !in.Done() {
				return h, body, in.UntilClose()
			}
		}
		var tr exchange.Header
		if f.Chunked && in.Trailers(&tr) != nil {
			return h, body, false
		}
		return h, body, true
	}
}

// However an upstream's answer is cut, the caller gets it whole where it is whole, sees that it is broken where that shows
// only later, and else gets an answer of ours.
func FuzzHTTP1Client(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\n\r\nuntil the end", "HTTP/1.0 404 No\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx", "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 2",
	} {
		for _, cuts := range []string{"", strings.Repeat("\x00", 200), "\x05\x20\x01\x00"} {
			f.Add([]byte(s), []byte(cuts), false)
		}
		f.Add([]byte(s), []byte("\x03"), true)
	}
	var answer, cut atomic.Pointer[[]byte]
	m, sock := fuzzMesh(f, snapshot.HTTP1, fuzzUpstream(f, func(c *net.UnixConn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_ = req.Body.Close()
		inPieces(c, *answer.Load(), *cut.Load())
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}))
	f.Fuzz(func(t *testing.T, b, cuts []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		want, body, whole := response(b, method)
		answer.Store(&b)
		cut.Store(&cuts)
		c := dialUnix(t, sock)
		defer c.Close()
		fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method)
		out, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("%q, then %v", out, err)
		}
		got, gotBody, gotWhole := response(out, method)
		switch {
		case got == nil && want != nil && !whole: // broken off before the head had gone out
		case got == nil:
			t.Fatalf("no answer, but %q", out)
		case want == nil || got.Status != want.Status:
			if v, _ := got.Header.Get("x-outrigger-reason"); v == "" || whole {
				t.Fatalf("answered %q", out)
			}
		case whole && (err != nil || !gotWhole || !bytes.Equal(gotBody, body)):
			t.Fatalf("answered %q, %v; want the body %q", out, err, body)
		case !whole && err == nil && gotWhole && !head:
			t.Fatalf("%q is not whole, and the caller cannot know: %q", b, out)
		}
		settled(t, m)
	})
}

func h2frame(typ, flags byte, id byte, p string) string {
	return string([]byte{0, byte(len(p) >> 8), byte(len(p)), typ, flags, 0, 0, 0, id}) + p
}

// Whatever frames come, the connection ends or goes on, the books are closed, and the process serves the next caller.
func FuzzHTTP2Frames(f *testing.F) {
	frame := h2frame
	get := "\x82\x84\x86\x41\x01x"
	for _, s := range []string{
		frame(1, 5, 1, get),
		frame(1, 4, 1, "\x83\x84\x86\x41\x01x") + frame(0, 1, 1, "hello"),
		frame(1, 5, 1, get+"\x40\x00\x03a\r\n") + frame(1, 5, 3, get+"\xbe"),
		frame(4, 0, 0, "\x00\x04\x00\x00\x00\x00") + frame(1, 5, 1, get) + frame(8, 0, 1, "\x00\x00\x00\x05") + frame(3, 0, 1, "\x00\x00\x00\x08"),
		frame(1, 1, 1, get[:2]) + frame(9, 4, 1, get[2:]) + frame(6, 0, 0, "12345678") + frame(7, 0, 0, "\x00\x00\x00\x01\x00\x00\x00\x00"),
		frame(1, 4, 1, get) + frame(1, 5, 1, "\x40\x01a\x01b"),
		frame(1, 0x2c, 1, "\x02\x00\x00\x00\x00\x10"+get+"\x00\x00") + frame(0, 9, 1, "\x01a\x00") + frame(2, 0, 3, "\x00\x00\x00\x01\x07"),
		frame(1, 4, 1, "\x83\x84\x86\x41\x01x\x5c\x013") + frame(0, 0, 1, "ab") + frame(0, 1, 1, "c") + frame(1, 5, 3, get),
	} {
		for _, cuts := range []string{"", strings.Repeat("\x00", 200), "\x08\x02\x20"} {
			f.Add([]byte(s), []byte(cuts))
		}
	}
	up := backend(f, echo)
	m, sock := fuzzMesh(f, snapshot.HTTP1, "")
	if err := m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Address: up, Weight: 1}}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		c := dialUnix(t, sock)
		defer c.Close()
		go func() {
			inPieces(c, append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(4, 0, 0, "")), b...), cuts)
			_ = c.CloseWrite()
		}()
		n, err := io.Copy(io.Discard, c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatalf("%d bytes, and then no end", n)
		}
		settled(t, m)
	})
}

// Whatever frames an upstream sends, every caller gets an answer or sees it broken off, and the books are closed.
func FuzzHTTP2Client(f *testing.F) {
	frame := h2frame
	ok := "\x88"
	for _, s := range []string{
		frame(1, 5, 1, ok),
		frame(1, 4, 1, ok+"\x5c\x015") + frame(0, 1, 1, "hello"),
		frame(1, 4, 1, ok) + frame(0, 0, 1, "hel") + frame(1, 5, 1, "\x40\x01a\x01b"),
		frame(1, 4, 1, "\x08\x03103") + frame(1, 0, 1, ok) + frame(9, 4, 1, "\x40\x01a\x01b") + frame(0, 8, 1, "\x02a\x00\x00") + frame(0, 1, 1, ""),
		frame(3, 0, 1, "\x00\x00\x00\x07"), frame(7, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x00"), frame(7, 0, 0, "\x00\x00\x00\x01\x00\x00\x00\x00") + frame(1, 5, 1, ok),
		frame(4, 0, 0, "\x00\x03\x00\x00\x00\x00") + frame(6, 0, 0, "12345678") + frame(1, 5, 1, ok), frame(5, 4, 1, "\x00\x00\x00\x02"+ok),
		frame(1, 4, 1, ok+"\x5c\x012") + frame(0, 1, 1, "hello"), frame(8, 0, 0, "\x7f\xff\xff\xff"), frame(4, 0, 0, "\x00\x01\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00") + frame(1, 5, 1, ok),
	} {
		for _, cuts := range []string{"", strings.Repeat("\x00", 200), "\x08\x02\x20"} {
			f.Add([]byte(s), []byte(cuts))
		}
	}
	var answer, cut atomic.Pointer[[]byte]
	m, sock := fuzzMesh(f, snapshot.HTTP2, fuzzUpstream(f, func(c *net.UnixConn) {
		pre := make([]byte, 24)
		if _, err := io.ReadFull(c, pre); err != nil {
			return
		}
		inPieces(c, append([]byte(frame(4, 0, 0, "")), *answer.Load()...), *cut.Load())
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}))
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		answer.Store(&b)
		cut.Store(&cuts)
		c := dialUnix(t, sock)
		defer c.Close()
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc")
		out, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("%q, then %v", out, err)
		}
		if h, _, _ := response(out, "POST"); h == nil && len(out) > 0 && !bytes.HasPrefix(out, []byte("HTTP/1.1 1")) {
			t.Fatalf("answered %q", out)
		}
		settled(t, m)
	})
}
