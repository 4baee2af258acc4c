package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// Registrar keeps this host's instances in the catalog, through the agent of this host. Register, Withdraw and Deregister
// say what should be and return at once; Serve makes it so, again after the agent was restarted or has lost its state, and
// for as long as the agent is dead it goes on trying. All methods are safe for concurrent use.
//
// What it was never told of it leaves alone: a new control plane that has not adopted all instances yet takes none out. What
// nobody adopts the agent's own checks remove, after Options.DeregisterAfter.
type Registrar struct {
	opts      Options
	host      string
	client    *api.Client
	transport *http.Transport
	log       *slog.Logger

	mu       sync.Mutex // guards what follows
	want     map[string]*wanted
	gone     map[string]bool // to be deregistered
	version  uint64          // counts changes of want and gone
	done     uint64          // the version that the agent agrees with
	lastErr  error           // why it does not agree
	progress chan struct{}   // closed when done or lastErr changes
	poke     chan struct{}   // of capacity 1: version has changed
}

type wanted struct {
	reg       *api.AgentServiceRegistration
	withdrawn bool
	cleared   bool // the mark of an earlier withdrawal was taken away; used by Serve alone
}

// NewRegistrar returns a registrar for the host of that name. It dials nothing before Serve.
func NewRegistrar(host string, opts Options) (*Registrar, error) {
	opts.defaults()
	client, transport, err := connect(opts.Address)
	if err != nil {
		return nil, err
	}
	return &Registrar{
		opts: opts, host: host, client: client, transport: transport, log: opts.Logger,
		want: map[string]*wanted{}, gone: map[string]bool{},
		progress: make(chan struct{}), poke: make(chan struct{}, 1),
	}, nil
}

func (r *Registrar) change(fn func()) {
	r.mu.Lock()
	fn()
	r.version++
	r.mu.Unlock()
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Register puts an instance into the catalog, or in the place of what has its id there, healthy until a check says
// otherwise. An instance without a host gets the registrar's. The error is Instance.Validate's,
// or says that the instance is another host's.
func (r *Registrar) Register(i Instance) error {
	i = i.inHost(r.host)
	if i.Host != r.host {
		return fmt.Errorf("instance %q is of host %q, this one is %q", i.ID, i.Host, r.host)
	}
	if err := i.Validate(); err != nil {
		return err
	}
	reg := i.registration(r.opts)
	r.change(func() {
		r.want[i.ID] = &wanted{reg: reg}
		delete(r.gone, i.ID)
	})
	return nil
}

// Withdraw makes an instance critical, so that nobody calls it any more, while it stays registered: what precedes its stop.
// An id that was never registered here is left alone.
func (r *Registrar) Withdraw(id string) {
	r.change(func() {
		if w, ok := r.want[id]; ok {
			r.want[id] = &wanted{reg: w.reg, withdrawn: true}
		}
	})
}

// Deregister takes an instance of this host out of the catalog, also one that an earlier control plane registered.
func (r *Registrar) Deregister(id string) {
	r.change(func() {
		delete(r.want, id)
		r.gone[id] = true
	})
}

// Synced blocks until the agent agrees with everything that was said before the call, or ctx ends; the error then says
// what the agent's last one was.
func (r *Registrar) Synced(ctx context.Context) error {
	r.mu.Lock()
	version := r.version
	r.mu.Unlock()
	for {
		r.mu.Lock()
		done, last, progress := r.done, r.lastErr, r.progress
		r.mu.Unlock()
		if done >= version && last == nil {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("%w: %w", ctx.Err(), last)
			}
			return ctx.Err()
		}
	}
}

// Serve keeps the agent as it should be until ctx ends, and returns ctx's error. What is registered stays so.
func (r *Registrar) Serve(ctx context.Context) error {
	defer r.transport.CloseIdleConnections()
	wait := retry{}
	for {
		r.mu.Lock()
		version := r.version
		r.mu.Unlock()
		pause := r.opts.SyncInterval
		err := r.sync(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if wait.n == 0 {
				r.log.Warn("Consul's agent does not have this host's instances as they are: trying on", "error", err)
			}
			pause = min(pause, wait.delay())
		} else {
			wait = retry{}
		}
		r.mu.Lock()
		if err == nil {
			r.done = version
		}
		r.lastErr = err
		close(r.progress)
		r.progress = make(chan struct{})
		r.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-r.poke:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// sync compares the agent with what should be, and changes what differs. It goes on past what fails.
func (r *Registrar) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.mu.Lock()
	want := make(map[string]*wanted, len(r.want))
	for id, w := range r.want {
		want[id] = w
	}
	gone := make([]string, 0, len(r.gone))
	for id := range r.gone {
		gone = append(gone, id)
	}
	r.mu.Unlock()
	if len(want) == 0 && len(gone) == 0 {
		return nil
	}
	q := (&api.QueryOptions{}).WithContext(ctx)
	have, err := r.client.Agent().ServicesWithFilterOpts("", q)
	if err != nil {
		return fmt.Errorf("asking the agent for its services: %w", err)
	}
	var errs []error
	for id, w := range want {
		if err := r.put(ctx, have[id], w); err != nil {
			errs = append(errs, fmt.Errorf("registering %s: %w", id, err))
		}
	}
	for _, id := range gone {
		if svc := have[id]; svc != nil && r.mine(svc) {
			if err := r.client.Agent().ServiceDeregisterOpts(id, q); err != nil {
				errs = append(errs, fmt.Errorf("deregistering %s: %w", id, err))
				continue
			}
		}
		r.mu.Lock()
		delete(r.gone, id)
		r.mu.Unlock()
	}
	return errors.Join(errs...)
}

// mine says whether this host registered a service.
func (r *Registrar) mine(svc *api.AgentService) bool {
	return svc.Meta[metaOurs] == "1" && svc.Meta[metaHost] == r.host
}

// put makes the agent hold one instance.
func (r *Registrar) put(ctx context.Context, have *api.AgentService, w *wanted) error {
	if have != nil && !r.mine(have) {
		return fmt.Errorf("the agent has another service with this id, %s of host %q: two hosts need an agent each",
			have.Service, have.Meta[metaHost])
	}
	agent, q := r.client.Agent(), (&api.QueryOptions{}).WithContext(ctx)
	if have == nil || !registered(have, w.reg) {
		opts := api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx)
		if err := agent.ServiceRegisterOpts(w.reg, opts); err != nil {
			return err
		}
	}
	if w.withdrawn {
		return agent.EnableServiceMaintenanceOpts(w.reg.ID, "withdrawn: it is about to stop", q)
	}
	if have != nil && !w.cleared { // a registration leaves the mark of an earlier withdrawal
		if err := agent.DisableServiceMaintenanceOpts(w.reg.ID, q); err != nil {
			return err
		}
	}
	w.cleared = true
	return nil
}
