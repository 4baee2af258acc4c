package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"

	"golang.org/x/net/http2/hpack"
)

const (
	messageBytes = 100
	// checked is how many answers of a connection have their header blocks decoded; of the others, the messages are
	// counted.
	checked = 200
)

// grpcClient keeps a number of unary calls in flight on each connection. Their frames are made beforehand.
type grpcClient struct {
	streams int
	vary    bool
	calls   map[uint32][][]byte // by the size of the peer's table: HEADERS and DATA of each call, stream 0
}

type http2State struct {
	frames
	calls      [][]byte
	next       int // of calls
	stream     uint32
	started    []int64 // by stream
	inflight   int
	limit      int
	window     int64 // of the connection, ours to send
	received   int
	decoder    *hpack.Decoder
	decoded    int
	data, done int // bytes of messages, and calls that were answered
	bad        string
}

func grpcLoad(args []string) error {
	fs := flag.NewFlagSet("grpc", flag.ExitOnError)
	e, g := &engine{}, &grpcClient{calls: map[uint32][][]byte{}}
	e.register(fs)
	fs.IntVar(&g.streams, "m", 50, "calls in flight on each connection")
	fs.BoolVar(&g.vary, "vary", false, "path, grpc-timeout, traceparent and authorization vary from call to call")
	if err := fs.Parse(args); err != nil {
		return err
	}
	e.protocol = g
	if err := e.run(func(fd int) (stream, error) { return socket(fd), nil }); err != nil {
		return err
	}
	for _, c := range e.conns {
		// Every answer has its message, but those still on their way.
		if s := c.http2; s.data < s.done*len(message(messageBytes)) {
			e.broke(fmt.Errorf("%d answers brought %d bytes of messages", s.done, s.data))
		}
	}
	return e.report()
}

func (g *grpcClient) open(_ *engine, c *conn) error {
	s := &http2State{stream: 1, limit: g.streams, window: firstWindow, started: make([]int64, 1<<16)}
	s.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" && f.Value != "200" || f.Name == "grpc-status" && f.Value != "0" {
			s.bad = f.Name + " " + f.Value
		}
	})
	c.http2 = s
	c.out = append(c.out, preface...)
	c.out = appendSettings(c.out, settingPush, 0, settingWindow, streamWindow)
	c.out = appendWindow(c.out, 0, connWindow)
	return nil
}

func (g *grpcClient) due(*engine) int64 { return 0 }

func (g *grpcClient) input(e *engine, c *conn, p []byte) error {
	s := c.http2
	err := s.each(p, func(f frame) error {
		switch f.typ {
		case frameData:
			s.data += len(f.body)
			s.received += len(f.body)
		case frameHeaders:
			if s.decoded < checked {
				s.decoded++
				if _, err := s.decoder.Write(f.block()); err != nil {
					return fmt.Errorf("an answer's header block: %w", err)
				}
				if s.bad != "" {
					return errors.New("answered " + s.bad)
				}
			}
		case frameSettings:
			return g.settings(c, f)
		case framePing:
			if f.flags&flagAck == 0 {
				c.out = append(appendFrame(c.out, len(f.body), framePing, flagAck, 0), f.body...)
			}
		case frameWindow:
			if f.stream == 0 {
				s.window += int64(binary.BigEndian.Uint32(f.body))
			}
		case frameReset:
			return fmt.Errorf("stream %d was reset with code %d", f.stream, binary.BigEndian.Uint32(f.body))
		case frameGoAway:
			return fmt.Errorf("the peer goes away with code %d", binary.BigEndian.Uint32(f.body[4:]))
		}
		if (f.typ == frameData || f.typ == frameHeaders) && f.flags&flagEndStream != 0 {
			s.inflight--
			s.done++
			e.answered(s.started[f.stream>>1&0xffff])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.received > connWindow/2 {
		c.out = appendWindow(c.out, 0, uint32(s.received))
		s.received = 0
	}
	g.send(e, c)
	return nil
}

func (g *grpcClient) settings(c *conn, f frame) error {
	if f.flags&flagAck != 0 {
		return nil
	}
	s, table := c.http2, uint32(4096)
	for b := f.body; len(b) >= 6; b = b[6:] {
		switch v := binary.BigEndian.Uint32(b[2:]); binary.BigEndian.Uint16(b) {
		case settingTableSize:
			table = min(v, 4096)
		case settingStreams:
			s.limit = min(g.streams, int(min(v, 1<<20)))
		}
	}
	if s.calls == nil {
		if g.calls[table] == nil {
			g.calls[table] = makeCalls(g.vary, table)
		}
		s.calls = g.calls[table]
	}
	c.out = appendFrame(c.out, 0, frameSettings, flagAck, 0)
	return nil
}

func (g *grpcClient) send(e *engine, c *conn) {
	s := c.http2
	for s.calls != nil && s.inflight < s.limit && s.window >= messageBytes+5 {
		call := s.calls[s.next]
		at := len(c.out)
		c.out = append(c.out, call...)
		// The stream's number goes into both frames.
		data := at + len(call) - (messageBytes + 5) - frameHeader
		binary.BigEndian.PutUint32(c.out[at+5:], s.stream)
		binary.BigEndian.PutUint32(c.out[data+5:], s.stream)
		s.started[s.stream>>1&0xffff] = e.now
		s.stream += 2
		s.window -= messageBytes + 5
		s.inflight++
		if s.next++; s.next == len(s.calls) {
			// The first call stands for itself; the last ones refer to the table as it is by then.
			s.next = g.again()
		}
	}
}
