package upstream

import (
	"errors"
	"testing"

	"github.com/outrigger-mesh/outrigger/balancer"
	"github.com/outrigger-mesh/outrigger/balancer/roundrobin"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

type fakeConn struct{ room int }

func (c *fakeConn) Capacity() int { return c.room }
func (c *fakeConn) Drain()        {}

// fakeDialer begins connections while err is nil.
type fakeDialer struct {
	err   error
	began int
}

func (d *fakeDialer) Connect(*loop.Loop, *Host, snapshot.Protocol, loop.Handler) (*loop.Conn, error) {
	return nil, errors.New("a fake makes no connection")
}

func (d *fakeDialer) Dial(*Pool, snapshot.Protocol) (Conn, error) {
	if d.err != nil {
		return nil, d.err
	}
	d.began++
	return &fakeConn{}, nil
}

type fakeWaiter struct {
	got  Conn
	flag exchange.Flag
}

func (w *fakeWaiter) PoolReady(c Conn) {
	w.got = c
	c.(*fakeConn).room--
}
func (w *fakeWaiter) PoolFailed(f exchange.Flag, _ string) { w.flag = f }

func newPool(t *testing.T, d Dialer, cfg snapshot.Cluster) (*Pool, *Cluster) {
	t.Helper()
	l := &loop.Loop{}
	tb := NewTable([]*loop.Loop{l}, balancer.Deps{Now: loop.Nanotime, Rand: balancer.DefaultRand})
	cfg.Name, cfg.Strategy = "c", roundrobin.Strategy{}
	if err := tb.SetCluster(&cfg); err != nil {
		t.Fatal(err)
	}
	if err := tb.SetEndpoints("c", []snapshot.EndpointSpec{{Address: "127.0.0.1:1", Weight: 1}}); err != nil {
		t.Fatal(err)
	}
	c := tb.Cluster("c")
	return c.Hosts()[0].Pool(l, d), c
}

func books(t *testing.T, c *Cluster, pending, conns int64) {
	t.Helper()
	if c.Pending() != pending || c.Connections() != conns {
		t.Fatalf("pending %d, connections %d; want %d, %d", c.Pending(), c.Connections(), pending, conns)
	}
}

// Nobody is left waiting where no connection is being made and none can become free.
func TestNoWaiterIsForgotten(t *testing.T) {
	for _, proto := range []snapshot.Protocol{snapshot.HTTP1, snapshot.HTTP2} {
		d := &fakeDialer{}
		p, c := newPool(t, d, snapshot.Cluster{MaxConnections: 1})
		ws := make([]fakeWaiter, 3)
		for i := range ws {
			p.Acquire(proto, &ws[i])
		}
		books(t, c, 3, 1)
		d.err = errors.New("no such socket")
		p.DialFailed(proto, nil, "refused")
		for i := range ws {
			if ws[i].flag != exchange.UpstreamConnectionFailure {
				t.Errorf("protocol %d: waiter %d got %v", proto, i, ws[i].flag)
			}
		}
		books(t, c, 0, 0)
	}
}

// Connections are made for those that wait, not for those that have given up.
func TestCancelledWaitersDialNothing(t *testing.T) {
	d := &fakeDialer{}
	p, c := newPool(t, d, snapshot.Cluster{})
	ws := make([]fakeWaiter, 3)
	for i := range ws {
		p.Acquire(snapshot.HTTP1, &ws[i])
	}
	for i := range ws {
		if !p.Cancel(snapshot.HTTP1, &ws[i]) || p.Cancel(snapshot.HTTP1, &ws[i]) {
			t.Fatal("cancelled not once")
		}
	}
	books(t, c, 0, 3)
	for range ws {
		p.DialFailed(snapshot.HTTP1, nil, "refused")
	}
	books(t, c, 0, 0)
	if d.began != 3 {
		t.Fatalf("%d connections were begun", d.began)
	}
}

// A connection goes from one waiter to the next, and to the pool when nobody waits.
func TestRelease(t *testing.T) {
	d := &fakeDialer{}
	p, c := newPool(t, d, snapshot.Cluster{MaxConnections: 1})
	ws := make([]fakeWaiter, 3)
	for i := range ws {
		p.Acquire(snapshot.HTTP1, &ws[i])
	}
	p.Cancel(snapshot.HTTP1, &ws[1])
	conn := &fakeConn{}
	p.Connected(snapshot.HTTP1, conn)
	if ws[0].got != conn || ws[2].got != nil {
		t.Fatal("not in their order")
	}
	p.Release(conn)
	if ws[1].got != nil || ws[2].got != conn {
		t.Fatal("the one who had given up got it")
	}
	p.Release(conn)
	books(t, c, 0, 1)
	if p.Idle() != 1 {
		t.Fatal(p.Idle())
	}
	p.Gone(snapshot.HTTP1, conn)
	books(t, c, 0, 0)
}

// Streams that wait share a connection as far as it has room.
func TestMultiplexed(t *testing.T) {
	d := &fakeDialer{}
	p, c := newPool(t, d, snapshot.Cluster{})
	ws := make([]fakeWaiter, 5)
	for i := range ws {
		p.Acquire(snapshot.HTTP2, &ws[i])
	}
	books(t, c, 5, 1)
	conn := &fakeConn{room: 3}
	p.Connected(snapshot.HTTP2, conn)
	books(t, c, 2, 2) // another one is being made for the rest
	p.DialFailed(snapshot.HTTP2, nil, "refused")
	books(t, c, 0, 1)
	p.Draining(snapshot.HTTP2, conn)
	p.Gone(snapshot.HTTP2, conn)
	books(t, c, 0, 0)
}

// Connections made ahead are there for whoever comes next, and what cannot be had of them fails nobody.
func TestPreconnect(t *testing.T) {
	d := &fakeDialer{}
	p, c := newPool(t, d, snapshot.Cluster{Preconnect: 2, MaxConnections: 5})
	var first, second, third fakeWaiter
	p.Acquire(snapshot.HTTP1, &first)
	if d.began != 2 {
		t.Fatalf("%d connections begun for the first exchange, want 2", d.began)
	}
	a, b := &fakeConn{room: 1}, &fakeConn{room: 1}
	p.Connected(snapshot.HTTP1, a)
	p.Connected(snapshot.HTTP1, b)
	if first.got != a || p.Idle() != 1 {
		t.Fatalf("the first exchange got %v, %d idle", first.got, p.Idle())
	}
	p.Acquire(snapshot.HTTP1, &second)
	if second.got != b || d.began != 4 {
		t.Fatalf("the second exchange got %v, %d begun; want the one that was ready, and 4", second.got, d.began)
	}
	p.DialFailed(snapshot.HTTP1, nil, "refused")
	p.DialFailed(snapshot.HTTP1, nil, "refused")
	books(t, c, 0, 2)
	d.err = errors.New("no such socket")
	p.Acquire(snapshot.HTTP1, &third)
	if third.flag != exchange.UpstreamConnectionFailure {
		t.Fatalf("the third exchange got %v, %v", third.got, third.flag)
	}
	books(t, c, 0, 2)
	if n := c.Overflow(LimitConnections); n != 0 {
		t.Errorf("overflow counted %d times", n)
	}
}

// No more is made ahead than the limit allows, and reaching it so is no overflow.
func TestPreconnectWithinLimits(t *testing.T) {
	d := &fakeDialer{}
	p, c := newPool(t, d, snapshot.Cluster{Preconnect: 3, MaxConnections: 2})
	var w fakeWaiter
	p.Acquire(snapshot.HTTP1, &w)
	books(t, c, 1, 2)
	var m fakeWaiter
	p.Acquire(snapshot.HTTP2, &m) // no room for one of this protocol
	if d.began != 2 || m.flag != exchange.UpstreamOverflow {
		t.Errorf("%d begun, flag %v", d.began, m.flag)
	}
}
