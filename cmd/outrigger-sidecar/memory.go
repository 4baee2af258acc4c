package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// A sidecar's memory is paid for by every instance. What it allocates, it allocates for configuration: an exchange
// allocates nothing, so that collecting early costs calls nothing.
const (
	collectPercent = 40
	// settleTime is how long configuration must be quiet before its remains are given back to the system.
	settleTime = time.Second
	// settleRounds of collection halve the stacks that parsing has grown each time.
	settleRounds = 3
)

// collectEarly keeps the heap small, unless GOGC says otherwise.
func collectEarly() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectPercent)
	}
}

// settle gives what the parsing of configuration has left behind back to the system, until ctx ends.
func settle(ctx context.Context, applied <-chan struct{}) {
	t := time.NewTimer(settleTime)
	t.Stop()
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-applied:
			t.Reset(settleTime)
		case <-t.C:
			for range settleRounds - 1 {
				runtime.GC()
			}
			debug.FreeOSMemory()
		}
	}
}
