package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/proxy/proxyproto"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// any is a listener for a port that takes any protocol: HTTP where it is recognized, else TCP.
func anyProtocol(m *mesh, wait time.Duration) *snapshot.Listener {
	chain := snapshot.Chain{
		Key: "http", Match: snapshot.ChainMatch{Protocols: []string{"http/1.0", "http/1.1", "h2c"}},
		Listener: &snapshot.Listener{Name: "any", Direction: snapshot.Inbound, HTTP: m.http},
	}
	return &snapshot.Listener{
		Name: "any", Network: "tcp", Address: "127.0.0.1:0", Direction: snapshot.Inbound,
		Front: &snapshot.Front{
			SniffTLS: true, SniffHTTP: true, Timeout: wait, Continue: true, Chains: []snapshot.Chain{chain},
			Default: &snapshot.Listener{Name: "any", Direction: snapshot.Inbound, TCP: m.snap.Listeners["tcp"].TCP},
		},
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// clientHello is what a TLS client says first.
func clientHello(t *testing.T, name string) string {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name}).Handshake()
		a.Close()
	}()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// A port of unknown protocol serves HTTP/1.1, HTTP/2 and TLS by their first bytes, other protocols as TCP as soon as they differ
// from these, and those in which the server speaks first after a short silence, which is told once.
func TestAnyProtocol(t *testing.T) {
	var log syncBuffer
	m := newMeshWith(t, slog.New(slog.NewTextHandler(&log, nil)), snapshot.HTTP1, nil, rawServer(t, func(c net.Conn, r *bufio.Reader) {
		b, err := r.Peek(1)
		switch {
		case err != nil: // nothing but an end
		case b[0] == 'G':
			req, err := http.ReadRequest(r)
			if err == nil {
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(req.Host), req.Host)
			}
		default:
			line, _ := r.ReadString('\n')
			fmt.Fprintf(c, "echo %q", line)
		}
	}))
	greeter := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "5.7.0-server-first\n")
		line, _ := r.ReadString('\n')
		io.WriteString(c, "ok "+line)
	})
	m.snap.Listeners["any"] = anyProtocol(m, 50*time.Millisecond)
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	url := "http://" + m.Addr("any") + "/"
	for _, h2 := range []bool{false, true} {
		resp, err := client(t, h2).Get(url)
		if err != nil {
			t.Fatal(h2, err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(b) != m.Addr("any") || resp.ProtoMajor == 2 != h2 {
			t.Errorf("h2 %v: %s %q", h2, resp.Proto, b)
		}
	}
	hello := clientHello(t, "a.example.com")
	talk := func(parts ...string) string {
		t.Helper()
		c, r := dial(t, m, "any")
		defer c.Close()
		for _, p := range parts {
			io.WriteString(c, p)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Errorf("%q: %v", parts, err)
		}
		return string(b)
	}
	for _, k := range []struct{ in, want, protocol, by string }{
		{"PING\r\n", `echo "PING\r\n"`, "tcp", "bytes"},
		{"*1\r\n$4\r\nPING\r\n", `echo "*1\r\n"`, "tcp", "bytes"},
		{"\x16\x03\x01\x00\x05\x01hell\n", `echo "\x16\x03\x01\x00\x05\x01hell\n"`, "tcp", "bytes"}, // longer than any ClientHello
		{hello + "\n", "", "tls", "bytes"},
		{"\x00\x00\x00\x08\x04\xd2\x16\x2f\n", `echo "\x00\x00\x00\b\x04\xd2\x16/\n"`, "tcp", "bytes"},
		{"PRI * HTTP/2.0 not\n", `echo "PRI * HTTP/2.0 not\n"`, "tcp", "bytes"},
		{"AB", `echo "AB"`, "tcp", "bytes"}, // a part of a method, and then the end
	} {
		was := m.count("outrigger_protocols_found_total", "protocol", k.protocol, "by", k.by)
		if got := talk(k.in); got != k.want && k.protocol != "tls" || !strings.HasPrefix(got, "echo") {
			t.Errorf("%q: %q, want %q", k.in, got, k.want)
		}
		if n := m.count("outrigger_protocols_found_total", "protocol", k.protocol, "by", k.by) - was; n != 1 {
			t.Errorf("%q was counted %d times as %s by %s", k.in, n, k.protocol, k.by)
		}
	}
	if strings.Contains(log.String(), "said nothing") {
		t.Error("nobody was silent: ", log.String())
	}
	// A request that comes byte by byte is HTTP all the same, also where that takes longer than silence may.
	c, r := dial(t, m, "any")
	io.WriteString(c, "G")
	<-time.After(100 * time.Millisecond)
	io.WriteString(c, "ET / HTTP/1.1\r\nHost: slow\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Error(resp, err)
	}
	c.Close()

	if err := m.Table().SetEndpoints("c", []snapshot.EndpointSpec{{Address: greeter, Weight: 1}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, r = dial(t, m, "any")
		if line, err := r.ReadString('\n'); line != "5.7.0-server-first\n" {
			t.Fatal(line, err)
		}
		io.WriteString(c, "login\n")
		if line, err := r.ReadString('\n'); line != "ok login\n" {
			t.Fatal(line, err)
		}
		c.Close()
	}
	if n := m.count("outrigger_protocols_found_total", "protocol", "tcp", "by", "silence"); n != 2 {
		t.Errorf("%d connections were found silent", n)
	}
	if n := strings.Count(log.String(), "said nothing"); n != 1 {
		t.Errorf("it was told %d times: %s", n, log.String())
	}
}

// The addresses of a PROXY header are the client's from then on: for X-Forwarded-For, and for what the service is told by a
// PROXY header in its turn.
func TestProxyProtocolIn(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	ls := m.snap.Listeners
	for name, pp := range map[string]*snapshot.ProxyProtocol{"must": {}, "may": {Optional: true}, "v2": {NoV1: true}} {
		l := *ls["http"]
		l.Name, l.Front = name, &snapshot.Front{ProxyProtocol: pp, Timeout: 200 * time.Millisecond}
		ls[name] = &l
	}
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	get := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	src, dst := netip.MustParseAddrPort("192.0.2.7:1234"), netip.MustParseAddrPort("198.51.100.1:80")
	v1, v2 := string(proxyproto.Append(nil, 1, src, dst)), string(proxyproto.Append(nil, 2, src, dst))
	ask := func(listener string, parts ...string) string {
		t.Helper()
		c, r := dial(t, m, listener)
		defer c.Close()
		for i, p := range parts {
			if i > 0 {
				<-time.After(5 * time.Millisecond)
			}
			io.WriteString(c, p)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return "refused"
		}
		return resp.Header.Get("X-Got-For")
	}
	for _, k := range []struct {
		listener string
		parts    []string
		want     string
	}{
		{"must", []string{v1 + get}, "192.0.2.7"},
		{"must", []string{v2 + get}, "192.0.2.7"},
		{"must", []string{v1[:9], v1[9:], get}, "192.0.2.7"},
		{"must", []string{v2[:20], v2[20:] + get[:7], get[7:]}, "192.0.2.7"},
		{"must", []string{"PROXY UNKNOWN\r\n" + get}, "127.0.0.1"},
		{"must", []string{get}, "refused"},
		{"must", []string{"PROXY TCP4 1.2.3.4\r\n" + get}, "refused"},
		{"must", []string{v1 + v1 + get}, ""}, // the second is no request: 400
		{"must", []string{"PROX"}, "refused"}, // and no more
		{"may", []string{get}, "127.0.0.1"},
		{"may", []string{v2 + get}, "192.0.2.7"},
		{"may", []string{"PROXY nonsense\r\n" + get}, "refused"},
		{"v2", []string{v1 + get}, "refused"},
		{"v2", []string{v2 + get}, "192.0.2.7"},
	} {
		if got := ask(k.listener, k.parts...); got != k.want {
			t.Errorf("%s %q: %q, want %q", k.listener, k.parts, got, k.want)
		}
	}
	if n := m.count("outrigger_connections_refused_total", "reason", "proxy_protocol"); n != 4 {
		t.Errorf("%d counted as refused", n)
	}
	settled(t, m)
}

// A chain is chosen by what is known of the connection; one that none takes is closed. A chain that an update takes away
// lets its connections end, the others go on.
func TestChains(t *testing.T) {
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	only := func(names ...string) *snapshot.Listener {
		f := &snapshot.Front{ProxyProtocol: &snapshot.ProxyProtocol{}}
		for _, n := range names {
			h := *m.http
			h.Options = &snapshot.HTTPOptions{ServerName: n, Server: snapshot.ServerOverwrite}
			f.Chains = append(f.Chains, snapshot.Chain{
				Key: n, Match: snapshot.ChainMatch{Sources: []netip.Prefix{netip.MustParsePrefix(n)}},
				Listener: &snapshot.Listener{Name: "chains", HTTP: &h},
			})
		}
		return &snapshot.Listener{Name: "chains", Network: "tcp", Address: "127.0.0.1:0", Front: f}
	}
	m.snap.Listeners["chains"] = only("10.0.0.0/8", "10.1.0.0/16")
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	call := func(c net.Conn, r *bufio.Reader) (string, bool) {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return "refused", false
		}
		io.Copy(io.Discard, resp.Body)
		return resp.Header.Get("Server"), resp.Close
	}
	open := func(from string) (net.Conn, *bufio.Reader) {
		c, r := dial(t, m, "chains")
		c.Write(proxyproto.Append(nil, 2, netip.MustParseAddrPort(from), netip.MustParseAddrPort("10.0.0.1:80")))
		return c, r
	}
	wide, wideR := open("10.2.0.1:1")
	narrow, narrowR := open("10.1.0.1:1")
	none, noneR := open("192.0.2.1:1")
	if s, _ := call(wide, wideR); s != "10.0.0.0/8" {
		t.Error(s)
	}
	if s, _ := call(narrow, narrowR); s != "10.1.0.0/16" {
		t.Error(s)
	}
	if s, _ := call(none, noneR); s != "refused" {
		t.Error(s)
	}
	if n := m.count("outrigger_connections_refused_total", "reason", "no_chain"); n != 1 {
		t.Error(n)
	}
	m.snap.Listeners["chains"] = only("10.0.0.0/8")
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	if s, last := call(wide, wideR); s != "10.0.0.0/8" || last {
		t.Error("a chain that stayed: ", s, last)
	}
	if s, last := call(narrow, narrowR); s != "10.1.0.0/16" || !last {
		t.Error("a chain that is gone: ", s, last)
	}
	again, againR := open("10.1.0.1:1")
	if s, _ := call(again, againR); s != "10.0.0.0/8" {
		t.Error(s)
	}
	settled(t, m)
}
