package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/proxyproto"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// A connection that comes to nothing ends with its reason counted, and after as many tries as are allowed; one that is too old, or
// idle, ends with its own.
func TestTCPEnds(t *testing.T) {
	silent := rawServer(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	m := newMesh(t, snapshot.TCP, nil, silent)
	tb := m.Table()
	cluster := func(name string, c snapshot.Cluster, eps ...string) []snapshot.WeightedCluster {
		c.Name, c.Strategy = name, roundrobin.Strategy{}
		if err := tb.SetCluster(&c); err != nil {
			t.Fatal(err)
		}
		var specs []snapshot.EndpointSpec
		for _, e := range eps {
			specs = append(specs, snapshot.EndpointSpec{Address: e, Weight: 1})
		}
		if err := tb.SetEndpoints(name, specs); err != nil {
			t.Fatal(err)
		}
		return []snapshot.WeightedCluster{{Ref: tb.Ref(name), Weight: 1}}
	}
	for flag, p := range map[string]*snapshot.TCPProxy{
		"UF": {Clusters: cluster("gone", snapshot.Cluster{}, gone.Addr().String()), MaxConnectAttempts: 3},
		"UH": {Clusters: cluster("none", snapshot.Cluster{})},
		"UO": {Clusters: cluster("full", snapshot.Cluster{MaxConnections: 1}, silent)},
		"NC": {Clusters: []snapshot.WeightedCluster{{Ref: tb.Ref("unknown"), Weight: 1}}},
		"SI": {Clusters: cluster("idle", snapshot.Cluster{}, silent), IdleTimeout: 50 * time.Millisecond},
		"DT": {Clusters: cluster("old", snapshot.Cluster{}, silent), IdleTimeout: time.Hour, MaxDuration: 50 * time.Millisecond},
	} {
		t.Run(flag, func(t *testing.T) {
			p.TotalWeight = 1
			m.snap.Listeners[flag] = &snapshot.Listener{Name: flag, Network: "tcp", Address: "127.0.0.1:0", TCP: p}
			if err := m.Apply(m.snap); err != nil {
				t.Fatal(err)
			}
			if flag == "UO" {
				first, _ := dial(t, m, flag)
				defer first.Close()
				waitFor(t, "the only connection", func() bool { return tb.Cluster("full").Connections() == 1 })
			}
			c, err := net.Dial("tcp", m.Addr(flag))
			if err == nil { // it may be reset before it is told to be there
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			if reset := flag != "SI" && flag != "DT"; reset != errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			waitFor(t, "it is counted", func() bool { return m.count("outrigger_tcp_connections_total", "listener", flag, "flag", flag) == 1 })
			if cl := tb.Cluster("gone"); flag == "UF" && cl.Total.Load() != 3 {
				t.Errorf("%d tries", cl.Total.Load())
			}
		})
	}
}

// The endpoint learns of its caller by a PROXY header, also where it speaks first, and of the caller's caller where the listener
// learned of that by such a header itself; connections of HTTP say that they are the sidecar's own.
func TestProxyProtocolOut(t *testing.T) {
	seen := make(chan proxyproto.Header, 1)
	up := rawServer(t, func(c net.Conn, r *bufio.Reader) {
		var b []byte
		for {
			k, err := r.ReadByte()
			if err != nil {
				return
			}
			b = append(b, k)
			h, n, err := proxyproto.Parse(b)
			if err != nil {
				t.Error(err)
				return
			}
			if n > 0 {
				seen <- h
				break
			}
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		_, _ = r.ReadByte()
	})
	for version := 1; version <= 2; version++ {
		m := newMesh(t, snapshot.HTTP1, nil, up)
		if err := m.Table().SetCluster(&snapshot.Cluster{Name: "c", Protocol: snapshot.HTTP1, Strategy: roundrobin.Strategy{}, ProxyProtocol: version}); err != nil {
			t.Fatal(err)
		}
		tcp := *m.snap.Listeners["tcp"]
		tcp.Name, tcp.Front = "behind", &snapshot.Front{ProxyProtocol: &snapshot.ProxyProtocol{}}
		m.snap.Listeners["behind"] = &tcp
		if err := m.Apply(m.snap); err != nil {
			t.Fatal(err)
		}
		c, r := dial(t, m, "tcp")
		if line, err := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200") { // it spoke first
			t.Fatal(line, err)
		}
		if h := <-seen; h.Version != version || h.Source.String() != c.LocalAddr().String() || h.Destination.String() != m.Addr("tcp") {
			t.Errorf("%+v", h)
		}
		c.Close()
		c, _ = dial(t, m, "behind")
		src, dst := netip.MustParseAddrPort("[2001:db8::7]:1"), netip.MustParseAddrPort("[2001:db8::1]:2")
		c.Write(proxyproto.Append(nil, 2, src, dst))
		if h := <-seen; h.Source != src || h.Destination != dst {
			t.Errorf("%+v", h)
		}
		c.Close()
		resp, err := client(t, false).Get(m.url())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if h := <-seen; resp.StatusCode != 200 || h.Source.IsValid() {
			t.Errorf("%s %+v", resp.Status, h)
		}
		settled(t, m)
	}
}

// HAProxy and nginx understand our headers, and we theirs.
func TestProxyProtocolPeers(t *testing.T) {
	for _, p := range []string{"haproxy", "nginx"} {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not here: make test-deps installs it", p)
			}
			t.Skip("no ", p)
		}
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	dir := t.TempDir()
	nginxAddr, haproxyAddr := free(), free()
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, echo))
	tb := m.Table()
	// us → nginx, by version 1, for TCP: nginx answers with the client's address that it was told.
	if err := tb.SetCluster(&snapshot.Cluster{Name: "nginx", Protocol: snapshot.TCP, Strategy: roundrobin.Strategy{}, ProxyProtocol: 1}); err != nil {
		t.Fatal(err)
	}
	if err := tb.SetEndpoints("nginx", []snapshot.EndpointSpec{{Address: nginxAddr, Weight: 1}}); err != nil {
		t.Fatal(err)
	}
	m.snap.Listeners["to nginx"] = &snapshot.Listener{
		Name: "to nginx", Network: "tcp", Address: "127.0.0.1:0",
		TCP: &snapshot.TCPProxy{Clusters: []snapshot.WeightedCluster{{Ref: tb.Ref("nginx"), Weight: 1}}, TotalWeight: 1},
	}
	// HAProxy → us, by version 2: we tell the service whom HAProxy speaks for.
	l := *m.snap.Listeners["http"]
	l.Name, l.Front = "behind", &snapshot.Front{ProxyProtocol: &snapshot.ProxyProtocol{NoV1: true}}
	m.snap.Listeners["behind"] = &l
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	file := func(name, content string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return f
	}
	start := func(addr, name string, args ...string) {
		cmd := exec.Command(name, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		waitFor(t, name+" listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	start(nginxAddr, "nginx", "-p", dir, "-c", file("nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid nginx.pid; error_log nginx.log;
events {}
http {
  access_log off;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server { listen %s proxy_protocol; location / { return 200 "$proxy_protocol_addr:$proxy_protocol_port"; } }
}`, nginxAddr)))
	start(haproxyAddr, "haproxy", "-db", "-q", "-f", file("haproxy.cfg", fmt.Sprintf(`defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen l
  bind %s
  server s %s send-proxy-v2
`, haproxyAddr, m.Addr("behind"))))

	c, r := dial(t, m, "to nginx")
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != c.LocalAddr().String() {
		t.Errorf("nginx was told %q, the client is %s", b, c.LocalAddr())
	}
	resp, err = client(t, false).Get("http://" + haproxyAddr)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("X-Got-For") != "127.0.0.1" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}
