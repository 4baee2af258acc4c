//go:build !linux

package unixsock

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

func shorten(path string) (string, func(), error) {
	if len(path) > maxPath {
		_, name := split(path)
		return "", nil, fmt.Errorf("the path of the socket %q is longer than %d bytes", name, maxPath)
	}
	return path, func() {}, nil
}

func restrict(_, _ string, _ syscall.RawConn) error { return nil }

func peer(*net.UnixConn) (Credentials, error) {
	return Credentials{}, fmt.Errorf("read peer credentials: %w", errors.ErrUnsupported)
}
