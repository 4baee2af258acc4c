// Package console is the sidecar's window for people and scrapers: HTTP on a Unix socket beside the instance.
//
//	/ready         200 once every configured listener accepts, else 503 with the reason
//	/metrics       Prometheus text
//	/stats         the same counters as JSON, histograms with quantiles; ?filter=text narrows
//	/config_dump   every resource: version, state, error, last good body
//	/certs         every certificate in use: whom it is for, and for how many days yet
//	/clusters      every cluster's endpoints with health and counters
//	/debug/pprof/  Go's profiles
//
// It only reads. It runs on net/http, apart from the data path. On a TCP address [Guard] stands before it, and profiles
// are left out.
package console

import (
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/xdsclient"
)

// Endpoint is one endpoint as /clusters shows it.
type Endpoint struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Version  string `json:"version,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Weight   uint32 `json:"weight"`
	Priority uint32 `json:"priority"`
	// Health is "healthy", or the reasons for which it is not chosen, joined by commas.
	Health      string            `json:"health"`
	Reason      string            `json:"reason,omitempty"`
	Inflight    int64             `json:"inflight"`
	Connections int64             `json:"connections"`
	Counters    map[string]uint64 `json:"counters,omitempty"`
}

// Cluster is one cluster as /clusters shows it.
type Cluster struct {
	Name      string            `json:"name"`
	Strategy  string            `json:"strategy,omitempty"`
	Counters  map[string]uint64 `json:"counters,omitempty"`
	Endpoints []Endpoint        `json:"endpoints"`
}

// Options are what the console shows. Functions may be called at any time, from any goroutine; nil ones show nothing.
type Options struct {
	// Ready says whether all configured listeners accept, else why not.
	Ready    func() (ok bool, why string)
	Dump     func() []compile.Status
	Version  func() string // of the snapshot
	XDS      func() xdsclient.Status
	Clusters func() []Cluster
	Certs    func() []compile.Certificate
	Stats    *stat.Registry
	Log      *slog.Logger
}

// New makes the console's handler: Pages, and Go's profiles.
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", Pages(o))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Pages are what only reads, and costs the process little.
func Pages(o Options) http.Handler {
	c := &console{o}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if o.Stats != nil {
		reg.MustRegister(collector{o.Stats})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", c.ready)
	mux.HandleFunc("GET /stats", c.stats)
	mux.HandleFunc("GET /config_dump", c.configDump)
	mux.HandleFunc("GET /clusters", c.clusters)
	mux.HandleFunc("GET /certs", c.certs)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	return mux
}

type console struct{ o Options }

func (c *console) ready(w http.ResponseWriter, _ *http.Request) {
	if c.o.Ready != nil {
		if ok, why := c.o.Ready(); !ok {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = w.Write([]byte("ready\n"))
}

func (c *console) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil && c.o.Log != nil {
		c.o.Log.Debug("a console's answer was not written", "error", err)
	}
}

func (c *console) clusters(w http.ResponseWriter, _ *http.Request) {
	out := []Cluster{}
	if c.o.Clusters != nil {
		out = append(out, c.o.Clusters()...)
	}
	c.write(w, out)
}

// Certificate is one certificate as /certs shows it.
type Certificate struct {
	// For is the resource that it is for, as "Listener gateway/public", Field where in it.
	For   string `json:"for"`
	Field string `json:"field"`
	// Kind is "own" for one that is shown to others, "ca" for one that others are judged by.
	Kind      string    `json:"kind"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	Names     []string  `json:"names"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Days is how many whole days are left; negative once it has ended.
	Days int `json:"days"`
	// Error says why it could not be renewed.
	Error string `json:"error,omitempty"`
}

func (c *console) certs(w http.ResponseWriter, _ *http.Request) {
	out := []Certificate{}
	if c.o.Certs != nil {
		for _, k := range c.o.Certs() {
			kind := "own"
			if k.CA {
				kind = "ca"
			}
			out = append(out, Certificate{
				For: k.TypeURL[strings.LastIndexByte(k.TypeURL, '.')+1:] + " " + k.Name, Field: k.Field, Kind: kind, Subject: k.Subject, Issuer: k.Issuer,
				Serial: k.Serial, Names: k.Names, NotBefore: k.NotBefore, NotAfter: k.NotAfter,
				Days: int(math.Floor(time.Until(k.NotAfter).Hours() / 24)), Error: k.Error,
			})
		}
	}
	c.write(w, out)
}

// Dump is the answer to /config_dump.
type Dump struct {
	Snapshot  string     `json:"snapshot"`
	Control   Control    `json:"control"`
	Resources []Resource `json:"resources"`
}

// Control is how the sidecar stands with its control plane.
type Control struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
	Received  uint64    `json:"received"`
	Rejected  uint64    `json:"rejected"`
}

// Resource is one resource of a dump.
type Resource struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// State is "active", "warming", "rejected" (the last good version is active) or "invalid" (there was no good one).
	State           string          `json:"state"`
	Static          bool            `json:"static,omitempty"`
	RejectedVersion string          `json:"rejectedVersion,omitempty"`
	Errors          []Error         `json:"errors,omitempty"`
	Updated         time.Time       `json:"updated"`
	Body            json.RawMessage `json:"body,omitempty"`
}

// Error is one reason for a refusal.
type Error struct {
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
}

func (c *console) configDump(w http.ResponseWriter, _ *http.Request) {
	d := Dump{Resources: []Resource{}}
	if c.o.Version != nil {
		d.Snapshot = c.o.Version()
	}
	if c.o.XDS != nil {
		s := c.o.XDS()
		d.Control = Control{Connected: s.Connected, Since: s.Since, Error: s.Error, Received: s.Received, Rejected: s.Rejected}
	}
	if c.o.Dump != nil {
		for _, s := range c.o.Dump() {
			r := Resource{
				Type: s.TypeURL, Name: s.Name, Version: s.Version, State: state(s), Static: s.Static,
				RejectedVersion: s.Rejected, Updated: s.Updated, Body: body(s.Body),
			}
			for _, e := range s.Errors {
				r.Errors = append(r.Errors, Error{e.Field, e.Reason})
			}
			d.Resources = append(d.Resources, r)
		}
	}
	c.write(w, d)
}

func state(s compile.Status) string {
	switch {
	case len(s.Errors) > 0 && s.Body == nil:
		return "invalid"
	case len(s.Errors) > 0:
		return "rejected"
	case s.Warming:
		return "warming"
	}
	return "active"
}

// body renders a resource; settings of types that are not linked in keep it from being rendered as a whole.
func body(a *anypb.Any) json.RawMessage {
	if a == nil {
		return nil
	}
	m, err := a.UnmarshalNew()
	if err == nil {
		redact(m.ProtoReflect())
		var b []byte
		if b, err = (protojson.MarshalOptions{UseProtoNames: true}).Marshal(m); err == nil {
			return b
		}
	}
	out := map[string]any{"@type": a.GetTypeUrl(), "unrendered": err.Error()}
	switch a.GetTypeUrl() {
	case compile.ListenerType, compile.ClusterType, compile.SecretType: // there may be a key in it
	default:
		out["value"] = a.GetValue()
	}
	b, _ := json.Marshal(out)
	return b
}

// Stat is one series of /stats.
type Stat struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  *float64          `json:"value,omitempty"`
	// Count, Mean and Quantiles are a histogram's, in the exported unit.
	Count     *uint64            `json:"count,omitempty"`
	Mean      *float64           `json:"mean,omitempty"`
	Quantiles map[string]float64 `json:"quantiles,omitempty"`
}

func (c *console) stats(w http.ResponseWriter, r *http.Request) {
	out := []Stat{}
	if c.o.Stats != nil {
		for _, f := range c.o.Stats.Families() {
			if !strings.Contains(f.Name, r.URL.Query().Get("filter")) {
				continue
			}
			for _, s := range f.Series {
				out = append(out, statOf(f, s))
			}
		}
	}
	c.write(w, out)
}

func statOf(f stat.Family, s *stat.Series) Stat {
	st := Stat{Name: f.Name}
	for _, l := range s.Labels {
		if st.Labels == nil {
			st.Labels = map[string]string{}
		}
		st.Labels[l.Name] = l.Value
	}
	var v float64
	switch f.Kind {
	case stat.KindCounter:
		v = float64(s.Counter.Value())
	case stat.KindGauge:
		v = float64(s.Gauge.Value())
	case stat.KindHistogram:
		h := s.Histogram.Value()
		mean := 0.0
		if h.Count > 0 {
			mean = float64(h.Sum) / float64(h.Count) * f.Scale
		}
		st.Count, st.Mean = &h.Count, &mean
		st.Quantiles = map[string]float64{}
		for name, q := range map[string]float64{"0.5": 0.5, "0.9": 0.9, "0.99": 0.99, "0.999": 0.999} {
			st.Quantiles[name] = float64(h.Quantile(q)) * f.Scale
		}
		return st
	}
	st.Value = &v
	return st
}

// collector shows a registry to Prometheus.
type collector struct{ r *stat.Registry }

// Describe sends nothing: the series are not known beforehand ("unchecked" in client_golang's words).
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads every series.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, f := range c.r.Families() {
		for _, s := range f.Series {
			names, values := make([]string, len(s.Labels)), make([]string, len(s.Labels))
			for i, l := range s.Labels {
				names[i], values[i] = l.Name, strings.ToValidUTF8(l.Value, "\uFFFD")
			}
			desc := prometheus.NewDesc(f.Name, f.Help, names, nil)
			var m prometheus.Metric
			var err error
			switch f.Kind {
			case stat.KindCounter:
				m, err = prometheus.NewConstMetric(desc, prometheus.CounterValue, float64(s.Counter.Value()), values...)
			case stat.KindGauge:
				m, err = prometheus.NewConstMetric(desc, prometheus.GaugeValue, float64(s.Gauge.Value()), values...)
			case stat.KindHistogram:
				h := s.Histogram.Value()
				buckets, sum := map[float64]uint64{}, uint64(0)
				for _, b := range h.Buckets {
					if sum += b.Count; b.Upper != 1<<64-1 {
						buckets[float64(b.Upper)*f.Scale] = sum
					}
				}
				m, err = prometheus.NewConstHistogram(desc, h.Count, float64(h.Sum)*f.Scale, buckets, values...)
			}
			if err != nil {
				m = prometheus.NewInvalidMetric(desc, err)
			}
			ch <- m
		}
	}
}
