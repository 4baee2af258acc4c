package httpwire_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Who says Continue: the sidecar, or the callee.
func TestExpectContinue(t *testing.T) {
	for _, c := range []struct {
		name, hcm string
		own       bool
	}{{"own", "", true}, {"the callee's", `, "proxy_100_continue": true`, false}} {
		t.Run(c.name, func(t *testing.T) {
			saw := make(chan string, 1)
			up := raw(t, func(conn net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				saw <- req.Header.Get("Expect")
				_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
				b, _ := io.ReadAll(req.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
			})
			sc := start(t, spec{up: up, hcm: c.hcm})
			conn, r := sc.dial(t)
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			if h := readHead(t, r); !strings.HasPrefix(h, "HTTP/1.1 100 ") {
				t.Fatal(h)
			}
			if e := <-saw; (e == "") != c.own {
				t.Fatalf("the callee saw Expect: %q", e)
			}
			_, _ = io.WriteString(conn, "body")
			if h := readHead(t, r); !strings.HasPrefix(h, "HTTP/1.1 103 ") || !strings.Contains(h, "Link: </a>") {
				t.Fatal(h)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(b) != "body" {
				t.Fatal(resp, string(b))
			}
		})
	}
}

// A refusal comes instead of a Continue, and the body is not waited for.
func TestExpectRefused(t *testing.T) {
	up := raw(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
			_, _ = r.ReadByte()
		}
	})
	sc := start(t, spec{up: up, hcm: `, "proxy_100_continue": true`})
	conn, r := sc.dial(t)
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if h := readHead(t, r); !strings.HasPrefix(h, "HTTP/1.1 413 ") || !strings.Contains(h, "Connection: close") {
		t.Fatal(h)
	}
}

// A request that is not whole in time is answered, over either protocol.
func TestRequestTimeout(t *testing.T) {
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	for _, h2 := range []bool{false, true} {
		sc := start(t, spec{up: up, hcm: `, "request_timeout": "0.02s"`})
		pr, pw := io.Pipe()
		resp, err := client(t, h2).Post(sc.url+"/", "text/plain", pr)
		if err != nil || resp.StatusCode != 408 {
			t.Fatal(resp, err)
		}
		_ = pw.Close()
		_ = resp.Body.Close()
		if resp, err = client(t, h2).Post(sc.url+"/", "text/plain", strings.NewReader("whole")); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
		sc.settled(t)
	}
}

// HTTP/1.0: kept alive where the caller asks for it, and a length or the end where it does not know chunks.
func TestHTTP10(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "body")
	})
	sc := start(t, spec{up: up})
	conn, r := sc.dial(t)
	for range 2 {
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
		h := readHead(t, r)
		b := make([]byte, 4)
		if _, err := io.ReadFull(r, b); err != nil || !strings.Contains(h, "Connection: keep-alive") || !strings.Contains(h, "Content-Length: 4") || string(b) != "body" {
			t.Fatal(h, string(b), err)
		}
	}
	_, _ = io.WriteString(conn, "GET /stream HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
	h := readHead(t, r)
	if b, err := io.ReadAll(r); err != nil || string(b) != "body" || strings.Contains(h, "chunked") {
		t.Fatal(h, string(b), err)
	}
}

// Connections end with their share of requests.
func TestMaxRequests(t *testing.T) {
	sc := start(t, spec{up: mirror(t), hcm: `, "common_http_protocol_options": {"max_requests_per_connection": 2}`})
	conn, r := sc.dial(t)
	_, _ = io.WriteString(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 3))
	for i := range 2 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 || resp.Close != (i == 1) {
			t.Fatal(i, resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
		t.Fatal(string(b), err)
	}
}
