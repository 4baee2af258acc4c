package httpwire_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

// h2conn is the two directions of an extended CONNECT.
type h2conn struct {
	io.Reader
	io.Writer
	close func()
	once  sync.Once
}

func (c *h2conn) Close() error { c.once.Do(c.close); return nil }

func (c *h2conn) Read(b []byte) (int, error)  { return c.Reader.Read(b) }
func (c *h2conn) Write(b []byte) (int, error) { return c.Writer.Write(b) }

// h2Handshake lets a WebSocket client speak over HTTP/2: what it asks for as HTTP/1.1's upgrade goes out as RFC 8441 says.
type h2Handshake struct{ tr http.RoundTripper }

func newH2Handshake(t testing.TB) h2Handshake {
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return h2Handshake{tr}
}

func (h h2Handshake) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	q := r.Clone(context.WithoutCancel(r.Context()))
	q.Method, q.Body, q.ContentLength = "CONNECT", pr, -1
	q.Header.Set(":protocol", "websocket")
	key := q.Header.Get("Sec-Websocket-Key")
	for _, f := range []string{"Connection", "Upgrade", "Sec-Websocket-Key"} {
		q.Header.Del(f)
	}
	resp, err := h.tr.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 200 {
		return resp, nil
	}
	if resp.Header.Get("Sec-Websocket-Accept") != "" {
		return nil, errors.New("Sec-WebSocket-Accept over HTTP/2")
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	body := resp.Body
	resp.StatusCode = 101
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Header.Set("Sec-Websocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	resp.Body = struct {
		io.Reader
		io.WriteCloser
	}{body, &h2conn{Reader: body, Writer: pw, close: func() { _ = pw.Close(); _ = body.Close() }}}
	return resp, nil
}

// h2Server lets a WebSocket server take an extended CONNECT as HTTP/1.1's upgrade.
type h2Server struct {
	http.ResponseWriter
	r *http.Request
}

func (s h2Server) WriteHeader(status int) {
	if status == 101 {
		status = 200
		s.Header().Del("Sec-Websocket-Accept")
		s.Header().Del("Connection")
		s.Header().Del("Upgrade")
	}
	s.ResponseWriter.WriteHeader(status)
	_ = http.NewResponseController(s.ResponseWriter).Flush()
}

type h2ServerConn struct {
	net.Conn
	s h2Server
}

func (c h2ServerConn) Read(b []byte) (int, error) { return c.s.r.Body.Read(b) }

func (c h2ServerConn) Write(b []byte) (int, error) {
	n, err := c.s.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(c.s.ResponseWriter).Flush()
	}
	return n, err
}
func (h2ServerConn) Close() error                { return nil }
func (h2ServerConn) SetDeadline(time.Time) error { return nil }

func (s h2Server) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := h2ServerConn{s: s}
	return c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), nil
}

// webSocketEcho is a server of either protocol; what it saw of the handshake goes to saw.
func webSocketEcho(t testing.TB, saw func(r *http.Request)) string {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		saw(r.Clone(context.Background()))
		if r.Header.Get(":protocol") != "" {
			w = h2Server{w, r}
			r.Method = "GET"
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", r.Header.Get(":protocol"))
			r.Header.Set("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			t.Error(err)
			return
		}
		c.SetReadLimit(8 << 20)
		for {
			typ, b, err := c.Read(context.Background())
			if err != nil {
				_ = c.CloseNow()
				return
			}
			if err := c.Write(context.Background(), typ, b); err != nil {
				return
			}
		}
	})
}

// A real WebSocket library speaks through the sidecar, over HTTP/1.1 and HTTP/2 on either side.
func TestWebSocket(t *testing.T) {
	for _, down := range []bool{false, true} {
		for _, up := range []bool{false, true} {
			t.Run(fmt.Sprintf("down h2 %v, up h2 %v", down, up), func(t *testing.T) {
				var saw *http.Request
				sc := start(t, spec{
					up: webSocketEcho(t, func(r *http.Request) { saw = r }), h2: up,
					hcm: `, "upgrade_configs": [{"upgrade_type": "websocket"}], "http2_protocol_options": {"allow_connect": true}`,
				})
				o := &websocket.DialOptions{Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover, HTTPHeader: http.Header{"X-Mine": {"1"}}}
				if down {
					o.HTTPClient = &http.Client{Transport: newH2Handshake(t)}
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				c, resp, err := websocket.Dial(ctx, sc.url+"/ws?x=1", o)
				if err != nil {
					t.Fatal(err, resp)
				}
				if c.Subprotocol() != "chat" {
					t.Error("subprotocol", c.Subprotocol())
				}
				c.SetReadLimit(8 << 20)
				r := rand.New(rand.NewPCG(1, 2))
				for _, n := range []int{0, 1, 125, 126, 65535, 65536, 200_000} {
					b := make([]byte, n)
					for i := range b {
						b[i] = byte(r.Uint32())
					}
					go func() { _ = c.Write(ctx, websocket.MessageBinary, b) }()
					_, got, err := c.Read(ctx)
					if err != nil || !bytes.Equal(got, b) {
						t.Fatalf("%d bytes: %d, %v", n, len(got), err)
					}
				}
				if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
					t.Error(err)
				}
				sc.settled(t)
				if saw.RequestURI != "/ws?x=1" && saw.URL.RequestURI() != "/ws?x=1" || saw.Header.Get("X-Mine") != "1" {
					t.Error(saw)
				}
				if up && (saw.Method != "CONNECT" || saw.Header.Get("Sec-Websocket-Key") != "") || !up && saw.Header.Get("Sec-Websocket-Key") == "" {
					t.Error(saw.Method, saw.Header)
				}
			})
		}
	}
}

