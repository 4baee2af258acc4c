package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/storetest"
)

// acks collects what a writer prints and lets a test wait for it.
type acks struct {
	mu    sync.Mutex
	cond  *sync.Cond
	acked storetest.Acked
}

func newAcks() *acks {
	a := &acks{acked: storetest.Acked{}}
	a.cond = sync.NewCond(&a.mu)
	return a
}

// Write takes one line, as storetest.Write prints it.
func (a *acks) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.cond.Broadcast()
	return len(p), a.acked.Read(strings.NewReader(string(p)))
}

// after waits until there are n, and returns what there is.
func (a *acks) after(n int) storetest.Acked {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.acked) < n {
		a.cond.Wait()
	}
	return maps.Clone(a.acked)
}

// cutPower writes, cuts the power at moments that the writer does not know of, and returns what was lost of what had been
// acknowledged before each cut. With torn, three cuts of four leave also a random half of what was not synced yet.
func cutPower(t *testing.T, o Options, torn bool) error {
	d := newDisk(t)
	st, err := Open(d.path(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := newAcks()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := storetest.Write(ctx, st, "w", a); !errors.Is(err, context.Canceled) {
			t.Errorf("the writer ended with %v", err)
		}
	})
	var lost []error
	for round := range 24 {
		acked := a.after(3 * (round + 1))
		var seed uint64
		if torn {
			seed = uint64(round % 4)
		}
		path := d.cut(seed)
		if err := reopenAfterCut(t, path, acked); err != nil {
			lost = append(lost, fmt.Errorf("round %d: %w", round, err))
		}
	}
	cancel()
	wg.Wait()
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	return errors.Join(lost...)
}

// reopenAfterCut checks a copy that a power cut left, and that it can be written to.
func reopenAfterCut(t *testing.T, path string, acked storetest.Acked) (err error) {
	defer func() {
		if p := recover(); p != nil { // bbolt panics on some files
			err = fmt.Errorf("%w: %v", errLost, p)
		}
	}()
	st, err := Open(path, Options{})
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	defer func() { _ = st.Close() }()
	if err := acked.Check(t.Context(), st); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	head, err := st.Head(t.Context())
	if err != nil {
		return err
	}
	_, err = st.Commit(t.Context(), head.Number, store.Change{Delete: []store.Key{"default/Route/n"}})
	return err
}

func TestPowerCut(t *testing.T) {
	if err := cutPower(t, Options{}, true); err != nil {
		t.Error(err)
	}
}

// TestPowerCutIsNoticed is the control of TestPowerCut: a store that does not sync must fail it. Nothing is torn here,
// because bbolt may hang on such a file.
func TestPowerCutIsNoticed(t *testing.T) {
	err := cutPower(t, Options{noSync: true}, false)
	if !errors.Is(err, errLost) {
		t.Errorf("a store that never syncs lost nothing (%v): the test cannot see what it is for", err)
	}
}

// TestFaults fails each write, truncation and sync of a commit in turn, once and for good, with EIO and ENOSPC. Whatever
// happens: a commit that failed and is not in doubt has changed nothing, readers go on, the store works once the disk does,
// and a power cut then loses nothing that was acknowledged.
func TestFaults(t *testing.T) {
	d := newDisk(t)
	st, err := Open(d.path(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	ctx := t.Context()
	acked := storetest.Acked{}
	n := 0
	change := func() store.Change {
		n++
		v := fmt.Sprint("value ", n)
		return store.Change{Message: v, Put: map[store.Key]store.Item{
			"default/Route/n": {Data: []byte(v)},
			// Grows the file now and then.
			store.Key(fmt.Sprintf("default/Route/r%d", n)): {Data: []byte(strings.Repeat(v, 3000))},
		}}
	}
	head := func() store.Revision {
		t.Helper()
		rev, err := st.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	commit := func(base uint64, c store.Change) error {
		rev, err := st.Commit(ctx, base, c)
		if err == nil {
			acked[rev.Number] = c.Message
		}
		return err
	}
	if err := commit(0, change()); err != nil {
		t.Fatal(err)
	}
	var failed, doubts int
	for op, passes := range map[string]int{"write": 14, "truncate": 2, "sync": 4} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			for _, count := range []int{1, -1} { // once; until healed
				for pass := range passes {
					before, c := head(), change()
					d.fail(op, errno, pass, count)
					err := commit(before.Number, c)
					d.say("heal")
					name := fmt.Sprintf("%s %d with %v, %d times", op, pass, errno, count)
					switch {
					case err == nil: // nothing was hit, or the commit was settled: it must be durable, as below
					case errors.Is(err, store.ErrInDoubt):
						doubts++
						if count > 0 {
							t.Errorf("%s: in doubt after a single failure: %v", name, err)
						}
						if now := head(); now.Number != before.Number {
							t.Errorf("%s: readers see revision %d, which is in doubt", name, now.Number)
						}
						if _, err := st.Load(ctx, before); err != nil {
							t.Errorf("%s: readers: %v", name, err)
						}
						if op == "write" && pass < 3 {
							t.Errorf("%s: in doubt, although its meta page was never written: %v", name, err)
						}
						// The next commit finds out.
						if err := commit(before.Number, c); errors.Is(err, store.ErrConflict) {
							if now := head(); now.Number != before.Number+1 || now.Message != c.Message {
								t.Errorf("%s: then the head is %+v", name, now.Info)
							}
							acked[before.Number+1] = c.Message
						} else if err != nil {
							t.Errorf("%s: and then %v", name, err)
						}
					default:
						failed++
						if errno == syscall.ENOSPC && !errors.Is(err, store.ErrFull) {
							t.Errorf("%s: %v: does not say that the disk is full", name, err)
						}
						if now := head(); now.Number != before.Number {
							t.Errorf("%s: failed with %v, and the head is %d", name, err, now.Number)
						}
						if _, err := st.Load(ctx, before); err != nil {
							t.Errorf("%s: readers: %v", name, err)
						}
						if h, err := st.History(ctx, 1); err != nil || h[0].Number != before.Number {
							t.Errorf("%s: history is %v, %v", name, h, err)
						}
						if err := commit(before.Number, c); err != nil {
							t.Errorf("%s: healed, and yet: %v", name, err)
						}
					}
					if cutErr := reopenAfterCut(t, d.cut(0), acked); cutErr != nil {
						t.Errorf("%s: a power cut after it: %v", name, cutErr)
					}
					if t.Failed() {
						return
					}
				}
			}
		}
	}
	if failed < 10 || doubts == 0 {
		t.Errorf("%d commits failed, %d were in doubt: the test shows little", failed, doubts)
	}
	t.Logf("%d commits failed, %d were in doubt, %d acknowledged", failed, doubts, len(acked))
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = Open(d.path(), Options{}); err != nil {
		t.Fatal(err)
	}
	if err := acked.Check(ctx, st); err != nil {
		t.Error(err)
	}
}

// TestFullAtCreation makes a store where there is no room: nothing is left behind, and it works later.
func TestFullAtCreation(t *testing.T) {
	d := newDisk(t)
	for pass := range 3 {
		d.fail("write", syscall.ENOSPC, pass, -1)
		if st, err := Open(d.path(), Options{}); !errors.Is(err, store.ErrFull) {
			if err == nil {
				_ = st.Close()
			}
			t.Errorf("after %d writes: %v, want ErrFull", pass, err)
		}
		d.say("heal")
	}
	st, err := Open(d.path(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

var _ io.Writer = (*acks)(nil)
