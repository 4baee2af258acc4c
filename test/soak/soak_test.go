package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	defaultTime = 20 * time.Second
	rounds      = 5
	workers     = 12
)

// reading is what the sidecar holds.
type reading struct {
	goroutines, descriptors int
	heap, pss               int64 // bytes
}

func (r reading) String() string {
	return fmt.Sprintf("goroutines %3d  descriptors %4d  heap %5.1f MiB  PSS %5.1f MiB", r.goroutines, r.descriptors, mib(r.heap), mib(r.pss))
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// sidecar is the process under test.
type sidecar struct {
	t    *testing.T
	cmd  *exec.Cmd
	http *http.Client
	done chan error
}

func startSidecar(t *testing.T, bootstrap, console string) *sidecar {
	s := &sidecar{t: t, done: make(chan error, 1), cmd: exec.Command(filepath.Join(harness.Binaries(t).Dir, "outrigger-sidecar"), "-c", bootstrap, "-console", console, "-log-level", "warn")}
	var log tail
	s.cmd.Stderr = &log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", console)
	}, DisableKeepAlives: true}
	s.http = &http.Client{Transport: tr, Timeout: 10 * time.Second}
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
		s.done <- nil
		if t.Failed() {
			t.Logf("the sidecar said:\n%s", log.String())
		}
	})
	return s
}

// tail keeps the end of what is written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b = append(l.b, p...); len(l.b) > 8000 {
		l.b = l.b[len(l.b)-4000:]
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

func (s *sidecar) get(path string) (string, error) {
	resp, err := s.http.Get("http://sidecar" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s %s", path, resp.Status, b)
	}
	return string(b), err
}

func (s *sidecar) read() (r reading, err error) {
	text, err := s.get("/metrics")
	if err != nil {
		return r, err
	}
	number := func(name string) int64 {
		for line := range strings.SplitSeq(text, "\n") {
			if v, ok := strings.CutPrefix(line, name+" "); ok {
				f, err := strconv.ParseFloat(v, 64)
				if err == nil {
					return int64(f)
				}
			}
		}
		s.t.Errorf("no %s in the metrics", name)
		return 0
	}
	r.goroutines, r.descriptors, r.heap = int(number("go_goroutines")), int(number("process_open_fds")), number("go_memstats_heap_alloc_bytes")
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", s.cmd.Process.Pid))
	if err != nil {
		return r, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) >= 2 && w[0] == "Pss:" {
			kib, _ := strconv.ParseInt(w[1], 10, 64)
			r.pss = kib << 10
		}
	}
	return r, nil
}

// restTime is how long nothing may change where all has been let go of: longer than idle connections are kept.
const restTime = 4 * time.Second

// own is by how much what is held may differ only because it is being asked for.
const own = 2

// quiet waits until the sidecar holds as little as before, or no less for restTime, and returns what it then holds behind a
// collection.
func (s *sidecar) quiet(before reading) (r reading) {
	var last reading
	var since time.Time
	harness.Eventually(s.t, 60*time.Second, func() error {
		var err error
		if r, err = s.read(); err != nil {
			return err
		}
		if r.descriptors <= before.descriptors+own && r.goroutines <= before.goroutines+own {
			return nil
		}
		if last.descriptors == 0 || r.descriptors < last.descriptors-own || r.goroutines < last.goroutines-own {
			last, since = r, time.Now()
		}
		if time.Since(since) < restTime {
			return fmt.Errorf("still %v", r)
		}
		return nil
	})
	profile, err := s.get("/debug/pprof/heap?gc=1")
	if dir := os.Getenv("SOAK_PROFILES"); err == nil && dir != "" {
		err = os.WriteFile(filepath.Join(dir, time.Now().Format("heap-150405.pprof")), []byte(profile), 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	r, err = s.read()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// outages are when an upstream was going down, down, or coming up.
type outages struct {
	mu   sync.Mutex
	list []outage
}

type outage struct{ from, to time.Time } // to is zero while it lasts

func (o *outages) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, outage{from: time.Now()})
}

func (o *outages) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list[len(o.list)-1].to = time.Now()
}

// around says whether there was one between two moments.
func (o *outages) around(from, to time.Time) bool {
	const slack = 500 * time.Millisecond // in which the sidecar learns of it
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range slices.Backward(o.list) {
		if !w.to.IsZero() && w.to.Add(slack).Before(from) {
			return false
		}
		if w.from.Before(to) {
			return true
		}
	}
	return false
}

