package xdsname

import "testing"

// What is read from a cluster's name makes the name again.
func FuzzParseCluster(f *testing.F) {
	for _, s := range []string{"default/orders/http", "default/orders/http/1.0.0", "inbound/http", "a/b", "", "///", "inbound/x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := ParseCluster(s)
		switch {
		case !ok:
		case c.Inbound:
			if got := "inbound/" + c.Port; got != s {
				t.Fatalf("%q: %q", s, got)
			}
		default:
			got := Cluster(c.Tenant, c.Service, c.Port, c.Version)
			if got != s && got+"/" != s { // an empty version is none
				t.Fatalf("%q: %q", s, got)
			}
		}
	})
}
