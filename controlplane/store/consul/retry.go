package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/internal/backoff"
)

// errUnreachable marks what patiently returns when it has lost its patience.
var errUnreachable = errors.New("Consul cannot be reached, or has no leader")

// retry counts tries in a row.
type retry struct{ n int }

// sleep waits before a further try, or until ctx ends.
func (r *retry) sleep(ctx context.Context) error {
	r.n++
	p := backoff.Policy{Kind: backoff.Exponential, Base: 40 * time.Millisecond, Max: 2 * time.Second}
	d := p.Delay(r.n, nil)
	d = d/2 + rand.N(d/2+1) // at least half, so that it is never a busy loop
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// permanent says that an answer of Consul's will be the same again: it was understood and refused.
func permanent(err error) bool {
	var status api.StatusError
	if errors.As(err, &status) {
		return status.Code >= 400 && status.Code < 500 &&
			status.Code != http.StatusTooManyRequests && status.Code != http.StatusRequestTimeout
	}
	// The client drops the status of a transaction.
	text := err.Error()
	for _, s := range []string{"Permission denied", "ACL not found", "too large", "exceed", "Failed to parse"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// joined is ctx that ends at Close too.
func (s *Store) joined(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// ended is why a joined context has ended.
func (s *Store) ended(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	return ctx.Err()
}

// patiently calls fn until it succeeds, Consul refuses, ctx ends, or Options.Patience is over. fn must be idempotent.
func (s *Store) patiently(ctx context.Context, fn func(ctx context.Context) error) error {
	outer, done := s.joined(ctx)
	defer done()
	if outer.Err() != nil {
		return s.ended(outer)
	}
	ctx, cancel := context.WithTimeout(outer, s.opts.Patience)
	defer cancel()
	wait := retry{}
	for {
		err := fn(ctx)
		switch {
		case err == nil:
			return nil
		case outer.Err() != nil:
			return s.ended(outer)
		case permanent(err):
			return err
		}
		s.log.Debug("Consul does not answer", "error", err)
		if ctx.Err() != nil || wait.sleep(ctx) != nil {
			if outer.Err() != nil {
				return s.ended(outer)
			}
			return fmt.Errorf("%w, for %v: %w", errUnreachable, s.opts.Patience, err)
		}
	}
}
