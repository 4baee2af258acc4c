package http2

import (
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http2/hpack"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
)

// stream is one stream of a connection: the downstream end of an exchange on a server's, the upstream end on a
// client's.
type stream struct {
	h  *conn
	s  *pipeline.Stream // nil once the exchange has let go of it
	id uint32

	sendWin  int64
	recvWin  int64
	credit   int    // bytes that came and were not credited yet
	q        []byte // data that waits for a window
	held     int    // of q, as it is accounted for
	moved    int    // of q, since its receiver's time began
	stall    *loop.Stall
	trailers *exchange.Header
	length   int64 // what content-length still lacks, or -1

	qEnd    bool // the end follows q
	early   bool // its head waits for the peer's settings
	inEnd   bool // END_STREAM came
	outEnd  bool // END_STREAM went
	head    bool // the head came
	paused  bool // no credit for now
	waiting bool // in h.waiters
	closed  bool
	buried  bool // with h.spare, to be recycled
	noRoom  bool // Blocked said so: Writable is due
	fresh   bool // what waits has just begun to
	rst     bool // reset the stream after the last of q
	headReq bool // the request was HEAD

	next *stream // free list
}

func (h *conn) newStream(id uint32) *stream {
	st := h.spare.get()
	win := h.streamWin
	if !h.acked {
		win = max(win, defaultWindow)
	}
	st.h, st.id, st.sendWin, st.recvWin, st.length = h, id, h.initSend, int64(win), -1
	h.streams[id], h.last = st, st
	return st
}

// onData passes a DATA frame on. total is its flow-controlled length.
func (st *stream) onData(p []byte, total int, end bool) bool {
	if !st.head {
		return st.h.streamError(st.id, ErrProtocol) // §8.1: a response begins with its head
	}
	st.inEnd = end
	st.credit += total
	if st.length >= 0 {
		st.length -= int64(len(p))
		if st.length < 0 || end && st.length > 0 {
			st.h.side.refused(ErrProtocol, "the body is not as long as its Content-Length")
			st.lost(ErrProtocol, true)
			return st.h.calm()
		}
	}
	s := st.s
	if s == nil {
		// the exchange does not want it any more
		if end && st.outEnd {
			st.h.remove(st)
		}
		st.giveCredit()
		return true
	}
	if st.h.server {
		s.RequestData(p, end)
	} else {
		if end && !s.Tunnel() {
			st.s = nil
		}
		s.UpstreamData(p, end)
	}
	if st.h.closed {
		return false
	}
	if end {
		st.finishIn()
	} else {
		st.giveCredit()
	}
	return true
}

// giveCredit opens the peer's window again, unless what came cannot be passed on.
func (st *stream) giveCredit() {
	if st.paused || st.inEnd || st.closed || st.credit < st.h.streamWin/4 {
		return
	}
	st.h.c.SetOut(appendWindowUpdate(st.h.c.Out(), st.id, uint32(st.credit)))
	st.recvWin += int64(st.credit)
	st.credit = 0
}

// finishIn is called when the peer's half has ended.
func (st *stream) finishIn() {
	if st.closed || st.h.closed {
		return
	}
	if st.outEnd && len(st.q) == 0 {
		st.h.remove(st)
		return
	}
	if !st.h.server && st.s == nil {
		// the answer is whole before the request: nobody needs the rest
		st.h.c.SetOut(appendReset(st.h.c.Out(), st.id, ErrNo))
		st.h.remove(st)
	}
}

// lost ends the stream on an error: ours is sent to the peer, the peer's is not.
func (st *stream) lost(code ErrCode, ours bool) {
	if ours && !st.closed {
		st.h.c.SetOut(appendReset(st.h.c.Out(), st.id, code))
	}
	s := st.s
	st.s = nil
	st.h.remove(st)
	if s == nil {
		return
	}
	if st.h.server {
		s.DownstreamGone()
		return
	}
	switch {
	case ours:
		s.UpstreamReset(pipeline.ProtocolError, "HTTP/2 stream error")
	case code == ErrRefusedStream:
		s.UpstreamReset(pipeline.StreamRefused, "REFUSED_STREAM")
	default:
		s.UpstreamReset(pipeline.StreamReset, "RST_STREAM "+code.String())
	}
}

// SendData sends a piece of the body, as the windows allow.
func (st *stream) SendData(_ *pipeline.Stream, b []byte, end bool) {
	h := st.h
	if st.closed || st.outEnd || st.qEnd {
		return
	}
	if len(st.q) == 0 && !st.early && int64(len(b)) <= st.sendWin && int64(len(b)) <= h.sendWin && len(b) <= h.maxFrame {
		st.frame(b, end)
		return
	}
	if len(st.q) == 0 {
		st.fresh = true
	}
	st.q = append(st.q, b...)
	st.qEnd = end
	st.pump()
}

