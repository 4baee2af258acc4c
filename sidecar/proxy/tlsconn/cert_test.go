package tlsconn

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/testkit"
)

func selfSigned(t *testing.T) tls.Certificate {
	return testkit.NewCA(t, "ca").Issue(t, time.Time{}, "localhost").Certificate
}
