// Package proxy is the data path put together: listeners on event loops, the protocol of each connection, and the
// tables that outlive a snapshot.
//
// [Server] is what the command wires: it takes snapshots, opens and closes listeners, and drains. What happens to one
// exchange is in pipeline, what is on the wire in http1, http2 and tcp.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http1"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tcp"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// Sockets gives out listening sockets.
type Sockets interface {
	// Listen returns a listening socket, which the caller closes, and its actual address.
	Listen(ctx context.Context, name, network, address string) (*os.File, string, error)
	// Release says that the listener is no longer configured.
	Release(name string)
}

// Options are what a Server is made of.
type Options struct {
	// Loops is the number of event loops; 0 means GOMAXPROCS.
	Loops   int
	Sockets Sockets
	Stats   *stat.Registry // nil: none are kept
	Log     *slog.Logger
	// Overload is what is watched and left undone; nil: the defaults without a limit of memory.
	Overload *overload.Config
}

// Server is the data path. Its methods are safe for concurrent use.
type Server struct {
	opts    Options
	loops   []*loop.Loop
	workers []*pipeline.Worker
	streams []*http2.Streams // of each loop
	table   *upstream.Table
	watch   *watch
	gate    *tlsconn.Gate

	// meant are the unbound listeners, by the address for which they are.
	meant atomic.Pointer[map[netip.AddrPort]*listener]

	mu        sync.Mutex
	listeners map[string]*listener
	closed    bool
}

// New starts the loops.
func New(o Options) (*Server, error) {
	if o.Loops <= 0 {
		o.Loops = runtime.GOMAXPROCS(0)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	cfg := overload.Default(0, openFiles())
	if o.Overload != nil {
		cfg = *o.Overload
	}
	s := &Server{opts: o, watch: newWatch(cfg, o), listeners: map[string]*listener{}, gate: tlsconn.NewGate(o.Loops, maxHandshakes)}
	for i := range o.Loops {
		l, err := loop.New(i)
		if err != nil {
			s.stopLoops()
			return nil, fmt.Errorf("make event loop %d: %w", i, err)
		}
		if o.Stats != nil {
			l.Spliced = o.Stats.Counter("outrigger_spliced_bytes_total", "Bytes of bodies and TCP connections that went from socket to socket inside the kernel.")
		}
		over, err := s.watch.loop(l, o.Loops)
		if err != nil {
			s.stopLoops()
			return nil, err
		}
		if err := l.Start(); err != nil {
			s.stopLoops()
			return nil, err
		}
		s.loops = append(s.loops, l)
		streams := http2.NewStreams(l)
		s.streams = append(s.streams, streams)
		w := &pipeline.Worker{Loop: l, Dialer: &dialer{streams: streams, gate: s.gate, stats: o.Stats}, Rand: balancer.DefaultRand, Overload: over}
		if o.Stats != nil {
			rec := newRecorder(o.Stats)
			w.Rec, w.Conns = rec, rec
		}
		s.workers = append(s.workers, w)
	}
	s.watch.start(s.loops)
	s.table = upstream.NewTable(s.loops, balancer.Deps{Now: loop.Nanotime, Rand: balancer.DefaultRand})
	return s, nil
}

// Table is the table of upstreams.
func (s *Server) Table() *upstream.Table { return s.table }

// dialer makes a loop's upstream connections of either protocol.
type dialer struct {
	streams *http2.Streams
	gate    *tlsconn.Gate
	stats   *stat.Registry // or nil
}

func (d *dialer) Dial(p *upstream.Pool, proto snapshot.Protocol) (upstream.Conn, error) {
	switch proto {
	case snapshot.HTTP2:
		return http2.Dial(p, d.streams)
	case snapshot.TCP:
		return tcp.DialConnect(p)
	}
	return http1.Dial(p)
}

// listener is a listener on all loops.
type listener struct {
	pipeline.Listener
	name, network, address string
	actual                 string
	file                   *os.File
	acceptors              []*acceptor

	// chains are the living sides of a version's chains; the loops read it.
	chains  atomic.Pointer[map[*snapshot.Listener]*pipeline.Listener]
	byKey   map[string]*pipeline.Listener
	retired []*pipeline.Listener // chains that are gone, and whose connections are not
	silent  atomic.Bool          // it was told that a connection said nothing
}

// acceptor is a listener on one loop. Its fields belong to that loop.
type acceptor struct {
	srv   *Server
	l     *listener
	w     *pipeline.Worker
	ln    *loop.Listener
	conns pipeline.ConnSet

	tlsLogged  int64 // when a failed handshake was last logged
	tlsSilent  int   // those that failed since
	found      [findings]*stat.Counter
	awayLogged int64 // when a connection that was not taken was last logged
	awaySilent int   // those since
}

// Apply puts a snapshot in use: new listeners are opened, changed ones go on with their sockets, those that are gone
// are closed and their connections drained. It returns when every listener accepts, or says which could not be
// opened, the others being in use.
func (s *Server) Apply(snap *snapshot.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the data path is closed")
	}
	for name, l := range s.listeners {
		c := snap.Listeners[name]
		if c != nil && c.Network == l.network && c.Address == l.address && c.Unbound == (l.file == nil) && (c.HTTP != nil) == (l.Config.Load().HTTP != nil) && (c.TCP != nil) == (l.Config.Load().TCP != nil) {
			continue
		}
		delete(s.listeners, name)
		s.closeListener(l, true)
		if c == nil {
			s.opts.Sockets.Release(name)
		}
	}
	var errs []error
	for _, without := range []bool{true, false} { // what is handed over has a place to go to before the first is accepted
		for name, c := range snap.Listeners {
			if c.Unbound != without {
				continue
			}
			if l := s.listeners[name]; l != nil {
				if err := errors.Join(chmod(c), l.queue(c)); err != nil {
					errs = append(errs, fmt.Errorf("listener %s on %s: %w", name, c.Address, err))
				}
				l.configure(c)
				continue
			}
			l, err := s.open(c)
			if err != nil {
				errs = append(errs, fmt.Errorf("listener %s on %s: %w", name, c.Address, err))
				continue
			}
			s.listeners[name] = l
		}
		s.meant.Store(unbound(s.listeners))
	}
	return errors.Join(errs...)
}

