package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// greeter is a server that speaks first, as MySQL, SMTP and others do: a line, then what it is told, upside down.
const greeter = `
import os, socketserver
class H(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 ready\n")
        for line in self.rfile:
            self.wfile.write(line.strip()[::-1] + b"\n")
class S(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
S(("127.0.0.1", int(os.environ["PORT"])), H).serve_forever()
`

// TestAutoProtocol: ports of protocol auto serve HTTP with its routes, a protocol in which the client speaks first, and one in which
// the server does, through both sidecars; the gateway reaches the HTTP one by its Unix socket, from behind a proxy that tells
// the client's address.
func TestAutoProtocol(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "edge.sock")
	web := orders(1)
	web.protocol = "auto"
	ledger := service{name: "ledger", protocol: "auto", command: []string{"ledger"}, health: "tcp: true"}
	first := fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: greeter}
spec:
  version: 1.0.0
  ports: [{name: main, protocol: auto}]
  run: {command: [python3, -c, %q]}
  health: {tcp: true, interval: 500ms}
  uses: []
---
`, greeter)
	gateway := fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Gateway
metadata: {name: socket}
spec: {listen: "unix:%s", proxyProtocol: true, routes: [{service: orders}]}
---
`, socket)
	m := harness.Up(t, write(t, []service{web, ledger, front(1, "orders", "ledger", "greeter")}, first, gateway))
	caller := m.Of("front")[0]

	resp, err := http.Get("http://" + outbound(t, caller, "orders") + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("HTTP: %s", resp.Status)
	}

	talk := func(service string) (net.Conn, *bufio.Reader) {
		c, err := net.DialTimeout("tcp", outbound(t, caller, service), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c, bufio.NewReader(c)
	}
	c, in := talk("ledger")
	fmt.Fprint(c, "add a 2\n")
	if line, err := in.ReadString('\n'); line != "ok 2\n" {
		t.Errorf("the client first: %q, %v", line, err)
	}
	c, in = talk("greeter")
	if line, err := in.ReadString('\n'); line != "220 ready\n" {
		t.Errorf("the server first: %q, %v", line, err)
	}
	fmt.Fprint(c, "abc\n")
	if line, err := in.ReadString('\n'); line != "cba\n" {
		t.Errorf("the server first: %q, %v", line, err)
	}

	c, err = net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if all, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200") {
		t.Errorf("the gateway: %q, %v", all, err)
	}
	d, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fmt.Fprint(d, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if all, _ := io.ReadAll(d); len(all) > 0 {
		t.Errorf("whoever passes the proxy by is answered: %q", all)
	}
}
