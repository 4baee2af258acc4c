package pipeline

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

// failure is why a try came to nothing.
type failure struct {
	flag exchange.Flag
	// on are the retry conditions that it fulfils.
	on snapshot.RetryOn
	// executed says that the callee may have begun the request.
	executed bool
	// stale says that a connection that had been idle broke before anything was answered.
	stale  bool
	detail string
}

// ResetKind is how an upstream codec says that a try broke off.
type ResetKind uint8

// Kinds of reset.
const (
	// ConnectionLost: the connection ended.
	ConnectionLost ResetKind = iota
	// StaleConnection: a reused connection ended before a byte of the answer.
	StaleConnection
	// StreamReset: the upstream reset this stream.
	StreamReset
	// StreamRefused: the upstream says that it did not begin (REFUSED_STREAM, GOAWAY).
	StreamRefused
	// ProtocolError: what came was not HTTP.
	ProtocolError
	// Unsupported: the upstream cannot be asked for this.
	Unsupported
)

// maxStale is how many tries a request gets at most where its connections break before an answer, each having been idle.
const maxStale = 4

// deadlineSlack is how much earlier than our timer, which is coarse, an upstream may act on the call's deadline.
const deadlineSlack = int64(2 * time.Millisecond)

// forward begins the first try.
func (s *Stream) forward() {
	now := s.w.Loop.Now()
	f := s.fwd
	if f.ClusterHeader != "" {
		s.fail(503, exchange.NoClusterFound, "cluster_header is not served")
		return
	}
	s.cluster = s.ref.Load()
	if s.cluster == nil {
		s.fail(503, exchange.NoClusterFound, "nothing is known of "+s.ref.Name)
		return
	}
	s.rt = s.cluster.Runtime.(*upstream.Cluster)
	if !s.rt.Admit(s.cluster) {
		s.fail(503, exchange.UpstreamOverflow, "too many requests to "+s.ref.Name+" at once (limits.requests)")
		return
	}
	s.admitted = true
	s.rt.CountRequest(now)
	s.hash()
	s.rewrite()
	if s.GRPC && !s.grpcDeadline(now) {
		return
	}
	if s.reqEnd || s.WantsTunnel() {
		s.startTimeout()
	} else if s.expires == 0 {
		s.startIdle()
	}
	s.keep = f.Retry != nil && f.Retry.Attempts > 1
	s.try()
}

// startTimeout begins the route's timeout, which counts from the request's end.
func (s *Stream) startTimeout() {
	if s.expires != 0 || s.fwd == nil || s.headSent || s.phase >= phaseResponse {
		return
	}
	if s.fwd.Timeout > 0 {
		s.idleTimer = false
		s.w.Loop.SetTimer(&s.deadline, s.fwd.Timeout, s)
	} else if !s.idleTimer {
		s.startIdle()
	}
}

func (s *Stream) startIdle() {
	if d := s.idle(); d > 0 {
		s.idleTimer = true
		s.w.Loop.SetTimer(&s.deadline, d, s)
	} else {
		s.w.Loop.StopTimer(&s.deadline)
		s.idleTimer = false
	}
}

// try picks an endpoint and asks for a connection to it.
func (s *Stream) try() {
	s.Attempts++
	s.phase = phaseConnect
	cl := s.ref.Load()
	if cl == nil {
		cl = s.cluster
	}
	s.cluster = cl // a retry sees a configuration that has changed meanwhile
	lb := s.rt.Picker()
	if cl.OriginalDst {
		if d, ok := s.down.(redirected); ok {
			s.Destination = d.OriginalDst()
		}
	}
	if lb == nil {
		s.fail(503, exchange.NoHealthyUpstream, "no endpoint of "+s.ref.Name+" is known")
		return
	}
	ep, err := lb.Pick(&s.Request)
	if err != nil {
		s.fail(503, exchange.NoHealthyUpstream, s.noEndpoint())
		return
	}
	ep.AddInflight(1)
	s.lb, s.ep = lb, ep
	s.host = ep.Host.(*upstream.Host)
	s.pickedAt = s.w.Loop.Now()
	s.pool = s.host.Pool(s.w.Loop, s.w.Dialer)
	if r := s.fwd.Retry; r != nil && r.PerTry > 0 {
		s.wait = waitPerTry
		s.w.Loop.SetTimer(&s.waitTimer, r.PerTry, s)
	}
	s.pool.Acquire(s.proto(), s)
}

