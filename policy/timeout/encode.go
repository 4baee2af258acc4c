package timeout

import (
	"fmt"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/internal/schema"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsfield"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
)

// Validate returns all that is wrong with the spec, which is at path.
func (s *Spec) Validate(path string) violation.List {
	l := schema.Check(path, s)
	if s.PerTry != nil && s.Overall != nil && *s.Overall > 0 && *s.PerTry > *s.Overall {
		l.Add(path+".perTry", fmt.Sprintf("%s is longer than overall %s", schema.FormatDuration(*s.PerTry), schema.FormatDuration(*s.Overall)),
			"at most the overall timeout")
	}
	return l
}

// Merge returns what holds where base is written for the wider scope and over for the narrower one, field by field.
// Either may be nil.
func Merge(base, over *Spec) *Spec {
	if base == nil || over == nil {
		if over == nil {
			return base
		}
		return over
	}
	m := *base
	if over.Overall != nil {
		m.Overall = over.Overall
	}
	if over.PerTry != nil {
		m.PerTry = over.PerTry
	}
	if over.Idle != nil {
		m.Idle = over.Idle
	}
	return &m
}

// PerTryOf is the timeout of each try, 0 for none. s may be nil.
func PerTryOf(s *Spec) time.Duration {
	if s == nil || s.PerTry == nil {
		return 0
	}
	return *s.PerTry
}

// Encode writes timeout, idle_timeout and max_stream_duration of the route's action, and head_timeout of the route's
// metadata. A nil s is the default. A route that does not forward stays as it is.
//
// For gRPC the timeout covers the whole call, as a deadline does, and grpc-timeout holds up to it; otherwise it ends with
// the response's head, so that a streaming body may last.
func Encode(s *Spec, grpc bool, r *routev3.Route) error {
	a := r.GetRoute()
	if a == nil {
		return nil
	}
	if s == nil {
		s = &Spec{}
	}
	overall, idle := DefaultOverall, DefaultIdle
	if grpc {
		overall = 0
	}
	if s.Overall != nil {
		overall = *s.Overall
	}
	if s.Idle != nil {
		idle = *s.Idle
	}
	a.Timeout = durationpb.New(overall)
	a.IdleTimeout = durationpb.New(idle)
	if grpc {
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: durationpb.New(overall)}
		return nil
	}
	m := &outriggerv1.RouteMetadata{}
	if err := xdsfield.RouteMetadata(r, xdsname.MetadataKey, m); err != nil {
		return fmt.Errorf("timeout: %w", err)
	}
	m.HeadTimeout = true
	if err := xdsfield.SetRouteMetadata(r, xdsname.MetadataKey, m); err != nil {
		return fmt.Errorf("timeout: %w", err)
	}
	return nil
}
