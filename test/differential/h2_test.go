package differential

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Conn is one side of an HTTP/2 connection: it writes frames and notes what comes by stream.
type h2Conn struct {
	c  net.Conn
	fr *http2.Framer

	mu      sync.Mutex // of what is written
	enc     *hpack.Encoder
	room    *sync.Cond       // on mu: a window has opened, or the connection has ended
	window  int64            // what may be sent on the connection
	initial int64            // what a stream's window is at first
	windows map[uint32]int64 // by stream, from its first data on
	ended   bool
	buf     bytes.Buffer
	server  bool
	streams map[uint32]*message
	reading sync.Mutex // of streams
	open    func(id uint32, m *message)
}

func newH2(c net.Conn, server bool) *h2Conn {
	h := &h2Conn{c: c, fr: http2.NewFramer(c, c), server: server, streams: map[uint32]*message{}, window: 65535, initial: 65535, windows: map[uint32]int64{}}
	h.room = sync.NewCond(&h.mu)
	h.enc = hpack.NewEncoder(&h.buf)
	h.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return h
}

func (h *h2Conn) hello() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.server {
		if _, err := io.WriteString(h.c, http2.ClientPreface); err != nil {
			return err
		}
	}
	if err := h.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24}); err != nil {
		return err
	}
	return h.fr.WriteWindowUpdate(0, 1<<30)
}

func (h *h2Conn) stream(id uint32) *message {
	h.reading.Lock()
	defer h.reading.Unlock()
	return h.streams[id]
}

func (h *h2Conn) add(id uint32, m *message) {
	h.reading.Lock()
	defer h.reading.Unlock()
	h.streams[id] = m
}

func (h *h2Conn) drop(id uint32) {
	h.reading.Lock()
	defer h.reading.Unlock()
	delete(h.streams, id)
}

// read notes what comes until the connection ends.
func (h *h2Conn) read() {
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			if se := (http2.StreamError{}); errors.As(err, &se) {
				if m := h.stream(se.StreamID); m != nil {
					m.finish("malformed")
				}
				continue
			}
			break
		}
		id := f.Header().StreamID
		m := h.stream(id)
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			h.headers(id, m, f)
		case *http2.DataFrame:
			if m != nil {
				b := f.Data()
				m.change(func() { m.body = append(m.body, b...) })
				if f.StreamEnded() {
					m.finish("whole")
				}
			}
		case *http2.RSTStreamFrame:
			if m != nil {
				m.left("reset " + f.ErrCode.String())
				m.finish("reset " + f.ErrCode.String())
				h.drop(id)
			}
			h.mu.Lock()
			h.windows[id] = 1 << 40 // nothing that waits is of any use
			h.room.Broadcast()
			h.mu.Unlock()
		case *http2.SettingsFrame:
			if !f.IsAck() {
				h.mu.Lock()
				if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
					for id := range h.windows {
						h.windows[id] += int64(v) - h.initial
					}
					h.initial = int64(v)
				}
				_ = h.fr.WriteSettingsAck()
				h.room.Broadcast()
				h.mu.Unlock()
			}
		case *http2.WindowUpdateFrame:
			h.mu.Lock()
			if id == 0 {
				h.window += int64(f.Increment)
			} else {
				h.open1(id)
				h.windows[id] += int64(f.Increment)
			}
			h.room.Broadcast()
			h.mu.Unlock()
		case *http2.PingFrame:
			if !f.IsAck() {
				h.mu.Lock()
				_ = h.fr.WritePing(true, f.Data)
				h.mu.Unlock()
			}
		}
	}
	h.mu.Lock()
	h.ended = true
	h.room.Broadcast()
	h.mu.Unlock()
	h.reading.Lock()
	defer h.reading.Unlock()
	for _, m := range h.streams {
		m.left("gone")
		m.finish("broken")
	}
}

func (h *h2Conn) headers(id uint32, m *message, f *http2.MetaHeadersFrame) {
	var fs []field
	start := map[string]string{}
	for _, hf := range f.Fields {
		if strings.HasPrefix(hf.Name, ":") {
			start[hf.Name] = hf.Value
		} else {
			fs = append(fs, field{hf.Name, hf.Value})
		}
	}
	if m == nil {
		if !h.server {
			return
		}
		m = newMessage()
		m.start, m.fields = start, fs
		h.add(id, m)
		if f.StreamEnded() {
			m.finish("whole")
		}
		h.open(id, m)
		return
	}
	m.change(func() {
		st, _ := strconv.Atoi(start[":status"])
		switch {
		case len(start) == 0:
			m.trailers = fs
		case st < 200:
			m.infos = append(m.infos, fmt.Sprint(st, fs))
		default:
			m.start, m.fields = start, fs
		}
	})
	if f.StreamEnded() {
		m.finish("whole")
	}
}

