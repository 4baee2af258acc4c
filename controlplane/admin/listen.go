package admin

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// Listen opens the API's socket in the state directory, mode 0600. Connections of other users than the one that
// runs the control plane, and root, are closed at once.
func Listen(state string, log *slog.Logger) (net.Listener, error) {
	l, err := unixsock.Listen(filepath.Join(state, Socket))
	if err != nil {
		return nil, fmt.Errorf("open the API: %w", err)
	}
	return &guarded{l, uint32(os.Getuid()), log}, nil
}

type guarded struct {
	*unixsock.Listener
	uid uint32
	log *slog.Logger
}

// Accept returns the next connection of somebody who may speak.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		cred, err := unixsock.Peer(c)
		if err == nil && admitted(cred.UID, g.uid) {
			return c, nil
		}
		g.log.Warn("API connection refused", "uid", cred.UID, "pid", cred.PID, "error", err)
		_ = c.Close()
	}
}

func admitted(peer, own uint32) bool { return peer == own || peer == 0 }
