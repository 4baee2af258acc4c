// Package consul finds services in Consul's catalog, and registers our own there.
//
// [Source] tells the endpoints of all services: those that other hosts of this mesh registered, which say in their meta what
// they are, and foreign ones, which anybody registered in any way. [Registrar] keeps the instances of this host in the
// catalog through the local agent. How a registration is written and read again is in entry.go.
//
// Health is the agents' affair: they check the sidecars by TCP and HTTP. Nothing here renews a TTL, so that a control plane
// that dies takes no instance out of the catalog. The revisions of resources are elsewhere in Consul: controlplane/store/consul.
package consul

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/internal/backoff"
)

// Options are what a caller may choose. The zero Options are the defaults.
type Options struct {
	// Address is the agent's HTTP address; "" is CONSUL_HTTP_ADDR, else 127.0.0.1:8500. The token, TLS and the rest of
	// the client come from Consul's usual CONSUL_* environment.
	Address string
	// Hold is how long a Source keeps telling the endpoints of a service (as stale) of which Consul says that it has no
	// instances any more, although some served a moment before; 0 is 5 minutes, less than 0 is for ever.
	Hold time.Duration
	// CheckInterval and CheckTimeout are those of the agent's checks; 0 is 10 s and 1 s.
	CheckInterval, CheckTimeout time.Duration
	// DeregisterAfter is after how long an agent takes out a registration whose checks fail; 0 is 10 minutes, and Consul
	// takes no less than 1 minute.
	DeregisterAfter time.Duration
	// SyncInterval is how often a Registrar compares what the agent holds with what it should; 0 is 5 s.
	SyncInterval time.Duration
	// Logger is told when Consul cannot be reached; nil discards.
	Logger *slog.Logger
}

func (o *Options) defaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.Hold, 5 * time.Minute},
		{&o.CheckInterval, 10 * time.Second},
		{&o.CheckTimeout, time.Second},
		{&o.DeregisterAfter, 10 * time.Minute},
		{&o.SyncInterval, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// connect makes a client from the environment. It dials nothing yet.
func connect(address string) (*api.Client, *http.Transport, error) {
	cfg := api.DefaultConfig()
	if address != "" {
		cfg.Address = address
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("configuring Consul's client: %w", err)
	}
	return client, cfg.Transport, nil
}

// retry counts failures in a row.
type retry struct{ n int }

// delay is how long to wait after one more failure.
func (r *retry) delay() time.Duration {
	r.n++
	d := backoff.Policy{Kind: backoff.Exponential, Base: 100 * time.Millisecond, Max: 10 * time.Second}.Delay(r.n, nil)
	return d/2 + rand.N(d/2+1) // at least half, so that it is never a busy loop
}

// sleep waits for delay, or until ctx ends.
func (r *retry) sleep(ctx context.Context) error {
	t := time.NewTimer(r.delay())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
