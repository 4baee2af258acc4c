// Command front is the shop's front end over HTTP. It calls the other services at the addresses that the mesh gave it
// in its environment, with ordinary clients that know nothing of a mesh and that never try a call again themselves.
//
// GET / shows the shop, GET or POST /checkout buys (inventory, then orders, then ledger), GET /orders/{id} passes one call on to
// orders, GET /env tells where the mesh serves what, GET /healthz that the process is well.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/outrigger-mesh/outrigger/examples/shop/internal/process"
	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
)

// maxAnswer bounds what is read of an answer from orders, in bytes.
const maxAnswer = 1 << 20

func main() {
	version := flag.String("version", "1.0.0", "the version that answers tell")
	flag.Parse()
	process.Exit(run(*version))
}

func run(version string) error {
	f := &front{
		version: version, instance: process.Instance(), orders: process.URL("orders"), ledger: process.Addr("ledger"),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}},
	}
	if a := process.Addr("inventory"); a != "" {
		c, err := grpc.NewClient("passthrough:///"+a, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
		if err != nil {
			return fmt.Errorf("preparing calls to inventory: %w", err)
		}
		defer func() { _ = c.Close() }()
		f.inventory = shoppb.NewInventoryClient(c)
	}
	return process.ServeHTTP(f.handler())
}

// front is what the handlers need.
type front struct {
	version, instance string
	orders            string // base URL
	ledger            string // host:port
	inventory         shoppb.InventoryClient
	http              *http.Client
}

func (f *front) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /{$}", f.root)
	m.HandleFunc("/checkout", f.checkout)
	m.HandleFunc("GET /orders/{id}", f.order)
	m.HandleFunc("GET /env", f.env)
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	return m
}

func (f *front) root(w http.ResponseWriter, r *http.Request) {
	s, err := f.stock(r.Context(), "tea")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service": "front", "version": f.version, "instance": f.instance, "tea": s.GetCount(), "inventory": s.GetInstance(),
		"try": []string{"/checkout?sku=tea", "/orders/1", "/env"},
	})
}

// checkout takes one item out of the store, orders it and books it.
func (f *front) checkout(w http.ResponseWriter, r *http.Request) {
	sku := r.URL.Query().Get("sku")
	if sku == "" {
		sku = "tea"
	}
	s, err := f.stock(r.Context(), sku)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	order, version, err := f.call(r.Context(), http.MethodPost, "/orders", fmt.Sprintf(`{"sku":%q}`, s.GetSku()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	booked := "no ledger"
	if f.ledger != "" {
		if booked, err = f.book(r.Context(), "sales", 1); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Version", version)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"bought": sku, "in store": s.GetCount(), "order": json.RawMessage(order), "sales": booked,
	})
}

// order passes one read on, with the status and the version that orders answered.
func (f *front) order(w http.ResponseWriter, r *http.Request) {
	body, version, err := f.call(r.Context(), http.MethodGet, "/orders/"+r.PathValue("id"), "")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Version", version)
	_, _ = w.Write(body)
}

// env tells what the mesh told this process; nothing else of its environment.
func (f *front) env(w http.ResponseWriter, _ *http.Request) {
	told := map[string]string{}
	for _, e := range os.Environ() {
		k, v, _ := strings.Cut(e, "=")
		if k == "PORT" || strings.HasPrefix(k, "PORT_") || strings.HasPrefix(k, "OUTRIGGER_") {
			told[k] = v
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(told)
}

func (f *front) stock(ctx context.Context, sku string) (*shoppb.Stock, error) {
	if f.inventory == nil {
		return nil, fmt.Errorf("asking inventory: OUTRIGGER_INVENTORY_ADDR is not set")
	}
	s, err := f.inventory.Get(ctx, &shoppb.GetRequest{Sku: sku})
	if err != nil {
		return nil, fmt.Errorf("asking inventory: %w", err)
	}
	return s, nil
}

// call makes one call to orders.
func (f *front) call(ctx context.Context, method, path, body string) (answer []byte, version string, err error) {
	// A body that net/http cannot rewind, even an empty one, keeps it from sending a request a second time on its own.
	req, err := http.NewRequestWithContext(ctx, method, f.orders+path, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		return nil, "", fmt.Errorf("calling orders: %w", err)
	}
	req.ContentLength = int64(len(body))
	res, err := f.http.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("calling orders: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, "", fmt.Errorf("reading the answer of orders: %w", err)
	}
	if res.StatusCode >= http.StatusBadRequest {
		return nil, "", fmt.Errorf("calling orders: %s: %s", res.Status, strings.TrimSpace(string(answer)))
	}
	return answer, res.Header.Get("X-Version"), nil
}

// book has one conversation with ledger.
func (f *front) book(ctx context.Context, account string, amount int) (string, error) {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", f.ledger)
	if err != nil {
		return "", fmt.Errorf("calling ledger: %w", err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "add %s %d\nquit\n", account, amount); err != nil {
		return "", fmt.Errorf("telling ledger: %w", err)
	}
	all, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("reading the answer of ledger: %w", err)
	}
	line, _, ok := strings.Cut(string(all), "\n")
	if !ok {
		return "", fmt.Errorf("reading the answer of ledger: it ended early")
	}
	return line, nil
}
