package snapshot

import (
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A template takes what the regular expression takes that it stands for, and a variable's value is in the path.
func FuzzTemplate(f *testing.F) {
	for _, s := range [][2]string{{"/", "/"}, {"/users/{id}", "/users/7"}, {"/a/*/c", "/a/b/c"}, {"/x/{rest=**}", "/x/y/z"}, {"/**", "/"}, {"/a/{b=*}/", "/a/b/"}, {"/{a}/{a}", "/b/c"}, {"/a//b", "/a//b"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, template, path string) {
		tpl, err := ParseTemplate(template)
		if err != nil {
			return
		}
		var b strings.Builder
		var names []string
		for seg := range strings.SplitSeq(template[1:], "/") {
			b.WriteString("/")
			switch {
			case seg == "**" || strings.HasPrefix(seg, "{") && strings.HasSuffix(seg, "=**}"):
				b.WriteString("(?s:.*)")
			case seg == "*":
				b.WriteString("[^/]+")
			case strings.HasPrefix(seg, "{"):
				name, _, _ := strings.Cut(strings.Trim(seg, "{}"), "=")
				names = append(names, name)
				b.WriteString("[^/]+")
			default:
				b.WriteString(regexp.QuoteMeta(seg))
			}
		}
		re, err := regexp.Compile("^" + b.String() + "$")
		if err != nil {
			return // not UTF-8
		}
		if got, want := tpl.Match(path), re.MatchString(path); got != want {
			t.Fatalf("%q takes %q: %v, %s says %v", template, path, got, re, want)
		}
		for _, n := range names {
			v, ok := tpl.Value(path, n)
			if ok != tpl.Match(path) || ok && !slices.Contains(strings.Split(path, "/"), v) {
				t.Fatalf("%q of %q in %q: %q %v", n, template, path, v, ok)
			}
		}
	})
}

// The index of virtual hosts finds what looking at every domain finds: exact, the longest suffix, the longest prefix, all.
func FuzzHost(f *testing.F) {
	f.Add("a.example.com *.example.com a.* * *.com", "A.example.com:80", true)
	f.Add("orders orders.localhost *:8080", "orders:8080", false)
	f.Fuzz(func(t *testing.T, domains, authority string, ignorePort bool) {
		var hosts []*VirtualHost
		for _, d := range strings.Fields(domains) {
			if strings.Count(d, "*") > 1 || strings.Contains(strings.Trim(d, "*"), "*") {
				continue // compile refuses it
			}
			hosts = append(hosts, &VirtualHost{Name: d, Domains: []string{d}})
		}
		for i := range len(authority) {
			if authority[i] >= 0x80 {
				return // refused before
			}
		}
		got := NewRouteTable("", "", ignorePort, hosts).Host(authority)
		a := authority
		if ignorePort {
			a = StripPort(a)
			if h, p, err := net.SplitHostPort(authority); err == nil && len(p) <= 5 && strings.Trim(p, "0123456789") == "" && h != "" && a != h && a != "["+h+"]" {
				t.Fatalf("%q without its port is %q", authority, a)
			}
		}
		a = strings.ToLower(a)
		best, rank := (*VirtualHost)(nil), -1
		for _, vh := range hosts {
			d, r := strings.ToLower(vh.Name), -1
			switch {
			case d == "*":
				r = 0
			case d[0] == '*' && len(a) > len(d)-1 && strings.HasSuffix(a, d[1:]):
				r = 1<<20 + len(d)
			case d[len(d)-1] == '*' && d[0] != '*' && len(a) > len(d)-1 && strings.HasPrefix(a, d[:len(d)-1]):
				r = 1<<10 + len(d)
			case d == a:
				r = 1 << 30
			}
			if r > rank {
				best, rank = vh, r
			}
		}
		if len(domains) < 1<<9 && got != best {
			t.Fatalf("%q of %q: %v, want %v", authority, domains, got, best)
		}
	})
}
