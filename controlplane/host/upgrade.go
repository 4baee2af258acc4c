package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// allInstances stands for every instance that has no program of its own; no instance has this id.
const allInstances = "*"

// ErrUpgrading says that another upgrade is under way.
var ErrUpgrading = errors.New("another upgrade is under way")

// A ProgramError says that a program cannot be a sidecar's.
type ProgramError struct{ Path, Reason string }

func (e *ProgramError) Error() string { return "sidecar " + e.Path + ": " + e.Reason }

// Upgraded is what became of one instance in an upgrade.
type Upgraded struct {
	Instance string
	// Old and New are the sidecars' process ids; 0 where none runs: the instance takes the program when it starts.
	Old, New int
}

// programOf is the sidecar's program of an instance: its own, else that of all, else the control plane's.
func (h *Host) programOf(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range []string{id, allInstances} {
		if p := h.programs[k]; p != "" {
			return p
		}
	}
	return h.cfg.Sidecar
}

// Upgrade gives the instances that the names mean (all, and the gateways, where there are none) a sidecar that runs program, an absolute path; "" is
// the control plane's own, which may be another file by now. It goes one by one: a new sidecar takes the
// listening sockets over once it is ready, and the old one finishes its calls until the drain ends. The first one that does not become ready
// ends the upgrade with an error; its old one, and those that were not reached, stay as they are. tell is called for each
// that is done. What was upgraded stays so over restarts; after an upgrade of all, new instances take the program too.
func (h *Host) Upgrade(ctx context.Context, tenant string, names []string, program string, tell func(Upgraded)) error {
	if !h.upgrading.TryLock() {
		return ErrUpgrading
	}
	defer h.upgrading.Unlock()
	run := program
	if run == "" {
		run = h.cfg.Sidecar
	}
	if err := executable(run); err != nil {
		return err
	}
	ids, err := h.toUpgrade(tenant, names)
	if err != nil {
		return err
	}
	for n, id := range ids {
		if err := h.upgradeOne(ctx, id, run, program, tell); err != nil {
			h.emit(Event{Kind: "sidecar.upgrade-failed", Instance: id, Text: err.Error()})
			if n > 0 {
				err = fmt.Errorf("%w (%d of %d were upgraded before, and stay so)", err, n, len(ids))
			}
			return err
		}
	}
	if len(names) > 0 {
		return nil
	}
	// All have it now: it is everybody's, and nobody's own.
	values := map[string][]byte{allInstances: nil}
	h.mu.Lock()
	for id := range h.programs {
		values[id] = nil
	}
	h.mu.Unlock()
	if program != "" {
		values[allInstances] = []byte(program)
	}
	return h.remember(values)
}

func executable(path string) error {
	switch info, err := os.Stat(path); {
	case !filepath.IsAbs(path):
		return &ProgramError{path, "is not an absolute path"}
	case err != nil:
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return &ProgramError{path, err.Error()}
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return &ProgramError{path, "is not a program"}
	}
	return nil
}

// toUpgrade are the instances that names mean, in the order of starting, gateways last: callees before callers.
func (h *Host) toUpgrade(tenant string, names []string) ([]string, error) {
	wanted := map[string]bool{}
	for _, name := range names {
		_, ids, err := h.match(tenant, name)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			wanted[id] = true
		}
	}
	var ids, gateways []string
	for _, u := range h.unitsNow() {
		for _, i := range u.pool.Instances() {
			switch id := i.ID(); {
			case u.gone != nil || i.Status().Retired || len(names) > 0 && !wanted[id]:
			case u.gateway != nil:
				gateways = append(gateways, id)
			default:
				ids = append(ids, id)
			}
		}
	}
	return slices.Concat(ids, gateways), nil
}

func (h *Host) upgradeOne(ctx context.Context, id, run, program string, tell func(Upgraded)) error {
	h.mu.Lock()
	u := h.byID[id]
	h.mu.Unlock()
	if u == nil {
		return nil // removed meanwhile
	}
	i := u.pool.Instance(id)
	if i == nil {
		return nil
	}
	out := Upgraded{Instance: id, Old: i.Status().Runner.Sidecar.PID}
	began := time.Now()
	runs, err := i.UpgradeSidecar(ctx, run)
	if err != nil {
		return err
	}
	own := []byte(run)
	h.mu.Lock()
	if program == "" && h.programs[allInstances] == "" {
		own = nil // what holds without an upgrade
	}
	h.mu.Unlock()
	if err := h.remember(map[string][]byte{id: own}); err != nil {
		return err
	}
	text := id + ": the next sidecar runs " + run
	if runs {
		err := h.wait(ctx, func() bool { out.New = i.Status().Runner.Sidecar.PID; return out.New != 0 && out.New != out.Old })
		if err != nil {
			return fmt.Errorf("wait for the new sidecar of %s: %w", id, err)
		}
		text = fmt.Sprintf("%s: its sidecar runs %s since %s; the one before finishes its calls", id, run, time.Since(began).Round(time.Millisecond))
	} else {
		out.Old = 0
	}
	h.emit(Event{Kind: "sidecar.upgraded", Instance: id, PID: out.New, Text: strings.TrimSpace(text)})
	tell(out)
	return nil
}

// remember puts programs in force, and on disk first; nil forgets one. What runs is told by the next look at the input.
func (h *Host) remember(values map[string][]byte) error {
	if err := h.db.put(sidecarBucket, values); err != nil {
		return err
	}
	h.mu.Lock()
	for id, v := range values {
		if v == nil {
			delete(h.programs, id)
		} else {
			h.programs[id] = string(v)
		}
	}
	h.mu.Unlock()
	select {
	case h.kick <- struct{}{}:
	default:
	}
	return nil
}
