package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The cores: the proxy has the first, load and backends the second. With one core only, all share it.
const proxyCore = "0"

func loadCore() string { return strconv.Itoa(min(1, runtime.NumCPU()-1)) }

// bench is what all cases share: the directory of this run, and the backends, which live as long as it.
type bench struct {
	options
	dir                   string
	backendPort, grpcPort int
	backend, grpc         *process
	settle                time.Duration // from the first listener to the load
	raw                   *json.Encoder
	rawFile               *os.File
	loadPeak              float64
	foreign               []float64 // shares of the machine that others used, a run
}

func newBench(o options, cases []*benchCase) (*bench, error) {
	b := &bench{options: o, settle: 300 * time.Millisecond}
	if o.smoke {
		b.settle = 0
	}
	if b.loadProgram == "" {
		b.loadProgram = filepath.Join(b.bin, "load")
	}
	if err := b.missing(cases); err != nil {
		return nil, err
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return nil, err
	}
	if err := b.prepare(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare() error {
	// nginx's worker may run as another user.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if err := writeCertificates(b.dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "1m"), make([]byte, 1<<20), 0o644); err != nil {
		return err
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	b.backendPort, b.grpcPort = ports[0], ports[1]
	text, err := os.ReadFile(filepath.Join(b.peers, "backend-nginx.conf"))
	if err != nil {
		return err
	}
	conf := filepath.Join(b.dir, "backend-nginx.conf")
	if err := os.WriteFile(conf, []byte(b.fill(string(text))), 0o644); err != nil {
		return err
	}
	if b.backend, err = b.start(loadCore(), "backend", "nginx", nil, "-c", conf); err != nil {
		return err
	}
	if err := b.backend.accepts(b.backendPort); err != nil {
		return fmt.Errorf("the HTTP backend: %w", err)
	}
	if b.grpc, err = b.start(loadCore(), "grpc-backend", b.loadProgram, []string{"GOMAXPROCS=1"}, "serve", "-addr", fmt.Sprintf("127.0.0.1:%d", b.grpcPort)); err != nil {
		return err
	}
	if err := b.grpc.accepts(b.grpcPort); err != nil {
		return fmt.Errorf("the gRPC backend: %w", err)
	}
	if b.options.raw != "" {
		if b.rawFile, err = os.Create(b.options.raw); err != nil {
			return err
		}
		b.raw = json.NewEncoder(b.rawFile)
	}
	return nil
}

func (b *bench) close() {
	b.backend.stop()
	b.grpc.stop()
	if b.rawFile != nil {
		_ = b.rawFile.Close()
	}
	_ = os.RemoveAll(b.dir)
}

// entrants are a case's peers as far as this run has them.
func (b *bench) entrants(c *benchCase) (out []entrant) {
	for _, e := range c.peers {
		if e.extra && b.quick || b.only != "" && !slices.Contains(strings.Split(b.only, ","), e.name()) {
			continue
		}
		out = append(out, e)
	}
	return out
}

// measure is what bench/load says of one run.
type measure struct {
	Case       string                `json:"case"`
	Peer       string                `json:"peer"`
	Rep        int                   `json:"rep"`
	Requests   int                   `json:"requests"`
	Errors     int                   `json:"errors"`
	FirstError string                `json:"first_error,omitempty"`
	Seconds    float64               `json:"seconds"`
	P50        float64               `json:"p50_us"`
	P99        float64               `json:"p99_us"`
	CPU        map[string][2]float64 `json:"cpu"`
	Load       float64               `json:"load_cpu"`
	Machine    float64               `json:"machine_cpu"`
}

// figures are the metrics of one run.
func (m *measure) figures() map[string]float64 {
	p, n := m.CPU["proxy"], float64(max(1, m.Requests))
	f := map[string]float64{
		cpu.key: 1e6 * (p[0] + p[1]) / n, user.key: 1e6 * p[0] / n, system.key: 1e6 * p[1] / n, rate.key: float64(m.Requests) / m.Seconds,
		p50.key: m.P50, p99.key: m.P99, busy.key: 100 * (p[0] + p[1]) / m.Seconds,
	}
	if p[0]+p[1] > 0 {
		f[perCore.key] = n / (p[0] + p[1])
	}
	return f
}

// load runs bench/load against a port, and reads the proxy's CPU time meanwhile.
func (b *bench) load(c *benchCase, p proxy, cores string, more ...string) (*measure, error) {
	args := []string{"-c", cores, b.loadProgram}
	for i, a := range append(append([]string{}, c.load...), more...) {
		args = append(args, b.fill(a))
		if i == 0 {
			args = append(args, "-addr", fmt.Sprintf("127.0.0.1:%d", p.port), "-warm", b.warm.String(), "-time", b.time.String())
		}
	}
	backend := b.backend
	if c.grpc {
		backend = b.grpc
	}
	watch := fmt.Sprintf("backend=%d", backend.pid())
	if p.process != nil {
		watch += fmt.Sprintf(",proxy=%d", p.pid())
	}
	cmd := exec.Command("taskset", append(args, "-watch", watch)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	profiled := b.profile(c, p)
	out, err := cmd.Output()
	profiled()
	if err != nil {
		return nil, fmt.Errorf("load: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	m := &measure{Case: c.id}
	if err := json.Unmarshal(out, m); err != nil {
		return nil, fmt.Errorf("load: %w: %s", err, out)
	}
	if m.Requests == 0 && m.Errors == 0 {
		return nil, errors.New("load: no answer within the measurement")
	}
	ours := m.Load
	for _, t := range m.CPU {
		ours += t[0] + t[1]
	}
	b.foreign = append(b.foreign, max(0, m.Machine-ours)/m.Seconds/float64(runtime.NumCPU()))
	b.loadPeak = max(b.loadPeak, loadAverage()[0])
	return m, nil
}
