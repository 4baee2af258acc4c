// Package xdsclient gets the sidecar's configuration: one aggregated delta stream (ADS) to the control plane, the
// subscriptions that follow from what arrived, acknowledgements, and the last good copy on disk.
//
// Nothing that serves depends on it: with the control plane dead the last good snapshot stays in use, and a sidecar
// that starts meanwhile begins with the copy on disk. What resources mean is sidecar/compile's; it is told of them
// by one goroutine, that of [Client.Run]. The telemetry stream, which is not configuration, lives here too because
// it shares the connection.
package xdsclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Options are what a Client works with. Node, Compiler and Apply are required.
type Options struct {
	Node *corev3.Node
	// Conn is the connection to the control plane; nil where there is none: then only what is static and on disk
	// is served.
	Conn     grpc.ClientConnInterface
	Compiler *compile.Compiler
	// Apply puts a snapshot in use. It is called by one goroutine at a time.
	Apply func(*snapshot.Snapshot)
	// Dir is where the last good copy is; "" keeps none.
	Dir string
	// Log gets what goes wrong; nil discards.
	Log *slog.Logger
	// Report gives the state to tell the control plane; nil tells nothing. See Client.Changed.
	Report func() *outriggerv1.ReportRequest

	// Times; 0 means the default.
	WantTimeout time.Duration // how long a call waits for its virtual host; 1 s
	MissTTL     time.Duration // how long an unknown host is remembered; 5 s
	HostIdle    time.Duration // after which an unused host is let go; 10 min
	BackoffBase time.Duration // first wait before another connection; 100 ms
	BackoffMax  time.Duration // longest wait; 2 s: the server is on the same host
	FlushDelay  time.Duration // how long changes gather before they are written; 500 ms
}

// Status is how the client stands.
type Status struct {
	Connected bool
	Since     time.Time
	// Error is why the last stream ended, "" where none has.
	Error string
	// Received counts responses, Rejected those that were refused in part or whole.
	Received, Rejected uint64
}

// Client keeps the configuration current. Its exported methods are safe for concurrent use.
type Client struct {
	o      Options
	finder *finder
	events chan event
	poke   chan struct{} // telemetry

	mu     sync.Mutex
	status Status

	// Of the goroutine that runs Run alone.
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	subs     map[string]*subscription
	known    map[string]map[string]string // type, name → version of the last good resource
	tick     *time.Timer
	flush    *time.Timer
	flushing bool
	sentNode bool
}

type subscription struct {
	started bool
	names   map[string]bool
}

type event struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	resp   *discoveryv3.DeltaDiscoveryResponse
	err    error // the stream has ended
	opened bool
}

// New makes a client. Nothing happens before Load and Run.
func New(o Options) *Client {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.WantTimeout, time.Second)
	set(&o.MissTTL, 5*time.Second)
	set(&o.HostIdle, 10*time.Minute)
	set(&o.BackoffBase, 100*time.Millisecond)
	set(&o.BackoffMax, 2*time.Second)
	set(&o.FlushDelay, 500*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o, events: make(chan event), poke: make(chan struct{}, 1), known: map[string]map[string]string{}}
	for _, t := range compile.Types() {
		c.known[t] = map[string]string{}
	}
	c.finder = newFinder(&c.o)
	return c
}

// OnDemand returns the discovery of a route configuration's virtual hosts; for compile.Options.
func (c *Client) OnDemand(routeConfig string) snapshot.OnDemand {
	return &lookup{c.finder, routeConfig}
}

// Status tells how the client stands.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Static feeds resources of the bootstrap, before Load and Run.
func (c *Client) Static(u compile.Update) []compile.ResourceError {
	u.Static = true
	res := c.o.Compiler.Update(time.Now(), u)
	if res.Snapshot != nil {
		c.o.Apply(res.Snapshot)
	}
	return res.Errors
}

