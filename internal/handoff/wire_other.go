//go:build !unix

package handoff

import (
	"errors"
	"fmt"
	"net"
	"os"
)

var oobSize = 0

// Pair opens a channel. The first file goes to [NewServer], the second to the sidecar.
func Pair() (runner, sidecar *os.File, err error) {
	return nil, nil, fmt.Errorf("open the handoff channel: %w", errors.ErrUnsupported)
}

func writeFiles(*net.UnixConn, []byte, []*os.File) (int, error) { return 0, errors.ErrUnsupported }

func readFiles(*net.UnixConn, []byte, []byte) (int, []*os.File, error) {
	return 0, nil, errors.ErrUnsupported
}

func isReset(error) bool { return false }

func inherited(string) (*os.File, error) { return nil, errors.ErrUnsupported }
