package handoff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// message is what travels, both ways; Type says which fields count.
type message struct {
	Type     string    `json:"type"` // hello, listen, release, ready, drained, drain, process
	ID       uint64    `json:"id,omitempty"`
	FDs      int       `json:"fds,omitempty"`
	More     bool      `json:"more,omitempty"` // hello: further sockets follow in another message
	Identity *Identity `json:"identity,omitempty"`
	Sockets  []Socket  `json:"sockets,omitempty"`
	Name     string    `json:"name,omitempty"`
	Network  string    `json:"network,omitempty"`
	Address  string    `json:"address,omitempty"`
	Error    string    `json:"error,omitempty"`

	Propagation time.Duration `json:"propagation,omitempty"` // ns
	Deadline    time.Duration `json:"deadline,omitempty"`    // ns
	Handover    bool          `json:"handover,omitempty"`
	State       string        `json:"state,omitempty"`
	PID         int           `json:"pid,omitempty"`
	Reason      string        `json:"reason,omitempty"`

	files []*os.File
}

func (m *message) closeFiles() {
	for _, f := range m.files {
		_ = f.Close()
	}
	m.files = nil
}

// wire reads and writes messages. One goroutine may receive while others send.
type wire struct {
	conn *net.UnixConn

	send sync.Mutex

	// The receiver's own.
	buf     []byte     // bytes of messages not yet whole
	scanned int        // bytes of buf known to hold no newline
	files   []*os.File // descriptors received, not yet claimed by a message
	oob     []byte
}

func newWire(f *os.File) (*wire, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the handoff channel: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("open the handoff channel: descriptor %s is not a Unix socket", f.Name())
	}
	return &wire{conn: u}, nil
}

// write sends m with its files. A peer that does not read for writeLimit is cut off, since half a message cannot be
// taken back.
func (w *wire) write(m *message) error {
	if len(m.files) > maxFDs {
		return fmt.Errorf("handoff: %d descriptors in one message, at most %d", len(m.files), maxFDs)
	}
	m.FDs = len(m.files)
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("handoff: %w", err)
	}
	if len(line) >= maxLine {
		return fmt.Errorf("handoff: a message of %d bytes, at most %d", len(line), maxLine)
	}
	line = append(line, '\n')
	w.send.Lock()
	defer w.send.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return ErrClosed
	}
	n := 0
	if len(m.files) > 0 {
		n, err = writeFiles(w.conn, line, m.files)
	}
	if err == nil && n < len(line) {
		_, err = w.conn.Write(line[n:])
	}
	if err != nil {
		_ = w.conn.Close()
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return nil
}

// read returns the next message; its files belong to the caller. After an error the wire is of no use.
func (w *wire) read() (*message, error) {
	for {
		if i := bytes.IndexByte(w.buf[w.scanned:], '\n'); i >= 0 {
			end := w.scanned + i
			m, err := w.parse(w.buf[:end])
			w.buf = w.buf[:copy(w.buf, w.buf[end+1:])]
			w.scanned = 0
			if len(w.buf) == 0 && cap(w.buf) > 4<<10 {
				w.buf = nil
			}
			return m, err
		}
		w.scanned = len(w.buf)
		if len(w.buf) >= maxLine {
			return nil, fmt.Errorf("handoff: a message of more than %d bytes", maxLine)
		}
		if err := w.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads once, bytes and descriptors.
func (w *wire) fill() error {
	if cap(w.buf)-len(w.buf) < 512 {
		w.buf = append(make([]byte, 0, 2*cap(w.buf)+1024), w.buf...)
	}
	if w.oob == nil {
		w.oob = make([]byte, oobSize)
	}
	n, files, err := readFiles(w.conn, w.buf[len(w.buf):cap(w.buf)], w.oob)
	w.buf = w.buf[:len(w.buf)+n]
	w.files = append(w.files, files...)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(w.files) > 4*maxFDs {
		return fmt.Errorf("handoff: %d descriptors that no message speaks of", len(w.files))
	}
	if n == 0 {
		if len(w.buf) > 0 {
			return io.ErrUnexpectedEOF
		}
		return io.EOF
	}
	return nil
}

func (w *wire) parse(line []byte) (*message, error) {
	m := &message{}
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("handoff: not a message: %w", err)
	}
	if m.FDs < 0 || m.FDs > maxFDs || m.FDs > len(w.files) {
		return nil, fmt.Errorf("handoff: %s speaks of %d descriptors, %d came", m.Type, m.FDs, len(w.files))
	}
	m.files = append(m.files, w.files[:m.FDs]...)
	w.files = w.files[:copy(w.files, w.files[m.FDs:])]
	return m, nil
}

// close ends the connection and closes descriptors that nobody claimed. Only the receiver calls it with
// receiver true, when it has stopped receiving.
func (w *wire) close(receiver bool) {
	_ = w.conn.Close()
	if receiver {
		for _, f := range w.files {
			_ = f.Close()
		}
		w.files = nil
	}
}

// ended tells an ordinary end of the connection from an error worth reporting.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isReset(err)
}
