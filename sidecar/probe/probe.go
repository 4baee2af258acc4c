// Package probe is active health checking: it asks endpoints of clusters that have a health check whether they are
// well, and marks them in the upstream table.
//
// The instance's own sidecar probes its process and reports to the control plane, which advertises it; callers
// probe externals only, which have no sidecar. It runs beside the data path, not on it, and may use what the hot
// path may not.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// Defaults of a health check (DESIGN: 10 s, 1 s, 3, 1).
const (
	defaultInterval  = 10 * time.Second
	defaultTimeout   = time.Second
	defaultUnhealthy = 3
	defaultHealthy   = 1
	// An endpoint that is not known to be healthy is asked more often, so that a start is noticed at once.
	eagerLeast = 50 * time.Millisecond
	eagerMost  = time.Second
)

// State is what probing has found.
type State uint8

// States.
const (
	Unknown State = iota
	Healthy
	Unhealthy
)

// Result is the state of one endpoint.
type Result struct {
	Cluster, Address string
	State            State
	Reason           string // why it is not healthy
	Since            time.Time
}

// Prober probes. Its methods are safe for concurrent use.
type Prober struct {
	table   *upstream.Table
	log     *slog.Logger
	changed func()

	mu      sync.Mutex
	targets map[target]*probe
	closed  bool
	wg      sync.WaitGroup
}

type target struct {
	cluster, network, address string
	check                     snapshot.HealthCheck
}

type probe struct {
	target
	host   *upstream.Host
	cancel context.CancelFunc

	mu     sync.Mutex
	result Result
}

// New makes a prober of a table's clusters; changed is called when a result differs from the last.
func New(table *upstream.Table, log *slog.Logger, changed func()) *Prober {
	return &Prober{table: table, log: log, changed: changed, targets: map[target]*probe{}}
}

// Refresh begins and ends probes as the table's clusters and endpoints now are.
func (p *Prober) Refresh() {
	want := map[target]*upstream.Host{}
	for _, c := range p.table.Clusters() {
		cfg := c.Config()
		if cfg == nil || cfg.Health == nil {
			continue
		}
		for _, h := range c.Hosts() {
			want[target{c.ClusterName(), h.Network, h.Address, *cfg.Health}] = h
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for t, pr := range p.targets {
		if want[t] != pr.host {
			pr.cancel()
			delete(p.targets, t)
		}
	}
	for t, h := range want {
		if p.targets[t] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		pr := &probe{target: t, host: h, cancel: cancel}
		pr.result = Result{Cluster: t.cluster, Address: t.address, Since: time.Now()}
		p.targets[t] = pr
		p.wg.Go(func() { p.run(ctx, pr) })
	}
}

// Results returns what is known, by cluster and address.
func (p *Prober) Results() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	rs := make([]Result, 0, len(p.targets))
	for _, pr := range p.targets {
		pr.mu.Lock()
		rs = append(rs, pr.result)
		pr.mu.Unlock()
	}
	sort.Slice(rs, func(i, j int) bool {
		return rs[i].Cluster < rs[j].Cluster || rs[i].Cluster == rs[j].Cluster && rs[i].Address < rs[j].Address
	})
	return rs
}

// Close ends all probes and waits for them.
func (p *Prober) Close() {
	p.mu.Lock()
	p.closed = true
	for _, pr := range p.targets {
		pr.cancel()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Prober) run(ctx context.Context, pr *probe) {
	interval, timeout := pr.check.Interval, pr.check.Timeout
	if interval <= 0 {
		interval = defaultInterval
	}
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	bad, good := pr.check.UnhealthyAfter, pr.check.HealthyAfter
	if bad <= 0 {
		bad = defaultUnhealthy
	}
	if good <= 0 {
		good = defaultHealthy
	}
	ask, done := pr.asker()
	defer done()
	fails, oks := 0, 0
	for {
		c, cancel := context.WithTimeout(ctx, timeout)
		err := ask(c)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			fails, oks = 0, oks+1
			if oks >= good {
				p.set(pr, Healthy, "")
			}
		} else {
			fails, oks = fails+1, 0
			if fails >= bad {
				p.set(pr, Unhealthy, err.Error())
			}
		}
		d := interval
		pr.mu.Lock()
		if pr.result.State != Healthy {
			d = min(d, max(eagerLeast, min(interval/50, eagerMost)))
		}
		pr.mu.Unlock()
		d -= time.Duration(rand.Int64N(int64(d)/10 + 1)) // so that probes do not come in step
		t := time.NewTimer(d)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (p *Prober) set(pr *probe, s State, reason string) {
	pr.mu.Lock()
	same := pr.result.State == s
	if !same {
		pr.result.State, pr.result.Since = s, time.Now()
	}
	pr.result.Reason = reason
	pr.mu.Unlock()
	if same {
		return
	}
	pr.host.SetHealthy(s == Healthy)
	if s == Unhealthy {
		p.log.Warn("an endpoint is unhealthy", "cluster", pr.cluster, "address", pr.address, "reason", reason)
	} else {
		p.log.Info("an endpoint is healthy", "cluster", pr.cluster, "address", pr.address)
	}
	p.changed()
}

// asker makes the function that asks once, and one that lets go of what it holds.
func (pr *probe) asker() (ask func(context.Context) error, done func()) {
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, pr.network, pr.address)
	}
	switch c := pr.check; {
	case c.HTTPPath != "":
		return pr.askHTTP(dial)
	case c.GRPC:
		return pr.askGRPC(dial)
	default:
		return func(ctx context.Context) error {
			conn, err := dial(ctx)
			if err != nil {
				return err
			}
			return conn.Close()
		}, func() {}
	}
}

func (pr *probe) askHTTP(dial func(context.Context) (net.Conn, error)) (func(context.Context) error, func()) {
	tr := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	host := pr.check.HTTPHost
	if host == "" {
		host = pr.address
		if pr.network == "unix" {
			host = "localhost"
		}
	}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+pr.check.HTTPPath, nil)
		if err != nil {
			return err
		}
		req.Header.Set("User-Agent", "outrigger-health")
		resp, err := client.Do(req)
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) {
				return op
			}
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
		if resp.StatusCode < 200 || resp.StatusCode > 299 {
			return fmt.Errorf("GET %s answered %d", pr.check.HTTPPath, resp.StatusCode)
		}
		return nil
	}, tr.CloseIdleConnections
}

func (pr *probe) askGRPC(dial func(context.Context) (net.Conn, error)) (func(context.Context) error, func()) {
	return func(ctx context.Context) error {
		conn, err := grpc.NewClient("passthrough:///"+pr.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: pr.check.GRPCService}, grpc.WaitForReady(false))
		if err != nil {
			return err
		}
		if s := resp.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("grpc.health.v1 says %s", s)
		}
		return nil
	}, func() {}
}