// Run keeps the configuration current until ctx ends; it returns nil then. Call Load first.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	c.tick, c.flush = time.NewTimer(0), time.NewTimer(time.Hour)
	c.flush.Stop()
	defer c.tick.Stop()
	defer c.flush.Stop()
	sweep := time.NewTicker(min(c.o.MissTTL, c.o.HostIdle/4))
	defer sweep.Stop()
	if c.o.Conn != nil {
		wg.Go(func() { c.connect(ctx) })
		if c.o.Report != nil {
			wg.Go(func() { c.report(ctx) })
		}
	}
	for {
		select {
		case <-ctx.Done():
			if c.flushing {
				c.save()
			}
			c.finder.stop()
			return nil
		case e := <-c.events:
			c.handle(e)
		case <-c.tick.C:
			res := c.o.Compiler.Tick(time.Now())
			for _, e := range res.Errors {
				c.o.Log.Warn("a certificate could not be renewed, the last good one stays", "error", e.Error())
			}
			c.done(res)
		case <-c.finder.wake:
			c.subscribe()
		case <-sweep.C:
			if idle := c.finder.sweep(time.Now()); len(idle) > 0 {
				c.update(compile.Update{TypeURL: compile.VirtualHostType, Removed: idle})
			}
			c.subscribe()
		case <-c.flush.C:
			c.save()
		}
	}
}

func (c *Client) handle(e event) {
	switch {
	case e.opened:
		c.stream, c.subs, c.sentNode = e.stream, map[string]*subscription{}, false
		for _, t := range compile.Types() {
			c.subs[t] = &subscription{names: map[string]bool{}}
		}
		c.setStatus(true, nil)
		c.subscribe()
	case e.stream != c.stream: // of a stream that was given up
	case e.err != nil:
		c.stream = nil
		c.setStatus(false, e.err)
	default:
		c.response(e.resp)
	}
}

func (c *Client) setStatus(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Connected, c.status.Since = connected, time.Now()
	if err != nil {
		c.status.Error = err.Error()
	}
}

// response takes in what the server sent and acknowledges it.
func (c *Client) response(m *discoveryv3.DeltaDiscoveryResponse) {
	u := compile.Update{TypeURL: m.GetTypeUrl(), Removed: m.GetRemovedResources()}
	var gone []string
	for _, r := range m.GetResources() {
		if r.GetResource() == nil && len(r.GetAliases()) > 0 { // VHDS says so of hosts that do not exist
			gone = append(gone, r.GetName())
			continue
		}
		u.Set = append(u.Set, compile.Resource{Name: r.GetName(), Version: r.GetVersion(), Body: r.GetResource()})
	}
	u.Removed = append(u.Removed, gone...)
	errs := c.update(u)
	if m.GetTypeUrl() == compile.VirtualHostType {
		c.finder.missing(u.Removed)
	}
	c.mu.Lock()
	c.status.Received++
	if len(errs) > 0 {
		c.status.Rejected++
	}
	c.mu.Unlock()
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce()}
	if len(errs) > 0 {
		req.ErrorDetail = nack(errs)
		for _, e := range errs {
			c.o.Log.Warn("a resource was refused, the last good one stays", "error", e.Error())
		}
		c.Changed()
	}
	c.send(req)
	c.subscribe()
}

// update hands resources to the compiler and remembers the versions of those that were taken.
func (c *Client) update(u compile.Update) []compile.ResourceError {
	res := c.o.Compiler.Update(time.Now(), u)
	known := c.known[u.TypeURL]
	if known != nil {
		bad := map[string]bool{}
		for _, e := range res.Errors {
			bad[e.Name] = true
		}
		for _, r := range u.Set {
			if !bad[r.Name] {
				known[r.Name] = r.Version
			}
		}
		for _, n := range u.Removed {
			delete(known, n)
		}
		if len(u.Set)+len(u.Removed) > 0 {
			c.saveLater()
		}
	}
	c.done(res)
	return res.Errors
}

