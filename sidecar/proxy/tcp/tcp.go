// Package tcp relays the bytes of a connection to an endpoint of a cluster.
//
// Each side is read only while the other takes more; an end of one direction is passed on, and the other direction
// goes on until it ends too.
package tcp

import (
	"net/netip"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
	"github.com/outrigger-mesh/outrigger/sidecar/upstream"
)

const (
	// connectFor is how long other endpoints, or the same one again, are tried: a process that is being restarted
	// is back by then.
	connectFor   = 2 * time.Second
	connectPause = 25 * time.Millisecond
	turnBytes    = 256 << 10
	// spliceLeast is how much must come at once for splicing to go on.
	spliceLeast = 16 << 10
)

// Conn is one relayed connection.
type Conn struct {
	w   *pipeline.Worker
	l   *pipeline.Listener
	set pipeline.ConnSet
	cfg *snapshot.TCPProxy

	down, up half
	req      balancer.Request
	ref      *snapshot.ClusterRef
	cluster  *snapshot.Cluster
	lb       balancer.Picker
	ep       *balancer.Endpoint
	host     *upstream.Host
	timer    loop.Timer
	began    int64
	pickedAt int64
	lastMove int64
	tries    int
	counted  bool
	flags    exchange.Flag
	bytes    [2]int64 // from the caller, from the endpoint
	initial  []byte   // read before the connection was known to be TCP
	state    state
}

type state uint8

const (
	connecting state = iota
	waiting          // before the next try
	relaying
	closed
)

// half is one of the two sockets, as the loop sees it.
type half struct {
	t    *Conn
	c    *loop.Conn
	peer *half
	up   bool
	eof  bool // its end was read
	shut bool // its writing side is closed
	bulk bool // so much comes that it is spliced
}

// New takes over an accepted connection. initial is what was read from it already.
func New(c *loop.Conn, w *pipeline.Worker, l *pipeline.Listener, set pipeline.ConnSet, peer netip.AddrPort, initial []byte) {
	t := &Conn{w: w, l: l, set: set, cfg: l.Config.Load().TCP, began: w.Loop.Now()}
	t.down = half{t: t, c: c, peer: &t.up}
	t.up = half{t: t, peer: &t.down, up: true}
	t.req.Client = peer.Addr()
	set[t] = struct{}{}
	l.Connections.Add(1)
	l.Active.Add(1)
	c.SetHandler(&t.down)
	c.Pause(true)
	t.ref = t.choose()
	if t.ref == nil {
		t.close(true)
		return
	}
	t.lastMove = w.Loop.Now()
	t.initial = append([]byte(nil), initial...)
	t.connect()
}

func (t *Conn) choose() *snapshot.ClusterRef {
	cs := t.cfg.Clusters
	if len(cs) == 1 {
		return cs[0].Ref
	}
	if t.cfg.TotalWeight == 0 {
		return nil
	}
	n := uint32(t.w.Rand() >> 32 * uint64(t.cfg.TotalWeight) >> 32)
	for i := range cs {
		if n < cs[i].Weight {
			return cs[i].Ref
		}
		n -= cs[i].Weight
	}
	return nil
}

