package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/balancer/builtin"
	"github.com/outrigger-mesh/outrigger/internal/handoff"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/console"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/xdsclient"
)

const (
	// stopTimeout bounds the calls in flight after SIGTERM; a runner drains first, and then finds nothing left.
	stopTimeout = 10 * time.Second
	// applyRetry is the wait before a listener that could not be opened is tried again.
	applyRetry   = time.Second
	helloTimeout = 10 * time.Second
)

// sidecar is the whole process, wired.
type sidecar struct {
	log      *slog.Logger
	path     *dataPath
	compiler *compile.Compiler
	client   *xdsclient.Client
	peer     *handoff.Peer  // nil without a runner
	webs     []*http.Server // the console, at each of its addresses

	mu       sync.Mutex
	current  *snapshot.Snapshot
	applyErr error
	draining bool
	said     bool          // ready was said to the runner
	again    chan struct{} // a snapshot is to be applied again
	applied  chan struct{} // a snapshot has been applied
}

func run(ctx context.Context, f flags, boot *xdsclient.Bootstrap, log *slog.Logger) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	s := &sidecar{log: log, again: make(chan struct{}, 1), applied: make(chan struct{}, 1)}
	socks, err := s.greet(ctx)
	if err != nil {
		return err
	}
	stats := stat.NewRegistry()
	var client atomic.Pointer[xdsclient.Client]
	s.path, err = newDataPath(dataPathDeps{Sockets: socks, Stats: stats, Log: log, Overload: limits(f, boot), HealthChanged: func() {
		if c := client.Load(); c != nil {
			c.Changed()
		}
	}})
	if err != nil {
		return fmt.Errorf("make the data path: %w", err)
	}
	defer s.path.Close()

	s.compiler = compile.New(compile.Options{
		Sink: s.path.Sink(), Strategies: builtin.All(), Stats: stats, Resolved: s.path.names.Ready,
		OnDemand: func(rc string) snapshot.OnDemand { return s.client.OnDemand(rc) },
	})
	opts := xdsclient.Options{Node: boot.Node, Compiler: s.compiler, Apply: s.apply, Log: log, Report: s.report}
	if boot.ADS != "" {
		conn, err := xdsclient.Dial(boot.ADS)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		opts.Conn, opts.Dir = conn, f.state
	}
	s.client = xdsclient.New(opts)
	client.Store(s.client)
	var bad []compile.ResourceError
	for _, u := range boot.Static {
		bad = append(bad, s.client.Static(u)...)
	}
	if boot.ADS == "" && len(bad) == 0 {
		bad = append(bad, s.compiler.Missing()...)
	}
	if len(bad) > 0 {
		return boot.Explain(bad)
	}
	if err := s.client.Load(); err != nil {
		log.Warn("a part of the last good configuration was left out", "error", err)
	}

	if err := s.openConsole(ctx, socks, f, boot, console.Options{
		Ready: s.ready, Dump: s.compiler.Dump,
		Version: s.compiler.Version, XDS: s.client.Status, Clusters: s.path.Clusters, Certs: s.compiler.Certificates, Stats: stats, Log: log,
	}, &wg); err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	defer s.closeConsole()
	wg.Go(func() { _ = s.client.Run(ctx) })
	wg.Go(func() { s.applyAgain(ctx) })
	wg.Go(func() { settle(ctx, s.applied) })
	if s.peer != nil {
		wg.Go(func() { s.obey(ctx) })
	}

	<-ctx.Done()
	stop, done := context.WithTimeout(context.Background(), stopTimeout)
	defer done()
	s.path.Drain(stop, 0, false)
	if s.peer != nil {
		_ = s.peer.Close() // ends obey
	}
	return nil
}

