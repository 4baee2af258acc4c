// Command inventory counts what the shop has in store, over gRPC: unary, server-, client- and bidirectional-streaming
// calls, with grpc.health.v1 and reflection. The service is described in examples/shop/proto.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/outrigger-mesh/outrigger/examples/shop/internal/process"
	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
)

func main() {
	version := flag.String("version", "1.0.0", "the version that answers tell")
	flag.Parse()
	process.Exit(run(*version))
}

func run(version string) error {
	ctx, cancel := process.UntilTold()
	defer cancel()
	l, err := process.Listen()
	if err != nil {
		return err
	}
	in := newInventory(version, process.Instance())
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(in.countUnary),
		grpc.StreamInterceptor(in.countStream),
	)
	shoppb.RegisterInventoryServer(srv, in)
	alive := health.NewServer()
	healthpb.RegisterHealthServer(srv, alive)
	reflection.Register(srv)

	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Printf("listening on %s\n", l.Addr())
	select {
	case err := <-failed:
		return fmt.Errorf("serving gRPC: %w", err)
	case <-ctx.Done():
	}
	fmt.Println("told to end; finishing calls in progress")
	alive.Shutdown()
	finish(srv)
	return nil
}

// finish lets calls in progress end, for as long as process.Grace.
func finish(srv *grpc.Server) {
	done := make(chan struct{})
	go func() { srv.GracefulStop(); close(done) }()
	t := time.NewTimer(process.Grace)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		srv.Stop()
		<-done
	}
}

// Get implements shoppb.InventoryServer.
func (in *inventory) Get(ctx context.Context, r *shoppb.GetRequest) (*shoppb.Stock, error) {
	left := deadlineLeft(ctx)
	if err := pause(ctx, r.GetDelayMs()); err != nil {
		return nil, err
	}
	s := in.stock(r.GetSku())
	s.DeadlineMs = left
	return s, nil
}

// Watch implements shoppb.InventoryServer.
func (in *inventory) Watch(r *shoppb.WatchRequest, out grpc.ServerStreamingServer[shoppb.Stock]) error {
	for n := uint32(0); r.GetTimes() == 0 || n < r.GetTimes(); n++ {
		if n > 0 {
			if err := pause(out.Context(), max(r.GetEveryMs(), 1)); err != nil {
				return err
			}
		}
		if err := out.Send(in.stock(r.GetSku())); err != nil {
			return err
		}
	}
	return nil
}

// Restock implements shoppb.InventoryServer.
func (in *inventory) Restock(from grpc.ClientStreamingServer[shoppb.Delivery, shoppb.RestockSummary]) error {
	sum := &shoppb.RestockSummary{Instance: in.instance}
	for {
		d, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return from.SendAndClose(sum)
		}
		if err != nil {
			return err
		}
		in.take(d.GetSku(), -d.GetCount())
		sum.Deliveries++
		sum.Items += d.GetCount()
	}
}

// Reserve implements shoppb.InventoryServer.
func (in *inventory) Reserve(with grpc.BidiStreamingServer[shoppb.Reservation, shoppb.ReservationResult]) error {
	for {
		r, err := with.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		left, ok := in.take(r.GetSku(), r.GetCount())
		if err := with.Send(&shoppb.ReservationResult{Id: r.GetId(), Reserved: ok, Left: left, Instance: in.instance}); err != nil {
			return err
		}
	}
}

// Calls implements shoppb.InventoryServer.
func (in *inventory) Calls(context.Context, *shoppb.CallsRequest) (*shoppb.CallsReport, error) {
	return &shoppb.CallsReport{Active: in.active.Load() - 1, Cancelled: in.cancelled.Load(), Instance: in.instance}, nil
}
