package resource

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/*.out.yaml anew")

// Each testdata/NAME.in.yaml (or .in.json) is parsed and checked as a set. NAME.out.yaml holds the violations, or the
// canonical form where there are none.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set, list := Parse(filepath.Base(file), data)
			list = append(list, ValidateSet(set)...)
			list.Sort()
			var got []byte
			if len(list) > 0 {
				got = []byte(list.Error() + "\n")
			} else {
				if got, err = Marshal(set...); err != nil {
					t.Fatal(err)
				}
				sameAgain(t, set)
			}
			out := filepath.Join("testdata", name+".out.yaml")
			if *update {
				if err := os.WriteFile(out, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (go test -update writes it anew):\n%s\nwant:\n%s", out, got, want)
			}
		})
	}
}

// sameAgain checks that both written forms are read as the same resources again.
func sameAgain(t testing.TB, set []*Resource) {
	t.Helper()
	y, err := Marshal(set...)
	if err != nil {
		t.Fatal(err)
	}
	again, list := Parse("again.yaml", y)
	if len(list) > 0 || len(again) != len(set) {
		t.Fatalf("canonical YAML is refused: %v\n%s", list, y)
	}
	for i, r := range set {
		j, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Resource
		if err := json.Unmarshal(j, &back); err != nil {
			t.Fatalf("canonical JSON is refused: %v\n%s", err, j)
		}
		if !Equal(r, &back) || !Equal(r, again[i]) {
			t.Errorf("%s is not the same again:\n%v\n%v", r.Key(), Diff(r, &back), Diff(r, again[i]))
		}
		if r.Key() != back.Key() {
			t.Errorf("key %v became %v", r.Key(), back.Key())
		}
	}
}
