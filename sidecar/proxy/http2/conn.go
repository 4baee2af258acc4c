package http2

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2/hpack"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// side is what differs between a server's and a client's connection.
type side interface {
	// headers is given a complete header block for stream id; st is nil where the stream is not known.
	headers(id uint32, st *stream, end bool, block []byte) bool
	// goAway is told that the peer takes no streams above last.
	goAway(last uint32, code ErrCode)
	// settings is told that the peer's settings have changed.
	settings()
	// removed is told that a stream has gone.
	removed()
	// ended is told that the connection is closed; all streams have been told.
	ended()
	// refused is told that we end the connection, or one stream, for what the peer did.
	refused(code ErrCode, why string)
}

// conn is what both sides of HTTP/2 share: framing, settings, flow control and the table of streams.
type conn struct {
	c       *loop.Conn
	lp      *loop.Loop
	side    side
	server  bool
	dec     hpack.Decoder
	enc     hpack.Encoder
	part    []byte // the beginning of a frame that is not whole, lent by the loop
	spare   *Streams
	streams map[uint32]*stream
	last    *stream   // of streams, the one that was looked for last: frames of one stream follow each other
	waiters []*stream // streams that have something to send or say when the socket or the connection's window opens

	sendWin    int64 // what the peer lets us send on the connection
	initSend   int64 // the window that the peer gives a new stream
	maxFrame   int   // the largest frame that the peer takes
	maxStreams int   // streams that the peer takes at once
	recvTaken  int   // bytes of data that came and were not credited yet
	recvWin    int64 // what the peer may still send on the connection

	streamWin, connWin int // the windows that we give
	maxHead            int // bytes of a head that we take, by HPACK's measure
	maxFields          int
	maxOut, maxControl int // frames that may wait for a peer that does not read; 0: no limit
	nOut, nControl     int
	alive              *keepalive // nil: none

	lastID    uint32 // the newest stream of the peer's (server) or of ours (client)
	hdrID     uint32 // a header block is being continued
	hdrFlags  byte
	hdrCount  int
	hdrBlock  []byte
	preface   int   // bytes of the preface still to come
	control   int   // control frames since something useful came or went
	since     int64 // when control was last known to be in order
	resets    int   // streams that came to nothing, see wasted
	resetAt   int64
	held      int  // bytes that wait for the windows of streams
	breach    bool // GOAWAY was said for what the peer did
	nonsense  exchange.Exchange
	sentAway  bool
	gotAway   bool
	closed    bool
	first     bool // the first frame must be SETTINGS
	tooLarge  bool // the last head that was decoded was larger than allowed, and is not whole
	settled   bool // the peer's settings have come
	acked     bool // the peer has acknowledged ours
	connect   bool // extended CONNECT (RFC 8441) is taken: by us (server), by the peer (client)
	debugText string
}

func (h *conn) init(c *loop.Conn, pool *Streams, s side, server bool) {
	lp := pool.lp
	h.c, h.lp, h.spare, h.side, h.server = c, lp, pool, s, server
	h.streams = map[uint32]*stream{}
	h.sendWin, h.initSend, h.maxFrame, h.maxStreams = defaultWindow, defaultWindow, minMaxFrame, assumedMaxStreams
	h.since = lp.Now()
	h.streamWin, h.connWin = streamWindow, connWindow
	h.maxHead, h.maxFields = maxHeaderBlock, maxHeaderFields
	h.first = true
}

// apply puts the options of a listener or a cluster in force, before hello; nil leaves all as it is.
func (h *conn) apply(o *snapshot.HTTP2Options) {
	if o == nil {
		return
	}
	if o.StreamWindow > 0 {
		h.streamWin = int(o.StreamWindow)
	}
	if o.ConnWindow > 0 {
		h.connWin = int(o.ConnWindow)
	}
	if o.HasTableSize {
		h.dec.SetLimit(int(o.TableSize))
		h.enc.SetLimit(int(o.TableSize))
	}
	h.maxOut, h.maxControl = int(o.MaxOutbound), int(o.MaxOutboundControl)
}

