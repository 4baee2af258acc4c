package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// rawServer answers each connection as f does, and closes it when f returns.
func rawServer(t testing.TB, f func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, m *mesh, listener string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", m.Addr(listener))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c, bufio.NewReader(c)
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("in vain: ", what)
		}
	}
}

// settled waits until all books of a mesh are closed.
func settled(t testing.TB, m *mesh) {
	t.Helper()
	c := m.Table().Cluster("c")
	waitFor(t, "the counters return to zero", func() bool {
		for _, h := range c.Hosts() {
			if h.Inflight() != 0 {
				return false
			}
		}
		return m.Active() == 0 && c.Active() == 0 && c.Pending() == 0
	})
}

// script is a filter made of functions.
type script struct {
	snapshot.Pass
	request, response func(x *exchange.Exchange) snapshot.Verdict
}

func (f script) Request(x *exchange.Exchange) snapshot.Verdict {
	if f.request == nil {
		return snapshot.Continue
	}
	return f.request(x)
}

func (f script) Response(x *exchange.Exchange) snapshot.Verdict {
	if f.response == nil {
		return snapshot.Continue
	}
	return f.response(x)
}

// Bytes behind a response that has no body (RFC 9112 §6.3) are no answer to the next request on the connection.
func TestBytesBehindAResponse(t *testing.T) {
	up := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.URL.Path == "/evil" {
				io.WriteString(c, "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				continue
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
		}
	})
	m := newMesh(t, snapshot.HTTP1, nil, up)
	if err := m.Table().SetCluster(&snapshot.Cluster{Name: "c", Protocol: snapshot.HTTP1, Strategy: roundrobin.Strategy{}, MaxConnections: 1}); err != nil {
		t.Fatal(err)
	}
	c := client(t, true) // both on one loop, the second waiting for the first one's connection
	for range 20 {
		done := make(chan string, 8)
		for i := range cap(done) {
			go func() {
				path := "/good"
				if i%2 == 0 {
					path = "/evil"
				}
				resp, err := c.Get(m.url() + path)
				if err != nil {
					done <- err.Error()
					return
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				done <- string(b)
			}()
		}
		for range cap(done) {
			if got := <-done; strings.Contains(got, "evil") {
				t.Fatal("smuggled: ", got)
			}
		}
	}
	settled(t, m)
}

// A body that is answered as it comes with its head is not the next request.
func TestAnsweredBodyIsNotARequest(t *testing.T) {
	var n atomic.Int64
	f := script{request: func(x *exchange.Exchange) snapshot.Verdict {
		n.Add(1)
		if x.ReqBody == nil {
			x.Buffer(exchange.Request, 1000)
			x.ReqBody = []byte{}
			return snapshot.Suspend
		}
		x.Respond(403, 0, "no")
		return snapshot.Respond
	}}
	m := newMesh(t, snapshot.HTTP1, []snapshot.Filter{f}, backend(t, echo))
	c, r := dial(t, m, "http")
	inner := "POST /inner HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	fmt.Fprintf(c, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%sPOST /last HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\n\r\nz", len(inner), inner)
	for range 2 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 403 {
			t.Fatal(resp.Status)
		}
	}
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
		t.Fatalf("%q %v: a third answer", b, err)
	}
	if n.Load() != 4 {
		t.Fatalf("filter called %d times", n.Load())
	}
	settled(t, m)
}

// An exchange whose answer is whole but held by a filter has no hold on the connection that it came by.
func TestHeldAnswerLetsGoOfItsConnection(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		var held atomic.Pointer[exchange.Exchange]
		f := script{response: func(x *exchange.Exchange) snapshot.Verdict {
			if x.Req.Path == "/held" && held.CompareAndSwap(nil, x) {
				return snapshot.Suspend
			}
			return snapshot.Continue
		}}
		begun, release := make(chan bool), make(chan bool)
		m := newMesh(t, up, []snapshot.Filter{f}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/next" {
				begun <- true
				<-release
			}
			io.WriteString(w, "whole")
		}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", m.url()+"/held", nil)
		cl := client(t, h2)
		go func() {
			if resp, err := cl.Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		waitFor(t, "the answer is held", func() bool { return held.Load() != nil })
		got := make(chan string, 4) // enough for each loop to have one
		for range cap(got) {
			go func() {
				resp, err := cl.Get(m.url() + "/next")
				if err != nil {
					got <- err.Error()
					return
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				got <- string(b)
			}()
		}
		for range cap(got) {
			<-begun
		}
		cancel()
		waitFor(t, "the held exchange ends", func() bool { return m.Active() <= int64(cap(got)) })
		close(release)
		for range cap(got) {
			if s := <-got; s != "whole" {
				t.Fatal(s)
			}
		}
		held.Load().Resume()
		settled(t, m)
	})
}