func (st *stream) frame(b []byte, end bool) {
	h := st.h
	if len(b) == 0 && !end {
		return
	}
	flags := byte(0)
	if end {
		flags = flagEndStream
		st.outEnd = true
	}
	if h.maxOut > 0 && h.c.Blocked() {
		if h.nOut++; h.nOut > h.maxOut {
			h.fatal(ErrEnhanceYourCalm, "too many frames wait to be read")
			h.end()
			return
		}
	}
	st.sendWin -= int64(len(b))
	h.sendWin -= int64(len(b))
	h.control = max(0, h.control-len(b)/usefulBytes)
	h.c.SetOut(appendFrameHeader(h.c.Out(), len(b), frameData, flags, st.id))
	h.c.Write(b)
	if end {
		st.sentEnd()
	}
}

// sentEnd is called when END_STREAM has been sent.
func (st *stream) sentEnd() {
	if st.closed {
		return
	}
	if st.inEnd {
		if st.s == nil || st.h.server {
			st.h.remove(st)
		}
		return
	}
	if st.rst {
		st.h.c.SetOut(appendReset(st.h.c.Out(), st.id, ErrNo))
		st.h.remove(st)
	}
}

// pump sends what waits, as the windows allow.
func (st *stream) pump() {
	if st.closed || st.outEnd || st.early || len(st.q) == 0 && !st.qEnd && st.trailers == nil {
		return
	}
	n := len(st.q)
	st.send()
	st.account(n - len(st.q))
}

func (st *stream) send() {
	h := st.h
	off := 0
	for off < len(st.q) {
		n := min(int64(len(st.q)-off), st.sendWin, h.sendWin, int64(h.maxFrame))
		if n <= 0 {
			break
		}
		last := off+int(n) == len(st.q)
		b := st.q[off : off+int(n)]
		off += int(n)
		if last && st.qEnd {
			st.q = nil
			st.frame(b, true)
			return
		}
		st.frame(b, false)
		if h.closed || st.closed {
			return
		}
	}
	if off == len(st.q) {
		st.q = nil
		if t := st.trailers; t != nil {
			st.trailers = nil
			st.writeTrailers(t)
			return
		}
		if st.qEnd {
			st.frame(nil, true)
			return
		}
		st.writable()
		return
	}
	if off > 0 {
		st.q = st.q[:copy(st.q, st.q[off:])]
	}
	if h.sendWin <= 0 {
		st.wait()
	}
}

func (st *stream) wait() {
	if !st.waiting {
		st.waiting = true
		st.h.waiters = append(st.h.waiters, st)
	}
}

// Blocked says that data waits for a window or for the socket.
func (st *stream) Blocked() bool {
	if st.closed {
		return false
	}
	if len(st.q) > 0 {
		st.noRoom = true
		return true
	}
	if st.h.c.Blocked() {
		st.noRoom = true
		st.wait()
		return true
	}
	return false
}

// writable tells the exchange that it may go on.
func (st *stream) writable() {
	if !st.noRoom || len(st.q) > 0 {
		return
	}
	if st.h.c.Blocked() {
		st.wait()
		return
	}
	st.noRoom = false
	if st.s == nil {
		return
	}
	if st.h.server {
		st.s.DownstreamWritable()
	} else {
		st.s.UpstreamWritable()
	}
}

// Pause withholds credit from the peer.
func (st *stream) Pause(on bool) {
	st.paused = on
	if !on {
		st.giveCredit()
	}
}

// SendTrailers ends the stream with trailers.
func (st *stream) SendTrailers(s *pipeline.Stream) {
	if st.closed || st.outEnd {
		return
	}
	t := &s.RespTrailer
	if !st.h.server {
		t = &s.Trailer
	}
	if len(st.q) > 0 {
		c := new(exchange.Header)
		c.CopyFrom(t)
		st.trailers = c
		return
	}
	st.writeTrailers(t)
}

func (st *stream) writeTrailers(t *exchange.Header) {
	st.outEnd = true
	st.h.writeHeaders(st.id, true, func(dst []byte) []byte { return st.h.appendFields(dst, t) })
	st.sentEnd()
}

// appendFields encodes the fields of a header as HTTP/2 has them: what belongs to an HTTP/1.1 connection stays behind.
func (h *conn) appendFields(dst []byte, hd *exchange.Header) []byte {
	for i := range hd.Fields {
		f := &hd.Fields[i]
		if f.Flags&exchange.Dropped != 0 {
			continue
		}
		switch f.Known {
		case exchange.Host, exchange.Connection, exchange.KeepAlive, exchange.ProxyConnection,
			exchange.TransferEncoding, exchange.Upgrade, exchange.HTTP2Settings:
			continue
		}
		dst = h.enc.Field(dst, f)
	}
	return dst
}

