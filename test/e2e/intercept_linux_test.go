package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

// The programs of these tests: a service that runs what it is told to, in the name of the service; one that greets; and one
// that keeps a ledger.
const (
	runnerPy = `
import http.server, json, os, subprocess
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        args = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        p = subprocess.run(args, capture_output=True, text=True, timeout=30)
        body = json.dumps({"code": p.returncode, "out": p.stdout, "err": p.stderr}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
`
	greeterPy = `
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = ("greeter of %s" % self.path).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.send_header("X-Seen-Id", self.headers.get("x-request-id", "")); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
`
	ledgerPy = `
import os, socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(b"ledger " + line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
`
	python = "/usr/bin/python3"
)

// intercepted is a mesh of those three in the test's own network namespace, and a world outside of it: addresses on
// loopback at which the test itself serves.
type intercepted struct {
	*harness.Mesh
	dir, file string
	port      string // of the runner
}

// must runs a program.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// outside makes the world: names, addresses, and servers at some of them.
func outside(t *testing.T) {
	t.Helper()
	for _, a := range []string{"198.51.100.1", "198.51.100.65"} {
		must(t, "ip", "addr", "add", a+"/32", "dev", "lo")
	}
	must(t, "ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
	// The mesh's own addresses lead somewhere, where nobody listens.
	must(t, "ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "nobody")
	must(t, "ip", "link", "set", "nowhere", "up")
	must(t, "ip", "link", "set", "nobody", "up")
	must(t, "ip", "route", "add", "198.51.100.0/24", "dev", "nowhere")
	must(t, "ip", "-6", "route", "add", "2001:db8::/64", "dev", "nowhere")
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n198.51.100.10 greeter\n198.51.100.1 outside.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", "--bind", hosts, "/etc/hosts")
	serve := func(addr string, h http.HandlerFunc) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: h}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close(); <-done })
	}
	says := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "outside of %s", r.Host) }
	for _, a := range []string{"198.51.100.1:80", "198.51.100.1:9100", "198.51.100.65:80", "[2001:db8::1]:80"} {
		serve(a, says)
	}
	for _, a := range []string{"198.51.100.1:22", "198.51.100.1:2525", "[2001:db8::1]:22"} { // the server speaks first
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "220 outside\r\n")
				_ = c.Close()
			}
		}()
	}
}

// spec is the three services; intercept and run are written into the first.
func (m *intercepted) spec(intercept, run string) string {
	return fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: caller}
spec:
  version: 1.0.0
  ports: [{name: http, protocol: http, number: %s}]
  run: {command: [%s, runner.py], dir: %s%s}
  uses: [greeter, ledger, partner]
%s---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: greeter}
spec:
  version: 1.0.0
  ports: [{name: http, protocol: http, number: 8080, addresses: ["198.51.100.20:80", "[2001:db8::20]:80", "198.51.100.1:9100", "198.51.100.65:80"]}]
  run: {command: [%s, greeter.py], dir: %s}
  intercept: {inbound: true, exclude: {cidrs: [10.77.0.9]}}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: ledger}
spec:
  version: 1.0.0
  ports: [{name: tcp, protocol: tcp, addresses: ["198.51.100.30:5432", "[2001:db8::30]:5432"]}]
  run: {command: [%s, ledger.py], dir: %s}
---
apiVersion: outrigger.dev/v1
kind: External
metadata: {name: partner}
spec:
  protocol: http
  endpoints: [{address: "198.51.100.1:80"}]
