package differential

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"time"
)

type field struct{ name, value string }

// op is one thing that an end of an exchange does.
type op struct {
	who    byte // 'c' the caller, 'u' the upstream
	do     string
	n      int // bytes of data
	status int
	fields []field
	end    bool   // the message ends with this
	frame  string // an HTTP/1.1 message's framing: "" none, "length", "chunked", "close"
	length int    // with "length"
	code   uint32 // of an HTTP/2 reset
	text   string // what is written literally
}

// script is one exchange.
type script struct {
	id       int
	kind     string
	down, up int // versions of HTTP
	method   string
	path     string
	host     string
	fields   []field
	frame    string
	length   int
	ops      []op
	// tries is what the upstream does in each try once the request is whole; ops is then the caller's alone.
	tries [][]op
	// local: the upstream is not to be asked.
	local bool
	// raw is what is written in place of a request's head.
	raw string
	// alone: no other exchange is under way meanwhile.
	alone bool
}

func (s *script) String() string {
	if s.kind == "tcp" {
		return fmt.Sprintf("%d tcp", s.id)
	}
	return fmt.Sprintf("%d %s h%d>h%d %s %s", s.id, s.kind, s.down, s.up, s.method, s.path)
}

// message is what an end has seen of the message that came to it. The reader of a connection fills it.
type message struct {
	mu   sync.Mutex
	wake chan struct{} // closed and made anew at each change

	infos    []string
	start    map[string]string // :method, :status, …
	fields   []field
	frame    string
	body     []byte
	trailers []field
	end      string // "" while it goes on
	after    string // what came behind the end
}

func newMessage() *message { return &message{wake: make(chan struct{}), start: map[string]string{}} }

func (m *message) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.wake)
	m.wake = make(chan struct{})
}

// finish sets how the message ended, once.
func (m *message) finish(how string) {
	m.change(func() {
		if m.end == "" {
			m.end = how
		}
	})
}

// left is told when the other side goes away behind the message's end.
func (m *message) left(how string) { m.change(func() { m.after = how }) }

func (m *message) await(d time.Duration, ok func() bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		m.mu.Lock()
		done, wake := ok(), m.wake
		m.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-wake:
		case <-t.C:
			return false
		}
	}
}

// lines are what was seen, by name.
func (m *message) lines(prefix string, to map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range m.start {
		to[prefix+k] = v
	}
	for i, s := range m.infos {
		to[fmt.Sprintf("%sinfo.%d", prefix, i+1)] = s
	}
	put := func(p string, fs []field) {
		for _, f := range fs {
			k := prefix + p + strings.ToLower(f.name)
			if old, ok := to[k]; ok {
				to[k] = old + " | " + f.value
			} else {
				to[k] = f.value
			}
		}
	}
	put("h.", m.fields)
	put("t.", m.trailers)
	to[prefix+"frame"] = m.frame
	to[prefix+"body"] = brief(m.body)
	to[prefix+"end"] = m.end
	if m.after != "" {
		to[prefix+"after"] = m.after
	}
}

func brief(b []byte) string {
	if len(b) <= 200 {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%d bytes %08x", len(b), crc32.ChecksumIEEE(b))
}

// data is n bytes of an exchange's body, from an offset.
func data(id, at, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[(id*7+(at+i)*5+(at+i)/36)%36]
	}
	return b
}

// caller is the end that asks.
type caller interface {
	got() *message
	head(s *script, end bool)
	data(b []byte, end bool)
	trailers(fs []field)
	end()
	write(b []byte)
	reset(code uint32)
	half()
	close()
}

// answerer is the upstream's end of one try.
type answerer interface {
	seen() *message
	info(status int, fs []field)
	head(o *op)
	data(b []byte, end bool)
	trailers(fs []field)
	end()
	reset(code uint32)
	write(b []byte)
	goAway()
	close()
}

// hub brings the tries that arrive to the script that they belong to.
type hub struct {
	mu  sync.Mutex
	all map[int]*waiting
}

type waiting struct {
	s     *script
	tries []answerer
	came  chan answerer
}

// caseOf finds the exchange's number: in its own field, else in the path: /…/case-7/….
func caseOf(m *message) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, s, _ := strings.Cut(m.start[":path"], "case-")
	for i, f := range m.fields {
		if strings.EqualFold(f.name, "X-Case") {
			s = f.value
			m.fields = slices.Delete(m.fields, i, i+1)
			break
		}
	}
	_, _ = fmt.Sscanf(s, "%d", &n)
	return n
}