// A filter may ask for a body after another one has held the exchange up, and the flow with it.
func TestBufferAfterSuspend(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		const size = 400_000
		pause := func(x *exchange.Exchange) snapshot.Verdict {
			if x.Slot().N++; x.Slot().N == 1 {
				x.ResumeAfter(int64(100 * time.Millisecond))
				return snapshot.Suspend
			}
			return snapshot.Continue
		}
		first := script{request: pause}
		second := script{request: func(x *exchange.Exchange) snapshot.Verdict {
			if x.Slot().N++; x.Slot().N == 1 {
				x.Buffer(exchange.Request, 2*size)
				return snapshot.Suspend
			}
			if len(x.ReqBody) != size {
				x.Respond(500, 0, fmt.Sprint(len(x.ReqBody)))
				return snapshot.Respond
			}
			return snapshot.Continue
		}}
		third := script{response: func(x *exchange.Exchange) snapshot.Verdict {
			if x.Slot().N++; x.Slot().N == 1 {
				x.Buffer(exchange.Response, 2*size)
				return snapshot.Suspend
			}
			return snapshot.Continue
		}}
		fourth := script{response: pause}
		m := newMesh(t, up, []snapshot.Filter{first, second, third, fourth}, backend(t, echo))
		body := bytes.Repeat([]byte("x"), size)
		resp, err := client(t, h2).Post(m.url(), "", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || !bytes.Equal(b, body) {
			t.Fatal(resp.Status, len(b), err)
		}
		if resp.Header.Get("X-Method") != "POST" {
			t.Fatal("the head was lost", resp.Header)
		}
		settled(t, m)
	})
}

// The head stays readable to the filters until the exchange ends, however many reads its body takes.
func TestResponseHeadOutlivesItsBuffer(t *testing.T) {
	var seen atomic.Pointer[string]
	f := &ender{func(x *exchange.Exchange) {
		v, _ := x.Resp.Header.Get("x-mark")
		s := strings.Clone(v + " " + x.Resp.Reason)
		seen.Store(&s)
	}}
	up := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 All right\r\nX-Mark: here\r\nX-Empty:\r\nContent-Length: 3000000\r\n\r\n")
			c.Write(bytes.Repeat([]byte("0123456789"), 300_000))
		}
	})
	m := newMesh(t, snapshot.HTTP1, []snapshot.Filter{f}, up)
	resp, err := client(t, false).Get(m.url())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != 3_000_000 || err != nil {
		t.Fatal(n, err)
	}
	resp.Body.Close()
	settled(t, m)
	if s := seen.Load(); *s != "here All right" {
		t.Fatalf("%q", *s)
	}
}

type ender struct{ end func(x *exchange.Exchange) }

func (*ender) Request(*exchange.Exchange) snapshot.Verdict  { return snapshot.Continue }
func (*ender) Response(*exchange.Exchange) snapshot.Verdict { return snapshot.Continue }
func (e *ender) End(x *exchange.Exchange)                   { e.end(x) }

// A callee that answers before the upload is whole, and closes, is heard.
func TestEarlyAnswer(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		m := newMesh(t, up, nil, backend(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		}))
		for range 5 {
			resp, err := client(t, h2).Post(m.url(), "", io.LimitReader(zeros{}, 20<<20))
			if err != nil {
				if h2 || errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				continue // the client itself may prefer its failed write to the answer
			}
			resp.Body.Close()
			if resp.StatusCode != 413 {
				t.Fatal(resp.Status)
			}
		}
		settled(t, m)
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A download over one connection takes more window updates than any number of control frames that may come idly.
func TestLongDownload(t *testing.T) {
	const size = 192 << 20
	m := newMesh(t, snapshot.HTTP2, nil, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		io.Copy(w, io.LimitReader(zeros{}, size))
	}))
	resp, err := client(t, true).Get(m.url())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Fatal(n, err)
	}
}

// The route's time begins when the body ends, also where there is no connection yet.
func TestTimeoutWhereBodyEndsWhileConnecting(t *testing.T) {
	each(t, func(t *testing.T, h2 bool, up snapshot.Protocol) {
		hang := make(chan bool)
		t.Cleanup(func() { close(hang) })
		m := newMesh(t, up, nil, backend(t, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}))
		m.fwd.Timeout = 300 * time.Millisecond
		if err := m.Apply(m.snap); err != nil { // the loops see it from here on
			t.Fatal(err)
		}
		for range 3 {
			resp, err := client(t, h2).Post(m.url(), "", struct{ io.Reader }{strings.NewReader("hello")})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 504 {
				t.Fatal(resp.Status)
			}
		}
		settled(t, m)
	})
}

// A caller that reads slowly gets the whole of a last answer.
func TestSlowReaderOfALastAnswer(t *testing.T) {
	const size = 6 << 20
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, size))
	}))
	c, r := dial(t, m, "http")
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(2500 * time.Millisecond) // longer than a connection lingers once all has gone out
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Fatal(n, err)
	}
}

