package pipeline

import (
	"strconv"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
)

// Overload is what one loop leaves undone because there is too much to do. It belongs to its loop.
type Overload struct {
	// Queue is the controller of the loop's queue.
	Queue overload.Codel
	// Manager is the process's.
	Manager *overload.Manager

	delay int64 // of the queue, when it was last measured
}

// Measured takes a delay of the loop's queue, in nanoseconds.
func (o *Overload) Measured(now, delay int64) {
	o.delay = delay
	o.Queue.Sample(now, delay)
}

// Sheds says whether a new request is to be refused: a share of all are, but never health checks.
func (o *Overload) Sheds(s *Stream) bool {
	share := max(o.Queue.Share(s.Now()), o.Manager.Share(overload.StopRequests))
	if share == 0 {
		return false
	}
	if s.isHealthCheck() {
		return false
	}
	return uint32(s.w.Rand()>>48) < share
}

// NoKeepalive says that connections are to end with their next answer.
func (w *Worker) NoKeepalive() bool {
	return w.Overload != nil && w.Overload.Manager.Share(overload.NoKeepalive) >= overload.Whole
}

// isHealthCheck says whether the request asks for health: by gRPC's protocol, or by the path that the route's own cluster
// is probed by.
func (s *Stream) isHealthCheck() bool {
	p := s.Req.PathOnly()
	if p == "/grpc.health.v1.Health/Check" || p == "/grpc.health.v1.Health/Watch" {
		return true
	}
	if s.route.Forward == nil {
		return false
	}
	for i := range s.route.Forward.Clusters {
		if c := s.route.Forward.Clusters[i].Ref.Load(); c != nil && c.Health != nil && c.Health.HTTPPath != "" && c.Health.HTTPPath == p {
			return true
		}
	}
	return false
}

// shed refuses a request before anything was done for it.
func (s *Stream) shed() {
	o := s.w.Overload
	why := "this sidecar is overloaded: memory or connections are short"
	if o.Queue.Share(s.Now()) >= o.Manager.Share(overload.StopRequests) {
		why = "this sidecar is overloaded: requests have waited " + strconv.FormatInt(o.delay/1e6, 10) + " ms for their turn"
	}
	s.Exchange.Respond(503, exchange.OverloadManager, why)
	s.Resp.Header.AddKnown(exchange.RetryAfter, "1")
	s.answer()
}
