package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// whole reads the rotated files, oldest first, and the current one.
func whole(t interface{ Fatal(...any) }, path string) string {
	var b strings.Builder
	for i := maxRotated; i >= 0; i-- {
		x, err := os.ReadFile(rotated(path, i))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		b.Write(x)
	}
	return b.String()
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "out.log")
	w := New(path, Options{MaxBytes: 100, Files: 3})
	for i := range 100 {
		fmt.Fprintf(w, "line %03d\n", i) // 9 bytes: 11 a file
	}
	w.Close()
	for i, want := range []string{"line 099\n", "line 098\n", "line 087\n", "line 076\n"} {
		b, err := os.ReadFile(rotated(path, i))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 100 || !strings.HasSuffix(string(b), want) {
			t.Errorf("file %d: %d bytes, ends in %q, want %q", i, len(b), b[max(0, len(b)-9):], want)
		}
	}
	if _, err := os.Stat(rotated(path, 4)); !os.IsNotExist(err) {
		t.Error("more rotated files than asked for")
	}
}

func TestRotationLosesNothingAndKeepsLinesWhole(t *testing.T) {
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run), "out.log")
		limit := rapid.IntRange(20, 200).Draw(rt, "limit")
		w := New(path, Options{MaxBytes: int64(limit), Files: 90})
		var all bytes.Buffer
		for range rapid.IntRange(1, 30).Draw(rt, "lines") {
			all.WriteString(strings.Repeat("x", rapid.IntRange(0, limit/2).Draw(rt, "length")) + "\n")
		}
		for rest := all.Bytes(); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "write")
			w.Write(rest[:n])
			rest = rest[n:]
		}
		w.Close()
		if got := whole(rt, path); got != all.String() {
			rt.Fatalf("%d bytes written, %d kept", all.Len(), len(got))
		}
		for i := 1; i < maxRotated; i++ {
			b, err := os.ReadFile(rotated(path, i))
			if err != nil {
				break
			}
			if !bytes.HasSuffix(b, []byte("\n")) {
				rt.Fatalf("a line is torn apart at the end of file %d", i)
			}
			if len(b) > 2*limit {
				rt.Fatalf("file %d holds %d bytes, limit %d", i, len(b), limit)
			}
		}
	})
}

// faultFS fails as told.
type faultFS struct {
	osFS
	mu     sync.Mutex
	open   error
	room   int // bytes that can be written; -1: no limit
	rename error
}

type faultFile struct {
	File
	fs *faultFS
}

func (f *faultFS) OpenAppend(path string) (File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open != nil {
		return nil, f.open
	}
	x, err := f.osFS.OpenAppend(path)
	if err != nil {
		return nil, err
	}
	return &faultFile{x, f}, nil
}

func (f *faultFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rename != nil {
		return f.rename
	}
	return f.osFS.Rename(from, to)
}

func (f *faultFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n := len(p)
	if f.fs.room >= 0 && n > f.fs.room {
		n = f.fs.room
	}
	m, err := f.File.Write(p[:n])
	if f.fs.room >= 0 {
		f.fs.room -= m
	}
	if err == nil && n < len(p) {
		err = &os.PathError{Op: "write", Path: "out.log", Err: syscall.ENOSPC}
	}
	return m, err
}

func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.log")
	fs := &faultFS{room: 12}
	w := New(path, Options{FS: fs})
	for i := range 4 {
		if n, err := fmt.Fprintf(w, "line %03d\n", i); n != 9 || err != nil {
			t.Fatalf("the process would notice: %d, %v", n, err)
		}
	}
	if n, cause := w.Dropped(); n != 24 || !errors.Is(cause, syscall.ENOSPC) {
		t.Errorf("dropped %d, %v; want 24 bytes for lack of space", n, cause)
	}
	if got := w.Tail(2); len(got) != 2 || got[1] != "line 003" {
		t.Errorf("the last lines are %q: they must be known although they could not be written", got)
	}
	fs.mu.Lock()
	fs.room = -1
	fs.mu.Unlock()
	fmt.Fprintln(w, "again")
	w.Close()
	want := "line 000\nlin\n[outrigger: 24 bytes of output dropped: no space left on device]\nagain\n"
	if got := whole(t, path); got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
}

func TestFileThatCannotBeOpenedYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.log")
	fs := &faultFS{room: -1, open: syscall.EACCES}
	w := New(path, Options{FS: fs})
	fmt.Fprintln(w, "lost")
	fs.mu.Lock()
	fs.open = nil
	fs.mu.Unlock()
	fmt.Fprintln(w, "kept")
	w.Close()
	if got, want := whole(t, path), "[outrigger: 5 bytes of output dropped: permission denied]\nkept\n"; got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
}

func TestRotationThatFailsGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.log")
	w := New(path, Options{MaxBytes: 20, FS: &faultFS{room: -1, rename: syscall.EPERM}})
	for i := range 10 {
		fmt.Fprintf(w, "line %03d\n", i)
	}
	w.Close()
	if got := whole(t, path); strings.Count(got, "\n") != 10 {
		t.Errorf("lines were lost: %q", got)
	}
	if n, _ := w.Dropped(); n != 0 {
		t.Errorf("%d bytes dropped", n)
	}
}

func TestTailInMemory(t *testing.T) {
	w := New(filepath.Join(t.TempDir(), "out.log"), Options{})
	defer w.Close()
	for i := range 3 * tailLines {
		fmt.Fprintf(w, "line %d\r\n", i)
	}
	fmt.Fprint(w, "half "+strings.Repeat("x", 2*lineBytes))
	got := w.Tail(3)
	if len(got) != 3 || got[0] != fmt.Sprint("line ", 3*tailLines-2) || len(got[2]) != lineBytes || !strings.HasPrefix(got[2], "half") {
		t.Errorf("got %q", got)
	}
	if n := len(w.Tail(1000)); n != tailLines+1 {
		t.Errorf("%d lines kept", n)
	}
	w.Mark()
	if got := w.Tail(5); len(got) != 0 {
		t.Errorf("after Mark: %q", got)
	}
}

// sink collects what a follower writes.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestTailOfFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.log")
	w := New(path, Options{MaxBytes: 27, Files: 5}) // three lines a file
	for i := range 10 {
		fmt.Fprintf(w, "line %03d\n", i)
	}
	defer w.Close()
	for n, want := range map[int]string{0: "", 1: "line 009\n", 2: "line 008\nline 009\n", 5: "line 005\nline 006\nline 007\nline 008\nline 009\n"} {
		var s sink
		if err := Tail(path, n, &s); err != nil {
			t.Fatal(err)
		}
		if s.String() != want {
			t.Errorf("the last %d lines are %q", n, s.String())
		}
	}
	var s sink
	if err := Tail(path, 1000, &s); err != nil || strings.Count(s.String(), "\n") != 10 {
		t.Errorf("all: %q, %v", s.String(), err)
	}
	if err := Tail(path+".none", 3, &s); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestFollowThroughRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.log")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var s sink
	done := make(chan error, 1)
	go func() { done <- Follow(ctx, path, 10, &s) }() // before the file is there
	w := New(path, Options{MaxBytes: 200, Files: 50})
	defer w.Close()
	var want strings.Builder
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range 400 {
		line := fmt.Sprintf("line %04d\n", i)
		want.WriteString(line)
		w.Write([]byte(line))
		if i%10 == 0 {
			<-tick.C
		}
	}
	for end := time.Now().Add(10 * time.Second); s.String() != want.String(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("followed %d bytes of %d", len(s.String()), want.Len())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
