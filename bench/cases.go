package main

import "fmt"

// benchCase is a row of the table of limits, or several that are measured together.
type benchCase struct {
	id, title string
	about     string // what the title leaves out
	// unit of the figure that the plot shows.
	plot metric
	// peers in the order of the table. The first is Outrigger.
	peers []entrant
	// load are the arguments of bench/load, but for address and time.
	load []string
	grpc bool // the backend is the gRPC one
	// once: the measurement has its own repetitions, or needs none.
	once    bool
	rate    float64 // requests a second of an open loop
	limits  []limit
	metrics []metric // columns of the table
	measure func(b *bench, c *benchCase, r *caseResult, rep int) error
}

// entrant is a peer in a case.
type entrant struct {
	peer string
	// listener is the name of the listener that is called, as in peers/envoy.yaml.
	listener string
	// label tells it apart where a peer stands twice; "" is the peer's name.
	label string
	// extra entrants stand beside no limit: a quick run leaves them out.
	extra bool
}

func (e entrant) name() string {
	if e.label != "" {
		return e.label
	}
	return e.peer
}

// metric names a figure.
type metric struct{ key, title, format string }

var (
	cpu      = metric{"cpu", "CPU µs", "%.2f"}
	user     = metric{"user", "user", "%.2f"}
	system   = metric{"system", "system", "%.2f"}
	rate     = metric{"rate", "a second", "%.0f"}
	perCore  = metric{"per_core", "a second and core", "%.0f"}
	p50      = metric{"p50", "p50 µs", "%.1f"}
	p99      = metric{"p99", "p99 µs", "%.1f"}
	added50  = metric{"added50", "added p50 µs", "%.1f"}
	added99  = metric{"added99", "added p99 µs", "%.1f"}
	busy     = metric{"busy", "core used %", "%.0f"}
	kib      = metric{"kib", "KiB a connection", "%.2f"}
	mib      = metric{"mib", "MB more for one more", "%.2f"}
	atOne    = metric{"one", "MB for the first", "%.2f"}
	scale    = metric{"scale", "times one loop", "%.2f"}
	p99Slow  = metric{"p99_slow", "p99 µs with slow clients", "%.1f"}
	slowness = metric{"slowness", "times without", "%.2f"}
)

// limit is one promise: Outrigger's figure is at most factor times the peer's or, where no peer is named, at most (or at
// least) a value.
type limit struct {
	metric  metric
	factor  float64 // of the peer's figure
	of      string  // peer; "" for an absolute value
	least   bool    // the value is to be reached, not kept under
	subject string  // the entrant that is judged; "" is the first
}

