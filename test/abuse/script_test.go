package abuse

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
)

// script is HTTP/2 frames, one a line. ID may be $s, which is 1 + 2 × the round of the innermost repeat (in an answer, outside
// of one: the request's stream, which is $1 everywhere); strings are Go's, with ${"x"*N} as in expand where they stand bare.
//
//	preface                                  the client's preface and empty SETTINGS
//	settings [ID=VALUE …], settings ack
//	headers ID [end] [more] FIELD …          FIELD is "name=value", or get:/path, post:/path for a request's pseudo fields;
//	                                         more: CONTINUATION follows
//	block ID [end] BYTES                     HEADERS with that very header block
//	continuation ID [end] FIELD …            end: the last one
//	data ID [end] [pad=N] BYTES
//	rst ID CODE · ping · goaway · priority ID DEPENDENCY · window ID N
//	frame TYPE FLAGS ID BYTES                any frame
//	raw BYTES
//	close                                    end our half
//	repeat N / done                          the lines between, N times
type script struct {
	out       bytes.Buffer
	answering uint32 // $1
	fr        *http2.Framer
	close     bool
}

func assemble(text string, stream uint32) (*script, error) {
	s := &script{answering: stream}
	s.fr = http2.NewFramer(&s.out, nil)
	s.fr.AllowIllegalWrites = true
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if _, err := s.run(lines, stream); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *script) run(lines []string, stream uint32) (int, error) {
	for i := 0; i < len(lines); i++ {
		words, err := split(lines[i])
		if err != nil {
			return i, fmt.Errorf("%q: %w", lines[i], err)
		}
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "done":
			return i, nil
		case "repeat":
			n, err := strconv.Atoi(words[1])
			if err != nil {
				return i, err
			}
			end := 0
			for k := range n {
				if end, err = s.run(lines[i+1:], uint32(1+2*k)); err != nil {
					return i, err
				}
			}
			i += 1 + end
		default:
			if err := s.line(words, stream); err != nil {
				return i, fmt.Errorf("%q: %w", lines[i], err)
			}
		}
	}
	return len(lines), nil
}

// split cuts a line into words; quoted parts of a word are Go strings.
func split(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != "" && line[0] != '#'; line = strings.TrimSpace(line) {
		if line[0] == '"' {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, err
			}
			w, err := strconv.Unquote(q)
			if err != nil {
				return nil, err
			}
			words = append(words, w)
			line = line[len(q):]
			continue
		}
		w, rest, _ := strings.Cut(line, " ")
		b, err := expand(w)
		if err != nil {
			return nil, err
		}
		words = append(words, string(b))
		line = rest
	}
	return words, nil
}

func (s *script) line(w []string, stream uint32) error {
	num := func(i int) uint32 {
		if i >= len(w) {
			return 0
		}
		if w[i] == "$1" {
			return s.answering
		}
		if w[i] == "$s" {
			return stream
		}
		n, _ := strconv.ParseUint(w[i], 0, 32)
		return uint32(n)
	}
	rest := func(i int) (opts map[string]string, args []string) {
		opts = map[string]string{}
		for ; i < len(w); i++ {
			switch k, v, _ := strings.Cut(w[i], "="); k {
			case "end", "more", "pad":
				opts[k] = v
			default:
				return opts, w[i:]
			}
		}
		return opts, nil
	}
	switch w[0] {
	case "preface":
		s.out.WriteString(http2.ClientPreface)
		return s.fr.WriteSettings()
	case "settings":
		if len(w) > 1 && w[1] == "ack" {
			return s.fr.WriteSettingsAck()
		}
		var set []http2.Setting
		for _, kv := range w[1:] {
			k, v, _ := strings.Cut(kv, "=")
			id, err := strconv.ParseUint(k, 0, 16)
			if err != nil {
				return err
			}
			val, err := strconv.ParseUint(v, 0, 32)
			if err != nil {
				return err
			}
			set = append(set, http2.Setting{ID: http2.SettingID(id), Val: uint32(val)})
		}
		return s.fr.WriteSettings(set...)
	case "headers", "continuation":
		opts, args := rest(2)
		_, end := opts["end"]
		_, more := opts["more"]
		b, err := block(args)
		if err != nil {
			return err
		}
		if w[0] == "continuation" {
			return s.fr.WriteContinuation(num(1), end, b)
		}
		return s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: num(1), BlockFragment: b, EndStream: end, EndHeaders: !more})
	case "block":
		opts, args := rest(2)
		_, end := opts["end"]
		return s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: num(1), BlockFragment: []byte(strings.Join(args, "")), EndStream: end, EndHeaders: true})
	case "data":
		opts, args := rest(2)
		_, end := opts["end"]
		b := []byte(strings.Join(args, ""))
		if p, ok := opts["pad"]; ok {
			n, err := strconv.Atoi(p)
			if err != nil {
				return err
			}
			return s.fr.WriteDataPadded(num(1), end, b, make([]byte, n))
		}
		return s.fr.WriteData(num(1), end, b)
	case "rst":
		code, err := errCode(w[2])
		if err != nil {
			return err
		}
		return s.fr.WriteRSTStream(num(1), code)
	case "ping":
		return s.fr.WritePing(false, [8]byte{})
	case "goaway":
		return s.fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	case "priority":
		return s.fr.WritePriority(num(1), http2.PriorityParam{StreamDep: num(2)})
	case "window":
		b := binary.BigEndian.AppendUint32(nil, num(2))
		return s.fr.WriteRawFrame(http2.FrameWindowUpdate, 0, num(1), b)
	case "frame":
		_, args := rest(4)
		return s.fr.WriteRawFrame(http2.FrameType(num(1)), http2.Flags(num(2)), num(3), []byte(strings.Join(args, "")))
	case "raw":
		s.out.WriteString(strings.Join(w[1:], ""))
		return nil
	case "close":
		s.close = true
		return nil
	}
	return fmt.Errorf("unknown verb %q", w[0])
}

// block is a header block of literal fields, as they are given: nothing is put in order or in lower case.
func block(fields []string) ([]byte, error) {
	var b []byte
	lit := func(name, value string) {
		b = append(b, 0)
		b = appendString(appendString(b, name), value)
	}
	for _, f := range fields {
		method, path, ok := strings.Cut(f, ":/")
		if ok && (method == "get" || method == "post") {
			lit(":method", strings.ToUpper(method))
			lit(":scheme", "http")
			lit(":authority", "a.test")
			lit(":path", "/"+path)
			continue
		}
		i := strings.IndexByte(f, '=')
		if i < 0 {
			return nil, fmt.Errorf("field %q has no =", f)
		}
		lit(f[:i], f[i+1:])
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		return append(append(b, byte(n)), s...)
	}
	b = append(b, 127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(append(b, byte(n)), s...)
}

func errCode(name string) (http2.ErrCode, error) {
	for c := http2.ErrCodeNo; c <= http2.ErrCodeHTTP11Required; c++ {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("unknown error code %q", name)
}
