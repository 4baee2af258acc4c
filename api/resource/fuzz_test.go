package resource

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: no input makes the decoder panic, and what it takes without violations is the same after both written forms.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.in.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("apiVersion: outrigger.dev/v1\nkind: Gateway\nmetadata: &a {name: *a}\nspec: *a\n"))
	f.Add([]byte("? [a]\n: b\n---\n- - - *x\n"))
	f.Add([]byte("{\"kind\": [}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, list := Parse("fuzz", data)
		_ = list.Error()
		_ = ValidateSet(set).Error()
		if len(list) == 0 && len(set) > 0 {
			sameAgain(t, set)
		}
	})
}

// A key's path that is taken is what the key writes.
func FuzzParseKeyPath(f *testing.F) {
	for _, s := range []string{"default/Service/orders/1.0.0", "default/Gateway/public", "a/b", "default/Service/orders", "default/Gateway/x/y", "/Gateway/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKeyPath(s); err == nil && k.Path() != s {
			t.Fatalf("%q: %q", s, k.Path())
		}
	})
}
