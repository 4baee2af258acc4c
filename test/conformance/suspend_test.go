package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// script is what the scripted filter does with one exchange, at one stage, and what it has seen.
type script struct {
	stage    exchange.Stage
	how      how
	again    bool // suspend a second time before going on
	respond  bool // answer instead of going on
	buffer   bool // ask for the whole body
	parked   chan *exchange.Exchange
	ended    chan struct{}
	calls    [2]int // of each stage
	ends     atomic.Int64
	flags    exchange.Flag
	bodySeen string
}

// how says when Resume comes.
type how uint8

const (
	later  how = iota // the test decides
	before            // before the filter returns
	racing            // from another goroutine, while the filter returns
	timer             // by ResumeAfter
)

func (h how) String() string { return [...]string{"later", "before", "racing", "timer"}[h] }

// scripted is the filter: it finds its script by the request's x-script field.
type scripted struct {
	mu      sync.Mutex
	scripts map[string]*script
}

func (f *scripted) of(x *exchange.Exchange) *script {
	id, ok := x.Req.Header.Get("x-script")
	if !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scripts[id]
}

func (f *scripted) add(id string, s *script) {
	s.parked, s.ended = make(chan *exchange.Exchange, 4), make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scripts[id] = s
}

func (f *scripted) Request(x *exchange.Exchange) snapshot.Verdict { return f.step(x, exchange.Request) }

func (f *scripted) Response(x *exchange.Exchange) snapshot.Verdict {
	return f.step(x, exchange.Response)
}

func (f *scripted) step(x *exchange.Exchange, stage exchange.Stage) snapshot.Verdict {
	s := f.of(x)
	if s == nil || stage != s.stage {
		return snapshot.Continue
	}
	s.calls[stage]++
	n := s.calls[stage]
	if n == 1 || s.again && n == 2 {
		if s.buffer && n == 1 {
			x.Buffer(stage, 1<<20)
			return snapshot.Suspend
		}
		switch s.how {
		case before:
			x.Resume()
		case racing:
			go x.Resume()
		case timer:
			x.ResumeAfter(int64(time.Millisecond))
		}
		s.parked <- x
		return snapshot.Suspend
	}
	if s.buffer {
		s.bodySeen = string(x.ReqBody)
		if stage == exchange.Response {
			s.bodySeen = string(x.RespBody)
		}
	}
	if s.respond {
		x.Respond(418, exchange.FaultInjected, "scripted")
		return snapshot.Respond
	}
	return snapshot.Continue
}

func (f *scripted) End(x *exchange.Exchange) {
	if s := f.of(x); s != nil {
		s.flags = x.Flags
		if s.ends.Add(1) == 1 {
			close(s.ended)
		}
	}
}

var protos = []bool{false, true}

func protoName(h2 bool) string {
	if h2 {
		return "HTTP2"
	}
	return "HTTP1"
}

