package http2

import "github.com/outrigger-mesh/outrigger/sidecar/loop"

// maxSpare bounds what an idle loop keeps of streams, about 200 bytes each.
const maxSpare = 2048

// Streams recycles the streams of the connections on one loop, so that an exchange allocates none. It belongs to its loop.
type Streams struct {
	lp   *loop.Loop
	free *stream
	n    int
	dead []*stream
}

// NewStreams makes the pool of a loop.
func NewStreams(lp *loop.Loop) *Streams { return &Streams{lp: lp} }

func (p *Streams) get() *stream {
	st := p.free
	if st == nil {
		return new(stream)
	}
	p.free, st.next = st.next, nil
	p.n--
	return st
}

// bury has a closed stream recycled when the event is over: callers further up the stack may still look at it.
func (p *Streams) bury(st *stream) {
	if st.buried {
		return
	}
	st.buried = true
	p.dead = append(p.dead, st)
	if len(p.dead) == 1 {
		p.lp.Defer(p)
	}
}

// RunOnLoop recycles what nobody holds any more; the loop calls it after an event. What its exchange or the list of
// waiters still holds is buried again when they let go of it.
func (p *Streams) RunOnLoop() {
	for i, st := range p.dead {
		p.dead[i] = nil
		st.buried = false
		if st.s != nil || st.waiting || p.n >= maxSpare {
			continue
		}
		*st = stream{next: p.free}
		p.free = st
		p.n++
	}
	p.dead = p.dead[:0]
}