func (t *Conn) connect() {
	t.tries++
	cl := t.ref.Load()
	switch {
	case t.l.Refusing.Load():
		t.flags |= exchange.Draining
	case cl == nil:
		t.flags |= exchange.NoClusterFound
	}
	if t.flags != 0 {
		t.close(true)
		return
	}
	t.cluster = cl
	rt := cl.Runtime.(*upstream.Cluster)
	lb := rt.Picker()
	if lb == nil {
		t.close(true)
		return
	}
	if cl.OriginalDst && !t.req.Destination.IsValid() {
		t.req.Destination = t.down.c.OriginalDst()
	}
	ep, err := lb.Pick(&t.req)
	if err != nil {
		t.flags |= exchange.NoHealthyUpstream
		t.close(true)
		return
	}
	if !rt.AdmitConn(cl) {
		lb.Observe(ep, balancer.Observation{Phase: balancer.End})
		t.flags |= exchange.UpstreamOverflow
		t.close(true)
		return
	}
	t.counted = true
	ep.AddInflight(1)
	t.lb, t.ep, t.host = lb, ep, ep.Host.(*upstream.Host)
	t.pickedAt = t.w.Loop.Now()
	t.state = connecting
	c, err := t.w.Dialer.Connect(t.w.Loop, t.host, snapshot.TCP, &t.up)
	if err != nil {
		t.endTry(true)
		t.again()
		return
	}
	t.up.c = c
	d := cl.ConnectTimeout
	if d <= 0 {
		d = time.Second
	}
	t.w.Loop.SetTimer(&t.timer, d, t)
}

// again tries another endpoint, or the same one a little later, as long as nothing was sent and there is time.
func (t *Conn) again() {
	late := time.Duration(t.w.Loop.Now()-t.began) > connectFor
	if m := t.cfg.MaxConnectAttempts; m > 0 {
		late = t.tries >= m
	}
	if late || t.cluster.OriginalDst { // the caller tries again as it sees fit
		t.close(true)
		return
	}
	t.state = waiting
	t.w.Loop.SetTimer(&t.timer, connectPause*time.Duration(min(t.tries, 10)), t)
}

func (t *Conn) endTry(failed bool) {
	if t.ep == nil {
		return
	}
	t.ep.AddInflight(-1)
	t.lb.Observe(t.ep, balancer.Observation{Phase: balancer.End, Failed: failed, Elapsed: t.w.Loop.Now() - t.pickedAt})
	t.host.Result(t.cluster, failed)
	t.req.AddTried(t.ep)
	t.ep = nil
	if t.counted {
		t.counted = false
		t.host.Cluster().LeaveConn()
	}
}

// OnTimer is the end of a connect timeout, of a pause between tries, or of the idle time.
func (t *Conn) OnTimer(*loop.Timer) {
	switch t.state {
	case connecting:
		t.up.c.Close()
		t.endTry(true)
		t.again()
	case waiting:
		t.connect()
	case relaying:
		if t.arm() {
			return
		}
		t.close(false)
	}
}

// arm sets the timer to the end of the idle time or of the connection's, whichever is first; false where that is now.
func (t *Conn) arm() bool {
	now := t.w.Loop.Now()
	left := time.Duration(1<<63 - 1)
	if d := t.cfg.IdleTimeout; d > 0 {
		if left = d - time.Duration(now-t.lastMove); left <= 0 {
			t.flags |= exchange.StreamIdleTimeout
			return false
		}
	}
	if d := t.cfg.MaxDuration; d > 0 {
		if left = min(left, d-time.Duration(now-t.began)); left <= 0 {
			t.flags |= exchange.DurationTimeout
			return false
		}
	}
	if left < 1<<63-1 {
		t.w.Loop.SetTimer(&t.timer, left, t)
	}
	return true
}

// OnConnect begins relaying, or tries again.
func (h *half) OnConnect(_ *loop.Conn, err error) {
	t := h.t
	t.w.Loop.StopTimer(&t.timer)
	if err != nil {
		t.endTry(true)
		t.again()
		return
	}
	t.state = relaying
	if len(t.initial) > 0 {
		t.up.c.Write(t.initial)
		t.initial = nil
	}
	t.up.c.Flush() // a PROXY header goes out also where the endpoint speaks first
	if t.state != relaying {
		return
	}
	t.lastMove = t.w.Loop.Now()
	if !t.arm() {
		t.close(false)
		return
	}
	t.down.c.Pause(false)
}

