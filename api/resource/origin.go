package resource

import (
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/outrigger-mesh/outrigger/internal/schema"
)

// origin remembers where a resource and its fields were written, for violations that are found later.
type origin struct {
	file string
	// line is where the resource begins.
	line int
	// places maps paths of fields to where they are.
	places map[string]schema.Place
}

// at returns the place of path, or of the nearest thing around it.
func (o *origin) at(path string) schema.Place {
	for {
		if p, ok := o.places[path]; ok {
			return p
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return schema.Place{Line: o.line, Column: 1}
		}
		path = path[:i]
	}
}

// locate fills in file, line and column, and the resource's name.
func (r *Resource) locate(v Violation) Violation {
	v.Resource = r.Key().String()
	if r.origin != nil {
		p := r.origin.at(v.Path)
		v.File, v.Line, v.Column = r.origin.file, p.Line, p.Column
	}
	return v
}

// lessVersion orders versions as semver does; what is not a version comes first, by bytes.
func lessVersion(a, b string) bool {
	va, ea := semver.StrictNewVersion(a)
	vb, eb := semver.StrictNewVersion(b)
	switch {
	case ea != nil && eb != nil:
		return a < b
	case ea != nil || eb != nil:
		return ea != nil
	case va.Equal(vb):
		return a < b
	}
	return va.LessThan(vb)
}
