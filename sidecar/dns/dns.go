// Package dns keeps the endpoints of clusters whose addresses are host names: it looks the names up, again and again, and tells
// the table of upstreams what they mean now.
//
// A name that cannot be looked up, or whose answer is empty, keeps the addresses that it had: a resolver that is out of order must
// not empty a cluster. What names there are is sidecar/compile's; how a connection is made to one of several addresses is
// sidecar/loop's.
package dns

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

const (
	// lookupTimeout bounds one lookup.
	lookupTimeout = 5 * time.Second
	// maxAddresses bounds what is taken of one name's answer.
	maxAddresses = 256
)

// Options are what a Resolver works with.
type Options struct {
	// Lookup returns the addresses of a host; nil means the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Apply is told the endpoints of a cluster: at the first answer, and whenever they change. It is called from goroutines of the
	// resolver, for one cluster one call after another, and not any more once Remove has returned.
	Apply func(cluster string, eps []snapshot.EndpointSpec) error
	Log   *slog.Logger
}

// Resolver looks up the names of all clusters. It is safe for concurrent use.
type Resolver struct {
	o  Options
	mu sync.Mutex
	// clusters by name; each is replaced whole.
	clusters map[string]*cluster
	closed   bool
	wg       sync.WaitGroup
}

type cluster struct {
	cancel context.CancelFunc
	known  map[string][]netip.Addr // the last good answer by host
	said   []snapshot.EndpointSpec
	ready  bool
}

// New makes a resolver without clusters.
func New(o Options) *Resolver {
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Resolver{o: o, clusters: map[string]*cluster{}}
}

// Set has a cluster's endpoints looked up from now on; the addresses of those that are literal stand for themselves. What was known of a
// name before goes on until the first answer.
func (r *Resolver) Set(name string, cfg snapshot.DNS, eps []snapshot.EndpointSpec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{cancel: cancel, known: map[string][]netip.Addr{}}
	if old := r.clusters[name]; old != nil {
		old.cancel()
		c.known, c.said, c.ready = old.known, old.said, old.ready
	}
	r.clusters[name] = c
	r.wg.Go(func() {
		defer cancel()
		r.run(ctx, name, c, cfg, slices.Clone(eps))
	})
}

// Remove forgets a cluster.
func (r *Resolver) Remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clusters[name]; c != nil {
		c.cancel()
		delete(r.clusters, name)
	}
}

// Ready says whether a cluster's names were looked up once, whatever came of it; true for one that is not looked up.
func (r *Resolver) Ready(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clusters[name]
	return c == nil || c.ready
}

