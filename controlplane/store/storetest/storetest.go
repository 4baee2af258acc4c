// Package storetest is what every store of revisions must do, as one suite.
//
// [Run] is the suite; [Write] and [Acked.Check] are the two halves of a crash test, which each store arranges for itself
// because each has something else to kill. Nothing but tests imports this package.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

// patience is how long a case may take before it has failed.
const patience = 2 * time.Minute

// Settings are what the suite asks of a store when it opens it.
type Settings struct {
	// Keep is the number of revisions to keep; 0 is the default.
	Keep int
	// CollectEvery is after how many commits garbage is collected; 0 is the default.
	CollectEvery int
}

// Place is where one store lives.
type Place interface {
	// Open opens the store; the suite closes it.
	Open(t testing.TB, s Settings) store.Store
	// Blobs names all blobs that are stored, referred to or not, once a collection that is due has run.
	Blobs(t testing.TB, st store.Store) []store.Hash
	// Shared says whether the store may be opened several times at once, as from several hosts.
	Shared() bool
}

// Run runs the suite. New returns an empty place.
func Run(t *testing.T, newPlace func(t testing.TB) Place) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, p Place)
	}{
		{"empty", testEmpty},
		{"commit and read", testCommit},
		{"no-op", testNoop},
		{"delete", testDelete},
		{"invalid change", testInvalid},
		{"conflict", testConflict},
		{"sources and origins", testOrigins},
		{"concurrent writers", testConcurrent},
		{"watch", testWatch},
		{"watch ends", testWatchEnds},
		{"large", testLarge},
		{"history and collection", testCollect},
		{"collection beside writers", testCollectConcurrent},
		{"reopening", testReopen},
		{"closed", testClosed},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, newPlace(t)) })
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, p Place, s Settings) store.Store {
	st := p.Open(t, s)
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return st
}

func key(i int) store.Key { return store.Key("default/Route/r" + strconv.Itoa(i)) }

func put(kv ...string) store.Change {
	c := store.Change{Put: map[store.Key]store.Item{}, Author: "tester", Source: "test"}
	for i := 0; i < len(kv); i += 2 {
		c.Put[store.Key("default/Route/"+kv[i])] = store.Item{Data: []byte(kv[i+1])}
	}
	return c
}

func commit(t testing.TB, st store.Store, base uint64, c store.Change) store.Revision {
	t.Helper()
	rev, err := st.Commit(testContext(t), base, c)
	if err != nil {
		t.Fatalf("commit on %d: %v", base, err)
	}
	return rev
}

// contents reads all of a revision as strings.
func contents(t testing.TB, st store.Store, rev store.Revision) map[store.Key]string {
	t.Helper()
	blobs, err := st.Load(testContext(t), rev)
	if err != nil {
		t.Fatalf("loading revision %d: %v", rev.Number, err)
	}
	out := make(map[store.Key]string, len(blobs))
	for k, b := range blobs {
		out[k] = string(b)
	}
	return out
}

func want(t testing.TB, st store.Store, rev store.Revision, kv ...string) {
	t.Helper()
	w := map[store.Key]string{}
	for i := 0; i < len(kv); i += 2 {
		w[store.Key("default/Route/"+kv[i])] = kv[i+1]
	}
	if got := contents(t, st, rev); !maps.Equal(got, w) {
		t.Fatalf("revision %d holds %v, want %v", rev.Number, got, w)
	}
}

func head(t testing.TB, st store.Store) store.Revision {
	t.Helper()
	rev, err := st.Head(testContext(t))
	if err != nil {
		t.Fatalf("head: %v", err)
	}
	return rev
}

