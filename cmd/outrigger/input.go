package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/outrigger-mesh/outrigger/controlplane/admin"
)

// maxInputBytes bounds what is read from all files together.
const maxInputBytes = 24 << 20

// readDocuments reads what -f names: files, directories (their .yaml, .yml and .json files, sorted, not those of
// directories below), and "-" for standard input, once.
func readDocuments(args []string, in io.Reader) ([]admin.Document, error) {
	var docs []admin.Document
	var total int
	stdin := false
	add := func(name string, b []byte, err error) error {
		if err != nil {
			return plainPathError(err)
		}
		if total += len(b); total > maxInputBytes {
			return fmt.Errorf("%s: more than %d MB of resources in all", name, maxInputBytes>>20)
		}
		docs = append(docs, admin.Document{File: name, Text: string(b)})
		return nil
	}
	for _, arg := range args {
		if arg == "-" {
			if stdin {
				return nil, &usageError{"-f - is given twice: standard input can be read once"}
			}
			stdin = true
			b, err := io.ReadAll(io.LimitReader(in, maxInputBytes+1))
			if err := add("-", b, err); err != nil {
				return nil, err
			}
			continue
		}
		info, err := os.Stat(arg)
		if err != nil {
			return nil, plainPathError(err)
		}
		if !info.IsDir() {
			b, err := os.ReadFile(arg)
			if err := add(arg, b, err); err != nil {
				return nil, err
			}
			continue
		}
		entries, err := os.ReadDir(arg)
		if err != nil {
			return nil, plainPathError(err)
		}
		found := false
		for _, e := range entries {
			if e.IsDir() || strings.HasPrefix(e.Name(), ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
				continue
			}
			found = true
			name := filepath.Join(arg, e.Name())
			b, err := os.ReadFile(name)
			if err := add(name, b, err); err != nil {
				return nil, err
			}
		}
		if !found {
			return nil, fmt.Errorf("%s: no .yaml, .yml or .json file in this directory", arg)
		}
	}
	return docs, nil
}

// plainPathError drops the system call's name, which says nothing to a user.
func plainPathError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: no such file or directory", pe.Path)
		}
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

// sourceOf names where documents come from, for --prune: the absolute paths, so that the same command is the same
// source wherever it is given.
func sourceOf(verb string, files []string) string {
	var names []string
	for _, f := range files {
		if f != "-" {
			if abs, err := filepath.Abs(f); err == nil {
				f = abs
			}
		}
		names = append(names, f)
	}
	s := verb + " " + strings.Join(names, " ")
	if len(s) > 256 {
		s = s[:240] + fmt.Sprintf("…%08x", checksum(s))
	}
	return s
}

func checksum(s string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
