package console

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	h := Guard(Pages(Options{}), "0123456789abcdef")
	for name, c := range map[string]struct {
		method, path, host, auth, origin string
		want                             int
	}{
		"the token":        {"GET", "/ready", "127.0.0.1:9901", "Bearer 0123456789abcdef", "", 200},
		"IPv6":             {"GET", "/ready", "[::1]:9901", "Bearer 0123456789abcdef", "", 200},
		"localhost":        {"GET", "/stats", "localhost", "Bearer 0123456789abcdef", "", 200},
		"none":             {"GET", "/ready", "127.0.0.1:9901", "", "", 401},
		"another":          {"GET", "/ready", "127.0.0.1:9901", "Bearer 0123456789abcdeX", "", 401},
		"no scheme":        {"GET", "/ready", "127.0.0.1:9901", "0123456789abcdef", "", 401},
		"a name that lies": {"GET", "/ready", "evil.example:9901", "Bearer 0123456789abcdef", "", 403},
		"a page":           {"GET", "/ready", "127.0.0.1:9901", "Bearer 0123456789abcdef", "http://127.0.0.1:9901", 403},
		"writing":          {"POST", "/stats", "127.0.0.1:9901", "Bearer 0123456789abcdef", "", 405},
		"profiles":         {"GET", "/debug/pprof/", "127.0.0.1:9901", "Bearer 0123456789abcdef", "", 404},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, c.path, nil)
			r.Host = c.host
			if c.auth != "" {
				r.Header.Set("Authorization", c.auth)
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, c.want)
			}
			if (w.Code == http.StatusUnauthorized) != (w.Header().Get("WWW-Authenticate") != "") {
				t.Errorf("%d with %v", w.Code, w.Header())
			}
		})
	}
}

func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	first, err := Token(file)
	if err != nil || len(first) != 2*tokenBytes {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := Token(file); err != nil || again != first {
		t.Errorf("another token the second time: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Token(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a token that all can read: %v", err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Token(short); err == nil {
		t.Error("a token of one character")
	}
	if _, err := Token(filepath.Join(t.TempDir(), "none", "token")); err == nil {
		t.Error("a token in a directory that is not there")
	}
}
