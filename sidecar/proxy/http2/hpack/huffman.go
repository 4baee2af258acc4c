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

// step is what four bits do in one state of the decoder: the next state, and a symbol if one ends there.
type step struct {
	next uint8
	sym  uint8
	flag uint8
}

const (
	stepSymbol = 1 << iota
	stepFail
	stepAccept // the string may end in the next state: only padding is open
)

// steps decodes Huffman strings by half bytes: 256 states, which are the inner nodes of the code's tree.
var steps = buildSteps()

func buildSteps() *[256][16]step {
	type node struct {
		kid [2]int // > 0: node, < 0: -(symbol+1)
	}
	nodes := []node{{}}
	code, prev := uint32(0), 0
	for l := 5; l <= 30; l++ {
		for s := 0; s <= eos; s++ {
			if int(codeLengths[s]) != l {
				continue
			}
			code <<= l - prev
			prev = l
			n := 0
			for b := l - 1; b > 0; b-- {
				k := &nodes[n].kid[code>>b&1]
				if *k == 0 {
					*k = len(nodes)
					nodes = append(nodes, node{})
					k = &nodes[n].kid[code>>b&1]
				}
				n = *k
			}
			nodes[n].kid[code&1] = -(s + 1)
			code++
		}
	}
	// A string may end where at most seven ones, the beginning of EOS, are open.
	accept := map[int]bool{0: true}
	for n, i := 0, 0; i < 7; i++ {
		n = nodes[n].kid[1]
		accept[n] = true
	}
	t := new([256][16]step)
	for n := range nodes {
		for v := range 16 {
			st := step{}
			at := n
			for b := 3; b >= 0; b-- {
				k := nodes[at].kid[v>>b&1]
				if k < 0 {
					if s := -k - 1; s == eos {
						st.flag |= stepFail
					} else {
						st.sym = uint8(s)
						st.flag |= stepSymbol
					}
					at = 0
				} else {
					at = k
				}
			}
			st.next = uint8(at)
			if accept[at] {
				st.flag |= stepAccept
			}
			t[n][v] = st
		}
	}
	return t
}

// appendHuffman decodes src behind dst; false: src is not a valid string.
func appendHuffman(dst, src []byte) ([]byte, bool) {
	state := uint8(0)
	ok := true
	for _, c := range src {
		st := &steps[state][c>>4]
		if st.flag&(stepSymbol|stepFail) != 0 {
			if st.flag&stepFail != 0 {
				return dst, false
			}
			dst = append(dst, st.sym)
		}
		st = &steps[st.next][c&15]
		if st.flag&(stepSymbol|stepFail) != 0 {
			if st.flag&stepFail != 0 {
				return dst, false
			}
			dst = append(dst, st.sym)
		}
		state = st.next
		ok = st.flag&stepAccept != 0
	}
	return dst, ok
}
