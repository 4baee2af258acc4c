// Package eventlog holds numbered events in a bounded ring from which readers resume by number.
//
// Who makes events and what they mean belongs to the packages that append them (supervisor, controlplane/host).
package eventlog

import (
	"context"
	"sync"
	"time"
)

// DefaultSize is how many events a log holds where no size is given.
const DefaultSize = 4096

// Entry is one event with its number and time.
type Entry[E any] struct {
	// Seq counts from 1 without gaps, in the order of Append.
	Seq uint64
	// At is when it was appended; it never goes back from one entry to the next.
	At    time.Time
	Event E
}

// Log is a bounded ring of events. All methods are safe for concurrent use, and none calls out while it holds
// the log's lock, so that it may be used under any other.
type Log[E any] struct {
	mu      sync.Mutex
	ring    []Entry[E]
	first   uint64 // number of the oldest entry held
	next    uint64 // number of the next entry
	changed chan struct{}
}

// New makes a log of the last size events; DefaultSize where size is not positive.
func New[E any](size int) *Log[E] {
	if size <= 0 {
		size = DefaultSize
	}
	return &Log[E]{ring: make([]Entry[E], 0, size), first: 1, next: 1, changed: make(chan struct{})}
}

// Append adds an event and returns its number. The oldest event goes when the log is full.
func (l *Log[E]) Append(e E) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := Entry[E]{Seq: l.next, At: time.Now(), Event: e}
	size := uint64(cap(l.ring))
	if uint64(len(l.ring)) < size {
		l.ring = append(l.ring, entry)
	} else {
		l.ring[(entry.Seq-1)%size] = entry
		l.first++
	}
	l.next++
	close(l.changed)
	l.changed = make(chan struct{})
	return entry.Seq
}

// Last returns the number of the newest event, 0 where there is none.
func (l *Log[E]) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1
}

// Since returns the events after number seq that are held, in order, and how many that came after seq are lost
// because the ring has moved on.
func (l *Log[E]) Since(seq uint64) (entries []Entry[E], lost uint64) {
	entries, lost, _ = l.since(seq)
	return entries, lost
}

func (l *Log[E]) since(seq uint64) ([]Entry[E], uint64, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lost uint64
	from := seq + 1
	if from < l.first {
		lost = l.first - from
		from = l.first
	}
	if from >= l.next {
		return nil, lost, l.changed
	}
	out := make([]Entry[E], 0, l.next-from)
	size := uint64(cap(l.ring))
	for n := from; n < l.next; n++ {
		out = append(out, l.ring[(n-1)%size])
	}
	return out, lost, l.changed
}

// Wait is Since, but blocks until there is an event after seq or ctx ends, whose error it then returns. A reader
// resumes with the number of the last entry that it was given.
func (l *Log[E]) Wait(ctx context.Context, seq uint64) (entries []Entry[E], lost uint64, err error) {
	for {
		entries, lost, changed := l.since(seq)
		if len(entries) > 0 {
			return entries, lost, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, lost, ctx.Err()
		}
	}
}