// tally counts operations.
type tally struct {
	mu                   sync.Mutex
	done                 map[string]int
	expected, unexpected map[string]int
	first                []string
}

func newTally() *tally {
	return &tally{done: map[string]int{}, expected: map[string]int{}, unexpected: map[string]int{}}
}

func (y *tally) note(kind string, err error, excused bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.done[kind]++
	switch {
	case err == nil:
	case excused:
		y.expected[kind+": "+reason(err)]++
	default:
		y.unexpected[kind+": "+reason(err)]++
		if len(y.first) < 20 {
			y.first = append(y.first, time.Now().Format("15:04:05.000 ")+kind+": "+err.Error())
		}
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func (y *tally) sums() (done, expected, unexpected int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return sum(y.done), sum(y.expected), sum(y.unexpected)
}

func duration(t *testing.T) time.Duration {
	s := os.Getenv("SOAK")
	if s == "" {
		return defaultTime
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < rounds*time.Second {
		t.Fatalf("SOAK=%s is not a time of at least %d s", s, rounds)
	}
	return d
}

func TestSoak(t *testing.T) {
	whole := duration(t)
	dir, err := os.MkdirTemp("", "soak") //nolint:usetesting // the path of a socket has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })

	c := newControl(t, filepath.Join(dir, "ads.sock"))
	var ups []*upstream
	c.upstreams = map[string][]string{}
	for cluster, serve := range map[string]func(net.Listener) func(){"h1": serveHTTP, "h2": serveHTTP, "tcp": serveTCP} {
		for range 3 {
			u := newUpstream(t, serve)
			ups = append(ups, u)
			c.upstreams[cluster] = append(c.upstreams[cluster], u.port())
		}
	}
	addrs := map[string]string{}
	c.listeners = map[string]string{}
	for _, name := range []string{"http", "tls", "tcp", "extra"} {
		addrs[name] = harness.FreeAddr(t)
		c.listeners[name] = addrs[name][strings.LastIndexByte(addrs[name], ':')+1:]
	}
	if err := c.next(); err != nil {
		t.Fatal(err)
	}
	boot := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(boot, fmt.Appendf(nil, `
node: {id: %s, cluster: soak}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - {name: ads, type: STATIC, load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %s/ads.sock}}}}]}]}}
`, node, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startSidecar(t, boot, filepath.Join(dir, "console.sock"))
	for _, name := range []string{"http", "tls", "tcp"} {
		harness.Eventually(t, 20*time.Second, func() error {
			conn, err := net.Dial("tcp", addrs[name])
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}

	say := func(format string, args ...any) { t.Logf(format, args...) }
	say("soak of %v in %d rounds, %d workers, seed 1; 3 upstreams each for HTTP/1.1, HTTP/2 and TCP", whole, rounds, workers)
	y := newTally()
	out := &outages{}
	var kills int
	began := time.Now()
	var first, last reading
	for round := range rounds {
		ctx, cancel := context.WithTimeout(context.Background(), whole/rounds)
		var wg sync.WaitGroup
		for n := range workers {
			wg.Go(func() {
				work(ctx, y, out, &worker{r: rand.New(rand.NewPCG(1, uint64(round*workers+n))), addrs: addrs, ca: c.ca})
			})
		}
		wg.Go(func() { // configuration, twice a second
			every(ctx, 500*time.Millisecond, func() {
				if err := c.next(); err != nil {
					t.Error(err)
				}
			})
		})
		wg.Go(func() { // an upstream is killed now and then
			r := rand.New(rand.NewPCG(2, uint64(round)))
			every(ctx, 2500*time.Millisecond, func() {
				u := ups[r.IntN(len(ups))]
				out.begin()
				kills++
				u.kill()
				pause(ctx, 300*time.Millisecond)
				if err := u.revive(); err != nil {
					t.Error(err)
				}
				out.end()
			})
		})
		wg.Go(func() {
			every(ctx, max(whole/40, time.Second), func() {
				r, err := s.read()
				if err != nil {
					t.Error(err)
					return
				}
				done, exp, un := y.sums()
				say("%6s  operations %7d  failed as expected %4d, otherwise %d  pushes %4d  kills %3d  %v", time.Since(began).Round(time.Second), done, exp, un, c.push.Load(), kills, r)
			})
		})
		wg.Wait()
		cancel()
		last = s.quiet(first)
		say("%6s  round %d is over, all is let go of: %v", time.Since(began).Round(time.Second), round+1, last)
		if round <= 1 { // the first warms up
			first = last
		}
		converge(t, c, addrs)
	}
	report(t, say, y, c, kills, began)
	flat(t, whole, first, last)

	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.done:
		s.done <- nil
		if err != nil {
			t.Errorf("the sidecar ends with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the sidecar does not end")
	}
}

func work(ctx context.Context, y *tally, out *outages, w *worker) {
	defer w.close()
	for ctx.Err() == nil {
		op := operations[w.r.IntN(len(operations))]
		if only := os.Getenv("SOAK_ONLY"); only != "" && !strings.Contains(only, op.name) {
			continue
		}
		from := time.Now()
		err := op.do(w)
		y.note(op.name, err, err != nil && excusable(err) && out.around(from, time.Now()))
	}
}

func every(ctx context.Context, d time.Duration, f func()) {
	for pause(ctx, d) {
		f()
	}
}

// pause says whether ctx still holds behind it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// converge waits until what was pushed last is in use: the routes and the certificate.
func converge(t *testing.T, c *control, addrs map[string]string) {
	t.Helper()
	w := &worker{r: rand.New(rand.NewPCG(3, 3)), addrs: addrs, ca: c.ca}
	defer w.close()
	want := c.push.Load()
	harness.Eventually(t, 20*time.Second, func() error {
		n, err := w.serial()
		if err == nil && n != want {
			err = fmt.Errorf("the certificate of push %d is in use, not of %d", n, want)
		}
		if err != nil {
			return err
		}
		h, err := w.open("http")
		if err != nil {
			return err
		}
		defer h.Close()
		fmt.Fprint(h, "GET /h1/echo HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(h.in, nil)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if got := resp.Header.Get("X-Push"); got != fmt.Sprint(want) {
			return fmt.Errorf("the routes of push %s are in use, not of %d (%s)", got, want, resp.Status)
		}
		return nil
	})
}

func report(t *testing.T, say func(string, ...any), y *tally, c *control, kills int, began time.Time) {
	t.Helper()
	say("%.1f minutes, %d operations, %d configurations pushed (%d refused), %d upstreams killed", time.Since(began).Minutes(), sum(y.done), c.push.Load(), c.nacks.Load(), kills)
	for _, op := range operations {
		say("  %-20s %8d", op.name, y.done[op.name])
		if y.done[op.name] == 0 {
			t.Errorf("no operation of kind %s was done", op.name)
		}
	}
	say("failed while an upstream was down, as expected: %d", sum(y.expected))
	for _, k := range slices.Sorted(maps.Keys(y.expected)) {
		say("  %-40s %6d", k, y.expected[k])
	}
	say("failed otherwise: %d", sum(y.unexpected))
	for _, k := range slices.Sorted(maps.Keys(y.unexpected)) {
		say("  %-40s %6d", k, y.unexpected[k])
	}
	for _, f := range y.first {
		t.Error(f)
	}
	if n := c.nacks.Load(); n > 0 {
		t.Errorf("%d pushes were refused; the last: %s", n, c.nack)
	}
	if kills == 0 {
		t.Error(errors.New("no upstream was killed"))
	}
}

// flat compares what is held at the end with what was after the second round, the first having filled pools and tables. Within a
// short run memory has not come to rest yet, so it has more room there.
func flat(t *testing.T, whole time.Duration, first, last reading) {
	t.Helper()
	room := int64(4 << 20)
	if whole < 5*time.Minute {
		room = 12 << 20
	}
	t.Logf("second round %v", first)
	t.Logf("last round   %v", last)
	for _, c := range []struct {
		what      string
		have, may int64
	}{
		{"goroutines", int64(last.goroutines), int64(first.goroutines) + own},
		{"descriptors", int64(last.descriptors), int64(first.descriptors) + own},
		{"bytes of heap", last.heap, first.heap + first.heap/5 + room/2},
		{"bytes of PSS", last.pss, first.pss + first.pss/10 + room},
	} {
		if c.have > c.may {
			t.Errorf("not flat: %d %s, more than %d", c.have, c.what, c.may)
		}
	}
	if !t.Failed() {
		t.Log("flat: goroutines, descriptors, heap and PSS are what they were after the second round")
	}
}
