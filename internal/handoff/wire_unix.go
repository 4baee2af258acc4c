//go:build unix

package handoff

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

// oobSize holds the control message of the most descriptors that the kernel passes at once.
var oobSize = syscall.CmsgSpace(253 * 4)

// Pair opens a channel. The first file goes to [NewServer], the second to the sidecar.
func Pair() (runner, sidecar *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("open the handoff channel: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "handoff-runner"), os.NewFile(uintptr(fds[1]), "handoff-sidecar"), nil
}

// writeFiles sends line, or its beginning, with the descriptors beside its first byte.
func writeFiles(c *net.UnixConn, line []byte, files []*os.File) (int, error) {
	fds := make([]int, len(files))
	// The descriptors are used raw, so that passing one does not change its mode; it stays open meanwhile
	// because SyscallConn's Control holds it.
	return withFDs(files, fds, func() (int, error) {
		n, _, err := c.WriteMsgUnix(line, syscall.UnixRights(fds...), nil)
		return n, err
	})
}

// withFDs fills fds from files, holding every file open, and calls f.
func withFDs(files []*os.File, fds []int, f func() (int, error)) (n int, err error) {
	i := len(files) - 1
	if i < 0 {
		return f()
	}
	raw, err := files[i].SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		fds[i] = int(fd)
		n, err = withFDs(files[:i], fds, f)
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// readFiles reads bytes into p and the descriptors that came with them; those are close-on-exec and non-blocking.
func readFiles(c *net.UnixConn, p, oob []byte) (int, []*os.File, error) {
	n, oobn, flags, _, err := c.ReadMsgUnix(p, oob)
	if oobn == 0 || n < 0 {
		if n < 0 {
			n = 0
		}
		return n, nil, err
	}
	var files []*os.File
	msgs, perr := syscall.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		fds, e := syscall.ParseUnixRights(&msgs[i])
		if e != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			_ = syscall.SetNonblock(fd, true)
			files = append(files, os.NewFile(uintptr(fd), "handoff-socket"))
		}
	}
	switch {
	case err != nil:
	case perr != nil:
		err = fmt.Errorf("handoff: %w", perr)
	case flags&syscall.MSG_CTRUNC != 0:
		err = errors.New("handoff: descriptors were lost on the way (too many at once, or too many open files)")
	}
	return n, files, err
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// inherited opens the descriptor that the environment names.
func inherited(value string) (*os.File, error) {
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q is not a descriptor", EnvName, value)
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "handoff")
	if f == nil {
		return nil, fmt.Errorf("%s=%q is not a descriptor", EnvName, value)
	}
	return f, nil
}