// hello appends our settings and opens the connection's window.
func (h *conn) hello(b []byte, maxStreams uint32) []byte {
	var kv []byte
	if h.server {
		kv = appendSetting(kv, settingMaxStreams, maxStreams)
		kv = appendSetting(kv, settingMaxHeaderList, uint32(h.maxHead))
		if h.connect {
			kv = appendSetting(kv, settingConnectProtocol, 1)
		}
	} else {
		kv = appendSetting(kv, settingEnablePush, 0)
	}
	kv = appendSetting(kv, settingInitialWindow, uint32(h.streamWin))
	if n := h.dec.Limit(); n != hpack.TableSize {
		kv = appendSetting(kv, settingTableSize, uint32(n))
	}
	b = appendFrameHeader(b, len(kv), frameSettings, 0, 0)
	b = append(b, kv...)
	h.recvWin = int64(h.connWin)
	if h.connWin > defaultWindow {
		b = appendWindowUpdate(b, 0, uint32(h.connWin-defaultWindow))
	}
	return b
}

// acknowledged: our settings are in force at the peer.
func (h *conn) acknowledged() {
	if h.acked {
		return
	}
	h.acked = true
	h.dec.Acknowledged()
	if d := int64(h.streamWin) - defaultWindow; d < 0 { // until now the peer could count on the default
		for _, st := range h.streams {
			st.recvWin += d
		}
	}
}

// OnRead takes the frames that are there.
func (h *conn) OnRead(c *loop.Conn) {
	turn := 0
	for !h.closed {
		k := copy(h.lp.Scratch, h.part)
		n, r := c.Read(h.lp.Scratch[k:])
		if r == loop.Again {
			return
		}
		if r != loop.OK {
			h.lost("the connection ended")
			return
		}
		turn += n
		if h.alive != nil {
			h.alive.heard = h.lp.Now()
		}
		b := h.lp.Scratch[:k+n]
		rest, ok := h.frames(b)
		if h.closed {
			return
		}
		if !ok {
			h.end()
			return
		}
		h.keep(rest)
		if turn >= 256<<10 {
			c.Yield()
			return
		}
	}
}

// keep holds the beginning of a frame until the next read.
func (h *conn) keep(rest []byte) {
	if len(rest) > 0 {
		if h.part == nil {
			h.part = h.lp.Buf()
		}
		h.part = append(h.part[:0], rest...)
	} else if h.part != nil {
		h.lp.FreeBuf(h.part)
		h.part = nil
	}
}

// frames handles all complete frames in b and returns what is left.
func (h *conn) frames(b []byte) ([]byte, bool) {
	if h.preface > 0 {
		n := min(h.preface, len(b))
		at := len(Preface) - h.preface
		if string(b[:n]) != Preface[at:at+n] {
			return nil, h.fatal(ErrProtocol, "no preface")
		}
		h.preface -= n
		b = b[n:]
	}
	for len(b) >= frameHeaderLen {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if n > minMaxFrame {
			return nil, h.fatal(ErrFrameSize, "frame larger than 16,384 bytes")
		}
		if len(b) < frameHeaderLen+n {
			break
		}
		typ, flags, id := b[3], b[4], get32(b[5:])&0x7fffffff
		p := b[frameHeaderLen : frameHeaderLen+n]
		if h.first {
			if typ != frameSettings || flags&flagAck != 0 {
				return nil, h.fatal(ErrProtocol, "the first frame is not SETTINGS")
			}
			h.first = false
		}
		if h.hdrID != 0 && (typ != frameContinuation || id != h.hdrID) {
			return nil, h.fatal(ErrProtocol, "a header block was interrupted")
		}
		if !h.frame(typ, flags, id, p) || h.closed {
			return nil, false
		}
		b = b[frameHeaderLen+n:]
	}
	return b, true
}

func (h *conn) frame(typ, flags byte, id uint32, p []byte) bool {
	switch typ {
	case frameData:
		return h.data(flags, id, p)
	case frameHeaders:
		return h.headersFrame(flags, id, p)
	case frameContinuation:
		return h.continuation(flags, id, p)
	case framePriority:
		if id == 0 {
			return h.fatal(ErrProtocol, "PRIORITY on stream 0")
		}
		if len(p) != 5 {
			return h.streamError(id, ErrFrameSize)
		}
		if get32(p)&0x7fffffff == id {
			return h.streamError(id, ErrProtocol)
		}
		return h.calm()
	case frameRSTStream:
		return h.rstStream(id, p)
	case frameSettings:
		return h.settingsFrame(flags, id, p)
	case framePushPromise:
		return h.fatal(ErrProtocol, "PUSH_PROMISE")
	case framePing:
		return h.ping(flags, id, p)
	case frameGoAway:
		if id != 0 || len(p) < 8 {
			return h.fatal(ErrProtocol, "malformed GOAWAY")
		}
		h.gotAway = true
		h.side.goAway(get32(p)&0x7fffffff, ErrCode(get32(p[4:])))
		return !h.closed
	case frameWindowUpdate:
		return h.windowUpdate(id, p)
	}
	return h.calm() // unknown types are ignored (§4.1)
}