func (h *h2Conn) writeHeaders(id uint32, end bool, fs []field) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Reset()
	for _, f := range fs {
		_ = h.enc.WriteField(hpack.HeaderField{Name: strings.ToLower(f.name), Value: f.value})
	}
	b := h.buf.Bytes()
	first := true
	for first || len(b) > 0 {
		n := min(len(b), 16384)
		if first {
			_ = h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:n], EndStream: end, EndHeaders: n == len(b)})
		} else {
			_ = h.fr.WriteContinuation(id, n == len(b), b[:n])
		}
		b, first = b[n:], false
	}
}

// open1 makes a stream's window; h.mu is held.
func (h *h2Conn) open1(id uint32) {
	if _, ok := h.windows[id]; !ok {
		h.windows[id] = h.initial
	}
}

func (h *h2Conn) writeData(id uint32, b []byte, end bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open1(id)
	for {
		for len(b) > 0 && min(h.window, h.windows[id]) <= 0 && !h.ended {
			h.room.Wait()
		}
		n := min(len(b), 16384, int(max(min(h.window, h.windows[id]), 0)))
		if h.ended {
			return
		}
		h.window -= int64(n)
		h.windows[id] -= int64(n)
		_ = h.fr.WriteData(id, end && n == len(b), b[:n])
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
}

func (h *h2Conn) writeReset(id, code uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.fr.WriteRSTStream(id, http2.ErrCode(code))
}

// h2Caller has one exchange on a connection of its own.
type h2Caller struct {
	*h2Conn
	m  *message
	wg sync.WaitGroup
}

func dialH2(addr string) (caller, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	h := &h2Caller{h2Conn: newH2(c, false), m: newMessage()}
	h.add(1, h.m)
	if err := h.hello(); err != nil {
		_ = c.Close()
		return nil, err
	}
	h.wg.Go(h.read)
	return h, nil
}

func (c *h2Caller) got() *message { return c.m }

func (c *h2Caller) head(s *script, end bool) {
	fs := []field{{":method", s.method}, {":scheme", "http"}, {":path", s.path}, {":authority", s.host}}
	fs = append(fs, s.fields...)
	if s.frame == "length" {
		fs = append(fs, field{"content-length", fmt.Sprint(s.length)})
	}
	c.writeHeaders(1, end, fs)
}

func (c *h2Caller) data(b []byte, end bool) { c.writeData(1, b, end) }
func (c *h2Caller) trailers(fs []field)     { c.writeHeaders(1, true, fs) }
func (c *h2Caller) end()                    { c.writeData(1, nil, true) }
func (c *h2Caller) write(b []byte)          { _, _ = c.c.Write(b) }
func (c *h2Caller) half()                   {}

func (c *h2Caller) reset(code uint32) {
	c.writeReset(1, code)
	c.m.finish("given up")
}

func (c *h2Caller) close() {
	_ = c.c.Close()
	c.wg.Wait()
}

// h2Server is the upstream for HTTP/2.
type h2Server struct {
	l     net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
	stray atomic.Int64
}

func serveH2(hb *hub) (*h2Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &h2Server{l: l, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		acceptAll(l, &s.mu, s.conns, &s.wg, func(c net.Conn) {
			pre := make([]byte, len(http2.ClientPreface))
			if _, err := io.ReadFull(c, pre); err != nil {
				return
			}
			h := newH2(c, true)
			h.open = func(id uint32, m *message) {
				if !hb.arrived(&h2Answerer{h: h, id: id, m: m}) {
					s.stray.Add(1)
				}
			}
			if h.hello() == nil {
				h.read()
			}
		})
	})
	return s, nil
}

func (s *h2Server) close() {
	_ = s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

type h2Answerer struct {
	h  *h2Conn
	id uint32
	m  *message
}

func (e *h2Answerer) seen() *message { return e.m }

func (e *h2Answerer) info(status int, fs []field) {
	e.h.writeHeaders(e.id, false, append([]field{{":status", fmt.Sprint(status)}}, fs...))
}

func (e *h2Answerer) head(o *op) {
	fs := append([]field{{":status", fmt.Sprint(o.status)}}, o.fields...)
	if o.frame == "length" {
		fs = append(fs, field{"content-length", fmt.Sprint(o.length)})
	}
	e.h.writeHeaders(e.id, o.end, fs)
}

func (e *h2Answerer) data(b []byte, end bool) { e.h.writeData(e.id, b, end) }
func (e *h2Answerer) trailers(fs []field)     { e.h.writeHeaders(e.id, true, fs) }
func (e *h2Answerer) end()                    { e.h.writeData(e.id, nil, true) }
func (e *h2Answerer) reset(code uint32)       { e.h.writeReset(e.id, code) }
func (e *h2Answerer) write(b []byte) {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	_, _ = e.h.c.Write(b)
}

// goAway says that this stream is the last.
func (e *h2Answerer) goAway() {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	_ = e.h.fr.WriteGoAway(e.id, http2.ErrCodeNo, nil)
}

func (e *h2Answerer) close() {}
