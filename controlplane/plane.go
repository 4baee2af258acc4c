// Package controlplane is one host's control plane as a whole: it holds the state directory, keeps what users apply in
// a store, resolves it together with what discovery finds, tells sidecars over xDS and the host what to run, and
// answers the API.
//
// It composes and decides nothing that a part decides: what a resource may say is in api/resource, what resources mean
// together in resolve, how that is told in xds and ads, what runs and when in host, how users ask in admin.
//
// # The way of a change
//
// An apply is parsed, checked against all that is stored, against this host (programs, ports) and by resolving and
// rendering it; then it becomes a revision of the store by compare-and-swap. Every control plane of that store sees the
// head move, reads what is new, and resolves. The model goes to the host, which starts and stops; what the host then
// says is there goes into the model again, and the model to every connected sidecar. A stored resource that cannot be
// used harms only itself: the rest is resolved without it.
//
// # Threads and locks
//
// Plane.making serialises the making of models; Plane.mu guards plain values and is never held while another part is
// called.
package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/ads"
	"github.com/outrigger-mesh/outrigger/controlplane/host"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	storeconsul "github.com/outrigger-mesh/outrigger/controlplane/store/consul"
	"github.com/outrigger-mesh/outrigger/controlplane/store/embedded"
	"github.com/outrigger-mesh/outrigger/discovery"
	"github.com/outrigger-mesh/outrigger/discovery/consul"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// adsSocket is the file of the ADS server in the state directory.
const adsSocket = "ads.sock"

// Options are what a control plane is made of.
type Options struct {
	// State is the state directory, held.
	State *State
	// Host is this host's name; "" is the system's.
	Host string
	// Edge is the edge's address, "" for none.
	Edge string
	// Consul is the address of a Consul agent, "" for the embedded store.
	Consul string
	// Version is this program's.
	Version string
	// RunnerProgram and SidecarProgram are paths.
	RunnerProgram, SidecarProgram string
	Log                           *slog.Logger
}

// Plane is a control plane. Its methods are safe for concurrent use.
type Plane struct {
	o         Options
	log       *slog.Logger
	store     store.Store
	storeName string
	host      *host.Host
	ads       *ads.Server
	admin     *admin.Server
	source    discovery.Source
	registrar *consul.Registrar
	secret    []byte
	journal   *journal
	started   time.Time

	making  sync.Mutex
	serving atomic.Bool

	mu         sync.Mutex
	catalog    *catalog
	discovered discovery.Update
	instances  []host.Instance
	registered map[string]bool
	model      *model.Model
	problems   resource.Violations // of the last model
	bad        map[store.Key]bool  // stored resources that were told of as invalid
	changed    chan struct{}       // closed at each change
	downDone   chan struct{}
	downOnce   sync.Once
}

// New opens the store and the host's state. Nothing runs before Serve; Apply may be called before.
func New(o Options) (*Plane, error) {
	if o.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("this host's name: %w (give one with --host)", err)
		}
		o.Host = name
	}
	secret, err := o.State.Secret()
	if err != nil {
		return nil, err
	}
	p := &Plane{
		o: o, log: o.Log, secret: secret, journal: newJournal(), started: time.Now(), changed: make(chan struct{}),
		downDone: make(chan struct{}), registered: map[string]bool{}, bad: map[store.Key]bool{},
	}
	if err := p.open(); err != nil {
		return nil, err
	}
	p.host, err = host.New(host.Config{
		StateDir: o.State.Dir, Launcher: host.NewLauncher(o.RunnerProgram), Sidecar: o.SidecarProgram,
		Sink: p.here, Log: o.Log.With("part", "host"),
	})
	if err != nil {
		return nil, errors.Join(err, p.store.Close())
	}
	p.ads = ads.New(ads.Options{Authorize: p.authorize, Telemetry: p, Event: p.client, Log: o.Log.With("part", "ads")})
	p.admin = admin.NewServer(p, o.Log.With("part", "api"))
	return p, nil
}

