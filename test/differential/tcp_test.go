package differential

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
)

// tcpCaller speaks no HTTP: its first line names the exchange, what follows is data.
type tcpCaller struct {
	writer
	m  *message
	wg sync.WaitGroup
}

func dialTCP(addr string) (caller, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	t := &tcpCaller{writer: writer{c: c, frame: "close"}, m: newMessage()}
	t.wg.Go(func() {
		if readBody(t.m, c) != nil {
			t.m.finish("broken")
		}
		t.m.finish("whole")
	})
	return t, nil
}

func (c *tcpCaller) got() *message { return c.m }

func (c *tcpCaller) head(s *script, end bool) {
	c.write(fmt.Appendf(nil, "case-%d\n", s.id))
	if end {
		c.end()
	}
}

func (c *tcpCaller) reset(uint32) { c.writer.reset() }
func (c *tcpCaller) half()        { c.end() }

func (c *tcpCaller) close() {
	_ = c.c.Close()
	c.wg.Wait()
}

// tcpServer is the upstream for TCP.
type tcpServer struct {
	l     net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func serveTCP(hb *hub) (*tcpServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &tcpServer{l: l, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		acceptAll(l, &s.mu, s.conns, &s.wg, func(c net.Conn) {
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			e := &tcpAnswerer{writer: writer{c: c, frame: "close"}, m: newMessage(), done: make(chan struct{})}
			e.m.start[":path"] = strings.TrimSpace(line)
			if !hb.arrived(e) {
				return
			}
			if readBody(e.m, r) != nil {
				e.m.finish("broken")
			}
			e.m.finish("whole")
			<-e.done // the other half may go on
		})
	})
	return s, nil
}

func (s *tcpServer) close() {
	_ = s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

type tcpAnswerer struct {
	writer
	m    *message
	once sync.Once
	done chan struct{}
}

func (e *tcpAnswerer) seen() *message    { return e.m }
func (e *tcpAnswerer) info(int, []field) {}
func (e *tcpAnswerer) head(*op)          {}
func (e *tcpAnswerer) goAway()           {}

func (e *tcpAnswerer) reset(uint32) {
	e.writer.reset()
	e.close()
}

func (e *tcpAnswerer) close() {
	e.once.Do(func() {
		close(e.done)
		_ = e.c.Close()
	})
}
