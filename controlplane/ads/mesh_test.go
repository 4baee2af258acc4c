package ads

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/controlplane/resolve"
	"github.com/outrigger-mesh/outrigger/controlplane/xds"
	"github.com/outrigger-mesh/outrigger/discovery"
	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

// mesh is a server over a Unix socket, fed with resources and discovery.
type mesh struct {
	*Server
	t    *testing.T
	path string
	in   resolve.Input

	mu     sync.Mutex
	events []Event
}

const services = `
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders}
spec: {version: 1.0.0, ports: [{name: http, protocol: http}], run: {command: [a]}}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders}
spec: {version: 2.0.0, ports: [{name: http, protocol: http}], run: {command: [a]}}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: front}
spec: {version: 1.0.0, ports: [{name: http, protocol: http}], run: {command: [a]}, uses: [orders, greeter]}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: any}
spec: {version: 1.0.0, ports: [{name: http, protocol: http}], run: {command: [a]}}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: greeter}
spec: {version: 1.0.0, ports: [{name: grpc, protocol: grpc}], run: {command: [a]}}
`

func split(a, b int) string {
	return fmt.Sprintf(`
apiVersion: outrigger.dev/v1
kind: TrafficSplit
metadata: {name: orders}
spec: {service: orders, split: [{version: 1.0.0, weight: %d}, {version: 2.0.0, weight: %d}]}
`, a, b)
}

func parse(t *testing.T, texts ...string) (out []*resource.Resource) {
	t.Helper()
	for _, text := range texts {
		rs, errs := resource.Parse("test.yaml", []byte(text))
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		out = append(out, rs...)
	}
	return out
}

func endpoint(t *testing.T, id, service, version, port string, protocol discovery.Protocol, addr string) discovery.Endpoint {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return discovery.Endpoint{
		ID: id, Tenant: "default", Service: service, Version: version, Address: a.IP.String(), Port: uint16(a.Port),
		PortName: port, Protocol: protocol, Health: discovery.Healthy, Weight: 1, Host: "here", Ours: true,
	}
}

// local is an instance of front or any, so that a sidecar of that id is told something.
func local(id, service string) *model.Local {
	return &model.Local{
		ID: id, Service: model.ServiceKey{Tenant: "default", Name: service}, Version: "1.0.0",
		Inbound: map[string]string{"http": "127.0.0.1:7001"}, Process: map[string]string{"http": "127.0.0.1:7002"},
		Outbound: "127.0.0.1:7003",
	}
}

var secret = []byte("0123456789abcdef0123456789abcdef")

func start(t *testing.T) *mesh {
	m := &mesh{t: t, path: filepath.Join(t.TempDir(), "ads.sock")}
	m.Server = New(Options{
		Authorize: func(p unixsock.Credentials, node string) error {
			if p.PID == 0 {
				return errors.New("no process")
			}
			if _, err := VerifyForeign(secret, node); err == nil || errors.Is(err, ErrNotForeign) && !strings.HasPrefix(node, "stranger") {
				return nil
			}
			return errors.New("not yours")
		},
		Event: func(e Event) { m.mu.Lock(); m.events = append(m.events, e); m.mu.Unlock() },
	})
	l, err := unixsock.Listen(m.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	m.in = resolve.Input{Revision: 1, Host: "here", Locals: []*model.Local{local("front-1.0.0-0", "front"), local("any-1.0.0-0", "any")}}
	return m
}

func (m *mesh) apply(texts ...string) {
	m.t.Helper()
	m.in.Resources = parse(m.t, texts...)
	m.push()
}

func (m *mesh) push() {
	m.t.Helper()
	mod, errs := resolve.Resolve(m.in)
	if len(errs) > 0 {
		m.t.Fatal(errs)
	}
	m.Update(func(n *corev3.Node) Config {
		if c := xds.Build(mod, xds.NodeOf(n)); c != nil {
			if err := c.Errors(); err != nil {
				m.t.Error(err)
			}
			return c
		}
		return nil
	})
}

func (m *mesh) dial() *grpc.ClientConn {
	m.t.Helper()
	c, err := grpc.NewClient("unix:"+m.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// backend is a real HTTP server that says its name.
func backend(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
