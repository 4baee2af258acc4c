package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
)

// firstStock is how many there are of an item that nobody has touched.
const firstStock = 100

// inventory is the store, and what is known of the calls to it.
type inventory struct {
	shoppb.UnimplementedInventoryServer
	version, instance string
	active, cancelled atomic.Int64

	mu    sync.Mutex
	count map[string]int64
}

func newInventory(version, instance string) *inventory {
	return &inventory{version: version, instance: instance, count: map[string]int64{}}
}

func (in *inventory) stock(sku string) *shoppb.Stock {
	n, _ := in.take(sku, 0)
	return &shoppb.Stock{Sku: sku, Count: n, Instance: in.instance, Version: in.version}
}

// take removes n of an item (adds, where n is negative) if there are as many, and returns what is left.
func (in *inventory) take(sku string, n int64) (left int64, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	have, known := in.count[sku]
	if !known {
		have = firstStock
	}
	if n > have {
		return have, false
	}
	in.count[sku] = have - n
	return have - n, true
}

// countUnary and countStream keep the numbers that Calls tells.
func (in *inventory) countUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	defer in.begin(ctx)()
	return h(ctx, req)
}

func (in *inventory) countStream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	defer in.begin(s.Context())()
	return h(srv, s)
}

func (in *inventory) begin(ctx context.Context) (end func()) {
	in.active.Add(1)
	return func() {
		if ctx.Err() != nil {
			in.cancelled.Add(1)
		}
		in.active.Add(-1)
	}
}

// deadlineLeft is how many milliseconds the caller still waits, at least 1; 0 where it set no deadline.
func deadlineLeft(ctx context.Context) int64 {
	t, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(t).Milliseconds(), 1)
}

// pause waits, unless the call ends before; then it returns the call's status.
func pause(ctx context.Context, ms uint32) error {
	if ms == 0 {
		return nil
	}
	t := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}
