// Package logfile keeps the output of processes in files that are rotated: a [Writer] for the runner, which reads
// the other end of the process's output pipe, and a [Follow] for who reads along.
//
// A Writer never fails towards its caller: a process whose log cannot be written must neither block nor die. What
// could not be written is counted, and the file says so where the gap is. The format is the process's own: bytes in
// lines, nothing added. The program's own log (slog) only passes through.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Defaults.
const (
	DefaultMaxBytes = 50 << 20
	DefaultFiles    = 10
)

const (
	tailLines = 40       // lines kept in memory
	lineBytes = 500      // bytes kept of each
	lineRest  = 64 << 10 // bytes by which the end of a line may pass the size of a file
)

// Options say how a file is rotated.
type Options struct {
	// MaxBytes is the size that a file does not pass, unless by the rest of a single line. Default [DefaultMaxBytes].
	MaxBytes int64
	// Files is how many rotated files are kept, NAME.1 the newest. Default [DefaultFiles].
	Files int
	// FS is what the files are on. Default: the system's.
	FS FS
}

// FS is the few calls that a [Writer] makes, so that a test can inject faults.
type FS interface {
	OpenAppend(path string) (File, error)
	Rename(from, to string) error
}

// File is an open output file.
type File interface {
	io.WriteCloser
	Size() (int64, error)
}

// Writer writes to a rotated file. It is safe for concurrent use. The zero Writer is of no use: see [New].
type Writer struct {
	path string
	opt  Options

	mu      sync.Mutex
	file    File // nil: could not be opened
	size    int64
	midLine bool // the last byte written was no newline
	dropped int64
	gap     int64 // bytes dropped since the last good write
	cause   error // of the gap
	tail    tail
	closed  bool
}

// New returns a Writer for path. That path cannot be opened now is no error: it is tried again at each write, and until
// then the bytes are counted as dropped.
func New(path string, o Options) *Writer {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Files <= 0 {
		o.Files = DefaultFiles
	}
	if o.FS == nil {
		o.FS = osFS{}
	}
	w := &Writer{path: path, opt: o}
	_ = w.open()
	return w
}

// Write appends p, rotating at a line's end where that is possible. It always returns len(p), nil, but after Close.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, os.ErrClosed
	}
	w.tail.add(p)
	for rest := p; len(rest) > 0; {
		n := w.fits(rest)
		if n == 0 {
			if err := w.rotate(); err != nil {
				n = len(rest) // better a file that is too long than lost output
			} else {
				continue
			}
		}
		w.put(rest[:n])
		rest = rest[n:]
	}
	return len(p), nil
}

// fits returns how many bytes of p belong into the current file; 0 asks for a new one.
func (w *Writer) fits(p []byte) int {
	room := w.opt.MaxBytes - w.size
	if int64(len(p)) <= room || w.file == nil || w.size == 0 && int64(len(p)) <= w.opt.MaxBytes {
		return len(p)
	}
	if room > 0 {
		if i := bytes.LastIndexByte(p[:room], '\n'); i >= 0 {
			return i + 1
		}
	}
	if w.size == 0 {
		return int(w.opt.MaxBytes) // one line, longer than a whole file
	}
	// The rest of a line that began here, though not without end.
	if over := w.opt.MaxBytes + min(w.opt.MaxBytes, lineRest) - w.size; w.midLine && over > 0 {
		n := len(p)
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			n = i + 1
		}
		return int(min(int64(n), over))
	}
	return 0
}

// put writes p to the current file; what cannot be written is dropped and counted.
func (w *Writer) put(p []byte) {
	if w.file == nil {
		if err := w.open(); err != nil {
			w.drop(len(p), err)
			return
		}
	}
	if w.gap > 0 {
		note := "[outrigger: " + strconv.FormatInt(w.gap, 10) + " bytes of output dropped: " + w.cause.Error() + "]\n"
		if w.midLine {
			note = "\n" + note
		}
		n, err := w.file.Write([]byte(note))
		w.size += int64(n)
		if err != nil {
			w.drop(len(p), err)
			return
		}
		w.gap, w.midLine = 0, false
	}
	n, err := w.file.Write(p)
	w.size += int64(n)
	if n > 0 {
		w.midLine = p[n-1] != '\n'
	}
	if err != nil {
		w.drop(len(p)-n, err)
	}
}

func (w *Writer) drop(n int, err error) {
	w.dropped += int64(n)
	w.gap += int64(n)
	w.cause = innermost(err)
}

func (w *Writer) open() error {
	f, err := w.opt.FS.OpenAppend(w.path)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		_ = f.Close()
		return err
	}
	w.file, w.size = f, size
	return nil
}

// rotate moves NAME to NAME.1, and so on, and opens a new file.
func (w *Writer) rotate() error {
	fs, name := w.opt.FS, func(i int) string { return w.path + "." + strconv.Itoa(i) }
	for i := w.opt.Files - 1; i >= 1; i-- { // rename replaces the oldest
		if err := fs.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := fs.Rename(w.path, name(1)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_ = w.file.Close()
	w.file, w.size, w.midLine = nil, 0, false
	_ = w.open() // where that fails, put tries again and counts
	return nil
}

// Dropped is how many bytes could not be written so far.
func (w *Writer) Dropped() (bytes int64, cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped, w.cause
}

// Tail returns the last n lines written, dropped ones too, oldest first; at most 40, each cut at 500 bytes.
func (w *Writer) Tail(n int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.last(n)
}

// Mark forgets the lines kept in memory, so that [Writer.Tail] tells only what comes after.
func (w *Writer) Mark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tail = tail{}
}

// Close closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// Pump copies r to w until r ends or fails, which is the ordinary end of a pipe.
func (w *Writer) Pump(r io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// tail keeps the last lines. It grows as lines come, so that a silent process costs nothing.
type tail struct {
	lines []string // a ring once it is full
	next  int
	part  []byte
}

func (t *tail) add(p []byte) {
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		if room := lineBytes - len(t.part); room > 0 {
			t.part = append(t.part, line[:min(room, len(line))]...)
		}
		if whole {
			t.push(string(bytes.TrimRight(t.part, "\r")))
			t.part = t.part[:0]
		}
		p = rest
	}
}

func (t *tail) push(s string) {
	if len(t.lines) < tailLines {
		t.lines = append(t.lines, s)
		return
	}
	t.lines[t.next] = s
	t.next = (t.next + 1) % tailLines
}

func (t *tail) last(n int) []string {
	all := make([]string, 0, len(t.lines)+1)
	all = append(append(all, t.lines[t.next:]...), t.lines[:t.next]...)
	if len(t.part) > 0 {
		all = append(all, string(t.part))
	}
	return all[max(0, len(all)-max(n, 0)):]
}

type osFS struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	i, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return i.Size(), nil
}

func (osFS) OpenAppend(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the output file: %w", err)
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

// innermost is the system's own error, without paths.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
