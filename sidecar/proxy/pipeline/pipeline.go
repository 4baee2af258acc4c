// Package pipeline is the life of one exchange between a downstream and an upstream codec: routing, filters,
// tries, relaying, the answer when something goes wrong, and the end.
//
// Codecs (proxy/http1, proxy/http2) parse and write; they call a [Stream]'s methods when something arrives, and
// the Stream calls theirs, through [Downstream] and [Upstream], when something is to be sent. All of it
// happens on one event loop; only [Stream.Resume] may come from elsewhere. Read stream.go for what arrives
// from downstream, try.go for the upstream side, respond.go for answers, filters.go for Suspend and Resume.
//
// Flow control: a Send method always takes what it is given. Where Blocked says so afterwards, the other side
// is paused, until the blocked side calls Writable.
package pipeline

import (
	"sync/atomic"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/tlsconn"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// Downstream is the caller's end of a stream.
type Downstream interface {
	// SendInformational sends a 1xx head: s.Resp.
	SendInformational(s *Stream)
	// SendHead sends s.Resp; end says that nothing follows.
	SendHead(s *Stream, end bool)
	// SendData sends a piece of the body, which is the codec's only until it returns.
	SendData(s *Stream, b []byte, end bool)
	// SendTrailers sends s.RespTrailer and ends the response.
	SendTrailers(s *Stream)
	// Blocked says that output waits: stop sending until Stream.DownstreamWritable.
	Blocked() bool
	// Pause stops or resumes the delivery of the request's body.
	Pause(on bool)
	// Abort breaks off a response that has begun, so that the caller sees that it is not whole.
	Abort(s *Stream)
	// Finished says that the exchange is over: the response is sent or aborted. The codec forgets s.
	Finished(s *Stream)
}

// Upstream is the callee's end of one try.
type Upstream interface {
	// SendHead sends s.Req; end says that nothing follows.
	SendHead(s *Stream, end bool)
	SendData(s *Stream, b []byte, end bool)
	// SendTrailers sends s.Trailer and ends the request.
	SendTrailers(s *Stream)
	// Blocked says that output waits: stop sending until Stream.UpstreamWritable.
	Blocked() bool
	// Pause stops or resumes the delivery of the response.
	Pause(on bool)
	// Cancel gives the try up. The codec forgets the stream and does not call it again.
	Cancel()
}

// Sink is an end of a stream whose bodies go to a socket as they are, so that they can be spliced to it.
type Sink interface {
	// BodySink returns the socket behind the body, or nil where its bytes have to pass through the codec. It is asked
	// again for each piece.
	BodySink() *loop.Conn
}

// Opener is an upstream connection that can begin an exchange.
type Opener interface {
	upstream.Conn
	Open(s *Stream) Upstream
}

// Listener is the living side of a listener, shared by the loops.
type Listener struct {
	// Config is the configuration in force.
	Config atomic.Pointer[snapshot.Listener]
	// LameDuck: answers close their connections. Refusing: new exchanges get a refusal that is safe to retry.
	LameDuck, Refusing atomic.Bool
	// Active counts exchanges in progress, Connections open downstream connections that speak a protocol, Open all of them.
	Active, Connections atomic.Int64
	Open                loop.Tally
}

// Drainer is a downstream connection that can be asked to end when it is idle.
type Drainer interface {
	// Drain says that the connection is not wanted any more: exchanges in progress finish, the caller is told.
	Drain()
	// Shut closes the connection at once.
	Shut()
}

// ConnSet is the open downstream connections of a listener on one loop.
type ConnSet map[Drainer]struct{}

// Recorder learns of each exchange at its end.
type Recorder interface {
	Record(s *Stream)
	// Refuse counts a caller's breach of protocol, or of a limit, that no exchange tells of.
	Refuse(l *Listener, r Refusal)
}

// Refusal is why a request never became an exchange, or a stream or connection was ended. All are constants: they are
// labels of a metric.
type Refusal struct {
	Protocol string // "http1", "http2"
	Code     string // the status or the error code that the caller was told, "" where it was told nothing
	Flag     exchange.Flag
	Reason   string
}

// Stalled counts a caller that did not read, and was given up for its time or, pressed, because memory was short. It
// returns the flag for its exchanges.
func (w *Worker) Stalled(l *Listener, protocol string, pressed bool) exchange.Flag {
	r := Refusal{Protocol: protocol, Flag: exchange.StreamIdleTimeout, Reason: "the caller does not read"}
	if pressed {
		r.Flag, r.Reason = exchange.OverloadManager, "the caller does not read, and memory is short"
	}
	w.Refuse(l, r)
	return r.Flag
}

// Refuse counts a refusal.
func (w *Worker) Refuse(l *Listener, r Refusal) {
	if w.Rec != nil {
		w.Rec.Refuse(l, r)
	}
}

// ConnEnd is a relayed TCP connection at its end.
type ConnEnd struct {
	Listener *Listener
	Config   *snapshot.TCPProxy
	Cluster  *snapshot.Cluster // nil where it came to none
	Flags    exchange.Flag
	// BytesIn came from the caller, BytesOut from the endpoint.
	BytesIn, BytesOut, Nanoseconds int64
}

// ConnRecorder learns of each TCP connection at its end.
type ConnRecorder interface{ RecordConn(e *ConnEnd) }

// Worker is what the exchanges of one loop share.
type Worker struct {
	Loop   *loop.Loop
	Dialer upstream.Dialer
	Rec    Recorder     // or nil
	Conns  ConnRecorder // or nil
	// Overload is what this loop leaves undone; nil: nothing ever.
	Overload *Overload
	// Rand returns 64 random bits.
	Rand func() uint64

	free  *Stream
	nfree int
	dead  []*Stream
}

const (
	maxFree = 1024
	// highWater is how much of a request's body is held while its upstream is not ready.
	highWater = 64 << 10
	// maxInformational is how many 1xx heads one exchange may have.
	maxInformational = 100
	// defaultReplay is how much of a request's body is kept for another try.
	defaultReplay = 64 << 10
)

type phase uint8

const (
	phaseNew      phase = iota
	phaseDemand         // waiting for a virtual host
	phaseRequest        // request filters
	phaseConnect        // waiting for a connection
	phaseTry            // the request is with an upstream
	phaseBackoff        // waiting for the next try
	phaseResponse       // response filters
	phaseRespond        // the response is being sent
	phaseDone
)

type waitKind uint8

const (
	waitNone waitKind = iota
	waitFilter
	waitBackoff
	waitPerTry
)

// The states of a stream's gate, which Suspend and Resume meet at.
const (
	gateRunning   uint32 = iota // no filter waits
	gateSuspended               // a filter waits for Resume
	gateResumed                 // Resume came before the filter returned
	gatePosted                  // Resume is on its way to the loop
)

// Stream is an exchange with all that drives it. Codecs get one from [Worker.NewStream].
type Stream struct {
	exchange.Exchange

	w    *Worker
	l    *Listener
	cfg  *snapshot.Listener
	http *snapshot.HTTP
	down Downstream
	up   Upstream
	// TLS is the connection's, or nil; the downstream codec sets it.
	TLS   *tlsconn.Conn
	route *snapshot.Route
	fwd   *snapshot.Forward
	chain []snapshot.Filter
	next  *Stream // free list

	// the current try
	ref     *snapshot.ClusterRef
	cluster *snapshot.Cluster
	rt      *upstream.Cluster
	host    *upstream.Host
	pool    *upstream.Pool // being waited at
	lb      balancer.Picker
	ep      *balancer.Endpoint

	gate  atomic.Uint32
	phase phase
	wait  waitKind

	called     int // filters whose Request was called
	cur        int // the filter that is being called
	bufferMax  int // a filter waits for the body, up to so many bytes; -1: none does
	bufferResp bool
	deadline   loop.Timer // request timeout, later idle timeout
	waitTimer  loop.Timer
	upload     *loop.Timer // for a request that has to be whole in time; nil until one had to
	expires    int64       // absolute end from grpc-timeout, or 0
	lastMove   int64
	pickedAt   int64
	firstByte  int64

	body       []byte // what came of the request's body and is held: not passed on yet, or kept for another try
	respHeld   []byte
	reqXform   []exchange.Transformer
	respXform  []exchange.Transformer
	cancelWant func()

	tunnel        bool  // the answer opened one
	terminate     bool  // a CONNECT ends here
	informational uint8 // 1xx heads so far

	admitted    bool // counted in by rt
	retried     bool // counted among those that try again, by rt
	selfSuspend bool // the suspension ends by a timer or a body of ours: nobody else holds a Resume
	reqEnd      bool // the request is complete
	hasBody     bool // a part of the request's body has come, if an empty one
	reqTrailers bool
	keep        bool // body is kept for another try
	bodyGone    bool // part of the body was passed on and not kept
	upEnd       bool // the response is complete
	respTrail   bool
	headSent    bool
	pausedDown  bool
	pausedUp    bool
	idleTimer   bool // deadline is the idle timer
	detached    bool
	// Continue says who answers a caller's Expect.
	Continue ContinueMode
	// Bytes counts what was relayed of the bodies.
	BytesIn, BytesOut int64
	// Status is the answer's.
	Status int
}

// NewStream makes a stream for a request that down is about to parse, on listener l.
func (w *Worker) NewStream(l *Listener, down Downstream) *Stream {
	s := w.free
	if s != nil {
		w.free = s.next
		w.nfree--
		s.next = nil
	} else {
		s = &Stream{w: w}
		s.Ctl = s
	}
	s.l, s.down = l, down
	s.cfg = l.Config.Load()
	s.http = s.cfg.HTTP
	s.Reset()
	return s
}

// bury has a stream that has ended recycled when the event is over: callers further up the stack may still
// look at it.
func (w *Worker) bury(s *Stream) {
	w.dead = append(w.dead, s)
	if len(w.dead) == 1 {
		w.Loop.Defer(w)
	}
}

// RunOnLoop recycles what has ended; the loop calls it after an event.
func (w *Worker) RunOnLoop() {
	for i, s := range w.dead {
		w.dead[i] = nil
		w.recycle(s)
	}
	w.dead = w.dead[:0]
}

// Discard gives back a stream whose request never became whole, which nobody may look at any more: a flood of them in one
// event takes the room of one.
func (w *Worker) Discard(s *Stream) { w.recycle(s) }

func (w *Worker) recycle(s *Stream) {
	x := &s.Exchange
	x.Route = nil
	s.TLS = nil
	s.l, s.cfg, s.http, s.down, s.up, s.route, s.fwd, s.chain = nil, nil, nil, nil, nil, nil, nil, nil
	s.ref, s.cluster, s.rt, s.host, s.pool, s.lb, s.ep = nil, nil, nil, nil, nil, nil, nil
	s.phase, s.wait = phaseNew, waitNone
	s.called, s.cur, s.bufferMax = 0, 0, -1
	s.expires, s.lastMove, s.pickedAt, s.firstByte = 0, 0, 0, 0
	if cap(s.body) > 16<<10 {
		s.body = nil
	}
	s.body, s.respHeld = s.body[:0], nil
	s.hasBody = false
	s.reqXform, s.respXform, s.cancelWant = nil, nil, nil
	s.admitted, s.selfSuspend, s.reqEnd, s.reqTrailers, s.keep, s.bodyGone = false, false, false, false, false, false
	s.upEnd, s.respTrail, s.headSent, s.pausedDown, s.pausedUp, s.idleTimer = false, false, false, false, false, false
	s.detached, s.bufferResp = false, false
	s.tunnel, s.terminate, s.Continue = false, false, ContinueDone
	s.informational = 0
	s.BytesIn, s.BytesOut, s.Status = 0, 0, 0
	s.gate.Store(gateRunning)
	if w.nfree < maxFree {
		s.next = w.free
		w.free = s
		w.nfree++
	}
}

// HTTP is the listener's HTTP configuration that the stream began with.
func (s *Stream) HTTP() *snapshot.HTTP { return s.http }

// Listener is the listener that the stream came by.
func (s *Stream) Listener() *Listener { return s.l }

// Host is the endpoint of the current or last try, or nil.
func (s *Stream) Host() *upstream.Host { return s.host }

// Cluster is the cluster that the stream was routed to, or nil.
func (s *Stream) Cluster() *snapshot.Cluster { return s.cluster }

// MatchedRoute is the route, or nil.
func (s *Stream) MatchedRoute() *snapshot.Route { return s.route }

// Worker is the stream's worker.
func (s *Stream) Worker() *Worker { return s.w }

// Now is the loop's time.
func (s *Stream) Now() int64 { return s.w.Loop.Now() }

// FirstByteAt is the loop's time at which the response's head came, or 0.
func (s *Stream) FirstByteAt() int64 { return s.firstByte }

// Bind sets the downstream of a stream that was made before its codec knew it.
func (s *Stream) Bind(d Downstream) { s.down = d }