func (p *Plane) open() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if p.o.Consul == "" {
		p.storeName = "embedded"
		p.store, err = embedded.Open(filepath.Join(p.o.State.Dir, storeFile), embedded.Options{Logger: p.log})
	} else {
		p.storeName = "consul " + p.o.Consul
		p.store, err = storeconsul.Open(ctx, storeconsul.Options{Address: p.o.Consul, Logger: p.log})
		if err == nil {
			o := consul.Options{Address: p.o.Consul, Logger: p.log}
			p.source, err = consul.NewSource(o)
			if err == nil {
				p.registrar, err = consul.NewRegistrar(p.o.Host, o)
			}
			if err != nil {
				err = errors.Join(err, p.store.Close())
			}
		}
	}
	if err != nil {
		return fmt.Errorf("open the %s store: %w", p.storeName, err)
	}
	if _, err := p.read(ctx); err != nil {
		return errors.Join(fmt.Errorf("read the %s store: %w", p.storeName, err), p.store.Close())
	}
	return nil
}

// Close closes what New opened. Serve has returned, or was never called.
func (p *Plane) Close() error { return errors.Join(p.host.Close(), p.store.Close()) }

// StoreName is "embedded" or "consul ADDRESS".
func (p *Plane) StoreName() string { return p.storeName }

// Revision is the revision in force.
func (p *Plane) Revision() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.catalog.rev.Number
}