// unbound are the listeners without a socket; nil where there are none.
func unbound(all map[string]*listener) *map[netip.AddrPort]*listener {
	var out map[netip.AddrPort]*listener
	for _, l := range all {
		if ap, err := netip.ParseAddrPort(l.address); err == nil && l.file == nil {
			if out == nil {
				out = map[netip.AddrPort]*listener{}
			}
			out[ap] = l
		}
	}
	if out == nil {
		return nil
	}
	return &out
}

// Addr is the actual address of a listener, "" where there is none of that name.
func (s *Server) Addr(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[name]; l != nil {
		return l.actual
	}
	return ""
}

func (s *Server) open(c *snapshot.Listener) (*listener, error) {
	l := &listener{name: c.Name, network: c.Network, address: c.Address, actual: c.Address}
	l.Open.Of(&s.watch.open)
	l.configure(c)
	if !c.Unbound {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		if l.file, l.actual, err = s.opts.Sockets.Listen(ctx, c.Name, c.Network, c.Address); err != nil {
			return nil, err
		}
		if err := chmod(c); err != nil {
			l.file.Close()
			s.opts.Sockets.Release(c.Name)
			return nil, err
		}
	}
	for i := range s.loops { // all of them before the first accepts, which may hand a connection to any
		l.acceptors = append(l.acceptors, &acceptor{srv: s, l: l, w: s.workers[i], conns: pipeline.ConnSet{}})
	}
	if c.Unbound {
		return l, nil
	}
	// Not by Fd, which makes the socket blocking for everybody who holds it: a sidecar whose successor this is would then be
	// stuck in accept.
	raw, err := l.file.SyscallConn()
	if err == nil {
		err = l.queue(c)
	}
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = s.onLoops(func(i int) (err error) {
				l.acceptors[i].ln, err = s.loops[i].Listen(int(fd), l.acceptors[i])
				return err
			})
		})
		err = errors.Join(err, cerr)
	}
	if err != nil {
		s.closeListener(l, false)
		return nil, err
	}
	return l, nil
}