// Many upgrades and plain calls share the connections of HTTP/2, also before the peer's settings have come.
func TestWebSocketBesideCalls(t *testing.T) {
	var mu sync.Mutex
	n := 0
	echo := webSocketEcho(t, func(*http.Request) { mu.Lock(); n++; mu.Unlock() })
	sc := start(t, spec{up: echo, h2: true, hcm: `, "upgrade_configs": [{"upgrade_type": "websocket"}], "http2_protocol_options": {"allow_connect": true}`})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	o := &websocket.DialOptions{HTTPClient: &http.Client{Transport: newH2Handshake(t)}}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			c, _, err := websocket.Dial(ctx, sc.url+"/", o)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 20 {
				m := fmt.Sprint(i)
				if err := c.Write(ctx, websocket.MessageText, []byte(m)); err != nil {
					t.Error(err)
					return
				}
				if _, b, err := c.Read(ctx); err != nil || string(b) != m {
					t.Errorf("%q %v", b, err)
					return
				}
			}
			_ = c.Close(websocket.StatusNormalClosure, "")
		})
	}
	wg.Wait()
	sc.settled(t)
	if n != 20 {
		t.Error(n)
	}
}

// What is not allowed goes on as a plain request over HTTP/1.1, and is refused over HTTP/2.
func TestUpgradeNotAllowed(t *testing.T) {
	for _, c := range []struct {
		name, hcm, routes, token string
		upgraded                 bool
	}{
		{name: "not configured", token: "websocket"},
		{name: "another", hcm: `, "upgrade_configs": [{"upgrade_type": "websocket"}]`, token: "chat"},
		{name: "any case", hcm: `, "upgrade_configs": [{"upgrade_type": "WebSocket"}]`, token: "webSOCKET", upgraded: true},
		{name: "off", hcm: `, "upgrade_configs": [{"upgrade_type": "websocket", "enabled": false}]`, token: "websocket"},
		{
			name: "on for a route", hcm: `, "upgrade_configs": [{"upgrade_type": "websocket", "enabled": false}]`, token: "websocket", upgraded: true,
			routes: `{"match": {"prefix": "/"}, "route": {"cluster": "up", "upgrade_configs": [{"upgrade_type": "websocket"}]}}`,
		},
		{
			name: "off for a route", hcm: `, "upgrade_configs": [{"upgrade_type": "websocket"}]`, token: "websocket",
			routes: `{"match": {"prefix": "/"}, "route": {"cluster": "up", "upgrade_configs": [{"upgrade_type": "websocket", "enabled": false}]}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := raw(t, func(conn net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if u := req.Header.Get("Upgrade"); u != "" {
						fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\nbytes", u)
						return
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
				}
			})
			sc := start(t, spec{up: up, hcm: c.hcm + `, "http2_protocol_options": {"allow_connect": true}`, routes: c.routes})
			conn, r := sc.dial(t)
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+c.token+"\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.upgraded {
				b, _ := io.ReadAll(r)
				if resp.StatusCode != 101 || string(b) != "bytes" || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
					t.Fatal(resp, string(b))
				}
				return
			}
			for i := range 2 { // what came behind the request is another
				if i > 0 {
					if resp, err = http.ReadResponse(r, nil); err != nil {
						t.Fatal(err)
					}
				}
				b, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != 200 || string(b) != "plain" {
					t.Fatal(resp, string(b))
				}
			}
			req, _ := http.NewRequest("GET", sc.url+"/", nil)
			if resp, err := newH2Handshake(t).RoundTrip(req); err != nil || resp.StatusCode != 501 && c.token == "websocket" {
				t.Fatal(resp, err)
			}
		})
	}
}

// An upstream that does not take extended CONNECT is not asked.
func TestUpgradeUpstreamCannot(t *testing.T) {
	up := start(t, spec{up: mirror(t), hcm: `, "upgrade_configs": [{"upgrade_type": "websocket"}]`}) // without allow_connect
	sc := start(t, spec{up: up.addr, h2: true, hcm: `, "upgrade_configs": [{"upgrade_type": "websocket"}]`})
	resp, body := sc.exchange(t, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp.StatusCode != 502 || !strings.Contains(body, "RFC 8441") {
		t.Fatal(resp, body)
	}
	// and a client that was not told may not ask
	tr := newH2Handshake(t)
	req, _ := http.NewRequest("GET", up.url+"/", nil)
	if resp, err := tr.RoundTrip(req); err == nil {
		t.Fatal(resp)
	}
}
