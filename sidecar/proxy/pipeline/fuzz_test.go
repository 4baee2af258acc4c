package pipeline

import (
	"strings"
	"testing"
	"time"
)

// A normalized path is one to normalization, stays under the root, and hides nothing: no dot segment, no backslash, no
// unreserved character behind a percent sign. What follows the path is left alone.
func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "/a/./b/../c?x=/../y", "/a%2e%2e/b", "/%2e%2E/x", "/a\\..\\b", "/a%2fb/..", "/%zz", "/a/..", "/..", "/a//b/.", "/%00", "*", "/a#/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		n, ok := normalizePath(p)
		if !ok {
			return
		}
		again, ok := normalizePath(n)
		if !ok || again != n {
			t.Fatalf("%q gives %q, which gives %q %v", p, n, again, ok)
		}
		merged := mergeSlashes(n)
		if m := mergeSlashes(merged); m != merged {
			t.Fatalf("%q merged gives %q, then %q", n, merged, m)
		}
		end := func(s string) int {
			if i := strings.IndexAny(s, "?#"); i >= 0 {
				return i
			}
			return len(s)
		}
		path := n[:end(n)]
		if p[end(p):] != n[end(n):] {
			t.Fatalf("%q gives %q: another query", p, n)
		}
		if strings.HasPrefix(p, "/") && !strings.HasPrefix(path, "/") || strings.Contains(path, "\\") {
			t.Fatalf("%q gives %q", p, n)
		}
		if !strings.HasPrefix(p, "/") {
			return // only OPTIONS *
		}
		for seg := range strings.SplitSeq(path, "/") {
			if seg == "." || seg == ".." || strings.EqualFold(seg, "%2e") || strings.EqualFold(seg, "%2e%2e") {
				t.Fatalf("%q gives %q, with a dot segment", p, n)
			}
		}
		if strings.Contains(mergeSlashes(path), "//") {
			t.Fatalf("%q merged gives %q", path, mergeSlashes(path))
		}
	})
}

// A rewritten path is a path.
func FuzzRewritePrefix(f *testing.F) {
	f.Add("/a/b?c", "/a", "/x/")
	f.Add("/a", "/a", "")
	f.Add("/a?b", "/a", "/")
	f.Fuzz(func(t *testing.T, path, prefix, to string) {
		if !strings.HasPrefix(path, "/") || !strings.HasPrefix(path, prefix) || to != "" && to[0] != '/' {
			return
		}
		if got := rewritePrefix(path, prefix, to); !strings.HasPrefix(got, "/") || len(got) > len(path)+len(to)+1 {
			t.Fatalf("%q, %q by %q: %q", path, prefix, to, got)
		}
	})
}

// A grpc-timeout that is read and written again is not shorter, and longer by less than a unit of eight digits.
func FuzzGRPCTimeout(f *testing.F) {
	for _, s := range []string{"1n", "99999999H", "00000001S", "15M", "7u", "m", "1", "123456789n", "-1S", "+1S", "1 S"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseGRPCTimeout(s)
		if !ok {
			return
		}
		if d < 0 || len(s) > 9 {
			t.Fatalf("%q: %v", s, d)
		}
		out := string(appendGRPCTimeout(nil, int64(d)))
		again, ok := parseGRPCTimeout(out)
		if !ok || again < d || again-d > d/10_000_000+time.Nanosecond {
			t.Fatalf("%q: %v, then %q: %v", s, d, out, again)
		}
	})
}

// What is found in a query or a cookie is there, whole, under its name.
func FuzzLookups(f *testing.F) {
	f.Add("a=1&b=2&&c&a=3", "a")
	f.Add("=x&%61=1", "")
	f.Fuzz(func(t *testing.T, q, name string) {
		if name == "" || strings.ContainsAny(name, "&=") {
			return
		}
		v, ok := queryValue(q, name)
		if ok != (strings.Contains("&"+q+"&", "&"+name+"&") && q != "" || strings.Contains("&"+q, "&"+name+"=")) {
			t.Fatalf("%q in %q: %v", name, q, ok)
		}
		if ok && !strings.Contains("&"+q+"&", "&"+name+"="+v+"&") && v != "" {
			t.Fatalf("%q in %q: %q", name, q, v)
		}
	})
}
