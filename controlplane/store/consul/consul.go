// Package consul is the store of revisions in Consul's KV: what several hosts share.
//
// Under a prefix lie
//
//	format      the version of the format
//	head        the record of the newest revision: the only key that is watched
//	rev/N       the record of each kept revision, N in 20 digits
//	blob/HASH   resources and shards; of more than 400 KB as blob/HASH/COUNT/INDEX in chunks
//	gc          rewritten by each step of a collection
//
// A transaction of Consul holds 64 operations and about 512 KB, so a commit writes its blobs first, in as many
// transactions as they take, and then swaps head in one: where its index is what it was when it was read, head and rev/N
// are written together. What a commit that failed leaves behind are blobs that nobody refers to.
//
// A collection must not take a blob that a commit is about to refer to (collect.go). No clock is involved: each of its
// steps rewrites gc in the transaction that deletes, and a commit swaps head only where gc is what it was before it wrote
// its first blob; and a step deletes only where head is what it was when the references were counted.
//
// The form of records and shards is in store/internal/ledger.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/internal/ledger"
)

// Limits of Consul (https://developer.hashicorp.com/consul/api-docs/kv, …/txn): a value has at most 512 KB, a transaction
// 64 operations and, in JSON with values in base64, about 512 KB.
const (
	chunkBytes  = 400 << 10
	txnOps      = 60
	txnBytes    = 400 << 10 // of JSON
	txnReadMany = 32        // blobs in one read
	watchTime   = 2 * time.Minute
)

// Options are what a caller may choose. The zero Options are the defaults.
type Options struct {
	// Address is the agent's HTTP address; "" is CONSUL_HTTP_ADDR, else 127.0.0.1:8500. The token, TLS and the rest of
	// the client come from Consul's usual CONSUL_* environment.
	Address string
	// Prefix is where the store lies in the KV; "" is "outrigger/". It ends in "/".
	Prefix string
	// Keep is how many of the newest revisions are kept; 0 is store.DefaultKeep.
	Keep int
	// CollectEvery is after how many commits blobs that nothing refers to are removed; 0 is 64.
	CollectEvery int
	// Patience is how long a call other than Watch tries again while Consul cannot be reached or has no leader; 0 is
	// 15 s. Watch tries until its context ends.
	Patience time.Duration
	// Now is the clock that revisions are stamped with; nil is time.Now.
	Now func() time.Time
	// Logger is told when Consul cannot be reached; nil discards.
	Logger *slog.Logger
}

// Store is a store in Consul. It implements store.Store.
type Store struct {
	opts      Options
	client    *api.Client
	transport *http.Transport
	log       *slog.Logger

	ctx    context.Context // ends at Close
	cancel context.CancelFunc

	workMu sync.Mutex     // held to add work while ctx lives
	work   sync.WaitGroup // collections in the background

	gcMu sync.Mutex // one collection at a time

	cacheMu sync.Mutex
	cache   map[store.Hash][]byte // the shards and blobs of the last revision that was read or loaded
	decoded store.Revision        // the last revision that was decoded …
	id      string                // … and its record's ID
}

var _ store.Store = (*Store)(nil)

// Open connects to Consul, and makes the store where there is nothing. It waits Options.Patience for Consul. Errors:
// store.ErrFormat, and Consul's own.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Prefix == "" {
		opts.Prefix = "outrigger/"
	}
	if !strings.HasSuffix(opts.Prefix, "/") || strings.HasPrefix(opts.Prefix, "/") {
		return nil, fmt.Errorf("prefix %q in Consul: must end in a slash, and not begin with one", opts.Prefix)
	}
	if opts.Keep <= 0 {
		opts.Keep = store.DefaultKeep
	}
	if opts.CollectEvery <= 0 {
		opts.CollectEvery = 64
	}
	if opts.Patience <= 0 {
		opts.Patience = 15 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	cfg := api.DefaultConfig()
	if opts.Address != "" {
		cfg.Address = opts.Address
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("configuring Consul's client: %w", err)
	}
	s := &Store{opts: opts, client: client, transport: cfg.Transport, log: opts.Logger}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.init(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("opening the store in Consul at %s: %w", cfg.Address, err)
	}
	return s, nil
}

