// Package ws is what a relay must know of WebSocket (RFC 6455, RFC 8441): how the proof that a server understood the
// handshake is made, which HTTP/1.1 has and HTTP/2 has not. Frames are bytes to it.
package ws

import "crypto/sha1" //nolint:gosec // RFC 6455 §4.2.2 names it; nothing is kept secret by it

// Token is the name of the protocol, in Upgrade and in :protocol.
const Token = "websocket"

// The fields of a handshake that only HTTP/1.1 has.
const (
	KeyField    = "sec-websocket-key"
	AcceptField = "sec-websocket-accept"
)

const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// AppendAccept appends the Sec-WebSocket-Accept for a key.
func AppendAccept(dst []byte, key string) []byte {
	h := sha1.New() //nolint:gosec // as above
	_, _ = h.Write([]byte(key))
	_, _ = h.Write([]byte(guid))
	return appendBase64(dst, h.Sum(nil))
}

// AppendKey appends a Sec-WebSocket-Key made of 128 random bits.
func AppendKey(dst []byte, x, y uint64) []byte {
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(x>>(8*i)), byte(y>>(8*i))
	}
	return appendBase64(dst, b[:])
}

// appendBase64 is RFC 4648 §4, with padding.
func appendBase64(dst, src []byte) []byte {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for ; len(src) >= 3; src = src[3:] {
		v := uint(src[0])<<16 | uint(src[1])<<8 | uint(src[2])
		dst = append(dst, digits[v>>18], digits[v>>12&63], digits[v>>6&63], digits[v&63])
	}
	switch len(src) {
	case 1:
		v := uint(src[0]) << 16
		dst = append(dst, digits[v>>18], digits[v>>12&63], '=', '=')
	case 2:
		v := uint(src[0])<<16 | uint(src[1])<<8
		dst = append(dst, digits[v>>18], digits[v>>12&63], digits[v>>6&63], '=')
	}
	return dst
}
