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
