package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

// stored is one resource of a revision. One that cannot be read harms only itself: its problem is told.
type stored struct {
	key     resource.Key
	path    store.Key
	entry   store.Entry
	data    []byte
	res     *resource.Resource // nil where problem is set
	problem string
}

// catalog is one revision, read. It is immutable.
type catalog struct {
	rev store.Revision
	// all is ordered by key.
	all   []*stored
	byKey map[store.Key]*stored
}

// readCatalog loads a revision. What prev holds already, by hash, is not read again.
func readCatalog(ctx context.Context, s store.Store, rev store.Revision, prev *catalog) (*catalog, error) {
	c := &catalog{rev: rev, byKey: make(map[store.Key]*stored, len(rev.Entries))}
	for path, e := range rev.Entries {
		if prev != nil {
			if old := prev.byKey[path]; old != nil && old.entry.Hash == e.Hash && old.data != nil {
				kept := *old
				kept.entry = e
				c.add(&kept)
				continue
			}
		}
		x := &stored{path: path, entry: e}
		data, err := s.Blob(ctx, e.Hash)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, store.ErrNotFound):
			x.problem = "its content is missing in the store: apply it again"
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path, err)
		default:
			x.read(data)
		}
		if key, err := resource.ParseKeyPath(string(path)); err == nil {
			x.key = key
		} else if x.problem == "" {
			x.problem = err.Error()
		}
		c.add(x)
	}
	slices.SortFunc(c.all, func(a, b *stored) int {
		switch {
		case a.key.Less(b.key):
			return -1
		case b.key.Less(a.key):
			return 1
		}
		return 0
	})
	return c, nil
}

func (x *stored) read(data []byte) {
	r := &resource.Resource{}
	if err := r.UnmarshalJSON(data); err != nil {
		x.data, x.problem = data, err.Error()
		return
	}
	if v := r.Validate(); len(v) > 0 {
		x.data, x.problem = data, v.Error()
		return
	}
	x.data, x.res = data, r
}

func (c *catalog) add(x *stored) {
	c.all = append(c.all, x)
	c.byKey[x.path] = x
}

// usable are the resources without a problem.
func (c *catalog) usable() []*resource.Resource {
	out := make([]*resource.Resource, 0, len(c.all))
	for _, x := range c.all {
		if x.res != nil && x.problem == "" {
			out = append(out, x.res)
		}
	}
	return out
}
