package xdsclient

import (
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

// maxOpen bounds the hosts that are asked for and not found yet, so that a caller who makes up names fills neither
// memory nor the control plane. Beyond it a host counts as unknown at once.
const maxOpen = 1024

// finder finds virtual hosts by name at the first call (VHDS). It is safe for concurrent use.
type finder struct {
	o    *Options
	wake chan struct{} // the names changed

	mu      sync.Mutex
	hosts   map[string]*host // by resource name
	open    int              // hosts that are not found
	stopped bool
}

type host struct {
	found    bool
	missed   time.Time // when it was found not to exist
	used     time.Time
	waiters  map[*waiter]struct{}
	deadline *time.Timer
}

type waiter struct{ done func() }

func newFinder(o *Options) *finder {
	return &finder{o: o, wake: make(chan struct{}, 1), hosts: map[string]*host{}}
}

// lookup is the finder for one route configuration; it implements snapshot.OnDemand.
type lookup struct {
	f           *finder
	routeConfig string
}

// Want asks for a host. done may be called before Want returns.
func (l *lookup) Want(name string, done func()) (cancel func()) {
	if !hostName(name) {
		done()
		return func() {}
	}
	return l.f.want(l.routeConfig+"/"+name, done)
}

// hostName says whether a host can be a resource's name.
func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return true
}

func (f *finder) want(name string, done func()) func() {
	f.mu.Lock()
	h, now := f.hosts[name], time.Now()
	switch {
	case f.stopped,
		h != nil && h.found,
		h != nil && !h.missed.IsZero() && now.Sub(h.missed) < f.o.MissTTL,
		h == nil && f.open >= maxOpen:
		f.mu.Unlock()
		done()
		return func() {}
	}
	if h == nil || !h.missed.IsZero() {
		if h == nil {
			h = &host{}
			f.hosts[name] = h
			f.open++
		}
		h.missed = time.Time{}
	}
	h.used = now
	if h.waiters == nil {
		h.waiters = map[*waiter]struct{}{}
	}
	w := &waiter{done}
	h.waiters[w] = struct{}{}
	if h.deadline == nil {
		h.deadline = time.AfterFunc(f.o.WantTimeout, func() { f.resolve(name, h, false) })
	}
	f.mu.Unlock()
	f.changed()
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(h.waiters, w)
	}
}

func (f *finder) changed() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// resolve tells those who wait for a host that it is there, or is not.
func (f *finder) resolve(name string, h *host, found bool) {
	f.mu.Lock()
	if f.hosts[name] != h {
		f.mu.Unlock()
		return
	}
	if found != h.found {
		if h.found = found; found {
			f.open--
		} else {
			f.open++
		}
	}
	h.missed = time.Time{}
	if !found {
		h.missed = time.Now()
	}
	if h.deadline != nil {
		h.deadline.Stop()
		h.deadline = nil
	}
	waiters := h.waiters
	h.waiters = nil
	f.mu.Unlock()
	for w := range waiters {
		w.done()
	}
}

// settle looks which of the hosts asked for are in use now.
func (f *finder) settle(c *compile.Compiler) {
	f.mu.Lock()
	waiting := map[string]*host{}
	for name, h := range f.hosts {
		if !h.found {
			waiting[name] = h
		}
	}
	f.mu.Unlock()
	for name, h := range waiting {
		if c.HostActive(name) {
			f.resolve(name, h, true)
		}
	}
}

// missing notes hosts that the control plane says do not exist, or no longer.
func (f *finder) missing(names []string) {
	for _, name := range names {
		f.mu.Lock()
		h := f.hosts[name]
		f.mu.Unlock()
		if h != nil {
			f.resolve(name, h, false)
		}
	}
}

// keep notes a host of the last good copy.
func (f *finder) keep(name string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hosts[name] == nil {
		f.hosts[name] = &host{used: now}
		f.open++
	}
}

// names are the resource names to be subscribed to.
func (f *finder) names() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]bool, len(f.hosts))
	for n := range f.hosts {
		out[n] = true
	}
	return out
}

// sweep forgets misses that are old and returns the hosts that nobody has used for long, which it lets go.
func (f *finder) sweep(now time.Time) (idle []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, h := range f.hosts {
		switch {
		case len(h.waiters) > 0:
		case !h.found && !h.missed.IsZero() && now.Sub(h.missed) >= f.o.MissTTL:
			delete(f.hosts, name)
			f.open--
		case h.found && f.o.Compiler.HostUsed(name):
			h.used = now
		case h.found && now.Sub(h.used) >= f.o.HostIdle:
			delete(f.hosts, name)
			idle = append(idle, name)
		}
	}
	return idle
}

// stop lets everybody go who waits.
func (f *finder) stop() {
	f.mu.Lock()
	f.stopped = true
	var waiters []*waiter
	for _, h := range f.hosts {
		if h.deadline != nil {
			h.deadline.Stop()
		}
		for w := range h.waiters {
			waiters = append(waiters, w)
		}
		h.waiters = nil
	}
	f.mu.Unlock()
	for _, w := range waiters {
		w.done()
	}
}
