package tlsconn

import (
	"crypto/tls"
	"io"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/loop"
)

// maxAhead is how much of what the peer sends is taken from the socket before a handshake has asked for it.
const maxAhead = 32 << 10

// lingerTime and maxLinger bound a failed connection.
const (
	lingerTime = time.Second
	maxLinger  = 256 << 10
)

// Gate bounds handshakes. It is safe for concurrent use.
type Gate struct {
	cpu chan struct{} // held while a handshake computes, not while it waits for the peer

	mu     sync.Mutex
	active int
	max    int
}

// NewGate makes a gate for a process: at most cpu handshakes compute at once, and at most max are under way.
func NewGate(cpu, most int) *Gate {
	return &Gate{cpu: make(chan struct{}, max(cpu, 1)), max: most}
}

// Active is the number of handshakes under way.
func (g *Gate) Active() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.active
}

func (g *Gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.active >= g.max {
		return false
	}
	g.active++
	return true
}

func (g *Gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active--
}

// handshake is one that is under way: the meeting point of its goroutine and the loop.
type handshake struct {
	t     *Conn
	gate  *Gate
	done  func(error)
	timer loop.Timer

	linger  bool // a failed connection lingers
	failed  bool // done was told so; of the loop alone
	dropped int  // bytes that came while it lingered

	ready   chan struct{} // something has come, or the end
	aborted chan struct{}

	mu       sync.Mutex
	in, out  []byte
	err      error // the end of in
	finished bool
	result   error
	posted   bool // RunOnLoop will come
	hungry   bool // in was full
}

// start runs a handshake. in is what was read already; done is called on the loop when it is over, unless the connection is
// closed before. The connection's handler is t until then.
func (t *Conn) start(c *loop.Conn, g *Gate, d time.Duration, in []byte, linger bool, done func(error)) {
	t.c = c
	h := &handshake{t: t, gate: g, done: done, ready: make(chan struct{}, 1), aborted: make(chan struct{}), in: in, linger: linger}
	t.hs = h
	c.SetHandler(h)
	c.SetLayer(t)
	if d > 0 {
		c.Loop().SetTimer(&h.timer, d, h)
	}
	if !g.enter() {
		h.finish(ErrBusy)
		return
	}
	go h.run()
}

func (h *handshake) run() {
	var err error
	if h.acquire() {
		err = h.t.tc.Handshake()
		<-h.gate.cpu
	} else {
		err = h.err
	}
	h.gate.leave()
	h.finish(err)
}

// acquire waits for the right to compute; false where the connection was closed meanwhile.
func (h *handshake) acquire() bool {
	select {
	case h.gate.cpu <- struct{}{}:
		return true
	case <-h.aborted:
		return false
	}
}

func (h *handshake) finish(err error) {
	h.mu.Lock()
	h.finished, h.result = true, err
	h.post()
	h.mu.Unlock()
}

// post has RunOnLoop called; h.mu is held.
func (h *handshake) post() {
	if !h.posted {
		h.posted = true
		h.t.c.Loop().Post(h)
	}
}

// read is crypto/tls's, on the goroutine.
func (h *handshake) read(p []byte) (int, error) {
	for {
		h.mu.Lock()
		if len(h.in) > 0 {
			n := copy(p, h.in)
			h.in = h.in[n:]
			if h.hungry && len(h.in) < maxAhead/2 {
				h.hungry = false
				h.post()
			}
			h.mu.Unlock()
			return n, nil
		}
		err := h.err
		h.mu.Unlock()
		if err != nil {
			return 0, err
		}
		<-h.gate.cpu
		<-h.ready
		// Where the connection was closed meanwhile, computing goes on for the few steps to the error.
		h.gate.cpu <- struct{}{}
	}
}

// write is crypto/tls's, on the goroutine.
func (h *handshake) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out = append(h.out, p...)
	h.post()
	return len(p), nil
}

// abort ends the handshake from the loop.
func (h *handshake) abort(err error) {
	h.t.c.Loop().StopTimer(&h.timer)
	h.mu.Lock()
	first := h.err == nil
	if first {
		h.err = err
	}
	h.mu.Unlock()
	select {
	case <-h.aborted:
	default:
		close(h.aborted)
	}
	h.wake()
}

