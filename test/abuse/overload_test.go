package abuse

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

const readers = 200

// TestReadersThatDoNotRead: 200 callers ask for a large body each and do not read. The sidecar holds little of it, serves
// others meanwhile, and lets go of the callers when they have taken nothing for their time.
func TestReadersThatDoNotRead(t *testing.T) {
	for _, listener := range []string{"h1", "h2", "h2h2"} {
		t.Run(listener, func(t *testing.T) {
			s := start(t, "", "-queue-delay", "-1s") // only what waits for readers is looked at here
			up := s.up
			if listener == "h2h2" {
				up = s.up2
			}
			up.mu.Lock()
			up.big = 64 << 20
			up.mu.Unlock()
			base := s.resetPeak(t)
			conns := stalledReaders(t, s, listener)
			s.wait(t, "all are being answered", func() bool { n, _ := up.requests(); return n == readers })
			const gone = `outrigger_downstream_refused_total reason="the caller does not read"`
			alive(t, s)
			// HTTP/1.1 and a socket that is full end by the one rule, a window that is not opened by the other.
			ended := func() float64 {
				return s.counter(t, gone) + s.counter(t, `outrigger_requests_total flag="SI"`)
			}
			s.wait(t, "all are given up", func() bool { return ended() >= readers })
			s.wait(t, "their memory is free", func() bool { return s.counter(t, "outrigger_buffered_bytes") == 0 })
			peak := s.memory(t, "VmHWM")
			t.Logf("%d readers of 64 MiB each: peak %d KiB, %+d KiB", readers, peak>>10, (peak-base)>>10)
			if most := int64(128 << 20); peak-base > most {
				t.Errorf("the sidecar took %d KiB more, at most %d KiB are due", (peak-base)>>10, most>>10)
			}
			alive(t, s)
			for _, c := range conns {
				c.Close()
			}
		})
	}
}

// TestBuffersHaveALimit: where what waits comes to more than there may be, those who have waited longest are given up.
func TestBuffersHaveALimit(t *testing.T) {
	const limit = 1 << 20
	for _, listener := range []string{"h1", "h2"} {
		t.Run(listener, func(t *testing.T) {
			s := start(t, "", "-buffers", fmt.Sprint(limit))
			s.up.mu.Lock()
			s.up.big = 64 << 20
			s.up.mu.Unlock()
			conns := stalledReaders(t, s, listener)
			const evicted = `outrigger_downstream_refused_total flag="OM" reason="the caller does not read, and memory is short"`
			s.wait(t, "some are given up", func() bool { return s.counter(t, evicted) > 0 })
			for range 5 {
				if n := s.counter(t, "outrigger_buffered_bytes"); n > limit {
					t.Errorf("%.0f bytes wait", n)
				}
			}
			t.Logf("%.0f of %d readers were given up for the others", s.counter(t, evicted), readers)
			for _, c := range conns {
				c.Close()
			}
		})
	}
}