// greet meets the runner, if there is one, and takes over the sockets that it holds.
func (s *sidecar) greet(ctx context.Context) (sockets, error) {
	peer, err := handoff.Dial()
	if errors.Is(err, handoff.ErrNoRunner) {
		return ownSockets{}, nil
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	g, err := peer.Hello(ctx)
	if err != nil {
		_ = peer.Close()
		return nil, fmt.Errorf("greet the runner: %w", err)
	}
	for _, k := range g.Sockets { // the runner gives each again when the data path asks for it by name
		_ = k.File.Close()
	}
	s.peer = peer
	return runnerSockets{peer}, nil
}

// runnerSockets are opened and kept by the runner, so that the next sidecar accepts on the same ones.
type runnerSockets struct{ peer *handoff.Peer }

func (r runnerSockets) Listen(ctx context.Context, name, network, address string) (*os.File, string, error) {
	return r.peer.Listen(ctx, name, network, address)
}

func (r runnerSockets) Release(name string) { _ = r.peer.Release(name) }

// ownSockets are this process's alone.
type ownSockets struct{}

func (ownSockets) Listen(ctx context.Context, _, network, address string) (*os.File, string, error) {
	if network == "unix" && !strings.HasPrefix(address, "@") {
		l, err := unixsock.Listen(address)
		if err != nil {
			return nil, "", err
		}
		f, err := l.File()
		_ = l.UnixListener.Close() // the path stays: f accepts on it
		return f, address, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = l.Close() }()
	t, ok := l.(interface{ File() (*os.File, error) }) // TCP, and abstract Unix sockets
	if !ok {
		return nil, "", fmt.Errorf("listen on %s %s: not a stream socket", network, address)
	}
	f, err := t.File()
	return f, l.Addr().String(), err
}

func (ownSockets) Release(string) {}

// apply puts a snapshot in use.
func (s *sidecar) apply(snap *snapshot.Snapshot) {
	s.mu.Lock()
	s.current = snap
	s.mu.Unlock()
	s.applyCurrent()
}

func (s *sidecar) applyCurrent() {
	s.mu.Lock()
	if s.current == nil || s.draining {
		s.mu.Unlock()
		return
	}
	s.applyErr = s.path.Apply(s.current) // under the lock: snapshots are applied in their order
	err := s.applyErr
	s.mu.Unlock()
	if err != nil {
		s.log.Error("a part of the configuration could not be put in use; it is tried again", "error", err)
		select {
		case s.again <- struct{}{}:
		default:
		}
		return
	}
	select {
	case s.applied <- struct{}{}:
	default:
	}
	s.sayReady()
}

func (s *sidecar) applyAgain(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.again:
		}
		t := time.NewTimer(applyRetry)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
			s.applyCurrent()
		}
	}
}

// ready says whether every configured listener accepts, else why not.
func (s *sidecar) ready() (bool, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return false, "the sidecar drains"
	case s.current == nil:
		return false, "no configuration has come yet"
	case s.applyErr != nil:
		return false, s.applyErr.Error()
	}
	if ok, name := s.compiler.Settled(); !ok {
		return false, "listener " + name + " waits for what it names"
	}
	return true, ""
}

func (s *sidecar) sayReady() {
	if ok, _ := s.ready(); !ok || s.peer == nil {
		return
	}
	s.mu.Lock()
	first := !s.said
	s.said = true
	s.mu.Unlock()
	if !first {
		return
	}
	if err := s.peer.Ready(); err != nil {
		s.log.Warn("the runner was not told that the sidecar is ready", "error", err)
	}
}

// obey does what the runner says until it is gone; then the sidecar serves on.
func (s *sidecar) obey(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for cmd := range s.peer.Commands() {
		d, ok := cmd.(handoff.Drain)
		if !ok {
			continue
		}
		s.mu.Lock()
		first := !s.draining
		s.draining = true
		s.mu.Unlock()
		if !first {
			continue
		}
		s.client.Changed()
		if d.Handover { // our successor answers there from now on
			for _, w := range s.webs {
				wg.Go(func() { _ = w.Shutdown(ctx) })
			}
		}
		wg.Go(func() {
			limit, cancel := context.WithTimeout(ctx, d.Propagation+d.Deadline)
			defer cancel()
			s.path.Drain(limit, d.Propagation, d.Handover)
			if err := s.peer.Drained(); err != nil {
				s.log.Warn("the runner was not told that the sidecar is drained", "error", err)
			}
		})
	}
}

// report is the state that the control plane is told.
func (s *sidecar) report() *outriggerv1.ReportRequest {
	ready, _ := s.ready()
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	return &outriggerv1.ReportRequest{
		Ready: ready, Health: s.path.Health(), Rejected: xdsclient.WireErrors(s.compiler.Rejected()),
		SnapshotVersion: s.compiler.Version(), Draining: draining, Pid: int64(os.Getpid()),
	}
}
