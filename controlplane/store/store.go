// Package store keeps the numbered revisions of all resources.
//
// It holds the contract ([Store]), the types that cross it and the errors that callers decide on. A store knows keys,
// opaque blobs and who wrote them; what a resource means is not its business (api/resource knows that, and
// controlplane/resolve makes a model of it).
//
// Where to go next: store/embedded keeps revisions in one file (bbolt), store/consul in Consul's KV. What the two have in
// common, the form of revisions at rest, is store/internal/ledger. store/storetest is the suite that both must pass.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits and defaults of every store.
const (
	// DefaultKeep is how many of the newest revisions are kept.
	DefaultKeep = 1000
	// MaxBlobBytes is the largest blob that Commit takes.
	MaxBlobBytes = 8 << 20
	// MaxKeyBytes is the longest key that Commit takes.
	MaxKeyBytes = 512
)

var (
	// ErrConflict says that the head is not the base that a Commit was made on. The error is a *[ConflictError].
	ErrConflict = errors.New("the head has moved on")
	// ErrNotFound says that there is no such revision (it never was, or is no longer kept) or no such blob.
	ErrNotFound = errors.New("not found")
	// ErrFull says that there is no room left where the store writes. Nothing has changed, and the store goes on
	// working once there is room.
	ErrFull = errors.New("no space left on device")
	// ErrLocked says that another process holds the store.
	ErrLocked = errors.New("held by another process")
	// ErrFormat says that what lies there was not written by this version of the format. The error is a *[FormatError].
	ErrFormat = errors.New("not a store of this version")
	// ErrInDoubt says that a Commit may or may not have been written: the answer was lost. The head tells, once it can
	// be read again. A later Commit on the same base is safe: it either succeeds or conflicts.
	ErrInDoubt = errors.New("not known whether the revision was written")
	// ErrRewound says that the head is behind the revision that a Watch waits after: the store was restored from an
	// older copy, or emptied. Whoever watches begins anew from Head.
	ErrRewound = errors.New("the head has gone backwards")
	// ErrInvalid says that a Change can never be committed as it is.
	ErrInvalid = errors.New("invalid change")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Key names a resource: "tenant/kind/name", and for a Service "tenant/Service/name/version".
type Key string

// Validate returns what is wrong with the key, or nil.
func (k Key) Validate() error {
	if len(k) > MaxKeyBytes {
		return fmt.Errorf("key of %d bytes: at most %d", len(k), MaxKeyBytes)
	}
	parts := strings.Split(string(k), "/")
	if len(parts) != 3 && len(parts) != 4 {
		return fmt.Errorf("key %q: want tenant/kind/name or tenant/kind/name/version", string(k))
	}
	for _, p := range parts {
		if p == "" {
			return fmt.Errorf("key %q has an empty part", string(k))
		}
		if strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
			return fmt.Errorf("key %q has a character that cannot be printed", string(k))
		}
	}
	return nil
}

// Hash is the SHA-256 of a blob: its name in the store.
type Hash [sha256.Size]byte

// HashOf returns the name of a blob.
func HashOf(blob []byte) Hash { return sha256.Sum256(blob) }

// String is the hash in lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (h *Hash) UnmarshalText(b []byte) error {
	v, err := ParseHash(string(b))
	if err != nil {
		return err
	}
	*h = v
	return nil
}

// ParseHash reads a hash in hex.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != hex.EncodedLen(len(h)) {
		return h, fmt.Errorf("hash %q: want %d hex digits", s, hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return h, fmt.Errorf("hash %q: %w", s, err)
	}
	return h, nil
}

// Entry is one resource in a revision.
type Entry struct {
	// Hash names the resource's blob.
	Hash Hash
	// Source is the apply-source that the resource belongs to: what a prune of that source may remove.
	Source string
	// Origin is where the resource was written, as file:line; "" where that is not known.
	Origin string
}

// Info is what is known of a revision without its entries.
type Info struct {
	// Number counts revisions, from 1 and without a gap. 0 is the state of a store that nothing was written to.
	Number uint64
	// Time is when the revision was committed, by the clock of the committing host, in UTC.
	Time time.Time
	// Author is who committed it.
	Author string
	// Source is the apply-source that committed it.
	Source string
	// Message says why.
	Message string
}

// Revision is one accepted state of all resources. It is immutable: whoever holds one may read Entries from any goroutine,
// and must not write to it.
type Revision struct {
	Info
	// Entries is what the revision holds, by key; nil or empty where that is nothing.
	Entries map[Key]Entry
}

// Item is a resource to be put.
type Item struct {
	// Data is the resource: opaque bytes, at most MaxBlobBytes.
	Data []byte
	// Source is the apply-source that it is to belong to; where "", the Change's. A rollback gives every resource the
	// source that it had.
	Source string
	// Origin is where the resource was written, as file:line.
	Origin string
}

// Change is what a Commit does to the head.
type Change struct {
	// Put adds and replaces. A resource whose bytes, source and origin are all as they were is no change.
	Put map[Key]Item
	// Delete removes; a key that is not there is no change. A key must not be in both.
	Delete []Key

	Author, Source, Message string
}

// Store keeps revisions. All methods are safe for concurrent use, and all end early with ctx's error when it ends.
//
// A revision that Commit has returned is durable: it survives kill -9 and a power cut of all hosts at any later moment.
type Store interface {
	// Head returns the newest revision, or one of Number 0 where nothing was committed yet.
	Head(ctx context.Context) (Revision, error)
	// Revision returns revision n; ErrNotFound where it is not (or no longer) kept.
	Revision(ctx context.Context, n uint64) (Revision, error)
	// Blob returns the blob of that name; ErrNotFound where there is none. The caller must not write to it.
	Blob(ctx context.Context, h Hash) ([]byte, error)
	// Load returns the blobs of all entries of a revision. The caller must not write to them.
	Load(ctx context.Context, r Revision) (map[Key][]byte, error)
	// Commit makes a revision of the head and c, if the head's number is base, and returns it once it is durable. A
	// change that changes nothing returns the head as it is. Errors: ErrConflict, ErrInvalid, ErrFull, ErrInDoubt; with
	// any but the last, nothing has changed.
	Commit(ctx context.Context, base uint64, c Change) (Revision, error)
	// Watch blocks until the head's number is more than after and returns the head; revisions between are skipped. It
	// rides out a store that cannot be reached for a while. ErrRewound where the head is less than after.
	Watch(ctx context.Context, after uint64) (Revision, error)
	// History returns the kept revisions, newest first, at most limit; all where limit is 0 or less.
	History(ctx context.Context, limit int) ([]Info, error)
	// Close releases the store and ends calls that block with ErrClosed. A second Close does nothing.
	Close() error
}

// ConflictError is an ErrConflict with the numbers.
type ConflictError struct {
	Base, Head uint64
}

// Error says what was expected and what is.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("the head has moved on: the change is based on revision %d, the head is %d", e.Base, e.Head)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// FormatError is an ErrFormat with what was found.
type FormatError struct {
	// Where is the file's path, or the prefix in Consul.
	Where string
	// Got is the version of the format that was found; "" where it is no store at all.
	Got string
	// Want is the version that this program reads.
	Want string
}

// Error says what was found, and what would do.
func (e *FormatError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("%s is not a store of Outrigger (format %s): another program wrote it, or it is damaged", e.Where, e.Want)
	}
	return fmt.Sprintf("%s is a store of format %s, this program reads format %s: use the program that wrote it, or another place", e.Where, e.Got, e.Want)
}

// Is makes errors.Is(err, ErrFormat) true.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }
