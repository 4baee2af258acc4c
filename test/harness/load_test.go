package harness

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
)

// TestLoadNeverRetries drops every second connection after the request has arrived: each drop is one failure, and
// the server sees each call once.
func TestLoadNeverRetries(t *testing.T) {
	var seen atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if seen.Add(1)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Version", "1.0.0")
	}))
	defer srv.Close()
	r := DoLoad(t, Load{Addr: srv.Listener.Addr().String(), Workers: 1, Calls: 100})
	if r.Calls != 100 || r.Failed != 50 || r.Versions["1.0.0"] != 50 || seen.Load() != 100 {
		t.Errorf("%v; the server saw %d", r, seen.Load())
	}
	if r.Reasons["ended"]+r.Reasons["reset"] != 50 {
		t.Errorf("reasons %v", r.Reasons)
	}
}

func TestLoadTellsReasons(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	addr := srv.Listener.Addr().String()
	if r := DoLoad(t, Load{Addr: addr, Calls: 8}); r.Reasons["status 503"] != 8 {
		t.Errorf("503: %v", r)
	}
	srv.Close()
	if r := DoLoad(t, Load{Addr: addr, Calls: 8}); r.Reasons["refused"] != 8 {
		t.Errorf("closed: %v", r)
	}
}

func TestProcessesOfTheMesh(t *testing.T) {
	m := &Mesh{T: t, State: t.TempDir(), seen: map[int]uint64{}}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), marker+"="+m.State)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := m.processes()
	if len(found) != 1 || found[0].pid != cmd.Process.Pid {
		t.Errorf("%v, want %d", found, cmd.Process.Pid)
	}
	me := false
	for _, c := range Children(os.Getpid()) {
		me = me || c.PID == cmd.Process.Pid && c.Name != ""
	}
	if !me {
		t.Error("Children does not tell it")
	}
	_ = in.Close()
	_ = cmd.Wait()
	if left := m.processes(); len(left) != 0 {
		t.Errorf("after its end: %v", left)
	}
}
