package consul

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/internal/ledger"
)

// outcome is what became of an attempt to swap head.
type outcome int

const (
	swapped   outcome = iota // the head is ours, or was
	conflict                 // it is another's
	collected                // a collection ran since the blobs were written: write them again
)

// Commit writes the blobs of the next revision and swaps head.
func (s *Store) Commit(ctx context.Context, base uint64, c store.Change) (store.Revision, error) {
	if err := ledger.Validate(c); err != nil {
		return store.Revision{}, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	for {
		// gc is read before the first blob is written: a collection after this moment is noticed by the swap.
		gc, err := s.get(ctx, "gc")
		if err != nil {
			return store.Revision{}, err
		}
		if gc == nil { // somebody removed the whole prefix
			if err := s.init(ctx); err != nil {
				return store.Revision{}, err
			}
			continue
		}
		rec, index, err := s.headRecord(ctx)
		if err != nil {
			return store.Revision{}, err
		}
		if rec.Number != base {
			return store.Revision{}, &store.ConflictError{Base: base, Head: rec.Number}
		}
		head, err := s.decode(ctx, rec)
		if errors.Is(err, store.ErrNotFound) && s.moved(ctx, base) {
			continue // superseded and collected while it was read: the next round says so
		}
		if err != nil {
			return store.Revision{}, err
		}
		next, err := ledger.Apply(head, c, s.opts.Now(), id)
		if err != nil {
			return store.Revision{}, err
		}
		if next == nil {
			return head, nil
		}
		if err := s.writeBlobs(ctx, next.Blobs); err != nil {
			return store.Revision{}, fmt.Errorf("committing revision %d: %w", next.Record.Number, err)
		}
		what, at, err := s.swap(ctx, next, gc.ModifyIndex, index)
		if err != nil {
			return store.Revision{}, fmt.Errorf("committing revision %d: %w", next.Record.Number, err)
		}
		switch what {
		case swapped:
			s.remember(next)
			if next.Record.Number%uint64(s.opts.CollectEvery) == 0 {
				s.collectLater()
			}
			return next.Revision, nil
		case conflict:
			return store.Revision{}, &store.ConflictError{Base: base, Head: at}
		case collected:
		}
	}
}

// moved says whether the head is certainly another than n.
func (s *Store) moved(ctx context.Context, n uint64) bool {
	rec, _, err := s.headRecord(ctx)
	return err == nil && rec.Number != n
}

// remember spares the reading of a revision that was just written.
func (s *Store) remember(next *ledger.Next) {
	s.cacheMu.Lock()
	defer s.cacheMu.Unlock()
	if next.Record.Number > s.decoded.Number {
		s.decoded, s.id = next.Revision, next.Record.ID
		s.keep(next.Blobs, next.Revision.Entries)
	}
}

// swap makes next the head, where head and gc have the indexes that were read. Where the answer is lost it finds out, by
// the record's ID, whether the head was swapped, and else tries again: the indexes make that safe. The second result is
// the head's number in a conflict. Errors are store.ErrInDoubt once an answer was lost.
func (s *Store) swap(ctx context.Context, next *ledger.Next, gcIndex, headIndex uint64) (outcome, uint64, error) {
	record, err := next.Record.Encode()
	if err != nil {
		return 0, 0, err
	}
	n := next.Record.Number
	op := func(verb api.KVOp, name string, index uint64, value []byte) *api.TxnOp {
		return &api.TxnOp{KV: &api.KVTxnOp{Verb: verb, Key: s.opts.Prefix + name, Index: index, Value: value}}
	}
	ops := api.TxnOps{
		op(api.KVCheckIndex, "gc", gcIndex, nil),
		op(api.KVCAS, "head", headIndex, record), // index 0: only where there is none
		op(api.KVSet, revName(n), 0, record),
	}
	if keep := uint64(s.opts.Keep); n > keep {
		ops = append(ops, op(api.KVDelete, revName(n-keep), 0, nil))
	}
	doubt := false
	var what outcome
	var at uint64
	err = s.patiently(ctx, func(ctx context.Context) error {
		ok, _, _, err := s.client.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err == nil && ok {
			what = swapped
			return nil
		}
		if err != nil {
			if permanent(err) {
				return err
			}
			doubt = true
		}
		// Refused, or no answer: the head tells.
		pair, _, herr := s.client.KV().Get(s.opts.Prefix+"head", s.query(ctx))
		if herr != nil {
			return errors.Join(err, herr)
		}
		var head ledger.Record
		if pair != nil {
			if head, herr = ledger.DecodeRecord(pair.Value); herr != nil {
				return herr
			}
		}
		at = head.Number
		switch {
		case head.ID == next.Record.ID:
			what = swapped
			return nil
		case head.Number == n-1 && err == nil:
			what = collected // head is as it was, so it was gc that has moved (or head was restored)
			return nil
		case head.Number < n:
			if err == nil {
				what = conflict
			}
			return err // not written, or not yet: try again
		case !doubt:
			what = conflict
			return nil
		}
		// Others have committed since. Whose is revision n?
		pair, _, herr = s.client.KV().Get(s.opts.Prefix+revName(n), s.query(ctx))
		if herr != nil {
			return errors.Join(err, herr)
		}
		if pair == nil {
			return fmt.Errorf("revision %d is no longer kept", n)
		}
		mine, herr := ledger.DecodeRecord(pair.Value)
		if herr != nil {
			return herr
		}
		if what = conflict; mine.ID == next.Record.ID {
			what = swapped
		}
		return nil
	})
	if err != nil && doubt {
		err = fmt.Errorf("%w: %w", store.ErrInDoubt, err)
	}
	return what, at, err
}
