package resolve

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/discovery"
)

var update = flag.Bool("update", false, "write the golden files")

// discovered is the form of testdata/*.discovery.yaml.
type discovered struct {
	Host      string   `yaml:"host"`
	Edge      string   `yaml:"edge"`
	Draining  []string `yaml:"draining"`
	Endpoints []struct {
		ID, Service, Version, Address, Name, Protocol, Host, Zone, Health string
		Port                                                              uint16
		Ours                                                              bool
	} `yaml:"endpoints"`
}

func load(t *testing.T, name string) Input {
	t.Helper()
	b, err := os.ReadFile(name + ".in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rs, errs := resource.Parse(filepath.Base(name)+".in.yaml", b)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var d discovered
	if b, err = os.ReadFile(name + ".discovery.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	in := Input{Revision: 7, Host: d.Host, Edge: d.Edge, Resources: rs, Draining: map[string]bool{}}
	for _, id := range d.Draining {
		in.Draining[id] = true
	}
	for _, e := range d.Endpoints {
		health := discovery.Healthy
		if e.Health == "unhealthy" {
			health = discovery.Unhealthy
		}
		in.Discovered = append(in.Discovered, discovery.Endpoint{
			ID: e.ID, Tenant: "default", Service: e.Service, Version: e.Version, Address: e.Address, Port: e.Port, PortName: e.Name,
			Protocol: discovery.Protocol(e.Protocol), Health: health, Weight: 1, Host: e.Host, Zone: e.Zone, Ours: e.Ours,
		})
	}
	return in
}

// dump is the model as JSON without what is empty: services in order.
func dump(t *testing.T, m *model.Model, errs resource.Violations) []byte {
	t.Helper()
	var services []*model.Service
	for _, s := range m.Services {
		services = append(services, s)
	}
	slices.SortFunc(services, func(a, b *model.Service) int { return a.Compare(b.ServiceKey) })
	b, err := json.Marshal(map[string]any{"services": services, "gateways": m.Gateways, "violations": errs})
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(trim(v)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// trim drops empty fields, and Spec, which is the resource itself.
func trim(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if x = trim(x); x == nil || k == "Spec" {
				delete(v, k)
			} else {
				v[k] = x
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		if len(v) == 0 {
			return nil
		}
		for i := range v {
			v[i] = trim(v[i])
		}
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(f, ".in.yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			in := load(t, name)
			m, errs := Resolve(in)
			got := dump(t, m, errs)
			if *update {
				if err := os.WriteFile(name+".out.json", got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name + ".out.json")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the model differs from %s.out.json (-update writes it):\n%s", name, got)
			}
			// The order of what comes in does not matter.
			slices.Reverse(in.Resources)
			slices.Reverse(in.Discovered)
			m, errs = Resolve(in)
			if again := dump(t, m, errs); !bytes.Equal(again, got) {
				t.Errorf("another order of the input gives another model:\n%s", again)
			}
		})
	}
}

func TestCompareVersions(t *testing.T) {
	want := []string{"", "blue", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, CompareVersions)
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
