// Package host turns the model into what runs on this host: pools of instances, each with its runner, its sidecar's
// bootstrap, its ports and environment; and gateways, which are runners without a process.
//
// The way is: [Host.Apply] takes a model → plan (pure: which instances, in which order) → specs (ports, environment,
// bootstrap: what a runner is told) → pools, arranged in a tree of supervisors. Back comes, by the [Sink], what is there and may
// be called. What a runner does with its spec is supervisor/runner's business, when something is restarted that of
// supervisor and supervisor/pool; users and sidecars are answered elsewhere (controlplane, controlplane/admin, controlplane/ads).
//
// All that must be known after a restart of the control plane is on disk: host.db (ports given out, what a user has
// stopped, the environment of `up`, health) and the directories of the instances.
//
// # Threads and locks
//
// One goroutine changes pools and tree (Serve's), one tells the sink. Host.mu guards the maps that all read; it
// is never held while a pool, a supervisor, the database or a channel is waited for. A pool's own locks are only taken
// with Host.mu free.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/supervisor"
	"github.com/outrigger-mesh/outrigger/supervisor/eventlog"
	"github.com/outrigger-mesh/outrigger/supervisor/pool"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// Defaults of Config.
const (
	DefaultFirstPort     = 20000
	DefaultLastPort      = 31999
	DefaultSidecarMemory = 128 << 20 // bytes
	DefaultSidecarCPUs   = 2
)

// Sink is told what is there whenever that changes: all instances of services on this host, ordered by id. It returns when
// everybody has been told (configuration was rendered from it), since only then is a withdrawn instance drained. Calls
// do not overlap; changes that occur meanwhile are told as one.
type Sink func(ctx context.Context, all []Instance) error

// Config describes a host.
type Config struct {
	// StateDir is the state directory, absolute; it exists and is ours alone.
	StateDir string
	// Launcher starts and finds runners; NewLauncher makes the real one.
	Launcher pool.Launcher
	// Sidecar is the path of the sidecar's program.
	Sidecar string
	// SidecarMemory is a sidecar's share of memory in bytes (GOMEMLIMIT), SidecarCPUs of processors (GOMAXPROCS). Default
	// 128 MiB and 2, or fewer where the host has fewer; a gateway gets all processors.
	SidecarMemory int64
	SidecarCPUs   int
	// FirstPort and LastPort bound the ports given out. Default 20000 to 31999, below the ephemeral ports.
	FirstPort, LastPort int
	// Drain is how sidecars drain. The zero value means 1 s and 30 s.
	Drain runner.Drain
	// Zone is where this host is, "" where that is not said.
	Zone string
	// Environ is what processes inherit; os.Environ() by default. While a mesh goes on over a restart of the control
	// plane, the environment in which it was begun is kept.
	Environ []string
	Sink    Sink
	// Tables are where connections are redirected; the kernel's by default.
	Tables Tables
	Log    *slog.Logger
}

// Input is what a host is to run.
type Input struct {
	Model *model.Model
	// Supervisors arrange services in trees; those that none of them names stand alone.
	Supervisors map[SupervisorKey]*resource.Supervisor
}

// SupervisorKey names a Supervisor resource.
type SupervisorKey struct{ Tenant, Name string }

// Host runs what the model says. Its methods are safe for concurrent use.
type Host struct {
	cfg     Config
	db      *database
	ports   *allotter
	tables  *interception
	events  *eventlog.Log[Event]
	supLog  *supervisor.EventLog
	kick    chan struct{} // there is a new input
	publish chan struct{} // there is something to tell
	dirOf   func(id string) string
	// sidecars is the directory of the cgroup in which sidecars are started, "" for none. Serve's goroutine alone uses it.
	sidecars string

	upgrading sync.Mutex // held by Upgrade; taken before mu

	mu       sync.Mutex
	input    *Input
	units    map[string]*unit  // by unit name; also those that are being removed
	byID     map[string]*unit  // by instance
	stopped  map[string]bool   // by instance: a user said so
	programs map[string]string // sidecars' programs that an upgrade has put in place, see programOf
	reports  map[string]Report
	last     map[string]lastHealth
	left     map[string]time.Time // since when a sidecar is not ready
	ran      map[string]bool      // whose process served when it was last running
	fell     map[string]time.Time // since when a process that served is being started again
	problems []string             // of the last Apply
	root     *supervisor.Supervisor
	placed   []top // root's children
	applied  bool
	pending  bool      // an input has not been looked at yet
	busy     bool      // an input is being put in force
	stopping *stopping // nil: not told to stop
	rootErr  error
	changed  chan struct{} // closed at each change
	wanted   uint64        // publications asked for
	told     uint64        // and made
	toldCh   chan struct{} // closed at each publication
	serving  bool
	detach   context.CancelCauseFunc
	begun    chan struct{} // closed when Serve has begun
	letGo    chan struct{} // closed when the tree of supervisors has ended
	over     chan struct{} // closed when Serve has returned
}

