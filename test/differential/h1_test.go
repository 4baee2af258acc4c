package differential

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

func headerFields(h http.Header) (fs []field) {
	for _, k := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[k] {
			fs = append(fs, field{k, v})
		}
	}
	return fs
}

func appendFields(b []byte, fs []field) []byte {
	for _, f := range fs {
		b = append(b, f.name+": "+f.value+"\r\n"...)
	}
	return b
}

// writer writes an HTTP/1.1 message.
type writer struct {
	c     net.Conn
	frame string
}

func (w *writer) write(b []byte) { _, _ = w.c.Write(b) }

func (w *writer) framing(b []byte, frame string, n int) []byte {
	w.frame = frame
	switch frame {
	case "length":
		b = fmt.Appendf(b, "Content-Length: %d\r\n", n)
	case "chunked":
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(b, "\r\n"...)
}

func (w *writer) data(b []byte, end bool) {
	if w.frame == "chunked" {
		out := fmt.Appendf(nil, "%x\r\n%s\r\n", len(b), b)
		if end {
			out = append(out, "0\r\n\r\n"...)
		}
		w.write(out)
		return
	}
	w.write(b)
	if end {
		w.end()
	}
}

func (w *writer) end() {
	switch w.frame {
	case "chunked":
		w.write([]byte("0\r\n\r\n"))
	case "close":
		_ = w.c.(*net.TCPConn).CloseWrite()
	}
}

func (w *writer) trailers(fs []field) { w.write(append(appendFields([]byte("0\r\n"), fs), "\r\n"...)) }

// reset sends RST.
func (w *writer) reset() {
	_ = w.c.(*net.TCPConn).SetLinger(0)
	_ = w.c.Close()
}

// readBody notes a message's body as it comes.
func readBody(m *message, r io.Reader) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m.change(func() { m.body = append(m.body, buf[:n]...) })
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func frameOf(coding []string, length int64) string {
	switch {
	case len(coding) > 0:
		return strings.Join(coding, ",")
	case length >= 0:
		return fmt.Sprint(length)
	}
	return "close"
}

// h1Caller is a connection with one exchange on it.
type h1Caller struct {
	writer
	m  *message
	wg sync.WaitGroup
}

func dialH1(addr string) (caller, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &h1Caller{writer: writer{c: c}, m: newMessage()}, nil
}

func (c *h1Caller) got() *message { return c.m }

func (c *h1Caller) head(s *script, _ bool) {
	var b []byte
	if s.raw != "" {
		b = append(b, strings.ReplaceAll(s.raw, "ID", fmt.Sprint(s.id))...)
	} else {
		b = fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n", s.method, s.path, s.host)
		b = c.framing(appendFields(b, s.fields), s.frame, s.length)
	}
	c.frame = s.frame
	c.write(b)
	c.wg.Go(func() { c.read(s.method) })
}

func (c *h1Caller) read(method string) {
	r := bufio.NewReader(c.c)
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			c.m.finish(broken("no answer", err))
			return
		}
		if resp.StatusCode < 200 && resp.StatusCode != 101 {
			c.m.change(func() { c.m.infos = append(c.m.infos, fmt.Sprint(resp.StatusCode, headerFields(resp.Header))) })
			continue
		}
		c.m.change(func() {
			c.m.start[":status"] = fmt.Sprint(resp.StatusCode)
			c.m.start[":close"] = fmt.Sprint(resp.Close)
			c.m.start[":version"] = resp.Proto
			c.m.fields = headerFields(resp.Header)
			if resp.StatusCode != 101 {
				c.m.frame = frameOf(resp.TransferEncoding, resp.ContentLength)
			}
		})
		body := io.Reader(resp.Body)
		if resp.StatusCode == 101 {
			body = r
		}
		err = readBody(c.m, body)
		c.m.change(func() { c.m.trailers = headerFields(resp.Trailer) })
		if err != nil {
			c.m.finish(broken("broken", err))
			return
		}
		c.m.finish("whole")
		return
	}
}

// broken does not tell how a connection ended, by FIN or by RST: that depends on what was in the sockets.
func broken(what string, _ error) string { return what }

func (c *h1Caller) reset(uint32) { c.writer.reset() }

func (c *h1Caller) half() { _ = c.c.(*net.TCPConn).CloseWrite() }

func (c *h1Caller) close() {
	_ = c.c.Close()
	c.wg.Wait()
}

// h1Server is the upstream for HTTP/1.1.
type h1Server struct {
	l     net.Listener
	hub   *hub
	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
	// stray counts requests of no script.
	stray atomic.Int64
}

func serveH1(hb *hub) (*h1Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &h1Server{l: l, hub: hb, conns: map[net.Conn]bool{}}
	s.wg.Go(func() { acceptAll(l, &s.mu, s.conns, &s.wg, s.serve) })
	return s, nil
}

func acceptAll(l net.Listener, mu *sync.Mutex, conns map[net.Conn]bool, wg *sync.WaitGroup, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		mu.Lock()
		conns[c] = true
		mu.Unlock()
		wg.Go(func() {
			serve(c)
			_ = c.Close()
			mu.Lock()
			delete(conns, c)
			mu.Unlock()
		})
	}
}

func (s *h1Server) close() {
	_ = s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *h1Server) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		e := &h1Answerer{writer: writer{c: c}, m: newMessage(), done: make(chan struct{})}
		e.m.start[":method"], e.m.start[":path"], e.m.start[":authority"] = req.Method, req.RequestURI, req.Host
		e.m.start[":close"] = fmt.Sprint(req.Close)
		e.m.fields = headerFields(req.Header)
		e.m.frame = frameOf(req.TransferEncoding, req.ContentLength)
		if !s.hub.arrived(e) {
			s.stray.Add(1)
			return
		}
		if err := readBody(e.m, req.Body); err != nil {
			e.m.finish(broken("broken", err))
			return
		}
		e.m.change(func() { e.m.trailers = headerFields(req.Trailer) })
		e.m.finish("whole")
		// The next request, the caller's half of a tunnel, or the end.
		if _, err = r.Peek(1); err != nil {
			e.m.left("gone")
			return
		}
		if e.tunnel.Load() {
			_ = readBody(e.m, r)
			e.m.left("gone")
			<-e.done // the other half may go on
			return
		}
	}
}

type h1Answerer struct {
	writer
	m      *message
	tunnel atomic.Bool
	once   sync.Once
	done   chan struct{}
}

func (e *h1Answerer) seen() *message { return e.m }

func (e *h1Answerer) info(status int, fs []field) {
	e.write(append(appendFields(fmt.Appendf(nil, "HTTP/1.1 %d Info\r\n", status), fs), "\r\n"...))
}

func (e *h1Answerer) head(o *op) {
	b := appendFields(fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", o.status, http.StatusText(o.status)), o.fields)
	if o.status == 101 {
		e.tunnel.Store(true)
	}
	e.write(e.framing(b, o.frame, o.length))
	if o.end && o.frame == "close" {
		e.end()
	}
}

// goAway is HTTP/2's.
func (e *h1Answerer) goAway() {}

func (e *h1Answerer) reset(uint32) { e.writer.reset() }

func (e *h1Answerer) close() {
	e.once.Do(func() { close(e.done) })
	if e.tunnel.Load() || e.frame == "close" {
		_ = e.c.Close()
	}
}

func (e *h1Answerer) write(b []byte) { e.writer.write(b) }