// init checks the format, and writes what a new store has.
func (s *Store) init(ctx context.Context) error {
	for name, value := range map[string]string{"format": ledger.Format, "gc": "0"} {
		pair, err := s.get(ctx, name)
		if err != nil {
			return err
		}
		if pair == nil {
			err := s.patiently(ctx, func(ctx context.Context) error {
				// Index 0: only where it is not there yet.
				_, _, err := s.client.KV().CAS(&api.KVPair{Key: s.opts.Prefix + name, Value: []byte(value)}, s.write(ctx))
				return err
			})
			if err != nil {
				return fmt.Errorf("writing %s%s: %w", s.opts.Prefix, name, err)
			}
			if pair, err = s.get(ctx, name); err != nil {
				return err
			}
			if pair == nil {
				return fmt.Errorf("%s%s was removed while it was written", s.opts.Prefix, name)
			}
		}
		if name == "format" && string(pair.Value) != ledger.Format {
			return &store.FormatError{Where: "Consul's " + s.opts.Prefix, Got: string(pair.Value), Want: ledger.Format}
		}
	}
	return nil
}

// query are the options of a consistent read: through the leader, which makes sure that it still is.
func (s *Store) query(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

func (s *Store) write(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{}).WithContext(ctx)
}

// get reads one key; nil where it is not there.
func (s *Store) get(ctx context.Context, name string) (pair *api.KVPair, err error) {
	err = s.patiently(ctx, func(ctx context.Context) error {
		pair, _, err = s.client.KV().Get(s.opts.Prefix+name, s.query(ctx))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s%s: %w", s.opts.Prefix, name, err)
	}
	return pair, nil
}

// headRecord reads the head's record and its index, 0 where there is none.
func (s *Store) headRecord(ctx context.Context) (ledger.Record, uint64, error) {
	pair, err := s.get(ctx, "head")
	if err != nil || pair == nil {
		return ledger.Record{}, 0, err
	}
	rec, err := ledger.DecodeRecord(pair.Value)
	return rec, pair.ModifyIndex, err
}

func revName(n uint64) string { return fmt.Sprintf("rev/%020d", n) }

// record reads a kept revision's record.
func (s *Store) record(ctx context.Context, n uint64) (ledger.Record, error) {
	pair, err := s.get(ctx, revName(n))
	if err != nil {
		return ledger.Record{}, err
	}
	if pair == nil {
		return ledger.Record{}, fmt.Errorf("revision %d: %w", n, store.ErrNotFound)
	}
	return ledger.DecodeRecord(pair.Value)
}

// decode reads the entries of a record.
func (s *Store) decode(ctx context.Context, rec ledger.Record) (store.Revision, error) {
	if rec.Number == 0 {
		return store.Revision{}, nil
	}
	s.cacheMu.Lock()
	if s.id == rec.ID && s.decoded.Number == rec.Number {
		defer s.cacheMu.Unlock()
		return s.decoded, nil
	}
	s.cacheMu.Unlock()
	shards, err := s.blobs(ctx, rec.Shards)
	if err != nil {
		return store.Revision{}, fmt.Errorf("revision %d: %w", rec.Number, err)
	}
	entries, err := ledger.Entries(rec.Shards, func(h store.Hash) ([]byte, error) { return shards[h], nil })
	if err != nil {
		return store.Revision{}, fmt.Errorf("revision %d: %w", rec.Number, err)
	}
	rev := store.Revision{Info: rec.Info(), Entries: entries}
	s.cacheMu.Lock()
	defer s.cacheMu.Unlock()
	if rec.Number >= s.decoded.Number || s.decoded.Number == 0 {
		s.decoded, s.id = rev, rec.ID
		s.keep(shards, entries)
	}
	return rev, nil
}

// keep makes the cache hold blobs, and of what it held only what entries refer to. The caller holds cacheMu.
func (s *Store) keep(blobs map[store.Hash][]byte, entries map[store.Key]store.Entry) {
	next := maps.Clone(blobs)
	for _, e := range entries {
		if b, ok := s.cache[e.Hash]; ok {
			next[e.Hash] = b
		}
	}
	s.cache = next
}

// Head reads the head.
func (s *Store) Head(ctx context.Context) (store.Revision, error) {
	var rev store.Revision
	err := s.rereading(ctx, func() error {
		rec, _, err := s.headRecord(ctx)
		if err != nil {
			return err
		}
		rev, err = s.decode(ctx, rec)
		return err
	})
	if err != nil {
		return store.Revision{}, fmt.Errorf("reading the head: %w", err)
	}
	return rev, nil
}

// rereading tries again where blobs are missing: with few revisions kept, a head that was read may have been superseded
// and collected before its shards were read.
func (s *Store) rereading(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil || try == 10 || ctx.Err() != nil || !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
}

// Revision reads a kept revision.
func (s *Store) Revision(ctx context.Context, n uint64) (store.Revision, error) {
	rec, err := s.record(ctx, n)
	if err != nil {
		return store.Revision{}, err
	}
	return s.decode(ctx, rec)
}

// History reads the kept records, all in one query.
func (s *Store) History(ctx context.Context, limit int) ([]store.Info, error) {
	records, err := s.records(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the history: %w", err)
	}
	var out []store.Info
	for i := len(records) - 1; i >= 0 && (limit <= 0 || len(out) < limit); i-- {
		out = append(out, records[i].Info())
	}
	return out, nil
}

// records reads all kept records, oldest first.
func (s *Store) records(ctx context.Context) ([]ledger.Record, error) {
	var pairs api.KVPairs
	err := s.patiently(ctx, func(ctx context.Context) (err error) {
		pairs, _, err = s.client.KV().List(s.opts.Prefix+"rev/", s.query(ctx))
		return err
	})
	if err != nil {
		return nil, err
	}
	records := make([]ledger.Record, len(pairs))
	for i, p := range pairs { // Consul lists keys in order
		if records[i], err = ledger.DecodeRecord(p.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Key, err)
		}
	}
	return records, nil
}

