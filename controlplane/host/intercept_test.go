package host

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/controlplane/intercept"
)

// fakeTables are the tables of a kernel that does as it is told.
type fakeTables struct {
	there map[string]string
	puts  int
	fail  error
}

func (f *fakeTables) Put(r intercept.Rules) error {
	if f.fail != nil {
		return f.fail
	}
	f.puts++
	f.there[r.Table] = r.String()
	return nil
}

func (f *fakeTables) Remove(table string) error {
	delete(f.there, table)
	return f.fail
}

func (f *fakeTables) List(prefix string) (out []string, err error) {
	for t := range f.there {
		if strings.HasPrefix(t, prefix) {
			out = append(out, t)
		}
	}
	return out, f.fail
}

func (f *fakeTables) RemoveAll(prefix string, keep func(string) bool) (gone []string, err error) {
	if f.fail != nil {
		return nil, f.fail
	}
	for _, t := range slices.Sorted(maps.Keys(f.there)) {
		if strings.HasPrefix(t, prefix) && !keep(t) {
			delete(f.there, t)
			gone = append(gone, t)
		}
	}
	return gone, nil
}

func TestInterception(t *testing.T) {
	dir := t.TempDir()
	kernel := &fakeTables{there: map[string]string{}}
	c := newInterception(dir, kernel)
	rules := func(id string, port uint16) intercept.Rules {
		return intercept.Rules{Table: intercept.Name(dir, id), By: intercept.ByUID, UID: 1000, Outbound: port}
	}
	step := func(what string, wantPuts int, want ...string) {
		t.Helper()
		var have []string
		for _, table := range slices.Sorted(maps.Keys(kernel.there)) {
			have = append(have, strings.TrimPrefix(table, intercept.Prefix(dir)))
		}
		if !slices.Equal(have, want) || kernel.puts != wantPuts {
			t.Errorf("%s: there are %v after %d puts, want %v after %d", what, have, kernel.puts, want, wantPuts)
		}
	}
	if !c.idle() {
		t.Error("something is kept at the beginning")
	}
	// What an earlier control plane left and is not wanted goes; somebody else's stays.
	kernel.there[intercept.Name(dir, "old")] = ""
	kernel.there[intercept.Name(dir, "a")] = ""
	kernel.there["zz-somebodys"] = ""
	c.plan(map[string]intercept.Rules{"a": rules("a", 1), "b": rules("b", 2)})
	gone, err := c.sweep()
	if err != nil || len(gone) != 1 {
		t.Errorf("swept %v, %v", gone, err)
	}
	step("swept", 0, "a", "zz-somebodys")

	for _, id := range []string{"a", "b", "a", "not wanted"} {
		if _, err := c.ensure(id, false); err != nil {
			t.Fatal(err)
		}
	}
	step("ensured", 2, "a", "b", "zz-somebodys")
	// Other rules replace; the same are let be, unless told.
	c.plan(map[string]intercept.Rules{"a": rules("a", 3)})
	if changed, err := c.ensure("a", false); err != nil || !changed {
		t.Errorf("other rules: %v, %v", changed, err)
	}
	if changed, err := c.ensure("a", true); err != nil || !changed {
		t.Errorf("told: %v, %v", changed, err)
	}
	step("replaced", 4, "a", "b", "zz-somebodys")
	if got := c.ids(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("kept are %v: b is not wanted, but in force", got)
	}
	// Somebody flushes.
	delete(kernel.there, intercept.Name(dir, "a"))
	if got, err := c.missing(); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("missing are %v, %v", got, err)
	}
	if _, err := c.ensure("a", false); err != nil {
		t.Fatal(err)
	}
	step("put in again", 5, "a", "b", "zz-somebodys")
	for range 2 {
		if _, err := c.drop("b"); err != nil {
			t.Fatal(err)
		}
	}
	step("dropped", 5, "a", "zz-somebodys")

	// A kernel that refuses: nothing counts as in force.
	kernel.fail = errors.New("no")
	c.plan(map[string]intercept.Rules{"c": rules("c", 4)})
	if _, err := c.ensure("c", false); err == nil {
		t.Error("a refusal goes unseen")
	}
	if _, force := c.state("c"); force != nil {
		t.Error("what was refused counts as in force")
	}
	kernel.fail = nil
	if gone, err := c.clear(); err != nil || len(gone) != 1 {
		t.Errorf("cleared %v, %v", gone, err)
	}
	step("cleared", 5, "zz-somebodys")
	if !c.idle() {
		t.Error("something is kept at the end")
	}
}

func TestAsUser(t *testing.T) {
	u, env, err := asUser("root")
	if err != nil || u.UID != 0 || env["USER"] != "root" {
		t.Errorf("root is %+v with %v, %v", u, env, err)
	}
	if u, env, err = asUser("4242424"); err != nil || u.UID != 4242424 || u.GID != 4242424 || env != nil {
		t.Errorf("a number without a name is %+v with %v, %v", u, env, err)
	}
	if _, _, err = asUser("nobody-of-this-name"); err == nil || !strings.Contains(err.Error(), "there is no user") {
		t.Errorf("nobody is %v", err)
	}
}
