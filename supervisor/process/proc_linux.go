package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Info is what /proc/PID/stat tells of a process.
type Info struct {
	PID, Parent, Group, Session int
	Name                        string // at most 15 bytes
	Zombie                      bool
	Start                       uint64 // clock ticks since boot: with the pid, it names a process for as long as the system is up
}

// Lookup reads the process of that pid. The error wraps os.ErrNotExist where there is none.
func Lookup(pid int) (Info, error) {
	var buf [1024]byte
	return lookup(strconv.Itoa(pid), buf[:])
}

func lookup(pid string, buf []byte) (Info, error) {
	fd, err := syscall.Open("/proc/"+pid+"/stat", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return Info{}, fmt.Errorf("look up process %s: %w", pid, err)
	}
	n, err := syscall.Read(fd, buf)
	_ = syscall.Close(fd)
	if err != nil {
		if errors.Is(err, syscall.ESRCH) {
			err = os.ErrNotExist
		}
		return Info{}, fmt.Errorf("look up process %s: %w", pid, err)
	}
	return parseStat(buf[:n])
}

// parseStat reads one line of proc_pid_stat(5). The name may hold spaces and parentheses: the last one closes it.
func parseStat(b []byte) (Info, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Info{}, errors.New("look up process: not a stat line")
	}
	var i Info
	var err error
	if i.PID, err = strconv.Atoi(strings.TrimSpace(string(b[:open]))); err != nil {
		return Info{}, fmt.Errorf("look up process: %w", err)
	}
	i.Name = string(b[open+1 : end])
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 {
		return Info{}, errors.New("look up process: a short stat line")
	}
	i.Zombie = f[0][0] == 'Z' || f[0][0] == 'X'
	for k, p := range []*int{&i.Parent, &i.Group, &i.Session} {
		if *p, err = strconv.Atoi(string(f[1+k])); err != nil {
			return Info{}, fmt.Errorf("look up process: %w", err)
		}
	}
	if i.Start, err = strconv.ParseUint(string(f[19]), 10, 64); err != nil {
		return Info{}, fmt.Errorf("look up process: %w", err)
	}
	return i, nil
}

// All lists every process that can be seen.
func All() ([]Info, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close()
	var all []Info
	var buf [1024]byte
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			if n[0] < '1' || n[0] > '9' {
				continue
			}
			if i, err := lookup(n, buf[:]); err == nil {
				all = append(all, i)
			}
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
	}
}

// Descendants returns those of all that descend from root, but for the pids that skip names and what descends from them.
// A parent comes before its children.
func Descendants(all []Info, root int, skip func(pid int) bool) []Info {
	children := map[int][]int{}
	for k, i := range all {
		children[i.Parent] = append(children[i.Parent], k)
	}
	var out []Info
	queue := []int{root}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, k := range children[p] {
			if i := all[k]; skip == nil || !skip(i.PID) {
				out = append(out, i)
				queue = append(queue, i.PID)
			}
		}
	}
	return out
}

// Alive says whether the process of that pid and start is there and no zombie.
func Alive(pid int, start uint64) bool {
	i, err := Lookup(pid)
	return err == nil && i.Start == start && !i.Zombie
}

// BootID names this run of the system: pids and starts of another run mean nothing.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// oomKills is the kernel's count of out-of-memory kills, whole system and limited groups alike; 0 where it is not told.
func oomKills() uint64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	i := bytes.Index(b, []byte("\noom_kill "))
	if i < 0 {
		return 0
	}
	b = b[i+len("\noom_kill "):]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	n, _ := strconv.ParseUint(string(b), 10, 64)
	return n
}
