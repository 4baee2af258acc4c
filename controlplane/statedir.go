package controlplane

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// StateFormat is the number in the state directory's file version.
const StateFormat = "1"

// Files of the state directory that this package keeps.
const (
	versionFile = "version"
	lockFile    = "lock"
	secretFile  = "secret"
	storeFile   = "store.db"
	hostFile    = "host.db"
	// LogFile is the log of a control plane that runs detached.
	LogFile = "control.log"
	// SecretBytes is the secret's length.
	SecretBytes = 32
)

// HeldError says that another control plane holds the state directory.
type HeldError struct {
	Dir string
	// PID is the holder's, 0 where it is not known.
	PID int
}

func (e *HeldError) Error() string {
	who := "a control plane"
	if e.PID > 0 {
		who = fmt.Sprintf("a control plane (pid %d)", e.PID)
	}
	return fmt.Sprintf("%s already runs with the state directory %s: stop it with 'outrigger down', or use another --state", who, e.Dir)
}

// CheckState returns why dir cannot be used as a state directory, nil where it can or is not there yet. It changes
// nothing.
func CheckState(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("state directory: %w", err)
	case !info.IsDir():
		return fmt.Errorf("state directory: %s is not a directory", dir)
	}
	b, err := os.ReadFile(filepath.Join(dir, versionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		for _, e := range entries {
			// A start that was cut short leaves the lock, and a detached one its log.
			if n := e.Name(); n != lockFile && n != LogFile {
				return fmt.Errorf("state directory: %s holds other things (%s) and no file %q: use an empty or a new directory", dir, n, versionFile)
			}
		}
		return nil
	case err != nil:
		return fmt.Errorf("state directory: %w", err)
	}
	if got := strings.TrimSpace(string(b)); got != StateFormat {
		return fmt.Errorf("state directory: %s has format %q, this program knows %s: use the version of Outrigger that wrote it, or another --state", dir, got, StateFormat)
	}
	return nil
}

// State is a state directory that this process holds.
type State struct {
	// Dir is absolute.
	Dir  string
	lock *os.File
}

// OpenState makes dir where it is not there, checks its format, and locks it for this process. Errors: *HeldError.
func OpenState(dir string) (*State, error) {
	if err := CheckState(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory %s cannot be written: %w", dir, err)
	}
	s := &State{Dir: dir, lock: f}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &HeldError{Dir: dir, PID: holder(dir)}
		}
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := s.prepare(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *State) prepare() error {
	if err := os.Chmod(s.Dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := s.lock.Truncate(0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	if _, err := s.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	path := filepath.Join(s.Dir, versionFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := writeWhole(path, []byte(StateFormat+"\n")); err != nil {
			return fmt.Errorf("write the state directory's format: %w", err)
		}
	}
	return nil
}

// Close lets go of the directory. The file stays: a lock that is removed could be held twice.
func (s *State) Close() {
	_ = s.lock.Truncate(0)
	_ = s.lock.Close()
}

// Secret returns the directory's secret, which is made at first.
func (s *State) Secret() ([]byte, error) {
	path := filepath.Join(s.Dir, secretFile)
	b, err := os.ReadFile(path)
	if err == nil && len(b) == SecretBytes {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	b = make([]byte, SecretBytes)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make the secret: %w", err)
	}
	if err := writeWhole(path, b); err != nil {
		return nil, fmt.Errorf("write the secret: %w", err)
	}
	return b, nil
}

// Holder tells whether a living control plane holds dir, and its pid (0 where that is not known).
func Holder(dir string) (pid int, held bool) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return holder(dir), true
	}
	return 0, false
}

func holder(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

// writeWhole writes a file of mode 0600 so that a reader finds all of it or nothing.
func writeWhole(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
