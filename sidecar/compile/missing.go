package compile

import (
	"fmt"
	"maps"
	"slices"
)

// Missing reports what static resources name and nobody will send, where there is no control plane: they would wait
// for it in vain.
func (c *Compiler) Missing() []ResourceError {
	c.mu.Lock()
	defer c.mu.Unlock()
	const nobody = "and there is no control plane to send it"
	var out []ResourceError
	for _, name := range slices.Sorted(maps.Keys(c.units)) {
		bad := func(format string, args ...any) {
			out = append(out, ResourceError{TypeURL: ListenerType, Name: name, Reason: fmt.Sprintf(format, args...)})
		}
		refs := map[string]bool{}
		for _, v := range c.units[name].chains() {
			v.references(refs)
			if v.def.rds != "" {
				bad("names route configuration %q, %s", v.def.rds, nobody)
			}
			if d := v.routes.latest(); d != nil && d.routes.vhds {
				bad("finds virtual hosts on demand, %s", nobody)
			}
		}
		for _, ref := range slices.Sorted(maps.Keys(refs)) {
			if c.clusters[ref] == nil {
				bad("names cluster %q, which is not among the static clusters, %s", ref, nobody)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.clusters)) {
		if eds := c.clusters[name].def.eds; eds != "" {
			out = append(out, ResourceError{TypeURL: ClusterType, Name: name, Field: "type", Reason: fmt.Sprintf("is EDS: endpoints %q have to be sent, %s", eds, nobody)})
		}
	}
	return out
}
