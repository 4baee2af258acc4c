package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

func inventory(size int) service {
	return service{name: "inventory", protocol: "grpc", command: []string{"inventory"}, size: size, health: `grpc: ""`}
}

// dial connects to a plain address, with no retries of the client's own.
func dial(t *testing.T, addr, authority string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestGRPC makes all four kinds of call at the edge and through a client's own sidecar.
func TestGRPC(t *testing.T) {
	m := harness.Up(t, write(t, []service{inventory(1), front(1, "inventory")}))
	for _, way := range []struct{ name, addr, authority string }{
		{"edge", m.Edge, "inventory.localhost"},
		{"sidecar", outbound(t, m.Of("front")[0], "inventory"), "inventory"},
	} {
		t.Run(way.name, func(t *testing.T) {
			conn := dial(t, way.addr, way.authority)
			c := shoppb.NewInventoryClient(conn)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			fourKinds(ctx, t, c)
			deadline(ctx, t, c)
			cancellation(ctx, t, c)
			if h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("grpc.health.v1: %v, %v", h, err)
			}
			if err := conn.Invoke(ctx, "/shop.v1.Inventory/Nothing", &shoppb.GetRequest{}, &shoppb.Stock{}); status.Code(err) != codes.Unimplemented {
				t.Errorf("a method that is not there: %v", err)
			}
		})
	}
}

func fourKinds(ctx context.Context, t *testing.T, c shoppb.InventoryClient) {
	t.Helper()
	sku := t.Name()
	s, err := c.Get(ctx, &shoppb.GetRequest{Sku: sku})
	if err != nil || s.GetCount() != 100 || s.GetInstance() == "" {
		t.Fatalf("unary: %v, %v", s, err)
	}

	w, err := c.Watch(ctx, &shoppb.WatchRequest{Sku: sku, Times: 50, EveryMs: 1})
	if err != nil {
		t.Fatalf("server streaming: %v", err)
	}
	n := 0
	for {
		_, err := w.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("server streaming, message %d: %v", n, err)
		}
		n++
	}
	if n != 50 {
		t.Errorf("server streaming: %d messages, want 50", n)
	}

	re, err := c.Restock(ctx)
	if err != nil {
		t.Fatalf("client streaming: %v", err)
	}
	for range 50 {
		if err := re.Send(&shoppb.Delivery{Sku: sku, Count: 2}); err != nil {
			t.Fatalf("client streaming: %v", err)
		}
	}
	if sum, err := re.CloseAndRecv(); err != nil || sum.GetDeliveries() != 50 || sum.GetItems() != 100 {
		t.Errorf("client streaming: %v, %v", sum, err)
	}

	bi, err := c.Reserve(ctx)
	if err != nil {
		t.Fatalf("bidirectional: %v", err)
	}
	for i := range 20 {
		// Each answer is awaited before the next message: nothing on the way may hold messages back.
		if err := bi.Send(&shoppb.Reservation{Id: fmt.Sprint(i), Sku: sku, Count: 10}); err != nil {
			t.Fatalf("bidirectional: %v", err)
		}
		r, err := bi.Recv()
		if err != nil || r.GetId() != fmt.Sprint(i) || !r.GetReserved() {
			t.Fatalf("bidirectional, message %d: %v, %v", i, r, err)
		}
	}
	if err := bi.CloseSend(); err != nil {
		t.Errorf("bidirectional, the end: %v", err)
	}
	if _, err := bi.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("bidirectional ends with %v", err)
	}
}

// deadline: the service sees it, and it ends the call on both sides.
func deadline(ctx context.Context, t *testing.T, c shoppb.InventoryClient) {
	t.Helper()
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	s, err := c.Get(short, &shoppb.GetRequest{Sku: "d"})
	cancel()
	if err != nil || s.GetDeadlineMs() < 8000 || s.GetDeadlineMs() > 10_000 {
		t.Errorf("the deadline that the service saw: %d ms of 10 s, %v", s.GetDeadlineMs(), err)
	}
	before := calls(ctx, t, c)
	short, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = c.Get(short, &shoppb.GetRequest{Sku: "d", DelayMs: 20_000})
	if status.Code(err) != codes.DeadlineExceeded || time.Since(began) > 2*time.Second {
		t.Errorf("deadline: %v after %v", err, time.Since(began))
	}
	noticed(ctx, t, c, before+1)
}

// cancellation: a stream that the client gives up ends at the service.
func cancellation(ctx context.Context, t *testing.T, c shoppb.InventoryClient) {
	t.Helper()
	before := calls(ctx, t, c)
	stream, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := c.Watch(stream, &shoppb.WatchRequest{Sku: "c", EveryMs: 5})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	noticed(ctx, t, c, before+1)
}

func calls(ctx context.Context, t *testing.T, c shoppb.InventoryClient) int64 {
	t.Helper()
	r, err := c.Calls(ctx, &shoppb.CallsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetCancelled()
}

// noticed waits until the service has seen so many calls given up.
func noticed(ctx context.Context, t *testing.T, c shoppb.InventoryClient, want int64) {
	t.Helper()
	harness.Eventually(t, 5*time.Second, func() error {
		if n := calls(ctx, t, c); n != want {
			return fmt.Errorf("the service has seen %d calls given up, want %d", n, want)
		}
		return nil
	})
}

// TestGRPCSpreads: calls on one connection reach all instances.
func TestGRPCSpreads(t *testing.T) {
	m := harness.Up(t, write(t, []service{inventory(2)}))
	c := shoppb.NewInventoryClient(dial(t, m.Edge, "inventory"))
	by := map[string]int{}
	for range 200 {
		s, err := c.Get(t.Context(), &shoppb.GetRequest{Sku: "a"})
		if err != nil {
			t.Fatal(err)
		}
		by[s.GetInstance()]++
	}
	if len(by) != 2 {
		t.Errorf("calls by instance: %v, want two", by)
	}
	for i, n := range by {
		if n < 50 {
			t.Errorf("%s got %d calls of 200", i, n)
		}
	}
}
