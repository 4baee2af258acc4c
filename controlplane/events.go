package controlplane

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

// keptEvents is how many events are kept for those who come late.
const keptEvents = 4096

// journal numbers events and keeps the last of them. It is safe for concurrent use.
type journal struct {
	epoch string

	mu      sync.Mutex
	last    uint64
	ring    []admin.Event // the oldest first
	changed chan struct{} // closed with each event
}

func newJournal() *journal {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return &journal{epoch: hex.EncodeToString(b[:]), changed: make(chan struct{})}
}

func (j *journal) add(e admin.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.Number, e.Epoch = j.last, j.epoch
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	if len(j.ring) == keptEvents {
		j.ring = append(j.ring[:0:0], j.ring[keptEvents/4:]...)
	}
	j.ring = append(j.ring, e)
	close(j.changed)
	j.changed = make(chan struct{})
}

// after returns the events that follow number since, and a channel that is closed when there is another.
func (j *journal) after(since uint64) ([]admin.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, e := range j.ring {
		if e.Number > since {
			return append([]admin.Event(nil), j.ring[i:]...), j.changed
		}
	}
	return nil, j.changed
}

func (j *journal) read(ctx context.Context, epoch string, since uint64, follow bool, yield func(admin.Event) bool) error {
	if epoch != "" && epoch != j.epoch {
		since = 0
	}
	for {
		events, more := j.after(since)
		for _, e := range events {
			since = e.Number
			if !yield(e) {
				return nil
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		}
	}
}
