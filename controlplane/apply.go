package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

// commitTries is how often a commit is tried on a new head. Everything is checked anew each time.
const commitTries = 10

// checks are what an apply asks about the host and the mesh, beyond what resources say of each other. Each may be nil.
type checks struct {
	// host returns what stops the changed resources from running here.
	host func(changed []*resource.Resource) resource.Violations
	// mesh resolves and renders the whole set.
	mesh func(set []*resource.Resource) resource.Violations
	// known says which services exist outside the set.
	known func(tenant, service string) bool
	// pin is the host that services without a placement are pinned to, "" for none: a store of many hosts needs it.
	pin string
}

// plan is an apply that was checked against one head.
type plan struct {
	change   store.Change
	changes  []admin.Change
	changed  bool
	warnings []admin.Violation
}

// planApply checks r against head c. Its error is a *admin.Problem with all violations.
func planApply(c *catalog, r admin.ApplyRequest, k checks) (*plan, error) {
	var parsed []*resource.Resource
	var bad resource.Violations
	for _, d := range r.Documents {
		rs, v := resource.Parse(d.File, []byte(d.Text))
		parsed, bad = append(parsed, rs...), append(bad, v...)
	}
	if len(parsed) == 0 && len(bad) == 0 && !r.Prune {
		return nil, admin.Invalid([]admin.Violation{{File: fileOf(r.Documents), Message: "holds no resources"}})
	}
	resource.ResolveDirs(parsed, r.Dir)
	resource.ResolveFiles(parsed, r.Dir)

	p := &plan{change: store.Change{Put: map[store.Key]store.Item{}, Source: r.Source, Author: author()}}
	set := slices.Clone(parsed)
	written := map[store.Key]bool{}
	var changed []*resource.Resource
	for _, res := range parsed {
		key := store.Key(res.Key().Path())
		if s, ok := res.Spec.(*resource.Service); ok && k.pin != "" && s.Placement == nil {
			s.Placement = &resource.Placement{Hosts: []string{k.pin}}
		}
		old := c.byKey[key]
		ch := changeOf(res.Key())
		switch {
		case old == nil:
			ch.Action = admin.ActionCreate
		case old.res != nil && resource.Equal(old.res, res):
			ch.Action = admin.ActionKeep
		default:
			ch.Action = admin.ActionUpdate
			if old.res != nil {
				for _, f := range resource.Diff(old.res, res) {
					ch.Fields = append(ch.Fields, admin.FieldChange(f))
				}
			}
		}
		if written[key] {
			continue // written twice: a violation of the set
		}
		written[key] = true
		p.changes = append(p.changes, ch)
		if ch.Action == admin.ActionKeep && (!r.Prune || old.entry.Source == r.Source) {
			continue
		}
		// A pruning source takes over what it holds, changed or not.
		data, err := res.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", res.Key(), err)
		}
		p.change.Put[key] = store.Item{Data: data, Source: r.Source, Origin: originOf(res)}
		if ch.Action != admin.ActionKeep {
			changed = append(changed, res)
		}
	}
	for _, x := range c.all {
		if written[x.path] {
			continue
		}
		if r.Prune && x.entry.Source == r.Source {
			ch := changeOf(x.key)
			ch.Action = admin.ActionDelete
			p.changes = append(p.changes, ch)
			p.change.Delete = append(p.change.Delete, x.path)
			continue
		}
		if x.res != nil {
			set = append(set, x.res)
		}
	}
	bad = append(bad, setViolations(set, c, k)...)
	if k.host != nil {
		bad = append(bad, k.host(changed)...)
	}
	if len(bad) == 0 && k.mesh != nil {
		bad = append(bad, k.mesh(set)...)
		bad = without(bad, standing(c, k.mesh))
	}
	return p.finish(bad)
}

// planDelete checks the removal of what key matches.
func planDelete(c *catalog, key admin.Key, k checks) (*plan, error) {
	kind, ok := resource.ParseKind(key.Kind)
	if !ok {
		return nil, unknownKind(key.Kind)
	}
	p := &plan{change: store.Change{Source: "delete", Author: author()}}
	var set []*resource.Resource
	for _, x := range c.all {
		if x.key.Kind == kind && x.key.Name == key.Name && x.key.Tenant == orDefault(key.Tenant) && (key.Version == "" || x.key.Version == key.Version) {
			ch := changeOf(x.key)
			ch.Action = admin.ActionDelete
			p.changes = append(p.changes, ch)
			p.change.Delete = append(p.change.Delete, x.path)
		} else if x.res != nil {
			set = append(set, x.res)
		}
	}
	if len(p.changes) == 0 {
		return nil, notFound(c, kind, key)
	}
	return p.finish(setViolations(set, c, k))
}

func (p *plan) finish(bad resource.Violations) (*plan, error) {
	if len(bad) > 0 {
		bad.Sort()
		return nil, admin.Invalid(bad)
	}
	slices.SortStableFunc(p.changes, func(a, b admin.Change) int {
		return strings.Compare(a.Kind+"/"+a.Tenant+"/"+a.Name+"/"+a.Version, b.Kind+"/"+b.Tenant+"/"+b.Name+"/"+b.Version)
	})
	for _, c := range p.changes {
		p.changed = p.changed || c.Action != admin.ActionKeep
	}
	p.changed = p.changed || len(p.change.Put) > 0
	p.change.Message = summary(p.changes)
	return p, nil
}

