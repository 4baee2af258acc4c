package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cores: one for the proxy, one for the rest.
const proxyCore = 0

func loadCore() int { return min(1, runtime.NumCPU()-1) }

// ticks is the kernel's unit of CPU time in /proc, a second's part: 100 on every Linux that Go knows.
const ticks = 100

type bench struct {
	options
	dir     string
	backend int // port
}

// one runs one peer once.
func (b *bench) one(p peer) (m measure, err error) {
	port := freePort()
	conf, err := b.write(p.config, port)
	if err != nil {
		return m, err
	}
	proxy, err := b.start(proxyCore, p.name, p.program, p.env, p.args(conf)...)
	if err != nil {
		return m, err
	}
	defer proxy.stop()
	if err := proxy.accepts(port); err != nil {
		return m, err
	}
	// Memory settles a moment after the start, before any request.
	time.Sleep(500 * time.Millisecond)
	m.RSS, m.PSS = proxy.memory()
	if _, err := b.load(port, time.Second); err != nil {
		return m, err
	}
	u0, s0, err := proxy.cpu()
	if err != nil {
		return m, err
	}
	l, err := b.load(port, b.time)
	if err != nil {
		return m, err
	}
	u1, s1, err := proxy.cpu()
	if err != nil {
		return m, err
	}
	l.Peer, l.RSS, l.PSS = p.name, m.RSS, m.PSS
	l.User, l.System = 1e6*(u1-u0)/float64(l.Requests), 1e6*(s1-s0)/float64(l.Requests)
	l.Busy = (u1 - u0 + s1 - s0) / l.Seconds
	return l, nil
}

var (
	wrkTotal   = regexp.MustCompile(`(\d+) requests in ([\d.]+)(us|ms|s|m),`)
	wrkErrors  = regexp.MustCompile(`(?:connect|read|write|timeout) (\d+)`)
	wrkStatus  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkLatency = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)`)
)

// load runs wrk and reads what it says.
func (b *bench) load(port int, d time.Duration) (m measure, err error) {
	cmd := exec.Command("taskset", "-c", strconv.Itoa(loadCore()), "wrk", "-t1", fmt.Sprintf("-c%d", b.connections),
		fmt.Sprintf("-d%ds", max(1, int(d.Seconds()))), "--latency", fmt.Sprintf("http://127.0.0.1:%d/", port))
	raw, err := cmd.CombinedOutput()
	out := string(raw)
	t := wrkTotal.FindStringSubmatch(out)
	if err != nil || t == nil {
		return m, fmt.Errorf("wrk: %v: %s", err, out) //nolint:errorlint // err may be nil
	}
	m.Requests, _ = strconv.Atoi(t[1])
	m.Seconds = micros(t[2], t[3]) / 1e6
	if m.Requests == 0 {
		return m, fmt.Errorf("wrk got no answer: %s", out)
	}
	for _, e := range wrkErrors.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(e[1])
		m.Errors += n
	}
	if s := wrkStatus.FindStringSubmatch(out); s != nil {
		n, _ := strconv.Atoi(s[1])
		m.Errors += n
	}
	for _, l := range wrkLatency.FindAllStringSubmatch(out, -1) {
		if l[1] == "50" {
			m.P50 = micros(l[2], l[3])
		} else {
			m.P99 = micros(l[2], l[3])
		}
	}
	return m, nil
}

func micros(number, unit string) float64 {
	n, _ := strconv.ParseFloat(number, 64)
	return n * map[string]float64{"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}[unit]
}

// process is a child that listens.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

func (b *bench) start(core int, name, program string, env []string, args ...string) (*process, error) {
	program, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	// taskset replaces itself by the program: the pid is the program's own.
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(core), program}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{}), log: log.Name()}
	go func() { _ = cmd.Wait(); close(p.done) }()
	return p, nil
}

// accepts waits until the process accepts connections on a port.
func (p *process) accepts(port int) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			said, _ := os.ReadFile(p.log)
			return fmt.Errorf("it ended: %s", said)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(p.log)
			return fmt.Errorf("no listener on port %d: %s", port, said)
		}
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// cpu is the process's user and system time in seconds, all threads.
func (p *process) cpu() (user, system float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("it is gone: %w", err)
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return 0, 0, errors.New("/proc/PID/stat is not as expected")
	}
	u, _ := strconv.ParseFloat(f[11], 64)
	s, _ := strconv.ParseFloat(f[12], 64)
	return u / ticks, s / ticks, nil
}

// memory is the resident and the proportional set in KiB; 0 where the kernel does not tell.
func (p *process) memory() (rss, pss int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "Rss:":
			rss, _ = strconv.Atoi(f[1])
		case "Pss:":
			pss, _ = strconv.Atoi(f[1])
		}
	}
	return rss, pss
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // loopback without a free port: nothing can be measured
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}

// machine is one line of facts.
func machine() string {
	model, mem, kernel := "unknown processor", "", ""
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			kib, _ := strconv.Atoi(f[1])
			mem = fmt.Sprintf(", %d GiB", (kib+1<<19)>>20)
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = ", Linux " + strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("%d cores of %s%s%s, %s", runtime.NumCPU(), model, mem, kernel, runtime.Version())
}
