package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Spec is how to start a process.
type Spec struct {
	// Command is the program and its arguments. A program without a slash is looked up in the PATH of Env; one with a slash that
	// is not absolute is taken from Dir.
	Command []string
	Env     []string   // the whole environment
	Dir     string     // working directory
	Output  *os.File   // its standard output and error; nil: /dev/null. In blocking mode, since the mode is shared
	Extra   []*os.File // its descriptors from 3 on
	Cgroup  *Cgroup    // nil: the caller's
	// InCgroup: it is not started where it cannot be in Cgroup.
	InCgroup bool
	User     *User // nil: the caller's
}

// Fault tells apart why a process could not be started.
type Fault string

// Faults.
const (
	NotFound      Fault = "not-found"
	NotExecutable Fault = "not-executable"
	Interpreter   Fault = "bad-interpreter"
	OtherFault    Fault = "start"
)

// StartError says why a process could not be started, in a plain sentence.
type StartError struct {
	Fault Fault
	Text  string
	Err   error
}

// Error implements error.
func (e *StartError) Error() string { return e.Text }

// Unwrap returns the system's error.
func (e *StartError) Unwrap() error { return e.Err }

// Start starts a process in a session and group of its own, with /dev/null as its input. The error is a [*StartError].
func (r *Reaper) Start(s Spec) (*Process, error) {
	path, err := find(s)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, &StartError{Fault: OtherFault, Text: "cannot be started: " + err.Error(), Err: err}
	}
	defer null.Close()
	out := s.Output
	if out == nil {
		out = null
	}
	files := []uintptr{null.Fd(), out.Fd(), out.Fd()}
	for _, f := range s.Extra {
		files = append(files, f.Fd())
	}
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if s.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(s.Cgroup.dir.Fd())
	}
	if u := s.User; u != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	p := &Process{r: r, done: make(chan struct{}), started: time.Now(), cgroup: s.Cgroup, oom: oomKills()}
	if s.Cgroup != nil && s.Cgroup.shared {
		p.cgroup = nil // others are in it
	}

	// The lock is held until the child is known, so that its status cannot be taken before.
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, &StartError{Fault: OtherFault, Text: "cannot be started: the reaper is closed", Err: os.ErrClosed}
	}
	pid, err := syscall.ForkExec(path, s.Command, attr)
	if err != nil && s.Cgroup != nil && !s.InCgroup && (errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EOPNOTSUPP)) {
		attr.Sys.UseCgroupFD, p.cgroup = false, nil // better without than not at all: the sweep does not rely on it
		pid, err = syscall.ForkExec(path, s.Command, attr)
	}
	if err != nil {
		return nil, diagnose(s, path, err)
	}
	p.pid = pid
	if i, err := Lookup(pid); err == nil { // it is there until its status is taken, a zombie at least
		p.start = i.Start
	}
	r.watched[pid] = p
	return p, nil
}

// find returns the path of the program.
func find(s Spec) (string, error) {
	if len(s.Command) == 0 || s.Command[0] == "" {
		return "", &StartError{Fault: NotFound, Text: "the command is empty", Err: syscall.ENOENT}
	}
	if s.Dir != "" {
		if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
			if err == nil {
				err = syscall.ENOTDIR
			}
			return "", &StartError{Fault: OtherFault, Text: fmt.Sprintf("the working directory %s cannot be used: %v", s.Dir, err), Err: err}
		}
	}
	name := s.Command[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(s.Dir, name)
		}
		return name, nil
	}
	search := "/usr/local/bin:/usr/bin:/bin"
	for _, e := range s.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var denied string
	for _, dir := range filepath.SplitList(search) {
		if !filepath.IsAbs(dir) {
			continue // a relative PATH element runs what happens to lie about
		}
		p := filepath.Join(dir, name)
		info, err := os.Stat(p)
		switch {
		case err != nil || info.IsDir():
		case info.Mode()&0o111 == 0:
			denied = p
		default:
			return p, nil
		}
	}
	if denied != "" {
		return "", &StartError{Fault: NotExecutable, Text: denied + " is not executable (chmod +x?)", Err: syscall.EACCES}
	}
	return "", &StartError{Fault: NotFound, Text: fmt.Sprintf("no executable %q in PATH (%s)", name, search), Err: syscall.ENOENT}
}

// diagnose says in words why path could not be executed.
func diagnose(s Spec, path string, err error) *StartError {
	name := s.Command[0]
	e := &StartError{Fault: OtherFault, Text: fmt.Sprintf("%s cannot be started: %v", path, err), Err: err}
	info, serr := os.Stat(path)
	switch {
	case errors.Is(err, syscall.EPERM) && s.User != nil:
		e.Text = fmt.Sprintf("%s cannot be started as user %d: only root can: %v", path, s.User.UID, err)
	case errors.Is(err, syscall.ENOENT) && serr != nil:
		e.Fault, e.Text = NotFound, "there is no "+path
		if path != name {
			e.Text += " (" + name + ")"
		}
	case errors.Is(err, syscall.ENOENT):
		e.Fault = Interpreter
		if i := interpreter(path); i != "" {
			e.Text = fmt.Sprintf("%s names the interpreter %s, which is not there", path, i)
		} else {
			e.Text = fmt.Sprintf("%s needs a dynamic loader that is not there (built for another system?)", path)
		}
	case errors.Is(err, syscall.EACCES) && serr == nil && info.IsDir():
		e.Fault, e.Text = NotExecutable, path+" is a directory"
	case errors.Is(err, syscall.EACCES) && serr == nil && info.Mode()&0o111 != 0 && interpreter(path) != "":
		e.Fault, e.Text = Interpreter, fmt.Sprintf("%s names the interpreter %s, which may not be executed", path, interpreter(path))
	case errors.Is(err, syscall.EACCES):
		e.Fault, e.Text = NotExecutable, path+" is not executable (chmod +x?)"
	case errors.Is(err, syscall.ENOEXEC):
		e.Fault, e.Text = NotExecutable, path+" is no program: it has no #! line and no format that this system knows"
	}
	return e
}

// interpreter returns the program that the #! line of path names, or "".
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	line, ok := bytes.CutPrefix(b[:n], []byte("#!"))
	if !ok {
		return ""
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	if w := bytes.Fields(line); len(w) > 0 {
		return string(bytes.TrimRight(w[0], "\r")) + map[bool]string{true: " (the line ends in a carriage return)"}[bytes.HasSuffix(line, []byte("\r"))]
	}
	return ""
}
