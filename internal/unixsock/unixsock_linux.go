package unixsock

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

// oPath is O_PATH, which package syscall does not name.
const oPath = 0x200000

// shorten returns a name for path that the kernel takes, and a function to call when it is no longer used.
func shorten(path string) (string, func(), error) {
	if path != "" && path[0] == '@' {
		path = "./" + path // a file of that name, never an abstract socket, which has no mode
	}
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, name := split(path)
	fd, err := syscall.Open(dir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	short := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
	if len(short) > maxPath {
		_ = syscall.Close(fd)
		return "", nil, fmt.Errorf("the name %q is too long for a socket", name)
	}
	return short, func() { _ = syscall.Close(fd) }, nil
}

// restrict sets the mode of the socket before it is bound: bind(2) takes the mode of the new node from it.
func restrict(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); e != nil {
		return e
	}
	return err
}

func peer(c *net.UnixConn) (Credentials, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil {
		err = e
	}
	if err != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return Credentials{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}
