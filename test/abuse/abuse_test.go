package abuse

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds one case.
const patience = 10 * time.Second

// minCases is how many cases there are at least.
const minCases = 80

// TestCorpus runs every case of testdata against one sidecar, one after another.
func TestCorpus(t *testing.T) {
	cases := readCases(t)
	if len(cases) < minCases {
		t.Errorf("%d cases; there were at least %d once", len(cases), minCases)
	}
	s := start(t, "")
	var peak int64
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := &run{T: t, s: s, c: c, id: i}
			r.run()
			peak = max(peak, r.peak)
		})
		select {
		case <-s.exited:
			t.Fatalf("%s: the sidecar has ended", c.name)
		default:
		}
	}
	t.Logf("%d cases; the sidecar's peak was %d KiB", len(cases), peak>>10)
}

// run is one case under way.
type run struct {
	*testing.T
	s    *sidecar
	c    *testCase
	id   int
	up   *upstreamServer
	peak int64

	statuses []int  // HTTP/1.1
	raw      []byte // HTTP/1.1: what came
	streams  map[uint32]int
	resets   map[uint32]string
	away     string
	closed   bool
}

func (r *run) run() {
	c, s := r.c, r.s
	r.up = s.up
	if strings.HasSuffix(c.listener, "h2h2") || c.listener == "h1h2" {
		r.up = s.up2
	}
	if n := r.up.begin(c.answer); n > 0 && r.id > 0 {
		r.Logf("%d requests were recorded before this case", n)
	}
	before := 0.0
	if c.counter != "" {
		before = s.counter(r.T, c.counter)
	}
	base := s.resetPeak(r.T)
	h2 := strings.HasPrefix(c.listener, "h2") || strings.HasPrefix(c.send, "preface")
	var frames *script // made before the connection is: its time runs
	if h2 {
		var err error
		if frames, err = assemble(c.send, 1); err != nil {
			r.Fatal(err)
		}
	}
	conn, err := net.Dial("tcp", s.addr[c.listener])
	if err != nil {
		r.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if h2 {
		r.http2(conn, frames)
	} else {
		r.http1(conn)
	}
	conn.Close()
	r.fence()
	r.check()
	if c.counter != "" {
		defer func() {
			if r.Failed() {
				r.Logf("counters: %v", s.stats(r.T, "outrigger_downstream_refused_total"))
			}
		}()
		s.wait(r.T, c.counter+" grows", func() bool { return s.counter(r.T, c.counter) > before })
	}
	r.peak = s.memory(r.T, "VmHWM")
	r.Logf("%s [%s]: peak %d KiB, %+d KiB", c.title, c.ref, r.peak>>10, (r.peak-base)>>10)
	if r.peak-base > c.memory {
		r.Errorf("the sidecar took %d KiB more; at most %d KiB are due", (r.peak-base)>>10, c.memory>>10)
	}
}

// fence makes an ordinary call by the same upstream connections: its answer must be its own.
func (r *run) fence() {
	listener := "h1"
	if r.up == r.s.up2 {
		listener = "h1h2"
	}
	want := fmt.Sprintf("fence-%d", r.id)
	for range 2 { // what was left behind by the first would be the answer of the second
		resp, err := http.Get("http://" + r.s.addr[listener] + "/fence?" + want)
		if err != nil {
			r.Errorf("an ordinary call afterwards: %v", err)
			return
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(b) != want {
			r.Errorf("an ordinary call afterwards: %s %q, want 200 %q", resp.Status, b, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func (r *run) expects(word string) bool {
	return slices.Contains(r.c.expect, word)
}

// http1 sends the bytes, and reads answers until the connection ends or, where it must stay open, all that are expected.
func (r *run) http1(c net.Conn) {
	b, err := expand(r.c.send)
	if err != nil {
		r.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		_, _ = c.Write(b)
		close(sent)
	}()
	var raw bytes.Buffer
	br := bufio.NewReader(io.TeeReader(c, &raw))
	want := -1
	if r.expects("open") {
		for _, e := range r.c.expect {
			if rest, ok := strings.CutPrefix(e, "status "); ok {
				want = len(strings.Fields(rest))
			}
		}
	}
	method := "GET"
	if bytes.HasPrefix(b, []byte("HEAD ")) {
		method = "HEAD"
	}
	read := func(method string) (*http.Response, string, error) {
		for {
			resp, err := http.ReadResponse(br, &http.Request{Method: method})
			if err != nil {
				return nil, "", err
			}
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode >= 200 || resp.StatusCode == 101 || err != nil {
				return resp, string(body), err
			}
		}
	}
	for len(r.statuses) != want {
		resp, _, err := read(method)
		if resp != nil {
			r.statuses = append(r.statuses, resp.StatusCode)
		}
		if err != nil {
			var te net.Error
			if errors.As(err, &te) && te.Timeout() {
				r.Error("nothing more came within ", patience)
			}
			r.closed = true
			break
		}
	}
	<-sent
	if !r.closed {
		q := fmt.Sprintf("again-%d", r.id)
		fmt.Fprintf(c, "GET /fence?%s HTTP/1.1\r\nHost: a.test\r\n\r\n", q)
		resp, body, err := read("GET")
		if err != nil || resp.StatusCode != 200 || body != q {
			r.closed = true
			r.Errorf("another request on the connection: %v %q %v", resp, body, err)
		}
	}
	r.raw = raw.Bytes()
}

// http2 sends the script, and reads frames until the connection ends or, where it must stay open, a ping sent behind all
// else is answered and every stream that is expected to end has ended.
func (r *run) http2(c net.Conn, s *script) {
	r.streams, r.resets = map[uint32]int{}, map[uint32]string{}
	sent := make(chan struct{})
	open := r.expects("open")
	probe := [8]byte{'a', 'b', 'u', 's', 'e'}
	go func() {
		defer close(sent)
		if _, err := c.Write(s.out.Bytes()); err != nil {
			return
		}
		if s.close {
			_ = c.(*net.TCPConn).CloseWrite()
		}
		if open {
			_ = http2.NewFramer(c, nil).WritePing(false, probe)
		}
	}()
	fr := http2.NewFramer(nil, bufio.NewReaderSize(c, 1<<16))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	ponged := false
	for !ponged || !r.satisfied() {
		f, err := fr.ReadFrame()
		if err != nil {
			if errors.As(err, new(http2.StreamError)) {
				r.Error("a malformed stream from the sidecar: ", err)
				continue
			}
			var te net.Error
			if errors.As(err, &te) && te.Timeout() {
				r.Error("nothing more came within ", patience)
			}
			r.closed = true
			break
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			ponged = ponged || f.IsAck() && f.Data == probe
		case *http2.GoAwayFrame:
			r.away = f.ErrCode.String()
		case *http2.RSTStreamFrame:
			if r.resets[f.StreamID] == "" { // what was on its way then is refused once more
				r.resets[f.StreamID] = f.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			n, _ := strconv.Atoi(f.PseudoValue("status"))
			if n >= 200 {
				r.streams[f.StreamID] = n
			}
		}
	}
	c.Close()
	<-sent
}

// satisfied says whether each stream that must end, or be answered, has.
func (r *run) satisfied() bool {
	for _, e := range r.c.expect {
		w := strings.Fields(e)
		if len(w) == 3 && (w[0] == "status" || w[0] == "reset") {
			id, _ := strconv.ParseUint(w[1], 10, 32)
			if w[0] == "status" && r.streams[uint32(id)] == 0 || w[0] == "reset" && r.resets[uint32(id)] == "" {
				return false
			}
		}
	}
	return true
}

func (r *run) check() {
	h2 := r.streams != nil
	for _, e := range r.c.expect {
		w := strings.Fields(e)
		switch {
		case e == "open":
			if r.closed {
				r.Errorf("the connection was closed (GOAWAY %q), it must stay open", r.away)
			}
		case e == "closed":
			if !r.closed {
				r.Error("the connection stays open")
			}
		case w[0] == "status" && h2:
			id, _ := strconv.ParseUint(w[1], 10, 32)
			if got := strconv.Itoa(r.streams[uint32(id)]); got != w[2] {
				r.Errorf("stream %d: status %s, want %s (reset %q, GOAWAY %q)", id, got, w[2], r.resets[uint32(id)], r.away)
			}
		case w[0] == "status":
			if got := strings.Trim(fmt.Sprint(r.statuses), "[]"); got != strings.Join(w[1:], " ") {
				r.Errorf("answers %q, want %q: %.300q", got, strings.Join(w[1:], " "), r.raw)
			}
		case w[0] == "reset":
			id, _ := strconv.ParseUint(w[1], 10, 32)
			if got := r.resets[uint32(id)]; !slices.Contains(strings.Split(w[2], "|"), got) {
				r.Errorf("stream %d: reset %q, want %s (status %d, GOAWAY %q)", id, got, w[2], r.streams[uint32(id)], r.away)
			}
		case w[0] == "goaway":
			if !slices.Contains(strings.Split(w[1], "|"), r.away) {
				r.Errorf("GOAWAY %q, want %s", r.away, w[1])
			}
		case w[0] == "answer":
			r.contains(e, string(r.raw))
		case w[0] == "upstream" && len(w) == 2:
			r.upstream(w[1])
		case w[0] == "upstream":
			_, raw := r.up.requests()
			r.contains(e, raw)
		default:
			r.Errorf("unknown expectation %q", e)
		}
	}
}

// upstream checks the number of requests that the upstream saw: N or N-M.
func (r *run) upstream(want string) {
	lo, hi, ok := strings.Cut(want, "-")
	if !ok {
		hi = lo
	}
	least, err1 := strconv.Atoi(lo)
	most, err2 := strconv.Atoi(hi)
	if err1 != nil || err2 != nil {
		r.Fatalf("upstream %q", want)
	}
	r.s.wait(r.T, "the upstream sees "+want+" requests", func() bool { n, _ := r.up.requests(); return n >= least })
	if n, raw := r.up.requests(); n > most {
		r.Errorf("the upstream saw %d requests, want %s: %.500q", n, want, raw)
	}
}

// contains checks `WHO ~ "text"` and `WHO !~ "text"`.
func (r *run) contains(e, text string) {
	_, rest, _ := strings.Cut(e, " ")
	op, q, _ := strings.Cut(rest, " ")
	want, err := strconv.Unquote(q)
	if err != nil {
		r.Fatalf("%q: %v", e, err)
	}
	if strings.Contains(text, want) != (op == "~") {
		r.Errorf("%s: %.500q", e, text)
	}
}