func testEmpty(t *testing.T, p Place) {
	st, ctx := open(t, p, Settings{}), testContext(t)
	if rev := head(t, st); rev.Number != 0 || len(rev.Entries) != 0 {
		t.Errorf("the head of an empty store is %+v", rev)
	}
	if h, err := st.History(ctx, 0); err != nil || len(h) != 0 {
		t.Errorf("history is %v, %v", h, err)
	}
	for _, n := range []uint64{0, 1} {
		if _, err := st.Revision(ctx, n); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("revision %d: %v, want ErrNotFound", n, err)
		}
	}
	if _, err := st.Blob(ctx, store.HashOf([]byte("x"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("blob: %v, want ErrNotFound", err)
	}
	if _, err := st.Commit(ctx, 1, put("a", "1")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("commit on 1: %v, want ErrConflict", err)
	}
}

func testCommit(t *testing.T, p Place) {
	st, ctx := open(t, p, Settings{}), testContext(t)
	before := time.Now().Add(-time.Second)
	c := put("a", "1", "b", "2", "empty", "")
	c.Put["blue/Service/orders/1.0.0"] = store.Item{Data: []byte("1")}
	c.Message = "first"
	one := commit(t, st, 0, c)
	if one.Number != 1 || one.Author != "tester" || one.Source != "test" || one.Message != "first" {
		t.Errorf("revision is %+v", one.Info)
	}
	if one.Time.Before(before) || one.Time.After(time.Now().Add(time.Second)) {
		t.Errorf("time is %v", one.Time)
	}
	two := commit(t, st, 1, put("b", "3"))
	for _, rev := range []store.Revision{two, head(t, st)} {
		got := contents(t, st, rev)
		w := map[store.Key]string{
			"default/Route/a": "1", "default/Route/b": "3", "default/Route/empty": "", "blue/Service/orders/1.0.0": "1",
		}
		if !maps.Equal(got, w) {
			t.Errorf("revision %d holds %v, want %v", rev.Number, got, w)
		}
	}
	b, err := st.Blob(ctx, one.Entries["default/Route/b"].Hash)
	if err != nil || string(b) != "2" {
		t.Errorf("blob is %q, %v", b, err)
	}
}

func testNoop(t *testing.T, p Place) {
	st := open(t, p, Settings{})
	if rev := commit(t, st, 0, store.Change{}); rev.Number != 0 {
		t.Errorf("nothing made revision %d", rev.Number)
	}
	commit(t, st, 0, put("a", "1"))
	again := put("a", "1")
	again.Delete = []store.Key{"default/Route/nobody"}
	again.Message = "said again"
	if rev := commit(t, st, 1, again); rev.Number != 1 || rev.Message != "" {
		t.Errorf("the same again made %+v", rev.Info)
	}
	if _, err := st.Commit(testContext(t), 0, again); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the same again on an old base: %v, want ErrConflict", err)
	}
	if rev := head(t, st); rev.Number != 1 {
		t.Errorf("head is %d", rev.Number)
	}
}

