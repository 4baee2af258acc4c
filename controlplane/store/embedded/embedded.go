// Package embedded is the store of revisions in one file: what a mesh on one machine needs instead of Consul.
//
// The file is a bbolt database. A commit is one bbolt transaction, and it is acknowledged only after fdatasync has said
// that both its pages and then its meta page are on the disk. What a failing disk does to that is in commit.go; the form
// of revisions is in store/internal/ledger.
package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/internal/ledger"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Options are what a caller may choose. The zero Options are the defaults.
type Options struct {
	// Keep is how many of the newest revisions are kept; 0 is store.DefaultKeep.
	Keep int
	// CollectEvery is after how many commits blobs that nothing refers to are removed; 0 is 64.
	CollectEvery int
	// LockTimeout is how long to wait for another process to let go of the file; 0 is 200 ms.
	LockTimeout time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger is told of trouble with the disk; nil discards.
	Logger *slog.Logger

	// noSync leaves out fdatasync, so that a test can show that it would notice.
	noSync bool
}

// The buckets and keys of the file.
var (
	bucketMeta      = []byte("outrigger")
	bucketRevisions = []byte("revisions") // big-endian number → record
	bucketBlobs     = []byte("blobs")     // SHA-256 → bytes
	keyFormat       = []byte("format")
)

// Store is a store in one file. It implements store.Store.
type Store struct {
	path string
	opts Options
	log  *slog.Logger

	commit sync.Mutex // one Commit at a time; held while the disk is waited for

	db   *bolt.DB // nil where reopening after a failure has failed too; guarded by dbMu
	file *os.File // db's own, which bbolt closes; used with s.commit held
	// dbMu is held for reading around each read transaction, and for writing while db is replaced.
	dbMu sync.RWMutex

	mu      sync.Mutex // guards what follows; taken last
	head    store.Revision
	doubt   bool          // the last commit's meta page was written, but not synced
	changed chan struct{} // closed when head changes
	closed  chan struct{} // closed by Close
}

var _ store.Store = (*Store)(nil)

// Open opens the store at path, and makes it where there is nothing, with mode 0600; its folder must exist. Errors:
// store.ErrLocked, store.ErrFormat, store.ErrFull.
func Open(path string, opts Options) (*Store, error) {
	if opts.Keep <= 0 {
		opts.Keep = store.DefaultKeep
	}
	if opts.CollectEvery <= 0 {
		opts.CollectEvery = 64
	}
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = 200 * time.Millisecond
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		path: path, opts: opts, log: opts.Logger,
		changed: make(chan struct{}), closed: make(chan struct{}),
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := create(path, opts.noSync); err != nil {
			return nil, fmt.Errorf("making the store %s: %w", path, full(err))
		}
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	head, err := s.readHead()
	if err == nil {
		err = s.settle()
	}
	if err != nil {
		_ = s.db.Close()
		return nil, fmt.Errorf("opening the store %s: %w", path, err)
	}
	s.head = head
	return s, nil
}

// create makes a whole, synced file and only then gives it its name: a crash leaves either nothing or a good store.
func create(path string, noSync bool) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if rmErr := os.Remove(tmp.Name()); err == nil && rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = rmErr
		}
	}()
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(tmp.Name(), 0o600, &bolt.Options{NoSync: noSync, NoStatistics: true})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketRevisions, bucketBlobs} {
			if _, err := tx.CreateBucket(b); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(ledger.Format))
	})
	if err == nil {
		err = db.Sync()
	}
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// A link does not replace a store that another process has made meanwhile; that one is opened then.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		if err := os.Rename(tmp.Name(), path); err != nil { // a file system without links
			return err
		}
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) { // a file system that syncs names by itself
		err = nil
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// open opens bbolt and checks that the file is ours. It sets s.db and s.file.
func (s *Store) open() error {
	var file *os.File
	db, err := bolt.Open(s.path, 0o600, &bolt.Options{
		Timeout:      s.opts.LockTimeout,
		NoSync:       s.opts.noSync,
		NoStatistics: true,
		FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			file = f
			return f, err
		},
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s: %w: is a control plane running with the same state directory?", s.path, store.ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return fmt.Errorf("%w (%w)", &store.FormatError{Where: s.path, Want: ledger.Format}, err)
	case err != nil:
		return full(err)
	}
	if err := s.check(db, file); err != nil {
		_ = db.Close()
		return err
	}
	s.db, s.file = db, file
	return nil
}

func (s *Store) check(db *bolt.DB, file *os.File) error {
	err := db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil || tx.Bucket(bucketRevisions) == nil || tx.Bucket(bucketBlobs) == nil {
			return &store.FormatError{Where: s.path, Want: ledger.Format}
		}
		if got := string(meta.Get(keyFormat)); got != ledger.Format {
			return &store.FormatError{Where: s.path, Got: got, Want: ledger.Format}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if info, err := file.Stat(); err != nil {
		return err
	} else if info.Mode().Perm()&0o077 != 0 {
		if err := file.Chmod(0o600); err != nil {
			return fmt.Errorf("making %s private: %w", s.path, err)
		}
	}
	return nil
}

// settle makes the meta pages durable as they are now. A process that was killed (or whose fdatasync failed) between
// writing a meta page and syncing it leaves a revision that is visible, perhaps on the disk, perhaps not; bbolt would
// reuse pages that the older meta page still needs. Writing the same bytes again makes the page dirty again, so that a
// sync which succeeds does mean the disk. The other pages of that revision were synced before its meta page was written.
func (s *Store) settle() error {
	buf := make([]byte, 2*s.db.Info().PageSize)
	_, err := s.file.ReadAt(buf, 0)
	if err == nil {
		_, err = s.file.WriteAt(buf, 0)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("syncing the newest revision: %w", full(err))
	}
	return nil
}

// full marks errors that say that there is no room.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

// view runs a read transaction.
func (s *Store) view(ctx context.Context, fn func(tx *bolt.Tx) error) error {
	if err := s.alive(ctx); err != nil {
		return err
	}
	if opened, err := s.tryView(fn); opened {
		return err
	}
	// The disk failed, and reopening did too: try again.
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := s.alive(ctx); err != nil {
		return err
	}
	if err := s.takeUp(); err != nil {
		return fmt.Errorf("reading %s: %w", s.path, err)
	}
	_, err := s.tryView(fn)
	return err
}

// tryView runs a read transaction, or returns false where there is no database.
func (s *Store) tryView(fn func(tx *bolt.Tx) error) (bool, error) {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return false, store.ErrClosed
	}
	return true, s.db.View(fn)
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *Store) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.isClosed() {
		return store.ErrClosed
	}
	return nil
}