// Close ends all lookups and waits for them.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	for _, c := range r.clusters {
		c.cancel()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Resolver) run(ctx context.Context, name string, c *cluster, cfg snapshot.DNS, eps []snapshot.EndpointSpec) {
	failures := 0
	for {
		ok := r.round(ctx, name, c, &cfg, eps)
		if ctx.Err() != nil {
			return
		}
		wait := cfg.Refresh
		if ok {
			failures = 0
		} else if cfg.FailureBase > 0 {
			wait = min(cfg.FailureBase<<min(failures, 20), cfg.FailureMax)
			failures++
		}
		t := time.NewTimer(jitter(wait))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// jitter varies a wait by a tenth, so that the sidecars of a mesh do not ask all at once.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1)) //nolint:gosec // no secret
}

// round looks all names up once and tells what they mean; false where one could not be looked up.
func (r *Resolver) round(ctx context.Context, name string, c *cluster, cfg *snapshot.DNS, eps []snapshot.EndpointSpec) bool {
	hosts := map[string][]netip.Addr{}
	for i := range eps {
		if host, _, literal := split(&eps[i]); !literal {
			hosts[host] = nil
		}
	}
	answers := map[string][]netip.Addr{}
	var mu sync.Mutex // guards answers and good
	var wg sync.WaitGroup
	good := true
	for host := range hosts {
		wg.Go(func() {
			lctx, cancel := context.WithTimeout(ctx, lookupTimeout)
			defer cancel()
			as, err := r.o.Lookup(lctx, host)
			as = choose(as, cfg.Family)
			if ctx.Err() != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || len(as) == 0 {
				good = false
				why := "the answer has no address that may be used"
				if err != nil {
					why = err.Error()
				}
				r.o.Log.Warn("a host name cannot be looked up; what it meant before is still used", "cluster", name, "host", host, "error", why)
				return
			}
			answers[host] = as
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clusters[name] != c {
		return false
	}
	for host := range hosts {
		if hosts[host] = answers[host]; hosts[host] == nil {
			hosts[host] = c.known[host]
		}
	}
	c.known = hosts
	now := expand(eps, hosts, cfg.Logical)
	if c.ready && slices.EqualFunc(now, c.said, same) {
		return good
	}
	c.ready = true
	if len(now) == 0 {
		return good // nothing is known: there is nothing to take back
	}
	if err := r.o.Apply(name, now); err != nil { // under the lock: Remove comes before it, or after it
		r.o.Log.Error("the addresses of a cluster's host names could not be put in use", "cluster", name, "error", err)
		return good
	}
	c.said = now
	return good
}

// split returns an endpoint's host and port; literal says that there is no name in it.
func split(e *snapshot.EndpointSpec) (host, port string, literal bool) {
	if e.Network == "unix" {
		return e.Address, "", true
	}
	host, port, err := net.SplitHostPort(e.Address)
	if err != nil {
		return e.Address, "", true
	}
	_, err = netip.ParseAddr(host)
	return host, port, err == nil
}

// expand makes an endpoint of each address; of a logical cluster one of each name, with the others to try.
func expand(eps []snapshot.EndpointSpec, hosts map[string][]netip.Addr, logical bool) (out []snapshot.EndpointSpec) {
	seen := map[string]bool{}
	add := func(e snapshot.EndpointSpec) {
		if !seen[e.Address] {
			seen[e.Address] = true
			out = append(out, e)
		}
	}
	for i := range eps {
		host, port, literal := split(&eps[i])
		if literal {
			add(eps[i])
			continue
		}
		as := hosts[host]
		for k, a := range as {
			e := eps[i]
			e.Address = net.JoinHostPort(a.String(), port)
			if e.Hostname == "" {
				e.Hostname = host
			}
			if e.ID == eps[i].Address {
				e.ID = e.Address
			}
			if logical {
				for _, b := range as[k+1:] {
					e.More = append(e.More, net.JoinHostPort(b.String(), port))
				}
			}
			add(e)
			if logical {
				break
			}
		}
	}
	return out
}

func same(a, b snapshot.EndpointSpec) bool {
	more := slices.Equal(a.More, b.More)
	a.More, b.More = nil, nil
	return more && a.ID == b.ID && a.Address == b.Address && a.Weight == b.Weight && a.Priority == b.Priority && a.Health == b.Health &&
		a.Hostname == b.Hostname && a.Version == b.Version && a.Zone == b.Zone && a.Region == b.Region && a.SubZone == b.SubZone && a.Network == b.Network
}

// choose orders the addresses, so that an answer in another order changes nothing, and keeps the families that may be used.
func choose(as []netip.Addr, family snapshot.Family) []netip.Addr {
	var four, six []netip.Addr
	for _, a := range as {
		if a = a.Unmap(); a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	for _, l := range [][]netip.Addr{four, six} {
		slices.SortFunc(l, netip.Addr.Compare)
	}
	four, six = slices.Compact(four), slices.Compact(six)
	var out []netip.Addr
	switch family {
	case snapshot.V4Only:
		out = four
	case snapshot.V6Only:
		out = six
	case snapshot.V4Preferred:
		if out = four; len(out) == 0 {
			out = six
		}
	case snapshot.V6Preferred:
		if out = six; len(out) == 0 {
			out = four
		}
	default: // all, the families in turn (RFC 8305 §4)
		for i := range max(len(four), len(six)) {
			if i < len(six) {
				out = append(out, six[i])
			}
			if i < len(four) {
				out = append(out, four[i])
			}
		}
	}
	return out[:min(len(out), maxAddresses)]
}
