package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

const ordersRoutes = `apiVersion: outrigger.dev/v1
kind: Route
metadata: {name: orders-rules}
spec:
  service: orders
  rules:
    - {match: {path: {exact: /orders/exact}}, to: [{version: 2.0.0}]}
    - {match: {path: /v2}, to: [{version: 2.0.0}], rewrite: {path: /}}
    - {match: {path: {template: "/t/{name}/orders"}}, to: [{version: 2.0.0}], rewrite: {path: /orders/from-template}}
    - {match: {path: {regex: "/r[0-9]+"}}, to: [{version: 2.0.0}], rewrite: {path: /orders/from-regex}}
    - {match: {method: PUT, path: /orders}, to: [{version: 2.0.0}]}
    - {match: {headers: {x-canary: {prefix: "yes"}}}, to: [{version: 2.0.0}]}
    - {match: {query: {beta: "1"}}, to: [{version: 2.0.0}]}
    - {match: {path: {exact: /gone}}, direct: {status: 410, body: "no more"}}
    - {match: {path: {exact: /moved}}, redirect: {path: /orders/7, status: 308}}
`

const ordersPolicy = `apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: orders}
spec:
  service: orders
  timeout: 5s
  headers: {request: {set: {x-mesh: "on"}}, response: {set: {x-policy: "orders"}, remove: [x-instance]}}
  methods:
    - match: {method: GET, path: /slow}
      timeout: 200ms
      retry: {attempts: 1}
    - match: {method: GET, path: "/orders/limited"}
      rateLimit: {max: 3, window: 1h}
    - match: {path: "/orders/faulty"}
      fault: {abort: {status: 418, percent: 100}}
`

// TestRoutes tells routes and policies apart by path, method, field and query, at the edge, through a gateway and through a
// caller's own sidecar.
func TestRoutes(t *testing.T) {
	gateway := harness.FreeAddr(t)
	m := harness.Up(t, write(t, []service{orders(1), ordersV2(1), front(1, "orders")}, split(100, 0), ordersRoutes, ordersPolicy,
		fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: Gateway
metadata: {name: public}
spec: {listen: %q, routes: [{host: shop.example, path: /api, service: orders, rewrite: {path: /}}, {host: shop.example, path: /front, service: front, rewrite: {path: /}}]}
`, gateway)))
	own := outbound(t, m.Of("front")[0], "orders")

	for _, way := range []struct{ name, addr, host, prefix string }{
		{"edge", m.Edge, "orders", ""}, {"sidecar", own, "orders", ""}, {"gateway", gateway, "shop.example", "/api"},
	} {
		t.Run(way.name, func(t *testing.T) {
			for _, c := range []struct {
				method, path, field, version string
			}{
				{"GET", "/orders/1", "", "1.0.0"},
				{"GET", "/orders/exact", "", "2.0.0"},
				{"GET", "/orders/exact2", "", "1.0.0"},
				{"GET", "/v2/orders/1", "", "2.0.0"},
				{"GET", "/v2", "", "2.0.0"},
				{"GET", "/t/any/orders", "", "2.0.0"},
				{"GET", "/r17", "", "2.0.0"},
				{"GET", "/orders/1", "x-canary: yes-please", "2.0.0"},
				{"GET", "/orders/1", "x-canary: no", "1.0.0"},
				{"GET", "/orders/1?beta=1", "", "2.0.0"},
				{"GET", "/orders/1?beta=2", "", "1.0.0"},
			} {
				code, _, h := call(t, c.method, way.addr, way.host, way.prefix+c.path, c.field)
				if code != 200 || h.Get("X-Version") != c.version {
					t.Errorf("%s %s %s: %d from version %q, want %s", c.method, c.path, c.field, code, h.Get("X-Version"), c.version)
				}
				if h.Get("X-Policy") != "orders" || h.Get("X-Instance") != "" {
					t.Errorf("%s %s: fields set and removed: %v", c.method, c.path, h)
				}
			}
			if code, _, h := call(t, "PUT", way.addr, way.host, way.prefix+"/orders/1", ""); code != 405 || h.Get("X-Version") != "2.0.0" {
				t.Errorf("PUT: %d from version %q", code, h.Get("X-Version"))
			}
			if code, body, _ := call(t, "GET", way.addr, way.host, way.prefix+"/gone", ""); code != 410 || !strings.Contains(body, "no more") {
				t.Errorf("direct: %d %q", code, body)
			}
			if code, _, h := call(t, "GET", way.addr, way.host, way.prefix+"/moved", ""); code != 308 || !strings.HasSuffix(h.Get("Location"), "/orders/7") {
				t.Errorf("redirect: %d %q", code, h.Get("Location"))
			}
			begin := time.Now()
			code, body, _ := call(t, "GET", way.addr, way.host, way.prefix+"/slow?ms=20000", "")
			if code != 504 || !strings.Contains(body, "UT") || time.Since(begin) > 10*time.Second {
				t.Errorf("a timeout of 200 ms: %d %q after %v", code, body, time.Since(begin))
			}
			if code, _, _ := call(t, "GET", way.addr, way.host, way.prefix+"/orders/faulty", ""); code != 418 {
				t.Errorf("an injected fault: %d", code)
			}
		})
	}

	// the limit runs at the callee: it is one for all ways there
	codes := map[int]int{}
	for i := range 8 {
		addr := []string{m.Edge, own}[i%2]
		code, _, _ := call(t, "GET", addr, "orders", "/orders/limited", "")
		codes[code]++
	}
	if codes[200] != 3 || codes[429] != 5 {
		t.Errorf("a limit of 3: %v", codes)
	}
	if code, _, _ := call(t, "GET", gateway, "other.example", "/api/orders/1", ""); code != 404 {
		t.Errorf("a host that the gateway does not serve: %d", code)
	}
}

// TestGRPCRoutes routes by gRPC service and method.
func TestGRPCRoutes(t *testing.T) {
	v2 := inventory(1)
	v2.version = "2.0.0"
	m := harness.Up(t, write(t, []service{inventory(1), v2, front(1, "inventory")}, `apiVersion: outrigger.dev/v1
kind: Route
metadata: {name: inventory-rules}
spec:
  service: inventory
  rules:
    - {match: {grpc: shop.v1.Inventory/Reserve}, to: [{version: 2.0.0}]}
    - {match: {grpc: shop.v1.Inventory}, to: [{version: 1.0.0}]}
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: inventory}
spec:
  service: inventory
  methods:
    - match: {grpc: shop.v1.Inventory/Watch}
      fault: {abort: {status: 503, percent: 100}}
`))
	for _, addr := range []string{m.Edge, outbound(t, m.Of("front")[0], "inventory")} {
		c := shoppb.NewInventoryClient(dial(t, addr, "inventory"))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for range 5 {
			s, err := c.Get(ctx, &shoppb.GetRequest{Sku: "x"})
			if err != nil || !strings.HasPrefix(s.GetInstance(), "inventory-1.0.0-") {
				t.Fatalf("Get: %v, %v", s, err)
			}
		}
		w, err := c.Watch(ctx, &shoppb.WatchRequest{Sku: "x", Times: 1})
		if err == nil {
			_, err = w.Recv()
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("a fault for one method: %v", err)
		}
	}
}

// call makes one request by itself and does not follow a redirect.
func call(t *testing.T, method, addr, host, path, field string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if k, v, ok := strings.Cut(field, ": "); ok {
		req.Header.Set(k, v)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}
