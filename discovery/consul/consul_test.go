package consul

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/discovery"
	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watcher runs a Watch and lets a test wait for what it tells.
type watcher struct {
	t       testing.TB
	updates chan discovery.Update
	last    discovery.Update
}

func startWatch(t testing.TB, o Options, q discovery.Query) *watcher {
	t.Helper()
	src, err := NewSource(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{t: t, updates: make(chan discovery.Update, 1024)}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := src.Watch(ctx, q, func(u discovery.Update) { w.updates <- u }); !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended with %v", err)
		}
		src.Close()
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// until waits for an update of which ok is true.
func (w *watcher) until(what string, ok func(u discovery.Update) bool) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case w.last = <-w.updates:
			if ok(w.last) {
				return
			}
		case <-deadline:
			w.t.Fatalf("never %s; the last update is %+v", what, w.last)
		}
	}
}

// has says whether an update has just these endpoints, each as "service:port=health".
func has(u discovery.Update, want ...string) bool {
	var got []string
	for _, e := range u.Endpoints {
		got = append(got, e.Service+":"+e.PortName+"="+e.Health.String())
	}
	return strings.Join(got, " ") == strings.Join(want, " ")
}

func startRegistrar(t testing.TB, host string, o Options) *Registrar {
	t.Helper()
	r, err := NewRegistrar(host, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

func synced(t testing.TB, r *Registrar) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.Synced(ctx); err != nil {
		t.Fatal(err)
	}
}

func listen(t testing.TB) (net.Listener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, netip.MustParseAddrPort(l.Addr().String())
}

func client(t testing.TB, addr string) *api.Client {
	t.Helper()
	c, transport, err := connect(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

func TestRegisterAndWatch(t *testing.T) {
	agent := testkit.Consul(t)
	o := Options{Address: agent.Addr, CheckInterval: time.Second}
	all := startWatch(t, o, discovery.Query{})
	one := startWatch(t, o, discovery.Query{Tenant: "default", Service: "orders"})
	any := startWatch(t, o, discovery.Query{Service: "orders"})
	for _, w := range []*watcher{all, one, any} {
		w.until("told that nothing is there", func(u discovery.Update) bool { return has(u) && u.Err == nil && !u.Stale })
	}
	// A foreign one, as anybody would register it.
	if err := client(t, agent.Addr).Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "billing", Port: 9, Tags: []string{"grpc"}}); err != nil {
		t.Fatal(err)
	}
	all.until("told of billing", func(u discovery.Update) bool { return has(u, "billing:grpc=healthy") })
	l, addr := listen(t)
	r := startRegistrar(t, "h1", o)
	i := Instance{ID: "orders-1.0.0-0", Service: "orders", Version: "1.0.0", Ports: []Port{{Name: "main", Addr: addr}}}
	if err := r.Register(i); err != nil {
		t.Fatal(err)
	}
	other := i
	other.ID, other.Tenant = "blue.orders-1.0.0-0", "blue"
	if err := r.Register(other); err != nil {
		t.Fatal(err)
	}
	synced(t, r)
	all.until("told of all", func(u discovery.Update) bool {
		return has(u, "orders:main=healthy", "billing:grpc=healthy", "orders:main=healthy")
	})
	any.until("told of orders of both tenants", func(u discovery.Update) bool {
		return has(u, "orders:main=healthy", "orders:main=healthy")
	})
	one.until("told of orders", func(u discovery.Update) bool { return has(u, "orders:main=healthy") })
	if e := one.last.Endpoints[0]; !e.Ours || e.Host != "h1" || e.Tenant != "default" || e.Version != "1.0.0" || e.HostPort() != addr.String() {
		t.Errorf("endpoint is %+v", e)
	}
	// The agent checks by itself.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	one.until("told that the check fails", func(u discovery.Update) bool { return has(u, "orders:main=unhealthy") })
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	one.until("told that the check passes", func(u discovery.Update) bool { return has(u, "orders:main=healthy") })
	// Withdrawn, back, withdrawn and gone: what was withdrawn is believed to be gone at once.
	r.Withdraw(i.ID)
	one.until("told of the withdrawal", func(u discovery.Update) bool { return has(u, "orders:main=unhealthy") })
	if err := r.Register(i); err != nil {
		t.Fatal(err)
	}
	one.until("told that it is back", func(u discovery.Update) bool { return has(u, "orders:main=healthy") })
	r.Withdraw(i.ID)
	one.until("told of the withdrawal", func(u discovery.Update) bool { return has(u, "orders:main=unhealthy") })
	r.Deregister(i.ID)
	one.until("told that it is gone", func(u discovery.Update) bool { return has(u) && !u.Stale })
	synced(t, r)
	// A new control plane of the host takes out what an earlier one registered; one of another host does not.
	stranger := startRegistrar(t, "h2", o)
	stranger.Deregister(other.ID)
	synced(t, stranger)
	if svcs, err := client(t, agent.Addr).Agent().Services(); err != nil || svcs[other.ID] == nil {
		t.Errorf("another host took an instance out: %v, %v", svcs, err)
	}
	heir := startRegistrar(t, "h1", o)
	heir.Deregister(other.ID)
	synced(t, heir)
	if svcs, err := client(t, agent.Addr).Agent().Services(); err != nil || svcs[other.ID] != nil {
		t.Errorf("the instance is still there: %v, %v", svcs, err)
	}
}

// TestAgentLost kills the agent and starts it again with nothing in it. What was known stays known, as stale; what is ours
// is registered again; what was foreign is held.
func TestAgentLost(t *testing.T) {
	agent := testkit.Consul(t)
	o := Options{Address: agent.Addr, CheckInterval: time.Second, SyncInterval: 200 * time.Millisecond}
	_, addr := listen(t)
	r := startRegistrar(t, "h1", o)
	i := Instance{ID: "orders-1.0.0-0", Service: "orders", Version: "1.0.0", Ports: []Port{{Name: "main", Addr: addr}}}
	if err := r.Register(i); err != nil {
		t.Fatal(err)
	}
	synced(t, r)
	if err := client(t, agent.Addr).Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "billing", Port: 9}); err != nil {
		t.Fatal(err)
	}
	w := startWatch(t, o, discovery.Query{})
	both := []string{"billing:http=healthy", "orders:main=healthy"}
	w.until("told of both", func(u discovery.Update) bool { return has(u, both...) && !u.Stale })

	agent.Kill()
	w.until("told that it is stale", func(u discovery.Update) bool {
		if !has(u, both...) {
			t.Errorf("a dead agent took endpoints away: %+v", u)
		}
		return u.Stale && u.Err != nil && !u.Since.IsZero()
	})
	second := i
	second.ID = "orders-1.0.0-1"
	if err := r.Register(second); err != nil { // nobody is there to take it
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Synced(ctx); err == nil {
		t.Error("a dead agent agrees")
	}

	agent.Restart()
	synced(t, r)
	w.until("told of the new instance, with billing held", func(u discovery.Update) bool {
		if !strings.HasPrefix(strings.Join(names(u), " "), "billing orders") {
			t.Errorf("an agent that forgot took endpoints away: %+v", u)
		}
		return has(u, append(both, "orders:main=healthy")...) && u.Err == nil && u.Stale
	})
	// Once the foreign one is registered again nothing is stale.
	if err := client(t, agent.Addr).Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "billing", Port: 9}); err != nil {
		t.Fatal(err)
	}
	w.until("all fresh", func(u discovery.Update) bool { return has(u, append(both, "orders:main=healthy")...) && !u.Stale })
}

