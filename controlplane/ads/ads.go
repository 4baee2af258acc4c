// Package ads serves configuration to sidecars and foreign clients over xDS: one aggregated stream a node, delta or
// state-of-the-world, on go-control-plane's servers; and it takes the sidecars' telemetry on the same connection.
//
// What a node is told comes from a [Config], which controlplane/xds makes. This package decides in which order, when, and
// remembers what became of it: make before break (clusters and endpoints, then listeners, routes and virtual hosts, removals
// last), endpoints again after each cluster, one resource's refusal kept apart from the others ([Server.Status]). It
// knows no resource's content.
//
// Every node has a lock of its own, and no two are ever held together. Sending never happens under one: a stream's queue has a place for the only response that
// each type may have under way. So a slow node holds up nobody, and what changes meanwhile is told it as one update.
package ads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// Config is all that one node may be told. It is immutable and safe for concurrent use.
type Config interface {
	// Listed are the resources of a type, by name, that a node gets which asks for all. The map is not changed.
	Listed(typeURL string) map[string]proto.Message
	// Find returns the resource of a name, listed or not; nil where there is none.
	Find(typeURL, name string) proto.Message
}

// Render makes a node's configuration. It returns nil for a node that it does not know (yet): the node then waits, and
// keeps what it has. It is pure, and called for each node at each update.
type Render func(node *corev3.Node) Config

// Options are what a Server needs from outside. Authorize is required.
type Options struct {
	// Authorize says whether the process at the other end may be this node; the error is told to it.
	Authorize func(peer unixsock.Credentials, node string) error
	// Telemetry takes reports; nil drops them.
	Telemetry Sink
	// Event is told what happens, one call at a time for each node; it must not block. nil drops events.
	Event func(Event)
	// Log is for what concerns the server itself; nil means none.
	Log *slog.Logger
	// Now is the time; nil means time.Now.
	Now func() time.Time
}

// Server serves nodes. All methods are safe for concurrent use.
type Server struct {
	opts Options

	mu      sync.Mutex
	render  Render
	nodes   map[string]*node
	streams map[streamKey]*stream
	// asking maps the request that go-control-plane is about to hand to the cache to the stream that it came by.
	asking map[any]*stream

	changed chan struct{}
}

// New makes a server without configuration: nodes wait until the first Update.
func New(opts Options) *Server {
	if opts.Event == nil {
		opts.Event = func(Event) {}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Server{
		opts: opts, nodes: map[string]*node{}, streams: map[streamKey]*stream{}, asking: map[any]*stream{},
		changed: make(chan struct{}, 1),
	}
}

// Update replaces what nodes are told and returns at once. Updates that come faster than nodes are rendered are told as one.
func (s *Server) Update(render Render) {
	s.mu.Lock()
	s.render = render
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Serve accepts on l, a Unix socket's listener, until ctx ends; it closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.MaxConcurrentStreams(64),
		grpc.MaxRecvMsgSize(16<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	cb := &callbacks{s: s}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, &aggregated{
		sotw:  sotw.NewServer(ctx, &cache{s: s}, cb, sotw.WithOrderedADS()),
		delta: delta.NewServer(ctx, &cache{s: s}, cb),
	})
	outriggerv1.RegisterTelemetryServer(g, &telemetry{s: s})

	var wg sync.WaitGroup
	wg.Go(func() { s.renderLoop(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		g.Stop()
	})
	err := g.Serve(l)
	stopped := ctx.Err() != nil
	cancel()
	wg.Wait()
	if stopped || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serving configuration: %w", err)
}

// renderLoop renders every node again after each update.
func (s *Server) renderLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		s.mu.Lock()
		render := s.render
		nodes := make([]*node, 0, len(s.nodes))
		for _, n := range s.nodes {
			nodes = append(nodes, n)
		}
		s.mu.Unlock()
		for _, n := range nodes {
			if ctx.Err() != nil {
				return
			}
			n.update(render)
		}
		s.forget()
	}
}

// keepDisconnected is how long the status of a node is kept that is gone.
const keepDisconnected = 10 * time.Minute

// forget drops nodes that have been gone for long.
func (s *Server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.Now()
	for id, n := range s.nodes {
		n.mu.Lock()
		if len(n.streams) == 0 && now.Sub(n.since) > keepDisconnected {
			delete(s.nodes, id)
		}
		n.mu.Unlock()
	}
}

// aggregated hands streams to go-control-plane.
type aggregated struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	sotw  sotw.Server
	delta delta.Server
}

func (a *aggregated) StreamAggregatedResources(st discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return a.sotw.StreamHandler(st, "")
}

func (a *aggregated) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.delta.DeltaStreamHandler(st, "")
}