// queue sets how many connections may wait to be accepted: listen(2) on a socket that listens changes that alone.
func (l *listener) queue(c *snapshot.Listener) error {
	if c.Backlog == 0 || l.file == nil {
		return nil
	}
	raw, err := l.file.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = os.NewSyscallError("listen", unix.Listen(int(fd), c.Backlog)) })
		err = errors.Join(err, cerr)
	}
	return err
}

// chmod sets who may connect to a Unix socket, which was made for its owner alone.
func chmod(c *snapshot.Listener) error {
	if c.Network != "unix" || c.Mode == 0 || c.Unbound {
		return nil
	}
	return os.Chmod(c.Address, os.FileMode(c.Mode))
}

// onLoops runs f on each loop, one after another, and waits.
func (s *Server) onLoops(f func(i int) error) error {
	for i, l := range s.loops {
		done := make(chan error, 1)
		l.Post(loop.TaskFunc(func() { done <- f(i) }))
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) closeListener(l *listener, drain bool) {
	if drain {
		l.each(func(p *pipeline.Listener) { p.LameDuck.Store(true) })
	}
	_ = s.onLoops(func(i int) error {
		a := l.acceptors[i]
		if a.ln != nil {
			a.ln.Close()
			a.ln = nil
		}
		for c := range a.conns {
			if drain {
				c.Drain()
			} else {
				c.Shut()
			}
		}
		return nil
	})
	if l.file != nil {
		l.file.Close()
	}
}

func (a *acceptor) streams() *http2.Streams { return a.srv.streams[a.w.Loop.Index] }

// OnAccept gives a connection to the loop that has the fewest.
func (a *acceptor) OnAccept(fd int, peer netip.AddrPort) {
	if a.full() {
		unix.Close(fd)
		return
	}
	best := a.w.Loop.Index
	if len(a.srv.loops) > 1 {
		n := a.srv.loops[best].Load() - 1
		for i, l := range a.srv.loops {
			if m := l.Load(); m < n {
				best, n = i, m
			}
		}
	}
	if best == a.w.Loop.Index {
		a.take(fd, peer)
		return
	}
	b := a.l.acceptors[best]
	b.w.Loop.Post(loop.TaskFunc(func() { b.take(fd, peer) }))
}

func (a *acceptor) take(fd int, peer netip.AddrPort) {
	c, err := a.w.Loop.Adopt(fd, nil) // it gets its handler before the loop looks at it
	if err != nil {
		a.l.Open.Add(-1)
		a.OnAcceptError(err)
		return
	}
	c.Counted(&a.l.Open)
	cfg := a.l.Config.Load()
	if cfg.HandOver {
		if to := a.srv.meantFor(c.OriginalDst()); to != nil {
			a = to.acceptors[a.w.Loop.Index]
			cfg = a.l.Config.Load()
		}
	}
	if cfg.Front != nil {
		a.enter(c, cfg, peer)
		return
	}
	a.begin(c, &a.l.Listener, cfg, peer)
}

// begin decrypts a connection where its listener, or its chain, says so, and serves it.
func (a *acceptor) begin(c *loop.Conn, l *pipeline.Listener, cfg *snapshot.Listener, peer netip.AddrPort) {
	if cfg.TLS != nil {
		a.greet(c, l, cfg, peer)
		return
	}
	a.serve(c, l, cfg, peer, "")
}

// serve gives a connection to the codec that is configured, or that the handshake has agreed upon (alpn), or, where neither
// says, to what its first bytes tell.
func (a *acceptor) serve(c *loop.Conn, l *pipeline.Listener, cfg *snapshot.Listener, peer netip.AddrPort, alpn string) {
	switch {
	case cfg.TCP != nil:
		tcp.New(c, a.w, l, a.conns, peer, nil)
	case cfg.HTTP.Codec == snapshot.HTTP1, cfg.HTTP.Codec == snapshot.Auto && (alpn == "http/1.1" || alpn == "http/1.0"):
		http1.NewServerConn(c, a.w, l, a.conns, peer, nil)
	case cfg.HTTP.Codec == snapshot.HTTP2, cfg.HTTP.Codec == snapshot.Auto && alpn == "h2":
		http2.NewServerConn(c, a.w, a.streams(), l, a.conns, peer, nil)
	default:
		sn := &sniffer{a: a, l: l, peer: peer, c: c}
		c.SetHandler(sn)
		a.conns[sn] = struct{}{}
		a.w.Loop.SetTimer(&sn.timer, sniffTime, sn)
	}
}

// meantFor is the unbound listener for a destination, or nil.
func (s *Server) meantFor(dst netip.AddrPort) *listener {
	if m := s.meant.Load(); m != nil && dst.IsValid() {
		return (*m)[dst]
	}
	return nil
}

// OnAcceptError is told of a shortage of descriptors or memory.
func (a *acceptor) OnAcceptError(err error) {
	a.srv.opts.Log.Warn("connections cannot be accepted for now", "listener", a.l.name, "error", err)
}

// Drain turns the listeners that take calls from others into lame ducks for a propagation time, in which answers close
// their connections; afterwards new exchanges are refused in a way that is safe to try elsewhere, until what is in
// flight has finished or ctx ends; then the rest is cut. handover: another sidecar accepts on the same sockets
// already, so this one stops accepting at once. The listeners for the own instance's calls go on meanwhile.
func (s *Server) Drain(ctx context.Context, propagation time.Duration, handover bool) {
	s.mu.Lock()
	var ls []*listener
	var living []*pipeline.Listener // with their chains
	for _, l := range s.listeners {
		if handover || l.Config.Load().Direction != snapshot.Outbound {
			ls = append(ls, l)
			l.each(func(p *pipeline.Listener) { living = append(living, p) })
		}
	}
	s.mu.Unlock()
	for _, p := range living {
		p.LameDuck.Store(true)
	}
	for _, l := range ls {
		_ = s.onLoops(func(i int) error {
			a := l.acceptors[i]
			if handover && a.ln != nil {
				a.ln.Close()
				a.ln = nil
			}
			for c := range a.conns {
				c.Drain()
			}
			return nil
		})
	}
	wait(ctx, propagation)
	active := func() (n int64) {
		for _, p := range living {
			n += p.Active.Load()
		}
		return n
	}
	if !handover {
		for _, p := range living {
			p.Refusing.Store(true)
		}
	}
	// What is accepted already and has not asked yet, and connections that are kept, end with their next answer: whoever is
	// just sending on one would not know what became of it. Those that stay silent are closed.
	open, quiet := -1, time.Duration(0)
	for ctx.Err() == nil {
		n := 0
		if handover {
			n = s.connections(ls)
		}
		if active() > 0 || n != open {
			open, quiet = n, 0
		}
		if active() == 0 && (n == 0 || quiet >= silence) {
			break
		}
		wait(ctx, drainPoll)
		quiet += drainPoll
	}
	if handover { // callers that keep an idle connection learn of it by its end
		for _, l := range ls {
			_ = s.onLoops(func(i int) error {
				for c := range l.acceptors[i].conns {
					c.Shut()
				}
				return nil
			})
		}
	}
}

const (
	drainPoll = 10 * time.Millisecond
	// silence is how long no connection may have ended, before those that are left count as idle.
	silence = time.Second
)

// connections counts what is open of listeners.
func (s *Server) connections(ls []*listener) (n int) {
	for _, l := range ls {
		_ = s.onLoops(func(i int) error {
			n += len(l.acceptors[i].conns)
			return nil
		})
	}
	return n
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Active is the number of exchanges in progress.
func (s *Server) Active() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		l.each(func(p *pipeline.Listener) { n += p.Active.Load() })
	}
	return n
}

// Close ends everything at once.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	for _, l := range s.listeners {
		s.closeListener(l, false)
	}
	s.listeners = nil
	s.mu.Unlock()
	s.table.Close()
	s.stopLoops()
}

func (s *Server) stopLoops() {
	s.watch.close()
	for _, l := range s.loops {
		l.Stop()
	}
}
