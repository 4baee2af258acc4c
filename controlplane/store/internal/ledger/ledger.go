// Package ledger is the form that revisions have at rest, the same in every store.
//
// A revision is a small [Record]. Its entries are spread over shards by a hash of their key, and each shard is a blob
// like any other, named by its hash: a change to one resource of thousands writes its blob, one shard and one record, and
// everything else is shared with the revision before.
//
// The package is pure. Where records and blobs are put, and what makes a commit atomic, is the business of store/embedded
// and store/consul.
package ledger

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

// Format is the version of what this package writes. A store keeps it beside its head and refuses another.
const Format = "1"

// A shard holds shardEntries entries on average; there are at most maxShards, so that a record stays under 100 KB.
const (
	shardEntries = 32
	maxShards    = 1024
)

// Record is a revision as it is stored.
type Record struct {
	Number  uint64    `json:"number"`
	Time    time.Time `json:"time"`
	Author  string    `json:"author,omitempty"`
	Source  string    `json:"source,omitempty"`
	Message string    `json:"message,omitempty"`
	// ID is random: it tells whether a record that is found is one's own, after an answer was lost.
	ID string `json:"id,omitempty"`
	// Shards names the shards, in order; the number of them is a power of two, or 0 where there are no entries.
	Shards []store.Hash `json:"shards,omitempty"`
}

// Info is what the record says without its entries.
func (r Record) Info() store.Info {
	return store.Info{Number: r.Number, Time: r.Time, Author: r.Author, Source: r.Source, Message: r.Message}
}

// Encode is the record in JSON.
func (r Record) Encode() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding the record of revision %d: %w", r.Number, err)
	}
	return b, nil
}

// DecodeRecord reads what Encode writes.
func DecodeRecord(b []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("decoding the record of a revision: %w", err)
	}
	return r, nil
}

// line is one entry in a shard.
type line struct {
	Key    store.Key  `json:"k"`
	Hash   store.Hash `json:"h"`
	Source string     `json:"s,omitempty"`
	Origin string     `json:"o,omitempty"`
}

// Shards spreads entries over shards and returns their names in order, and the blobs. The same entries always give the
// same shards.
func Shards(entries map[store.Key]store.Entry) ([]store.Hash, map[store.Hash][]byte, error) {
	if len(entries) == 0 {
		return nil, nil, nil
	}
	n := 1
	for n < maxShards && n*shardEntries < len(entries) {
		n *= 2
	}
	lines := make([][]line, n)
	for k, e := range entries {
		i := shardOf(k, n)
		lines[i] = append(lines[i], line{Key: k, Hash: e.Hash, Source: e.Source, Origin: e.Origin})
	}
	names := make([]store.Hash, n)
	blobs := make(map[store.Hash][]byte, n)
	for i, ls := range lines {
		slices.SortFunc(ls, func(a, b line) int { return cmp.Compare(a.Key, b.Key) })
		if ls == nil {
			ls = []line{}
		}
		b, err := json.Marshal(ls)
		if err != nil {
			return nil, nil, fmt.Errorf("encoding entries: %w", err)
		}
		names[i] = store.HashOf(b)
		blobs[names[i]] = b
	}
	return names, blobs, nil
}

func shardOf(k store.Key, n int) int {
	h := fnv.New32a()
	h.Write([]byte(k)) // never fails
	v := h.Sum32()
	// FNV's low bits alone are weak for short keys that differ at their end.
	v ^= v >> 16
	return int(v & uint32(n-1))
}

// Entries reads shards back. blob returns one by its name.
func Entries(shards []store.Hash, blob func(store.Hash) ([]byte, error)) (map[store.Key]store.Entry, error) {
	out := make(map[store.Key]store.Entry, len(shards)*shardEntries)
	for _, h := range shards {
		b, err := blob(h)
		if err != nil {
			return nil, fmt.Errorf("reading entries: %w", err)
		}
		ls, err := decodeShard(h, b)
		if err != nil {
			return nil, err
		}
		for _, l := range ls {
			out[l.Key] = store.Entry{Hash: l.Hash, Source: l.Source, Origin: l.Origin}
		}
	}
	return out, nil
}

