package hpack

// The Huffman code of RFC 7541, Appendix B. It is canonical: codes of one length are consecutive in the order
// of their symbols, so the lengths are all there is to know.
const codeLengths = "\x0d\x17\x1c\x1c\x1c\x1c\x1c\x1c\x1c\x18\x1e\x1c\x1c\x1e\x1c\x1c\x1c\x1c\x1c\x1c\x1c\x1c\x1e\x1c\x1c\x1c\x1c\x1c\x1c\x1c\x1c\x1c" +
	"\x06\x0a\x0a\x0c\x0d\x06\x08\x0b\x0a\x0a\x08\x0b\x08\x06\x06\x06\x05\x05\x05\x06\x06\x06\x06\x06\x06\x06\x07\x08\x0f\x06\x0c\x0a" +
	"\x0d\x06\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x08\x07\x08\x0d\x13\x0d\x0e\x06" +
	"\x0f\x05\x06\x05\x06\x05\x06\x06\x06\x05\x07\x07\x06\x06\x06\x05\x06\x07\x06\x05\x05\x06\x07\x07\x07\x07\x07\x0f\x0b\x0e\x0d\x1c" +
	"\x14\x16\x14\x14\x16\x16\x16\x17\x16\x17\x17\x17\x17\x17\x18\x17\x18\x18\x16\x17\x18\x17\x17\x17\x17\x15\x16\x17\x16\x17\x17\x18" +
	"\x16\x15\x14\x16\x16\x17\x17\x15\x17\x16\x16\x18\x15\x16\x17\x17\x15\x15\x16\x15\x17\x16\x17\x17\x14\x16\x16\x16\x17\x16\x16\x17" +
	"\x1a\x1a\x14\x13\x16\x17\x16\x19\x1a\x1a\x1a\x1b\x1b\x1a\x18\x19\x13\x15\x1a\x1b\x1b\x1a\x1b\x18\x15\x15\x1a\x1a\x1c\x1b\x1b\x1b" +
	"\x14\x18\x14\x15\x16\x15\x15\x17\x16\x16\x19\x19\x18\x18\x1a\x17\x1a\x1b\x1a\x1a\x1b\x1b\x1b\x1b\x1b\x1c\x1b\x1b\x1b\x1b\x1b\x1a" +
	"\x1e"

const eos = 256

// The decoder takes a code of up to quickBits bits, which is every character of an ordinary field, by one lookup, and a longer
// one by its length: among codes of one length, the first and the place of its symbol tell all.
const quickBits = 8

// quickCode is what a string that begins with some eight bits begins with: a symbol and its code's length, 0 for a longer code.
type quickCode struct{ sym, bits uint8 }

// huffmanTable is the code by length. codes[l].first is the first code of l bits, of which there are n; their symbols are
// symbols[at:at+n].
type huffmanTable struct {
	quick   [1 << quickBits]quickCode
	codes   [31]struct{ first, n, at uint32 }
	symbols [eos + 1]uint16
}

var huffman = buildHuffman()

func buildHuffman() *huffmanTable {
	t := &huffmanTable{}
	code, at := uint32(0), uint32(0)
	for l := 5; l <= 30; l++ {
		code <<= 1
		c := &t.codes[l]
		c.first, c.at = code, at
		for s := 0; s <= eos; s++ {
			if int(codeLengths[s]) != l {
				continue
			}
			if l <= quickBits {
				low := code << (quickBits - l)
				for i := low; i < low+1<<(quickBits-l); i++ {
					t.quick[i] = quickCode{uint8(s), uint8(l)}
				}
			}
			t.symbols[at] = uint16(s)
			code++
			at++
		}
		c.n = at - c.at
	}
	return t
}

// appendHuffman decodes src behind dst; false: src is not a valid string (RFC 7541, section 5.2: it holds EOS, or its padding is
// longer than seven bits or not of ones).
func appendHuffman(dst, src []byte) ([]byte, bool) {
	t := huffman
	acc, bits := uint64(0), uint(0) // the next bits, from the highest on
	for {
		if len(src) >= 8 { // bits beyond those that are counted are the same ones again next time
			acc |= bigEndian(src) >> bits
			n := (64 - bits) >> 3
			src = src[n:]
			bits += n << 3
		} else {
			for bits <= 56 && len(src) > 0 {
				acc |= uint64(src[0]) << (56 - bits)
				src = src[1:]
				bits += 8
			}
		}
		for {
			q := t.quick[acc>>(64-quickBits)]
			if q.bits == 0 || uint(q.bits) > bits {
				break
			}
			dst = append(dst, q.sym)
			acc <<= q.bits
			bits -= uint(q.bits)
		}
		if len(src) > 0 && bits < 30 {
			continue
		}
		if bits < 8 && acc>>(64-bits) == 1<<bits-1 {
			return dst, true
		}
		sym, l := t.long(acc)
		if l > bits || sym == eos {
			return dst, false
		}
		dst = append(dst, uint8(sym))
		acc <<= l
		bits -= l
	}
}

// long decodes a code of more than quickBits bits.
func (t *huffmanTable) long(acc uint64) (sym uint16, bits uint) {
	for l := uint(quickBits + 1); l <= 30; l++ {
		c := &t.codes[l]
		if i := uint32(acc>>(64-l)) - c.first; i < c.n {
			return t.symbols[c.at+i], l
		}
	}
	return eos, 30
}

// bigEndian is one load: encoding/binary's, which has no place on the hot path for what it links.
func bigEndian(b []byte) uint64 {
	_ = b[7]
	return uint64(b[7]) | uint64(b[6])<<8 | uint64(b[5])<<16 | uint64(b[4])<<24 |
		uint64(b[3])<<32 | uint64(b[2])<<40 | uint64(b[1])<<48 | uint64(b[0])<<56
}