func (h *hub) expect(s *script) *waiting {
	w := &waiting{s: s, came: make(chan answerer, 16)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[s.id] = w
	return w
}

func (h *hub) arrived(a answerer) bool {
	n := caseOf(a.seen())
	h.mu.Lock()
	w := h.all[n]
	if w == nil {
		h.mu.Unlock()
		return false
	}
	k := len(w.tries)
	w.tries = append(w.tries, a)
	h.mu.Unlock()
	if w.s.tries == nil {
		w.came <- a
		return true
	}
	go func() {
		m := a.seen()
		if !m.await(patience, func() bool { return m.end != "" }) || k >= len(w.s.tries) {
			a.reset(2)
			return
		}
		at := 0
		for i := range w.s.tries[k] {
			answer(a, &w.s.tries[k][i], w.s.id, &at)
		}
	}()
	return true
}

// answer does one step of the upstream's.
func answer(a answerer, o *op, id int, at *int) {
	switch o.do {
	case "info":
		a.info(o.status, o.fields)
	case "head":
		a.head(o)
	case "data":
		a.data(data(id, *at, o.n), o.end)
		*at += o.n
	case "trailers":
		a.trailers(o.fields)
	case "end":
		a.end()
	case "reset":
		a.reset(o.code)
	case "write":
		a.write([]byte(o.text))
	case "close":
		a.close()
	case "goaway":
		a.goAway()
	case "silent":
	default:
		panic(o.do)
	}
}

// patience bounds what is waited for. It is not reached where all goes well.
const patience = 5 * time.Second

// run plays a script and returns what both ends have seen.
func run(h *hub, s *script, dial func() (caller, error)) map[string]string {
	out := map[string]string{}
	w := h.expect(s)
	c, err := dial()
	if err != nil {
		out["dial"] = err.Error()
		return out
	}
	defer c.close()
	got := c.got()
	var a answerer
	over := func() bool { return got.end != "" }
	sent, answered := 0, 0
	// upstream waits for the try; nil where the exchange was over before one came.
	upstream := func() *message {
		if a == nil && s.tries == nil && !s.local {
			deadline := time.NewTimer(patience)
			defer deadline.Stop()
			for a == nil {
				got.mu.Lock()
				ended, wake := got.end != "", got.wake
				got.mu.Unlock()
				if ended {
					select {
					case a = <-w.came:
					default:
						return nil
					}
					break
				}
				select {
				case a = <-w.came:
				case <-wake:
				case <-deadline.C:
					out["note"] += "no try came;"
					return nil
				}
			}
		}
		if a == nil {
			return nil
		}
		return a.seen()
	}
	for i := range s.ops {
		o := &s.ops[i]
		ok := true
		if o.who == 'u' {
			if upstream() == nil {
				break
			}
			answer(a, o, s.id, &answered)
			switch o.do {
			case "info": // what comes behind it shows that it came, or did not
			case "head":
				ok = got.await(patience, func() bool { return over() || got.start[":status"] != "" && (!o.end || over()) })
			case "data":
				ok = got.await(patience, func() bool { return over() || len(got.body) >= answered && (!o.end || over()) })
			case "trailers", "end", "reset", "close":
				ok = got.await(patience, over)
			}
		} else {
			switch o.do {
			case "head":
				c.head(s, o.end)
			case "data":
				c.data(data(s.id, sent, o.n), o.end)
				sent += o.n
			case "trailers":
				c.trailers(o.fields)
			case "end":
				c.end()
			case "reset":
				c.reset(o.code)
			case "half":
				c.half()
			case "close":
				c.close()
			case "write":
				c.write([]byte(o.text))
			default:
				panic(o.do)
			}
			if m := upstream(); m != nil && o.do != "write" {
				n, end := sent, o.end || o.do == "end" || o.do == "trailers"
				gone := o.do == "reset" || o.do == "close" || o.do == "half"
				ok = m.await(patience, func() bool {
					if gone {
						return m.end != "" && (m.end != "whole" || m.after != "" || s.kind == "tcp")
					}
					if s.kind == "websocket" { // the request has ended, the tunnel behind it goes on
						return m.after != "" || len(m.body) >= n
					}
					return m.end != "" || len(m.body) >= n && !end
				})
			}
		}
		if !ok {
			out["note"] += fmt.Sprintf("step %d (%c %s) was in vain;", i, o.who, o.do)
		}
	}
	if !got.await(patience, over) {
		out["note"] += "no end;"
	}
	c.close()
	got.lines("caller.", out)
	h.mu.Lock()
	tries := slices.Clone(w.tries)
	delete(h.all, s.id)
	h.mu.Unlock()
	out["tries"] = fmt.Sprint(len(tries))
	for i, t := range tries {
		m := t.seen()
		if !m.await(patience, func() bool { return m.end != "" }) {
			out["note"] += fmt.Sprintf("try %d has no end;", i+1)
		}
		m.lines(fmt.Sprintf("upstream.%d.", i+1), out)
		if s.kind != "caller-leaves" {
			delete(out, fmt.Sprintf("upstream.%d.after", i+1)) // whether a connection is kept is not the exchange's
		}
		t.close()
	}
	return out
}
