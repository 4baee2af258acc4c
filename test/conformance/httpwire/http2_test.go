package httpwire_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is one end of an HTTP/2 connection, by hand.
type frames struct {
	*http2.Framer
	c   net.Conn
	buf bytes.Buffer
	enc *hpack.Encoder
}

func newFrames(c net.Conn, r io.Reader) *frames {
	f := &frames{c: c}
	f.Framer = http2.NewFramer(c, r)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.buf)
	return f
}

// caller opens a connection, and says nothing but the preface and its settings.
func (sc *sidecar) caller(t testing.TB, s ...http2.Setting) *frames {
	t.Helper()
	c, r := sc.dial(t)
	f := newFrames(c, r)
	_, _ = io.WriteString(c, http2.ClientPreface)
	if err := f.WriteSettings(s...); err != nil {
		t.Fatal(err)
	}
	return f
}

// callee serves each HTTP/2 connection as f does, after settings were exchanged.
func callee(t testing.TB, f func(n int, f *frames)) string {
	var n atomic.Int32
	return raw(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		fr := newFrames(c, r)
		_ = fr.WriteSettings()
		f(int(n.Add(1)), fr)
	})
}

func (f *frames) block(kv ...string) []byte {
	f.buf.Reset()
	for i := 0; i < len(kv); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return f.buf.Bytes()
}

func (f *frames) get(id uint32, path string, kv ...string) {
	b := f.block(append([]string{":method", "GET", ":scheme", "http", ":path", path, ":authority", "x"}, kv...)...)
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b, EndStream: true, EndHeaders: true})
}

// next reads up to the first frame that want takes.
func next[F http2.Frame](t testing.TB, f *frames, want func(F) bool) F {
	t.Helper()
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v before a %T", err, *new(F))
		}
		if s, ok := fr.(*http2.SettingsFrame); ok && !s.IsAck() {
			if n, ok := s.Value(http2.SettingHeaderTableSize); ok {
				f.enc.SetMaxDynamicTableSize(n)
			}
			_ = f.WriteSettingsAck()
		}
		if x, ok := fr.(F); ok && want(x) {
			return x
		}
	}
}

// What is configured is what the peer is told.
func TestHTTP2Settings(t *testing.T) {
	options := `{"initial_stream_window_size": 70000, "initial_connection_window_size": 80000, "hpack_table_size": 100, "max_concurrent_streams": 7, "allow_connect": true}`
	got := make(chan map[http2.SettingID]uint32, 2)
	take := func(f *frames) {
		m := map[http2.SettingID]uint32{}
		s := next(t, f, func(s *http2.SettingsFrame) bool { return !s.IsAck() })
		_ = s.ForeachSetting(func(s http2.Setting) error { m[s.ID] = s.Val; return nil })
		w := next(t, f, func(w *http2.WindowUpdateFrame) bool { return w.StreamID == 0 })
		m[0xff] = w.Increment
		got <- m
	}
	up := callee(t, func(_ int, f *frames) { take(f) })
	sc := start(t, spec{
		up: up, h2: true, cluster: options[1 : len(options)-1],
		hcm: `, "max_request_headers_kb": 96, "http2_protocol_options": ` + options,
	})
	f := sc.caller(t)
	take(f)
	m := <-got
	if m[http2.SettingInitialWindowSize] != 70000 || m[0xff] != 80000-65535 || m[http2.SettingHeaderTableSize] != 100 ||
		m[http2.SettingMaxConcurrentStreams] != 7 || m[http2.SettingMaxHeaderListSize] != 96<<10 || m[http2.SettingEnableConnectProtocol] != 1 {
		t.Error(m)
	}
	f.get(1, "/")
	if m = <-got; m[http2.SettingInitialWindowSize] != 70000 || m[0xff] != 80000-65535 || m[http2.SettingHeaderTableSize] != 100 || m[http2.SettingEnablePush] != 0 {
		t.Error(m)
	}
	for field, v := range map[string]string{
		"initial_stream_window_size": "0", "initial_connection_window_size": "1000", "hpack_table_size": "2000000", "max_concurrent_streams": "0",
		"allow_metadata": "true", "override_stream_error_on_invalid_http_message": "true", "max_outbound_frames": "0",
		"connection_keepalive.timeout": `{"interval": "1s", "timeout": "0s"}`, "connection_keepalive": `{"timeout": "1s"}`,
		"connection_keepalive.interval_jitter": `{"interval": "1s", "timeout": "1s", "interval_jitter": {"value": 101}}`,
		"custom_settings_parameters":           `[{"identifier": 9, "value": 1}]`,
	} {
		name, _, _ := strings.Cut(field, ".")
		refused(t, spec{hcm: `, "http2_protocol_options": {"` + name + `": ` + v + `}`}, "filter_chains[0].filters[0].typed_config.http2_protocol_options."+field)
	}
}

