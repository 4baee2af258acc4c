package consul

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/discovery"
)

const (
	// waitTime is how long a blocking query blocks; Consul adds up to a sixteenth.
	waitTime = 2 * time.Minute
	// minRound is the least time between two queries of one watch, so that a service whose checks flap, or an agent that
	// answers at once, costs little.
	minRound = 20 * time.Millisecond
)

// Source tells the endpoints in Consul's catalog. All methods are safe for concurrent use.
type Source struct {
	opts      Options
	client    *api.Client
	transport *http.Transport
	log       *slog.Logger
}

var _ discovery.Source = (*Source)(nil)

// NewSource returns a source; it dials nothing before Watch. Close releases its idle connections.
func NewSource(opts Options) (*Source, error) {
	opts.defaults()
	client, transport, err := connect(opts.Address)
	if err != nil {
		return nil, err
	}
	return &Source{opts: opts, client: client, transport: transport, log: opts.Logger}, nil
}

// Close releases idle connections, after all watches have ended.
func (s *Source) Close() { s.transport.CloseIdleConnections() }

// service is what one watch knows of one name in the catalog.
type service struct {
	cancel   context.CancelFunc
	answered bool
	listed   bool
	eps      []discovery.Endpoint
	// empty is since when Consul says that there is nothing, while eps still holds what was there; else zero.
	empty time.Time
	// failing is since when queries fail, err the last failure.
	failing time.Time
	err     error
}

// watch is one Watch.
type watch struct {
	*Source
	query discovery.Query
	work  sync.WaitGroup
	poke  chan struct{} // of capacity 1: something may have changed

	mu       sync.Mutex // guards what follows
	services map[string]*service
	listed   bool // the list of services has been answered, or none is needed
	failing  time.Time
	err      error
}

// Watch follows the catalog: the list of names, and each service that q wants by a blocking query of its own.
func (s *Source) Watch(ctx context.Context, q discovery.Query, sink func(discovery.Update)) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{Source: s, query: q, poke: make(chan struct{}, 1), services: map[string]*service{}}
	defer w.work.Wait()
	defer cancel()
	if q.Service != "" && q.Tenant != "" {
		w.mu.Lock()
		w.listed = true
		w.follow(ctx, CatalogName(q.Tenant, q.Service)).listed = true
		w.mu.Unlock()
	} else {
		w.work.Go(func() { w.list(ctx) })
	}
	var told *discovery.Update
	for {
		u, ready, again := w.update(time.Now())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ready && (told == nil || !same(*told, u)) {
			sink(u)
			told = &u
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.poke:
		case <-timer:
		}
	}
}

func same(a, b discovery.Update) bool {
	return a.Stale == b.Stale && a.Since.Equal(b.Since) && (a.Err == nil) == (b.Err == nil) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, discovery.Endpoint.Equal)
}

func (w *watch) changed() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// update is what is known now; whether that is enough for a first update; and when a held service is given up, or zero.
func (w *watch) update(now time.Time) (u discovery.Update, ready bool, again time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stale := func(since time.Time) {
		if !since.IsZero() && (u.Since.IsZero() || since.Before(u.Since)) {
			u.Stale, u.Since = true, since
		}
	}
	ready = w.listed || w.err != nil
	u.Err = w.err
	stale(w.failing)
	for name, svc := range w.services {
		if !svc.answered && svc.err == nil {
			ready = false
		}
		if svc.err != nil && u.Err == nil {
			u.Err = svc.err
		}
		stale(svc.failing)
		if !svc.empty.IsZero() && w.opts.Hold > 0 && svc.failing.IsZero() && w.failing.IsZero() {
			if end := svc.empty.Add(w.opts.Hold); !end.After(now) {
				svc.eps, svc.empty = nil, time.Time{}
				w.log.Warn("a service had no instances in Consul for as long as they are held: giving them up", "service", name)
			} else if again.IsZero() || end.Before(again) {
				again = end
			}
		}
		stale(svc.empty)
		for _, e := range svc.eps {
			if w.query.Matches(e) {
				u.Endpoints = append(u.Endpoints, e)
			}
		}
	}
	discovery.Sort(u.Endpoints)
	w.prune()
	return u, ready, again
}

// prune stops following names that are no longer listed and hold nothing. The caller holds mu.
func (w *watch) prune() {
	for name, svc := range w.services {
		if !svc.listed && svc.answered && len(svc.eps) == 0 {
			svc.cancel()
			delete(w.services, name)
		}
	}
}

