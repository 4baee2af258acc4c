// Package violation says what is wrong with something that a user wrote: where it is, what is wrong, and what would
// be right. [List] gathers all violations of an input. What may be written is told by internal/schema and by the
// packages that own the types; this one knows none of them.
package violation

import (
	"fmt"
	"sort"
	"strings"
)

// Violation is one thing that is wrong.
type Violation struct {
	// File is the file as the user named it, or "" where the input was not a file.
	File string `json:"file,omitempty"`
	// Line and Column count from 1; 0 where the place is not known.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Resource is "Kind/name", or "" where it is not known.
	Resource string `json:"resource,omitempty"`
	// Path is the field, as "spec.methods[2].retry.attempts"; "" where the whole is meant.
	Path string `json:"path,omitempty"`
	// Message says what is wrong, for people, without a full stop.
	Message string `json:"message"`
	// Hint says what would be right, or "".
	Hint string `json:"hint,omitempty"`
}

// String is the violation on one line: "file:line: path: message (hint)"; without a file "Kind/name: path: …".
func (v Violation) String() string {
	var b strings.Builder
	switch {
	case v.File != "" && v.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", v.File, v.Line)
	case v.File != "":
		b.WriteString(v.File + ": ")
	case v.Resource != "":
		b.WriteString(v.Resource + ": ")
	case v.Line > 0:
		fmt.Fprintf(&b, "line %d: ", v.Line)
	}
	if v.Path != "" {
		b.WriteString(v.Path + ": ")
	}
	b.WriteString(v.Message)
	if v.Hint != "" {
		b.WriteString(" (" + v.Hint + ")")
	}
	return b.String()
}

// List is all that is wrong with an input. The nil List is valid and means nothing is.
type List []Violation

// Error prints one violation a line.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, v := range l {
		lines[i] = v.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns the list as an error, nil where it is empty.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

// Add appends a violation of the field at path.
func (l *List) Add(path, message, hint string) {
	*l = append(*l, Violation{Path: path, Message: message, Hint: hint})
}

// Sort orders the list by file, line, column, resource and path, and drops exact repetitions.
func (l *List) Sort() {
	s := *l
	sort.SliceStable(s, func(i, j int) bool {
		a, b := s[i], s[j]
		switch {
		case a.File != b.File:
			return a.File < b.File
		case a.Line != b.Line:
			return a.Line < b.Line
		case a.Column != b.Column:
			return a.Column < b.Column
		case a.Resource != b.Resource:
			return a.Resource < b.Resource
		}
		return a.Path < b.Path
	})
	out := s[:0]
	for i, v := range s {
		if i == 0 || v != s[i-1] {
			out = append(out, v)
		}
	}
	*l = out
}

// Field is the path of a field of what is at path.
func Field(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Index is the path of an element of the list at path.
func Index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// Entry is the path of an entry of the map at path.
func Entry(path, key string) string {
	if strings.ContainsAny(key, ".[]\" ") {
		return fmt.Sprintf("%s[%q]", path, key)
	}
	return Field(path, key)
}