// A peer that gives no sign of life is left, on either side.
func TestHTTP2Keepalive(t *testing.T) {
	const alive = `"connection_keepalive": {"interval": "0.01s", "timeout": "0.05s", "interval_jitter": {"value": 0}}`
	t.Run("caller", func(t *testing.T) {
		sc := start(t, spec{up: mirror(t), hcm: `, "http2_protocol_options": {` + alive + `}`})
		f := sc.caller(t)
		for range 3 {
			p := next(t, f, func(p *http2.PingFrame) bool { return !p.IsAck() })
			_ = f.WritePing(true, p.Data)
		}
		next(t, f, func(p *http2.PingFrame) bool { return !p.IsAck() })
		for {
			if _, err := f.ReadFrame(); err != nil {
				return // closed by the sidecar: our deadline is far away
			}
		}
	})
	t.Run("callee", func(t *testing.T) {
		gone := make(chan struct{})
		up := callee(t, func(n int, f *frames) {
			h := next(t, f, func(*http2.MetaHeadersFrame) bool { return true })
			if n == 1 { // says nothing more
				for {
					if _, err := f.ReadFrame(); err != nil {
						close(gone)
						return
					}
				}
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: h.StreamID, BlockFragment: f.block(":status", "204"), EndHeaders: true, EndStream: true})
			_, _ = f.ReadFrame()
		})
		sc := start(t, spec{up: up, h2: true, cluster: alive, routes: `{"match": {"prefix": "/"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "reset", "num_retries": 1}}}`})
		resp, err := client(t, false).Get(sc.url + "/")
		if err != nil || resp.StatusCode != 204 {
			t.Fatal(resp, err)
		}
		<-gone
	})
	t.Run("callee that was idle", func(t *testing.T) {
		pings := make(chan struct{}, 10)
		up := callee(t, func(_ int, f *frames) {
			for {
				fr, err := f.ReadFrame()
				if err != nil {
					return
				}
				switch fr := fr.(type) {
				case *http2.PingFrame:
					pings <- struct{}{}
					_ = f.WritePing(true, fr.Data)
				case *http2.MetaHeadersFrame:
					_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: fr.StreamID, BlockFragment: f.block(":status", "204"), EndHeaders: true, EndStream: true})
				}
			}
		})
		sc := start(t, spec{up: up, h2: true, cluster: `"connection_keepalive": {"connection_idle_interval": "0.001s", "timeout": "5s"}`})
		c := client(t, false)
		waitFor(t, "a PING goes before a stream", func() bool {
			if resp, err := c.Get(sc.url + "/"); err != nil || resp.StatusCode != 204 {
				t.Fatal(resp, err)
			}
			return len(pings) > 0
		})
	})
}

// Tables of any size, in either direction, and heads that fill and empty them.
func TestHTTP2Tables(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		for k, v := range r.Header {
			if strings.HasPrefix(k, "X-N") {
				w.Header()[k] = v
			}
		}
	})
	for _, size := range []int{0, 1, 100, 4096, 65536} {
		for _, peer := range []uint32{0, 100, 4096, 65536} {
			options := fmt.Sprintf(`"hpack_table_size": %d`, size)
			sc := start(t, spec{up: up, h2: true, cluster: options, hcm: `, "http2_protocol_options": {` + options + `}`})
			tr := &http2.Transport{
				AllowHTTP: true, MaxDecoderHeaderTableSize: peer, MaxEncoderHeaderTableSize: peer,
				DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, addr)
				},
			}
			for i := range 30 {
				req, _ := http.NewRequest("GET", sc.url+"/", nil)
				for k := range 10 {
					req.Header.Set(fmt.Sprint("X-N-", k), strings.Repeat(fmt.Sprint(i*k%7), 50))
				}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatalf("size %d, peer's %d, request %d: %v", size, peer, i, err)
				}
				_ = resp.Body.Close()
				for k := range 10 {
					if n := fmt.Sprint("X-N-", k); resp.Header.Get(n) != req.Header.Get(n) {
						t.Fatal(n, resp.Header)
					}
				}
			}
			tr.CloseIdleConnections()
		}
	}
}

