package ledger

import (
	"reflect"
	"testing"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

// A record or a shard that can be read is written so that it reads the same.
func FuzzDecode(f *testing.F) {
	entries := map[store.Key]store.Entry{"default/Gateway/public": {Hash: store.HashOf([]byte("x")), Source: "a", Origin: "b"}}
	names, blobs, err := Shards(entries)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blobs[names[0]])
	rec, err := Record{Number: 3, Shards: names}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec)
	f.Add([]byte(`[{"k":"a","h":"zz"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRecord(b); err == nil {
			out, err := r.Encode()
			if err != nil {
				t.Skip(err) // a time beyond what JSON writes
			}
			again, err := DecodeRecord(out)
			if err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			if !reflect.DeepEqual(again.Shards, r.Shards) && len(r.Shards) > 0 || again.Number != r.Number {
				t.Fatalf("%+v, then %+v", r, again)
			}
		}
		got, err := Entries([]store.Hash{{}}, func(store.Hash) ([]byte, error) { return b, nil })
		if err != nil {
			return
		}
		names, blobs, err := Shards(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Entries(names, func(h store.Hash) ([]byte, error) { return blobs[h], nil })
		if err != nil || len(got) > 0 && !reflect.DeepEqual(again, got) {
			t.Fatalf("%v, then %v, %v", got, again, err)
		}
	})
}