// stalledReaders asks and does not read.
func stalledReaders(t *testing.T, s *sidecar, listener string) []net.Conn {
	t.Helper()
	var out []net.Conn
	for range readers {
		c, err := net.Dial("tcp", s.addr[listener])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		if strings.HasPrefix(listener, "h2") {
			f, err := assemble("preface\nsettings 4=65535\nheaders 1 end get:/big", 1)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Write(f.out.Bytes())
			if err != nil {
				t.Fatal(err)
			}
		} else if _, err := io.WriteString(c, "GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// alive makes an ordinary call.
func alive(t *testing.T, s *sidecar) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Get("http://" + s.addr["h1"] + "/fence?alive")
	if err != nil {
		t.Error("an ordinary call: ", err)
		return
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(b) != "alive" {
		t.Errorf("an ordinary call: %s %q", resp.Status, b)
	}
}

const manager = `overload_manager:
  refresh_interval: 0.05s
  resource_monitors:
  - {name: %s, typed_config: {"@type": type.googleapis.com/%s}}
`

// TestNoMoreRequests: where the heap is as large as it may be, requests are refused in a way that says so and may be tried
// elsewhere, on either protocol; health checks are not, and connections end.
func TestNoMoreRequests(t *testing.T) {
	s := start(t, fmt.Sprintf(manager, "envoy.resource_monitors.fixed_heap", `envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1`)+
		`  actions:
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}]}
  - {name: envoy.overload_actions.disable_http_keepalive, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.8}}]}
  - {name: envoy.overload_actions.reject_incoming_connections, triggers: [{name: outrigger.resource_monitors.buffers, threshold: {value: 1}}]}
`)
	get := func(path string) (*http.Response, string) {
		c, err := net.Dial("tcp", s.addr["h1"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return resp, string(b)
	}
	s.wait(t, "the action is in force", func() bool {
		return s.counter(t, `outrigger_overload_action_percent action="stop_accepting_requests"`) == 100
	})
	resp, body := get("/first")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !resp.Close || !strings.Contains(body, "overloaded") || !strings.Contains(body, "(OM)") {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
	if resp, body := get("/grpc.health.v1.Health/Check"); resp.StatusCode != 200 {
		t.Errorf("a health check: %s %q", resp.Status, body)
	}
	f, err := assemble("preface\nheaders 1 end get:/first", 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.addr["h2"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(f.out.Bytes()); err != nil {
		t.Fatal(err)
	}
	away := false
	for fr := http2.NewFramer(nil, c); ; {
		f, err := fr.ReadFrame()
		if err != nil {
			break // the connection has ended
		}
		if g, ok := f.(*http2.GoAwayFrame); ok && g.ErrCode == http2.ErrCodeNo {
			away = true
		}
	}
	if !away {
		t.Error("HTTP/2: no GOAWAY")
	}
	if n, raw := s.up.requests(); n != 1 {
		t.Errorf("the upstream saw %d requests: %q", n, raw)
	}
	if n := s.counter(t, `outrigger_requests_total flag="OM"`); n != 2 {
		t.Errorf("%.0f requests are counted as shed, want 2", n)
	}
}

// TestConnectionsHaveALimit: what is beyond the limit is closed at once, and there is room again when others have gone.
func TestConnectionsHaveALimit(t *testing.T) {
	const most = 5
	s := start(t, fmt.Sprintf(manager, "envoy.resource_monitors.global_downstream_max_connections",
		fmt.Sprintf("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: %d", most)))
	open := func() (net.Conn, bool) {
		c, err := net.Dial("tcp", s.addr["h1"])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "GET /fence?x HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return c, false
		}
		resp.Body.Close()
		return c, resp.StatusCode == 200
	}
	var cs []net.Conn
	for i := range most {
		c, ok := open()
		if !ok {
			t.Fatalf("connection %d was refused", i)
		}
		cs = append(cs, c)
	}
	if _, ok := open(); ok {
		t.Error("one too many was taken")
	}
	s.wait(t, "it is counted", func() bool {
		return s.counter(t, `outrigger_downstream_refused_total flag="OM" reason="as many connections as the sidecar takes"`) == 1
	})
	cs[0].Close()
	s.wait(t, "there is room again", func() bool { _, ok := open(); return ok })
}

// TestListenersHaveALimit: a connection limit before the connection manager holds for that listener alone.
func TestListenersHaveALimit(t *testing.T) {
	s := start(t, "") // listener "few" takes two
	var cs []net.Conn
	for i := range 3 {
		c, err := net.Dial("tcp", s.addr["few"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cs = append(cs, c)
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "GET /fence?x HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if ok := err == nil && resp.StatusCode == 200; ok != (i < 2) {
			t.Errorf("connection %d: %v %v", i, resp, err)
		}
	}
	if n := s.counter(t, `outrigger_downstream_refused_total listener="few" flag="OM" reason="as many connections as the listener takes"`); n != 1 {
		t.Errorf("%.0f connections are counted as refused", n)
	}
	alive(t, s)
	cs[0].Close()
}
