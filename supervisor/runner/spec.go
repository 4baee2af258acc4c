package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/backoff"
	"github.com/outrigger-mesh/outrigger/supervisor/process"
)

// SpecFormat is the format of [Spec] that this package writes; others are refused.
const SpecFormat = 1

// Names of the files in an instance's directory.
const (
	SpecFile   = "spec.json"
	RecordFile = "runner.json"
	SocketFile = "runner.sock"
	LogDir     = "log"
	OutLog     = "out.log"
	SidecarLog = "sidecar.log"
	RunnerLog  = "runner.log"
)

// Spec is what a runner is told: all that it needs to run its instance for as long as it lives. Durations are
// nanoseconds in JSON.
type Spec struct {
	Format   int      `json:"format"`            // SpecFormat
	Instance string   `json:"instance"`          // orders-1.0.0-0
	Service  string   `json:"service,omitempty"` //
	Version  string   `json:"version,omitempty"` //
	Tenant   string   `json:"tenant,omitempty"`  //
	Kind     string   `json:"kind"`              // sidecar or gateway: the node's kind
	Dir      string   `json:"dir"`               // the instance's directory, absolute
	Order    int      `json:"order"`             // place in the order of starting; stopped in reverse
	Process  *Process `json:"process,omitempty"` // nil: a gateway
	Sidecar  *Sidecar `json:"sidecar,omitempty"` // nil: the process is not part of the mesh
	Listen   []Listen `json:"listen,omitempty"`  // opened before anything else, kept for the runner's life
	Drain    Drain    `json:"drain"`             //
	Log      Log      `json:"log"`               //
}

// Process is the instance's own process.
type Process struct {
	Command []string `json:"command"`       // the first is looked up in the PATH of Env unless it has a slash
	Env     []string `json:"env,omitempty"` // the whole environment, PORT included
	Dir     string   `json:"dir"`           // working directory, absolute
	Ports   []Port   `json:"ports,omitempty"`
	// StartTimeout is how long the first port may take to accept. Default 10 s.
	StartTimeout time.Duration `json:"startTimeout,omitempty"`
	StopSignal   string        `json:"stopSignal,omitempty"`  // TERM (default), INT, QUIT, HUP, USR1, USR2, KILL; SIG may precede
	StopTimeout  time.Duration `json:"stopTimeout,omitempty"` // from StopSignal to KILL; default 10 s
	Restart      Restart       `json:"restart"`
	// Cgroup asks for a cgroup of its own where a cgroup v2 can be written; where none can, it has no effect.
	Cgroup bool `json:"cgroup,omitempty"`
	// CgroupDir is the directory of a cgroup v2 that is there: the process gets one of its own in it, or is not started.
	CgroupDir string `json:"cgroupDir,omitempty"`
	// User is whom it runs as. Default the runner's.
	User *process.User `json:"user,omitempty"`
}

// Port is where the process was told to listen, on loopback.
type Port struct {
	Name   string `json:"name"`
	Number int    `json:"number"`
}

// When says after which ends a process is started again, as in Erlang/OTP.
type When string

// Restart types.
const (
	Permanent When = "permanent" // always (default)
	Transient When = "transient" // unless it ended with code 0
	Temporary When = "temporary" // never
)

// Restart is how a process is started again. The zero Restart means permanent, 3 within 60 s, exponential from 100 ms to 30 s.
type Restart struct {
	When    When           `json:"when,omitempty"`
	Max     int            `json:"max"`              // restarts within Within; one more and the process is failed. Negative: no limit
	Within  time.Duration  `json:"within,omitempty"` // 0: Max, Within and Backoff take their defaults
	Backoff backoff.Policy `json:"backoff"`
}

// Sidecar is the instance's sidecar. It is told its channel to the runner besides (internal/handoff).
type Sidecar struct {
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"` // the whole environment: GOMEMLIMIT and GOMAXPROCS, …
	// StopTimeout is from TERM to KILL. Default 5 s.
	StopTimeout time.Duration `json:"stopTimeout,omitempty"`
	// ReadyTimeout is how long the successor may take to be ready in ReplaceSidecar. Default 10 s.
	ReadyTimeout time.Duration `json:"readyTimeout,omitempty"`
	// CgroupDir is the directory of a cgroup v2 that is there: the sidecar is started in it, or not at all.
	CgroupDir string `json:"cgroupDir,omitempty"`
}

// Listen is a listening socket of the sidecar.
type Listen struct {
	Name    string `json:"name"`    // inbound/http, outbound, edge, …
	Network string `json:"network"` // tcp, tcp4, tcp6, unix
	Address string `json:"address"` // port 0 is chosen by the kernel
}

