package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// measureIdle reads what idle connections add to a proxy's memory (PSS). Some were opened and closed before, so that
// what is allocated once does not count.
func measureIdle(b *bench, c *benchCase, r *caseResult, _ int) error {
	r.note(fmt.Sprintf("%d connections, one exchange on each; memory of the process, not of the kernel's sockets", b.held))
	var errs []error
	for i, e := range b.entrants(c) {
		reps := min(b.reps, 3)
		if i > 0 {
			reps = 1
		}
		for rep := range reps {
			if r.row(e.name()).NotServed == "" {
				errs = append(errs, b.idlePeer(c, e, r, rep))
			}
		}
	}
	return errors.Join(errs...)
}

func (b *bench) idlePeer(c *benchCase, e entrant, r *caseResult, rep int) error {
	p, err := b.startPeer(e, proxyCore)
	if errors.Is(err, errNotServed) {
		r.row(e.name()).NotServed = err.Error()
		progress("%d %-5s %-10s %v", rep+1, c.id, e.name(), err)
		return nil
	}
	if err != nil {
		return err
	}
	defer p.stop()
	first, err := b.hold(c, p, max(1, b.held/20))
	if err != nil {
		return fmt.Errorf("%s: %w", e.name(), err)
	}
	first()
	b.settleMemory()
	before, err := pss(p.pid())
	if err != nil {
		return err
	}
	release, err := b.hold(c, p, b.held)
	if err != nil {
		return fmt.Errorf("%s: %w", e.name(), err)
	}
	b.settleMemory()
	after, err := pss(p.pid())
	release()
	if err != nil {
		return err
	}
	each := (after - before) / float64(b.held)
	progress("%d %-5s %-10s %.2f KiB a connection (%.1f to %.1f MiB)", rep+1, c.id, e.name(), each, before/1024, after/1024)
	r.row(e.name()).add(map[string]float64{kib.key: each}, &measure{})
	return nil
}

// hold opens connections and returns what closes them.
func (b *bench) hold(c *benchCase, p proxy, n int) (release func(), err error) {
	args := []string{"-c", loadCore(), b.loadProgram}
	args = append(args, c.load...)
	args = append(args, "-addr", fmt.Sprintf("127.0.0.1:%d", p.port), "-n", fmt.Sprint(n), "-ca", b.fill("@CA@"), "-cert", b.fill("@CERT@"), "-key", b.fill("@KEY@"))
	cmd := exec.Command("taskset", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	release = func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	}
	if line != "ready\n" {
		release()
		return nil, fmt.Errorf("load hold: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return release, nil
}