// decode reads a header block into hd and returns the pseudo-header fields' violations as ok == false. fatal says
// that the connection cannot go on.
func (h *conn) decode(block []byte, x *exchange.Exchange, head *exchange.Head, hd *exchange.Header, request bool) (ok, fatal bool) {
	var f exchange.Field
	ok = true
	regular := false
	count, size := 0, 0
	var seen uint8 // bits of the pseudo-header fields
	h.tooLarge = false
	h.dec.Start(block)
	for {
		name, done, err := h.dec.Next(&f, x)
		if done {
			break
		}
		if err != nil {
			if err == hpack.ErrCompression {
				return false, true
			}
			ok = false
			continue
		}
		count++
		if size += len(f.Name) + len(f.Value) + 32; size > h.maxHead || count > h.maxFields+8 {
			h.tooLarge = true
			continue
		}
		if f.Name[0] == ':' {
			if regular || head == nil {
				ok = false
				continue
			}
			bit := uint8(0)
			switch {
			case name == hpack.Method && request:
				bit, head.Method = 1, f.Value
			case name == hpack.Path && request:
				bit, head.Path = 2, f.Value
			case name == hpack.Scheme && request:
				bit, head.Scheme = 4, f.Value
			case name == hpack.Authority && request:
				bit, head.Authority = 8, f.Value
			case name == hpack.Status && !request:
				bit = 16
				if head.Status = parseStatus(f.Value); head.Status == 0 {
					ok = false
				}
			case f.Name == ":protocol" && request:
				bit, head.Protocol = 32, f.Value
			default:
				ok = false
			}
			if seen&bit != 0 {
				ok = false
			}
			seen |= bit
			continue
		}
		regular = true
		switch f.Known {
		case exchange.Connection, exchange.KeepAlive, exchange.ProxyConnection, exchange.TransferEncoding, exchange.Upgrade:
			ok = false
			continue
		case exchange.TE:
			if !exchange.EqualFold(f.Value, "trailers") {
				ok = false
			}
		case exchange.ContentLength:
			if head != nil {
				n := parseLength(f.Value)
				if n < 0 || head.ContentLength >= 0 && head.ContentLength != n {
					ok = false
				}
				if head.ContentLength = n; hd.Has(exchange.ContentLength) {
					continue // the same twice: sent on once
				}
			}
		case exchange.Cookie:
			if i := hd.FindKnown(exchange.Cookie); i >= 0 { // §8.2.3: crumbs are joined
				c := &hd.Fields[i]
				c.Value = x.Concat(c.Value, "; ", f.Value)
				c.Entry = nil
				continue
			}
		case exchange.Host:
			if request && head != nil && seen&8 == 0 && head.Authority == "" {
				head.Authority = f.Value
			} else if request && head != nil && head.Authority != f.Value {
				ok = false
			}
			continue
		}
		if head == nil && !f.Known.TrailerAllowed() {
			continue
		}
		hd.Append(f)
	}
	switch {
	case h.tooLarge: // what was not kept is not missed
		ok = ok && request && head != nil
	case head == nil:
	case request:
		if head.Method == "CONNECT" && seen&32 == 0 {
			ok = ok && seen&(2|4) == 0 && hasPort(head.Authority)
		} else {
			ok = ok && seen&7 == 7 && head.Path != "" && (head.Path[0] == '/' || head.Path == "*" && head.Method == "OPTIONS") && validTarget(head.Path) && validMethod(head.Method) && validScheme(head.Scheme)
		}
		ok = ok && validAuthority(head.Authority)
	default:
		ok = ok && seen&16 != 0
	}
	return ok, false
}

func validTarget(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// validAuthority refuses what cannot be an authority and would be dangerous in a log, a route or a new head.
func validAuthority(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '/', c == '?', c == '#', c == '@', c == '\\', c == ',', c == '"', c == '<', c == '>':
			return false
		}
	}
	return true
}

// hasPort says whether an authority ends in a port.
func hasPort(s string) bool {
	i := len(s) - 1
	for i > 0 && s[i]-'0' < 10 {
		i--
	}
	return i > 0 && s[i] == ':' && i < len(s)-1 && len(s)-i <= 6
}

func validMethod(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '!', c == '#', c == '$', c == '%', c == '&', c == '\'', c == '*', c == '+', c == '.', c == '^', c == '`', c == '|', c == '~':
		default:
			return false
		}
	}
	return s != ""
}

func parseStatus(s string) int {
	if len(s) != 3 {
		return 0
	}
	n := 0
	for i := range 3 {
		c := s[i] - '0'
		if c > 9 {
			return 0
		}
		n = n*10 + int(c)
	}
	if n < 100 || n > 599 {
		return 0
	}
	return n
}

func parseLength(v string) int64 {
	if len(v) == 0 || len(v) > 18 {
		return -1
	}
	var n int64
	for i := 0; i < len(v); i++ {
		c := v[i] - '0'
		if c > 9 {
			return -1
		}
		n = n*10 + int64(c)
	}
	return n
}

// String names the code.
func (c ErrCode) String() string {
	names := [...]string{
		"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
		"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
		"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
	}
	if int(c) < len(names) {
		return names[c]
	}
	return "unknown code"
}
