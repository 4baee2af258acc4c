package resource

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/outrigger-mesh/outrigger/internal/schema"
)

// The names that may stand between {{ and }} in a command, its environment and its directory.
const (
	VarStateDir    = "StateDir"    // the state directory, absolute
	VarInstanceDir = "InstanceDir" // the instance's own directory below it
	VarInstance    = "Instance"    // the instance's id
)

// Vars lists those names.
func Vars() []string { return []string{VarStateDir, VarInstanceDir, VarInstance} }

// Expand replaces each {{ .Name }} in s by what lookup returns; text without {{ stays as it is. An error says which
// name is unknown or what is not closed.
func Expand(s string, lookup func(name string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "{{")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		name, after, ok := strings.Cut(rest, "}}")
		if !ok {
			return "", fmt.Errorf("{{ is not closed by }}")
		}
		n, dot := strings.CutPrefix(strings.TrimSpace(name), ".")
		v, known := "", false
		if dot {
			v, known = lookup(n)
		}
		if !known {
			return "", fmt.Errorf("{{%s}} is unknown", name)
		}
		b.WriteString(v)
		s = after
	}
}

func checkTemplate(path, s string, l *Violations) {
	_, err := Expand(s, func(name string) (string, bool) {
		for _, v := range Vars() {
			if v == name {
				return "", true
			}
		}
		return "", false
	})
	if err != nil {
		l.Add(path, err.Error(), "{{ .StateDir }}, {{ .InstanceDir }} or {{ .Instance }}")
	}
}

// ResolveDirs makes the working directories of services absolute: run.dir is relative to the file that says so, cwd
// stands in where there is no file. It is to be called where the files are, before resources are sent anywhere.
func ResolveDirs(set []*Resource, cwd string) {
	Of(set, func(r *Resource, s *Service) {
		if s.Run == nil || strings.HasPrefix(s.Run.Dir, "{{") || filepath.IsAbs(s.Run.Dir) {
			return
		}
		s.Run.Dir = filepath.Join(baseDir(r, cwd), s.Run.Dir)
	})
}

// baseDir is what the paths of a resource are relative to.
func baseDir(r *Resource, cwd string) string {
	file, _ := r.File()
	if file == "" || file == "-" {
		return cwd
	}
	base := filepath.Dir(file)
	if !filepath.IsAbs(base) {
		base = filepath.Join(cwd, base)
	}
	return base
}

// checkPathTemplate finds what is wrong with a path template: segments that are text, {name}, {name=*}, *, and, as the
// last, {name=**} or **.
func checkPathTemplate(path, s string, l *Violations) {
	const hint = "as /users/{id} or /files/{rest=**}"
	if !strings.HasPrefix(s, "/") {
		return // said by its format
	}
	segs := strings.Split(s[1:], "/")
	names := map[string]bool{}
	for i, seg := range segs {
		inner, braces := strings.CutPrefix(seg, "{")
		if braces {
			inner, braces = strings.CutSuffix(inner, "}")
		}
		name, pattern, has := strings.Cut(inner, "=")
		switch {
		case seg == "*":
		case seg == "**" || braces && has && pattern == "**":
			if i != len(segs)-1 {
				l.Add(path, "** is not the last segment", hint)
			}
		case braces && (name == "" || has && pattern != "*"):
			l.Add(path, fmt.Sprintf("%s is no variable", seg), hint)
		case !braces && strings.ContainsAny(seg, "{}*"):
			l.Add(path, fmt.Sprintf("%s is not a whole segment", seg), hint)
		}
		if !braces {
			continue
		}
		if names[name] {
			l.Add(path, fmt.Sprintf("{%s} is there twice", name), "another name for each")
		}
		if name != "" && strings.ContainsAny(name, "{}*/ ") {
			l.Add(path, fmt.Sprintf("%q is no name of a variable", name), hint)
		}
		names[name] = true
	}
}

func isEnvName(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// PortVar is the environment variable that tells a process the number of its port of that name.
func PortVar(port string) string { return "PORT_" + envWord(port) }

// ServiceVars are the environment variables that tell a process where a service that it uses is: its URL, and its
// "host:port".
func ServiceVars(service string) (url, addr string) {
	w := "OUTRIGGER_" + envWord(service)
	return w + "_URL", w + "_ADDR"
}

func envWord(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

var _ schema.CustomEncoder = After(nil)
