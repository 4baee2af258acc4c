package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// tour takes every step of what print tells, and says what came of it.
func (d *demo) tour(ctx context.Context) error {
	d.say("\nNo terminal: here is the tour.")
	steps := []struct {
		what string
		do   func(context.Context) (string, error)
	}{
		{"buy something: front calls inventory (gRPC), orders (HTTP) and ledger (TCP)", d.checkout},
		{"count 500 calls to orders, split 90/10", func(ctx context.Context) (string, error) { return d.count(ctx, 500, 20, 100) }},
		{"a caller with x-beta: 1 gets version 2.0.0", d.beta},
		{"change the split to 50/50 while the load runs", func(ctx context.Context) (string, error) { return d.apply(ctx, 50, 50) }},
		{"count again", func(ctx context.Context) (string, error) { return d.count(ctx, 500, 190, 310) }},
		{"kill a process of orders 1.0.0; the load does not notice", func(ctx context.Context) (string, error) { return d.outriggerDo(ctx, "", "kill", "orders-1.0.0-0") }},
		{"it comes back by itself", func(ctx context.Context) (string, error) { return d.outriggerDo(ctx, "", "status", "--wait", "30s") }},
		{"see what runs", func(ctx context.Context) (string, error) { return d.outriggerDo(ctx, "", "ps") }},
	}
	for i, s := range steps {
		select {
		case err := <-d.ended:
			return errors.Join(errUpEnded, err)
		default:
		}
		out, err := s.do(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, s.what, err)
		}
		d.say("\n%d. %s\n%s", i+1, s.what, indent(out))
	}
	d.say("\nThe tour is over; on a terminal the shop would stay open until Ctrl-C.")
	return nil
}

func (d *demo) checkout(ctx context.Context) (string, error) {
	body, _, err := d.get(ctx, "front", "/checkout?sku=tea", nil)
	return body, err
}

func (d *demo) beta(ctx context.Context) (string, error) {
	body, version, err := d.get(ctx, "orders", "/orders/1", http.Header{"X-Beta": {"1"}})
	if err == nil && version != "2.0.0" {
		err = fmt.Errorf("version %q answered", version)
	}
	return body, err
}

// count makes n calls and wants between lo and hi of them answered by version 2.0.0.
func (d *demo) count(ctx context.Context, n, lo, hi int) (string, error) {
	by := map[string]int{}
	for range n {
		_, v, err := d.get(ctx, "orders", "/orders/1", nil)
		if err != nil {
			return "", err
		}
		by[v]++
	}
	if v2 := by["2.0.0"]; v2 < lo || v2 > hi {
		return "", fmt.Errorf("%d of %d calls reached 2.0.0, expected %d to %d", v2, n, lo, hi)
	}
	return fmt.Sprintf("1.0.0: %d, 2.0.0: %d", by["1.0.0"], by["2.0.0"]), nil
}

// apply changes the split and waits until calls follow it.
func (d *demo) apply(ctx context.Context, v1, v2 int) (string, error) {
	out, err := d.outriggerDo(ctx, fmt.Sprintf(`apiVersion: outrigger.dev/v1
kind: TrafficSplit
metadata: {name: orders}
spec: {service: orders, split: [{version: 1.0.0, weight: %d}, {version: 2.0.0, weight: %d}]}
`, v1, v2), "apply", "-f", "-")
	if err != nil {
		return "", err
	}
	// The sidecars learn of it within moments of the answer.
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return out, nil
}

func (d *demo) outriggerDo(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.outrigger, append(args, "--state", d.state)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

// get makes one call at the edge.
func (d *demo) get(ctx context.Context, service, path string, header http.Header) (body, version string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.edge+path, nil)
	if err != nil {
		return "", "", err
	}
	req.Host = service + ".localhost"
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("%s: status %d: %s", req.Host+path, res.StatusCode, strings.TrimSpace(string(b)))
	}
	return string(b), res.Header.Get("X-Version"), nil
}

func indent(s string) string {
	return "   " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n   ")
}

// load is twenty calls a second to orders, and what became of them.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	by     map[string]int
	failed int
	last   error
}

func startLoad(edge string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, done: make(chan struct{}), by: map[string]int{}}
	d := &demo{edge: edge}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, v, err := d.get(ctx, "orders", "/orders/1", nil)
			if errors.Is(err, context.Canceled) {
				return
			}
			l.mu.Lock()
			if err != nil {
				l.failed++
				l.last = err
			} else {
				l.by[v]++
			}
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *load) stop() (text string, failed int) {
	l.cancel()
	<-l.done
	return l.result()
}

func (l *load) result() (text string, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("%d answers of 1.0.0, %d of 2.0.0, %d failed", l.by["1.0.0"], l.by["2.0.0"], l.failed)
	if l.last != nil {
		s += fmt.Sprintf(" (last: %v)", l.last)
	}
	return s, l.failed
}
