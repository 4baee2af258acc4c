package httpwire_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

const (
	connectHCM   = `, "upgrade_configs": [{"upgrade_type": "CONNECT"}]`
	connectEnds  = `{"match": {"connect_matcher": {}}, "route": {"cluster": "up", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}`
	connectGoes  = `{"match": {"connect_matcher": {}}, "route": {"cluster": "up"}}`
	plainToo     = `, {"match": {"prefix": "/"}, "route": {"cluster": "up"}}`
	closedListen = "127.0.0.1:1"
)

// tunnel opens one over either protocol: what is written goes in, what comes is read; closeWrite ends the caller's half.
type tunnel struct {
	io.Reader
	io.Writer
	closeWrite func()
	status     int
}

func openTunnel(t testing.TB, sc *sidecar, h2 bool, authority string) tunnel {
	t.Helper()
	if h2 {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("CONNECT", sc.url, pr)
		req.Host, req.URL.Path = authority, ""
		req.URL.Opaque = ""
		resp, err := newH2Handshake(t).tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pw.Close(); _ = resp.Body.Close() })
		return tunnel{resp.Body, pw, func() { _ = pw.Close() }, resp.StatusCode}
	}
	c, r := sc.dial(t)
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	head := readHead(t, r)
	status := 0
	_, _ = fmt.Sscanf(head, "HTTP/1.1 %d", &status)
	for _, f := range []string{"Transfer-Encoding", "Content-Length", "Connection"} {
		if status == 200 && strings.Contains(head, f) {
			t.Errorf("%q", head)
		}
	}
	return tunnel{r, c, func() { _ = c.(*net.TCPConn).CloseWrite() }, status}
}

// A CONNECT ends in the sidecar, and its bytes go to the endpoint.
func TestConnectTerminated(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("h2 ", h2), func(t *testing.T) {
			up := raw(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) })
			sc := start(t, spec{up: up, hcm: connectHCM, routes: connectEnds + plainToo})
			tn := openTunnel(t, sc, h2, "orders:80")
			if tn.status != 200 {
				t.Fatal(tn.status)
			}
			b := make([]byte, 3<<20)
			_, _ = rand.Read(b)
			go func() { _, _ = tn.Write(b); tn.closeWrite() }()
			if got, err := io.ReadAll(tn); err != nil || !bytes.Equal(got, b) {
				t.Fatal(len(got), err)
			}
			sc.settled(t)
		})
	}
}

// Each half of a tunnel ends by itself, whichever is first.
func TestConnectHalfClose(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("h2 ", h2), func(t *testing.T) {
			got := make(chan string, 1)
			up := raw(t, func(c net.Conn, r *bufio.Reader) {
				_, _ = io.WriteString(c, "all that I say")
				_ = c.(*net.TCPConn).CloseWrite()
				b, _ := io.ReadAll(r)
				got <- string(b)
			})
			sc := start(t, spec{up: up, hcm: connectHCM, routes: connectEnds})
			tn := openTunnel(t, sc, h2, "orders:80")
			if b, err := io.ReadAll(tn); err != nil || string(b) != "all that I say" {
				t.Fatal(string(b), err)
			}
			_, _ = io.WriteString(tn, "and I say this")
			tn.closeWrite()
			if s := <-got; s != "and I say this" {
				t.Fatal(s)
			}
			sc.settled(t)
		})
	}
}

// A CONNECT is sent on as one, over each pair of protocols, through a second sidecar that ends it.
func TestConnectForwarded(t *testing.T) {
	for _, down := range []bool{false, true} {
		for _, up := range []bool{false, true} {
			t.Run(fmt.Sprintf("down h2 %v, up h2 %v", down, up), func(t *testing.T) {
				echo := raw(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) })
				end := start(t, spec{up: echo, hcm: connectHCM, routes: connectEnds})
				sc := start(t, spec{up: end.addr, h2: up, hcm: connectHCM, routes: connectGoes})
				tn := openTunnel(t, sc, down, "orders:80")
				if tn.status != 200 {
					t.Fatal(tn.status)
				}
				go func() { _, _ = io.WriteString(tn, strings.Repeat("x", 100_000)); tn.closeWrite() }()
				if got, err := io.ReadAll(tn); err != nil || len(got) != 100_000 {
					t.Fatal(len(got), err)
				}
				sc.settled(t)
				end.settled(t)
			})
		}
	}
}

// A CONNECT that nobody takes, and one whose endpoint is not there.
func TestConnectRefused(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct {
			name, hcm, routes, authority string
			status                       int
		}{
			{"no route", connectHCM, `{"match": {"prefix": "/"}, "route": {"cluster": "up"}}`, "a:1", 405},
			{"not allowed", "", connectEnds[:strings.Index(connectEnds, `, "upgrade_configs"`)] + "}}", "a:1", 405},
			{"answered", connectHCM, `{"match": {"connect_matcher": {}}, "direct_response": {"status": 403}}`, "a:1", 405},
			{"nobody there", connectHCM, connectEnds, "a:1", 503},
		} {
			t.Run(fmt.Sprintf("%s, h2 %v", c.name, h2), func(t *testing.T) {
				sc := start(t, spec{up: closedListen, hcm: c.hcm, routes: c.routes})
				if tn := openTunnel(t, sc, h2, c.authority); tn.status != c.status {
					t.Fatal(tn.status)
				}
				sc.settled(t)
			})
		}
	}
	sc := start(t, spec{hcm: connectHCM, routes: connectEnds})
	for _, request := range []string{
		"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		if resp, _ := sc.exchange(t, request); resp.StatusCode != 400 || !resp.Close {
			t.Errorf("%q: %v", request, resp)
		}
	}
	refused(t, spec{hcm: `, "upgrade_configs": [{"upgrade_type": "CONNECT-UDP"}]`}, "filter_chains[0].filters[0].typed_config.upgrade_configs[0].upgrade_type")
	refused(t, spec{hcm: connectHCM, routes: `{"match": {"connect_matcher": {}}, "direct_response": {"status": 200}}`},
		"filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].direct_response.status")
}
