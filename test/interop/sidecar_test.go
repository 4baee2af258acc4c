package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// plain and raced are the sidecar as users run it, and with the race detector.
func plain(t testing.TB) string {
	t.Helper()
	return filepath.Join(harness.Binaries(t).Dir, "outrigger-sidecar")
}

var buildRaced = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "race")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "outrigger-sidecar")
	cmd := exec.Command("go", "build", "-race", "-p", "2", "-o", out, "./cmd/outrigger-sidecar")
	cmd.Dir = root
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build -race: %w\n%s", err, said)
	}
	return out, nil
})

func raced(t testing.TB) string {
	t.Helper()
	bin, err := buildRaced()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// proxy is a running sidecar.
type proxy struct {
	t       testing.TB
	cmd     *exec.Cmd
	out     *output
	console string
	ended   chan struct{}
	err     error
}

// output is what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a sidecar with a bootstrap, and waits until it is ready. At the end of the test it is stopped, and must
// have ended well, without a race and without a complaint of its own.
func start(t testing.TB, binary, bootstrap string, args ...string) *proxy {
	t.Helper()
	p := launch(t, binary, bootstrap, args...)
	harness.Eventually(t, 30*time.Second, func() error {
		select {
		case <-p.ended:
			t.Fatalf("the sidecar ended: %v\n%s", p.err, p.out)
		default:
		}
		_, err := p.get("/ready")
		return err
	})
	t.Cleanup(p.stop)
	return p
}

func launch(t testing.TB, binary, bootstrap string, args ...string) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "interop") //nolint:usetesting // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, out: &output{}, console: filepath.Join(dir, "console.sock"), ended: make(chan struct{})}
	p.cmd = exec.Command(binary, append([]string{"-c", file, "-console", p.console}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=0 exitcode=66")
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

func (p *proxy) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.t.Errorf("the sidecar does not end\n%s", p.out)
	}
	if p.err != nil || strings.Contains(p.out.String(), "DATA RACE") || strings.Contains(p.out.String(), "panic") {
		p.t.Errorf("the sidecar ended with %v\n%s", p.err, p.out)
	}
}

// run runs a program until the test ends.
func run(t testing.TB, program string, args ...string) *output {
	t.Helper()
	out := &output{}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", program, out)
		}
	})
	return out
}

// accepts waits until somebody accepts at addr.
func accepts(t testing.TB, addr string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// get asks the console.
func (p *proxy) get(path string) (string, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.console)
		},
	}}
	resp, err := c.Get("http://sidecar" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("%s: %s", resp.Status, b.String()))
	}
	return b.String(), err
}

// Bootstraps are put together of listeners and clusters, in YAML.

const hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

// listen is an HTTP listener that forwards all to a cluster; more are fields of the connection manager, a line each.
func listen(name, addr, cluster string, more ...string) string {
	host, port, _ := net.SplitHostPort(addr)
	extra := ""
	for _, m := range more {
		extra += "          " + m + "\n"
	}
	return fmt.Sprintf(`  - name: %s
    address: {socket_address: {address: %q, port_value: %s}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": %s
          stat_prefix: %s
          upgrade_configs: [{upgrade_type: websocket}]
          route_config: {name: all, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: %s, timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
%s`, name, host, port, hcm, name, cluster, extra)
}

// The protocols that a cluster may speak.
const (
	http1      = "{explicit_http_config: {http_protocol_options: {}}}"
	http2      = "{explicit_http_config: {http2_protocol_options: {}}}"
	downstream = "{use_downstream_protocol_config: {http2_protocol_options: {}}}"
)

func cluster(name, addr, protocol string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`  - name: %s
    type: STATIC
    load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %q, port_value: %s}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, %s
`, name, name, host, port, strings.TrimPrefix(protocol, "{"))
}

func bootstrap(listeners, clusters []string) string {
	return "static_resources:\n  listeners:\n" + strings.Join(listeners, "") + "  clusters:\n" + strings.Join(clusters, "")
}

// pair starts the caller's and the callee's sidecar in front of a server, and returns where calls go in. protocol is what
// the callee's sidecar speaks to the server, and the caller's to the callee's.
func pair(t testing.TB, binary, server, between, last string) (in string, outbound, inbound *proxy) {
	t.Helper()
	in, mid := harness.FreeAddr(t), harness.FreeAddr(t)
	inbound = start(t, binary, bootstrap([]string{listen("inbound/http", mid, "local")}, []string{cluster("local", server, last)}))
	outbound = start(t, binary, bootstrap([]string{listen("outbound/http", in, "callee")}, []string{cluster("callee", mid, between)}))
	return in, outbound, inbound
}