// readHead reads the newest revision from the file.
func (s *Store) readHead() (rev store.Revision, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		k, v := tx.Bucket(bucketRevisions).Cursor().Last()
		if k == nil {
			return nil
		}
		rev, err = decode(tx, v)
		return err
	})
	return rev, err
}

func decode(tx *bolt.Tx, record []byte) (store.Revision, error) {
	rec, err := ledger.DecodeRecord(record)
	if err != nil {
		return store.Revision{}, err
	}
	entries, err := ledger.Entries(rec.Shards, blobOf(tx))
	if err != nil {
		return store.Revision{}, fmt.Errorf("revision %d: %w", rec.Number, err)
	}
	return store.Revision{Info: rec.Info(), Entries: entries}, nil
}

// blobOf returns blobs that are valid until tx ends.
func blobOf(tx *bolt.Tx) func(store.Hash) ([]byte, error) {
	blobs := tx.Bucket(bucketBlobs)
	return func(h store.Hash) ([]byte, error) {
		if b := blobs.Get(h[:]); b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("blob %v: %w", h, store.ErrNotFound)
	}
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Head returns the newest acknowledged revision, from memory.
func (s *Store) Head(ctx context.Context) (store.Revision, error) {
	if err := s.alive(ctx); err != nil {
		return store.Revision{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head, nil
}

// Revision returns a kept revision.
func (s *Store) Revision(ctx context.Context, n uint64) (rev store.Revision, err error) {
	head, err := s.Head(ctx)
	if err != nil {
		return store.Revision{}, err
	}
	if head.Number == n && n != 0 {
		return head, nil
	}
	err = s.view(ctx, func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketRevisions).Get(numberKey(n))
		if v == nil || n > head.Number {
			return fmt.Errorf("revision %d: %w", n, store.ErrNotFound)
		}
		rev, err = decode(tx, v)
		return err
	})
	return rev, err
}

// Blob returns a copy of a blob.
func (s *Store) Blob(ctx context.Context, h store.Hash) (out []byte, err error) {
	err = s.view(ctx, func(tx *bolt.Tx) error {
		b, err := blobOf(tx)(h)
		out = append([]byte{}, b...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Load returns the blobs of a revision, in one read transaction.
func (s *Store) Load(ctx context.Context, r store.Revision) (map[store.Key][]byte, error) {
	out := make(map[store.Key][]byte, len(r.Entries))
	err := s.view(ctx, func(tx *bolt.Tx) error {
		blob := blobOf(tx)
		for k, e := range r.Entries {
			b, err := blob(e.Hash)
			if err != nil {
				return fmt.Errorf("revision %d: %s: %w", r.Number, k, err)
			}
			out[k] = append([]byte{}, b...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// History reads the kept records.
func (s *Store) History(ctx context.Context, limit int) (out []store.Info, err error) {
	head, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	err = s.view(ctx, func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketRevisions).Cursor()
		for k, v := c.Last(); k != nil && (limit <= 0 || len(out) < limit); k, v = c.Prev() {
			rec, err := ledger.DecodeRecord(v)
			if err != nil {
				return err
			}
			if rec.Number <= head.Number { // a revision in doubt is not told
				out = append(out, rec.Info())
			}
		}
		return nil
	})
	return out, err
}

// Watch waits for the head to be more than after.
func (s *Store) Watch(ctx context.Context, after uint64) (store.Revision, error) {
	for {
		if err := s.alive(ctx); err != nil {
			return store.Revision{}, err
		}
		s.mu.Lock()
		head, changed := s.head, s.changed
		s.mu.Unlock()
		switch {
		case head.Number > after:
			return head, nil
		case head.Number < after:
			return store.Revision{}, fmt.Errorf("%w: waiting after %d, the head is %d", store.ErrRewound, after, head.Number)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-s.closed:
		}
	}
}

// Close waits for a Commit that runs, and releases the file.
func (s *Store) Close() error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if s.isClosed() {
		return nil
	}
	close(s.closed)
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	if err != nil {
		return fmt.Errorf("closing the store %s: %w", s.path, err)
	}
	return nil
}
