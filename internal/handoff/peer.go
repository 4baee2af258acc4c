package handoff

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

// Peer is the sidecar's end. All of its methods are safe for concurrent use.
type Peer struct {
	w        *wire
	commands chan Command
	stop     chan struct{} // closed by Close
	done     chan struct{} // closed when the receiver has ended
	once     sync.Once

	mu      sync.Mutex
	closed  bool
	lastID  uint64
	pending map[uint64]chan *message // answers awaited, by id
}

// Dial opens the channel to the runner that started this process, and takes the variable out of the environment.
// The error is [ErrNoRunner] where there is none.
func Dial() (*Peer, error) {
	v, ok := os.LookupEnv(EnvName)
	if !ok || v == "" {
		return nil, ErrNoRunner
	}
	_ = os.Unsetenv(EnvName)
	f, err := inherited(v)
	if err != nil {
		return nil, err
	}
	return NewPeer(f)
}

// NewPeer speaks for the sidecar over f, one end of a [Pair]. It closes f.
func NewPeer(f *os.File) (*Peer, error) {
	w, err := newWire(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	p := &Peer{
		w: w, commands: make(chan Command, 16), stop: make(chan struct{}), done: make(chan struct{}),
		pending: make(map[uint64]chan *message),
	}
	go p.receive()
	return p, nil
}

// Hello greets the runner and returns what it answers. Calling it again gives fresh copies of the sockets.
func (p *Peer) Hello(ctx context.Context) (Greeting, error) {
	answers, id, err := p.ask(&message{Type: "hello"})
	if err != nil {
		return Greeting{}, fmt.Errorf("greet the runner: %w", err)
	}
	defer p.forget(id, answers)
	var g Greeting
	for {
		m, err := p.await(ctx, answers)
		if err == nil && len(m.Sockets) != len(m.files) {
			m.closeFiles()
			err = fmt.Errorf("handoff: %d sockets with %d descriptors", len(m.Sockets), len(m.files))
		}
		if err != nil {
			for _, s := range g.Sockets {
				_ = s.File.Close()
			}
			return Greeting{}, fmt.Errorf("greet the runner: %w", err)
		}
		for i, s := range m.Sockets {
			s.File = m.files[i]
			g.Sockets = append(g.Sockets, s)
		}
		if m.Identity != nil {
			g.Identity = *m.Identity
		}
		g.Process = Process{State: m.State, PID: m.PID, Reason: m.Reason}
		if !m.More {
			return g, nil
		}
	}
}

// Listen asks the runner for the listening socket called name, which the runner opens at address unless it holds one of that
// name that was asked for with the same network and address; one of that name with another address is
// closed in its favour. Networks are tcp, tcp4, tcp6 and unix; port 0 is chosen by the kernel. It returns the socket,
// which the caller closes, and its actual address.
func (p *Peer) Listen(ctx context.Context, name, network, address string) (*os.File, string, error) {
	answers, id, err := p.ask(&message{Type: "listen", Name: name, Network: network, Address: address})
	if err != nil {
		return nil, "", fmt.Errorf("ask the runner for listener %s on %s: %w", name, address, err)
	}
	defer p.forget(id, answers)
	m, err := p.await(ctx, answers)
	switch {
	case err != nil:
	case m.Error != "":
		err = errors.New(m.Error)
	case len(m.Sockets) != 1 || len(m.files) != 1:
		err = errors.New("handoff: an answer without a socket")
	default:
		return m.files[0], m.Sockets[0].Address, nil
	}
	if m != nil {
		m.closeFiles()
	}
	return nil, "", fmt.Errorf("ask the runner for listener %s on %s: %w", name, address, err)
}

// Release tells the runner that the listener called name is no longer configured: the runner closes its copy, so that
// connections are refused instead of queued. One that the runner's own specification lists is kept.
func (p *Peer) Release(name string) error { return p.w.write(&message{Type: "release", Name: name}) }

// Ready says that all listeners of the sidecar's configuration accept. Saying it again does no harm.
func (p *Peer) Ready() error { return p.w.write(&message{Type: "ready"}) }

// Drained says that the sidecar has done what [Drain] asked for.
func (p *Peer) Drained() error { return p.w.write(&message{Type: "drained"}) }

// Commands are what the runner says, in order. The channel is closed when the runner is gone. It must be read:
// answers to Hello and Listen come behind unread commands.
func (p *Peer) Commands() <-chan Command { return p.commands }

// Close ends the channel and waits for its receiver.
func (p *Peer) Close() error {
	p.once.Do(func() { close(p.stop) })
	p.w.close(false)
	<-p.done
	return nil
}

// ask sends m with an id of its own and returns the channel on which its answers arrive.
func (p *Peer) ask(m *message) (chan *message, uint64, error) {
	answers := make(chan *message, 8)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, 0, ErrClosed
	}
	p.lastID++
	m.ID = p.lastID
	p.pending[m.ID] = answers
	p.mu.Unlock()
	if err := p.w.write(m); err != nil {
		p.forget(m.ID, answers)
		return nil, 0, err
	}
	return answers, m.ID, nil
}

// forget takes the question back and closes what was answered and not read.
func (p *Peer) forget(id uint64, answers chan *message) {
	p.mu.Lock()
	delete(p.pending, id)
	p.mu.Unlock()
	for {
		select {
		case m, ok := <-answers:
			if !ok {
				return
			}
			m.closeFiles()
		default:
			return
		}
	}
}

func (p *Peer) await(ctx context.Context, answers chan *message) (*message, error) {
	select {
	case m, ok := <-answers:
		if !ok {
			return nil, ErrClosed
		}
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *Peer) receive() {
	defer close(p.done)
	defer func() {
		p.w.close(true)
		p.mu.Lock()
		p.closed = true
		for id, c := range p.pending {
			delete(p.pending, id)
			close(c)
		}
		p.mu.Unlock()
		close(p.commands)
	}()
	for {
		m, err := p.w.read()
		if err != nil {
			return
		}
		var c Command
		switch m.Type {
		case "hello", "listen":
			p.deliver(m)
			continue
		case "drain":
			c = Drain{Propagation: m.Propagation, Deadline: m.Deadline, Handover: m.Handover}
		case "process":
			c = Process{State: m.State, PID: m.PID, Reason: m.Reason}
		}
		m.closeFiles()
		if c == nil {
			continue // a newer runner may say more
		}
		select {
		case p.commands <- c:
		case <-p.stop:
			return
		}
	}
}

// deliver passes an answer to who asked. The lock keeps a question from being forgotten between the look-up
// and the send, which would leak descriptors.
func (p *Peer) deliver(m *message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answers, ok := p.pending[m.ID]; ok {
		select {
		case answers <- m:
			return
		default: // more answers than a runner of ours gives
			delete(p.pending, m.ID)
			close(answers)
		}
	}
	m.closeFiles()
}
