package proxy

import (
	"time"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// recorder counts exchanges. It belongs to one loop; the series that it resolves are shared.
type recorder struct {
	reg *stat.Registry
	// cache has what was recorded of late, before what was so before that: who is in neither holds on to nothing of a
	// configuration that is gone.
	cache, before map[recordKey]*series
	turned        int64 // when cache was begun
	// refusals by listener and reason.
	refusals map[refusalKey]*stat.Counter
	conns    map[connKey]*connSeries
}

type refusalKey struct {
	l *pipeline.Listener
	r pipeline.Refusal
}

type recordKey struct {
	cfg     *snapshot.HTTP
	route   *snapshot.Route
	cluster *snapshot.Cluster
	flags   exchange.Flag
	class   uint8
}

type series struct {
	requests *stat.Counter
	duration *stat.Histogram
}

// maxCached and turnTime bound the cache: configurations come and go, and what is in use is found again.
const (
	maxCached = 4096
	turnTime  = int64(10 * time.Second)
)

func newRecorder(reg *stat.Registry) *recorder {
	return &recorder{reg: reg, cache: map[recordKey]*series{}, refusals: map[refusalKey]*stat.Counter{}, conns: map[connKey]*connSeries{}}
}

// Refuse counts what no exchange tells of.
func (r *recorder) Refuse(l *pipeline.Listener, why pipeline.Refusal) {
	k := refusalKey{l, why}
	c := r.refusals[k]
	if c == nil {
		if len(r.refusals) >= maxCached {
			clear(r.refusals)
		}
		c = r.reg.Counter("outrigger_downstream_refused_total", "What callers were refused before it became an exchange, or whose connection or stream was ended.",
			stat.Label{Name: "listener", Value: l.Config.Load().Name}, stat.Label{Name: "protocol", Value: why.Protocol},
			stat.Label{Name: "code", Value: why.Code}, stat.Label{Name: "flag", Value: why.Flag.String()}, stat.Label{Name: "reason", Value: why.Reason})
		r.refusals[k] = c
	}
	c.Inc()
}

// Record counts one exchange.
func (r *recorder) Record(s *pipeline.Stream) {
	k := recordKey{cfg: s.HTTP(), route: s.MatchedRoute(), cluster: s.Cluster(), flags: s.Flags, class: uint8(s.Status / 100)}
	e := r.cache[k]
	if e == nil {
		e = r.resolve(s, k)
	}
	e.requests.Inc()
	e.duration.Observe(s.Now() - s.Start)
}

func (r *recorder) resolve(s *pipeline.Stream, k recordKey) *series {
	if now := s.Now(); len(r.cache) >= maxCached || now-r.turned > turnTime {
		r.before, r.cache, r.turned = r.cache, map[recordKey]*series{}, now
	}
	if e := r.before[k]; e != nil {
		r.cache[k] = e
		return e
	}
	var service, version, pattern string
	if k.cluster != nil {
		if n, ok := xdsname.ParseCluster(k.cluster.Name); ok && !n.Inbound {
			service, version = n.Service, n.Version
		} else {
			service = k.cluster.Name
		}
	}
	if k.route != nil {
		if pattern = k.route.Pattern; pattern == "" {
			pattern = k.route.Name
		}
	}
	flag := k.flags
	class := "none"
	if k.class > 0 {
		class = string([]byte{'0' + k.class, 'x', 'x'})
	}
	labels := []stat.Label{
		{Name: "listener", Value: s.Listener().Config.Load().Name},
		{Name: "service", Value: service},
		{Name: "version", Value: version},
		{Name: "route", Value: pattern},
		{Name: "class", Value: class},
	}
	e := &series{
		requests: r.reg.Counter("outrigger_requests_total", "Exchanges, by how they ended.", append(labels[:len(labels):len(labels)], stat.Label{Name: "flag", Value: flag.String()})...),
		duration: r.reg.Histogram("outrigger_request_duration_seconds", "From a request's head to the end of its response.", 1e-9, labels...),
	}
	r.cache[k] = e
	return e
}

type connKey struct {
	cfg     *snapshot.TCPProxy
	cluster *snapshot.Cluster
	flags   exchange.Flag
}

type connSeries struct {
	conns, in, out *stat.Counter
	duration       *stat.Histogram
}

// RecordConn counts one TCP connection.
func (r *recorder) RecordConn(e *pipeline.ConnEnd) {
	k := connKey{e.Config, e.Cluster, e.Flags}
	s := r.conns[k]
	if s == nil {
		if len(r.conns) >= maxCached {
			clear(r.conns)
		}
		var service, version string
		if e.Cluster != nil {
			service = e.Cluster.Name
			if n, ok := xdsname.ParseCluster(e.Cluster.Name); ok && !n.Inbound {
				service, version = n.Service, n.Version
			}
		}
		labels := []stat.Label{{Name: "listener", Value: e.Listener.Config.Load().Name}, {Name: "service", Value: service}, {Name: "version", Value: version}}
		with := func(name, value string) []stat.Label {
			return append(labels[:len(labels):len(labels)], stat.Label{Name: name, Value: value})
		}
		s = &connSeries{
			conns:    r.reg.Counter("outrigger_tcp_connections_total", "TCP connections that were relayed, by how they ended.", with("flag", e.Flags.String())...),
			in:       r.reg.Counter("outrigger_tcp_bytes_total", "Bytes of TCP connections.", with("direction", "request")...),
			out:      r.reg.Counter("outrigger_tcp_bytes_total", "Bytes of TCP connections.", with("direction", "response")...),
			duration: r.reg.Histogram("outrigger_tcp_connection_duration_seconds", "From a TCP connection's beginning to its end.", 1e-9, labels...),
		}
		r.conns[k] = s
	}
	s.conns.Inc()
	s.in.Add(uint64(e.BytesIn))
	s.out.Add(uint64(e.BytesOut))
	s.duration.Observe(e.Nanoseconds)
}
