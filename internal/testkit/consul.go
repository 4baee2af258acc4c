package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ConsulOption changes how Consul starts its agent.
type ConsulOption func(*ConsulAgent)

// ConsulDurable makes the agent a server with a data directory, so that its state outlives Kill. The default is a
// development agent, which keeps everything in memory and starts faster.
func ConsulDurable() ConsulOption { return func(a *ConsulAgent) { a.durable = true } }

// ConsulConfig adds configuration in HCL or JSON, for example for access control or limits.
func ConsulConfig(text string) ConsulOption { return func(a *ConsulAgent) { a.config = text } }

// ConsulAgent is a real Consul agent, alone in its cluster, on loopback. Its methods are for the test's own goroutine.
type ConsulAgent struct {
	// Addr is the address of its HTTP API, as host:port; it stays the same over restarts.
	Addr string

	t       testing.TB
	bin     string
	dir     string
	config  string
	durable bool
	ports   [3]int // HTTP, serf, RPC

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *bytes.Buffer // cmd's output; read only after done
}

// Consul starts a Consul agent and waits until its cluster has a leader; the agent ends with the test. Where there is no
// consul in PATH or in the cache (tools/consul/build.sh builds it), the test is skipped, and fails where CI=true.
func Consul(t testing.TB, opts ...ConsulOption) *ConsulAgent {
	t.Helper()
	bin := findConsul()
	if bin == "" {
		text := "no consul in PATH or in the cache: run tools/consul/build.sh"
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip("SKIPPED: " + text)
	}
	a := &ConsulAgent{t: t, bin: bin, dir: t.TempDir()}
	for _, o := range opts {
		o(a)
	}
	t.Cleanup(a.Kill)
	// Another process may take a port between its choice and its use: choose again then.
	var err error
	for range 3 {
		if err = a.choosePorts(); err != nil {
			t.Fatalf("choosing ports for consul: %v", err)
		}
		if err = a.start(); err == nil {
			return a
		}
		a.Kill()
	}
	t.Fatalf("starting consul: %v", err)
	return nil
}

// findConsul returns the path of the binary, or "".
func findConsul() string {
	cache := os.Getenv("OUTRIGGER_CACHE")
	if cache == "" {
		dir, err := os.Getwd()
		for err == nil && dir != filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "tools", "consul", "build.sh")); err == nil {
				cache = filepath.Join(dir, ".cache")
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	if cache != "" {
		if bin, err := exec.LookPath(filepath.Join(cache, "bin", "consul")); err == nil {
			return bin
		}
	}
	bin, err := exec.LookPath("consul")
	if err != nil {
		return ""
	}
	return bin
}

// choosePorts finds ports that are free for TCP and UDP.
func (a *ConsulAgent) choosePorts() error {
	for i := range a.ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }() // all held until all are chosen, so that they differ
		a.ports[i] = l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = u.Close() }()
	}
	a.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(a.ports[0]))
	return nil
}

func (a *ConsulAgent) start() error {
	args := []string{
		"agent", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=test", "-log-level=warn",
		"-http-port=" + strconv.Itoa(a.ports[0]), "-serf-lan-port=" + strconv.Itoa(a.ports[1]),
		"-server-port=" + strconv.Itoa(a.ports[2]), "-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
	}
	config := map[string]any{
		"disable_update_check":       true,
		"check_update_interval":      "0s", // health changes reach the catalog at once
		"leave_on_terminate":         false,
		"connect":                    map[string]any{"enabled": false},
		"performance":                map[string]any{"raft_multiplier": 1},
		"disable_host_node_id":       true,
		"enable_local_script_checks": false,
	}
	if a.durable {
		args = append(args, "-server", "-bootstrap-expect=1", "-data-dir="+filepath.Join(a.dir, "data"))
	} else {
		args = append(args, "-dev")
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	file := filepath.Join(a.dir, "agent.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	args = append(args, "-config-file="+file)
	if a.config != "" {
		file := filepath.Join(a.dir, "extra.hcl")
		if err := os.WriteFile(file, []byte(a.config), 0o600); err != nil {
			return err
		}
		args = append(args, "-config-file="+file)
	}
	a.log = new(bytes.Buffer)
	a.cmd = exec.Command(a.bin, args...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is killed leaves no agent
	if err := a.cmd.Start(); err != nil {
		return err
	}
	a.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // how it ended does not matter; that it ended before it was asked to is told by WaitLeader
		close(done)
	}(a.cmd, a.done)
	return a.waitLeader()
}

// waitLeader waits until the agent accepts writes.
func (a *ConsulAgent) waitLeader() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		// The key is under no prefix that a test uses. A write needs a leader that has caught up.
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+a.Addr+"/v1/kv/testkit/ready", strings.NewReader("1"))
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			// With access control an anonymous write is refused, by an agent that works.
			if (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusForbidden) && a.registered(ctx, client) {
				return nil
			}
		}
		select {
		case <-a.done:
			return fmt.Errorf("the agent ended: %s", a.log)
		case <-ctx.Done():
			return fmt.Errorf("the agent has no leader after 30 s")
		case <-tick.C:
		}
	}
}

// registered says whether the agent has written itself into the catalog: services that it holds follow only then.
func (a *ConsulAgent) registered(ctx context.Context, client *http.Client) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Addr+"/v1/catalog/nodes", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusForbidden {
		return true
	}
	var nodes []json.RawMessage
	return json.NewDecoder(resp.Body).Decode(&nodes) == nil && (len(nodes) > 0 || a.config != "")
}

// Kill ends the agent with SIGKILL and waits until it is gone. Killing a dead agent does nothing.
func (a *ConsulAgent) Kill() {
	if a.done == nil {
		return
	}
	_ = a.cmd.Process.Kill() // an error says that it has ended
	<-a.done
	a.done = nil
	if a.t.Failed() {
		a.t.Logf("consul's log:\n%s", a.log)
	}
}

// Restart starts the agent again at the same address, after Kill. A durable agent has what it had.
func (a *ConsulAgent) Restart() {
	a.t.Helper()
	if err := a.start(); err != nil {
		a.t.Fatalf("restarting consul: %v", err)
	}
}