// What was pipelined without reading the answers is answered when they are read, and not held in memory before.
func TestPipelinedWithoutReading(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, []snapshot.Filter{script{request: func(x *exchange.Exchange) snapshot.Verdict {
		x.Respond(200, 0, strings.Repeat("y", 2000))
		return snapshot.Respond
	}}}, backend(t, echo))
	c, r := dial(t, m, "http")
	const n = 20_000
	go io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", n))
	<-time.After(100 * time.Millisecond)
	for i := range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(i, err)
		}
		io.Copy(io.Discard, resp.Body)
	}
}

// A malformed chunk is answered (RFC 9112 §7.1), and ends the connection.
func TestMalformedChunk(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	for _, body := range []string{"zz\r\n", "5\r\nhelloX", "0x5\r\n"} {
		c, r := dial(t, m, "http")
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(body, err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 400 || !resp.Close {
			t.Fatal(body, resp.Status, resp.Close)
		}
	}
	settled(t, m)
}

// A listener may change from HTTP to TCP while connections of the old kind go on.
func TestListenerChangesItsKind(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	c, r := dial(t, m, "http")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	} else {
		io.Copy(io.Discard, resp.Body)
	}
	tcp := m.snap.Listeners["tcp"].TCP
	next := &snapshot.Snapshot{Listeners: map[string]*snapshot.Listener{
		"http": {Name: "http", Network: "tcp", Address: "127.0.0.1:0", TCP: tcp},
	}}
	if err := m.Apply(next); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Fatal(resp, err)
	}
}

// Both directions of a relayed connection go out whole, whichever ends first.
func TestTCPEndsWhenBothHaveGoneOut(t *testing.T) {
	const size = 8 << 20
	got := make(chan int64, 1)
	up := rawServer(t, func(c net.Conn, _ *bufio.Reader) {
		io.WriteString(c, "bye")
		_ = c.(*net.TCPConn).CloseWrite()
		<-time.After(100 * time.Millisecond) // so that much waits in the sidecar when both have ended
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	m := newMesh(t, snapshot.TCP, nil, up)
	c, r := dial(t, m, "tcp")
	go func() {
		c.Write(make([]byte, size))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if b, err := io.ReadAll(r); string(b) != "bye" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	if n := <-got; n != size {
		t.Fatalf("%d of %d bytes", n, size)
	}
}

// A field that was refused stays refused when it is named by its place in the table.
func TestRefusedFieldByIndex(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	c, r := dial(t, m, "http")
	frame := func(typ, flags byte, id byte, p string) string {
		return string([]byte{0, byte(len(p) >> 8), byte(len(p)), typ, flags, 0, 0, 0, id}) + p
	}
	request := "\x82\x84\x86\x41\x01x"
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(4, 0, 0, "")+
		frame(1, 5, 1, request+"\x40\x00\x03a\r\n")+ // an empty name, into the table
		frame(1, 5, 3, "\x82\x84\x86\x41\x01x\xbf\xbe")+ // …and by its index
		frame(1, 5, 5, "\x82\x84\x86\x41\x01x")) // the connection is still in order
	resets := 0
	for {
		var h [9]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, int64(h[1])<<8|int64(h[2])); err != nil {
			t.Fatal(err)
		}
		if h[3] == 3 {
			resets++
		}
		if h[3] == 1 && h[8] == 5 {
			break
		}
	}
	if resets != 2 {
		t.Fatalf("%d streams refused", resets)
	}
}

// What an upgraded connection's caller sent before its end arrives, however slowly the other side reads.
func TestTunnelHalfClose(t *testing.T) {
	const size = 8 << 20
	up := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		<-time.After(200 * time.Millisecond)
		n, _ := io.Copy(io.Discard, r)
		fmt.Fprintf(c, "%d", n)
	})
	m := newMesh(t, snapshot.HTTP1, nil, up)
	c, r := dial(t, m, "http")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	go func() {
		c.Write(make([]byte, size))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if b, err := io.ReadAll(r); err != nil || string(b) != fmt.Sprint(size) {
		t.Fatalf("%q %v", b, err)
	}
	settled(t, m)
}

// A 204 has no length (RFC 9110 §8.6), and the connection goes on.
func TestNoContent(t *testing.T) {
	up := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
		}
	})
	m := newMesh(t, snapshot.HTTP1, nil, up)
	c, r := dial(t, m, "http")
	for range 3 {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 204 || resp.Header.Get("Content-Length") != "" {
			t.Fatal(resp, err)
		}
	}
	settled(t, m)
}

// A caller that leaves within its first bytes is noticed, also where its FIN came with them.
func TestLeavesWithinThePreface(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	for range 300 {
		c, r := dial(t, m, "http")
		_, _ = io.WriteString(c, "PRI")
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		c.Close()
	}
}