// A connection that has had its share ends in two steps: no stream that was on its way is lost.
func TestHTTP2GracefulEnd(t *testing.T) {
	for name, hcm := range map[string]string{
		"requests": `, "drain_timeout": "0.05s", "common_http_protocol_options": {"max_requests_per_connection": 2}`,
		"age":      `, "drain_timeout": "0.05s", "common_http_protocol_options": {"max_connection_duration": "0.05s"}`,
	} {
		t.Run(name, func(t *testing.T) {
			sc := start(t, spec{up: mirror(t), hcm: hcm})
			f := sc.caller(t)
			f.get(1, "/")
			f.get(3, "/")
			first := next(t, f, func(*http2.GoAwayFrame) bool { return true })
			if first.LastStreamID != 1<<31-1 || first.ErrCode != http2.ErrCodeNo {
				t.Fatal(first)
			}
			f.get(5, "/last") // it was on its way
			var answered, final bool
			for {
				fr, err := f.ReadFrame()
				if err != nil {
					break
				}
				switch fr := fr.(type) {
				case *http2.MetaHeadersFrame:
					answered = answered || fr.StreamID == 5
				case *http2.GoAwayFrame:
					final = final || fr.LastStreamID == 5
				}
			}
			if !answered || !final {
				t.Fatal(answered, final)
			}
		})
	}
}

// What an upstream says that it did not begin is sent elsewhere, whatever the method.
func TestHTTP2GoAwayRetried(t *testing.T) {
	var posts atomic.Int32
	up := callee(t, func(n int, f *frames) {
		h := next(t, f, func(*http2.MetaHeadersFrame) bool { return true })
		if n == 1 {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			_, _ = f.ReadFrame()
			return
		}
		posts.Add(1)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: h.StreamID, BlockFragment: f.block(":status", "204"), EndHeaders: true, EndStream: true})
	})
	sc := start(t, spec{up: up, h2: true, routes: `{"match": {"prefix": "/"}, "route": {"cluster": "up", "retry_policy": {"retry_on": "refused-stream", "num_retries": 2}}}`})
	resp, err := client(t, true).Post(sc.url+"/", "text/plain", strings.NewReader("once"))
	if err != nil || resp.StatusCode != 204 || posts.Load() != 1 {
		t.Fatal(resp, err, posts.Load())
	}
}

// Heads longer than a frame go in several, both ways and on both sides; what is too large is answered.
func TestHTTP2LargeHeads(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", fmt.Sprint(len(r.Header.Get("X-Large"))))
		w.Header().Set("X-Large", strings.Repeat("a", 50_000))
	})
	for _, upH2 := range []bool{false, true} {
		sc := start(t, spec{up: up, h2: upH2, hcm: `, "max_request_headers_kb": 200`})
		for _, h2 := range []bool{false, true} {
			for n, status := range map[int]int{60_000: 200, 150_000: 200, 210_000: 431} {
				req, _ := http.NewRequest("GET", sc.url+"/", nil)
				req.Header.Set("X-Large", strings.Repeat("b", n))
				resp, err := client(t, h2).Do(req)
				if err != nil {
					if h2 && n > 200<<10 {
						continue // the client was told the limit, and keeps to it
					}
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != status || status == 200 && (resp.Header.Get("X-Got") != fmt.Sprint(n) || len(resp.Header.Get("X-Large")) != 50_000) {
					t.Fatal(h2, upH2, n, resp.StatusCode, resp.Header.Get("X-Got"))
				}
			}
		}
	}
	// by hand, in spite of the limit; and the connection goes on
	sc := start(t, spec{up: mirror(t), hcm: `, "max_request_headers_kb": 1, "common_http_protocol_options": {"max_headers_count": 5}`})
	f := sc.caller(t)
	f.get(1, "/", "x-large", strings.Repeat("b", 900), "x-more", strings.Repeat("c", 200))
	if h := next(t, f, func(h *http2.MetaHeadersFrame) bool { return h.StreamID == 1 }); h.PseudoValue("status") != "431" {
		t.Fatal(h)
	}
	many := []string{}
	for i := range 20 {
		many = append(many, fmt.Sprint("n-", i), "v")
	}
	f.get(3, "/", many...)
	if h := next(t, f, func(h *http2.MetaHeadersFrame) bool { return h.StreamID == 3 }); h.PseudoValue("status") != "431" {
		t.Fatal(h)
	}
	f.get(5, "/")
	if h := next(t, f, func(h *http2.MetaHeadersFrame) bool { return h.StreamID == 5 }); h.PseudoValue("status") != "200" {
		t.Fatal(h)
	}
	sc.settled(t)
}

