package handoff

import (
	"errors"
	"fmt"
	"os"
)

// Handler is what a runner does for its sidecar. Its methods are called one after the other, from [Server.Serve].
type Handler interface {
	// Greet returns the instance's identity, the state of its process, and the sockets held. The files stay the handler's,
	// and open until the method is called again or Serve returns.
	Greet() Greeting
	// Listen returns the socket of that name, opened now if need be. The file stays the handler's.
	Listen(name, network, address string) (Socket, error)
	// Release closes a socket that the sidecar asked for earlier.
	Release(name string)
	// Ready and Drained are the sidecar's words.
	Ready()
	Drained()
}

// Server is the runner's end, for one sidecar.
type Server struct {
	w *wire
	h Handler
}

// NewServer speaks for the runner over f, the first of a [Pair]. It closes f.
func NewServer(f *os.File, h Handler) (*Server, error) {
	w, err := newWire(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	return &Server{w: w, h: h}, nil
}

// Serve answers the sidecar until it is gone or [Server.Close] is called, which is no error, or until it says something that cannot be
// understood, which is one; the channel is then closed.
func (s *Server) Serve() error {
	defer s.w.close(true)
	for {
		m, err := s.w.read()
		if err != nil {
			if ended(err) {
				return nil
			}
			return fmt.Errorf("listen to the sidecar: %w", err)
		}
		m.closeFiles() // a sidecar has none to give
		switch m.Type {
		case "hello":
			err = s.greet(m.ID)
		case "listen":
			err = s.listen(m)
		case "release":
			s.h.Release(m.Name)
		case "ready":
			s.h.Ready()
		case "drained":
			s.h.Drained()
		}
		if err != nil && !errors.Is(err, ErrClosed) {
			return fmt.Errorf("answer the sidecar: %w", err)
		}
	}
}

// Send tells the sidecar a command. It is safe for concurrent use. A sidecar that does not read for 5 s is cut off;
// the error then wraps [ErrClosed].
func (s *Server) Send(c Command) error {
	switch c := c.(type) {
	case Drain:
		return s.w.write(&message{Type: "drain", Propagation: c.Propagation, Deadline: c.Deadline, Handover: c.Handover})
	case Process:
		return s.w.write(&message{Type: "process", State: c.State, PID: c.PID, Reason: c.Reason})
	default:
		return fmt.Errorf("handoff: unknown command %T", c)
	}
}

// Close ends the channel; Serve returns.
func (s *Server) Close() error {
	s.w.close(false)
	return nil
}

func (s *Server) greet(id uint64) error {
	g := s.h.Greet()
	rest := g.Sockets
	for {
		n := min(len(rest), maxFDs)
		m := &message{
			Type: "hello", ID: id, Identity: &g.Identity, Sockets: rest[:n], More: n < len(rest),
			State: g.Process.State, PID: g.Process.PID, Reason: g.Process.Reason,
		}
		for _, k := range rest[:n] {
			m.files = append(m.files, k.File)
		}
		if err := s.w.write(m); err != nil {
			return err
		}
		if rest = rest[n:]; len(rest) == 0 {
			return nil
		}
	}
}

func (s *Server) listen(q *message) error {
	m := &message{Type: "listen", ID: q.ID}
	k, err := s.h.Listen(q.Name, q.Network, q.Address)
	if err != nil {
		m.Error = err.Error()
	} else {
		m.Sockets, m.files = []Socket{k}, []*os.File{k.File}
	}
	return s.w.write(m)
}
