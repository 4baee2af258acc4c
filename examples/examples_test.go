// Package examples checks that every example, and every resource that the documentation shows, is accepted.
package examples

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/outrigger-mesh/outrigger/api/resource"
)

// block finds the YAML of a page, with what it is indented by.
var block = regexp.MustCompile("(?sm)^( *)```yaml\n(.*?)```")

// TestExamples parses each directory of examples as `up -f` does, all references resolved.
func TestExamples(t *testing.T) {
	for _, dir := range []string{"shop", "polyglot"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no resources: %v", dir, err)
		}
		var set []*resource.Resource
		var list resource.Violations
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			rs, l := resource.Parse(f, text)
			set, list = append(set, rs...), append(list, l...)
		}
		list = append(list, resource.ValidateSet(set)...)
		if len(list) > 0 {
			t.Error(list.Error())
		}
	}
}

// TestPages parses what the pages show: each block by itself, for what it refers to stands elsewhere.
func TestPages(t *testing.T) {
	pages := []string{"../README.md", "../CONTRIBUTING.md"}
	err := filepath.WalkDir("../docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllSubmatch(text, -1) {
			blocks++
			text := bytes.ReplaceAll(append([]byte{'\n'}, m[2]...), append([]byte{'\n'}, m[1]...), []byte{'\n'})
			if _, l := resource.Parse(page, text); len(l) > 0 {
				t.Errorf("%v\nin\n%s", l.Error(), text)
			}
		}
	}
	if blocks < 5 {
		t.Errorf("only %d blocks of YAML found", blocks)
	}
}
