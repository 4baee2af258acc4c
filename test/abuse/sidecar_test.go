package abuse

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// sidecar is a running outrigger-sidecar, one loop, with a listener of each kind.
type sidecar struct {
	cmd     *exec.Cmd
	exited  chan struct{}
	log     *os.File
	console *http.Client // by its Unix socket
	addr    map[string]string
	up, up2 *upstreamServer
}

// The listeners: what callers speak, and what the upstream does.
var listeners = []struct{ name, codec, cluster string }{
	{"h1", "HTTP1", "up"},
	{"auto", "AUTO", "up"},
	{"h2", "HTTP2", "up"},
	{"h2h2", "HTTP2", "up2"},
	{"h1h2", "HTTP1", "up2"},
	{"few", "HTTP1", "up"},
}

func start(t *testing.T, options string, flags ...string) *sidecar {
	t.Helper()
	s := &sidecar{addr: map[string]string{}, up: newUpstream(t, false), up2: newUpstream(t, true), exited: make(chan struct{})}
	var ls []string
	for _, l := range listeners {
		a := freeAddr(t)
		s.addr[l.name] = a
		limit := ""
		if l.name == "few" {
			limit = `      - {name: limit, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, stat_prefix: few, max_connections: 2}}
`
		}
		ls = append(ls, listenerYAML(l.name, a, l.codec, l.cluster, limit))
	}
	boot := fmt.Sprintf(`node: {id: abuse, cluster: abuse}
%s
static_resources:
  clusters:
%s%s  listeners:
%s`, options, clusterYAML("up", s.up.addr, ""), clusterYAML("up2", s.up2.addr, `
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}`), strings.Join(ls, ""))
	dir := t.TempDir()
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(boot), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	s.log = log
	sock := filepath.Join(dir, "console.sock")
	s.console = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}}
	t.Cleanup(s.console.CloseIdleConnections)
	s.cmd = exec.Command(sidecarBinary(t), append([]string{"-c", file, "-console", sock, "-procs", "1"}, flags...)...)
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
		log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && (t.Failed() || strings.Contains(string(b), "panic") || strings.Contains(string(b), "fatal error")) {
			t.Errorf("the sidecar's log:\n%s", b)
		}
	})
	s.wait(t, "the sidecar is ready", func() bool {
		r, err := s.console.Get("http://sidecar/ready")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == 200
	})
	return s
}

var (
	buildOnce sync.Once
	built     string
)

// sidecarBinary is the sidecar, built once.
func sidecarBinary(t *testing.T) string {
	buildOnce.Do(func() { built = harness.Sidecar(t) })
	if built == "" {
		t.Fatal("the sidecar did not build")
	}
	return built
}

func socketYAML(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)
}

func clusterYAML(name, addr, more string) string {
	return fmt.Sprintf(`  - name: %s
    type: STATIC
    connect_timeout: 5s%s
    circuit_breakers: {thresholds: [{max_connections: 4096, max_pending_requests: 8192, max_requests: 16384}]}
    load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}
`, name, more, name, socketYAML(addr))
}

func listenerYAML(name, addr, codec, cluster, limit string) string {
	return fmt.Sprintf(`  - name: %s
    address: %s
    filter_chains:
    - filters:
%s      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %s
          codec_type: %s
          normalize_path: true
          request_headers_timeout: 0.5s
          stream_idle_timeout: 1s
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            name: %s
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: %s, timeout: 5s}}]}
          http_filters:
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
`, name, socketYAML(addr), limit, name, codec, name, cluster)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *sidecar) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-s.exited:
			t.Fatal("the sidecar has ended")
		case <-end:
			t.Fatal("in vain: ", what)
		}
	}
}

// series is one of the console's.
type series struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

func (s *sidecar) stats(t *testing.T, filter string) []series {
	t.Helper()
	r, err := s.console.Get("http://sidecar/stats?filter=" + filter)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var out []series
	if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// counter is the sum of the series that a case's counter names: NAME label="value" …
func (s *sidecar) counter(t *testing.T, spec string) (sum float64) {
	t.Helper()
	words := strings.SplitN(spec, " ", 2)
	want := map[string]string{}
	if len(words) == 2 {
		for rest := words[1]; rest != ""; {
			k, v, _ := strings.Cut(rest, "=")
			q, err := strconv.QuotedPrefix(v)
			if err != nil {
				t.Fatalf("counter %q: %v", spec, err)
			}
			want[k], _ = strconv.Unquote(q)
			rest = strings.TrimSpace(v[len(q):])
		}
	}
	for _, x := range s.stats(t, words[0]) {
		ok := x.Name == words[0]
		for k, v := range want {
			ok = ok && x.Labels[k] == v
		}
		if ok {
			sum += x.Value
		}
	}
	return sum
}

// memory reads a line of the sidecar's /proc/PID/status, in bytes: VmRSS, VmHWM.
func (s *sidecar) memory(t *testing.T, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no ", field)
	return 0
}

// resetPeak sets VmHWM to the present VmRSS (proc_pid_clear_refs(5)), which it returns.
func (s *sidecar) resetPeak(t *testing.T) int64 {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return s.memory(t, "VmRSS")
}
