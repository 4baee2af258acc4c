// Package http2 is HTTP/2 (RFC 9113), both sides of a connection, relayed frame by frame.
//
// A connection has no goroutine and a stream has none: frames are taken out of what was read, their meaning goes
// to the stream's pipeline.Stream, and what is to be sent is gathered and written once a turn of the loop.
// Flow control runs end to end: a stream's window is opened again when what came by it could be passed on.
// HPACK is in the package below. See conn.go for what both sides share, server.go and client.go for the rest.
package http2

import (
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/loop"
)

// Preface is what a client's connection begins with.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frame types and flags (RFC 9113 §6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameRSTStream
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (§6.5.2).
const (
	settingTableSize       = 1
	settingEnablePush      = 2
	settingMaxStreams      = 3
	settingInitialWindow   = 4
	settingMaxFrame        = 5
	settingMaxHeaderList   = 6
	settingConnectProtocol = 8
	defaultWindow          = 65535
	minMaxFrame            = 16384
	maxMaxFrame            = 1<<24 - 1
	maxWindow              = 1<<31 - 1
	frameHeaderLen         = 9
	maxHeaderBlock         = 64 << 10
	assumedMaxStreams      = 100 // before the peer's settings
	defaultMaxStreams      = 1024
	streamWindow           = 256 << 10
	connWindow             = 16 << 20
	maxContinuations       = 32
	controlFrameBudget     = 10000 // control frames that may come in controlTime without a useful one between
	controlTime            = 30 * time.Second
	usefulBytes            = 512 // of data sent make up for a control frame
	maxHeaderFields        = 100
)

// ErrCode is an error code (§7).
type ErrCode uint32

// The codes.
const (
	ErrNo ErrCode = iota
	ErrProtocol
	ErrInternal
	ErrFlowControl
	ErrSettingsTimeout
	ErrStreamClosed
	ErrFrameSize
	ErrRefusedStream
	ErrCancel
	ErrCompression
	ErrConnect
	ErrEnhanceYourCalm
	ErrInadequateSecurity
	ErrHTTP11Required
)

func appendFrameHeader(b []byte, n int, typ, flags byte, id uint32) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), typ, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func append32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func get32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func appendSetting(b []byte, id uint16, v uint32) []byte {
	return append32(append(b, byte(id>>8), byte(id)), v)
}

func appendWindowUpdate(b []byte, id, n uint32) []byte {
	return append32(appendFrameHeader(b, 4, frameWindowUpdate, 0, id), n)
}

func appendReset(b []byte, id uint32, code ErrCode) []byte {
	return append32(appendFrameHeader(b, 4, frameRSTStream, 0, id), uint32(code))
}

func appendGoAway(b []byte, last uint32, code ErrCode, debug string) []byte {
	b = appendFrameHeader(b, 8+len(debug), frameGoAway, 0, 0)
	b = append32(append32(b, last), uint32(code))
	return append(b, debug...)
}

// LooksLikePreface says whether b is the beginning of an HTTP/2 connection: 1 yes, 0 not enough to tell, -1 no.
func LooksLikePreface(b []byte) int {
	n := min(len(b), len(Preface))
	if string(b[:n]) != Preface[:n] {
		return -1
	}
	if len(b) < 4 {
		return 0
	}
	return 1
}

var (
	_ loop.Handler = (*ServerConn)(nil)
	_ loop.Handler = (*ClientConn)(nil)
)
