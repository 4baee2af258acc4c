package tlsconn

// Hello is what a ClientHello says about where a connection belongs.
type Hello struct {
	// ServerName is the name asked for (SNI), in lower case; "" for none.
	ServerName string
	// ALPN are the protocols offered, in the client's order.
	ALPN []string
}

// MaxHello is how long a ClientHello may be, its records' headers included: post-quantum key shares and a session ticket
// come to some 4 KiB.
const MaxHello = 16 << 10

const (
	recordHandshake   = 22
	helloType         = 1
	extServerName     = 0
	extALPN           = 16
	recordHeader      = 5
	maxHandshakeBytes = MaxHello
)

// ParseHello looks at the beginning of a connection. more says that b may become a ClientHello with more bytes; an error
// is ErrNotTLS. What is odd within a whole ClientHello is left for crypto/tls to refuse. (RFC 8446 §4.1.2, §5.1)
func ParseHello(b []byte) (h Hello, more bool, err error) {
	var msg []byte // the handshake message, gathered from its records
	for rest := b; ; {
		switch {
		case len(rest) > 0 && rest[0] != recordHandshake, len(rest) > 1 && rest[1] != 3:
			return h, false, ErrNotTLS
		case len(rest) < recordHeader:
			return h, true, nil
		}
		n := int(rest[3])<<8 | int(rest[4])
		if n == 0 || n > 16<<10 {
			return h, false, ErrNotTLS
		}
		got := min(n, len(rest)-recordHeader)
		if msg == nil {
			msg = rest[recordHeader : recordHeader+got : recordHeader+got]
		} else {
			msg = append(msg, rest[recordHeader:recordHeader+got]...)
		}
		if len(msg) > 0 && msg[0] != helloType {
			return h, false, ErrNotTLS
		}
		if len(msg) >= 4 {
			whole := 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
			if whole > maxHandshakeBytes {
				return h, false, ErrNotTLS
			}
			if len(msg) >= whole {
				return parseHello(msg[4:whole]), false, nil
			}
		}
		if got < n {
			return h, true, nil
		}
		rest = rest[recordHeader+n:]
	}
}

// parseHello reads the body of a ClientHello as far as it is well formed.
func parseHello(b []byte) (h Hello) {
	r := reader{b}
	r.skip(2 + 32)       // version, random
	r.skip(int(r.u8()))  // session id
	r.skip(int(r.u16())) // cipher suites
	r.skip(int(r.u8()))  // compression methods
	x := reader{r.take(int(r.u16()))}
	for len(x.b) >= 4 {
		typ := x.u16()
		body := reader{x.take(int(x.u16()))}
		switch typ {
		case extServerName:
			l := reader{body.take(int(body.u16()))}
			for len(l.b) >= 3 {
				kind := l.u8()
				name := l.take(int(l.u16()))
				if kind == 0 {
					h.ServerName = lower(name)
				}
			}
		case extALPN:
			l := reader{body.take(int(body.u16()))}
			for len(l.b) >= 2 {
				if p := l.take(int(l.u8())); len(p) > 0 {
					h.ALPN = append(h.ALPN, string(p))
				}
			}
		}
	}
	return h
}

// reader takes numbers and pieces from the front; from beyond the end it takes nothing.
type reader struct{ b []byte }

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b = nil
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) u8() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return uint16(p[0])<<8 | uint16(p[1])
	}
	return 0
}

func lower(b []byte) string {
	out := make([]byte, len(b))
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		out[i] = c
	}
	return string(out)
}
