package runner

import (
	"fmt"
	"strings"
	"syscall"
)

// parseSignal returns the signal that a user names; "" is TERM.
func parseSignal(name string) (syscall.Signal, error) {
	switch strings.TrimPrefix(strings.ToUpper(name), "SIG") {
	case "", "TERM":
		return syscall.SIGTERM, nil
	case "INT":
		return syscall.SIGINT, nil
	case "QUIT":
		return syscall.SIGQUIT, nil
	case "HUP":
		return syscall.SIGHUP, nil
	case "KILL":
		return syscall.SIGKILL, nil
	case "USR1":
		return sigUSR1, nil
	case "USR2":
		return sigUSR2, nil
	}
	return 0, fmt.Errorf("%q is not a signal that stops a process: want TERM, INT, QUIT, HUP, USR1, USR2 or KILL", name)
}