// read brings the catalog to the store's head.
func (p *Plane) read(ctx context.Context) (*catalog, error) {
	rev, err := p.store.Head(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	old := p.catalog
	p.mu.Unlock()
	if old != nil && old.rev.Number == rev.Number {
		return old, nil
	}
	c, err := readCatalog(ctx, p.store, rev, old)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.catalog == nil || p.catalog == old {
		p.catalog = c
	}
	p.mu.Unlock()
	return c, nil
}

// Serve runs the control plane until ctx ends. It leaves all instances running: it is Down that stops them.
func (p *Plane) Serve(ctx context.Context) error {
	api, err := admin.Listen(p.o.State.Dir, p.log)
	if err != nil {
		return err
	}
	adsListener, err := unixsock.Listen(filepath.Join(p.o.State.Dir, adsSocket))
	if err != nil {
		return errors.Join(fmt.Errorf("open the ADS server: %w", err), api.Close())
	}
	p.serving.Store(true)
	p.remake(true)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	part := func(name string, serve func(context.Context) error) {
		wg.Go(func() {
			err := serve(ctx)
			if ctx.Err() == nil {
				if err == nil {
					err = errors.New("it returned")
				}
				p.log.Error("a part of the control plane ended", "part", name, "error", err)
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("ads", func(ctx context.Context) error { return p.ads.Serve(ctx, adsListener) })
	part("host", p.host.Serve)
	part("api", func(ctx context.Context) error { return p.admin.Serve(ctx, api) })
	part("store", p.follow)
	part("events", p.copyEvents)
	if p.source != nil {
		part("discovery", func(ctx context.Context) error { return p.source.Watch(ctx, discovery.Query{}, p.found) })
		part("registration", p.registrar.Serve)
	}
	<-ctx.Done()
	err = context.Cause(ctx)
	wg.Wait()
	return err
}

// follow takes in each new revision.
func (p *Plane) follow(ctx context.Context) error {
	after := p.Revision()
	for {
		rev, err := p.store.Watch(ctx, after)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrRewound):
			p.log.Warn("the store went back to an older revision", "after", after)
		case errors.Is(err, store.ErrClosed):
			return err
		case err != nil:
			p.log.Error("watch the store", "error", err)
			if !pause(ctx, time.Second) {
				return ctx.Err()
			}
			continue
		}
		if c, err := p.read(ctx); err != nil {
			p.log.Error("read the store", "revision", rev.Number, "error", err)
			if !pause(ctx, time.Second) {
				return ctx.Err()
			}
			continue
		} else {
			after = c.rev.Number
		}
		p.remake(true)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// found takes in what discovery knows.
func (p *Plane) found(u discovery.Update) {
	if u.Err != nil {
		p.log.Warn("discovery", "error", u.Err)
	}
	p.mu.Lock()
	p.discovered = u
	p.mu.Unlock()
	p.remake(true)
}

// here is the host's sink: which instances there are. It returns when configuration was made from it.
func (p *Plane) here(_ context.Context, all []host.Instance) error {
	p.mu.Lock()
	p.instances = all
	p.mu.Unlock()
	p.remake(false)
	p.register(all)
	return nil
}

// register puts this host's instances into the catalog.
func (p *Plane) register(all []host.Instance) {
	if p.registrar == nil {
		return
	}
	seen := map[string]bool{}
	for _, i := range all {
		seen[i.ID] = true
		switch {
		case i.Draining:
			p.registrar.Withdraw(i.ID)
		case i.Advertised:
			x := consul.Instance{ID: i.ID, Tenant: i.Service.Tenant, Service: i.Service.Name, Version: i.Version, Host: p.o.Host, Zone: i.Zone}
			for _, port := range i.Ports {
				addr, err := addrPort(i.Local.Inbound[port.Name])
				if err == nil {
					x.Ports = append(x.Ports, consul.Port{Name: port.Name, Protocol: discovery.Protocol(port.Protocol), Addr: addr})
				}
			}
			if err := p.registrar.Register(x); err != nil {
				p.log.Error("register in Consul", "instance", i.ID, "error", err)
			}
			p.registered[i.ID] = true
		case p.registered[i.ID]:
			p.registrar.Withdraw(i.ID)
		}
	}
	for id := range p.registered {
		if !seen[id] {
			p.registrar.Deregister(id)
			delete(p.registered, id)
		}
	}
}

// authorize says whether a process may speak for a node: an instance's sidecar is a child of the instance's runner; a
// foreign client shows an id that this control plane signed.
func (p *Plane) authorize(peer unixsock.Credentials, node string) error {
	if uid := uint32(os.Getuid()); peer.UID != uid && peer.UID != 0 {
		return fmt.Errorf("user %d may not", peer.UID)
	}
	if _, err := ads.VerifyForeign(p.secret, node); err == nil {
		return nil
	} else if !errors.Is(err, ads.ErrNotForeign) {
		return err
	}
	// A runner that has just started is known a moment after its sidecar connects.
	deadline := time.Now().Add(3 * time.Second)
	for {
		pid, ok := p.host.RunnerPID(node)
		if ok && parentOf(peer.PID) == pid {
			return nil
		}
		if time.Now().After(deadline) {
			if !ok {
				return errors.New("there is no such instance")
			}
			return fmt.Errorf("process %d is not a child of its runner", peer.PID)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// CheckEdge returns why the edge cannot listen, nil where it can or does already.
func (p *Plane) CheckEdge() error {
	if p.o.Edge == "" {
		return nil
	}
	if holds(p.o.State.Dir, p.o.Edge) {
		return nil
	}
	if err := listenable(p.o.Edge); err != nil {
		return &admin.Problem{
			Type: "edge", Title: "edge", Status: 409,
			Detail: fmt.Sprintf("the edge's address %s cannot be listened on: %v: end what listens there, or choose another with --edge", p.o.Edge, err),
		}
	}
	return nil
}

func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}

// bump tells all who wait that something has changed.
func (p *Plane) bump() {
	p.mu.Lock()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
}

// Changed is closed at the next change of anything that Status tells.
func (p *Plane) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func compareInstances(a, b admin.Process) int {
	gateway := func(p admin.Process) int {
		if p.Service == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(gateway(a), gateway(b)), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Service, b.Service),
		cmp.Compare(a.Version, b.Version), cmp.Compare(len(a.Instance), len(b.Instance)), cmp.Compare(a.Instance, b.Instance))
}
