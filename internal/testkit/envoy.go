package testkit

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// EnvoyProxy is a real Envoy. Its methods are safe for concurrent use.
type EnvoyProxy struct {
	log lockedBuffer
}

// FindEnvoy returns the path of an Envoy binary, in the cache (tools/envoy/install.sh puts it there) or in PATH. Where
// there is none, the test is skipped, and fails where CI=true.
func FindEnvoy(t testing.TB) string {
	t.Helper()
	if cache := cacheDir(); cache != "" {
		if bin, err := exec.LookPath(filepath.Join(cache, "bin", "envoy")); err == nil {
			return bin
		}
	}
	bin, err := exec.LookPath("envoy")
	if err != nil {
		text := "no envoy in the cache or in PATH: run tools/envoy/install.sh"
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip("SKIPPED: " + text)
	}
	return bin
}

// cacheDir is where tools that tests need are kept; "" where that is not known.
func cacheDir() string {
	if dir := os.Getenv("OUTRIGGER_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tools", "envoy", "install.sh")); err == nil {
			return filepath.Join(dir, ".cache")
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// Envoy starts an Envoy with that bootstrap (YAML or JSON), on one worker. It ends with the test, and is waited for.
func Envoy(t testing.TB, bootstrap string) *EnvoyProxy {
	t.Helper()
	bin := FindEnvoy(t)
	file := filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &EnvoyProxy{}
	cmd := exec.Command(bin, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--log-format", "[%l] %v")
	cmd.Stdout, cmd.Stderr = &e.log, &e.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("Envoy said:\n%s", e.log.String())
		}
	})
	return e
}

// Log is what Envoy has said so far, at level warning and above.
func (e *EnvoyProxy) Log() string { return e.log.String() }

// Complaints are the lines of the log that are warnings or errors, but for the one that every bootstrap without a resource
// monitor gets.
func (e *EnvoyProxy) Complaints() (out []string) {
	for _, line := range strings.Split(e.log.String(), "\n") {
		if strings.Contains(line, "global_downstream_max_connections") {
			continue
		}
		if strings.HasPrefix(line, "[warning]") || strings.HasPrefix(line, "[error]") || strings.HasPrefix(line, "[critical]") {
			out = append(out, line)
		}
	}
	return out
}

// Get is a GET with that Host, and the answer's status and body.
func Get(url, host string) (int, string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
