package main

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// measureLoad starts each peer afresh and loads it once.
func measureLoad(b *bench, c *benchCase, r *caseResult, rep int) error {
	var errs []error
	for _, e := range b.entrants(c) {
		if r.row(e.name()).NotServed != "" {
			continue
		}
		errs = append(errs, b.loadPeer(c, e, r, rep, proxyCore, loadCore(), nil))
	}
	return errors.Join(errs...)
}

func (b *bench) loadPeer(c *benchCase, e entrant, r *caseResult, rep int, proxyCores, loadCores string, env []string, more ...string) error {
	p, err := b.startPeer(e, proxyCores, env...)
	if errors.Is(err, errNotServed) {
		r.row(e.name()).NotServed = err.Error()
		progress("%d %-5s %-10s %v", rep+1, c.id, e.name(), err)
		return nil
	}
	if err != nil {
		return err
	}
	defer p.stop()
	m, err := b.load(c, p, loadCores, more...)
	if err != nil {
		return fmt.Errorf("%s: %w", e.name(), err)
	}
	return b.take(c, e, r, rep, m)
}

// take enters a run into its row.
func (b *bench) take(c *benchCase, e entrant, r *caseResult, rep int, m *measure) error {
	m.Peer, m.Rep = e.name(), rep
	f := m.figures()
	progress("%d %-5s %-10s %8.2f µs (user %.2f, system %.2f), %8.0f/s, p50 %.0f p99 %.0f µs, core %.0f %%, load %.0f %%, errors %d %s", rep+1, c.id, e.name(),
		f[cpu.key], f[user.key], f[system.key], f[rate.key], m.P50, m.P99, f[busy.key], 100*(m.Load+m.CPU["backend"][0]+m.CPU["backend"][1])/m.Seconds, m.Errors, m.FirstError)
	r.row(e.name()).add(f, m)
	if b.raw != nil {
		return b.raw.Encode(m)
	}
	return nil
}

// reachedShare of a rate is what a run must come to so that the rate counts as kept.
const reachedShare = 0.98

// measureRate finds, before the first run, the highest rate up to the case's own that all peers keep.
func measureRate(b *bench, c *benchCase, r *caseResult, rep int) error {
	if rep == 0 {
		highest := c.rate
		for _, e := range b.entrants(c) {
			trial := &caseResult{}
			if err := b.loadPeer(c, e, trial, -1, proxyCore, loadCore(), nil, "-rate", fmt.Sprint(c.rate)); err != nil {
				return err
			}
			if got := trial.row(e.name()).median(rate.key); got < reachedShare*c.rate && trial.row(e.name()).NotServed == "" {
				highest = min(highest, math.Floor(got*0.9/1000)*1000)
			}
		}
		if b.smoke {
			highest = 1000
		}
		r.Rate = highest
		r.note(fmt.Sprintf("%.0f requests a second", highest))
		if highest < c.rate {
			r.note(fmt.Sprintf("client and backend on one core, or a proxy, did not keep %.0f a second: this is the highest rate that all kept", c.rate))
		}
	}
	var errs []error
	for _, e := range b.entrants(c) {
		if r.row(e.name()).NotServed == "" {
			errs = append(errs, b.loadPeer(c, e, r, rep, proxyCore, loadCore(), nil, "-rate", fmt.Sprint(r.Rate)))
		}
	}
	return errors.Join(errs...)
}

// measureLoops runs one loop and two, everything on both cores in both runs. Client and backend need CPU of the same
// cores, so the rate cannot double; what counts is how much work a second of the proxy's CPU does.
func measureLoops(b *bench, c *benchCase, r *caseResult, rep int) error {
	both := "0-" + loadCore()
	if loadCore() == proxyCore {
		r.note("one core only: not measured")
		return nil
	}
	var errs []error
	for i, procs := range []string{"GOMAXPROCS=2", "GOMAXPROCS=1"} {
		errs = append(errs, b.loadPeer(c, c.peers[i], r, rep, both, both, []string{procs}))
	}
	if rep == 0 {
		r.note("the proxy, its client and its backend share two cores, which limits the rate; times one loop = 2 × CPU a call with one loop / CPU a call with two")
	}
	return errors.Join(errs...)
}

// measureLoris compares a peer's latencies without and with clients that send their request's head byte by byte.
func measureLoris(b *bench, c *benchCase, r *caseResult, rep int) error {
	var errs []error
	for _, e := range b.entrants(c) {
		errs = append(errs, b.lorisPeer(c, e, r, rep))
	}
	return errors.Join(errs...)
}

func (b *bench) lorisPeer(c *benchCase, e entrant, r *caseResult, rep int) error {
	p, err := b.startPeer(e, proxyCore)
	if err != nil {
		return err
	}
	defer p.stop()
	r.note(fmt.Sprintf("%d slow clients; the others make %s requests a second", b.slow, c.load[len(c.load)-1]))
	without, err := b.load(c, p, loadCore())
	if err != nil {
		return err
	}
	slow, err := b.startSlow(p.port)
	if err != nil {
		return err
	}
	defer slow.stop()
	with, err := b.load(c, p, loadCore())
	if err != nil {
		return err
	}
	row := r.row(e.name())
	row.add(map[string]float64{p99.key: without.P99, p99Slow.key: with.P99, slowness.key: with.P99 / without.P99}, without)
	row.fail(with)
	progress("%d %-5s %-10s p99 %.0f µs without, %.0f µs with %d slow clients, errors %d", rep+1, c.id, e.name(), without.P99, with.P99, b.slow, without.Errors+with.Errors)
	select {
	case <-slow.done:
		return fmt.Errorf("the slow clients ended early: %s", slow.said())
	default:
		return nil
	}
}

// settleMemory is how long a process's memory is left alone before it is read.
func (b *bench) settleMemory() {
	if !b.smoke {
		time.Sleep(3 * time.Second)
	}
}
