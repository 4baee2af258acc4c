//go:build unix

package unixsock

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func long(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a", 90), strings.Repeat("b", 90))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "api.sock")
}

func TestListenAndDial(t *testing.T) {
	for name, path := range map[string]string{"short": filepath.Join(t.TempDir(), "s"), "long": long(t)} {
		t.Run(name, func(t *testing.T) {
			if len(path) > maxPath && runtime.GOOS != "linux" {
				t.Skip("long paths need /proc")
			}
			old := syscall.Umask(0)
			defer syscall.Umask(old)
			l, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, want 0600", info.Mode())
			}
			if _, err := Listen(path); !errors.Is(err, ErrInUse) {
				t.Errorf("a second Listen gave %v, want ErrInUse", err)
			}
			// Our second Listen dialled once: take that connection off the queue.
			c0, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			c0.Close()
			c, err := Dial(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s, err := l.AcceptUnix()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if runtime.GOOS == "linux" {
				cred, err := Peer(s)
				if err != nil {
					t.Fatal(err)
				}
				if cred.PID != os.Getpid() || int(cred.UID) != os.Getuid() || int(cred.GID) != os.Getgid() {
					t.Errorf("credentials %+v are not ours", cred)
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the path is still there: %v", err)
			}
		})
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := long(t)
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	a, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	b, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("closing the first socket removed the second's path: %v", err)
	}
}

func TestAFileInTheWayIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Fatal("Listen took the place of a file")
	}
	if b, _ := os.ReadFile(path); string(b) != "x" {
		t.Error("the file was changed")
	}
}

func TestDialNobody(t *testing.T) {
	_, err := Dial(context.Background(), filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want one that wraps ErrNotExist", err)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		t.Error("the error repeats the shortened path")
	}
}
