package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// upstreams is how many services each instance of the slope's mesh uses.
const upstreams = 20

// measureSlope runs a real mesh of one instance, then of many: control plane, runners, sidecars. Each instance's sidecar
// takes its configuration from the control plane and has a listener, a route table and a cluster for each service used.
func measureSlope(b *bench, _ *benchCase, r *caseResult, _ int) error {
	state := filepath.Join(b.dir, "mesh")
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return err
	}
	program, err := filepath.Abs(b.loadProgram)
	if err != nil {
		return err
	}
	outrigger := func(args ...string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "outrigger"), args...)
		cmd.Env = append(os.Environ(), "OUTRIGGER_STATE="+state)
		// What is detached may keep the descriptors: files do not keep Run waiting, pipes would.
		out, err := os.Create(filepath.Join(b.dir, "outrigger.log"))
		if err != nil {
			return err
		}
		defer func() { _ = out.Close() }()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			said, _ := os.ReadFile(out.Name())
			return fmt.Errorf("outrigger %s: %w: %s", args[0], err, bytes.TrimSpace(said))
		}
		return nil
	}
	file := filepath.Join(b.dir, "mesh.yaml")
	write := func(size int) error {
		return os.WriteFile(file, []byte(meshOf(program, size, b.backendPort)), 0o644)
	}
	if err := write(1); err != nil {
		return err
	}
	defer func() {
		if err := outrigger("down", "--now"); err != nil {
			progress("%v", err)
		}
	}()
	if err := outrigger("up", "--detach", "--edge", "", "-f", file); err != nil {
		return err
	}
	one, err := b.meshMemory(state, 1)
	if err != nil {
		return err
	}
	if err := write(b.sidecars); err != nil {
		return err
	}
	if err := outrigger("apply", "-f", file); err != nil {
		return err
	}
	if err := outrigger("status", "--wait", "120s"); err != nil {
		return err
	}
	many, err := b.meshMemory(state, b.sidecars)
	if err != nil {
		return err
	}
	r.note(fmt.Sprintf("slope of the PSS of all from 1 instance to %d, %d services used by each; MB = 10⁶ bytes", b.sidecars, upstreams))
	for _, name := range []string{"sidecar", "runner"} {
		program := "outrigger-" + name
		slope := (many[program] - one[program]) / float64(b.sidecars-1)
		progress("1 slope %-10s %.2f MB for the first, %.2f MB for one more", name, one[program], slope)
		r.row(name).add(map[string]float64{mib.key: slope, atOne.key: one[program]}, &measure{})
	}
	return nil
}

// meshOf is a mesh of one service with a pool, and the services that it uses.
func meshOf(program string, size, port int) string {
	var used []string
	var s strings.Builder
	for i := range upstreams {
		name := fmt.Sprintf("used-%d", i)
		used = append(used, name)
		fmt.Fprintf(&s, `---
apiVersion: outrigger.dev/v1
kind: External
metadata: {name: %s}
spec: {protocol: http, endpoints: [{address: "127.0.0.1:%d"}]}
`, name, port)
	}
	fmt.Fprintf(&s, `---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: member}
spec:
  version: 1.0.0
  ports: [{name: grpc, protocol: grpc}]
  run: {command: [%s, serve]}
  pool: {size: %d}
  uses: [%s]
`, strconv.Quote(program), size, strings.Join(used, ", "))
	return s.String()
}

// meshMemory waits until a mesh has as many sidecars as it should, and sums PSS by program, in MB.
func (b *bench) meshMemory(state string, sidecars int) (map[string]float64, error) {
	b.settleMemory()
	sum, count := map[string]float64{}, map[string]int{}
	for _, p := range meshProcesses(state) {
		kib, err := pss(p.pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.program, err)
		}
		sum[p.program] += kib * 1024 / 1e6
		count[p.program]++
	}
	for _, program := range []string{"outrigger-sidecar", "outrigger-runner"} {
		if count[program] != sidecars {
			return nil, fmt.Errorf("%d processes of %s, expected %d", count[program], program, sidecars)
		}
	}
	return sum, nil
}

type meshProcess struct {
	pid     int
	program string
}

// meshProcesses are the processes whose command line names the state directory.
func meshProcesses(state string) (out []meshProcess) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if !bytes.Contains(line, []byte(state)) {
			continue
		}
		program, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err == nil {
			out = append(out, meshProcess{pid, filepath.Base(program)})
		}
	}
	return out
}