func decodeShard(h store.Hash, b []byte) ([]line, error) {
	var ls []line
	if err := json.Unmarshal(b, &ls); err != nil {
		return nil, fmt.Errorf("decoding entries %v: %w", h, err)
	}
	return ls, nil
}

// Mark returns the names of all blobs that records refer to: shards and resources. blob returns a shard by its name.
func Mark(records []Record, blob func(store.Hash) ([]byte, error)) (map[store.Hash]struct{}, error) {
	marked := make(map[store.Hash]struct{})
	shards := make(map[store.Hash]struct{})
	for _, r := range records {
		for _, h := range r.Shards {
			shards[h] = struct{}{}
		}
	}
	for h := range shards {
		marked[h] = struct{}{}
		b, err := blob(h)
		if err != nil {
			return nil, fmt.Errorf("reading entries: %w", err)
		}
		ls, err := decodeShard(h, b)
		if err != nil {
			return nil, err
		}
		for _, l := range ls {
			marked[l.Hash] = struct{}{}
		}
	}
	return marked, nil
}

// Validate returns why c can never be committed, all reasons at once, or nil. The error is store.ErrInvalid.
func Validate(c store.Change) error {
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(c.Put)) {
		if err := k.Validate(); err != nil {
			errs = append(errs, err)
		}
		if n := len(c.Put[k].Data); n > store.MaxBlobBytes {
			errs = append(errs, fmt.Errorf("%s has %d bytes: at most %d", k, n, store.MaxBlobBytes))
		}
	}
	for _, k := range c.Delete {
		if err := k.Validate(); err != nil {
			errs = append(errs, err)
		}
		if _, both := c.Put[k]; both {
			errs = append(errs, fmt.Errorf("%s is both put and deleted", k))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", store.ErrInvalid, errors.Join(errs...))
}

// Next is a revision to be: what has to be stored for it.
type Next struct {
	Revision store.Revision
	Record   Record
	// Blobs are the resources and shards that the head does not have. The bytes are copies of the change's.
	Blobs map[store.Hash][]byte
}

// Apply makes the revision that follows head by c, which Validate has accepted. It returns nil where c changes nothing.
func Apply(head store.Revision, c store.Change, now time.Time, id [16]byte) (*Next, error) {
	entries := maps.Clone(head.Entries)
	if entries == nil {
		entries = make(map[store.Key]store.Entry, len(c.Put))
	}
	have := make(map[store.Hash]struct{}, len(entries))
	for _, e := range head.Entries {
		have[e.Hash] = struct{}{}
	}
	blobs := make(map[store.Hash][]byte)
	for k, it := range c.Put {
		e := store.Entry{Hash: store.HashOf(it.Data), Source: it.Source, Origin: it.Origin}
		if e.Source == "" {
			e.Source = c.Source
		}
		entries[k] = e
		if _, ok := have[e.Hash]; !ok {
			blobs[e.Hash] = bytes.Clone(it.Data)
		}
	}
	for _, k := range c.Delete {
		delete(entries, k)
	}
	if maps.Equal(entries, head.Entries) {
		return nil, nil
	}
	shards, shardBlobs, err := Shards(entries)
	if err != nil {
		return nil, err
	}
	maps.Copy(blobs, shardBlobs)
	rec := Record{
		Number: head.Number + 1, Time: now.UTC(), Author: c.Author, Source: c.Source, Message: c.Message,
		ID: hex.EncodeToString(id[:]), Shards: shards,
	}
	return &Next{Revision: store.Revision{Info: rec.Info(), Entries: entries}, Record: rec, Blobs: blobs}, nil
}