`, m.port, python, m.dir, run, intercept, python, m.dir, python, m.dir)
}

func (m *intercepted) write(spec string) {
	m.T.Helper()
	if err := os.WriteFile(m.file, []byte(spec), 0o644); err != nil {
		m.T.Fatal(err)
	}
}

// newIntercepted prepares the mesh.
func newIntercepted(t *testing.T) *intercepted {
	t.Helper()
	dir, err := os.MkdirTemp("", "intercept") //nolint:usetesting // open to the user that a process runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"runner.py": runnerPy, "greeter.py": greeterPy, "ledger.py": ledgerPy} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "mesh.yaml")
	_, port, _ := net.SplitHostPort(harness.FreeAddr(t))
	return &intercepted{Mesh: harness.Prepare(t, file), dir: dir, file: file, port: port}
}

func (m *intercepted) start() {
	m.T.Helper()
	if out, err := m.Start(); err != nil {
		m.T.Fatalf("outrigger up: %v\n%s\n%s", err, out, m.Log())
	}
	m.PS()
}

// of is the mesh in the hands of a part of the test.
func (m *intercepted) of(t *testing.T) *intercepted {
	whole := m.T
	m.T = t
	t.Cleanup(func() { m.T = whole })
	return m
}

// as runs a program in the name of the service, and returns its exit code and what it printed.
func (m *intercepted) as(args ...string) (int, string) {
	m.T.Helper()
	body, err := json.Marshal(args)
	if err != nil {
		m.T.Fatal(err)
	}
	c := http.Client{Timeout: 60 * time.Second}
	defer c.CloseIdleConnections()
	var got struct {
		Code     int
		Out, Err string
	}
	harness.Eventually(m.T, 20*time.Second, func() error { // it may be about to be started
		resp, err := c.Post("http://127.0.0.1:"+m.port, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&got)
	})
	return got.Code, got.Out + got.Err
}

// curl is the service's curl.
func (m *intercepted) curl(url string, more ...string) string {
	m.T.Helper()
	_, out := m.as(append([]string{"curl", "-sS", "-g", "--max-time", "20", "-w", " %{http_code}", url}, more...)...)
	return out
}

// talk is the service's conversation over TCP.
func (m *intercepted) talk(addr, port, say string) string {
	m.T.Helper()
	_, out := m.as(python, "-c", `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
