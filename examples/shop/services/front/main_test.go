package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"

	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
)

// store answers what Get asks, as far as front uses it.
type store struct{ shoppb.InventoryClient }

func (store) Get(_ context.Context, r *shoppb.GetRequest, _ ...grpc.CallOption) (*shoppb.Stock, error) {
	return &shoppb.Stock{Sku: r.GetSku(), Count: 7, Instance: "inventory-0"}, nil
}

func TestFront(t *testing.T) {
	var posts int
	orders := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "2.0.0")
		switch {
		case r.Method == http.MethodPost:
			posts++
			_, _ = io.WriteString(w, `{"id":"1"}`)
		case r.URL.Path == "/orders/9":
			_, _ = io.WriteString(w, `{"id":"9"}`)
		default:
			http.Error(w, "no such order", http.StatusNotFound)
		}
	}))
	defer orders.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		buf := make([]byte, len("add sales 1\nquit\n"))
		_, _ = io.ReadFull(c, buf)
		_, _ = io.WriteString(c, "ok 12\nbye\n")
	}()

	f := &front{version: "1.0.0", instance: "front-0", orders: orders.URL, ledger: l.Addr().String(), inventory: store{}, http: orders.Client()}
	for _, c := range []struct {
		method, target, part, version string
		status                        int
	}{
		{"GET", "/", `"tea":7`, "", 200},
		{"GET", "/orders/9", `"id":"9"`, "2.0.0", 200},
		{"GET", "/orders/404", "no such order", "", 502},
		{"POST", "/checkout?sku=mug", `"sales":"ok 12"`, "2.0.0", 200},
		{"GET", "/healthz", "ok", "", 200},
	} {
		w := httptest.NewRecorder()
		f.handler().ServeHTTP(w, httptest.NewRequest(c.method, c.target, nil))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.part) || w.Header().Get("X-Version") != c.version {
			t.Errorf("%s %s: %d %q %v", c.method, c.target, w.Code, w.Body, w.Header())
		}
	}
	if posts != 1 {
		t.Errorf("%d orders, want 1", posts)
	}
}