func testDelete(t *testing.T, p Place) {
	st := open(t, p, Settings{})
	commit(t, st, 0, put("a", "1", "b", "2"))
	two := commit(t, st, 1, store.Change{Delete: []store.Key{"default/Route/a", "default/Route/nobody"}})
	want(t, st, two, "b", "2")
	three := commit(t, st, 2, store.Change{Delete: []store.Key{"default/Route/b"}})
	want(t, st, three)
	one, err := st.Revision(testContext(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	want(t, st, one, "a", "1", "b", "2")
	if rev := head(t, st); rev.Number != 3 || len(rev.Entries) != 0 {
		t.Errorf("head is %+v", rev)
	}
}

func testInvalid(t *testing.T, p Place) {
	st, ctx := open(t, p, Settings{}), testContext(t)
	c := put("a", "1")
	c.Put["not-a-key"] = store.Item{}
	c.Delete = []store.Key{"default/Route/a"}
	if _, err := st.Commit(ctx, 0, c); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	if rev := head(t, st); rev.Number != 0 {
		t.Errorf("head is %d", rev.Number)
	}
}

func testConflict(t *testing.T, p Place) {
	st, ctx := open(t, p, Settings{}), testContext(t)
	commit(t, st, 0, put("a", "1"))
	for _, base := range []uint64{0, 2} {
		_, err := st.Commit(ctx, base, put("a", "2"))
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) || !errors.Is(err, store.ErrConflict) {
			t.Fatalf("commit on %d: %v, want a conflict", base, err)
		}
		if conflict.Base != base || conflict.Head != 1 {
			t.Errorf("conflict is %+v", conflict)
		}
	}
	want(t, st, head(t, st), "a", "1")
}

func testOrigins(t *testing.T, p Place) {
	st, ctx := open(t, p, Settings{}), testContext(t)
	c := put("a", "1")
	c.Source = "files"
	c.Put["default/Route/b"] = store.Item{Data: []byte("2"), Source: "by hand", Origin: "b.yaml:3"}
	commit(t, st, 0, c)
	// Where it was written is part of a revision: an error must name the right line.
	moved := store.Change{Source: "files", Put: map[store.Key]store.Item{
		"default/Route/b": {Data: []byte("2"), Source: "by hand", Origin: "b.yaml:4"},
	}}
	if rev := commit(t, st, 1, moved); rev.Number != 2 {
		t.Errorf("a resource that moved made revision %d", rev.Number)
	}
	for n, origin := range map[uint64]string{1: "b.yaml:3", 2: "b.yaml:4"} {
		rev, err := st.Revision(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		w := map[store.Key]store.Entry{
			"default/Route/a": {Hash: store.HashOf([]byte("1")), Source: "files"},
			"default/Route/b": {Hash: store.HashOf([]byte("2")), Source: "by hand", Origin: origin},
		}
		if !maps.Equal(rev.Entries, w) {
			t.Errorf("revision %d holds %+v", n, rev.Entries)
		}
	}
}

// testConcurrent lets writers increment a shared counter, each increment one commit on the head that it read. A lost update
// leaves the counter behind, and a gap or a number given twice shows among the acknowledged ones.
func testConcurrent(t *testing.T, p Place) {
	const writers, each = 6, 12
	first := open(t, p, Settings{})
	ctx := testContext(t)
	var mu sync.Mutex
	var acked []uint64
	var wg sync.WaitGroup
	for w := range writers {
		st := first
		if p.Shared() && w%2 == 1 {
			st = open(t, p, Settings{})
		}
		wg.Go(func() {
			for done := 0; done < each; {
				rev, err := st.Head(ctx)
				if err != nil {
					t.Errorf("head: %v", err)
					return
				}
				n := 0
				if rev.Number > 0 {
					b, err := st.Blob(ctx, rev.Entries["default/Route/n"].Hash)
					if err != nil {
						t.Errorf("blob: %v", err)
						return
					}
					n, _ = strconv.Atoi(string(b))
				}
				next, err := st.Commit(ctx, rev.Number, put("n", strconv.Itoa(n+1)))
				if errors.Is(err, store.ErrConflict) {
					continue
				}
				if err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				done++
				mu.Lock()
				acked = append(acked, next.Number)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(acked)
	for i, n := range acked {
		if n != uint64(i+1) {
			t.Fatalf("acknowledged numbers are %v: not dense", acked)
		}
	}
	want(t, first, head(t, first), "n", strconv.Itoa(writers*each))
}

func testWatch(t *testing.T, p Place) {
	const commits = 40
	st := open(t, p, Settings{})
	other := st
	if p.Shared() {
		other = open(t, p, Settings{})
	}
	ctx := testContext(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for at := uint64(0); at < commits; {
				rev, err := other.Watch(ctx, at)
				if err != nil {
					t.Errorf("watch after %d: %v", at, err)
					return
				}
				if rev.Number <= at || rev.Number > commits {
					t.Errorf("watch after %d returned %d", at, rev.Number)
					return
				}
				if _, ok := rev.Entries["default/Route/n"]; !ok {
					t.Errorf("revision %d of a watch has no entries", rev.Number)
				}
				at = rev.Number
			}
		})
	}
	for i := range commits {
		commit(t, st, uint64(i), put("n", strconv.Itoa(i)))
	}
	wg.Wait()
	if _, err := other.Watch(ctx, commits+5); !errors.Is(err, store.ErrRewound) {
		t.Errorf("watch after a revision that is not yet: %v, want ErrRewound", err)
	}
}

func testWatchEnds(t *testing.T, p Place) {
	st := open(t, p, Settings{})
	commit(t, st, 0, put("a", "1"))
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if rev, err := st.Watch(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got revision %d, %v; want context.DeadlineExceeded", rev.Number, err)
	}
	canceled, cancelNow := context.WithCancel(testContext(t))
	cancelNow()
	if _, err := st.Watch(canceled, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func testLarge(t *testing.T, p Place) {
	st := open(t, p, Settings{})
	r := rand.New(rand.NewPCG(1, 2))
	c := store.Change{Put: map[store.Key]store.Item{}, Source: "large"}
	for i := range 2000 {
		c.Put[key(i)] = store.Item{Data: fmt.Appendf(nil, `{"kind":"Route","n":%d,"pad":"%0200d"}`, i, r.Uint64())}
	}
	blob := make([]byte, 1<<20)
	for i := range blob {
		blob[i] = byte(r.Uint32())
	}
	c.Put["default/Route/big"] = store.Item{Data: blob, Origin: "big.yaml:1"}
	c.Put["default/Route/middle"] = store.Item{Data: blob[:400<<10]}
	c.Put["default/Route/almost"] = store.Item{Data: blob[:350<<10]}
	rev := commit(t, st, 0, c)
	check := func(st store.Store, rev store.Revision, n int) {
		t.Helper()
		got := contents(t, st, rev)
		if len(got) != n {
			t.Fatalf("%d resources, want %d", len(got), n)
		}
		for k, v := range got {
			if it, ok := c.Put[k]; !ok || v != string(it.Data) {
				t.Fatalf("%s differs", k)
			}
		}
	}
	check(st, rev, len(c.Put))
	var gone []store.Key
	for i := range 1000 {
		gone = append(gone, key(i))
	}
	rev = commit(t, st, 1, store.Change{Delete: gone})
	check(st, rev, len(c.Put)-len(gone))
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = open(t, p, Settings{})
	check(st, head(t, st), len(c.Put)-len(gone))
	one, err := st.Revision(testContext(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	check(st, one, len(c.Put))
}

func testCollect(t *testing.T, p Place) {
	const keep, commits = 5, 23
	st, ctx := open(t, p, Settings{Keep: keep, CollectEvery: 1}), testContext(t)
	for i := range commits {
		commit(t, st, uint64(i), put("n", "value "+strconv.Itoa(i), "same", "always", fmt.Sprint("r", i%3), strconv.Itoa(i)))
	}
	all, err := st.History(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != keep {
		t.Fatalf("%d revisions are kept, want %d", len(all), keep)
	}
	for i, info := range all {
		if info.Number != uint64(commits-i) {
			t.Errorf("history is %+v: want newest first", all)
		}
		if info.Source != "test" || info.Author != "tester" || info.Time.IsZero() {
			t.Errorf("history has %+v", info)
		}
	}
	if two, err := st.History(ctx, 2); err != nil || len(two) != 2 || two[0].Number != commits {
		t.Errorf("history of 2 is %v, %v", two, err)
	}
	if _, err := st.Revision(ctx, commits-keep); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an old revision: %v, want ErrNotFound", err)
	}
	refs := map[store.Hash]bool{}
	for _, info := range all {
		rev, err := st.Revision(ctx, info.Number)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range contents(t, st, rev) {
			if rev.Entries[k].Hash != store.HashOf([]byte(v)) {
				t.Errorf("revision %d: %s has another blob than its hash says", rev.Number, k)
			}
			refs[rev.Entries[k].Hash] = true
		}
	}
	// Besides resources there are shards: one for each kept revision here.
	blobs := p.Blobs(t, st)
	if len(blobs) > len(refs)+keep {
		t.Errorf("%d blobs are stored, %d are referred to: not collected", len(blobs), len(refs)+keep)
	}
	if slices.Contains(blobs, store.HashOf([]byte("value 0"))) {
		t.Error("a blob that nothing refers to is still there")
	}
}

// testCollectConcurrent lets writers bring back blobs that were just let go, while every commit collects: a collection that
// takes what a commit is about to refer to leaves a revision that cannot be loaded.
func testCollectConcurrent(t *testing.T, p Place) {
	const writers, each = 4, 25
	s := Settings{Keep: 2, CollectEvery: 1}
	first := open(t, p, s)
	ctx := testContext(t)
	var wg sync.WaitGroup
	for w := range writers {
		st := first
		if p.Shared() && w > 0 {
			st = open(t, p, s)
		}
		r := rand.New(rand.NewPCG(uint64(w), 7))
		wg.Go(func() {
			for done := 0; done < each; {
				rev, err := st.Head(ctx)
				if err != nil {
					t.Errorf("head: %v", err)
					return
				}
				// Few different values: most have been stored and let go before.
				c := put(fmt.Sprint("r", r.IntN(3)), fmt.Sprint("v", r.IntN(4)), "unique", fmt.Sprint(w, done))
				next, err := st.Commit(ctx, rev.Number, c)
				if errors.Is(err, store.ErrConflict) {
					continue
				}
				if err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				done++
				_, err = st.Load(ctx, next)
				if errors.Is(err, store.ErrNotFound) {
					// It may be out of the kept ones by now, and then rightly so.
					if now, herr := st.Head(ctx); herr == nil && now.Number < next.Number+2 {
						t.Errorf("revision %d, the head is %d: %v", next.Number, now.Number, err)
						return
					}
				} else if err != nil {
					t.Errorf("load: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	fresh := first
	if p.Shared() {
		fresh = open(t, p, s)
	}
	all, err := fresh.History(ctx, 0)
	if err != nil || len(all) != 2 || all[0].Number != writers*each {
		t.Fatalf("history is %v, %v", all, err)
	}
	for _, info := range all {
		rev, err := fresh.Revision(ctx, info.Number)
		if err != nil {
			t.Fatal(err)
		}
		contents(t, fresh, rev)
	}
}

func testReopen(t *testing.T, p Place) {
	st := open(t, p, Settings{})
	c := put("a", "1")
	c.Message = "kept"
	one := commit(t, st, 0, c)
	two := commit(t, st, 1, put("b", "2"))
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = open(t, p, Settings{})
	got := head(t, st)
	if got.Info != two.Info || !maps.Equal(got.Entries, two.Entries) {
		t.Errorf("head is %+v, was %+v", got, two)
	}
	want(t, st, got, "a", "1", "b", "2")
	old, err := st.Revision(testContext(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if old.Info != one.Info || !maps.Equal(old.Entries, one.Entries) {
		t.Errorf("revision 1 is %+v, was %+v", old, one)
	}
	if rev := commit(t, st, 2, put("c", "3")); rev.Number != 3 {
		t.Errorf("the next revision is %d", rev.Number)
	}
}

func testClosed(t *testing.T, p Place) {
	st, ctx := open(t, p, Settings{}), testContext(t)
	got := make(chan error, 1)
	go func() {
		_, err := st.Watch(ctx, 0)
		got <- err
	}()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, store.ErrClosed) {
		t.Errorf("a watch ended with %v, want ErrClosed", err)
	}
	if _, err := st.Head(ctx); !errors.Is(err, store.ErrClosed) {
		t.Errorf("head: %v, want ErrClosed", err)
	}
	if _, err := st.Commit(ctx, 0, put("a", "1")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("commit: %v, want ErrClosed", err)
	}
	if err := st.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
}