func allCases() []*benchCase {
	columns := []metric{cpu, user, system, rate, p50, p99, busy}
	on := func(listener string, peers ...string) (out []entrant) {
		for _, p := range peers {
			out = append(out, entrant{peer: p, listener: listener})
		}
		return out
	}
	extra := func(listener string, peers ...string) []entrant {
		out := on(listener, peers...)
		for i := range out {
			out[i].extra = true
		}
		return out
	}
	join := func(lists ...[]entrant) (out []entrant) {
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	atMost := func(m metric, factor float64, of string) limit { return limit{metric: m, factor: factor, of: of} }
	samePolicy := entrant{peer: "envoy", listener: "grpc-policy", label: "envoy, same policies", extra: true}
	return []*benchCase{
		{
			id: "s1", title: "HTTP/1.1, 50 connections", plot: cpu, load: []string{"http", "-c", "50", "-size", "128"},
			peers:  join(on("http", "outrigger", "nginx"), extra("http", "haproxy", "nghttpx", "envoy")),
			limits: []limit{atMost(cpu, 0.90, "nginx")}, metrics: columns, measure: measureLoad,
		},
		{
			id: "s6", title: "HTTP/1.1, 50 connections, all policies on", plot: cpu, load: []string{"http", "-c", "50", "-size", "128"},
			peers:  on("policy", "outrigger", "nginx", "haproxy", "envoy"),
			limits: []limit{atMost(cpu, 0.70, "haproxy"), atMost(cpu, 0.95, "nginx"), atMost(cpu, 0.26, "envoy")}, metrics: columns, measure: measureLoad,
		},
		{
			id: "c500", title: "HTTP/1.1, 500 connections, fixed rate", about: "requests are due at fixed times, whatever the answers do", plot: cpu, load: []string{"http", "-c", "500", "-size", "128"}, rate: 40000,
			peers:  join(on("http", "outrigger", "haproxy"), extra("http", "nginx")),
			limits: []limit{atMost(cpu, 0.75, "haproxy")}, metrics: columns, measure: measureRate,
		},
		{
			id: "s7", title: "TLS 1.3, client certificates", about: "HTTP/1.1, 50 connections, TLS from the client to the proxy", plot: cpu, load: []string{"http", "-c", "50", "-size", "128", "-ca", "@CA@", "-cert", "@CERT@", "-key", "@KEY@"},
			peers:  join(on("tls", "outrigger", "haproxy"), extra("tls", "nginx", "envoy")),
			limits: []limit{atMost(cpu, 0.80, "haproxy")}, metrics: columns, measure: measureLoad,
		},
		{
			id: "s3", title: "gRPC unary, 4 × 50 streams, all policies on", about: "4 connections of 50 streams; Outrigger with all policies on, the peers with none but where the row says so", plot: cpu, load: []string{"grpc", "-c", "4", "-m", "50"}, grpc: true,
			peers:  join(on("grpc-policy", "outrigger"), on("grpc", "nghttpx", "envoy"), []entrant{samePolicy}, extra("grpc", "haproxy", "nginx")),
			limits: []limit{atMost(cpu, 0.50, "nghttpx"), atMost(cpu, 0.09, "envoy"), {metric: perCore, factor: 400_000, least: true}}, metrics: append([]metric{perCore}, columns...), measure: measureLoad,
		},
		{
			id: "s3v", title: "the same, headers varying", about: "as s3, with path, grpc-timeout, traceparent and token varying from call to call", plot: cpu, load: []string{"grpc", "-c", "4", "-m", "50", "-vary"}, grpc: true,
			peers:  join(on("grpc-policy", "outrigger"), on("grpc", "haproxy"), extra("grpc", "nghttpx", "envoy")),
			limits: []limit{atMost(cpu, 0.45, "haproxy")}, metrics: append([]metric{perCore}, columns...), measure: measureLoad,
		},
		{
			id: "s4", title: "bodies of 1 MiB, HTTP/1.1, 8 connections", plot: cpu, load: []string{"http", "-c", "8", "-path", "/1m", "-size", "1048576"},
			peers:  join(on("http", "outrigger", "haproxy"), extra("http", "nginx", "nghttpx", "envoy")),
			limits: []limit{atMost(cpu, 1, "haproxy"), atMost(p99, 1.2, "haproxy")}, metrics: columns, measure: measureLoad,
		},
		{
			id: "s4t", title: "bodies of 1 MiB over TCP, 8 connections", plot: cpu, load: []string{"http", "-c", "8", "-path", "/1m", "-size", "1048576"},
			peers:  join(on("tcp", "outrigger", "haproxy"), extra("tcp", "nginx", "envoy")),
			limits: []limit{atMost(cpu, 1, "haproxy"), atMost(p99, 1.2, "haproxy")}, metrics: columns, measure: measureLoad,
		},
		{
			id: "s2", title: "one connection: what the hop adds", about: "HTTP/1.1, against the service called directly", plot: added50, load: []string{"http", "-c", "1", "-size", "128"},
			peers:  join(on("http", "outrigger", "haproxy", "direct"), extra("http", "nginx", "envoy")),
			limits: []limit{atMost(added50, 1, "haproxy"), atMost(added99, 1, "haproxy")}, metrics: append([]metric{added50, added99}, columns...), measure: measureLoad,
		},
		idleCase("idle", "plain", "http", 1), idleCase("idle-tls", "tls", "tls", 24), idleCase("idle-h2", "http2", "grpc", 8),
		{
			id: "slope", title: "one more instance, 20 upstreams", plot: mib, once: true,
			peers:  []entrant{{peer: "outrigger", label: "sidecar"}, {peer: "outrigger", label: "runner"}},
			limits: []limit{{metric: mib, factor: 6, subject: "sidecar"}, {metric: mib, factor: 2, subject: "runner"}}, metrics: []metric{mib, atOne}, measure: measureSlope,
		},
		{
			id: "loops", title: "two loops on two cores", plot: scale, load: []string{"grpc", "-c", "32", "-m", "8"}, grpc: true,
			peers:  []entrant{{peer: "outrigger", listener: "grpc-policy", label: "two loops"}, {peer: "outrigger", listener: "grpc-policy", label: "one loop"}},
			limits: []limit{{metric: scale, factor: 1.8, least: true}}, metrics: append([]metric{scale, perCore}, columns...), measure: measureLoops,
		},
		{
			id: "loris", title: "beside slow-loris clients", about: "p99 of 50 connections without and with clients that send their heads byte by byte", plot: slowness, load: []string{"http", "-c", "50", "-size", "128", "-rate", "10000"},
			peers:  join(on("http", "outrigger"), extra("http", "haproxy", "nginx")),
			limits: []limit{{metric: slowness, factor: 2}}, metrics: []metric{slowness, p99, p99Slow}, measure: measureLoris,
		},
	}
}

func idleCase(id, kind, listener string, most float64) *benchCase {
	c := &benchCase{
		id: id, title: fmt.Sprintf("an idle connection, %s", kind), plot: kib, once: true, load: []string{"hold", "-kind", kind}, grpc: listener == "grpc",
		limits: []limit{{metric: kib, factor: most}}, metrics: []metric{kib}, measure: measureIdle,
	}
	for i, p := range []string{"outrigger", "haproxy", "nginx", "envoy"} {
		c.peers = append(c.peers, entrant{peer: p, listener: listener, extra: i > 0})
	}
	return c
}

func caseIDs() (ids []string) {
	for _, c := range allCases() {
		ids = append(ids, c.id)
	}
	return ids
}
