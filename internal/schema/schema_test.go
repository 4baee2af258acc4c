package schema

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestSuggest(t *testing.T) {
	names := []string{"name", "tenant", "labels", "unhealthyAfter", "health"}
	for s, want := range map[string]string{
		"nmae": "name", "Name": "name", "lables": "labels", "label": "labels", "unhealthyafter": "unhealthyAfter",
		"unhelthyAfter": "unhealthyAfter", "xyz": "", "": "", "helth": "health",
	} {
		if got := Suggest(s, names); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Minute: "1m", 90 * time.Second: "1m30s", time.Hour: "1h", 10 * time.Hour: "10h", 61 * time.Minute: "1h1m",
		10 * time.Minute: "10m", 250 * time.Millisecond: "250ms", time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s",
	} {
		got := FormatDuration(d)
		if back, err := time.ParseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%d: %q, want %q (%v)", d, got, want, err)
		}
	}
}

func TestFormats(t *testing.T) {
	for _, c := range []struct {
		format, text string
		ok           bool
	}{
		{"label", "orders-2", true},
		{"label", "2orders", false},
		{"label", "a-", false},
		{"label", "A", false},
		{"version", "1.0.0", true},
		{"version", "1.0.0-rc.1", true},
		{"version", "1.0", false},
		{"version", "v1.0.0", false},
		{"version", "1.0.0+b", false},
		{"path", "/a/b", true},
		{"path", "a", false},
		{"path", "/a?b", false},
		{"path", "/a b", false},
		{"regex", "a+", true},
		{"regex", "(", false},
		{"grpc", "shop.Orders/Get", true},
		{"grpc", "shop.v1.Orders", true},
		{"grpc", "/shop.Orders/Get", false},
		{"grpc", "a/b/c", false},
		{"method", "GET", true},
		{"method", "PURGE", true},
		{"method", "get", false},
		{"method", "GTE", false},
		{"listen", "127.0.0.1:80", true},
		{"listen", "[::1]:80", true},
		{"listen", ":80", true},
		{"listen", "unix:/run/edge.sock", true},
		{"listen", "unix:edge.sock", false},
		{"listen", "unix:/run/", false},
		{"listen", "unix:/" + strings.Repeat("x", 107), false},
		{"listen", "80", false},
		{"listen", "a.example:80", false},
		{"listen", "127.0.0.1:0", false},
		{"address", "db.example:5432", true},
		{"address", "[::1]:1", true},
		{"address", "db", true},
		{"address", "http://db:1", false},
		{"address", "db:70000", false},
		{"address", "a b:1", false},
		{"authority", "a.example", true},
		{"authority", "a.example:80", true},
		{"authority", "a/b", false},
		{"hostPattern", "*.example", true},
		{"hostPattern", "a.example", true},
		{"hostPattern", "a:80", false},
		{"hostPattern", "*", false},
		{"fieldValue", "1.1 edge (x)", true},
		{"fieldValue", " a", false},
		{"fieldValue", "a\r\nb: c", false},
		{"fieldValue", "ä", false},
	} {
		if m, _ := formats[c.format](c.text); (m == "") != c.ok {
			t.Errorf("%s %q: %q", c.format, c.text, m)
		}
	}
	for name := range Formats() {
		if formats[name] == nil {
			t.Errorf("format %s is told and not known", name)
		}
	}
	if len(Formats()) != len(formats) {
		t.Error("a format is not told")
	}
}

type inner struct {
	A int    `yaml:"a" min:"1" max:"5"`
	B string `yaml:"b"`
}

type outer struct {
	_     struct{}          `later:"soon" misplaced:"elsewhere"`
	Short *inner            `yaml:"short" short:"a"`
	List  []string          `yaml:"list" keep:"true" maxItems:"2"`
	Map   map[string]*inner `yaml:"map" short:"b"`
	Wait  time.Duration     `yaml:"wait" min:"1s" max:"1m"`
	Size  int               `yaml:"size" unit:"bytes"`
	Must  string            `yaml:"must" required:"true" example:"x"`
}

func TestDecodeAndEncode(t *testing.T) {
	for _, c := range []struct{ in, json string }{
		{`{short: 3, list: [], map: {x: {a: 2}, "y.z": t}, wait: 90s, size: 1Ki, must: m}`, ""},
		{`{short: {a: 3, b: c}, wait: 10s, must: "1"}`, `{"short":{"a":3,"b":"c"},"wait":"10s","must":"1"}`},
		{`{short: {a: 3}, must: "no", list: [yes, "true"], size: 2Mi}`, `{"short":3,"list":["yes","true"],"size":2097152,"must":"no"}`},
	} {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(c.in), &n); err != nil {
			t.Fatal(err)
		}
		var d Decoder
		var v outer
		d.Struct("", n.Content[0], &v)
		d.List = append(d.List, Check("", &v)...)
		if c.json == "" {
			// Once where it was read, once where the value was checked.
			for _, x := range d.List {
				if x.Path != "wait" || x.Message != "1m30s is out of range" || x.Hint != "1s to 1m" {
					t.Errorf("%s: %v", c.in, x)
				}
			}
			if len(d.List) != 2 {
				t.Errorf("%s:\n%v", c.in, d.List)
			}
			if v.List == nil || v.Size != 1024 || v.Map["x"].A != 2 || v.Map["y.z"].B != "t" {
				t.Errorf("%s: %+v", c.in, v)
			}
			continue
		}
		if len(d.List) > 0 {
			t.Errorf("%s:\n%v", c.in, d.List)
		}
		if got := string(JSON(Encode(&v))); got != c.json {
			t.Errorf("%s became %s", c.in, got)
		}
	}
}

func TestTypeName(t *testing.T) {
	s := Of(reflect.TypeOf(outer{}))
	want := map[string]string{
		"short": "object or integer", "list": "list of string", "map": "map to object or string",
		"wait": "duration", "size": "bytes", "must": "string",
	}
	for name, w := range want {
		if got := TypeName(s.Field(name)); got != w {
			t.Errorf("%s is %q, want %q", name, got, w)
		}
	}
	if s.Field("soon") != nil || len(s.Later) != 1 || len(s.Misplaced) != 1 {
		t.Errorf("%+v", s)
	}
}
