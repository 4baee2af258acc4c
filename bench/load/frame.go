package main

import "encoding/binary"

// HTTP/2 frame types, flags and settings (RFC 9113, sections 6 and 6.5.2).
const (
	frameData, frameHeaders, frameReset, frameSettings     = 0, 1, 3, 4
	framePing, frameGoAway, frameWindow, frameContinuation = 6, 7, 8, 9

	flagEndStream, flagEndHeaders, flagAck = 1, 4, 1
	flagPadded, flagPriority               = 8, 32

	settingTableSize, settingPush, settingStreams, settingWindow = 1, 2, 3, 4

	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader = 9
	firstWindow = 65535
	// Windows that never hold anything back: what is measured is the proxy.
	connWindow, streamWindow = 1 << 30, 1 << 20
)

func appendFrame(b []byte, length int, typ, flags byte, stream uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), typ, flags,
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

func appendWindow(b []byte, stream, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindow, 0, stream), n)
}

func appendSettings(b []byte, pairs ...uint32) []byte {
	b = appendFrame(b, len(pairs)/2*6, frameSettings, 0, 0)
	for i := 0; i < len(pairs); i += 2 {
		b = binary.BigEndian.AppendUint16(b, uint16(pairs[i]))
		b = binary.BigEndian.AppendUint32(b, pairs[i+1])
	}
	return b
}

// frames takes frames off a byte stream that comes in pieces.
type frames struct{ rest []byte }

type frame struct {
	typ, flags byte
	stream     uint32
	body       []byte
}

// each calls f for every whole frame of rest and p. Bodies are valid within the call.
func (d *frames) each(p []byte, f func(frame) error) error {
	b := p
	if len(d.rest) > 0 {
		d.rest = append(d.rest, p...)
		b = d.rest
	}
	for len(b) >= frameHeader {
		n := frameHeader + (int(b[0])<<16 | int(b[1])<<8 | int(b[2]))
		if len(b) < n {
			break
		}
		if err := f(frame{b[3], b[4], binary.BigEndian.Uint32(b[5:]) & 0x7fffffff, b[frameHeader:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	d.rest = append(d.rest[:0], b...)
	return nil
}

// block is the header block of a HEADERS frame without padding and priority.
func (f frame) block() []byte {
	b := f.body
	if f.flags&flagPadded != 0 && len(b) > 0 && int(b[0]) < len(b) {
		b = b[1 : len(b)-int(b[0])]
	}
	if f.flags&flagPriority != 0 && len(b) >= 5 {
		b = b[5:]
	}
	return b
}

// message is a gRPC message of n bytes with its prefix.
func message(n int) []byte {
	m := make([]byte, 5+n)
	binary.BigEndian.PutUint32(m[1:], uint32(n))
	for i := 5; i < len(m); i++ {
		m[i] = 'x'
	}
	return m
}
