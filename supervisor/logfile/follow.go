package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// poll is how often a follower looks for more.
const poll = 100 * time.Millisecond

// maxRotated bounds the search for rotated files.
const maxRotated = 100

// Tail writes the last lines of the file at path, and of its rotated predecessors where it holds fewer, to w. A file
// that is not there is empty.
func Tail(path string, lines int, w io.Writer) error {
	f := &follower{path: path, w: w}
	defer f.close()
	return f.begin(lines)
}

// Follow writes the last lines to w as [Tail] does, and then what is added, through rotations and before the file is first made, until ctx
// ends (which is no error) or w fails.
func Follow(ctx context.Context, path string, lines int, w io.Writer) error {
	f := &follower{path: path, w: w}
	defer f.close()
	if err := f.begin(lines); err != nil {
		return err
	}
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		if err := f.more(); err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// follower reads along one file. An open file is followed through its renames by its identity.
type follower struct {
	path string
	w    io.Writer
	file *os.File // nil: not there yet
}

func (f *follower) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
}

func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// begin writes the last lines and stays at the end of the current file.
func (f *follower) begin(lines int) error {
	var files []*os.File // current first
	defer func() {
		for i, x := range files {
			if i > 0 {
				_ = x.Close()
			}
		}
	}()
	var starts []int64
	for i, need := 0, lines; i < maxRotated; i++ {
		x, err := os.Open(rotated(f.path, i))
		if errors.Is(err, os.ErrNotExist) {
			if i == 0 {
				continue // between a rename and the new file, or not there yet
			}
			break
		}
		if err != nil {
			return fmt.Errorf("read output: %w", err)
		}
		files = append(files, x)
		if f.file == nil {
			f.file = x
		}
		start, found, err := lastLines(x, need)
		if err != nil {
			return fmt.Errorf("read output: %w", err)
		}
		starts = append(starts, start)
		if need -= found; need <= 0 {
			break
		}
	}
	for i := len(files) - 1; i >= 0; i-- {
		if _, err := files[i].Seek(starts[i], io.SeekStart); err != nil {
			return fmt.Errorf("read output: %w", err)
		}
		if _, err := io.Copy(f.w, files[i]); err != nil {
			return fmt.Errorf("read output: %w", err)
		}
	}
	return nil
}

// lastLines returns where the last n lines of x begin, and how many there are, at most n. A last line without its
// newline counts.
func lastLines(x *os.File, n int) (start int64, found int, err error) {
	end, err := x.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	if n <= 0 || end == 0 {
		return end, 0, nil
	}
	buf := make([]byte, 8<<10)
	for pos := end; pos > 0; {
		k := min(int64(len(buf)), pos)
		pos -= k
		if _, err := x.ReadAt(buf[:k], pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		chunk := buf[:k]
		for {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			if at := pos + int64(i) + 1; at < end {
				if found++; found == n {
					return at, found, nil
				}
			}
			chunk = chunk[:i]
		}
	}
	return 0, found + 1, nil
}

// more writes what was added, going from file to file where there were rotations.
func (f *follower) more() error {
	for {
		if f.file != nil {
			if _, err := io.Copy(f.w, f.file); err != nil {
				return fmt.Errorf("read output: %w", err)
			}
		}
		next, err := f.successor()
		if err != nil || next == nil {
			return err
		}
		if f.file != nil {
			// What was added before the rename: after it, nothing is.
			if _, err := io.Copy(f.w, f.file); err != nil {
				_ = next.Close()
				return fmt.Errorf("read output: %w", err)
			}
			_ = f.file.Close()
		}
		f.file = next
	}
}

// successor opens the file that follows the open one, or returns nil where that is the current one.
func (f *follower) successor() (*os.File, error) {
	var own os.FileInfo // nil: nothing was there when we began, so all that is there follows, the oldest first
	if f.file != nil {
		var err error
		if own, err = f.file.Stat(); err != nil {
			return nil, fmt.Errorf("read output: %w", err)
		}
	}
	at := 0 // where our file is; where it is gone, or there is none, the oldest that is left follows
	for ; at < maxRotated; at++ {
		info, err := os.Stat(rotated(f.path, at))
		if errors.Is(err, os.ErrNotExist) {
			if at == 0 {
				continue // between the rename and the new file
			}
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read output: %w", err)
		}
		if own != nil && os.SameFile(own, info) {
			break
		}
	}
	if at == 0 {
		return nil, nil
	}
	x, err := os.Open(rotated(f.path, at-1))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	if f.file != nil && !f.still(at) {
		_ = x.Close() // another rotation between the search and the open moved the files by one
		return nil, nil
	}
	return x, nil
}

// still says whether the open file is the one at that place; a file that is gone is at any.
func (f *follower) still(at int) bool {
	info, err := os.Stat(rotated(f.path, at))
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	own, oerr := f.file.Stat()
	return err == nil && oerr == nil && os.SameFile(own, info)
}
