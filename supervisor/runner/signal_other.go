//go:build !unix

package runner

import "syscall"

// Windows has neither; a process there is only ever ended.
const (
	sigUSR1 = syscall.SIGKILL
	sigUSR2 = syscall.SIGKILL
)
