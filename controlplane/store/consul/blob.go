package consul

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

func (s *Store) blobKey(h store.Hash) string { return s.opts.Prefix + "blob/" + h.String() }

// chunkKey is where chunk i of n lies.
func (s *Store) chunkKey(h store.Hash, i, n int) string {
	return fmt.Sprintf("%s/%d/%06d", s.blobKey(h), n, i)
}

// opBytes is an upper bound of what an operation adds to a transaction in JSON.
func opBytes(key string, value []byte) int {
	return len(key) + base64.StdEncoding.EncodedLen(len(value)) + 100
}

// writeBlobs stores blobs. Writing one that is there already changes nothing.
func (s *Store) writeBlobs(ctx context.Context, blobs map[store.Hash][]byte) error {
	var ops api.TxnOps
	size := 0
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		err := s.patiently(ctx, func(ctx context.Context) error {
			ok, resp, _, err := s.client.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
			if err == nil && !ok {
				err = fmt.Errorf("transaction refused: %s", refusal(resp))
			}
			return err
		})
		ops, size = nil, 0
		return err
	}
	for h, b := range blobs {
		key := s.blobKey(h)
		n := opBytes(key, b)
		if n > txnBytes {
			if err := s.writeLarge(ctx, h, b); err != nil {
				return fmt.Errorf("writing blob %v: %w", h, err)
			}
			continue
		}
		if size+n > txnBytes || len(ops) == txnOps {
			if err := flush(); err != nil {
				return fmt.Errorf("writing blobs: %w", err)
			}
		}
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: b}})
		size += n
	}
	if err := flush(); err != nil {
		return fmt.Errorf("writing blobs: %w", err)
	}
	return nil
}

// writeLarge stores a blob that does not fit into a transaction, in chunks where it does not fit into a value either.
func (s *Store) writeLarge(ctx context.Context, h store.Hash, b []byte) error {
	put := func(key string, value []byte) error {
		return s.patiently(ctx, func(ctx context.Context) error {
			_, err := s.client.KV().Put(&api.KVPair{Key: key, Value: value}, s.write(ctx))
			return err
		})
	}
	if len(b) <= chunkBytes {
		return put(s.blobKey(h), b)
	}
	n := (len(b) + chunkBytes - 1) / chunkBytes
	i := 0
	for chunk := range slices.Chunk(b, chunkBytes) {
		if err := put(s.chunkKey(h, i, n), chunk); err != nil {
			return err
		}
		i++
	}
	return nil
}

// refusal is what a transaction's answer says against it.
func refusal(resp *api.TxnResponse) string {
	if resp == nil || len(resp.Errors) == 0 {
		return "no reason given"
	}
	return resp.Errors[0].What
}

// blobs reads blobs, from the cache as far as they are there. ErrNotFound where one is missing.
func (s *Store) blobs(ctx context.Context, hashes []store.Hash) (map[store.Hash][]byte, error) {
	out := make(map[store.Hash][]byte, len(hashes))
	var missing []store.Hash
	s.cacheMu.Lock()
	for _, h := range hashes {
		if _, ok := out[h]; ok {
			continue
		}
		b, ok := s.cache[h]
		if !ok {
			missing = append(missing, h)
		}
		out[h] = b // holds the place of a missing one, which may occur twice
	}
	s.cacheMu.Unlock()
	for batch := range slices.Chunk(missing, txnReadMany) {
		read, err := s.readBlobs(ctx, batch)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, read)
	}
	return out, nil
}

// readBlobs reads at most txnOps blobs in one transaction.
func (s *Store) readBlobs(ctx context.Context, hashes []store.Hash) (map[store.Hash][]byte, error) {
	ops := make(api.TxnOps, len(hashes))
	for i, h := range hashes {
		// The tree of a blob is either itself or its chunks, and empty where it is not there.
		ops[i] = &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVGetTree, Key: s.blobKey(h)}}
	}
	var resp *api.TxnResponse
	err := s.patiently(ctx, func(ctx context.Context) error {
		ok, r, _, err := s.client.Txn().Txn(ops, s.query(ctx))
		if err == nil && !ok {
			err = fmt.Errorf("transaction refused: %s", refusal(r))
		}
		resp = r
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading blobs: %w", err)
	}
	type part struct {
		index, count int
		value        []byte
	}
	parts := make(map[store.Hash][]part, len(hashes))
	for _, r := range resp.Results {
		if r.KV == nil {
			continue
		}
		h, index, count, ok := s.parseBlobKey(r.KV.Key)
		if ok {
			parts[h] = append(parts[h], part{index, count, r.KV.Value})
		}
	}
	out := make(map[store.Hash][]byte, len(hashes))
	for _, h := range hashes {
		ps := parts[h]
		slices.SortFunc(ps, func(a, b part) int { return a.index - b.index })
		b := []byte{}
		for _, p := range ps {
			b = append(b, p.value...)
		}
		if len(ps) == 0 || len(ps) != ps[0].count {
			return nil, fmt.Errorf("blob %v: %w", h, store.ErrNotFound)
		}
		if store.HashOf(b) != h {
			return nil, fmt.Errorf("blob %v in Consul is damaged: its content has another hash", h)
		}
		out[h] = b
	}
	return out, nil
}

// parseBlobKey takes a key apart: a whole blob is chunk 0 of 1.
func (s *Store) parseBlobKey(key string) (h store.Hash, index, count int, ok bool) {
	rest, ok := strings.CutPrefix(key, s.opts.Prefix+"blob/")
	if !ok {
		return h, 0, 0, false
	}
	parts := strings.Split(rest, "/")
	h, err := store.ParseHash(parts[0])
	if err != nil {
		return h, 0, 0, false
	}
	if len(parts) == 1 {
		return h, 0, 1, true
	}
	if len(parts) != 3 {
		return h, 0, 0, false
	}
	count, err = strconv.Atoi(parts[1])
	if err != nil {
		return h, 0, 0, false
	}
	index, err = strconv.Atoi(parts[2])
	return h, index, count, err == nil
}

// Blob reads a blob.
func (s *Store) Blob(ctx context.Context, h store.Hash) ([]byte, error) {
	if s.ctx.Err() != nil {
		return nil, store.ErrClosed
	}
	blobs, err := s.blobs(ctx, []store.Hash{h})
	if err != nil {
		return nil, err
	}
	return blobs[h], nil
}

// Load reads the blobs of a revision. What the revision that was loaded before has too is not read again.
func (s *Store) Load(ctx context.Context, r store.Revision) (map[store.Key][]byte, error) {
	if s.ctx.Err() != nil {
		return nil, store.ErrClosed
	}
	hashes := make([]store.Hash, 0, len(r.Entries))
	for _, e := range r.Entries {
		hashes = append(hashes, e.Hash)
	}
	blobs, err := s.blobs(ctx, hashes)
	if err != nil {
		return nil, fmt.Errorf("loading revision %d: %w", r.Number, err)
	}
	s.cacheMu.Lock()
	if r.Number == s.decoded.Number {
		if s.cache == nil {
			s.cache = make(map[store.Hash][]byte, len(blobs))
		}
		maps.Copy(s.cache, blobs)
	}
	s.cacheMu.Unlock()
	out := make(map[store.Key][]byte, len(r.Entries))
	for k, e := range r.Entries {
		out[k] = blobs[e.Hash]
	}
	return out, nil
}
