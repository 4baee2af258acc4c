package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// A disk is a file system in memory, mounted by FUSE, that knows what a power cut would leave: a write reaches the platter
// with the fsync that follows it, and a name with the fsync of its folder. It fails operations as it is told.
//
// It is served by a process of its own, a re-execution of the test binary: bbolt reads its file through a mapping, and a
// page fault that the same process has to answer would stop Go's scheduler for good.
//
// The process reads commands, one a line, and answers each with "ok" or an error:
//
//	cut DIR SEED       writes what a power cut would leave at this moment into DIR; with a SEED other than 0, also a random
//	                   half of the sectors that were written but not synced, for a disk may have written those too
//	fail OP ERRNO N M  lets N operations OP (write, sync, truncate) pass and fails the M after them
//	heal               ends failing
type disk struct {
	mu      sync.Mutex // guards everything below, and all files
	names   map[string]*diskFile
	durable map[string]*diskFile
	faults  map[string]*fault
}

type fault struct {
	errno       syscall.Errno
	pass, count int
}

// sector is the unit that a disk writes as a whole.
const sector = 512

type diskFile struct {
	fs.Inode
	d       *disk
	data    []byte // what readers see
	platter []byte // what a power cut leaves
	pending []func(at *[]byte, keep func() bool)
	mode    uint32
}

type diskRoot struct {
	fs.Inode
	d *disk
}

var (
	_ = fs.NodeCreater((*diskRoot)(nil))
	_ = fs.NodeLinker((*diskRoot)(nil))
	_ = fs.NodeRenamer((*diskRoot)(nil))
	_ = fs.NodeUnlinker((*diskRoot)(nil))
	_ = fs.NodeFsyncer((*diskRoot)(nil))
	_ = fs.NodeOpener((*diskFile)(nil))
	_ = fs.NodeReader((*diskFile)(nil))
	_ = fs.NodeWriter((*diskFile)(nil))
	_ = fs.NodeFsyncer((*diskFile)(nil))
	_ = fs.NodeGetattrer((*diskFile)(nil))
	_ = fs.NodeSetattrer((*diskFile)(nil))
)

// fails says how an operation fails, or 0. The caller holds mu.
func (d *disk) fails(op string) syscall.Errno {
	f := d.faults[op]
	switch {
	case f == nil:
		return 0
	case f.pass > 0:
		f.pass--
		return 0
	case f.count == 0:
		return 0
	}
	f.count--
	return f.errno
}

func (r *diskRoot) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	f := &diskFile{d: r.d, mode: mode & 0o777}
	r.d.names[name] = f
	f.attr(&out.Attr)
	return r.NewInode(ctx, f, fs.StableAttr{Mode: fuse.S_IFREG}), nil, 0, 0
}

func (r *diskRoot) Link(_ context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	f := target.(*diskFile)
	if r.d.names[name] != nil {
		return nil, syscall.EEXIST
	}
	r.d.names[name] = f
	f.attr(&out.Attr)
	return &f.Inode, 0
}

func (r *diskRoot) Rename(_ context.Context, name string, _ fs.InodeEmbedder, newName string, _ uint32) syscall.Errno {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	r.d.names[newName] = r.d.names[name]
	delete(r.d.names, name)
	return 0
}

func (r *diskRoot) Unlink(_ context.Context, name string) syscall.Errno {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	delete(r.d.names, name)
	return 0
}

func (r *diskRoot) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	r.d.durable = maps.Clone(r.d.names)
	return 0
}

func (f *diskFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (f *diskFile) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off >= int64(len(f.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, f.data[off:])]), 0
}

func grown(b []byte, size int64) []byte {
	if int64(len(b)) < size {
		b = append(b, make([]byte, size-int64(len(b)))...)
	}
	return b
}

func (f *diskFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if errno := f.d.fails("write"); errno != 0 {
		return 0, errno
	}
	data = append([]byte(nil), data...)
	write := func(at *[]byte, keep func() bool) {
		*at = grown(*at, off+int64(len(data)))
		for i := 0; i < len(data); i += sector {
			if keep() {
				copy((*at)[off+int64(i):], data[i:min(i+sector, len(data))])
			}
		}
	}
	write(&f.data, always)
	f.pending = append(f.pending, write)
	return uint32(len(data)), 0
}

func always() bool { return true }