// TestAgentRestarted restarts an agent that remembers: what it still has is not registered anew, which would reset its
// checks, and what it missed is made up for.
func TestAgentRestarted(t *testing.T) {
	agent := testkit.Consul(t, testkit.ConsulDurable())
	o := Options{Address: agent.Addr, CheckInterval: time.Second, SyncInterval: 200 * time.Millisecond}
	_, addr := listen(t)
	r := startRegistrar(t, "h1", o)
	c := client(t, agent.Addr)
	one := Instance{ID: "orders-1.0.0-0", Service: "orders", Ports: []Port{{Name: "main", Addr: addr}}, HealthURL: "http://" + addr.String() + "/"}
	two := one
	two.ID = "orders-1.0.0-1"
	for _, i := range []Instance{one, two} {
		if err := r.Register(i); err != nil {
			t.Fatal(err)
		}
	}
	r.Withdraw(one.ID)
	synced(t, r)
	agent.Kill()
	r.Deregister(two.ID)
	agent.Restart()
	synced(t, r)
	svcs, err := c.Agent().Services()
	if err != nil {
		t.Fatal(err)
	}
	if len(svcs) != 1 || svcs[one.ID] == nil || !registered(svcs[one.ID], one.inHost("h1").registration(r.opts)) {
		t.Errorf("the agent has %+v", svcs)
	}
	status, info, err := c.Agent().AgentHealthServiceByID(one.ID)
	if err != nil {
		t.Fatal(err)
	}
	// TCP, HTTP, and the mark of the withdrawal: each once.
	if status != api.HealthMaint && status != api.HealthCritical || len(info.Checks) != 3 {
		t.Errorf("the instance is %s, with checks %+v", status, info.Checks)
	}
	for _, check := range info.Checks {
		if check.Type == "ttl" && !strings.Contains(check.CheckID, "maintenance") {
			t.Errorf("check %s waits for somebody to renew it", check.CheckID)
		}
	}
}

func names(u discovery.Update) (out []string) {
	for _, e := range u.Endpoints {
		out = append(out, e.Service)
	}
	return out
}

// TestHold lets a service vanish without a withdrawal: it is kept for the hold, and then given up.
func TestHold(t *testing.T) {
	agent := testkit.Consul(t)
	c := client(t, agent.Addr)
	if err := c.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "billing", Port: 9}); err != nil {
		t.Fatal(err)
	}
	w := startWatch(t, Options{Address: agent.Addr, Hold: 300 * time.Millisecond}, discovery.Query{})
	w.until("told of billing", func(u discovery.Update) bool { return has(u, "billing:http=healthy") && !u.Stale })
	if err := c.Agent().ServiceDeregister("billing"); err != nil {
		t.Fatal(err)
	}
	w.until("told that it is held", func(u discovery.Update) bool { return has(u, "billing:http=healthy") && u.Stale })
	w.until("told that it is gone", func(u discovery.Update) bool { return has(u) && !u.Stale })
	if err := c.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "billing", Port: 9}); err != nil {
		t.Fatal(err)
	}
	w.until("told that it is back", func(u discovery.Update) bool { return has(u, "billing:http=healthy") && !u.Stale })
}

func TestNoAgent(t *testing.T) {
	l, addr := listen(t)
	_ = l.Close() // nobody listens there now
	w := startWatch(t, Options{Address: addr.String()}, discovery.Query{})
	w.until("told that there is no agent", func(u discovery.Update) bool { return has(u) && u.Err != nil && u.Stale })
}