// calm counts frames that cost us and do nothing.
func (h *conn) calm() bool {
	if h.maxControl > 0 && h.c.Blocked() { // each may have made us answer
		if h.nControl++; h.nControl > h.maxControl {
			return h.fatal(ErrEnhanceYourCalm, "too many control frames wait to be read")
		}
	}
	if h.control++; h.control > controlFrameBudget {
		if now := h.lp.Now(); now-h.since > int64(controlTime) {
			h.since, h.control = now, 0
			return true
		}
		return h.fatal(ErrEnhanceYourCalm, "too many control frames")
	}
	return true
}

// useful starts the count anew, but not while the peer does not read what we answer: that would have no bound.
func (h *conn) useful() bool {
	if h.c.Blocked() {
		return h.calm()
	}
	h.control = 0
	return true
}

// fatal says GOAWAY; the caller ends the connection.
func (h *conn) fatal(code ErrCode, why string) bool {
	if !h.closed {
		h.debugText = why
		h.breach = true
		h.side.refused(code, why)
		h.c.SetOut(appendGoAway(h.c.Out(), h.lastPeerID(), code, why))
		h.c.Flush()
	}
	return false
}

func (h *conn) lastPeerID() uint32 {
	if h.server {
		return h.lastID
	}
	return 0
}

// stream returns an open stream, or nil.
func (h *conn) stream(id uint32) *stream {
	if st := h.last; st != nil && st.id == id {
		return st
	}
	st := h.streams[id]
	h.last = st
	return st
}

func (h *conn) streamError(id uint32, code ErrCode) bool {
	h.side.refused(code, "stream error")
	if st := h.streams[id]; st != nil {
		st.lost(code, true)
		return h.wasted()
	} else if !h.idle(id) {
		h.c.SetOut(appendReset(h.c.Out(), id, code))
	} else {
		return h.fatal(code, "error on an idle stream")
	}
	return h.calm()
}

// idle says whether a stream was never opened.
func (h *conn) idle(id uint32) bool {
	return id&1 == 0 || id > h.lastID // the client's streams are odd, and nobody pushes
}

func unpad(flags byte, p []byte) ([]byte, bool) {
	if flags&flagPadded == 0 {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

func (h *conn) data(flags byte, id uint32, p []byte) bool {
	if id == 0 {
		return h.fatal(ErrProtocol, "DATA on stream 0")
	}
	total := len(p)
	p, ok := unpad(flags, p)
	if !ok {
		return h.fatal(ErrProtocol, "padding")
	}
	if h.recvWin -= int64(total); h.recvWin < 0 {
		return h.fatal(ErrFlowControl, "the connection's window is exceeded")
	}
	// The connection's window is opened at once: a stream that is held up must not hold up the others. What
	// one stream can occupy is bounded by its own window.
	if h.recvTaken += total; h.recvTaken >= h.connWin/4 {
		h.c.SetOut(appendWindowUpdate(h.c.Out(), 0, uint32(h.recvTaken)))
		h.recvWin += int64(h.recvTaken)
		h.recvTaken = 0
	}
	st := h.stream(id)
	if st == nil {
		if h.idle(id) {
			return h.fatal(ErrProtocol, "DATA on an idle stream")
		}
		if h.server {
			return h.closedStream(id)
		}
		return h.calm() // a stream that we gave up: the peer may not know yet
	}
	if st.inEnd {
		return h.streamError(id, ErrStreamClosed)
	}
	if st.recvWin -= int64(total); st.recvWin < 0 {
		return h.streamError(id, ErrFlowControl)
	}
	if len(p) == 0 && flags&flagEndStream == 0 {
		if !h.calm() {
			return false
		}
	} else {
		if !h.useful() {
			return false
		}
	}
	return st.onData(p, total, flags&flagEndStream != 0)
}

// closedStream answers a frame for a stream of the past: it may have been reset by us, so it is only counted.
func (h *conn) closedStream(id uint32) bool {
	h.c.SetOut(appendReset(h.c.Out(), id, ErrStreamClosed))
	return h.calm()
}

func (h *conn) headersFrame(flags byte, id uint32, p []byte) bool {
	if id == 0 {
		return h.fatal(ErrProtocol, "HEADERS on stream 0")
	}
	p, ok := unpad(flags, p)
	if !ok {
		return h.fatal(ErrProtocol, "padding")
	}
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return h.fatal(ErrFrameSize, "HEADERS")
		}
		if get32(p)&0x7fffffff == id {
			return h.fatal(ErrProtocol, "a stream that depends on itself")
		}
		p = p[5:]
	}
	if flags&flagEndHeaders == 0 {
		h.hdrID, h.hdrFlags, h.hdrCount = id, flags, 0
		h.hdrBlock = append(h.hdrBlock[:0], p...)
		return true
	}
	return h.block(flags, id, p)
}

