package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"reflect"
	"strings"
)

const module = "github.com/outrigger-mesh/outrigger/"

// comments are the doc comments of types ("import/path.Type") and of fields ("import/path.Type.Field").
type comments map[string]string

// readComments reads those of the packages in dirs, which are relative to the root of the repository.
func readComments(dirs ...string) (comments, error) {
	c := comments{}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("no Go files in %s: run at the root of the repository", dir)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, fmt.Errorf("reading comments: %w", err)
			}
			for _, d := range f.Decls {
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
					c.types(path.Join(module, dir), g)
				}
			}
		}
	}
	return c, nil
}

func (c comments) types(pkg string, g *ast.GenDecl) {
	for _, s := range g.Specs {
		t, ok := s.(*ast.TypeSpec)
		if !ok {
			continue
		}
		doc := t.Doc
		if doc == nil {
			doc = g.Doc
		}
		name := pkg + "." + t.Name.Name
		c[name] = text(doc)
		st, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range st.Fields.List {
			for _, n := range f.Names {
				c[name+"."+n.Name] = text(f.Doc)
			}
		}
	}
}

func text(g *ast.CommentGroup) string {
	if g == nil {
		return ""
	}
	return strings.Join(strings.Fields(g.Text()), " ")
}

func (c comments) of(t reflect.Type) string {
	return c[t.PkgPath()+"."+t.Name()]
}

func (c comments) field(owner reflect.Type, name string) string {
	return c[owner.PkgPath()+"."+owner.Name()+"."+name]
}
