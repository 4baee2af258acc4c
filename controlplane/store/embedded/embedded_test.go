package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/storetest"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

// childEnv names what a re-executed test binary does instead of testing, childPath where.
const (
	childEnv  = "OUTRIGGER_STORE_TEST_CHILD"
	childPath = "OUTRIGGER_STORE_TEST_PATH"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "writer":
		os.Exit(childWriter())
	case "disk":
		os.Exit(childDisk())
	case "holder":
		os.Exit(childHolder())
	default:
		fmt.Fprintln(os.Stderr, "unknown child")
		os.Exit(2)
	}
}

// child prepares a re-execution of the test binary.
func child(t testing.TB, what, path string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+what, childPath+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

func childWriter() int {
	st, err := Open(os.Getenv(childPath), Options{})
	if err == nil {
		err = storetest.Write(context.Background(), st, "child", os.Stdout)
	}
	fmt.Fprintln(os.Stderr, "writer:", err)
	return 1
}

// childHolder holds the store until its standard input ends.
func childHolder() int {
	st, err := Open(os.Getenv(childPath), Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "holder:", err)
		return 1
	}
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1))
	if err := st.Close(); err != nil {
		return 1
	}
	return 0
}

type place struct{ path string }

func (p place) Open(t testing.TB, s storetest.Settings) store.Store {
	st, err := Open(p.path, Options{Keep: s.Keep, CollectEvery: s.CollectEvery})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return st
}

func (p place) Shared() bool { return false }

func (p place) Blobs(t testing.TB, st store.Store) (out []store.Hash) {
	err := st.(*Store).view(t.Context(), func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBlobs).ForEach(func(k, _ []byte) error {
			out = append(out, store.Hash(k))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) storetest.Place {
		return place{filepath.Join(t.TempDir(), "store.db")}
	})
}

// TestKill kills a writing process at random moments; everything that it had printed must be there.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	acked := storetest.Acked{}
	for round := range 8 {
		cmd := child(t, "writer", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The moment differs from round to round; the first may fall into the making of the file.
		time.AfterFunc(time.Duration(15+round*37)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		if err := acked.Read(out); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
		st, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := acked.Check(t.Context(), st); err != nil && len(acked) > 0 {
			t.Errorf("round %d: %v", round, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(acked) < 10 {
		t.Errorf("only %d revisions were acknowledged in all rounds: the test shows little", len(acked))
	}
	t.Logf("%d revisions acknowledged", len(acked))
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	st, err := Open(newer, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyFormat, []byte("9")) }); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, tc := range []struct{ name, path, got string }{
		{"another program's bbolt file", other, ""},
		{"a newer format", newer, "9"},
		{"text", write("text", "hello"), ""},
		{"long text", write("long", strings.Repeat("hello ", 10_000)), ""},
		{"an empty file", write("empty", ""), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st, err := Open(tc.path, Options{})
			if err == nil {
				_ = st.Close()
			}
			var format *store.FormatError
			if !errors.As(err, &format) || !errors.Is(err, store.ErrFormat) {
				t.Fatalf("got %v, want a FormatError", err)
			}
			if format.Got != tc.got || !strings.Contains(err.Error(), tc.path) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := Open(filepath.Join(dir, "nowhere", "store.db"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestOpenLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	cmd := child(t, "holder", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrLocked with the path", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	st, err := Open(path, Options{})
	if err != nil {
		t.Fatalf("after the other is gone: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	for _, spoil := range []bool{false, true} {
		if spoil {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		st, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode is %v", info.Mode())
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func BenchmarkCommit(b *testing.B) {
	st, err := Open(filepath.Join(b.TempDir(), "store.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	c := store.Change{Put: map[store.Key]store.Item{}}
	for i := range 2000 {
		c.Put[store.Key(fmt.Sprintf("default/Route/r%d", i))] = store.Item{Data: fmt.Appendf(nil, "%0300d", i)}
	}
	if _, err := st.Commit(b.Context(), 0, c); err != nil {
		b.Fatal(err)
	}
	for n := uint64(1); b.Loop(); n++ {
		c := store.Change{Put: map[store.Key]store.Item{"default/Route/r1": {Data: fmt.Append(nil, n)}}}
		if _, err := st.Commit(b.Context(), n, c); err != nil {
			b.Fatal(err)
		}
	}
}