func (h *handshake) wake() {
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

// RunOnLoop sends what the handshake has to say, and takes over when it is finished.
func (h *handshake) RunOnLoop() {
	t := h.t
	h.mu.Lock()
	h.posted = false
	out, finished, err := h.out, h.finished, h.result
	h.out = nil
	h.mu.Unlock()
	if t.c.Closed() {
		return
	}
	t.c.SendWire(out)
	if !finished {
		h.OnRead(t.c)
		return
	}
	t.c.Loop().StopTimer(&h.timer)
	if err != nil {
		h.fail(h.cause(err))
		return
	}
	s := t.tc.ConnectionState()
	t.info = Info{
		Version: s.Version, CipherSuite: s.CipherSuite, ServerName: s.ServerName, ALPN: s.NegotiatedProtocol,
		Chain: s.PeerCertificates, Resumed: s.DidResume,
	}
	if len(s.PeerCertificates) > 0 {
		t.info.Peer = s.PeerCertificates[0]
	}
	t.rest = nil
	if len(h.in) > 0 {
		t.rest = h.in
	}
	t.hs = nil
	c := t.c
	h.done(nil)
	if !c.Closed() && !c.Paused() {
		c.Yield() // what came with the end of the handshake makes no event
	}
}

// cause prefers what ended the connection to what crypto/tls made of it.
func (h *handshake) cause(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil && h.err != io.EOF {
		return h.err
	}
	return err
}

// OnRead feeds the handshake.
func (h *handshake) OnRead(c *loop.Conn) {
	if h.failed {
		h.discard(c)
		return
	}
	h.mu.Lock()
	n := len(h.in)
	full := n >= maxAhead
	h.hungry = full
	over := h.finished || h.err != nil
	h.mu.Unlock()
	if over || full {
		return // what is in the socket stays there
	}
	for n < maxAhead {
		k, r := c.ReadWire(c.Loop().Scratch[:maxAhead-n])
		if r == loop.Again {
			break
		}
		h.mu.Lock()
		switch r {
		case loop.OK:
			h.in = append(h.in, c.Loop().Scratch[:k]...)
			n = len(h.in)
			h.hungry = n >= maxAhead
		case loop.EOF:
			h.err = io.EOF
		default:
			h.err = errBroken
		}
		end := h.err != nil
		h.mu.Unlock()
		if end {
			break
		}
	}
	h.wake()
}

// OnTimer is the handshake's deadline.
func (h *handshake) OnTimer(*loop.Timer) {
	if h.failed {
		h.t.c.Close()
		return
	}
	h.abort(ErrTimeout)
	h.fail(ErrTimeout)
}

// OnDrained does nothing: a flight is small.
func (h *handshake) OnDrained(*loop.Conn) {}

// OnHangup does nothing: reading is not paused.
func (h *handshake) OnHangup(*loop.Conn) {}

// OnConnect does nothing: the connection is there.
func (h *handshake) OnConnect(*loop.Conn, error) {}

// OnWriteError is a peer that has gone.
func (h *handshake) OnWriteError(_ *loop.Conn, err error) {
	if h.failed { // while it lingered
		return
	}
	h.failed = true
	h.abort(err)
	h.done(err)
}

// fail tells of a handshake that came to nothing. t.hs stays, so that nothing is sealed any more. A server's connection
// lingers after its alert: closed with something unread, it would be reset, and the client never see why.
func (h *handshake) fail(err error) {
	c := h.t.c
	h.failed = true
	h.done(err)
	if c.Closed() {
		return
	}
	if !h.linger || c.Hangup() {
		c.Close()
		return
	}
	c.CloseWrite()
	if !c.Closed() {
		c.Loop().SetTimer(&h.timer, lingerTime, h)
		h.OnRead(c)
	}
}

// discard reads to the end of a connection that lingers.
func (h *handshake) discard(c *loop.Conn) {
	for {
		n, r := c.ReadWire(c.Loop().Scratch)
		if r == loop.Again {
			return
		}
		if h.dropped += n; r != loop.OK || h.dropped > maxLinger {
			c.Loop().StopTimer(&h.timer)
			c.Close()
			return
		}
	}
}

// Accept makes c the server's side of TLS. initial is what was read from it already. done is told on the loop how it went, unless
// c is closed before; where it went well it gives c to a codec, where not c is closed after its alert.
func Accept(c *loop.Conn, cfg *tls.Config, g *Gate, timeout time.Duration, initial []byte, done func(*Conn, error)) {
	t := &Conn{}
	t.nc.t = t
	t.tc = tls.Server(&t.nc, cfg)
	t.start(c, g, timeout, append([]byte(nil), initial...), true, func(err error) { done(t, err) })
}
