package xdsclient

import (
	"context"
	"math/rand/v2"
	"time"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// unknownServiceWait is how long a server that does not know the telemetry service is left alone.
const unknownServiceWait = 5 * time.Minute

// Changed says that what Options.Report returns is different now.
func (c *Client) Changed() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// report tells the control plane this sidecar's state whenever it changes, for as long as ctx lasts. With no control
// plane nothing is missed: the next stream begins with the whole state.
func (c *Client) report(ctx context.Context) {
	wait := c.o.BackoffBase
	for ctx.Err() == nil {
		answered, err := c.reportOnce(ctx)
		if answered {
			wait = c.o.BackoffBase
		}
		pause := time.Duration(rand.Int64N(int64(wait))) + wait/2
		if status.Code(err) == codes.Unimplemented {
			pause = unknownServiceWait
		}
		if !sleep(ctx, pause) {
			return
		}
		wait = min(2*wait, c.o.BackoffMax)
	}
}

func (c *Client) reportOnce(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := outriggerv1.NewTelemetryClient(c.o.Conn).Report(ctx)
	if err != nil {
		return false, err
	}
	answers := make(chan error, 1) // one answer a request, so the receiver never waits here
	go func() {
		defer close(answers)
		for {
			_, err := stream.Recv()
			select {
			case answers <- err:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { // the receiver ends with the stream
		cancel()
		for range answers {
		}
	}()
	for sequence := uint64(1); ; sequence++ {
		m := c.o.Report()
		m.NodeId, m.Sequence = c.o.Node.GetId(), sequence
		if err := stream.Send(m); err != nil {
			return answered, <-answers
		}
		if err := <-answers; err != nil {
			return answered, err
		}
		answered = true
		select {
		case <-c.poke:
		case err := <-answers:
			if err != nil {
				return answered, err
			}
		case <-ctx.Done():
			return answered, ctx.Err()
		}
	}
}
