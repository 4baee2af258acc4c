package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/console"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// dataPath is what carries the calls. Its methods are safe for concurrent use.
type dataPath interface {
	// Sink is the table of upstreams.
	Sink() compile.Sink
	// Apply puts a snapshot in use: listeners that are new are opened (through sockets), those that are gone are closed.
	// It returns once every listener of the snapshot accepts, or with an error for those that could not be opened,
	// the others being in use; it is then called again with the same snapshot after a while.
	Apply(s *snapshot.Snapshot) error
	// Drain turns lame duck for propagation, then waits until what is in flight is done or ctx ends, and cuts the rest.
	// handover: stop accepting at once, another sidecar already does on the same sockets.
	Drain(ctx context.Context, propagation time.Duration, handover bool)
	// Clusters and Health are for the console and for the control plane.
	Clusters() []console.Cluster
	Health() []*outriggerv1.EndpointHealth
	// Close ends everything at once.
	Close()
}

// sockets gives out listening sockets: the runner's, where there is one.
type sockets interface {
	// Listen returns a listening socket, which the caller closes, and its actual address.
	Listen(ctx context.Context, name, network, address string) (*os.File, string, error)
	// Release says that the listener is no longer configured.
	Release(name string)
}

// dataPathDeps are what the data path is made of.
type dataPathDeps struct {
	Sockets sockets
	Stats   *stat.Registry
	Log     *slog.Logger
	// HealthChanged is to be called when Health returns something new.
	HealthChanged func()
}

var errNoDataPath = errors.New("this build has no data path")

// newDataPath is the one place where the data path is wired in.
func newDataPath(dataPathDeps) (dataPath, error) { return nil, errNoDataPath }
