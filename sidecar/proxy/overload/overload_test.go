package overload

import (
	"testing"
	"time"
)

const ms = int64(time.Millisecond)

func TestCodel(t *testing.T) {
	for _, tc := range []struct {
		name string
		// delay at a time, sampled every 5 ms for a second
		delay func(at int64) int64
		least uint32 // of the share at the end
		most  uint32
	}{
		{"no queue", func(int64) int64 { return 0 }, 0, 0},
		{"a queue below the target", func(int64) int64 { return 49 * ms }, 0, 0},
		{"bursts that drain", func(at int64) int64 { return at % (400 * ms) }, 0, 0},
		{"a queue that stands", func(int64) int64 { return 60 * ms }, Whole / 3, Whole / 2},
		{"far behind", func(int64) int64 { return 500 * ms }, Whole / 2, Whole - 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Codel{Target: 50 * ms, Interval: 500 * ms}
			now := 1000 * ms
			for at := int64(0); at <= 1000*ms; at += 5 * ms {
				c.Sample(now+at, tc.delay(at))
			}
			if s := c.Share(now + 1000*ms); s < tc.least || s > tc.most {
				t.Fatalf("share %d, want from %d to %d", s, tc.least, tc.most)
			}
		})
	}
}

// The share falls when the queue has drained, and is nothing after a rest.
func TestCodelRecovers(t *testing.T) {
	c := Codel{Target: 50 * ms, Interval: 500 * ms}
	now := 1000 * ms
	for ; now < 20_000*ms; now += 5 * ms {
		c.Sample(now, 300*ms)
	}
	high := c.Share(now)
	if high != mostRefused {
		t.Fatalf("share %d after 19 s, want %d", high, mostRefused)
	}
	rested := c
	rested.Sample(now, 0)
	for end := now + 10_000*ms; now < end; now += 5 * ms {
		c.Sample(now, 0)
	}
	if s := c.Share(now); s != 0 {
		t.Fatalf("share %d ten seconds after the queue drained", s)
	}
	if s := rested.Share(now); s != 0 {
		t.Fatalf("share %d after a rest", s)
	}
}

func TestUpdate(t *testing.T) {
	c := Default(100<<20, 1256)
	if c.MaxConnections != 500 || c.MaxBuffers != 25<<20 {
		t.Fatalf("%+v", c)
	}
	m := New(c)
	for _, tc := range []struct {
		heap                 uint64
		connections, buffers int64
		want                 [NumActions]uint32
	}{
		{50 << 20, 100, 1 << 20, [NumActions]uint32{}},
		{80 << 20, 0, 0, [NumActions]uint32{NoKeepalive: Whole}},
		{96 << 20, 0, 0, [NumActions]uint32{StopRequests: Whole, NoKeepalive: Whole, RejectConnections: Whole}},
		{0, 500, 0, [NumActions]uint32{RejectConnections: Whole}},
		{0, 0, 25 << 20, [NumActions]uint32{StopRequests: Whole, ResetStalled: Whole}},
	} {
		m.Update(tc.heap, tc.connections, tc.buffers)
		for a, want := range tc.want {
			if got := m.Share(Action(a)); got != want {
				t.Errorf("%+v: %s %d, want %d", tc, Action(a).Name(), got, want)
			}
		}
	}
	m.Update(0, 0, 25<<20*95/100) // between threshold and saturation
	if s := m.Share(StopRequests); s < Whole*4/10 || s > Whole*6/10 {
		t.Errorf("scaled share %d, want about a half", s)
	}
	if !m.Full(501) || m.Full(500) {
		t.Error("full at the wrong number")
	}
}
