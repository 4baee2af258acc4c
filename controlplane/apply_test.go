package controlplane

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/embedded"
)

const external = "apiVersion: outrigger.dev/v1\nkind: External\nmetadata: {name: NAME}\nspec: {endpoints: [{address: \"127.0.0.1:9\"}]}\n"

func doc(text string) []admin.Document { return []admin.Document{{File: "a.yaml", Text: text}} }

func named(names ...string) string {
	var parts []string
	for _, n := range names {
		parts = append(parts, strings.ReplaceAll(external, "NAME", n))
	}
	return strings.Join(parts, "---\n")
}

func TestApply(t *testing.T) {
	ctx := context.Background()
	s, err := embedded.Open(filepath.Join(t.TempDir(), "store.db"), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	read := func(ctx context.Context) (*catalog, error) {
		rev, err := s.Head(ctx)
		if err != nil {
			return nil, err
		}
		return readCatalog(ctx, s, rev, nil)
	}
	apply := func(r admin.ApplyRequest) (*plan, store.Revision, error) {
		return commit(ctx, s, read, r.DryRun, r.ExpectedRevision, func(c *catalog) (*plan, error) { return planApply(c, r, checks{}) })
	}
	want := func(rev store.Revision, err error, n uint64) {
		t.Helper()
		if err != nil || rev.Number != n {
			t.Fatalf("revision %d, %v; want %d", rev.Number, err, n)
		}
	}
	_, rev, err := apply(admin.ApplyRequest{Source: "up", Documents: doc(named("a", "b"))})
	want(rev, err, 1)
	_, rev, err = apply(admin.ApplyRequest{Source: "up", Documents: doc(named("b", "a"))}) // the same again
	want(rev, err, 1)
	p, rev, err := apply(admin.ApplyRequest{Source: "up", Prune: true, DryRun: true, Documents: doc(named("a", "c"))})
	want(rev, err, 1)
	if p.change.Message != "created External/c, removed External/b" {
		t.Errorf("summary: %s", p.change.Message)
	}
	_, rev, err = apply(admin.ApplyRequest{Source: "other", Documents: doc(named("d"))})
	want(rev, err, 2)
	_, rev, err = apply(admin.ApplyRequest{Source: "up", Prune: true, Documents: doc(named("a"))})
	want(rev, err, 3)
	if len(rev.Entries) != 2 {
		t.Errorf("a prune of one source took from another, or left its own: %v", rev.Entries)
	}
	one := uint64(1)
	var problem *admin.Problem
	if _, _, err := apply(admin.ApplyRequest{ExpectedRevision: &one, Documents: doc(named("e"))}); !errors.As(err, &problem) || problem.Status != 409 {
		t.Errorf("another revision was expected: %v", err)
	}

	// A violation changes nothing; one that stood before harms nobody else.
	split := "apiVersion: outrigger.dev/v1\nkind: TrafficSplit\nmetadata: {name: s}\nspec:\n  service: nobody\n  split: [{version: 1.0.0}]\n"
	_, rev, err = apply(admin.ApplyRequest{Documents: doc(split)})
	if !errors.As(err, &problem) || rev.Number != 3 || problem.Violations[0].Line != 5 {
		t.Errorf("a reference to nothing: %d, %v", rev.Number, err)
	}
	rs, _ := resource.Parse("", []byte(split))
	data, err := rs[0].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = s.Commit(ctx, 3, store.Change{Put: map[store.Key]store.Item{
		store.Key(rs[0].Key().Path()): {Data: data}, "default/External/broken": {Data: []byte("{")},
	}}); err != nil {
		t.Fatal(err)
	}
	_, rev, err = apply(admin.ApplyRequest{Source: "up", Documents: doc(named("f"))})
	want(rev, err, 5)
	c, err := read(ctx)
	if err != nil || c.byKey["default/External/broken"].problem == "" || c.byKey["default/External/f"].problem != "" {
		t.Errorf("a broken resource: %v", err)
	}
}

func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := OpenState(dir); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("held twice: %v", err)
	}
	if pid, ok := Holder(dir); !ok || pid != os.Getpid() {
		t.Errorf("holder: %d, %t", pid, ok)
	}
	one, err := s.Secret()
	if err != nil || len(one) != SecretBytes {
		t.Fatalf("secret: %d bytes, %v", len(one), err)
	}
	s.Close()
	if _, ok := Holder(dir); ok {
		t.Error("held although it was closed")
	}
	if s, err = OpenState(dir); err != nil {
		t.Fatal(err)
	}
	two, err := s.Secret()
	s.Close()
	if err != nil || string(one) != string(two) {
		t.Errorf("the secret changed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(dir); err == nil || !strings.Contains(err.Error(), `format "2"`) {
		t.Errorf("another format: %v", err)
	}
}