func (h *conn) continuation(flags byte, id uint32, p []byte) bool {
	if h.hdrID == 0 {
		return h.fatal(ErrProtocol, "CONTINUATION without HEADERS")
	}
	if h.hdrCount++; h.hdrCount > max(maxContinuations, h.maxHead>>10) || len(h.hdrBlock)+len(p) > h.maxHead {
		return h.fatal(ErrEnhanceYourCalm, "header block too large")
	}
	h.hdrBlock = append(h.hdrBlock, p...)
	if flags&flagEndHeaders == 0 {
		return true
	}
	h.hdrID = 0
	b := h.hdrBlock
	h.hdrBlock = nil
	return h.block(h.hdrFlags, id, b)
}

func (h *conn) block(flags byte, id uint32, block []byte) bool {
	return h.side.headers(id, h.stream(id), flags&flagEndStream != 0, block)
}

func (h *conn) rstStream(id uint32, p []byte) bool {
	if len(p) != 4 {
		return h.fatal(ErrFrameSize, "RST_STREAM")
	}
	if id == 0 || h.idle(id) {
		return h.fatal(ErrProtocol, "RST_STREAM on an idle stream")
	}
	if st := h.streams[id]; st != nil {
		st.lost(ErrCode(get32(p)), false)
		if h.closed || !h.wasted() {
			return false
		}
	}
	return h.calm()
}

func (h *conn) settingsFrame(flags byte, id uint32, p []byte) bool {
	if id != 0 {
		return h.fatal(ErrProtocol, "SETTINGS on a stream")
	}
	if flags&flagAck != 0 {
		if len(p) != 0 {
			return h.fatal(ErrFrameSize, "SETTINGS acknowledgement")
		}
		h.acknowledged()
		return h.calm()
	}
	if len(p)%6 != 0 {
		return h.fatal(ErrFrameSize, "SETTINGS")
	}
	if !h.calm() {
		return false
	}
	wider := false
	for ; len(p) > 0; p = p[6:] {
		v := get32(p[2:])
		switch uint16(p[0])<<8 | uint16(p[1]) {
		case settingTableSize:
			h.enc.SetMax(v)
		case settingEnablePush:
			if v > 1 || !h.server && v == 1 {
				return h.fatal(ErrProtocol, "ENABLE_PUSH")
			}
		case settingMaxStreams:
			h.maxStreams = int(min(v, 1<<20))
		case settingInitialWindow:
			if v > maxWindow {
				return h.fatal(ErrFlowControl, "INITIAL_WINDOW_SIZE")
			}
			d := int64(v) - h.initSend
			h.initSend = int64(v)
			for _, st := range h.streams {
				if st.sendWin += d; st.sendWin > maxWindow {
					return h.fatal(ErrFlowControl, "INITIAL_WINDOW_SIZE")
				}
			}
			wider = wider || d > 0
		case settingConnectProtocol:
			if v > 1 || v == 0 && h.connect && !h.server {
				return h.fatal(ErrProtocol, "ENABLE_CONNECT_PROTOCOL")
			}
			if !h.server {
				h.connect = v == 1
			}
		case settingMaxFrame:
			if v < minMaxFrame || v > maxMaxFrame {
				return h.fatal(ErrProtocol, "MAX_FRAME_SIZE")
			}
			h.maxFrame = int(v)
		}
	}
	// The acknowledgement goes before what it permits: the peer counts by the settings that it knows are in force.
	h.c.SetOut(appendFrameHeader(h.c.Out(), 0, frameSettings, flagAck, 0))
	if wider {
		for _, st := range h.streams {
			st.pump()
		}
	}
	h.settled = true
	h.side.settings()
	return !h.closed
}

func (h *conn) ping(flags byte, id uint32, p []byte) bool {
	if id != 0 {
		return h.fatal(ErrProtocol, "PING on a stream")
	}
	if len(p) != 8 {
		return h.fatal(ErrFrameSize, "PING")
	}
	if flags&flagAck == 0 {
		h.c.SetOut(append(appendFrameHeader(h.c.Out(), 8, framePing, flagAck, 0), p...))
	} else if h.alive != nil {
		h.alive.answered(p)
		return !h.closed
	}
	return h.calm()
}

