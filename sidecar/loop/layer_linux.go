package loop

import "golang.org/x/sys/unix"

// Layer stands between a connection's socket and its handler and has the bytes of the wire differ from those that the
// handler reads and writes: TLS. The handler does not notice it. A layer is called on the loop.
type Layer interface {
	// Read reads into b what the handler gets, as [Conn.Read]; it takes the wire's bytes by [Conn.ReadWire]. Again means that
	// the wire has been read until it said Again.
	Read(b []byte) (int, ReadResult)
	// Seal appends what goes over the wire for all of p to dst. p is not kept. An error breaks the connection.
	Seal(dst, p []byte) ([]byte, error)
	// End appends what tells the peer that nothing more is written; it is called once at most.
	End(dst []byte) []byte
	// Closed is called once, when the connection is closed.
	Closed()
}

// layered is what a connection with a layer has more than a plain one.
type layered struct {
	Layer
	wire   []byte // sealed output that waits; off bytes of it have gone
	off    int
	peeked int16 // a byte that Peek has taken, or -1
	more   bool  // the last Read did not say Again: the layer may hold bytes that no event will tell of
	ended  bool  // End was called
}

// sealSize is what a loop's buffer for sealed output begins with: a whole scratch in records of TLS.
const sealSize = ScratchSize + 1<<10

// SetLayer puts a layer between the socket and the handler, from the next byte in either direction on. OnRead follows if
// the layer or the socket has something, once reading is not paused.
func (c *Conn) SetLayer(y Layer) {
	c.lay = &layered{Layer: y, peeked: -1, more: true}
	c.noSplice = true
	if !c.paused {
		c.Yield()
	}
}

// Layer is the connection's layer, or nil.
func (c *Conn) Layer() Layer {
	if c.lay == nil {
		return nil
	}
	return c.lay.Layer
}

// WireReadable says whether the socket may have something to read.
func (c *Conn) WireReadable() bool { return c.rd }

// readable says whether a Read is worth trying.
func (c *Conn) readable() bool { return c.rd || c.lay != nil && c.lay.more }

func (y *layered) read(b []byte) (int, ReadResult) {
	k := 0
	if y.peeked >= 0 {
		b[0] = byte(y.peeked)
		y.peeked, k = -1, 1
		if len(b) == 1 {
			return 1, OK
		}
	}
	n, r := y.Read(b[k:])
	if r != OK {
		if k > 0 { // the end, where it is one, is said again
			return k, OK
		}
		y.more = r != Again
		return 0, r
	}
	y.more = true
	return k + n, OK
}

func (y *layered) peek(b []byte) (int, ReadResult) {
	if y.peeked < 0 {
		var one [1]byte
		n, r := y.Read(one[:])
		if r != OK || n == 0 {
			return 0, r
		}
		y.peeked, y.more = int16(one[0]), true
	}
	b[0] = byte(y.peeked)
	return 1, OK
}

// SendWire has a layer send bytes of its own that no output asked for: answers of a handshake, alerts.
func (c *Conn) SendWire(b []byte) {
	if c.closed || c.broken || len(b) == 0 {
		return
	}
	y := c.lay
	if y.wire == nil {
		y.wire, y.off = c.l.Buf(), 0
	}
	y.wire = append(y.wire, b...)
	c.markDirty()
}

// sealed sends what a layer has made of output in the loop's buffer; what the socket does not take waits. It says whether
// the connection still lives.
func (c *Conn) sealed(b []byte) bool {
	c.l.seal = b[:0]
	for c.wr && len(b) > 0 {
		n, e := rawWrite(int(c.fd), b)
		if e == unix.EAGAIN {
			c.wr = false
			break
		}
		if e != 0 {
			c.fail(e)
			return false
		}
		b = b[n:]
	}
	if len(b) > 0 {
		y := c.lay
		y.wire, y.off = append(c.l.Buf(), b...), 0
		c.stuck()
	}
	return true
}

func (c *Conn) sealBuf() []byte {
	if c.l.seal == nil {
		c.l.seal = make([]byte, 0, sealSize)
	}
	return c.l.seal[:0]
}

// writeLayered is Write for more than is gathered: it seals what is gathered and b, and sends both at once.
func (c *Conn) writeLayered(b []byte) {
	if c.flushLayered(); c.closed || c.broken {
		return
	}
	if c.Waiting() > 0 || !c.wr {
		c.SetOut(append(c.Out(), b...))
		return
	}
	s, err := c.lay.Seal(c.sealBuf(), b)
	if err != nil {
		c.fail(unix.EPIPE)
		return
	}
	c.sealed(s)
}

// flushLayered sends what is sealed, then seals and sends what is gathered, as far as the socket takes it.
func (c *Conn) flushLayered() {
	y := c.lay
	if !c.flushWire() || len(y.wire) > 0 || !c.wr {
		return
	}
	if c.out != nil {
		s, err := y.Seal(c.sealBuf(), c.out)
		c.l.FreeBuf(c.out)
		c.out, c.off = nil, 0
		if err != nil {
			c.fail(unix.EPIPE)
			return
		}
		if !c.sealed(s) {
			return
		}
	}
	if c.Waiting() > 0 {
		return
	}
	c.unstick()
	if c.finLater {
		c.fin()
	}
}

// flushWire sends what is sealed; it says whether the connection still lives.
func (c *Conn) flushWire() bool {
	y := c.lay
	for c.wr && y.off < len(y.wire) {
		n, e := rawWrite(int(c.fd), y.wire[y.off:])
		if e == unix.EAGAIN {
			c.stuck()
			return true
		}
		if e != 0 {
			c.fail(e)
			return false
		}
		y.off += n
	}
	if y.off == len(y.wire) {
		c.freeWire()
		if c.out == nil {
			c.unstick()
		}
	}
	return true
}

func (c *Conn) freeWire() {
	if y := c.lay; y != nil && y.wire != nil {
		c.l.FreeBuf(y.wire)
		y.wire, y.off = nil, 0
	}
}

// fin ends our direction. All output has gone.
func (c *Conn) fin() {
	c.finLater = false
	if y := c.lay; y != nil && !y.ended {
		y.ended = true
		if !c.sealed(y.End(c.sealBuf())) {
			return
		}
		if c.Waiting() > 0 {
			c.finLater = true
			return
		}
	}
	unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// lastLayered is the last that is tried at Close: what waits, what is gathered, and the end.
func (c *Conn) lastLayered() {
	y := c.lay
	if !c.wr || c.broken {
		return
	}
	if y.off < len(y.wire) {
		n, _ := rawWrite(int(c.fd), y.wire[y.off:])
		if n < len(y.wire)-y.off {
			return // the rest would be out of place
		}
	}
	s := c.sealBuf()
	if c.out != nil {
		var err error
		if s, err = y.Seal(s, c.out); err != nil {
			return
		}
	}
	if !y.ended {
		y.ended = true
		s = y.End(s)
	}
	if len(s) > 0 {
		_, _ = rawWrite(int(c.fd), s)
	}
	c.l.seal = s[:0]
}
