// Package unixsock listens on and dials Unix sockets by path, however long the path is, and tells who is at the
// other end.
//
// The kernel takes 107 bytes of path. A longer one is reached through a descriptor of its directory and
// /proc/self/fd/N/name (Linux; elsewhere a long path is an error). What is said over a socket does not live here:
// see internal/handoff for the sidecar's channel and supervisor/runner for the control socket.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxPath is the longest path that is handed to the kernel as it is, in bytes, on Linux without the final NUL.
// Other systems take less (104 on BSDs with the NUL), which is their own error to report.
const maxPath = 107

// ErrInUse is wrapped by the error of [Listen] when somebody accepts on the socket.
var ErrInUse = errors.New("somebody accepts on this socket")

// Credentials are those of the process that opened the other end of a connection, at the time it did so.
type Credentials struct {
	PID int
	UID uint32
	GID uint32
}

// Listener accepts on a Unix socket and removes its path on Close, unless another socket has taken the path.
// It is safe for concurrent use.
type Listener struct {
	*net.UnixListener
	path string
	info os.FileInfo
	once sync.Once
	err  error
}

// Listen opens a stream socket at path with mode 0600, from its first moment on where the system allows it. A socket left behind by a process
// that is gone is replaced; one on which somebody accepts gives an error that wraps [ErrInUse]; anything else
// at path is left alone and is an error.
func Listen(path string) (*Listener, error) {
	l, err := listen(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
		l, err = listen(path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &Listener{UnixListener: l, path: path, info: info}, nil
}

// Path is where the socket is.
func (l *Listener) Path() string { return l.path }

// Close stops accepting and removes the socket's path.
func (l *Listener) Close() error {
	l.once.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.info) {
			_ = os.Remove(l.path)
		}
		l.err = l.UnixListener.Close()
	})
	return l.err
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	name, done, err := shorten(path)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, cause(err))
	}
	return c.(*net.UnixConn), nil
}

// Peer tells who opened the other end of c. Where the system cannot tell, the error is [errors.ErrUnsupported].
func Peer(c *net.UnixConn) (Credentials, error) { return peer(c) }

func listen(path string) (*net.UnixListener, error) {
	name, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	lc := net.ListenConfig{Control: restrict}
	l, err := lc.Listen(context.Background(), "unix", name)
	if err != nil {
		return nil, cause(err)
	}
	return l.(*net.UnixListener), nil
}

// removeStale removes the socket at path if nobody accepts on it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return errors.New("there is something that is not a socket")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := Dial(ctx, path)
	switch {
	case err == nil:
		_ = c.Close()
		return ErrInUse
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EAGAIN):
		return ErrInUse // its queue is full: somebody is there, and slow
	default:
		return err
	}
}

// cause drops the net.OpError around err, which would repeat the shortened path.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// split returns the directory of path and its last element.
func split(path string) (dir, name string) { return filepath.Dir(path), filepath.Base(path) }