func (f *diskFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	pending := f.pending
	// After a sync that failed the kernel holds the pages for clean: a later sync does not write them.
	f.pending = nil
	if errno := f.d.fails("sync"); errno != 0 {
		return errno
	}
	for _, write := range pending {
		write(&f.platter, always)
	}
	return 0
}

func (f *diskFile) attr(out *fuse.Attr) {
	out.Mode, out.Size = fuse.S_IFREG|f.mode, uint64(len(f.data))
}

func (f *diskFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.attr(&out.Attr)
	return 0
}

func (f *diskFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if mode, ok := in.GetMode(); ok {
		f.mode = mode & 0o777
	}
	if size, ok := in.GetSize(); ok {
		if errno := f.d.fails("truncate"); errno != 0 {
			return errno
		}
		resize := func(at *[]byte, _ func() bool) { *at = grown(*at, int64(size))[:size] }
		resize(&f.data, always)
		f.pending = append(f.pending, resize)
	}
	f.attr(&out.Attr)
	return 0
}

// cut writes what a power cut would leave.
func (d *disk) cut(dir string, seed uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 1))
	for name, f := range d.durable {
		left := append([]byte(nil), f.platter...)
		if seed != 0 {
			for _, write := range f.pending {
				write(&left, func() bool { return r.IntN(2) == 0 })
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), left, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) command(line string) error {
	var dir, op string
	var seed uint64
	var errno, pass, count int
	if _, err := fmt.Sscanf(line, "cut %q %d", &dir, &seed); err == nil {
		return d.cut(dir, seed)
	}
	if _, err := fmt.Sscanf(line, "fail %s %d %d %d", &op, &errno, &pass, &count); err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.faults[op] = &fault{syscall.Errno(errno), pass, count}
		return nil
	}
	if line == "heal\n" {
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.faults)
		return nil
	}
	return fmt.Errorf("unknown command %q", line)
}

// childDisk mounts a disk, answers commands until its input ends, and unmounts.
func childDisk() int {
	d := &disk{names: map[string]*diskFile{}, durable: map[string]*diskFile{}, faults: map[string]*fault{}}
	none := time.Duration(0)
	server, err := fs.Mount(os.Getenv(childPath), &diskRoot{d: d}, &fs.Options{
		EntryTimeout: &none, AttrTimeout: &none,
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: "storetest", Name: "storetest"},
	})
	if err != nil {
		fmt.Println("cannot mount:", err)
		return 0
	}
	fmt.Println("ok")
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break
		}
		if err := d.command(line); err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("ok")
	}
	if server.Unmount() != nil { // busy: the tests died with files open
		if err := syscall.Unmount(os.Getenv(childPath), syscall.MNT_DETACH); err != nil {
			return 1
		}
	}
	server.Wait()
	return 0
}

// testDisk is the tests' side of a disk.
type testDisk struct {
	t   testing.TB
	dir string
	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Reader
}

// newDisk mounts a disk. Where FUSE is not to be had the test is skipped, and fails where CI=true.
func newDisk(t testing.TB) *testDisk {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "disk", dir)
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
	t.Cleanup(func() { endDisk(t, cmd, in) })
	d := &testDisk{t: t, dir: dir, in: in, out: bufio.NewReader(out)}
	if line, err := d.out.ReadString('\n'); line != "ok\n" {
		text := fmt.Sprintf("no FUSE file system here (%q, %v): what is acknowledged before its fsync is not tested", line, err)
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip("SKIPPED: " + text)
	}
	return d
}

func endDisk(t testing.TB, cmd *exec.Cmd, in io.Closer) {
	_ = in.Close()
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the disk's process: %v", err)
	}
}

func (d *testDisk) say(format string, args ...any) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := fmt.Fprintf(d.in, format+"\n", args...); err != nil {
		d.t.Fatal(err)
	}
	line, err := d.out.ReadString('\n')
	if err != nil || line != "ok\n" {
		d.t.Fatalf("the disk said %q, %v", line, err)
	}
}

func (d *testDisk) path() string { return filepath.Join(d.dir, "store.db") }

// cut returns the path of the store as a power cut at this moment would leave it.
func (d *testDisk) cut(seed uint64) string {
	d.t.Helper()
	dir := d.t.TempDir()
	d.say("cut %q %d", dir, seed)
	return filepath.Join(dir, "store.db")
}

func (d *testDisk) fail(op string, errno syscall.Errno, pass, count int) {
	d.t.Helper()
	d.say("fail %s %d %d %d", op, int(errno), pass, count)
}

var errLost = errors.New("lost")
