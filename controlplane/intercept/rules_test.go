package intercept

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

// cases are tables that between them have every statement.
func cases() map[string]Rules {
	own := Cgroup{Path: "/sys/fs/cgroup/unified/outrigger-00000000/front-1.0.0-0", Level: 2}
	excluded := func(r Rules) Rules {
		r.Ports = []uint16{5432, 9100}
		r.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("10.1.2.3/20"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("fd00:1::/33"), netip.MustParsePrefix("2001:db8::7/128")}
		r.UIDs = []uint32{0, 1001}
		return r
	}
	return map[string]Rules{
		"cgroup":    {Table: "outrigger-00000000-front-1.0.0-0", By: ByCgroup, Cgroup: own, Outbound: 20005},
		"uid":       excluded(Rules{Table: "outrigger-00000000-front-1.0.0-0", By: ByUID, UID: 1000, Outbound: 20005}),
		"namespace": {Table: "outrigger-00000000-front-1.0.0-0", By: ByNamespace, Cgroup: Cgroup{Path: "/sys/fs/cgroup/unified/outrigger-00000000/sidecars", Level: 2}, Outbound: 20005},
		"both":      excluded(Rules{Table: "outrigger-00000000-front-1.0.0-0", By: ByCgroup, Cgroup: own, Outbound: 20005, Inbound: []Redirect{{8080, 20006}, {9090, 20007}}}),
		"inbound":   {Table: "outrigger-00000000-front-1.0.0-0", By: ByCgroup, Inbound: []Redirect{{8080, 20006}}},
	}
}

func TestText(t *testing.T) {
	for name, r := range cases() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(r.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.String(); got != string(want) {
				t.Errorf("the table is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestSSH holds that port 22 is let be before anything is redirected, whatever is excluded besides.
func TestSSH(t *testing.T) {
	for name, r := range cases() {
		for _, c := range r.chains() {
			spared := false
			for _, rule := range c.rules {
				switch last := rule[len(rule)-1].(type) {
				case verdict:
					spared = spared || rule[0] == port(22) && len(rule) == 2 && last.kind == doReturn
				case redirect:
					if !spared {
						t.Errorf("%s: chain %s redirects before port 22 is let be", name, c.name)
					}
				}
			}
		}
	}
}

func TestName(t *testing.T) {
	a, b := Prefix("/srv/a/.outrigger"), Prefix("/srv/b/.outrigger")
	if a == b || Prefix("/srv/a/.outrigger/") != a {
		t.Errorf("prefixes %q and %q", a, b)
	}
	if got := Name("/srv/a/.outrigger", "t.front-1.0.0+b_1-0"); got != a+"t.front-1.0.0_b_1-0" {
		t.Errorf("the name is %q", got)
	}
}

func TestCheck(t *testing.T) {
	for name, r := range cases() {
		if err := r.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, r := range map[string]Rules{
		"no name":      {Outbound: 1, By: ByUID, UID: 1},
		"nothing":      {Table: "t", By: ByUID, UID: 1},
		"root":         {Table: "t", By: ByUID, Outbound: 1},
		"no cgroup":    {Table: "t", By: ByNamespace, Outbound: 1},
		"want cgroup,": {Table: "t", By: "pod", Outbound: 1, Cgroup: Cgroup{Path: "/x", Level: 1}},
	} {
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", r, err, want)
		}
	}
}

func TestSeesNamespaces(t *testing.T) {
	for release, want := range map[string]bool{"6.11.0-1-amd64": true, "6.18.44": true, "7.0.1": true, "6.10.9": false, "5.15.0-91-generic": false, "odd": false} {
		if got := seesNamespaces(release); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
}
