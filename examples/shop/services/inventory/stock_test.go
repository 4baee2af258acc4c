package main

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
)

func dial(t *testing.T, in *inventory) shoppb.InventoryClient {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(grpc.UnaryInterceptor(in.countUnary), grpc.StreamInterceptor(in.countStream))
	shoppb.RegisterInventoryServer(srv, in)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	c, err := grpc.NewClient("passthrough:///inventory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return shoppb.NewInventoryClient(c)
}

func TestFourKinds(t *testing.T) {
	c := dial(t, newInventory("1.0.0", "me"))
	ctx := t.Context()

	s, err := c.Get(ctx, &shoppb.GetRequest{Sku: "tea"})
	if err != nil || s.GetCount() != firstStock || s.GetInstance() != "me" || s.GetDeadlineMs() != 0 {
		t.Fatalf("Get: %v, %v", s, err)
	}

	re, err := c.Restock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := re.Send(&shoppb.Delivery{Sku: "tea", Count: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if sum, err := re.CloseAndRecv(); err != nil || sum.GetDeliveries() != 3 || sum.GetItems() != 30 {
		t.Fatalf("Restock: %v, %v", sum, err)
	}

	bi, err := c.Reserve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, true} {
		if err := bi.Send(&shoppb.Reservation{Sku: "tea", Count: []int64{100, 31, 30}[i]}); err != nil {
			t.Fatal(err)
		}
		if r, err := bi.Recv(); err != nil || r.GetReserved() != want {
			t.Fatalf("Reserve %d: %v, %v", i, r, err)
		}
	}
	if err := bi.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := bi.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("Reserve ends with %v", err)
	}

	w, err := c.Watch(ctx, &shoppb.WatchRequest{Sku: "tea", Times: 3, EveryMs: 1})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		_, err := w.Recv()
		if errors.Is(err, io.EOF) && n == 3 {
			break
		}
		if err != nil {
			t.Fatalf("Watch %d: %v", n, err)
		}
	}
}

func TestDeadlineIsSeenAndCounted(t *testing.T) {
	in := newInventory("1.0.0", "me")
	c := dial(t, in)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, &shoppb.GetRequest{Sku: "tea", DelayMs: 60_000}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("code %v", status.Code(err))
	}
	for {
		r, err := c.Calls(t.Context(), &shoppb.CallsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if r.GetCancelled() == 1 && r.GetActive() == 0 {
			return
		}
	}
}