// redirected is a downstream whose connection may have been meant for somebody else.
type redirected interface {
	// OriginalDst is for whom; the zero value where it was meant for us.
	OriginalDst() netip.AddrPort
}

func (s *Stream) noEndpoint() string {
	if s.cluster.OriginalDst {
		return "the connection was not redirected here: there is no place that it was meant for"
	}
	hosts := s.rt.Hosts()
	if len(hosts) == 0 {
		return "no endpoint of " + s.ref.Name + " is known"
	}
	return "no endpoint of " + s.ref.Name + " is healthy"
}

func (s *Stream) proto() snapshot.Protocol {
	if s.terminate {
		return snapshot.TCP
	}
	if p := s.cluster.Protocol; p != snapshot.Auto {
		return p
	}
	if s.Proto == exchange.HTTP2 {
		return snapshot.HTTP2
	}
	return snapshot.HTTP1
}

// PoolReady is called by the pool with a connection.
func (s *Stream) PoolReady(c upstream.Conn) {
	s.pool = nil
	s.phase = phaseTry
	up := c.(Opener).Open(s)
	s.up = up
	s.upEnd, s.pausedUp = false, false
	if s.expires != 0 {
		s.setGRPCTimeout()
	}
	noBody := s.reqEnd && len(s.body) == 0 && !s.reqTrailers
	up.SendHead(s, noBody)
	if noBody || s.up != up {
		return
	}
	if len(s.body) > 0 {
		up.SendData(s, s.body, s.reqEnd && !s.reqTrailers)
		if s.up != up {
			return
		}
		if !s.keep {
			s.body, s.bodyGone = s.body[:0], true
		} else if len(s.body) > s.maxReplay() {
			s.keep, s.body, s.bodyGone = false, s.body[:0], true
		}
	}
	switch {
	case s.reqTrailers:
		up.SendTrailers(s)
	case !s.reqEnd:
		s.pauseDown(up.Blocked())
	}
}

// PoolFailed is called by the pool when there will be no connection.
func (s *Stream) PoolFailed(f exchange.Flag, detail string) {
	s.pool = nil
	on := snapshot.OnConnectFailure | snapshot.OnUnavailable
	if f == exchange.UpstreamOverflow {
		on = snapshot.OnUnavailable
	}
	s.endTry(f != exchange.UpstreamOverflow)
	s.tryFailed(failure{flag: f, on: on, detail: detail})
}

// UpstreamWritable is called by the upstream codec when its output is no longer blocked.
func (s *Stream) UpstreamWritable() {
	if s.phase == phaseTry || s.phase >= phaseResponse {
		s.pauseDown(false)
	}
}

// UpstreamReset is called by the upstream codec when the try broke off; the codec has forgotten s.
func (s *Stream) UpstreamReset(kind ResetKind, detail string) {
	if s.phase == phaseDone || s.up == nil {
		return
	}
	s.up = nil
	if s.tunnel && s.upEnd {
		s.reqEnd = true // it had said all, and does not want more
		s.tunnelEnded()
		return
	}
	f := failure{executed: true, detail: detail, on: snapshot.OnReset | snapshot.OnUnavailable}
	switch kind {
	case ConnectionLost:
		f.flag = exchange.UpstreamConnectionEnd
	case StaleConnection:
		f.flag, f.stale = exchange.UpstreamConnectionEnd, true
	case StreamReset:
		f.flag = exchange.UpstreamReset
	case StreamRefused:
		f.flag, f.executed = exchange.UpstreamRefused, false
		f.on = snapshot.OnRefusedStream | snapshot.OnUnavailable
	case ProtocolError:
		f.flag, f.on = exchange.UpstreamProtocolError, snapshot.OnReset
	case Unsupported:
		f.flag, f.on, f.executed = exchange.UpstreamProtocolError, 0, false
	}
	s.endTry(kind != StreamRefused && kind != StaleConnection && kind != Unsupported)
	if s.expires != 0 && s.w.Loop.Now() >= s.expires-deadlineSlack {
		s.timedOut() // a gRPC server that was told the deadline resets at it, maybe a moment before our timer
		return
	}
	if s.phase != phaseTry {
		// a response has begun, or is with the filters
		s.fail(503, f.flag, "the upstream broke off its answer: "+detail)
		return
	}
	s.tryFailed(f)
}