// OnRead passes on what is there.
func (h *half) OnRead(c *loop.Conn) {
	t := h.t
	if t.state != relaying {
		return
	}
	t.lastMove = t.w.Loop.Now()
	o := h.peer.c
	for turn := 0; turn < turnBytes; {
		n, r := h.move(c, o)
		if t.state != relaying {
			return
		}
		switch r {
		case loop.Again:
			if o.Blocked() {
				c.Pause(true)
			}
			return
		case loop.EOF:
			h.eof = true
			c.Pause(true)
			h.peer.end()
			return
		case loop.Error:
			t.close(true)
			return
		}
		turn += n
		if h.up {
			t.bytes[1] += int64(n)
		} else {
			t.bytes[0] += int64(n)
		}
		if o.Blocked() {
			c.Pause(true)
			return
		}
	}
	c.Yield()
}

// move passes a piece on from c to o: by copying while there is little of it, by splicing while a whole scratch comes at
// once. (HAProxy's splice-auto does the same by its streamers.)
func (h *half) move(c, o *loop.Conn) (int, loop.ReadResult) {
	if h.bulk {
		n, r := c.Splice(o, turnBytes)
		if r != loop.Unsupported {
			if r == loop.OK && n < spliceLeast {
				h.bulk = false
			}
			return n, r
		}
		h.bulk = false
	}
	b := h.t.w.Loop.Scratch
	n, r := c.Read(b)
	if r == loop.OK {
		o.Write(b[:n])
		h.bulk = n == len(b)
	}
	return n, r
}

// end passes the end of the other half on, once everything before it has gone.
func (h *half) end() {
	if h.shut {
		return
	}
	h.c.Flush()
	if h.t.state != relaying || h.c.Waiting() > 0 {
		return // OnDrained comes back to it
	}
	h.shut = true
	if h.peer.shut {
		h.t.close(false)
		return
	}
	h.c.CloseWrite()
}

// OnDrained goes on reading from the other half.
func (h *half) OnDrained(*loop.Conn) {
	if h.t.state != relaying {
		return
	}
	if h.peer.eof {
		h.end()
		return
	}
	h.peer.c.Pause(false)
}

// OnHangup notices a peer that has gone while it is not being read.
func (h *half) OnHangup(c *loop.Conn) {
	t := h.t
	if t.state == relaying && !h.eof {
		return // what it sent is still to be passed on; writing to it will tell
	}
	// An end alone is no reason to give up: it is passed on like data, once there is somebody to pass it to.
	var b [1]byte
	if _, r := c.Peek(b[:]); r == loop.Error {
		t.close(true)
	}
}

// OnWriteError is a peer that has gone.
func (h *half) OnWriteError(*loop.Conn, error) { h.t.close(true) }

// Caller returns the addresses of the connection that is relayed, for a PROXY header.
func (h *half) Caller() (src, dst netip.AddrPort) { return h.t.down.c.Peer(), h.t.down.c.Local() }

// Drain lets the connection be: bytes have no place to stop at.
func (t *Conn) Drain() {}

// Shut closes the connection.
func (t *Conn) Shut() { t.close(true) }

func (t *Conn) close(failed bool) {
	if t.state == closed {
		return
	}
	was := t.state
	t.state = closed
	t.w.Loop.StopTimer(&t.timer)
	delete(t.set, t)
	t.l.Connections.Add(-1)
	t.l.Active.Add(-1)
	t.endTry(failed && was != relaying)
	if failed && t.flags == 0 && was != relaying {
		t.flags |= exchange.UpstreamConnectionFailure
	}
	if t.w.Conns != nil {
		t.w.Conns.RecordConn(&pipeline.ConnEnd{
			Listener: t.l, Config: t.cfg, Cluster: t.cluster, Flags: t.flags, BytesIn: t.bytes[0], BytesOut: t.bytes[1], Nanoseconds: t.w.Loop.Now() - t.began,
		})
	}
	for _, c := range []*loop.Conn{t.down.c, t.up.c} {
		switch {
		case c == nil:
		case failed: // what broke on one side must not look whole on the other
			c.Reset()
		default:
			c.Close()
		}
	}
}
