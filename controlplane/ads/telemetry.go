package ads

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
)

// Sink takes what sidecars report. Calls for one node do not overlap; they may for different ones. It must not block for long:
// only the reporting node waits for it.
type Sink interface {
	// Report replaces what the node reported before. The sink may keep r.
	Report(node string, r *outriggerv1.ReportRequest)
	// Gone says that the node's stream ended; its last report is no news any more.
	Gone(node string)
}

type telemetry struct {
	outriggerv1.UnimplementedTelemetryServer
	s *Server
}

// Report implements the Telemetry service.
func (t *telemetry) Report(st grpc.BidiStreamingServer[outriggerv1.ReportRequest, outriggerv1.ReportResponse]) error {
	node := ""
	defer func() {
		if node != "" && t.s.opts.Telemetry != nil {
			t.s.opts.Telemetry.Gone(node)
		}
	}()
	for {
		r, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case node == "":
			if err := t.s.admit(st.Context(), r.GetNodeId()); err != nil {
				return err
			}
			node = r.GetNodeId()
		case r.GetNodeId() != node:
			return status.Errorf(codes.InvalidArgument, "the stream is of node %q", node)
		}
		if t.s.opts.Telemetry != nil {
			t.s.opts.Telemetry.Report(node, r)
		}
		if err := st.Send(&outriggerv1.ReportResponse{Sequence: r.GetSequence()}); err != nil {
			return err
		}
	}
}
