// Package archtest says who may import whom, and checks it.
//
// [Table] is the design's import table as data: for each part of the tree what it may import of ours, which
// foreign modules, and which packages of the standard library it must do without, each with the reason. The
// test of this package reads every Go file of the module with go/parser (no build, whatever its build tags)
// and reports each import that the table forbids, each init function, and each package whose name says
// nothing. Only direct imports are looked at: what a package may reach through another is that other's row.
//
// Rules on formatting or on how code is written belong to golangci-lint's configuration, not here.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the path of the module whose files are checked.
const Module = "github.com/outrigger-mesh/outrigger"

// Row is what one part of the tree may import. A package obeys the most specific row whose Package matches.
//
// Patterns name packages relative to the module: "sidecar/filter" is that package, "sidecar/filter/..." also
// everything below it.
type Row struct {
	// Package is the pattern that the row is about.
	Package string
	// Ours lists the packages of this module that may be imported; the row's own packages need not be listed.
	// nil allows all but what Ban names; an empty list allows none.
	Ours []string
	// Modules lists the import path prefixes of other modules that may be imported. nil allows all.
	Modules []string
	// Std lists patterns of the standard library that must not be imported. "encoding/..." includes encoding.
	Std []string
	// Reason is told with each violation.
	Reason string
}

// Ban forbids an import wherever From matches, whatever the rows say.
type Ban struct {
	// From are the patterns of packages that the ban is about; "..." is the whole module.
	From []string
	// Except are patterns of packages that the ban is not about.
	Except []string
	// Import are the import path prefixes that are forbidden; ours are given relative to the module with a
	// leading "./".
	Import []string
	// Tests: the ban holds for _test.go files too.
	Tests bool
	// Reason is told with each violation.
	Reason string
}

// Rules are all that Check checks.
type Rules struct {
	Rows []Row
	Bans []Ban
	// Names are package names that nobody may use.
	Names []string
	// Generated are the packages that hold generated code, which may have init functions.
	Generated []string
}

// File is one parsed source file.
type File struct {
	// Path is relative to the module's root, with slashes.
	Path string
	// AST needs its imports and declarations only.
	AST *ast.File
	// Fset belongs to AST.
	Fset *token.FileSet
}

// Violation is one rule broken in one place.
type Violation struct {
	// Pos is file:line.
	Pos string
	// What was found, and Reason why it may not be.
	What, Reason string
}

func (v Violation) String() string { return v.Pos + ": " + v.What + ": " + v.Reason }

// Load parses all Go files below root. Directories that the go command skips (testdata, names that begin with
// a dot or an underscore) and nested modules are left out.
func Load(root string) ([]File, error) {
	var files []File
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		base := path.Base(rel)
		if d.IsDir() {
			if rel == "." {
				return nil
			}
			if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
				return fs.SkipDir
			}
			if m, _ := filepath.Glob(filepath.Join(name, "go.mod")); len(m) > 0 {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parse %s: %w", rel, err)
		}
		files = append(files, File{Path: rel, AST: f, Fset: fset})
		return nil
	})
	return files, err
}

// Check returns every violation in files, in their order.
func (r Rules) Check(files []File) []Violation {
	var out []Violation
	for _, f := range files {
		out = append(out, r.checkFile(f)...)
	}
	return out
}

func (r Rules) checkFile(f File) []Violation {
	var out []Violation
	pkg := path.Dir(f.Path)
	test := strings.HasSuffix(f.Path, "_test.go")
	at := func(p token.Pos) string { return f.Path + ":" + strconv.Itoa(f.Fset.Position(p).Line) }

	name := strings.TrimSuffix(f.AST.Name.Name, "_test")
	for _, n := range []string{name, path.Base(pkg)} {
		if slices.Contains(r.Names, n) {
			out = append(out, Violation{
				at(f.AST.Name.Pos()), "package named " + n,
				"a package is named for what it holds; such a name takes everything and says nothing",
			})
			break
		}
	}
	if !matchAny(r.Generated, pkg) {
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				out = append(out, Violation{
					at(fn.Pos()), "func init",
					"registries are values, built in cmd/: importing a package must do nothing",
				})
			}
		}
	}
	for _, imp := range f.AST.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			continue
		}
		if reason := r.forbidden(pkg, p, test); reason != "" {
			out = append(out, Violation{at(imp.Pos()), pkg + " imports " + p, reason})
		}
	}
	return out
}

// forbidden returns why pkg may not import imp, or "".
func (r Rules) forbidden(pkg, imp string, test bool) string {
	ours, isOurs := strings.CutPrefix(imp, Module)
	ours = strings.TrimPrefix(ours, "/")
	isOurs = isOurs && (imp == Module || strings.HasPrefix(imp, Module+"/"))

	for _, b := range r.Bans {
		if test && !b.Tests || !matchAny(b.From, pkg) || matchAny(b.Except, pkg) {
			continue
		}
		for _, i := range b.Import {
			if rel, ok := strings.CutPrefix(i, "./"); ok {
				if isOurs && match(rel, ours) {
					return b.Reason
				}
			} else if imp == i || strings.HasPrefix(imp, i+"/") {
				return b.Reason
			}
		}
	}
	row := r.row(pkg)
	if row == nil || test {
		return ""
	}
	switch {
	case isOurs:
		if row.Ours != nil && !match(row.Package, ours) && !matchAny(row.Ours, ours) {
			return row.Reason + " (it may import, of ours: " + list(row.Ours) + ")"
		}
	case isStd(imp):
		if matchAny(row.Std, imp) {
			return row.Reason + " (standard library it does without: " + list(row.Std) + ")"
		}
	default:
		if row.Modules != nil && !slices.ContainsFunc(row.Modules, func(m string) bool {
			return imp == m || strings.HasPrefix(imp, m+"/")
		}) {
			return row.Reason + " (other modules it may import: " + list(row.Modules) + ")"
		}
	}
	return ""
}

// row returns the most specific row for pkg: an exact one, else the one with the longest pattern.
func (r Rules) row(pkg string) *Row {
	var best *Row
	for i := range r.Rows {
		w := &r.Rows[i]
		if !match(w.Package, pkg) {
			continue
		}
		if w.Package == pkg {
			return w
		}
		if best == nil || len(w.Package) > len(best.Package) {
			best = w
		}
	}
	return best
}

func match(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == base || strings.HasPrefix(pkg, base+"/")
	}
	return pattern == pkg
}

func matchAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, pkg) })
}

func isStd(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}