// The end of an answer does not wait for ever for a caller who opens no window.
func TestHTTP2FlushTimeout(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 20_000)) })
	sc := start(t, spec{up: up, hcm: `, "stream_flush_timeout": "0.02s"`})
	f := sc.caller(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	f.get(1, "/")
	if r := next(t, f, func(*http2.RSTStreamFrame) bool { return true }); r.StreamID != 1 || r.ErrCode != http2.ErrCodeCancel {
		t.Fatal(r)
	}
	// one who goes on gets all of it
	f.get(3, "/")
	n := 0
	next(t, f, func(d *http2.DataFrame) bool {
		if d.StreamID != 3 {
			return false
		}
		n += len(d.Data())
		_ = f.WriteWindowUpdate(3, uint32(max(len(d.Data()), 1)))
		return d.StreamEnded()
	})
	if n != 20_000 {
		t.Fatal(n)
	}
	sc.settled(t)
}

// No more streams than said are opened on a connection to an upstream.
func TestHTTP2UpstreamStreams(t *testing.T) {
	var mu sync.Mutex
	open, most := map[string]int{}, 0
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		open[r.RemoteAddr]++
		most = max(most, open[r.RemoteAddr])
		mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		open[r.RemoteAddr]--
		mu.Unlock()
	})
	sc := start(t, spec{up: up, h2: true, cluster: `"max_concurrent_streams": 3`})
	c := client(t, true)
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			resp, err := c.Post(sc.url+"/", "text/plain", strings.NewReader(strings.Repeat("x", 50_000)))
			if err != nil || resp.StatusCode != 200 {
				t.Error(resp, err)
				return
			}
			_ = resp.Body.Close()
		})
	}
	wg.Wait()
	if most > 3 || most == 0 {
		t.Error(most)
	}
}

// Connections to an upstream end at their age, and nobody notices.
func TestUpstreamAge(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		var mu sync.Mutex
		peers := map[string]bool{}
		up := backend(t, func(_ http.ResponseWriter, r *http.Request) { mu.Lock(); peers[r.RemoteAddr] = true; mu.Unlock() })
		sc := start(t, spec{up: up, h2: h2, common: `"max_connection_duration": "0.02s"`})
		c := client(t, false)
		waitFor(t, "a third connection", func() bool {
			if resp, err := c.Get(sc.url + "/"); err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			mu.Lock()
			defer mu.Unlock()
			return len(peers) >= 3
		})
	}
}

// A window smaller than the protocol's is kept to from the peer's acknowledgement on.
func TestHTTP2SmallWindow(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	for _, upH2 := range []bool{false, true} {
		sc := start(t, spec{up: up, h2: upH2, cluster: map[bool]string{true: `"initial_stream_window_size": 1000`}[upH2], hcm: `, "http2_protocol_options": {"initial_stream_window_size": 1000}`})
		c := client(t, true)
		for range 3 {
			body := bytes.Repeat([]byte("0123456789"), 10_000)
			resp, err := c.Post(sc.url+"/", "text/plain", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, body) {
				t.Fatal(len(got), err)
			}
		}
	}
}
