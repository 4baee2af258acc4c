package ledger

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"pgregory.net/rapid"
)

func lookup(blobs map[store.Hash][]byte) func(store.Hash) ([]byte, error) {
	return func(h store.Hash) ([]byte, error) {
		if b, ok := blobs[h]; ok {
			return b, nil
		}
		return nil, store.ErrNotFound
	}
}

// TestAgainstMap applies random changes and compares each revision, read back from its record and blobs alone, with a map.
func TestAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var head store.Revision
		all := map[store.Hash][]byte{}
		model := map[store.Key]string{}
		for range rapid.IntRange(1, 6).Draw(t, "commits") {
			c := store.Change{Put: map[store.Key]store.Item{}, Source: "s"}
			for range rapid.IntRange(0, 90).Draw(t, "puts") {
				k := store.Key(fmt.Sprintf("default/Route/r%d", rapid.IntRange(0, 200).Draw(t, "key")))
				v := fmt.Sprint(rapid.IntRange(0, 50).Draw(t, "value"))
				c.Put[k] = store.Item{Data: []byte(v)}
				model[k] = v
			}
			for range rapid.IntRange(0, 10).Draw(t, "deletes") {
				k := store.Key(fmt.Sprintf("default/Route/r%d", rapid.IntRange(0, 200).Draw(t, "key")))
				if _, both := c.Put[k]; both {
					continue
				}
				c.Delete = append(c.Delete, k)
				delete(model, k)
			}
			if err := Validate(c); err != nil {
				t.Fatal(err)
			}
			next, err := Apply(head, c, time.Unix(1, 0), [16]byte{1})
			if err != nil {
				t.Fatal(err)
			}
			if next == nil {
				continue
			}
			maps.Copy(all, next.Blobs)
			b, err := next.Record.Encode()
			if err != nil {
				t.Fatal(err)
			}
			rec, err := DecodeRecord(b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Entries(rec.Shards, lookup(all))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(model) {
				t.Fatalf("%d entries, want %d", len(got), len(model))
			}
			for k, v := range model {
				if string(all[got[k].Hash]) != v || got[k].Source != "s" {
					t.Fatalf("%s is %q of %q, want %q", k, all[got[k].Hash], got[k].Source, v)
				}
			}
			marked, err := Mark([]Record{rec}, lookup(all))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range got {
				if _, ok := marked[e.Hash]; !ok {
					t.Fatal("an entry's blob is not marked")
				}
			}
			head = next.Revision
		}
	})
}

func TestOneChangeWritesOneShard(t *testing.T) {
	put := map[store.Key]store.Item{}
	for i := range 2000 {
		put[store.Key(fmt.Sprintf("default/Route/r%d", i))] = store.Item{Data: fmt.Append(nil, i)}
	}
	first, err := Apply(store.Revision{}, store.Change{Put: put}, time.Now(), [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Apply(first.Revision, store.Change{Put: map[store.Key]store.Item{"default/Route/r7": {Data: []byte("x")}}}, time.Now(), [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	differ := 0
	for i, h := range second.Record.Shards {
		if first.Record.Shards[i] != h {
			differ++
		}
	}
	if differ != 1 {
		t.Errorf("%d of %d shards differ after one change", differ, len(second.Record.Shards))
	}
	for i, h := range first.Record.Shards {
		if n := len(first.Blobs[h]); n > 20_000 {
			t.Errorf("shard %d has %d bytes: keys are spread badly", i, n)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    store.Change
		ok   bool
	}{
		{"good", store.Change{Put: map[store.Key]store.Item{"default/Service/a/1.0.0": {}}, Delete: []store.Key{"default/Route/a"}}, true},
		{"short key", store.Change{Put: map[store.Key]store.Item{"default/a": {}}}, false},
		{"long key", store.Change{Delete: []store.Key{"a/b/c/d/e"}}, false},
		{"empty part", store.Change{Delete: []store.Key{"a//c"}}, false},
		{"control character", store.Change{Delete: []store.Key{"a/b/c\n"}}, false},
		{"both", store.Change{Put: map[store.Key]store.Item{"a/b/c": {}}, Delete: []store.Key{"a/b/c"}}, false},
		{"big", store.Change{Put: map[store.Key]store.Item{"a/b/c": {Data: make([]byte, store.MaxBlobBytes+1)}}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Validate(tc.c)
			if (err == nil) != tc.ok {
				t.Fatalf("got %v", err)
			}
			if err != nil && !errors.Is(err, store.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
		})
	}
}
