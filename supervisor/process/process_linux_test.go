package process

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// One reaper serves all tests: there can be one in a process.
var reaper *Reaper

func TestMain(m *testing.M) {
	var err error
	if reaper, err = NewReaper(); err != nil {
		panic(err)
	}
	code := m.Run()
	reaper.Close()
	os.Exit(code)
}

// sh starts a shell script; what it prints goes to the returned file.
func sh(t *testing.T, script string, cg *Cgroup) (*Process, string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := reaper.Start(Spec{Command: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Dir: "/", Output: out, Cgroup: cg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop(syscall.SIGKILL, 0)
		reaper.Sweep(nil)
	})
	return p, out.Name()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
	}
}

func reads(path, want string) func() bool {
	return func() bool { b, _ := os.ReadFile(path); return strings.Contains(string(b), want) }
}

func children() int {
	all, _ := All()
	return len(Descendants(all, os.Getpid(), nil))
}

func TestExitStatus(t *testing.T) {
	for _, tc := range []struct {
		script, want string
		code         int
		signal       string
	}{
		{"exit 0", "exited with code 0", 0, ""},
		{"exit 3", "exited with code 3", 3, ""},
		{"kill -TERM $$", "killed by SIGTERM", -1, "SIGTERM"},
		{"kill -KILL $$", "killed by SIGKILL", -1, "SIGKILL"},
	} {
		t.Run(tc.script, func(t *testing.T) {
			p, _ := sh(t, tc.script, nil)
			e := p.Exit()
			if e.Code != tc.code || e.Signal != tc.signal || e.PID != p.PID() || !strings.HasPrefix(e.String(), tc.want) || e.OOM {
				t.Errorf("%+v: %s", e, e)
			}
			if e.OK() != (tc.want == "exited with code 0") {
				t.Errorf("OK is %v", e.OK())
			}
		})
	}
}

