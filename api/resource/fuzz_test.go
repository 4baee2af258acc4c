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
