package resource

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Lookup is what CheckHost may know of the host.
type Lookup struct {
	// Host is the host's name, for placement.
	Host string
	// Path is the PATH in which programs are found, where a service's env has none of its own.
	Path string
	// Vars are the values of {{ .StateDir }} and others; those of a single instance may be left out.
	Vars map[string]string
	// Stat is os.Stat, or a test's.
	Stat func(name string) (fs.FileInfo, error)
	// ReadFile is os.ReadFile, or a test's.
	ReadFile func(name string) ([]byte, error)
	// PortFree returns why address ("127.0.0.1:8080") cannot be listened on, nil where it can. It is asked for the
	// fixed ports of services and for gateways, and answers nil for what r itself has open already.
	PortFree func(r *Resource, address string) error
	// User returns why a process cannot be run as a user, nil where it can.
	User func(name string) error
	// Intercept returns why connections cannot be redirected as it says, nil where they can.
	Intercept func(i *Intercept) error
}

// CheckHost returns what stops the resources of a set from running on this host: programs and working directories that
// are not there, ports in use, certificates that cannot be read or do not belong to their keys. Services that placement puts elsewhere are passed over. Only the host which runs them
// calls it; the working directories must be absolute (ResolveDirs).
func CheckHost(set []*Resource, h Lookup) Violations {
	var l Violations
	add := func(r *Resource, path, message, hint string) {
		l = append(l, r.locate(Violation{Path: path, Message: message, Hint: hint}))
	}
	if h.Stat == nil {
		h.Stat = os.Stat
	}
	Of(set, func(r *Resource, s *Service) {
		if !s.PlacedOn(h.Host, true) || s.Run == nil || len(s.Run.Command) == 0 {
			return
		}
		dir, fixed := h.expand(s.Run.Dir)
		dirOK := true
		if fixed && dir != "" {
			if info, err := h.Stat(dir); err != nil {
				dirOK = false
				add(r, "spec.run.dir", fmt.Sprintf("%s: %s", dir, reason(err)), "a directory that is there")
			} else if !info.IsDir() {
				dirOK = false
				add(r, "spec.run.dir", dir+" is no directory", "a directory")
			}
		}
		if program, ok := h.expand(s.Run.Command[0]); ok && program != "" && dirOK {
			if message, hint := h.program(program, dir, s.Run.Env["PATH"]); message != "" {
				add(r, "spec.run.command[0]", message, hint)
			}
		}
		if s.Run.User != "" && h.User != nil {
			if err := h.User(s.Run.User); err != nil {
				add(r, "spec.run.user", err.Error(), "a user that is there, and a control plane that runs as root")
			}
		}
		if !s.Intercept.IsZero() && h.Intercept != nil {
			if err := h.Intercept(s.Intercept); err != nil {
				add(r, "spec.intercept", err.Error(), "a control plane that may, or leave intercept out")
			}
		}
		for i, p := range s.Ports {
			if p.Number == 0 || h.PortFree == nil {
				continue
			}
			if err := h.PortFree(r, fmt.Sprintf("127.0.0.1:%d", p.Number)); err != nil {
				add(r, violation.Index("spec.ports", i)+".number", fmt.Sprintf("port %d cannot be listened on: %s", p.Number, reason(err)), "another number, or none: one is then chosen")
			}
		}
	})
	Of(set, func(r *Resource, g *Gateway) {
		if h.PortFree == nil {
			return
		}
		if err := h.PortFree(r, g.Listen); err != nil {
			add(r, "spec.listen", fmt.Sprintf("%s cannot be listened on: %s", g.Listen, reason(err)), "another port, or end what listens there")
		}
	})
	for _, r := range set {
		checkTLS(r, h.ReadFile, func(path, message, hint string) { add(r, path, message, hint) })
	}
	l.Sort()
	return l
}

// expand replaces variables; false where one is not known before an instance is.
func (h Lookup) expand(s string) (string, bool) {
	out, err := Expand(s, func(name string) (string, bool) { v, ok := h.Vars[name]; return v, ok })
	return out, err == nil
}

// reason is an error's last cause, without the path that the message names already.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

// program finds what a command names: with a / relative to dir, else in PATH. path is the service's own PATH, or "".
func (h Lookup) program(program, dir, path string) (message, hint string) {
	if strings.Contains(program, "/") {
		if !filepath.IsAbs(program) {
			program = filepath.Join(dir, program)
		}
		if why := h.executable(program); why != "" {
			return why, "build it, or name a program that is there"
		}
		return "", ""
	}
	if path == "" {
		path = h.Path
	}
	why := ""
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		w := h.executable(filepath.Join(d, program))
		if w == "" {
			return "", ""
		}
		if !strings.HasSuffix(w, "no such file or directory") && !strings.HasSuffix(w, fs.ErrNotExist.Error()) && why == "" {
			why = w
		}
	}
	if why != "" {
		return why, "make it executable, or name another program"
	}
	hint = "install it, or write its path"
	if h.executable(filepath.Join(dir, program)) == "" {
		hint = "write ./" + program + " for the one in the working directory"
	}
	return fmt.Sprintf("there is no program %s in PATH", program), hint
}

// executable says why a file cannot be run, "" where it can.
func (h Lookup) executable(file string) string {
	info, err := h.Stat(file)
	switch {
	case err != nil:
		return fmt.Sprintf("%s: %s", file, reason(err))
	case info.IsDir():
		return file + " is a directory"
	case info.Mode()&0o111 == 0:
		return file + " is not executable"
	}
	return ""
}
