package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/internal/ledger"
	bolt "go.etcd.io/bbolt"
)

// A commit ends in one of three ways.
//
//   - bbolt has synced pages and meta page: it is acknowledged.
//   - Something failed before the meta page was written (a full disk does): nothing is visible, nothing has changed. bbolt
//     is opened anew all the same, because it may have lost its mapping.
//   - The meta page was written and its sync failed: the revision is visible in the file, and may or may not be on the
//     disk. settle is tried, which makes it durable; where that fails too the caller is told store.ErrInDoubt, readers go
//     on seeing the old head, and the next Commit settles first.

// Commit makes the next revision.
func (s *Store) Commit(ctx context.Context, base uint64, c store.Change) (store.Revision, error) {
	if err := ledger.Validate(c); err != nil {
		return store.Revision{}, err
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := s.alive(ctx); err != nil {
		return store.Revision{}, err
	}
	if err := s.takeUp(); err != nil {
		return store.Revision{}, fmt.Errorf("committing to %s: %w", s.path, err)
	}
	head, err := s.Head(ctx)
	if err != nil {
		return store.Revision{}, err
	}
	if head.Number != base {
		return store.Revision{}, &store.ConflictError{Base: base, Head: head.Number}
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	next, err := ledger.Apply(head, c, s.opts.Now(), id)
	if err != nil {
		return store.Revision{}, err
	}
	if next == nil {
		return head, nil
	}
	// Only this goroutine replaces s.db while it holds s.commit, so it may be used without dbMu.
	err = s.db.Update(func(tx *bolt.Tx) error { return s.write(tx, next) })
	if err == nil {
		s.advance(next.Revision)
		return next.Revision, nil
	}
	return s.failed(next, noRoom(err))
}

// noRoom recognises a full disk where bbolt has dropped the error's type.
func noRoom(err error) error {
	if !errors.Is(full(err), store.ErrFull) && strings.Contains(err.Error(), store.ErrFull.Error()) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return full(err)
}

// write puts the next revision into a transaction, and takes out what is no longer kept.
func (s *Store) write(tx *bolt.Tx, next *ledger.Next) error {
	revisions, blobs := tx.Bucket(bucketRevisions), tx.Bucket(bucketBlobs)
	for h, b := range next.Blobs {
		if err := blobs.Put(h[:], b); err != nil {
			return fmt.Errorf("writing blob %v: %w", h, err)
		}
	}
	record, err := next.Record.Encode()
	if err != nil {
		return err
	}
	if err := revisions.Put(numberKey(next.Record.Number), record); err != nil {
		return fmt.Errorf("writing revision %d: %w", next.Record.Number, err)
	}
	keep := uint64(s.opts.Keep)
	if next.Record.Number > keep {
		var old [][]byte
		c := revisions.Cursor()
		limit := string(numberKey(next.Record.Number - keep))
		for k, _ := c.First(); k != nil && string(k) <= limit; k, _ = c.Next() {
			old = append(old, bytes.Clone(k))
		}
		for _, k := range old {
			if err := revisions.Delete(k); err != nil {
				return fmt.Errorf("removing an old revision: %w", err)
			}
		}
	}
	if next.Record.Number%uint64(s.opts.CollectEvery) == 0 {
		return collect(revisions, blobs)
	}
	return nil
}

// collect removes the blobs that no kept revision refers to.
func collect(revisions, blobs *bolt.Bucket) error {
	var records []ledger.Record
	err := revisions.ForEach(func(_, v []byte) error {
		rec, err := ledger.DecodeRecord(v)
		records = append(records, rec)
		return err
	})
	if err != nil {
		return fmt.Errorf("collecting: %w", err)
	}
	marked, err := ledger.Mark(records, func(h store.Hash) ([]byte, error) {
		if b := blobs.Get(h[:]); b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("blob %v: %w", h, store.ErrNotFound)
	})
	if err != nil {
		return fmt.Errorf("collecting: %w", err)
	}
	var dead [][]byte
	err = blobs.ForEach(func(k, _ []byte) error {
		if _, ok := marked[store.Hash(k)]; !ok {
			dead = append(dead, bytes.Clone(k))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("collecting: %w", err)
	}
	for _, k := range dead {
		if err := blobs.Delete(k); err != nil {
			return fmt.Errorf("collecting: %w", err)
		}
	}
	return nil
}

// advance makes rev the head and wakes watchers.
func (s *Store) advance(rev store.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head = rev
	close(s.changed)
	s.changed = make(chan struct{})
}

// failed finds out what became of a commit that failed with cause.
func (s *Store) failed(next *ledger.Next, cause error) (store.Revision, error) {
	s.log.Error("a commit to the store failed", "path", s.path, "revision", next.Record.Number, "error", cause)
	visible, err := s.reopen()
	switch {
	case err != nil:
		return store.Revision{}, fmt.Errorf("committing to %s: %w: %w (and then: %w)", s.path, store.ErrInDoubt, cause, err)
	case visible.Number == next.Record.Number:
		// Its meta page was written, and reopening has made it durable.
		s.advance(next.Revision)
		return next.Revision, nil
	}
	return store.Revision{}, fmt.Errorf("committing to %s: %w", s.path, cause)
}

// takeUp opens the database again where an earlier failure left it closed, and takes over what that commit left.
func (s *Store) takeUp() error {
	s.mu.Lock()
	doubt := s.doubt
	s.mu.Unlock()
	if !doubt {
		return nil
	}
	visible, err := s.reopen()
	if err != nil {
		return err
	}
	if head, err := s.Head(context.Background()); err == nil && visible.Number > head.Number {
		s.advance(visible)
	}
	return nil
}

// reopen closes the database and opens it, and returns the head that is visible in it. Where that is newer than the one
// that was acknowledged it is settled. Where anything of this fails the store stays in doubt: readers go on with what was
// acknowledged if the file could be opened at all, and get errors if it could not.
func (s *Store) reopen() (store.Revision, error) {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	s.mu.Lock()
	s.doubt = true
	acknowledged := s.head.Number
	s.mu.Unlock()
	if s.db != nil {
		if err := s.db.Close(); err != nil {
			s.log.Warn("closing the store after a failure", "path", s.path, "error", err)
		}
		s.db, s.file = nil, nil
	}
	if err := s.open(); err != nil {
		return store.Revision{}, err
	}
	head, err := s.readHead()
	if err != nil {
		_ = s.db.Close()
		s.db, s.file = nil, nil
		return store.Revision{}, err
	}
	if head.Number > acknowledged {
		if err := s.settle(); err != nil {
			return store.Revision{}, err
		}
	}
	s.mu.Lock()
	s.doubt = false
	s.mu.Unlock()
	return head, nil
}
