package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// serve is the gRPC backend: every call is answered by one message and status 0. Of each connection's first calls the
// header blocks are decoded, and what is not a call of ours is refused.
func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	addr := fs.String("addr", "", "`host:port` to listen on (default: loopback and $PORT, as a mesh tells it)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *addr == "" {
		*addr = net.JoinHostPort("127.0.0.1", os.Getenv("PORT"))
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = c.Close() }()
			s := &backend{window: firstWindow, message: message(messageBytes)}
			if err := s.run(c); err != nil {
				fmt.Fprintln(os.Stderr, "backend:", err)
			}
		}()
	}
}

type backend struct {
	frames
	out      []byte
	message  []byte
	first    bool // something was answered: the peer's table holds the two fields
	literal  bool // the peer has no table
	window   int64
	waiting  []uint32
	received int
	decoder  *hpack.Decoder
	decoded  int
	bad      string
	path     bool
}

var errGoAway = errors.New("go away")

func (s *backend) run(c net.Conn) error {
	buf := make([]byte, 256<<10)
	read := 0
	for read < len(preface) {
		n, err := c.Read(buf[read:])
		if err != nil {
			return nil // a probe of the port
		}
		read += n
	}
	if string(buf[:len(preface)]) != preface {
		return errors.New("a connection without HTTP/2's preface")
	}
	s.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch {
		case f.Name == ":path":
			if s.path = strings.HasPrefix(f.Value, grpcPath); !s.path {
				s.bad = "path " + f.Value
			}
		case f.Name == "te" && f.Value != "trailers", f.Name == "content-type" && f.Value != "application/grpc":
			s.bad = f.Name + " " + f.Value
		}
	})
	s.out = appendSettings(s.out, settingStreams, 10000, settingWindow, streamWindow)
	s.out = appendWindow(s.out, 0, connWindow)
	p := buf[len(preface):read]
	for {
		if err := s.each(p, s.frame); err != nil {
			if errors.Is(err, errGoAway) {
				err = nil
			}
			return err
		}
		if s.received > connWindow/2 {
			s.out = appendWindow(s.out, 0, uint32(s.received))
			s.received = 0
		}
		if len(s.out) > 0 {
			if _, err := c.Write(s.out); err != nil {
				return nil // the proxy was stopped
			}
			s.out = s.out[:0]
		}
		n, err := c.Read(buf)
		if err != nil {
			return nil
		}
		p = buf[:n]
	}
}

func (s *backend) frame(f frame) error {
	switch f.typ {
	case frameHeaders:
		if s.decoded < checked {
			s.decoded++
			s.path = false
			if _, err := s.decoder.Write(f.block()); err != nil {
				return fmt.Errorf("a header block: %w", err)
			}
			if s.bad != "" || !s.path {
				return errors.New("a call that is not ours: " + s.bad)
			}
		}
	case frameData:
		s.received += len(f.body)
	case frameSettings:
		if f.flags&flagAck != 0 {
			return nil
		}
		for b := f.body; len(b) >= 6; b = b[6:] {
			if binary.BigEndian.Uint16(b) == settingTableSize && binary.BigEndian.Uint32(b[2:]) < 512 {
				s.literal = true
			}
		}
		s.out = appendFrame(s.out, 0, frameSettings, flagAck, 0)
	case framePing:
		if f.flags&flagAck == 0 {
			s.out = append(appendFrame(s.out, len(f.body), framePing, flagAck, 0), f.body...)
		}
	case frameWindow:
		if f.stream == 0 {
			s.window += int64(binary.BigEndian.Uint32(f.body))
			for len(s.waiting) > 0 && s.window >= int64(len(s.message)) {
				s.answer(s.waiting[0])
				s.waiting = s.waiting[1:]
			}
		}
	case frameGoAway:
		return errGoAway
	}
	if (f.typ == frameHeaders || f.typ == frameData) && f.flags&flagEndStream != 0 {
		if s.window < int64(len(s.message)) {
			s.waiting = append(s.waiting, f.stream)
		} else {
			s.answer(f.stream)
		}
	}
	return nil
}

// Header blocks of answers: the first puts content-type and grpc-status into the peer's table, the others refer to
// them. Without a table they are literals, after an update of the table's size to 0.
const (
	headFirst   = "\x88\x5f\x10application/grpc"
	trailFirst  = "\x40\x0bgrpc-status\x010"
	head        = "\x88\xbf"
	trail       = "\xbe"
	headLiteral = "\x88\x0f\x10\x10application/grpc"
	trailPlain  = "\x00\x0bgrpc-status\x010"
)

func (s *backend) answer(stream uint32) {
	h, t := head, trail
	switch {
	case s.literal && !s.first:
		h, t = "\x20"+headLiteral, trailPlain
	case s.literal:
		h, t = headLiteral, trailPlain
	case !s.first:
		h, t = headFirst, trailFirst
	}
	s.first = true
	s.out = append(appendFrame(s.out, len(h), frameHeaders, flagEndHeaders, stream), h...)
	s.out = append(appendFrame(s.out, len(s.message), frameData, 0, stream), s.message...)
	s.out = append(appendFrame(s.out, len(t), frameHeaders, flagEndHeaders|flagEndStream, stream), t...)
	s.window -= int64(len(s.message))
}