// follow starts following a service, if it is not followed yet. The caller holds mu.
func (w *watch) follow(ctx context.Context, name string) *service {
	if svc, ok := w.services[name]; ok {
		return svc
	}
	ctx, cancel := context.WithCancel(ctx)
	svc := &service{cancel: cancel}
	w.services[name] = svc
	w.work.Go(func() { w.health(ctx, name, svc) })
	return svc
}

// wanted says whether the query may want a service of that name in the catalog.
func (w *watch) wanted(name string) bool {
	switch {
	case name == "consul": // the servers themselves
		return false
	case w.query.Service != "":
		return name == w.query.Service || strings.HasSuffix(name, "."+w.query.Service)
	case w.query.Tenant != "" && w.query.Tenant != discovery.DefaultTenant:
		return strings.HasPrefix(name, w.query.Tenant+".")
	}
	return true
}

// list follows the names of the catalog.
func (w *watch) list(ctx context.Context) {
	w.block(ctx, "services", func(q *api.QueryOptions) (*api.QueryMeta, error) {
		names, meta, err := w.client.Catalog().Services(q)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.listed, w.err, w.failing = true, nil, time.Time{}
		for _, svc := range w.services {
			svc.listed = false
		}
		for name := range names {
			if w.wanted(name) {
				w.follow(ctx, name).listed = true
			}
		}
		return meta, nil
	}, func(err error, at time.Time) {
		if w.failing.IsZero() {
			w.failing = at
		}
		w.err = err
	})
}

// health follows the instances of one service.
func (w *watch) health(ctx context.Context, name string, svc *service) {
	w.block(ctx, name, func(q *api.QueryOptions) (*api.QueryMeta, error) {
		entries, meta, err := w.client.Health().Service(name, "", false, q)
		if err != nil {
			return nil, err
		}
		var eps []discovery.Endpoint
		for _, e := range entries {
			eps = append(eps, endpoints(e)...)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		svc.answered, svc.err, svc.failing = true, nil, time.Time{}
		switch {
		case len(eps) > 0 || !slices.ContainsFunc(svc.eps, func(e discovery.Endpoint) bool { return e.Health.Serves() }):
			// Where nothing served, nothing is lost by believing that it is gone: an instance that is stopped is withdrawn
			// before it is deregistered.
			svc.eps, svc.empty = eps, time.Time{}
		case svc.empty.IsZero():
			// All gone at once: an agent that has lost its state says the same. Keep them for a while.
			svc.empty = time.Now()
			w.log.Warn("Consul has no instances of a service any more: keeping those that were known", "service", name,
				"endpoints", len(svc.eps), "hold", w.opts.Hold)
		}
		return meta, nil
	}, func(err error, at time.Time) {
		if svc.failing.IsZero() {
			svc.failing = at
		}
		svc.err = err
		if !svc.empty.IsZero() {
			svc.empty = at // the hold counts from the next answer on, which is later
		}
	})
}

// block runs a blocking query again and again until ctx ends. ask takes the answer in; failed is called with mu held.
func (w *watch) block(ctx context.Context, what string, ask func(*api.QueryOptions) (*api.QueryMeta, error), failed func(error, time.Time)) {
	var index uint64
	wait := retry{}
	for ctx.Err() == nil {
		asked := time.Now()
		// An answer that does not come long after it should have never will.
		asking, answered := context.WithTimeout(ctx, waitTime+waitTime/16+15*time.Second)
		meta, err := ask((&api.QueryOptions{WaitIndex: index, WaitTime: waitTime}).WithContext(asking))
		answered()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.log.Debug("Consul does not answer", "watching", what, "error", err)
			w.mu.Lock()
			failed(err, time.Now())
			w.mu.Unlock()
			w.changed()
			index = 0 // and the next answer comes at once
			if wait.sleep(ctx) != nil {
				return
			}
			continue
		}
		w.changed()
		wait = retry{}
		// https://developer.hashicorp.com/consul/api-docs/features/blocking: an index that goes backwards is reset (the
		// servers were restored, or the agent is another), and one of 0 would not block.
		if meta.LastIndex < index {
			index = 0
		} else {
			index = max(meta.LastIndex, 1)
		}
		if rest := minRound - time.Since(asked); rest > 0 {
			t := time.NewTimer(rest)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	}
}