// New opens the host's own state. Close it, after Serve has returned.
func New(cfg Config) (*Host, error) {
	if !filepath.IsAbs(cfg.StateDir) {
		return nil, fmt.Errorf("open the host's state: %q is not absolute", cfg.StateDir)
	}
	if cfg.FirstPort == 0 {
		cfg.FirstPort, cfg.LastPort = DefaultFirstPort, DefaultLastPort
	}
	if cfg.SidecarMemory == 0 {
		cfg.SidecarMemory = DefaultSidecarMemory
	}
	if cfg.SidecarCPUs == 0 {
		cfg.SidecarCPUs = min(DefaultSidecarCPUs, runtime.NumCPU())
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	db, err := openDatabase(filepath.Join(cfg.StateDir, "host.db"))
	if err != nil {
		return nil, err
	}
	h := &Host{
		cfg: cfg, db: db, events: eventlog.New[Event](0), supLog: eventlog.New[supervisor.Event](0),
		kick: make(chan struct{}, 1), publish: make(chan struct{}, 1),
		units: map[string]*unit{}, byID: map[string]*unit{}, reports: map[string]Report{}, left: map[string]time.Time{},
		ran: map[string]bool{}, fell: map[string]time.Time{},
		changed: make(chan struct{}), toldCh: make(chan struct{}),
		begun: make(chan struct{}), letGo: make(chan struct{}), over: make(chan struct{}),
	}
	h.tables = newInterception(cfg.StateDir, cfg.Tables)
	h.dirOf = func(id string) string { return filepath.Join(cfg.StateDir, "instances", id) }
	if h.stopped, err = db.stoppedSet(); err == nil {
		h.last, err = db.healths()
	}
	if err == nil {
		h.programs, err = db.programs()
	}
	if err == nil {
		h.ports, err = newAllotter(db, cfg.FirstPort, cfg.LastPort, cfg.StateDir)
	}
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	return h, nil
}

// Close closes the host's state. Serve must have returned.
func (h *Host) Close() error { return h.db.close() }

// Apply makes in what is to run. It returns at once; the latest input counts.
func (h *Host) Apply(in Input) {
	h.mu.Lock()
	h.input, h.pending = &in, true
	h.mu.Unlock()
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// Serve runs what was applied until ctx ends, and then leaves all runners as they are, for the next control plane to adopt: it is
// Down that stops them. Runners that are there already and are wanted go on; those that are not are drained and ended
// once the first input is there.
func (h *Host) Serve(ctx context.Context) error {
	defer close(h.over)
	found, err := h.adopt()
	if err != nil {
		return err
	}
	root, err := supervisor.New(supervisor.Config{Name: "root", Intensity: supervisor.DefaultIntensity, Events: h.supLog})
	if err != nil {
		return err
	}
	rootCtx, detach := context.WithCancelCause(context.WithoutCancel(ctx))
	h.mu.Lock()
	h.root, h.serving, h.detach = root, true, detach
	h.mu.Unlock()
	close(h.begun)
	side, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { h.tell(side) })
	wg.Go(func() { h.mergeEvents(side) })
	wg.Go(func() { h.keepTables(side) })
	up := root.Ready()
	go func() {
		defer close(h.letGo)
		// The root bears what is below it: each of its children has an allowance of its own. Should it fail
		// all the same, that is seen in the status, and the control plane goes on.
		if err := root.Serve(rootCtx); err != nil {
			h.mu.Lock()
			h.rootErr = err
			h.mu.Unlock()
		}
		h.bump()
	}()
	select {
	case <-up:
	case <-h.letGo: // told to stop before it came up
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-h.kick:
			h.mu.Lock()
			in, down := h.input, h.stopping != nil
			h.pending = false
			h.busy = true
			h.mu.Unlock()
			if in != nil && in.Model != nil && !down {
				h.reconcile(ctx, *in, found)
				found = nil
			}
			h.mu.Lock()
			h.busy = false
			h.mu.Unlock()
			h.bump()
		}
	}
	detach(pool.ErrDetach)
	limit := time.NewTimer(letGoLimit)
	defer limit.Stop()
	select {
	case <-h.letGo:
	case <-limit.C:
		h.cfg.Log.Error("the tree of supervisors does not end; it is left")
	}
	h.mu.Lock()
	removing := h.removing()
	h.mu.Unlock()
	for _, u := range removing {
		<-u.gone
	}
	cancel()
	wg.Wait()
	return ctx.Err()
}

// removing lists the units that are on their way out. The caller holds mu.
func (h *Host) removing() []*unit {
	var out []*unit
	for _, u := range h.units {
		if u.gone != nil {
			out = append(out, u)
		}
	}
	return out
}

// bump tells all who wait that something has changed.
func (h *Host) bump() {
	h.mu.Lock()
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
}

// wait returns when ok is true, or ctx ends.
func (h *Host) wait(ctx context.Context, ok func() bool) error {
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unitsNow are the units in the order of starting.
func (h *Host) unitsNow() []*unit {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*unit, 0, len(h.units))
	for _, u := range h.units {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b *unit) int { return a.compare(b) })
	return out
}

// RunnerPID is the pid of the runner of a node (an instance or a gateway): the parent of its sidecar, by which the ADS server knows who asks.
func (h *Host) RunnerPID(node string) (int, bool) {
	h.mu.Lock()
	u := h.byID[node]
	h.mu.Unlock()
	if u == nil {
		return 0, false
	}
	i := u.pool.Instance(node)
	if i == nil {
		return 0, false
	}
	pid := i.Status().Runner.RunnerPID
	return pid, pid != 0
}

// Tree is the tree of supervisors as it is now.
func (h *Host) Tree() supervisor.Node {
	h.mu.Lock()
	root := h.root
	h.mu.Unlock()
	if root == nil {
		return supervisor.Node{Name: "root", State: supervisor.StateIdle}
	}
	return root.Inspect()
}
