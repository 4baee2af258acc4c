package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// record is the content of runner.json.
type record struct {
	ref
	Boot     string `json:"boot"` // the run of the system that pids and starts belong to
	Process  *ref   `json:"process,omitempty"`
	Sidecars []ref  `json:"sidecars,omitempty"`
}

// ref names an operating system process: a pid and when it started, in clock ticks since boot.
type ref struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

func (f ref) alive() bool { return f.PID > 0 && process.Alive(f.PID, f.Start) }

// record writes runner.json. That it cannot be written is no reason to stop serving.
func (r *runner) record() {
	r.recording.Lock()
	defer r.recording.Unlock()
	self, err := process.Lookup(os.Getpid())
	if err != nil {
		r.log.Error("record", "error", err)
		return
	}
	rec := record{ref: ref{PID: self.PID, Start: self.Start}, Boot: process.BootID()}
	r.mu.Lock()
	if r.proc != nil {
		rec.Process = &ref{PID: r.proc.PID(), Start: r.proc.StartTicks()}
	}
	for _, s := range r.sidecars {
		rec.Sidecars = append(rec.Sidecars, ref{PID: s.proc.PID(), Start: s.proc.StartTicks()})
	}
	path := filepath.Join(r.spec.Dir, RecordFile)
	r.mu.Unlock()
	b, err := json.Marshal(rec)
	if err == nil {
		err = replaceFile(path, append(b, '\n'))
	}
	if err != nil {
		r.log.Error("record", "error", err)
	}
}

func loadRecord(dir string) (record, error) {
	var rec record
	b, err := os.ReadFile(filepath.Join(dir, RecordFile))
	if err != nil {
		return rec, fmt.Errorf("read the runner's record: %w", err)
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("read the runner's record in %s: %w", dir, err)
	}
	return rec, nil
}

// Found is an instance's directory and what was found there.
type Found struct {
	Instance string
	Dir      string
	Live     bool  // its runner runs; otherwise [Sweep] cleans up
	PID      int   // of the runner; 0 where there is no record
	Spec     *Spec // nil where it cannot be read
	Err      error // why it cannot be read
}

// Find lists the instances in a state directory, in the order of their names. An instance whose runner does not run
// is listed too, whether it ended in order or was killed.
func Find(stateDir string) ([]Found, error) {
	root := filepath.Join(stateDir, "instances")
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find runners: %w", err)
	}
	boot := process.BootID()
	var out []Found
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		f := Found{Instance: e.Name(), Dir: filepath.Join(root, e.Name())}
		if rec, err := loadRecord(f.Dir); err == nil {
			f.PID = rec.PID
			f.Live = rec.Boot == boot && rec.alive()
		}
		if s, err := LoadSpec(filepath.Join(f.Dir, SpecFile)); err != nil {
			f.Err = err
		} else {
			f.Spec = &s
		}
		out = append(out, f)
	}
	return out, nil
}

// ErrLive says that a runner runs.
var ErrLive = errors.New("its runner runs")

// Sweep kills what a runner that was killed left behind in dir, the process with all that descends from it and the sidecar, and removes its record.
// It returns how many processes it killed. Processes are known by pid and start time, by their session, and by
// the mark that runners put into the environment. While another runner runs there, the error is [ErrLive].
func Sweep(dir string) (killed int, err error) {
	rec, err := loadRecord(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // a runner writes its record before it starts anything, and removes it last
	}
	if err != nil {
		rec = record{} // unreadable: the mark still tells
	}
	same := rec.Boot == process.BootID()
	if same && rec.PID != os.Getpid() && rec.alive() {
		return 0, fmt.Errorf("sweep %s: %w", dir, ErrLive)
	}
	roots := rec.Sidecars
	if rec.Process != nil {
		roots = append(roots, *rec.Process)
	}
	if !same {
		roots = nil
	}
	seen := map[int]bool{}
	t := time.NewTimer(0)
	defer t.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; {
		left, err := leftovers(dir, roots)
		if err != nil {
			return len(seen), fmt.Errorf("sweep %s: %w", dir, err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return len(seen), fmt.Errorf("sweep %s: %d processes do not end although they were killed", dir, len(left))
		}
		for _, i := range left {
			seen[i.PID] = true
			if err := syscall.Kill(i.PID, syscall.SIGKILL); errors.Is(err, syscall.EPERM) {
				return len(seen), fmt.Errorf("sweep %s: kill %s (pid %d): %w", dir, i.Name, i.PID, err)
			}
		}
		t.Reset(5 * time.Millisecond)
		<-t.C
	}
	if err := os.Remove(filepath.Join(dir, RecordFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return len(seen), fmt.Errorf("sweep %s: %w", dir, err)
	}
	return len(seen), nil
}

// leftovers lists the live processes that belong to the instance in dir.
func leftovers(dir string, roots []ref) ([]process.Info, error) {
	all, err := process.All()
	if err != nil {
		return nil, err
	}
	byPID := make(map[int]process.Info, len(all))
	for _, i := range all {
		byPID[i.PID] = i
	}
	keep := map[int]bool{} // ourselves and what we descend from
	for p := os.Getpid(); p > 0 && !keep[p]; p = byPID[p].Parent {
		keep[p] = true
	}
	pick := map[int]bool{}
	for _, f := range roots {
		leader, there := byPID[f.PID]
		if there && leader.Start != f.Start {
			continue // the pid is another's by now, which the kernel allows only once nobody is left in the session
		}
		for _, i := range all {
			if i.PID == f.PID || i.Session == f.PID && i.Start >= f.Start {
				pick[i.PID] = true
			}
		}
	}
	mark := []byte("\x00" + markName + "=" + dir + "\x00")
	for _, i := range all {
		if pick[i.PID] || i.Zombie {
			continue
		}
		env, err := os.ReadFile("/proc/" + strconv.Itoa(i.PID) + "/environ")
		if err == nil && bytes.Contains(append(append([]byte{0}, env...), 0), mark) {
			pick[i.PID] = true
		}
	}
	for _, i := range all {
		if pick[i.PID] {
			for _, d := range process.Descendants(all, i.PID, nil) {
				pick[d.PID] = true
			}
		}
	}
	var out []process.Info
	for _, i := range all {
		if pick[i.PID] && !keep[i.PID] && !i.Zombie {
			out = append(out, i)
		}
	}
	return out, nil
}