// TestSuspendResumeCancel goes through every order of Suspend, Resume and the caller's leaving, at both stages, over both
// protocols: End comes exactly once, a late Resume does nothing, and nobody else is held up.
func TestSuspendResumeCancel(t *testing.T) {
	m := newMesh(t)
	id := 0
	for _, h2 := range protos {
		client := m.client(t, h2)
		for _, stage := range []exchange.Stage{exchange.Request, exchange.Response} {
			for _, h := range []how{later, before, racing, timer} {
				for _, again := range []bool{false, true} {
					for _, respond := range []bool{false, true} {
						for _, body := range []string{"", "some body"} {
							orders := []string{"R"}
							if h == later {
								orders = []string{"R", "CR", "RC", "R|C", "C"}
							}
							for _, order := range orders {
								id++
								name := fmt.Sprintf("%s/stage%d/%s/again=%v/respond=%v/body=%d/%s", protoName(h2), stage, h, again, respond, len(body), order)
								s := &script{stage: stage, how: h, again: again, respond: respond}
								m.script.add(strconv.Itoa(id), s)
								if !t.Run(name, func(t *testing.T) { m.run(t, client, strconv.Itoa(id), s, order, body) }) {
									return
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d orders", id)
	m.settled(t)
}

func (m *mesh) run(t *testing.T, client *http.Client, id string, s *script, order, body string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, m.url+"/echo", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Script", id)
	type result struct {
		status int
		body   string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			done <- result{err: err}
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		done <- result{resp.StatusCode, string(b), err}
	}()
	x := receive(t, s.parked)
	if s.how == later {
		m.ping(t, client) // somebody else, meanwhile, over the same protocol
	}
	again := func() {
		if s.again && s.how == later {
			x = receive(t, s.parked)
			x.Resume()
		}
	}
	switch order {
	case "R":
		if s.how == later {
			x.Resume()
			again()
		}
	case "C":
		cancel()
	case "CR":
		cancel()
		receive(t, s.ended)
		x.Resume() // late: the exchange is over
	case "RC":
		x.Resume()
		if s.again {
			receive(t, s.parked)
		}
		cancel()
	case "R|C":
		var wg sync.WaitGroup
		wg.Go(x.Resume)
		wg.Go(cancel)
		wg.Wait()
		if s.again {
			// the second suspension may or may not have come: whichever, nobody resumes it, and the cancel ends it
			cancel()
		}
	}
	r := receive(t, done)
	receive(t, s.ended)
	if order == "R" {
		want, wantBody := 200, "got:"+body
		if s.respond {
			want, wantBody = 418, "scripted (FI)\n"
		}
		if r.err != nil || r.status != want || r.body != wantBody {
			t.Fatalf("status %d, body %q, %v; want %d, %q", r.status, r.body, r.err, want, wantBody)
		}
	} else if r.err != nil && !errors.Is(r.err, context.Canceled) {
		t.Fatalf("the caller's error: %v", r.err)
	}
	if order == "C" || order == "CR" {
		if r.err == nil {
			t.Fatalf("an answer after the caller had left: %+v", r)
		}
		if s.flags&exchange.DownstreamConnectionEnd == 0 {
			t.Fatalf("flags %v, want DC", s.flags)
		}
	}
	m.ping(t, client)
	if n := s.ends.Load(); n != 1 {
		t.Fatalf("End was called %d times", n)
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}

// TestBuffer has the filter wait for a whole body, of either side.
func TestBuffer(t *testing.T) {
	m := newMesh(t)
	for _, h2 := range protos {
		client := m.client(t, h2)
		for i, stage := range []exchange.Stage{exchange.Request, exchange.Response} {
			for _, n := range []int{0, 1, 70_000, 900_000} {
				t.Run(fmt.Sprintf("%s/stage%d/%d", protoName(h2), stage, n), func(t *testing.T) {
					body := bytes.Repeat([]byte("x"), n)
					s := &script{stage: stage, how: before, buffer: true}
					id := fmt.Sprintf("b-%v-%d-%d", h2, i, n)
					m.script.add(id, s)
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url+"/echo", bytes.NewReader(body))
					req.Header.Set("X-Script", id)
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					want := "got:" + string(body)
					if err != nil || string(got) != want {
						t.Fatalf("%d bytes came back, %v", len(got), err)
					}
					receive(t, s.ended)
					if stage == exchange.Request {
						want = string(body)
					}
					if s.bodySeen != want {
						t.Fatalf("the filter saw %d bytes, want %d", len(s.bodySeen), len(want))
					}
				})
			}
		}
	}
	m.settled(t)
}

// TestRealFilters sends calls through rate limit, fault delay and header operations, configured as Envoy's.
func TestRealFilters(t *testing.T) {
	m := newMesh(t)
	for _, h2 := range protos {
		t.Run(protoName(h2), func(t *testing.T) {
			client := m.client(t, h2)
			get := func(path string) *http.Response {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, m.url+path, nil)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				return resp
			}
			// header operations: set, add and remove, on both sides
			resp := get("/headers")
			if resp.Header.Get("Saw-X-Added") != "yes" || resp.Header.Get("Saw-User-Agent") != "" || resp.Header.Get("X-Tag") != "v1" || resp.Header.Get("X-Secret") != "" {
				t.Errorf("headers: %v", resp.Header)
			}
			// a delay of 100 ms before the upstream sees the call
			before := m.hits.Load()
			begin := time.Now()
			resp = get("/delayed")
			if d := time.Since(begin); resp.StatusCode != 200 || d < 100*time.Millisecond || m.hits.Load() != before+1 {
				t.Errorf("delayed: %s after %v", resp.Status, d)
			}
			// a bucket of two tokens for each protocol's path
			var codes []int
			for range 5 {
				codes = append(codes, get("/limited/"+protoName(h2)).StatusCode)
			}
			if want := []int{200, 200, 429, 429, 429}; fmt.Sprint(codes) != fmt.Sprint(want) {
				t.Errorf("limited: %v, want %v", codes, want)
			}
			resp = get("/limited/" + protoName(h2))
			if resp.Header.Get("Retry-After") == "" || resp.Header.Get("X-Outrigger-Reason") != "RL" {
				t.Errorf("a refusal without its reason: %v", resp.Header)
			}
		})
	}
	// a caller that leaves during the delay is noticed, and the upstream is never called
	for _, h2 := range protos {
		client := m.client(t, h2)
		before := m.hits.Load()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/delayed", nil)
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			t.Error("an answer within 20 ms of a delay of 100")
		}
		cancel()
		m.settled(t)
		if n := m.hits.Load(); n != before {
			t.Errorf("%s: the upstream was called for a caller that had left", protoName(h2))
		}
	}
}
