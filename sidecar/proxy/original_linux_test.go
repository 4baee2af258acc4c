package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// redirected dials as a process would whose connections are redirected: by a mark, since all is one process here.
func redirected(network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, 7) })
		if err == nil {
			err = cerr
		}
		return err
	}}
	return d.Dial(network, addr)
}

func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// TestOriginalDst: what the kernel redirects goes where it was meant to go, or to the listener for that address.
func TestOriginalDst(t *testing.T) {
	if !testkit.InNetNS(t, "nft") {
		return
	}
	run(t, "", "ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
	run(t, "", "ip", "addr", "add", "198.51.100.2/32", "dev", "lo")
	run(t, "", "ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")

	m := newMesh(t, snapshot.HTTP1, nil, backend(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the mesh") }))
	tb := m.Table()
	if err := tb.SetCluster(&snapshot.Cluster{Name: "through", OriginalDst: true, Strategy: roundrobin.Strategy{}}); err != nil {
		t.Fatal(err)
	}
	through := []snapshot.WeightedCluster{{Ref: tb.Ref("through"), Weight: 1}}
	routes := &snapshot.RoutesRef{}
	routes.Store(snapshot.NewRouteTable("through", "1", true, []*snapshot.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*snapshot.Route{
		{Name: "all", Match: snapshot.Match{Kind: snapshot.PathAny}, Forward: &snapshot.Forward{Clusters: through, TotalWeight: 1}},
	}}}))
	h := *m.http
	h.Routes = routes
	ls := m.snap.Listeners
	for ip, suffix := range map[string]string{"127.0.0.1": "4", "[::1]": "6"} {
		ls["http"+suffix] = &snapshot.Listener{Name: "http" + suffix, Network: "tcp", Address: ip + ":7001", HTTP: &h, HandOver: true}
		ls["tcp"+suffix] = &snapshot.Listener{Name: "tcp" + suffix, Network: "tcp", Address: ip + ":7002", TCP: &snapshot.TCPProxy{Clusters: through, TotalWeight: 1}, HandOver: true}
	}
	// One address belongs to the mesh: nobody listens there.
	ls["meant"] = &snapshot.Listener{Name: "meant", Network: "tcp", Address: "198.51.100.9:80", Unbound: true, HTTP: m.http}
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	run(t, "", "ip", "route", "add", "198.51.100.9/32", "dev", "lo")
	run(t, `table inet test { chain out { type nat hook output priority -101; policy accept;
		meta mark 7 tcp dport 8000-8999 redirect to :7002
		meta mark 7 meta l4proto tcp redirect to :7001
	}
	}`, "nft", "-f", "-")

	serve := func(addr, says string) string {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, says, " ", r.Host) }))
		s.Listener.Close()
		s.Listener = l
		s.Start()
		t.Cleanup(s.Close)
		return l.Addr().String()
	}
	one, two, six := serve("198.51.100.1:9001", "one"), serve("198.51.100.2:9001", "two"), serve("[2001:db8::1]:9001", "six")
	eight, eight6 := serve("198.51.100.1:8001", "eight"), serve("[2001:db8::1]:8001", "eight6")
	get := func(addr string) (int, string) {
		t.Helper()
		tr := &http.Transport{DialContext: func(_ context.Context, network, addr string) (net.Conn, error) { return redirected(network, addr) }}
		defer tr.CloseIdleConnections()
		c := http.Client{Transport: tr, Timeout: 10 * time.Second}
		resp, err := c.Get("http://" + addr + "/")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for addr, want := range map[string]string{
		one: "one " + one, two: "two " + two, six: "six " + six, // HTTP, each to its own place
		eight: "eight " + eight, eight6: "eight6 " + eight6, // bytes
		"198.51.100.9": "the mesh",
	} {
		if status, body := get(addr); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", addr, status, body, want)
		}
	}
	if n := len(tb.Cluster("through").Hosts()); n != 5 {
		t.Errorf("%d places are known, want 5", n)
	}
	// Nobody listens: the sidecar has accepted, and says so.
	if status, body := get("198.51.100.1:9999"); status != 503 || !strings.Contains(body, "refused") {
		t.Errorf("nobody listens: %d %q", status, body)
	}
	if status, body := get("198.51.100.1:8999"); status != 0 {
		t.Errorf("nobody listens, by TCP: %d %q", status, body)
	}
	// Not redirected: it must not be sent to the listener itself.
	for _, addr := range []string{"127.0.0.1:7001", "[::1]:7001"} {
		resp, err := http.Get("http://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 503 || !strings.Contains(string(b), "not redirected") {
			t.Errorf("a direct call to %s: %d %q", addr, resp.StatusCode, b)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if c, err := net.Dial("tcp", "127.0.0.1:7002"); err == nil {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("a direct connection got %d bytes, %v", n, err)
		}
		c.Close()
	}
	// The address is the mesh's no more: it is passed through, and nobody is there.
	delete(ls, "meant")
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	serve("198.51.100.2:80", "itself")
	run(t, "", "ip", "route", "del", "198.51.100.9/32", "dev", "lo")
	run(t, "", "ip", "addr", "add", "198.51.100.9/32", "dev", "lo")
	nine := serve("198.51.100.9:80", "itself")
	if status, body := get(strings.TrimSuffix(nine, ":80")); status != 200 || body != "itself 198.51.100.9" {
		t.Errorf("the address without its listener: %d %q", status, body)
	}
}
