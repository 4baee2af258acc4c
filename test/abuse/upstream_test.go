package abuse

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// upstreamServer records what it is sent. Requests for /fence are the tests' own: they are answered with their query and
// not recorded.
type upstreamServer struct {
	addr string
	h2   bool

	mu     sync.Mutex
	got    []*recorded
	answer string // of the present case
	shut   bool   // the answer ends the connection
	big    int64  // bytes of the usual answer's body, 0: "ok"
}

type recorded struct {
	raw bytes.Buffer
}

func newUpstream(t *testing.T, h2 bool) *upstreamServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstreamServer{addr: l.Addr().String(), h2: h2}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				if h2 {
					u.serve2(c)
				} else {
					u.serve(c)
				}
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return u
}

// begin forgets what was recorded, and returns how much that was.
func (u *upstreamServer) begin(answer string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.got)
	u.got, u.answer, u.shut = nil, answer, false
	if a, ok := strings.CutSuffix(strings.TrimSpace(answer), "${close}"); ok {
		u.answer, u.shut = a, true
	}
	return n
}

func (u *upstreamServer) requests() (n int, raw string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var b strings.Builder
	for _, r := range u.got {
		b.Write(r.raw.Bytes())
	}
	return len(u.got), b.String()
}

func (u *upstreamServer) record(b []byte) *recorded {
	r := &recorded{}
	r.raw.Write(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.got = append(u.got, r)
	return r
}

func (u *upstreamServer) more(r *recorded, b []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r.raw.Write(b)
}

// tee keeps what was read since it was last emptied.
type tee struct {
	r io.Reader
	b bytes.Buffer
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.b.Write(p[:n])
	return n, err
}

func (u *upstreamServer) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		if _, err := br.Peek(1); err != nil {
			return
		}
		t := &tee{r: br}
		one := bufio.NewReaderSize(oneByte{t}, 16)
		req, err := http.ReadRequest(one)
		if err != nil {
			u.record(append([]byte("UNREADABLE "), t.b.Bytes()...))
			return
		}
		if req.URL.Path == "/fence" {
			_, _ = io.Copy(io.Discard, req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.RawQuery), req.URL.RawQuery)
			continue
		}
		r := u.record(t.b.Bytes())
		t.b.Reset()
		_, err = io.Copy(io.Discard, req.Body)
		u.more(r, t.b.Bytes())
		if err != nil {
			return
		}
		u.mu.Lock()
		answer, shut, big := u.answer, u.shut, u.big
		u.mu.Unlock()
		switch {
		case answer != "":
			b, err := expand(answer)
			if err != nil {
				panic(err)
			}
			_, _ = c.Write(b)
			if shut {
				return
			}
		case big > 0:
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", big)
			if _, err := io.CopyN(c, zeros{}, big); err != nil {
				return
			}
		case req.Method == "HEAD":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		default:
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
}

// oneByte keeps bufio from reading ahead: what is in the tee is then exactly one request.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (u *upstreamServer) serve2(c net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	fr := http2.NewFramer(c, c)
	if fr.WriteSettings() != nil {
		return
	}
	dec := hpack.NewDecoder(4096, nil)
	var mu sync.Mutex // of writes
	fr.ReadMetaHeaders = dec
	fr.MaxHeaderListSize = 1 << 20
	open := map[uint32]*recorded{}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if se := (http2.StreamError{}); errors.As(err, &se) {
				u.record(fmt.Appendf(nil, "UNREADABLE %v\n", se))
				continue
			}
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() && fr.WriteSettingsAck() != nil {
				return
			}
		case *http2.PingFrame:
			if !f.IsAck() && fr.WritePing(true, f.Data) != nil {
				return
			}
		case *http2.DataFrame:
			if r := open[f.StreamID]; r != nil {
				u.more(r, f.Data())
			}
			if n := uint32(len(f.Data())); n > 0 {
				_ = fr.WriteWindowUpdate(0, n)
			}
		case *http2.RSTStreamFrame:
			delete(open, f.StreamID)
		case *http2.MetaHeadersFrame:
			if open[f.StreamID] != nil {
				continue
			}
			var b bytes.Buffer
			path := ""
			for _, h := range f.Fields {
				fmt.Fprintf(&b, "%s: %s\n", h.Name, h.Value)
				if h.Name == ":path" {
					path = h.Value
				}
			}
			var answer string
			if q, ok := strings.CutPrefix(path, "/fence?"); ok {
				answer = fmt.Sprintf("headers %d :status=200\ndata %d end %q", f.StreamID, f.StreamID, q)
			} else {
				open[f.StreamID] = u.record(b.Bytes())
				u.mu.Lock()
				answer = u.answer
				u.mu.Unlock()
				if answer == "" {
					answer = "headers $s :status=200\ndata $s end ok"
					if u.big > 0 { // as much as the windows let through at first
						answer = "headers $s :status=200\nrepeat 15\ndata $1 ${\"a\"*16000}\ndone"
					}
				}
			}
			s, err := assemble(answer, f.StreamID)
			if err != nil {
				panic(err)
			}
			mu.Lock()
			_, err = c.Write(s.out.Bytes())
			mu.Unlock()
			if err != nil || s.close {
				return
			}
		}
	}
}
