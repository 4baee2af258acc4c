//go:build unix

package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// holder is a runner that holds sockets and notes what the sidecar says.
type holder struct {
	mu      sync.Mutex
	sockets []Socket
	said    chan string
}

func newHolder(t *testing.T, n int) *holder {
	h := &holder{said: make(chan string, 16)}
	for i := range n {
		s, err := h.Listen(fmt.Sprint("fixed", i), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = s
	}
	t.Cleanup(func() {
		for _, s := range h.sockets {
			s.File.Close()
		}
	})
	return h
}

func (h *holder) Greet() Greeting {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Greeting{Identity: Identity{Instance: "a-1.0.0-0", Kind: "sidecar"}, Sockets: append([]Socket(nil), h.sockets...), Process: Process{State: "starting"}}
}

func (h *holder) Listen(name, network, address string) (Socket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sockets {
		if s.Name == name {
			return s, nil
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return Socket{}, err
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return Socket{}, err
	}
	s := Socket{Name: name, Network: network, Address: l.Addr().String(), Asked: address, File: f}
	h.sockets = append(h.sockets, s)
	return s, nil
}

func (h *holder) Release(name string) { h.said <- "release " + name }
func (h *holder) Ready()              { h.said <- "ready" }
func (h *holder) Drained()            { h.said <- "drained" }

func (h *holder) hears(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-h.said:
		if got != want {
			t.Fatalf("the runner heard %q, want %q", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("the runner did not hear %q", want)
	}
}

// connect starts a server for h and returns it, the sidecar's end, and what Serve returns.
func connect(t *testing.T, h Handler) (*Server, *os.File, <-chan error) {
	t.Helper()
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ours, h)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() { s.Close() })
	return s, theirs, done
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestConversation(t *testing.T) {
	const n = 3*maxFDs + 5 // more than one message takes
	h := newHolder(t, n)
	s, f, done := connect(t, h)
	p, err := NewPeer(f)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	g, err := p.Hello(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if g.Identity.Instance != "a-1.0.0-0" || g.Process.State != "starting" || len(g.Sockets) != n {
		t.Fatalf("greeted with %+v, %d sockets", g.Identity, len(g.Sockets))
	}
	held := h.Greet().Sockets
	for i, k := range g.Sockets {
		if want := held[i]; k.Name != want.Name || k.Address != want.Address {
			t.Fatalf("socket %d is %s %s, want %s %s", i, k.Name, k.Address, want.Name, want.Address)
		}
		accepts(t, k.File, k.Address)
		k.File.Close()
	}
	file, addr, err := p.Listen(ctx, "more", "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepts(t, file, addr)
	file.Close()
	if _, _, err := p.Listen(ctx, "taken", "tcp", addr); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a taken address gave %v", err)
	}
	for say, want := range map[string]func() error{
		"ready": p.Ready, "drained": p.Drained, "release more": func() error { return p.Release("more") },
	} {
		if err := want(); err != nil {
			t.Fatal(err)
		}
		h.hears(t, say)
	}
	for _, c := range []Command{
		Drain{Propagation: time.Second, Deadline: 30 * time.Second, Handover: true}, Process{State: "running", PID: 7, Reason: "x"},
	} {
		if err := s.Send(c); err != nil {
			t.Fatal(err)
		}
		if got := <-p.Commands(); got != c {
			t.Errorf("got %+v, want %+v", got, c)
		}
	}
	s.Close()
	if _, ok := <-p.Commands(); ok {
		t.Error("a command from a runner that is gone")
	}
	if _, err := p.Hello(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("hello to nobody: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	p.Close()
}

// accepts checks that a connection to addr arrives on f.
func accepts(t *testing.T, f *os.File, addr string) {
	t.Helper()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.RemoteAddr().String() != c.LocalAddr().String() {
		t.Errorf("another connection arrived")
	}
}

func TestFragments(t *testing.T) {
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWire(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close(true)
	sender, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	files := make([]*os.File, 5)
	for i := range files {
		if files[i], err = os.CreateTemp(t.TempDir(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(files[i], "file ", i)
		defer files[i].Close()
	}
	go func() { // byte by byte, the descriptors beside the first byte of the second message
		u := sender.(*net.UnixConn)
		for _, b := range []byte(`{"type":"one"}` + "\n") {
			u.Write([]byte{b})
		}
		writeFiles(u, []byte("{"), files)
		for _, b := range []byte(`"type":"two","fds":3}` + "\n" + `{"type":"three","fds":2}` + "\n" + `{"type":"four"}` + "\n" + `{"ty`) {
			u.Write([]byte{b})
		}
		u.Close()
	}()
	next := 0
	for _, want := range []struct {
		typ string
		fds int
	}{{"one", 0}, {"two", 3}, {"three", 2}, {"four", 0}} {
		m, err := w.read()
		if err != nil {
			t.Fatal(err)
		}
		if m.Type != want.typ || len(m.files) != want.fds {
			t.Fatalf("got %s with %d files, want %+v", m.Type, len(m.files), want)
		}
		for _, f := range m.files {
			b := make([]byte, 6)
			if _, err := f.ReadAt(b, 0); err != nil || string(b) != fmt.Sprint("file ", next) {
				t.Errorf("descriptor %d reads %q, %v", next, b, err)
			}
			if flags, _, e := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_GETFD, 0); e != 0 || flags&syscall.FD_CLOEXEC == 0 {
				t.Error("a received descriptor is inherited by children")
			}
			next++
		}
		m.closeFiles()
	}
	if _, err := w.read(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a message gave %v", err)
	}
}

func TestGarbageCutsOff(t *testing.T) {
	for name, send := range map[string]string{
		"no json":                "hello\n",
		"descriptors never sent": `{"type":"listen","fds":1}` + "\n",
		"negative descriptors":   `{"type":"listen","fds":-1}` + "\n",
		"no end":                 strings.Repeat("x", maxLine+10),
	} {
		t.Run(name, func(t *testing.T) {
			_, f, done := connect(t, newHolder(t, 0))
			c, err := net.FileConn(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			c.Write([]byte(send))
			if err := <-done; err == nil {
				t.Error("Serve reports nothing")
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the channel is still open")
			}
		})
	}
}

func TestUnclaimedDescriptorsAreClosed(t *testing.T) {
	_, f, done := connect(t, newHolder(t, 0))
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := writeFiles(c.(*net.UnixConn), []byte(`{"type":"ready","fds":1}`+"\n"+`{"type":`), []*os.File{w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	c.Close()
	<-done
	r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the descriptor that was sent is still open: %v", err)
	}
}

func TestPeerThatDies(t *testing.T) {
	h := newHolder(t, 1)
	s, f, done := connect(t, h)
	f.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Serve waits for a sidecar that is gone")
	}
	if err := s.Send(Drain{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Send to nobody: %v", err)
	}
}

func TestAnswersWithoutAQuestionAreHarmless(t *testing.T) {
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWire(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close(true)
	p, err := NewPeer(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := w.write(&message{Type: "listen", ID: 99, files: []*os.File{pw}}); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the descriptor was kept: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Hello(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("hello: %v", err)
	}
}

func TestDial(t *testing.T) {
	t.Setenv(EnvName, "")
	if _, err := Dial(); !errors.Is(err, ErrNoRunner) {
		t.Errorf("without a runner: %v", err)
	}
	for _, bad := range []string{"x", "1", "-3"} {
		t.Setenv(EnvName, bad)
		if _, err := Dial(); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"type":"hello","id":1}`))
	f.Add([]byte(`{"type":"hello","fds":3,"sockets":[{"name":"a"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		w := &wire{}
		if m, err := w.parse(line); err == nil && len(m.files) != 0 {
			t.Error("descriptors from nowhere")
		} else if err == nil {
			if _, err := json.Marshal(m); err != nil {
				t.Error(err)
			}
		}
	})
}