// setViolations are what the set has against itself, but for what stood before: a bad stored resource must not keep
// others from being changed.
func setViolations(set []*resource.Resource, c *catalog, k checks) resource.Violations {
	validate := func(set []*resource.Resource) resource.Violations {
		if k.known == nil {
			return resource.ValidateSet(set)
		}
		return resource.ValidateSetKnown(set, k.known)
	}
	bad := validate(set)
	return without(bad, func() resource.Violations { return validate(c.usable()) })
}

func standing(c *catalog, mesh func([]*resource.Resource) resource.Violations) func() resource.Violations {
	return func() resource.Violations { return mesh(c.usable()) }
}

// without drops the violations of stored resources that were there before.
func without(bad resource.Violations, before func() resource.Violations) resource.Violations {
	if !slices.ContainsFunc(bad, func(v admin.Violation) bool { return v.File == "" }) {
		return bad
	}
	old := map[admin.Violation]bool{}
	for _, v := range before() {
		old[v] = true
	}
	return slices.DeleteFunc(bad, func(v admin.Violation) bool { return v.File == "" && old[v] })
}

// commit plans and writes until the head holds still; it returns the revision in force afterwards.
func commit(ctx context.Context, s store.Store, read func(context.Context) (*catalog, error), dryRun bool, expected *uint64,
	planner func(*catalog) (*plan, error),
) (*plan, store.Revision, error) {
	for try := 1; ; try++ {
		c, err := read(ctx)
		if err != nil {
			return nil, store.Revision{}, fmt.Errorf("read the store: %w", err)
		}
		if expected != nil && c.rev.Number != *expected {
			return nil, c.rev, admin.Conflict(fmt.Sprintf("revision %d is in force, not %d: nothing was changed", c.rev.Number, *expected))
		}
		p, err := planner(c)
		if err != nil {
			return nil, c.rev, err
		}
		if dryRun || !p.changed {
			return p, c.rev, nil
		}
		rev, err := s.Commit(ctx, c.rev.Number, p.change)
		switch {
		case err == nil:
			return p, rev, nil
		case errors.Is(err, store.ErrConflict) && try < commitTries:
			continue
		case errors.Is(err, store.ErrConflict):
			return nil, c.rev, admin.Conflict("others change resources all the time: nothing was changed, try again")
		case errors.Is(err, store.ErrFull):
			return nil, c.rev, &admin.Problem{
				Type: "full", Title: "disk full", Status: 507,
				Detail: "the disk of the state directory is full: nothing was changed; make room and try again",
			}
		case errors.Is(err, store.ErrInDoubt):
			return nil, c.rev, fmt.Errorf("write to the store: %w (see 'outrigger history')", err)
		default:
			return nil, c.rev, fmt.Errorf("write to the store, nothing was changed: %w", err)
		}
	}
}

func changeOf(k resource.Key) admin.Change {
	return admin.Change{Tenant: k.Tenant, Kind: string(k.Kind), Name: k.Name, Version: k.Version}
}

func originOf(r *resource.Resource) string {
	file, line := r.File()
	if file == "" {
		return ""
	}
	return file + ":" + strconv.Itoa(line)
}

func summary(changes []admin.Change) string {
	const most = 6
	var parts []string
	more := 0
	for _, verb := range []struct{ action, past string }{
		{admin.ActionCreate, "created"}, {admin.ActionUpdate, "changed"}, {admin.ActionDelete, "removed"},
	} {
		for _, c := range changes {
			if c.Action != verb.action {
				continue
			}
			if len(parts) == most {
				more++
				continue
			}
			k := resource.Key{Tenant: c.Tenant, Kind: resource.Kind(c.Kind), Name: c.Name, Version: c.Version}
			parts = append(parts, verb.past+" "+k.String())
		}
	}
	s := strings.Join(parts, ", ")
	if more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	if s == "" {
		s = "no content changed"
	}
	return s
}

func author() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

func orDefault(tenant string) string {
	if tenant == "" {
		return resource.DefaultTenant
	}
	return tenant
}

func fileOf(d []admin.Document) string {
	if len(d) == 0 {
		return ""
	}
	return d[0].File
}

func unknownKind(s string) *admin.Problem {
	var names []string
	for _, k := range resource.Kinds() {
		names = append(names, string(k))
	}
	return admin.NotFound("kind "+strconv.Quote(s), "one of "+strings.Join(names, ", "))
}

func notFound(c *catalog, kind resource.Kind, key admin.Key) *admin.Problem {
	var have []string
	for _, x := range c.all {
		if x.key.Kind == kind {
			have = append(have, strings.TrimPrefix(x.key.String(), string(kind)+"/"))
		}
	}
	what := string(kind) + "/" + key.Name
	if key.Version != "" {
		what += "@" + key.Version
	}
	hint := "there is none of this kind"
	if len(have) > 0 {
		if len(have) > 10 {
			have = append(have[:10], "…")
		}
		hint = "there is " + strings.Join(have, ", ")
	}
	return admin.NotFound(what, hint)
}
