// Command http1 measures one HTTP/1.1 proxy hop: CPU a request and idle memory of outrigger-sidecar beside HAProxy and
// Envoy, interleaved. bench/README.md says how, and how to read it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", 5, "runs of each peer; medians are shown")
	flag.DurationVar(&o.time, "time", 5*time.Second, "load of one run")
	flag.IntVar(&o.connections, "connections", 50, "connections of the load")
	flag.StringVar(&o.sidecar, "sidecar", "bin/outrigger-sidecar", "the sidecar's binary")
	flag.StringVar(&o.peers, "peers", "bench/peers", "the peers' configurations")
	flag.StringVar(&o.only, "only", "", "measure only these, by commas: outrigger, haproxy, envoy")
	flag.StringVar(&o.json, "json", "", "also write every run to this file, as JSON lines")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	runs, connections          int
	time                       time.Duration
	sidecar, peers, only, json string
}

// peer is a proxy under test.
type peer struct {
	name, config string
	program      string
	args         func(config string) []string
	env          []string
}

func peers(o options) []peer {
	all := []peer{
		{
			name: "outrigger", config: "envoy.json", program: o.sidecar, env: []string{"GOMAXPROCS=1"},
			args: func(c string) []string { return []string{"-c", c} },
		},
		{
			name: "haproxy", config: "haproxy.cfg", program: "haproxy",
			args: func(c string) []string { return []string{"-db", "-q", "-f", c} },
		},
		{
			name: "envoy", config: "envoy.json", program: "envoy",
			args: func(c string) []string {
				return []string{"-c", c, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"}
			},
		},
	}
	if o.only == "" {
		return all
	}
	only := strings.Split(o.only, ",")
	return slices.DeleteFunc(all, func(p peer) bool { return !slices.Contains(only, p.name) })
}

// measure is one run of one peer.
type measure struct {
	Peer     string  `json:"peer"`
	Requests int     `json:"requests"`
	Errors   int     `json:"errors"`
	Seconds  float64 `json:"seconds"`
	// CPU of the proxy in microseconds a request, user and system.
	User   float64 `json:"user_us"`
	System float64 `json:"system_us"`
	// Busy is the share of a core that the proxy used: near 1 it was the limit.
	Busy float64 `json:"busy"`
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	// Memory before the first request.
	RSS int `json:"rss_kib"`
	PSS int `json:"pss_kib"`
}

func (m measure) cpu() float64 { return m.User + m.System }

func run(o options) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ps := peers(o)
	for _, p := range append(ps, peer{program: "wrk"}, peer{program: "nginx"}) {
		if _, err := exec.LookPath(p.program); err != nil {
			return fmt.Errorf("%w (make test-deps installs the peers, make build the sidecar)", err)
		}
	}
	b := &bench{options: o, dir: dir, backend: freePort()}
	conf, err := b.write("backend-nginx.conf", 0)
	if err != nil {
		return err
	}
	service, err := b.start(loadCore(), "backend", "nginx", nil, "-c", conf)
	if err != nil {
		return err
	}
	defer service.stop()
	if err := service.accepts(b.backend); err != nil {
		return err
	}

	var out *json.Encoder
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		out = json.NewEncoder(f)
	}
	before := loadAverage()
	got := map[string][]measure{}
	for n := range o.runs {
		for _, p := range ps {
			m, err := b.one(p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			fmt.Fprintf(os.Stderr, "run %d %-10s %7.2f us (user %.2f, system %.2f), %.0f/s, core %.0f %%\n",
				n+1, p.name, m.cpu(), m.User, m.System, float64(m.Requests)/m.Seconds, 100*m.Busy)
			if out != nil {
				if err := out.Encode(m); err != nil {
					return err
				}
			}
			got[p.name] = append(got[p.name], m)
		}
	}
	report(o, ps, got, before)
	return nil
}

func report(o options, ps []peer, got map[string][]measure, before string) {
	median := func(name string, f func(measure) float64) float64 {
		v := make([]float64, 0, len(got[name]))
		for _, m := range got[name] {
			v = append(v, f(m))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	fmt.Printf("\n### HTTP/1.1 through one proxy: medians of %d runs of %v, %d connections\n\n", o.runs, o.time, o.connections)
	fmt.Println("| proxy | CPU us/request (user + system) | least to most | requests/s | p50 us | p99 us | core used | idle RSS MiB | idle PSS MiB | errors |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, p := range ps {
		lo, hi, errors := got[p.name][0].cpu(), 0.0, 0
		for _, m := range got[p.name] {
			lo, hi, errors = min(lo, m.cpu()), max(hi, m.cpu()), errors+m.Errors
		}
		fmt.Printf("| %s | %.2f (%.2f + %.2f) | %.2f to %.2f | %.0f | %.0f | %.0f | %.0f %% | %.1f | %.1f | %d |\n", p.name,
			median(p.name, measure.cpu), median(p.name, func(m measure) float64 { return m.User }),
			median(p.name, func(m measure) float64 { return m.System }), lo, hi,
			median(p.name, func(m measure) float64 { return float64(m.Requests) / m.Seconds }),
			median(p.name, func(m measure) float64 { return m.P50 }), median(p.name, func(m measure) float64 { return m.P99 }),
			100*median(p.name, func(m measure) float64 { return m.Busy }),
			median(p.name, func(m measure) float64 { return float64(m.RSS) / 1024 }),
			median(p.name, func(m measure) float64 { return float64(m.PSS) / 1024 }), errors)
	}
	fmt.Printf("\n%s; load average %s before, %s after.\n", machine(), before, loadAverage())
}

// write fills a configuration in and puts it into the bench's directory.
func (b *bench) write(name string, port int) (string, error) {
	text, err := os.ReadFile(filepath.Join(b.peers, name))
	if err != nil {
		return "", err
	}
	filled := strings.NewReplacer("@PORT@", fmt.Sprint(port), "@BACKEND@", fmt.Sprint(b.backend), "@DIR@", b.dir).Replace(string(text))
	path := filepath.Join(b.dir, fmt.Sprintf("%d-%s", port, name))
	return path, os.WriteFile(path, []byte(filled), 0o644)
}
