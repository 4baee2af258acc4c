package consul

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/internal/ledger"
)

// collectTries is how often a collection begins anew when commits overtake it. The next commit that is due tries again.
const collectTries = 20

// errOvertaken says that head or gc moved while a collection counted.
var errOvertaken = errors.New("overtaken by a commit or another collection")

// collectLater collects in the background; not where a collection runs already, or the store is closed.
func (s *Store) collectLater() {
	s.workMu.Lock()
	defer s.workMu.Unlock()
	if s.ctx.Err() != nil || !s.gcMu.TryLock() {
		return
	}
	s.work.Go(func() {
		defer s.gcMu.Unlock()
		if err := s.collect(s.ctx); err != nil && s.ctx.Err() == nil {
			s.log.Warn("collecting old revisions in Consul", "error", err)
		}
	})
}

// Collect removes the revisions that are no longer kept, and the blobs that no kept one refers to. Commits do that by
// themselves now and then; it is safe beside commits and collections of any host.
func (s *Store) Collect(ctx context.Context) error {
	s.gcMu.Lock()
	defer s.gcMu.Unlock()
	return s.collect(ctx)
}

func (s *Store) collect(ctx context.Context) error {
	wait := retry{}
	for range collectTries {
		err := s.collectOnce(ctx)
		// Beside a commit that makes a revision old, its shards may vanish while they are read.
		if !errors.Is(err, errOvertaken) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := wait.sleep(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("collecting: %w, %d times", errOvertaken, collectTries)
}

func (s *Store) collectOnce(ctx context.Context) error {
	gc, err := s.get(ctx, "gc")
	if err != nil {
		return err
	}
	head, headIndex, err := s.headRecord(ctx)
	if err != nil {
		return err
	}
	if gc == nil || headIndex == 0 {
		return nil
	}
	// Everything below is read after head. Where head moves meanwhile, what is found is not acted upon.
	records, err := s.records(ctx)
	if err != nil {
		return err
	}
	var dead []string
	var kept []ledger.Record
	var shards []store.Hash
	for _, r := range records {
		if r.Number+uint64(s.opts.Keep) <= head.Number {
			dead = append(dead, s.opts.Prefix+revName(r.Number))
			continue
		}
		kept = append(kept, r)
		shards = append(shards, r.Shards...)
	}
	blobs, err := s.blobs(ctx, shards)
	if err != nil {
		return err
	}
	marked, err := ledger.Mark(kept, func(h store.Hash) ([]byte, error) { return blobs[h], nil })
	if err != nil {
		return err
	}
	var keys []string
	err = s.patiently(ctx, func(ctx context.Context) (err error) {
		keys, _, err = s.client.KV().Keys(s.opts.Prefix+"blob/", "", s.query(ctx))
		return err
	})
	if err != nil {
		return fmt.Errorf("listing blobs: %w", err)
	}
	for _, key := range keys {
		h, _, _, ok := s.parseBlobKey(key)
		if _, live := marked[h]; ok && !live {
			dead = append(dead, key)
		}
	}
	gcIndex := gc.ModifyIndex
	for batch := range slices.Chunk(dead, txnOps-2) {
		if gcIndex, err = s.remove(ctx, batch, headIndex, gcIndex); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes keys in one transaction, where head and gc have the given indexes, and returns gc's new index.
func (s *Store) remove(ctx context.Context, keys []string, headIndex, gcIndex uint64) (uint64, error) {
	ops := api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: s.opts.Prefix + "head", Index: headIndex}},
		{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: s.opts.Prefix + "gc", Index: gcIndex, Value: fmt.Append(nil, gcIndex)}},
	}
	for _, k := range keys {
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: k}})
	}
	var index uint64
	err := s.patiently(ctx, func(ctx context.Context) error {
		ok, resp, _, err := s.client.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		if ok {
			for _, r := range resp.Results {
				if r.KV != nil && r.KV.Key == s.opts.Prefix+"gc" {
					index = r.KV.ModifyIndex
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("removing: %w", err)
	}
	if index == 0 { // refused, or done by an attempt whose answer was lost: count again
		return 0, errOvertaken
	}
	return index, nil
}