// endTry closes the books on the current pick.
func (s *Stream) endTry(failed bool) {
	if s.wait == waitPerTry {
		s.wait = waitNone
		s.w.Loop.StopTimer(&s.waitTimer)
	}
	if s.ep == nil {
		return
	}
	s.ep.AddInflight(-1)
	s.lb.Observe(s.ep, balancer.Observation{Phase: balancer.End, Failed: failed, Elapsed: s.w.Loop.Now() - s.pickedAt})
	s.AddTried(s.ep)
	s.ep, s.lb = nil, nil
	s.host.Result(s.cluster, failed)
}

// dropTry gives up whatever the current try is at.
func (s *Stream) dropTry(failed bool) {
	if s.pool != nil {
		s.pool.Cancel(s.proto(), s)
		s.pool = nil
	}
	if up := s.up; up != nil {
		s.up = nil
		up.Cancel()
	}
	s.endTry(failed)
}

// tryFailed decides between another try and an answer of our own.
func (s *Stream) tryFailed(f failure) {
	if s.retry(f.on, f.executed, f.stale) {
		return
	}
	status := 503
	switch f.flag {
	case exchange.UpstreamRequestTimeout:
		status = 504
	case exchange.UpstreamProtocolError:
		status = 502
	}
	flags := f.flag
	if s.Attempts > 1 {
		flags |= exchange.UpstreamRetryLimit
	}
	s.fail(status, flags, s.clusterName()+": "+f.detail)
}

// retry begins another try if policy, budget and the request allow it.
func (s *Stream) retry(on snapshot.RetryOn, executed, stale bool) bool {
	if s.bodyGone {
		return false
	}
	r := s.fwd.Retry
	if stale && idempotent(s.Req.Method) {
		// No policy is needed for it, but where there is one its number of tries holds, if it permits a second at all.
		most := maxStale
		if r != nil {
			most = max(r.Attempts, 2)
		}
		if int(s.Attempts) < most {
			s.nextTry(0)
			return true
		}
	}
	if r == nil || r.On&on == 0 || int(s.Attempts) >= r.Attempts {
		return false
	}
	if executed && !r.AnyMethod && !idempotent(s.Req.Method) {
		return false
	}
	now := s.w.Loop.Now()
	if !s.rt.AllowRetry(s.cluster, now, !s.retried) {
		return false
	}
	s.retried = true
	d := backoff(r, int(s.Attempts), s.w.Rand())
	if s.expires != 0 && now+int64(d) >= s.expires {
		return false
	}
	s.nextTry(d)
	return true
}

func (s *Stream) nextTry(d time.Duration) {
	s.phase = phaseBackoff
	s.wait = waitBackoff
	s.w.Loop.SetTimer(&s.waitTimer, d, s)
}

// backoff is the wait before try n+1: full jitter over the step's length.
func backoff(r *snapshot.Retry, n int, rnd uint64) time.Duration {
	base, limit := r.Base, r.Max
	if base <= 0 {
		base = 25 * time.Millisecond
	}
	if limit <= 0 {
		limit = 250 * time.Millisecond
	}
	var step time.Duration
	switch r.Backoff {
	case snapshot.Linear:
		step = base * time.Duration(n)
	case snapshot.Fibonacci:
		a, b := base, base
		for range n - 1 {
			if a, b = b, a+b; a > limit {
				break
			}
		}
		step = a
	default:
		step = base << min(n-1, 30)
	}
	if step <= 0 || step > limit {
		step = limit
	}
	return time.Duration(rnd>>11) % (step + 1)
}

// idempotent says whether a method may be executed twice (RFC 9110 §9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
