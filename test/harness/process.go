package harness

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// proc is a process of the mesh.
type proc struct {
	pid  int
	what string
}

// processes returns every living process that belongs to the mesh: its environment carries the test's marker, or
// names the state directory; or its command line or working directory lies there; or `ps` once told its pid. Zombies
// count, nobody may leave one; but not those that only await process 1, which is none of ours.
func (m *Mesh) processes() []proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	m.mu.Lock()
	seen := make(map[int]uint64, len(m.seen))
	for pid, s := range m.seen {
		seen[pid] = s
	}
	m.mu.Unlock()
	state := []byte(m.State)
	var found []proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		start, alive := startTime(pid)
		if f, ok := stat(pid); ok && f[0] == "Z" && f[1] == "1" {
			continue
		}
		known, told := seen[pid]
		if !alive || !(bytes.Contains(env, state) || bytes.Contains(cmdline, state) || strings.HasPrefix(cwd, m.State) || told && known == start) {
			continue
		}
		found = append(found, proc{pid, strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))})
	}
	return found
}

// startTime is when a process started, in clock ticks since boot; false where there is no such process.
func startTime(pid int) (uint64, bool) {
	f, ok := stat(pid)
	if !ok {
		return 0, false
	}
	s, err := strconv.ParseUint(f[19], 10, 64)
	return s, err == nil
}

// stat returns the fields of /proc/PID/stat after the command, which may hold anything: the state is the first.
func stat(pid int) ([]string, bool) {
	if pid <= 0 {
		return nil, false
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, false
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return nil, false
	}
	f := strings.Fields(string(b[i+1:]))
	return f, len(f) > 20
}

// Child is a process below another.
type Child struct {
	PID  int
	Name string // of the executable's file
}

// Children returns the living children of a process. It needs no control plane: a runner's children are its sidecar
// and its service.
func Children(parent int) []Child {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var cs []Child
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f, ok := stat(pid)
		if !ok || f[0] == "Z" || f[1] != strconv.Itoa(parent) {
			continue
		}
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		cs = append(cs, Child{pid, filepath.Base(exe)})
	}
	return cs
}

// ServiceAndSidecar tells a runner's children apart; 0 stands for one that does not run at the moment.
func ServiceAndSidecar(runner int) (service, sidecar int) {
	for _, c := range Children(runner) {
		if c.Name == "outrigger-sidecar" {
			sidecar = c.PID
		} else {
			service = c.PID
		}
	}
	return service, sidecar
}
