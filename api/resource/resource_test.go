package resource

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const service = `apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: %s}
spec: {version: %s, ports: [{name: http, protocol: http}], run: {command: [%q]}}
`

func parse(t testing.TB, text string) []*Resource {
	t.Helper()
	set, list := Parse("test.yaml", []byte(text))
	if len(list) > 0 {
		t.Fatalf("refused:\n%v", list)
	}
	return set
}

func wantLine(t *testing.T, list Violations, parts ...string) {
	t.Helper()
	for _, v := range list {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(v.String(), p)
		}
		if all {
			return
		}
	}
	t.Errorf("no violation holds %q:\n%v", parts, list)
}

func TestKeys(t *testing.T) {
	for _, k := range []Key{
		{"default", KindService, "orders", "1.0.0"}, {"acme", KindRoute, "a-b", ""}, {"default", KindService, "a", "1.0.0-beta.1"},
	} {
		back, err := ParseKeyPath(k.Path())
		if err != nil || back != k {
			t.Errorf("%v became %v, %v", k, back, err)
		}
	}
	for _, s := range []string{"", "a/b", "default/Service/a", "default/Route/a/1.0.0", "default/Nothing/a"} {
		if k, err := ParseKeyPath(s); err == nil {
			t.Errorf("%q is read as %v", s, k)
		}
	}
	if got := (Key{"acme", KindService, "orders", "1.0.0"}).String(); got != "Service/acme.orders@1.0.0" {
		t.Error(got)
	}
	if !(Key{"default", KindService, "a", "2.0.0"}).Less(Key{"default", KindService, "a", "10.0.0"}) {
		t.Error("versions are ordered by bytes")
	}
	for _, s := range []string{"service", "Services", "trafficpolicies", "TrafficPolicy", "gateway"} {
		if _, ok := ParseKind(s); !ok {
			t.Errorf("%q is no kind", s)
		}
	}
}

func TestAddressWithoutFile(t *testing.T) {
	var r Resource
	err := json.Unmarshal([]byte(`{"apiVersion":"outrigger.dev/v1","kind":"Route","metadata":{"name":"a"},"spec":{"service":"b","rules":[{"to":[{"version":"x"}]}]}}`), &r)
	if err == nil || !strings.Contains(err.Error(), "Route/a: spec.rules[0].to[0].version: ") {
		t.Fatalf("got %v", err)
	}
}

func TestExpandingAliasesIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  service: a\n  methods:\n  - &m\n    match: {method: GET}\n    headers: {request: {remove: [")
	for i := range 900 {
		fmt.Fprintf(&b, "h%d,", i)
	}
	b.WriteString("]}}\n")
	b.WriteString(strings.Repeat("  - *m\n", 5000))
	_, list := Parse("bomb.yaml", []byte(b.String()))
	wantLine(t, list, "is too large or nested too deeply")

	_, list = Parse("big.yaml", make([]byte, MaxFileBytes+1))
	wantLine(t, list, "at most 4194304")
	_, list = Parse("binary.yaml", []byte("a: \xff"))
	wantLine(t, list, "UTF-8")
}

func TestDiff(t *testing.T) {
	a := parse(t, fmt.Sprintf(service, "a", "1.0.0", "x"))[0]
	b := parse(t, fmt.Sprintf(service, "a", "1.0.0", "y")+"# a comment\n")[0]
	b.Spec.(*Service).Uses = []string{"c"}
	var got []string
	for _, c := range Diff(a, b) {
		got = append(got, c.String())
	}
	want := []string{`~ spec.run.command[0]: "x" → "y"`, `+ spec.uses: ["c"]`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
	if len(Diff(a, a)) != 0 || len(Diff(nil, a)) != 1 || len(Diff(a, nil)) != 1 || Diff(nil, nil) != nil {
		t.Error("no change, addition or removal is told wrongly")
	}
}

func TestKnownServices(t *testing.T) {
	set := parse(t, fmt.Sprintf(service, "a", "1.0.0", "x")+"---\nkind: TrafficPolicy\nmetadata: {name: p}\nspec: {service: elsewhere, timeout: 1s}\n")
	wantLine(t, ValidateSet(set), "test.yaml:8: spec.service: there is no service elsewhere")
	if l := ValidateSetKnown(set, func(tenant, s string) bool { return tenant == DefaultTenant && s == "elsewhere" }); len(l) > 0 {
		t.Error(l)
	}
}

func TestPortsOfDifferentHosts(t *testing.T) {
	text := func(a, b string) string {
		s := "apiVersion: outrigger.dev/v1\n"
		for name, hosts := range map[string]string{"a": a, "b": b} {
			s += fmt.Sprintf("kind: Service\nmetadata: {name: %s}\nspec: {version: 1.0.0, ports: [{name: http, protocol: http, number: 80}], run: {command: [x]}%s}\n---\n", name, hosts)
		}
		return s
	}
	for _, c := range []struct {
		a, b    string
		collide bool
	}{
		{"", "", true},
		{", placement: {hosts: [one]}", ", placement: {hosts: [two]}", false},
		{", placement: {hosts: [one, two]}", ", placement: {hosts: [t*]}", true},
		{", placement: {hosts: ['*']}", "", true},
		{", placement: {hosts: [one]}", "", false},
		{", pool: {size: 0}", "", false},
	} {
		if l := ValidateSet(parse(t, text(c.a, c.b))); (len(l) > 0) != c.collide {
			t.Errorf("%q and %q: %v", c.a, c.b, l)
		}
	}
}

func TestCheckHost(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("run", 0o755)
	write("plain", 0o644)
	look := Lookup{Host: "one", Path: dir, Vars: map[string]string{VarStateDir: dir}}
	check := func(command, extra string) Violations {
		set, list := Parse(filepath.Join(dir, "f.yaml"), []byte(fmt.Sprintf(
			"apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {version: 1.0.0, ports: [{name: http, protocol: http, number: 81}], run: {command: [%q]%s}}\n", command, extra)))
		if len(list) > 0 {
			t.Fatal(list)
		}
		ResolveDirs(set, "/nowhere")
		return CheckHost(set, look)
	}
	for _, command := range []string{"run", "./run", filepath.Join(dir, "run"), "{{ .StateDir }}/run", "{{ .Instance }}/unknown-yet"} {
		if l := check(command, ""); len(l) > 0 {
			t.Errorf("%s: %v", command, l)
		}
	}
	for command, want := range map[string]string{
		"absent": "there is no program absent in PATH", "./absent": "no such file", "./plain": "is not executable",
		"plain": "is not executable", dir: "is a directory",
	} {
		wantLine(t, check(command, ""), want, "f.yaml:4: spec.run.command[0]")
	}
	wantLine(t, check("./run", ", dir: absent"), "spec.run.dir", "no such file")
	wantLine(t, check("run", ", env: {PATH: /nowhere}"), "write ./run for the one in the working directory")

	look.PortFree = func(_ *Resource, address string) error { return fmt.Errorf("%s is in use", address) }
	wantLine(t, check("run", ""), "spec.ports[0].number", "127.0.0.1:81 is in use")
}

func TestManyServicesInAChain(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: outrigger.dev/v1\n")
	for i := range 3000 {
		fmt.Fprintf(&b, "kind: Service\nmetadata: {name: s%d}\nspec: {version: 1.0.0, ports: [{name: http, protocol: http}], run: {command: [x], start: {after: [s%d]}}}\n---\n", i, (i+1)%3000)
	}
	l := ValidateSet(parse(t, b.String()))
	if len(l) != 1 || !strings.Contains(l[0].Message, "s0 → s1 → ") {
		t.Errorf("%d violations", len(l))
	}
}

func TestCycleOfTwoVersions(t *testing.T) {
	// A service waits for all versions of another; both versions of a may wait for b.
	text := fmt.Sprintf(service, "b", "1.0.0", "x")
	for _, v := range []string{"1.0.0", "2.0.0"} {
		text += strings.Replace("---\n"+fmt.Sprintf(service, "a", v, "x"), `["x"]`, `["x"], start: {after: [b]}`, 1)
	}
	if l := ValidateSet(parse(t, text)); len(l) > 0 {
		t.Error(l)
	}
}

// A service that uses none is told of none; one that does not say may call any.
func TestUsesOfNothingIsNotUsesLeftOut(t *testing.T) {
	for _, c := range []struct {
		extra    string
		declared bool
	}{{"", false}, {", uses: []", true}} {
		set := parse(t, strings.Replace(fmt.Sprintf(service, "a", "1.0.0", "x"), "]}}", "]}"+c.extra+"}", 1))
		sameAgain(t, set)
		if got := set[0].Spec.(*Service).Uses != nil; got != c.declared {
			t.Errorf("%q: declared is %v", c.extra, got)
		}
	}
}