func TestSessionAndInput(t *testing.T) {
	p, out := sh(t, "read x; echo input ended; exec sleep 100", nil)
	eventually(t, "the end of /dev/null", reads(out, "input ended"))
	i, err := Lookup(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if i.Session != p.PID() || i.Group != p.PID() || i.Start != p.StartTicks() || i.Parent != os.Getpid() {
		t.Errorf("%+v", i)
	}
	if !Alive(p.PID(), i.Start) || Alive(p.PID(), i.Start+1) {
		t.Error("Alive does not go by pid and start")
	}
}

func TestStopIgnoredSignal(t *testing.T) {
	p, out := sh(t, "trap '' TERM; sh -c 'trap \"\" TERM; echo child; while :; do sleep 100; done' & echo ready; while :; do sleep 100; done", nil)
	eventually(t, "both", func() bool { return reads(out, "ready")() && reads(out, "child")() })
	begin := time.Now()
	e, err := p.Stop(syscall.SIGTERM, 200*time.Millisecond)
	if err != nil || e.Signal != "SIGKILL" {
		t.Fatalf("%v, %v", e, err)
	}
	if _, err := reaper.Sweep(nil); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < 200*time.Millisecond || d > 700*time.Millisecond {
		t.Errorf("took %v, timeout 200ms", d)
	}
	if n := children(); n != 0 {
		t.Errorf("%d processes left", n)
	}
}

func TestSweepFindsWhatForkedAway(t *testing.T) {
	for name, script := range map[string]string{
		"same group":      "sleep 1000 & echo ok",
		"other session":   "setsid sleep 1000 & echo ok",
		"twice forked":    "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; echo ok",
		"many, signal on": "trap '' HUP TERM; for i in 1 2 3 4 5; do (trap '' HUP TERM; setsid sleep 1000 &) ; done; echo ok",
	} {
		t.Run(name, func(t *testing.T) {
			p, out := sh(t, script, nil)
			if e := p.Exit(); !e.OK() {
				t.Fatal(e)
			}
			eventually(t, "output", reads(out, "ok"))
			strays, err := reaper.Strays()
			if err != nil || len(strays) == 0 {
				t.Fatalf("no strays: %v", err)
			}
			n, err := reaper.Sweep(nil)
			if err != nil || n < 1 {
				t.Errorf("swept %d, %v", n, err)
			}
			if n := children(); n != 0 {
				t.Errorf("%d processes left, zombies included", n)
			}
		})
	}
}

func TestSweepSparesTheWatched(t *testing.T) {
	a, out := sh(t, "sleep 1000 & echo up; wait", nil)
	eventually(t, "the child", reads(out, "up"))
	b, _ := sh(t, "setsid sleep 1000 & exit 0", nil)
	b.Exit()
	if _, err := reaper.Sweep(nil); err != nil {
		t.Fatal(err)
	}
	if !Alive(a.PID(), a.StartTicks()) || children() != 2 {
		t.Errorf("a watched process or its child is gone; %d left", children())
	}
}

func TestNoZombies(t *testing.T) {
	p, out := sh(t, "for i in 1 2 3 4 5 6 7 8; do (setsid sh -c 'exit 0' &); done; echo done; exec sleep 1000", nil)
	eventually(t, "the forks", reads(out, "done"))
	eventually(t, "orphans to be taken", func() bool { return children() == 1 })
	p.Signal(syscall.SIGKILL)
	p.Exit()
	if n := children(); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := file("plain", "x", 0o600)
	script := file("script", "#!/no/such/interpreter -x\n", 0o700)
	dos := file("dos", "#!/bin/sh\r\nexit 0\r\n", 0o700)
	nothing := file("nothing", "\x00\x01\x02", 0o700)
	for name, tc := range map[string]struct {
		spec Spec
		want Fault
		text string
	}{
		"no such path":     {Spec{Command: []string{dir + "/none"}, Dir: dir}, NotFound, "there is no"},
		"not in PATH":      {Spec{Command: []string{"no-such-program"}, Env: []string{"PATH=" + dir}, Dir: dir}, NotFound, "in PATH"},
		"not executable":   {Spec{Command: []string{plain}, Dir: dir}, NotExecutable, "chmod"},
		"found, no x":      {Spec{Command: []string{"plain"}, Env: []string{"PATH=" + dir}, Dir: dir}, NotExecutable, "chmod"},
		"a directory":      {Spec{Command: []string{dir}, Dir: dir}, NotExecutable, "directory"},
		"interpreter":      {Spec{Command: []string{script}, Dir: dir}, Interpreter, "/no/such/interpreter"},
		"dos line end":     {Spec{Command: []string{dos}, Dir: dir}, Interpreter, "carriage return"},
		"no known format":  {Spec{Command: []string{nothing}, Dir: dir}, NotExecutable, "no program"},
		"no directory":     {Spec{Command: []string{"/bin/true"}, Dir: dir + "/none"}, OtherFault, "working directory"},
		"nothing to start": {Spec{Dir: dir}, NotFound, "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := reaper.Start(tc.spec)
			var se *StartError
			if !errors.As(err, &se) || se.Fault != tc.want || !strings.Contains(se.Text, tc.text) {
				t.Errorf("got %v", err)
			}
		})
	}
	p, err := reaper.Start(Spec{Command: []string{"./ok"}, Dir: filepath.Dir(file("ok", "#!/bin/sh\nexit 9\n", 0o700))})
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Exit(); e.Code != 9 {
		t.Errorf("a command relative to its directory: %v", e)
	}
}

func TestCgroup(t *testing.T) {
	c, err := NewCgroup("outrigger-test-" + strconv.Itoa(os.Getpid()))
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	p, out := sh(t, "setsid sleep 1000 & echo up; wait", c)
	eventually(t, "the child", reads(out, "up"))
	if p.cgroup == nil {
		t.Skip("this system cannot start a process in a cgroup")
	}
	b, err := os.ReadFile(filepath.Join(c.Path(), "cgroup.procs"))
	if err != nil || len(strings.Fields(string(b))) != 2 {
		t.Errorf("in the cgroup: %q, %v", b, err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if e := p.Exit(); e.Signal != "SIGKILL" {
		t.Error(e)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the cgroup is still there")
	}
	reaper.Sweep(nil)
	if n := children(); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestParseStat(t *testing.T) {
	i, err := parseStat([]byte("12 (a) b (c)) Z 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0\n"))
	if err != nil || i != (Info{PID: 12, Name: "a) b (c)", Zombie: true, Parent: 3, Group: 4, Session: 5, Start: 777}) {
		t.Errorf("%+v, %v", i, err)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x) S", ") 1 ("} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestStates(t *testing.T) {
	all := []State{Created, Starting, Running, Stopping, Stopped, Failed, Restarting}
	for _, s := range all {
		if len(next[s]) == 0 {
			t.Errorf("%s is a dead end", s)
		}
		if s != Stopping && s.To(Stopping) != nil {
			t.Errorf("%s cannot be stopped", s)
		}
	}
	if Running.To(Created) == nil || Failed.To(Running) == nil || Stopped.To(Restarting) == nil {
		t.Error("a step was passed over")
	}
}
