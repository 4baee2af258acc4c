package differential

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// defaultSeed makes exchanges that need every entry of the table.
const defaultSeed = 4

var (
	seed = flag.Uint64("seed", defaultSeed, "what the exchanges are made of")
	only = flag.Int("case", 0, "run this exchange alone, and show all that both proxies made of it")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxyUnderTest is one of the two, with upstreams of its own.
type proxyUnderTest struct {
	name   string
	hub    *hub
	down   [3]string // listeners by the version of their upstream; 0 is TCP
	strays func() int64
}

func start(t *testing.T, name string, command func(bootstrap string) *exec.Cmd) *proxyUnderTest {
	t.Helper()
	p := &proxyUnderTest{name: name, hub: &hub{all: map[int]*waiting{}}}
	h1, err := serveH1(p.hub)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h1.close)
	h2, err := serveH2(p.hub)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h2.close)
	raw, err := serveTCP(p.hub)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.close)
	p.strays = func() int64 { return h1.stray.Load() + h2.stray.Load() }
	type pair struct {
		Name, Options    string
		Listen, Upstream string
	}
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	p.down = [3]string{harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t)}
	var b bytes.Buffer
	tpl := template.Must(template.ParseFiles("testdata/bootstrap.yaml.tmpl"))
	if err := tpl.Execute(&b, map[string]any{"Closed": port(harness.FreeAddr(t)), "TCP": pair{Listen: port(p.down[0]), Upstream: port(raw.l.Addr().String())}, "Pairs": []pair{
		{"h1", "{http_protocol_options: {enable_trailers: true}}", port(p.down[1]), port(h1.l.Addr().String())},
		{"h2", "{http2_protocol_options: {}}", port(p.down[2]), port(h2.l.Addr().String())},
	}}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "diff") //nolint:usetesting // the console's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(file)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() && log.Len() > 0 {
			t.Logf("%s said:\n%.4000s", name, log.String())
		}
	})
	for _, a := range p.down {
		harness.Eventually(t, 20*time.Second, func() error {
			c, err := net.Dial("tcp", a)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	}
	return p
}

func (p *proxyUnderTest) play(s *script) map[string]string {
	return run(p.hub, s, func() (caller, error) {
		switch s.down {
		case 0:
			return dialTCP(p.down[0])
		case 1:
			return dialH1(p.down[s.up])
		}
		return dialH2(p.down[s.up])
	})
}

// difference is an entry of testdata/differences.yaml: what differs on purpose.
type difference struct {
	// Case matches the exchange ("7 fields h1>h2 GET /case-7"), What the name of what was seen; Envoy and Ours match the
	// values. Also names what else differs where this does. Everywhere: it is in nearly every exchange, and not counted.
	Case, What, Envoy, Ours, Also string
	Reason                        string
	Everywhere                    bool
	res                           [5]*regexp.Regexp
	used                          int
}

func readDifferences(t *testing.T) []*difference {
	b, err := os.ReadFile("testdata/differences.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var l []*difference
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&l); err != nil {
		t.Fatal(err)
	}
	for i, e := range l {
		if e.Reason == "" || e.What == "" {
			t.Fatalf("differences.yaml: entry %d has no reason, or does not say what", i+1)
		}
		for k, s := range []string{e.Case, "^(?:" + e.What + ")$", e.Envoy, e.Ours, "^(?:" + e.Also + ")$"} {
			e.res[k] = regexp.MustCompile("(?s)" + s)
		}
	}
	return l
}

func TestEnvoy(t *testing.T) {
	envoy := harness.Need(t, "envoy")
	bin := harness.Binaries(t)
	scripts := generate(*seed)
	t.Logf("seed %d: %d exchanges", *seed, len(scripts))
	table := readDifferences(t)
	proxies := []*proxyUnderTest{
		start(t, "Envoy", func(f string) *exec.Cmd {
			return exec.Command(envoy, "-c", f, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error", "--disable-hot-restart")
		}),
		start(t, "Outrigger", func(f string) *exec.Cmd {
			return exec.Command(filepath.Join(bin.Dir, "outrigger-sidecar"), "-c", f, "-log-level", "warn")
		}),
	}
	if *only > 0 {
		scripts = slices.DeleteFunc(scripts, func(s *script) bool { return s.id != *only })
	}
	results := make([][2]map[string]string, len(scripts))
	var wg sync.WaitGroup
	for k, p := range proxies {
		next := make(chan int)
		for range 12 {
			wg.Go(func() {
				for i := range next {
					results[i][k] = p.play(scripts[i])
				}
			})
		}
		wg.Go(func() {
			defer close(next)
			for i, s := range scripts {
				if !s.alone {
					next <- i
				}
			}
		})
	}
	wg.Wait()
	for k, p := range proxies {
		wg.Go(func() {
			for i, s := range scripts {
				if s.alone {
					results[i][k] = p.play(s)
				}
			}
		})
	}
	wg.Wait()
	same, meant := 0, 0
	perKind := map[string][2]int{}
	for i, s := range scripts {
		differ := compare(t, table, s, results[i][0], results[i][1])
		n := perKind[s.kind]
		n[0]++
		if differ > 0 {
			meant++
			n[1]++
		} else {
			same++
		}
		perKind[s.kind] = n
	}
	for _, k := range slices.Sorted(maps.Keys(perKind)) {
		t.Logf("%-16s %4d exchanges, %4d with a difference of the table", k, perKind[k][0], perKind[k][1])
	}
	t.Logf("%d exchanges: %d the same, %d with differences that are meant", len(scripts), same, meant)
	if *only > 0 {
		return
	}
	for _, e := range table {
		t.Logf("%4d × %s (%s)", e.used, e.What, strings.TrimSpace(e.Reason))
		if e.used == 0 && *seed == defaultSeed {
			t.Errorf("nothing differs any more as differences.yaml says of %s %s: %s", e.Case, e.What, e.Reason)
		}
	}
	for _, p := range proxies {
		if n := p.strays(); n > 0 {
			t.Errorf("%s sent on %d requests that belong to no exchange", p.name, n)
		}
	}
}

// compare reports what differs and is not in the table, and returns how many differences are.
func compare(t *testing.T, table []*difference, s *script, envoy, ours map[string]string) (meant int) {
	keys := map[string]bool{}
	for k := range envoy {
		keys[k] = true
	}
	for k := range ours {
		keys[k] = true
	}
	type pair struct{ key, envoy, ours string }
	var rest []pair
	var also []*regexp.Regexp
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		a, b := "-", "-"
		if v, ok := envoy[k]; ok {
			a = v
		}
		if v, ok := ours[k]; ok {
			b = v
		}
		if *only > 0 {
			t.Logf("%-30s %.300q\n%45s %.300q", k, a, "", b)
		}
		if a == b {
			continue
		}
		i := slices.IndexFunc(table, func(e *difference) bool {
			return e.res[0].MatchString(s.String()) && e.res[1].MatchString(k) && e.res[2].MatchString(a) && e.res[3].MatchString(b)
		})
		if i < 0 {
			rest = append(rest, pair{k, a, b})
			continue
		}
		table[i].used++
		also = append(also, table[i].res[4])
		if !table[i].Everywhere {
			meant++
		}
	}
	var bad strings.Builder
	for _, p := range rest {
		if slices.ContainsFunc(also, func(r *regexp.Regexp) bool { return r.MatchString(p.key) }) {
			meant++
			continue
		}
		fmt.Fprintf(&bad, "\n  %-28s Envoy %.200q\n  %28s  ours %.200q", p.key, p.envoy, "", p.ours)
	}
	if bad.Len() > 0 {
		t.Errorf("%s (-case %d shows it)%s", s, s.id, bad.String())
	}
	return meant
}