// done puts in use what came of an update.
func (c *Client) done(res compile.Result) {
	if res.Snapshot != nil {
		c.o.Apply(res.Snapshot)
		c.Changed()
	}
	for _, name := range res.Certificates {
		c.o.Log.Info("certificates are in use", "for", name)
	}
	c.finder.settle(c.o.Compiler)
	if res.Next.IsZero() {
		c.tick.Stop()
	} else {
		c.tick.Reset(max(time.Until(res.Next), time.Millisecond))
	}
}

// subscribe tells the server what is wanted and no longer wanted.
func (c *Client) subscribe() {
	wanted := c.o.Compiler.Wanted()
	wanted[compile.VirtualHostType] = c.finder.names()
	for _, t := range []string{compile.SecretType, compile.RouteType, compile.EndpointType} {
		for n := range c.known[t] {
			if !wanted[t][n] {
				delete(c.known[t], n)
			}
		}
	}
	if c.stream == nil {
		return
	}
	for _, t := range compile.Types() {
		c.subscribeType(t, wanted[t])
	}
}

// wildcard types are asked for as a whole.
func wildcard(t string) bool { return t == compile.ListenerType || t == compile.ClusterType }

func (c *Client) subscribeType(t string, want map[string]bool) {
	s := c.subs[t]
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t}
	for n := range want {
		if !s.names[n] {
			s.names[n] = true
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, n)
		}
	}
	for n := range s.names {
		if !want[n] {
			delete(s.names, n)
			req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, n)
		}
	}
	if s.started {
		if len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) > 0 {
			c.send(req)
		}
		return
	}
	// The first request of a type on a stream: an empty one means all (the wildcard of every server version), and must
	// not be sent for a type whose resources are asked for by name.
	if !wildcard(t) && len(req.ResourceNamesSubscribe) == 0 {
		return
	}
	if wildcard(t) && len(req.ResourceNamesSubscribe) > 0 {
		req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, "*")
	}
	s.started = true
	req.InitialResourceVersions = map[string]string{}
	for n, v := range c.known[t] {
		if wildcard(t) || s.names[n] {
			req.InitialResourceVersions[n] = v
		}
	}
	c.send(req)
}

func (c *Client) send(req *discoveryv3.DeltaDiscoveryRequest) {
	if c.stream == nil {
		return
	}
	if !c.sentNode {
		req.Node, c.sentNode = c.o.Node, true
	}
	// An error ends the stream; the receiver learns why.
	_ = c.stream.Send(req)
}

// connect opens streams for as long as ctx lasts, with a growing, jittered wait after one that brought nothing.
func (c *Client) connect(ctx context.Context) {
	wait := c.o.BackoffBase
	for ctx.Err() == nil {
		got, err := c.receive(ctx)
		if ctx.Err() != nil {
			return
		}
		if got {
			wait = c.o.BackoffBase
		}
		c.o.Log.Debug("the configuration stream ended", "error", err)
		if !sleep(ctx, time.Duration(rand.Int64N(int64(wait)))+wait/2) {
			return
		}
		wait = min(2*wait, c.o.BackoffMax)
	}
}

// receive opens one stream and passes on what it brings until it ends; got says whether it brought anything.
func (c *Client) receive(ctx context.Context) (got bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.o.Conn).DeltaAggregatedResources(ctx)
	if err != nil {
		c.setStatus(false, err)
		return false, fmt.Errorf("open the configuration stream: %w", err)
	}
	if !c.post(ctx, event{stream: stream, opened: true}) {
		return false, ctx.Err()
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			c.post(ctx, event{stream: stream, err: err})
			return got, err
		}
		got = true
		if !c.post(ctx, event{stream: stream, resp: m}) {
			return got, ctx.Err()
		}
	}
}

func (c *Client) post(ctx context.Context, e event) bool {
	select {
	case c.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var errTooLarge = errors.New("larger than the bound")
