package http1

import "github.com/outrigger-mesh/outrigger/sidecar/exchange"

// Body finds the data of a message body among the bytes of a connection.
type Body struct {
	left    int64 // bytes left of the body, or of the current chunk
	kind    bodyKind
	st      chunkState
	digits  uint8
	line    uint16 // length so far of a chunk's extension or of the trailers
	trailer []byte // the trailer section so far
	done    bool
	// splicing: SpliceMost has said yes once.
	splicing bool
}

type bodyKind uint8

const (
	noBody bodyKind = iota
	lengthBody
	chunkedBody
	untilClose
)

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
)

const (
	maxChunkExt = 4 << 10
	maxTrailer  = 16 << 10
)

// InitRequest makes b ready for a request's body.
func (b *Body) InitRequest(f *Framing) {
	*b = Body{}
	switch {
	case f.Chunked:
		b.kind = chunkedBody
	case f.Length > 0:
		b.kind, b.left = lengthBody, f.Length
	default:
		b.done = true
	}
}

// InitResponse makes b ready for the body of a response to a request of that method (RFC 9112 §6.3).
func (b *Body) InitResponse(method string, status int, f *Framing) {
	*b = Body{}
	switch {
	case method == "HEAD" || status < 200 || status == 204 || status == 304,
		method == "CONNECT" && status < 300:
		b.done = true
	case f.Chunked:
		b.kind = chunkedBody
	case f.Length > 0:
		b.kind, b.left = lengthBody, f.Length
	case f.Length == 0:
		b.done = true
	default:
		b.kind = untilClose
	}
}

// Done says that the body is complete.
func (b *Body) Done() bool { return b.done }

// UntilClose says that the body ends with the connection.
func (b *Body) UntilClose() bool { return b.kind == untilClose }

// Left is what a body with a length still lacks.
func (b *Body) Left() int64 { return b.left }

// SpliceLeast is how much must be left of a body for it to be spliced: below it, copying costs as little (BenchmarkMove in
// sidecar/loop).
const SpliceLeast = 16 << 10

// spliceOn is how much of a body without a length must come at once for it to be spliced.
const spliceOn = 16 << 10

// SpliceMost is how many of the bytes that follow may be passed on unread: the rest of a body with a length that is long,
// or what comes of one without while much comes at once; or 0.
func (b *Body) SpliceMost() int {
	switch {
	case b.done:
	case b.kind == untilClose:
		if b.splicing {
			return 1 << 30
		}
	case b.kind == lengthBody && (b.splicing || b.left >= SpliceLeast):
		b.splicing = true
		return int(min(b.left, 1<<30))
	}
	return 0
}

// Skip tells of n bytes that were passed on unread; it says whether the body is complete.
func (b *Body) Skip(n int) (done bool) {
	if b.kind == untilClose {
		b.splicing = n >= spliceOn
		return false
	}
	b.left -= int64(n)
	b.done = b.left == 0
	return b.done
}

// Next takes bytes from the front of p: it returns the next piece of data, which may be empty, and how many
// bytes of p it used. Call it again with the rest until used is 0 or the body is done.
func (b *Body) Next(p []byte) (data []byte, used int, err *Error) {
	if b.done || len(p) == 0 {
		return nil, 0, nil
	}
	switch b.kind {
	case untilClose:
		b.splicing = len(p) >= spliceOn
		return p, len(p), nil
	case lengthBody:
		n := len(p)
		if int64(n) >= b.left {
			n = int(b.left)
			b.done = true
		}
		b.left -= int64(n)
		return p[:n], n, nil
	}
	i := 0
	for i < len(p) {
		c := p[i]
		switch b.st {
		case chunkSize:
			var v byte
			switch {
			case c-'0' < 10:
				v = c - '0'
			case c|0x20 >= 'a' && c|0x20 <= 'f':
				v = c | 0x20 - 'a' + 10
			case b.digits > 0 && c == ';':
				b.st, b.line = chunkExt, 0
				i++
				continue
			case b.digits > 0 && c == '\r':
				b.st = chunkSizeLF
				i++
				continue
			default:
				return nil, i, errChunk
			}
			if b.digits++; b.digits > 15 {
				return nil, i, errChunk
			}
			b.left = b.left<<4 | int64(v)
			i++
		case chunkExt:
			if b.line++; b.line > maxChunkExt || c != '\t' && c < 0x20 && c != '\r' || c == 0x7f {
				return nil, i, errChunk
			}
			if c == '\r' {
				b.st = chunkSizeLF
			}
			i++
		case chunkSizeLF:
			if c != '\n' {
				return nil, i, errChunk
			}
			i++
			b.st = chunkData
			if b.left == 0 {
				b.st = chunkTrailer
			}
		case chunkData:
			n := len(p) - i
			if int64(n) >= b.left {
				n = int(b.left)
				b.st = chunkDataCR
			}
			b.left -= int64(n)
			return p[i : i+n], i + n, nil
		case chunkDataCR:
			if c != '\r' {
				return nil, i, errChunk
			}
			b.st = chunkDataLF
			i++
		case chunkDataLF:
			if c != '\n' {
				return nil, i, errChunk
			}
			b.st, b.digits, b.left = chunkSize, 0, 0
			i++
		case chunkTrailer:
			for i < len(p) {
				c = p[i]
				b.trailer = append(b.trailer, c)
				i++
				if c != '\n' {
					if len(b.trailer) > maxTrailer {
						return nil, i, errTrailer
					}
					continue
				}
				t := b.trailer
				n := len(t)
				if n < 2 || t[n-2] != '\r' {
					return nil, i, errTrailer
				}
				if n == 2 || t[n-3] == '\n' {
					b.done = true
					return nil, i, nil
				}
			}
		}
	}
	return nil, i, nil
}

// Trailers parses the trailer section of a complete chunked body into h. Fields that may not be trailers
// (RFC 9110 §6.5.1: framing, routing, authentication) are dropped. h's strings point into b.
func (b *Body) Trailers(h *exchange.Header) *Error {
	if len(b.trailer) <= 2 {
		return nil
	}
	var head exchange.Head
	var f Framing
	if n, err := parseFields(b.trailer, 0, &head, &f, Limits{maxTrailer + 2, 100}); err != nil || n != len(b.trailer) {
		return errTrailer
	}
	for _, fl := range head.Header.Fields {
		if !fl.Known.TrailerAllowed() {
			continue
		}
		fl.Start, fl.End = 0, 0
		h.Append(fl)
	}
	return nil
}
