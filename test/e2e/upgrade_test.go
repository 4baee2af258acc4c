package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// otherSidecar is the sidecar's program at another path: a new release.
func otherSidecar(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Binaries(t).Dir, "outrigger-sidecar"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "outrigger-sidecar")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func runs(t *testing.T, pid int) string {
	t.Helper()
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// TestUpgrade: every sidecar is replaced by another program under load. No call fails and no connection is refused; what was open
// goes on on the old sidecars until it ends; a program that is no sidecar changes nothing; the new one stays over a crash and a
// restart of the control plane; and an upgrade without a path goes back.
func TestUpgrade(t *testing.T) {
	ledger := service{name: "ledger", protocol: "tcp", command: []string{"ledger"}, health: "tcp: true"}
	m := harness.Up(t, write(t, []service{orders(2), ledger, front(1, "ledger", "orders")}))
	before := sidecars(m)
	kept, fresh, stop := load(t, m)
	kept.More(100)

	// A conversation and an upload that begin before, and end after.
	conn, err := net.DialTimeout("tcp", outbound(t, m.Of("front")[0], "ledger"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	in := bufio.NewReader(conn)
	say := func(want string) {
		t.Helper()
		fmt.Fprintln(conn, "add long 1")
		if line, err := in.ReadString('\n'); err != nil || line != want {
			t.Errorf("the conversation goes on with %q, %v; want %q", line, err, want)
		}
	}
	say("ok 1\n")
	body, upload := io.Pipe()
	answer := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+m.Edge+"/echo", body)
		if err != nil {
			answer <- err
			return
		}
		req.Host = "orders"
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && (resp.StatusCode != 200 || string(b) != "begun and ended") {
				err = fmt.Errorf("%s: %q", resp.Status, b)
			}
		}
		answer <- err
	}()
	if _, err := io.WriteString(upload, "begun"); err != nil {
		t.Fatal(err)
	}

	// What is no sidecar is refused, or found out; nothing changes.
	for _, bad := range []struct{ path, want string }{
		{"/no/such/sidecar", "no such file"},
		{"/etc/passwd", "is not a program"},
		{"/bin/false", "the old one stays"},
	} {
		out, err := m.Run("upgrade", "--sidecar", bad.path)
		if err == nil || !strings.Contains(out+err.Error(), bad.want) {
			t.Errorf("upgrade to %s: %v\n%s", bad.path, err, out)
		}
	}
	if _, err := m.Run("upgrade", "nobody"); err == nil {
		t.Error("the sidecars of nobody were upgraded")
	}
	if now := sidecars(m); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("what was refused has changed %v to %v", before, now)
	}

	program := otherSidecar(t)
	one := m.Of("orders")[0].Instance
	m.Must("upgrade", one, "--sidecar", program)
	for id, pid := range sidecars(m) {
		if exe := runs(t, pid); (exe == program) != (id == one) {
			t.Errorf("%s runs %s", id, exe)
		}
	}
	out := m.Must("upgrade", "--sidecar", program)
	after := sidecars(m)
	for id, pid := range after {
		if pid == before[id] || runs(t, pid) != program {
			t.Errorf("%s: sidecar %d runs %s, was %d", id, pid, runs(t, pid), before[id])
		}
		if !strings.Contains(out, id+" upgraded (sidecar ") {
			t.Errorf("upgrade does not tell of %s:\n%s", id, out)
		}
	}
	kept.More(200)
	fresh.More(200)
	say("ok 2\n")
	if _, err := io.WriteString(upload, " and ended"); err != nil {
		t.Error(err)
	}
	_ = upload.Close()
	if err := <-answer; err != nil {
		t.Errorf("a call in flight: %v", err)
	}
	fmt.Fprintln(conn, "quit")
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "bye\n" {
		t.Errorf("the conversation ends with %q, %v", rest, err)
	}
	events := m.Must("events")
	for _, want := range []string{"sidecar.upgraded", "sidecar.upgrade-failed", "sidecar.replaced"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %s", want)
		}
	}

	stop()

	// A crash and a new control plane take the program that was put in place.
	m.Kill9(after[one])
	m.Kill9(m.ControlPID())
	if out, err := m.Start(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m.WaitReady()
	for id, pid := range sidecars(m) {
		if runs(t, pid) != program {
			t.Errorf("%s runs %s after a restart", id, runs(t, pid))
		}
		if id != one && pid != after[id] {
			t.Errorf("%s has another sidecar after a restart of the control plane", id)
		}
	}
	kept, fresh, stop = load(t, m)
	kept.More(50)
	m.Must("upgrade")
	for id, pid := range sidecars(m) {
		if runs(t, pid) == program {
			t.Errorf("%s still runs %s", id, program)
		}
	}
	kept.More(50)
	fresh.More(50)
	stop()
}

// load calls orders over kept connections and over new ones, until stop, which sees that no call has failed.
func load(t *testing.T, m *harness.Mesh) (kept, fresh *harness.Running, stop func()) {
	kept = harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1"})
	fresh = harness.StartLoad(t, harness.Load{Addr: m.Edge, Host: "orders", Path: "/orders/1", FreshConnections: true, Workers: 4})
	return kept, fresh, func() {
		t.Helper()
		for name, r := range map[string]harness.Result{"kept": kept.Stop(), "new": fresh.Stop()} {
			if t.Logf("calls on %s connections: %v", name, r); r.Failed != 0 {
				t.Errorf("calls on %s connections: %v", name, r)
			}
		}
	}
}

// sidecars are the sidecars' process ids by instance, once all run.
func sidecars(m *harness.Mesh) map[string]int {
	out := map[string]int{}
	harness.Eventually(m.T, 30*time.Second, func() error {
		for _, p := range m.PS() {
			if out[p.Instance] = p.Sidecar.PID; p.Sidecar.PID == 0 {
				return errors.New(p.Instance + " has no sidecar")
			}
		}
		return nil
	})
	return out
}