if sys.argv[3]: s.sendall(sys.argv[3].encode() + b"\n")
print(s.makefile("rb").readline().decode().strip())
`, addr, port, say)
	return strings.TrimSpace(out)
}

func (m *intercepted) expect(what, got, want string) {
	m.T.Helper()
	if !strings.Contains(got, want) {
		m.T.Errorf("%s: %q, want %q in it", what, got, want)
	}
}

// reachesMesh checks what goes to the mesh.
func (m *intercepted) reachesMesh() {
	m.T.Helper()
	m.expect("by Host", m.curl("http://greeter/a"), "greeter of /a 200")
	m.expect("by its address", m.curl("http://198.51.100.20/b"), "greeter of /b 200")
	m.expect("by its IPv6 address", m.curl("http://[2001:db8::20]/c"), "greeter of /c 200")
	_, out := m.as(python, "-c", `import urllib.request; print(urllib.request.urlopen("http://greeter/d", timeout=20).read().decode())`)
	m.expect("by Python", out, "greeter of /d")
	m.expect("TCP", m.talk("198.51.100.30", "5432", "x"), "ledger x")
	m.expect("TCP over IPv6", m.talk("2001:db8::30", "5432", "y"), "ledger y")
}

// tables are the names of our tables in the namespace.
func tables(t *testing.T) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(must(t, "nft", "list", "tables")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "table inet outrigger-"); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (m *intercepted) cgroups() []string {
	left, _ := filepath.Glob("/sys/fs/cgroup/unified/outrigger-*")
	more, _ := filepath.Glob("/sys/fs/cgroup/outrigger-*")
	return append(left, more...)
}

// TestIntercept: a process that knows nothing of the mesh calls it by unmodified URLs, and is called through it.
func TestIntercept(t *testing.T) {
	if !testkit.InNetNS(t, "nft", "curl", "setpriv", "nsenter", "mount") {
		return
	}
	outside(t)
	m := newIntercepted(t)
	m.write(m.spec("  intercept: {outbound: true, exclude: {ports: [9100], cidrs: [198.51.100.64/26], uids: [1234]}}\n", ""))
	m.start()

	m.reachesMesh()
	m.expect("outside by name", m.curl("http://outside.example/"), "outside of outside.example 200")
	m.expect("outside by IPv6", m.curl("http://[2001:db8::1]/"), "outside of [2001:db8::1] 200")
	m.expect("outside, where the server speaks first", m.talk("outside.example", "2525", ""), "220 outside")
	m.expect("an excluded port", m.curl("http://198.51.100.1:9100/"), "outside of 198.51.100.1:9100 200")
	m.expect("an excluded range", m.curl("http://198.51.100.65/"), "outside of 198.51.100.65 200")
	m.expect("port 22", m.talk("198.51.100.1", "22", ""), "220 outside")

	// Others are not touched: for them nobody is at the mesh's addresses.
	if c, err := net.DialTimeout("tcp", "198.51.100.20:80", 300*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a process that is not intercepted reaches an address of the mesh")
	}
	if out, err := exec.Command("curl", "-sS", "--max-time", "10", "http://198.51.100.1/").Output(); err != nil || string(out) != "outside of 198.51.100.1" {
		t.Errorf("a process that is not intercepted: %q, %v", out, err)
	}
	m.expect("an excluded user", func() string {
		_, out := m.as("setpriv", "--reuid=1234", "--clear-groups", "curl", "-sS", "--max-time", "1", "http://198.51.100.20/")
		return out
	}(), "curl: (28)")

	// It can be seen.
	m.expect("status", m.Must("status"), "caller-1.0.0-0: outbound by cgroup")
	m.expect("ps", m.Must("ps"), "INTERCEPT")
	rules := m.Must("intercept", "--dry-run", "caller")
	m.expect("dry run", rules, "tcp dport 22 return")
	m.expect("dry run", rules, "ip daddr 198.51.100.64/26 return")
	if n := len(tables(t)); n != 2 {
		t.Errorf("there are %d tables: %v", n, tables(t))
	}
	// What was flushed is put in once more: at once where that is told, else by itself.
	must(t, "nft", "flush", "ruleset")
	m.expect("renewed", m.Must("intercept", "caller"), "is in force")
	m.reachesMesh()
	must(t, "nft", "flush", "ruleset")
	harness.Eventually(t, 20*time.Second, func() error {
		if n := tables(t); len(n) != 2 {
			return fmt.Errorf("after a flush there are %v", n)
		}
		return nil
	})
	m.reachesMesh()
	m.expect("events", m.Must("events"), "intercept.lost")

	t.Run("inbound", func(t *testing.T) { inbound(t, m.of(t)) })
	t.Run("deny", func(t *testing.T) {
		m := m.of(t)
		m.write(m.spec("  intercept: {outbound: true, egress: deny, exclude: {ports: [9100], uids: [1234]}}\n", ""))
		m.Must("apply", "-f", m.file)
		harness.Eventually(t, 30*time.Second, func() error {
			if out := m.curl("http://198.51.100.1:80/", "-H", "Host: other.example"); !strings.Contains(out, "outside of other.example") {
				return fmt.Errorf("an External is not reached by its address: %s", out)
			}
			if out := m.curl("http://[2001:db8::1]/"); !strings.Contains(out, "egress is denied") || !strings.HasSuffix(out, " 403") {
				return fmt.Errorf("not denied: %s", out)
			}
			return nil
		})
		m.expect("TCP", m.talk("198.51.100.1", "2525", ""), "ConnectionResetError")
		m.expect("port 22", m.talk("198.51.100.1", "22", ""), "220 outside")
		m.expect("port 22 over IPv6", m.talk("2001:db8::1", "22", ""), "220 outside")
		m.expect("an excluded port", m.curl("http://198.51.100.1:9100/"), "outside of 198.51.100.1:9100 200")
		_, out := m.as("setpriv", "--reuid=1234", "--clear-groups", "curl", "-sS", "-g", "--max-time", "10", "http://[2001:db8::1]/")
		m.expect("an excluded user", out, "outside of")
		m.reachesMesh()
	})
	t.Run("crashes", func(t *testing.T) { crashes(t, m.of(t)) })
}

// inbound calls from another machine: a namespace at the other end of a cable.
func inbound(t *testing.T, m *intercepted) {
	far := exec.Command("sleep", "infinity")
	far.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := far.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Process.Kill(); _ = far.Wait() })
	pid := fmt.Sprint(far.Process.Pid)
	there := func(args ...string) (string, error) {
		out, err := exec.Command("nsenter", append([]string{"--net=/proc/" + pid + "/ns/net"}, args...)...).CombinedOutput()
		return string(out), err
	}
	must(t, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", pid)
	must(t, "ip", "addr", "add", "10.77.0.1/24", "dev", "near")
	must(t, "ip", "addr", "add", "fd77::1/64", "dev", "near", "nodad")
	must(t, "ip", "link", "set", "near", "up")
	for _, args := range [][]string{
		{"ip", "addr", "add", "10.77.0.2/24", "dev", "far"},
		{"ip", "addr", "add", "10.77.0.9/24", "dev", "far"},
		{"ip", "addr", "add", "fd77::2/64", "dev", "far", "nodad"},
		{"ip", "link", "set", "far", "up"},
	} {
		if out, err := there(args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	curl := func(args ...string) string {
		out, _ := there(append([]string{"curl", "-sS", "-g", "--max-time", "10", "-D", "-"}, args...)...)
		return out
	}
	// The process listens on loopback alone: what answers is the sidecar, which gives each call an id.
	for _, url := range []string{"http://10.77.0.1:8080/in", "http://[fd77::1]:8080/in"} {
		got := curl(url)
		m.expect(url, got, "greeter of /in")
		if !strings.Contains(strings.ToLower(got), "x-seen-id: ") || strings.Contains(strings.ToLower(got), "x-seen-id: \r") {
			t.Errorf("%s did not come by the sidecar: %s", url, got)
		}
	}
	m.expect("an excluded source", curl("--interface", "10.77.0.9", "http://10.77.0.1:8080/"), "curl: (7)")
	// The listener itself is not there for them.
	listener := ""
	for line := range strings.Lines(m.Must("intercept", "--dry-run", "greeter")) {
		if _, to, ok := strings.Cut(strings.TrimSpace(line), "tcp dport 8080 redirect to :"); ok {
			listener = to
		}
	}
	m.expect("the listener itself", curl("http://10.77.0.1:"+listener+"/"), "curl: (7)")
	m.expect("another port", curl("http://10.77.0.1:8081/"), "curl: (7)")
}

// crashes kills one part after another: what was intercepted is so again, and nothing is left in the end.
func crashes(t *testing.T, m *intercepted) {
	rules := func() string {
		var b strings.Builder
		for _, name := range tables(t) {
			b.WriteString(must(t, "nft", "list", "table", "inet", "outrigger-"+name))
		}
		return b.String()
	}
	before := rules()
	same := func(what string) {
		t.Helper()
		if after := rules(); after != before {
			t.Errorf("%s: the rules are\n%s\nwere\n%s", what, after, before)
		}
	}
	caller := m.Of("caller")[0]
	m.Kill9(caller.Sidecar.PID)
	same("without a sidecar")
	m.reachesMesh() // connections wait for the next one

	m.Kill9(m.ControlPID())
	same("without a control plane")
	m.reachesMesh()
	m.Kill9(m.sidecarOf(caller.Runner.PID))
	m.reachesMesh()
	m.start()
	same("with a new control plane")
	m.reachesMesh()

	// The process anew: in the same cgroup, by the same rules.
	old := m.Of("caller")[0].PID
	m.Kill9(old)
	harness.Eventually(t, 20*time.Second, func() error {
		if p := m.Of("caller")[0]; !p.Ready || p.PID == old || p.PID == 0 {
			return fmt.Errorf("process %d was killed, and there is %+v", old, p)
		}
		return nil
	})
	m.reachesMesh()
	same("with a new process")

	// Stopped: no rules. Started: rules.
	m.Must("stop", "caller")
	harness.Eventually(t, 10*time.Second, func() error {
		if n := tables(t); len(n) != 1 {
			return fmt.Errorf("stopped, but there are %v", n)
		}
		return nil
	})
	m.expect("dry run", m.Must("intercept", "--dry-run", "caller"), "these are not in force")
	m.Must("start", "caller")
	m.WaitReady()
	m.reachesMesh()

	// All killed at once, and started without interception: what was left is removed.
	killAll(m)
	if n := tables(t); len(n) != 2 {
		t.Fatalf("after all was killed there are %v", n)
	}
	m.write(strings.Replace(m.spec("", ""), "  intercept: {inbound: true, exclude: {cidrs: [10.77.0.9]}}\n", "", 1))
	m.start()
	if n := tables(t); len(n) != 0 {
		t.Errorf("started without interception, but there are %v", n)
	}
	m.expect("not intercepted", m.curl("http://198.51.100.1/"), "outside of 198.51.100.1 200")

	// Down takes out everything, also after all was killed.
	m.write(m.spec("  intercept: {outbound: true}\n", ""))
	m.Must("apply", "-f", m.file)
	m.WaitReady()
	harness.Eventually(t, 20*time.Second, func() error {
		if out := m.curl("http://greeter/"); !strings.Contains(out, "greeter of /") {
			return fmt.Errorf("not intercepted: %s", out)
		}
		return nil
	})
	killAll(m)
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	nothing(t, m)
	m.start()
	m.reachesMesh()
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	nothing(t, m)
}

func nothing(t *testing.T, m *intercepted) {
	t.Helper()
	if n := tables(t); len(n) != 0 {
		t.Errorf("after down there are %v", n)
	}
	if n := m.cgroups(); len(n) != 0 {
		t.Errorf("after down there are %v", n)
	}
}

// sidecarOf is the sidecar below a runner, found without a control plane.
func (m *intercepted) sidecarOf(runner int) int {
	_, sidecar := harness.ServiceAndSidecar(runner)
	return sidecar
}

// killAll ends control plane, runners, sidecars and processes by force, in this order.
func killAll(m *intercepted) {
	m.T.Helper()
	ps := m.PS()
	m.Kill9(m.ControlPID())
	for _, p := range ps {
		m.Kill9(p.Runner.PID)
	}
	for _, p := range ps {
		for _, pid := range []int{p.Sidecar.PID, p.PID} {
			if pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// TestInterceptByUID: a process that runs as a user of its own.
func TestInterceptByUID(t *testing.T) {
	if !testkit.InNetNS(t, "nft", "curl", "setpriv", "mount") {
		return
	}
	outside(t)
	m := newIntercepted(t)
	m.write(m.spec("  intercept: {outbound: true, by: uid}\n", ", user: '1234'"))
	m.start()
	_, out := m.as("id", "-u")
	m.expect("the process's user", out, "1234")
	m.reachesMesh()
	m.expect("outside", m.curl("http://[2001:db8::1]/"), "outside of [2001:db8::1] 200")
	m.expect("status", m.Must("status"), "caller-1.0.0-0: outbound by uid")
	// The same user, wherever it is; another user of the same service is not.
	c := exec.Command("setpriv", "--reuid=1234", "--clear-groups", "curl", "-sS", "--max-time", "20", "http://198.51.100.20/e")
	if out, err := c.CombinedOutput(); err != nil || string(out) != "greeter of /e" {
		t.Errorf("the same user elsewhere: %q, %v", out, err)
	}
	// Refused: the control plane's own user.
	m.write(m.spec("  intercept: {outbound: true, by: uid}\n", ", user: root"))
	m.Must("apply", "-f", m.file)
	harness.Eventually(t, 20*time.Second, func() error {
		out, err := m.Run("status")
		if err != nil || !strings.Contains(out, "root is the user of the control plane and of the sidecars") {
			return fmt.Errorf("status: %s %w", out, err)
		}
		return nil
	})
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	nothing(t, m)
}

// TestInterceptByNamespace: all that is in the namespace, but the mesh itself.
func TestInterceptByNamespace(t *testing.T) {
	if !testkit.InNetNS(t, "nft", "curl", "mount") {
		return
	}
	outside(t)
	m := newIntercepted(t)
	m.write(m.spec("  intercept: {outbound: true, by: namespace}\n", ""))
	m.start()
	m.reachesMesh()
	m.expect("outside", m.curl("http://[2001:db8::1]/"), "outside of [2001:db8::1] 200")
	m.expect("status", m.Must("status"), "caller-1.0.0-0: outbound by namespace")
	if out, err := exec.Command("curl", "-sS", "--max-time", "20", "http://198.51.100.20/f").CombinedOutput(); err != nil || string(out) != "greeter of /f" {
		t.Errorf("somebody else in the namespace: %q, %v", out, err)
	}
	m.Kill9(m.Of("caller")[0].Sidecar.PID)
	m.reachesMesh()
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	nothing(t, m)
}

// TestInterceptRefused: who may not set rules is told so, and nothing is started without them.
func TestInterceptRefused(t *testing.T) {
	if !testkit.InNetNS(t, "setpriv") { // root, to become somebody else; in the namespace nothing can go wrong
		return
	}
	b := harness.Binaries(t)
	dir, err := os.MkdirTemp("", "refused") //nolint:usetesting // of the other user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// The programs may lie where only root gets to.
	for _, name := range []string{"outrigger", "outrigger-sidecar", "outrigger-runner"} {
		must(t, "cp", filepath.Join(b.Dir, name), dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "greeter.py"), []byte(greeterPy), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "chown", "-R", "65534:65534", dir)
	unprivileged := func(args ...string) (string, error) {
		c := exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", filepath.Join(dir, "outrigger")}, args...)...)
		c.Dir, c.Env = dir, append(os.Environ(), "HOME="+dir)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	spec := func(run, intercept string) string {
		file := filepath.Join(dir, "mesh.yaml")
		text := fmt.Sprintf("apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {name: greeter}\nspec:\n  version: 1.0.0\n  ports: [{name: http, protocol: http}]\n  run: {command: [%s, greeter.py]%s}\n%s", python, run, intercept)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	state := filepath.Join(dir, "state")
	for want, file := range map[string]func() string{
		"spec.intercept: list the tables of nftables": func() string { return spec("", "  intercept: {outbound: true}\n") },
		"spec.run.user: only root can run processes":  func() string { return spec(", user: root", "") },
		"there is no user nobody-of-this-name":        func() string { return spec(", user: nobody-of-this-name", "") },
	} {
		out, err := unprivileged("up", "--detach", "--state", state, "--edge", harness.FreeAddr(t), "-f", file())
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v: %s\nwant %q", err, out, want)
		}
		if strings.Contains(want, "intercept") && !strings.Contains(out, "needs root (CAP_NET_ADMIN)") {
			t.Errorf("says not what is needed: %s", out)
		}
	}
	// Without interception nothing is asked of the kernel that it would refuse.
	out, err := unprivileged("up", "--detach", "--wait", "60s", "--state", state, "--edge", harness.FreeAddr(t), "-f", spec("", ""))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		if out, err := unprivileged("down", "--state", state); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	if out, err := unprivileged("status", "--state", state); err != nil || strings.Contains(out, "nftables") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := unprivileged("intercept", "greeter", "--state", state); err != nil || !strings.Contains(out, "nothing of greeter is intercepted") {
		t.Errorf("%v: %s", err, out)
	}
}