// Drain is how the sidecar ends its work before the process is stopped. The zero Drain means 1 s and 30 s;
// negative means none.
type Drain struct {
	Propagation time.Duration `json:"propagation,omitempty"`
	Deadline    time.Duration `json:"deadline,omitempty"`
}

// Log is how output files are rotated. The zero Log means 50 MB × 10.
type Log struct {
	MaxBytes int64 `json:"maxBytes,omitempty"`
	Files    int   `json:"files,omitempty"` // rotated ones kept beside the current
}

// Complete returns the spec with every default filled in.
func (s Spec) Complete() Spec {
	if s.Process != nil {
		p := *s.Process
		or(&p.StartTimeout, 10*time.Second)
		or(&p.StopTimeout, 10*time.Second)
		if p.StopSignal == "" {
			p.StopSignal = "TERM"
		}
		if p.Restart.When == "" {
			p.Restart.When = Permanent
		}
		if p.Restart.Within <= 0 {
			p.Restart.Within = time.Minute
			if p.Restart.Max == 0 {
				p.Restart.Max = 3
			}
			if p.Restart.Backoff == (backoff.Policy{}) {
				p.Restart.Backoff = backoff.Policy{Kind: backoff.Exponential, Base: 100 * time.Millisecond, Max: 30 * time.Second}
			}
		}
		s.Process = &p
	}
	if s.Sidecar != nil {
		c := *s.Sidecar
		or(&c.StopTimeout, 5*time.Second)
		or(&c.ReadyTimeout, 10*time.Second)
		s.Sidecar = &c
	}
	or(&s.Drain.Propagation, time.Second)
	or(&s.Drain.Deadline, 30*time.Second)
	if s.Log.MaxBytes <= 0 {
		s.Log.MaxBytes = 50 << 20
	}
	if s.Log.Files <= 0 {
		s.Log.Files = 10
	}
	return s
}

func or(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

// Validate returns all that is wrong with the spec, joined, or nil.
func (s Spec) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if s.Format != SpecFormat {
		bad("format: %d, this runner knows %d", s.Format, SpecFormat)
	}
	if s.Instance == "" || s.Instance == "." || s.Instance == ".." || strings.ContainsAny(s.Instance, "/\x00") {
		bad("instance: %q cannot name a directory", s.Instance)
	}
	if !filepath.IsAbs(s.Dir) {
		bad("dir: %q is not absolute", s.Dir)
	}
	if s.Process == nil && s.Sidecar == nil {
		bad("process, sidecar: one of them is needed")
	}
	if p := s.Process; p != nil {
		if len(p.Command) == 0 || p.Command[0] == "" {
			bad("process.command: empty")
		}
		if !filepath.IsAbs(p.Dir) {
			bad("process.dir: %q is not absolute", p.Dir)
		}
		for i, port := range p.Ports {
			if port.Number < 1 || port.Number > 65535 {
				bad("process.ports[%d].number: %d is not a port", i, port.Number)
			}
		}
		if _, err := parseSignal(p.StopSignal); err != nil {
			bad("process.stopSignal: %w", err)
		}
		switch p.Restart.When {
		case "", Permanent, Transient, Temporary:
		default:
			bad("process.restart.when: %q: want permanent, transient or temporary", p.Restart.When)
		}
		if err := p.Restart.Backoff.Validate(); err != nil {
			bad("process.restart.backoff: %w", err)
		}
	}
	if s.Sidecar != nil && (len(s.Sidecar.Command) == 0 || s.Sidecar.Command[0] == "") {
		bad("sidecar.command: empty")
	}
	names := map[string]bool{}
	for i, l := range s.Listen {
		if l.Name == "" || names[l.Name] {
			bad("listen[%d].name: %q is empty or taken", i, l.Name)
		}
		names[l.Name] = true
		switch l.Network {
		case "tcp", "tcp4", "tcp6", "unix":
		default:
			bad("listen[%d].network: %q: want tcp, tcp4, tcp6 or unix", i, l.Network)
		}
	}
	return errors.Join(errs...)
}

// Path is where the spec lives: its directory's [SpecFile].
func (s Spec) Path() string { return filepath.Join(s.Dir, SpecFile) }

// Save writes the spec to its path, replacing what was there in one step. It makes the directory (0700).
func (s Spec) Save() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("save the specification of %s: %w", s.Instance, err)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = replaceFile(s.Path(), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("save the specification of %s: %w", s.Instance, err)
	}
	return nil
}

// LoadSpec reads and validates the spec at path.
func LoadSpec(path string) (Spec, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, fmt.Errorf("read the specification: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("read the specification %s: %w", path, err)
	}
	if err := s.Validate(); err != nil {
		return Spec{}, fmt.Errorf("read the specification %s: %w", path, err)
	}
	return s, nil
}

// replaceFile writes a file of mode 0600 beside path and renames it over path.
func replaceFile(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return nil
}