func (h *conn) windowUpdate(id uint32, p []byte) bool {
	if len(p) != 4 {
		return h.fatal(ErrFrameSize, "WINDOW_UPDATE")
	}
	n := int64(get32(p) & 0x7fffffff)
	if id == 0 {
		if n == 0 {
			return h.fatal(ErrProtocol, "WINDOW_UPDATE of 0")
		}
		if h.sendWin += n; h.sendWin > maxWindow {
			return h.fatal(ErrFlowControl, "the connection's window overflows")
		}
		h.wake()
		return !h.closed && h.calm()
	}
	st := h.streams[id]
	if st == nil {
		if h.idle(id) {
			return h.fatal(ErrProtocol, "WINDOW_UPDATE on an idle stream")
		}
		if n == 0 {
			return h.streamError(id, ErrProtocol)
		}
		return h.calm()
	}
	if n == 0 {
		return h.streamError(id, ErrProtocol)
	}
	if st.sendWin += n; st.sendWin > maxWindow {
		return h.streamError(id, ErrFlowControl)
	}
	st.pump()
	return !h.closed && h.calm()
}

// wake lets the streams that wait for the connection go on.
func (h *conn) wake() {
	q := h.waiters
	h.waiters = nil
	for _, st := range q {
		st.waiting = false
		if st.closed {
			h.spare.bury(st)
			continue
		}
		st.pump()
		if h.closed {
			return
		}
		st.writable()
		if h.closed {
			return
		}
	}
}

// OnDrained lets the streams go on when the socket takes more.
func (h *conn) OnDrained(*loop.Conn) {
	h.nOut, h.nControl = 0, 0
	h.wake()
}

// OnHangup does nothing: an HTTP/2 connection is never paused.
func (h *conn) OnHangup(*loop.Conn) {}

// OnWriteError ends the connection.
func (h *conn) OnWriteError(*loop.Conn, error) { h.lost("the connection broke") }

// OnConnect is the client side's.
func (h *conn) OnConnect(*loop.Conn, error) {}

func (h *conn) lost(why string) {
	if h.debugText == "" {
		h.debugText = why
	}
	h.end()
}

// end closes the connection and tells its streams.
func (h *conn) end() {
	if h.closed {
		return
	}
	h.closed = true
	h.last = nil
	if h.alive != nil {
		h.alive.stop()
	}
	if h.breach && h.server && !h.c.Closed() {
		h.closeAfterLastWord()
	} else {
		h.c.Close()
	}
	h.keep(nil)
	for id, st := range h.streams {
		delete(h.streams, id)
		st.closed = true
		st.account(0)
		h.spare.bury(st)
		if s := st.s; s != nil {
			st.s = nil
			if h.server {
				s.DownstreamGone()
			} else {
				s.UpstreamReset(pipeline.ConnectionLost, h.debugText)
			}
		}
	}
	h.side.ended()
}

func (h *conn) remove(st *stream) {
	if st.closed {
		return
	}
	st.closed = true
	st.account(0)
	h.spare.bury(st)
	delete(h.streams, st.id)
	if h.last == st {
		h.last = nil
	}
	h.side.removed()
}

// writeHeaders sends a header block, in CONTINUATION frames where it is longer than a frame. block appends it.
func (h *conn) writeHeaders(id uint32, end bool, block func(dst []byte) []byte) {
	out := h.c.Out()
	at := len(out)
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	out = appendFrameHeader(out, 0, frameHeaders, flags, id)
	h.finishHeaders(block(h.enc.Start(out)), at, id)
}

// finishHeaders puts the length into the frame that begins at out[at:], and splits it where it is too long.
func (h *conn) finishHeaders(out []byte, at int, id uint32) {
	n := len(out) - at - frameHeaderLen
	if n <= h.maxFrame {
		out[at], out[at+1], out[at+2] = byte(n>>16), byte(n>>8), byte(n)
		h.c.SetOut(out)
		return
	}
	flags := out[at+4]
	b := append([]byte(nil), out[at+frameHeaderLen:]...)
	out = out[:at]
	typ := byte(frameHeaders)
	flags &^= flagEndHeaders
	for len(b) > 0 {
		k := min(len(b), h.maxFrame)
		if k == len(b) {
			flags |= flagEndHeaders
		}
		out = appendFrameHeader(out, k, typ, flags, id)
		out = append(out, b[:k]...)
		b = b[k:]
		typ, flags = frameContinuation, 0
	}
	h.c.SetOut(out)
}

const goAwayGrace = time.Second