// Watch blocks on head alone.
func (s *Store) Watch(ctx context.Context, after uint64) (store.Revision, error) {
	ctx, done := s.joined(ctx)
	defer done()
	var index uint64
	wait := retry{}
	for {
		// Consul adds up to a sixteenth to the time; an answer that does not come after that never will.
		asking, answered := context.WithTimeout(ctx, watchTime+watchTime/16+15*time.Second)
		q := s.query(asking)
		q.WaitIndex, q.WaitTime = index, watchTime
		asked := time.Now()
		pair, meta, err := s.client.KV().Get(s.opts.Prefix+"head", q)
		answered()
		if err != nil {
			if ctx.Err() != nil {
				return store.Revision{}, s.ended(ctx)
			}
			if permanent(err) {
				return store.Revision{}, fmt.Errorf("watching the head: %w", err)
			}
			if wait.n == 0 {
				s.log.Warn("Consul does not answer: watching the head goes on when it does", "error", err)
			}
			index = 0
			if err := wait.sleep(ctx); err != nil {
				return store.Revision{}, s.ended(ctx)
			}
			continue
		}
		var rec ledger.Record
		if pair != nil {
			if rec, err = ledger.DecodeRecord(pair.Value); err != nil {
				return store.Revision{}, err
			}
		}
		switch {
		case rec.Number > after:
			rev, err := s.decode(ctx, rec)
			if err == nil {
				return rev, nil
			}
			if ctx.Err() != nil {
				return store.Revision{}, s.ended(ctx)
			}
			if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, errUnreachable) {
				return store.Revision{}, err
			}
			index = 0 // superseded and collected, or Consul went away: ask anew
			if err := wait.sleep(ctx); err != nil {
				return store.Revision{}, s.ended(ctx)
			}
			continue
		case rec.Number < after:
			return store.Revision{}, fmt.Errorf("%w: waiting after %d, the head is %d", store.ErrRewound, after, rec.Number)
		}
		// https://developer.hashicorp.com/consul/api-docs/features/blocking: an index that goes backwards is reset (the
		// servers were restored), and one of 0 would not block.
		if meta.LastIndex < index {
			index = 0
		} else {
			index = max(meta.LastIndex, 1)
		}
		// A query that returns at once without news (other keys moved the table's index) must not become a busy loop.
		if time.Since(asked) < 20*time.Millisecond && index != 0 {
			if err := wait.sleep(ctx); err != nil {
				return store.Revision{}, s.ended(ctx)
			}
		} else {
			wait = retry{}
		}
	}
}

// Close ends everything that waits. What lies in Consul stays.
func (s *Store) Close() error {
	s.workMu.Lock()
	s.cancel() // from here on no work is added
	s.workMu.Unlock()
	s.work.Wait()
	s.transport.CloseIdleConnections()
	return nil
}
