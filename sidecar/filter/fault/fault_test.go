package fault

import (
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// timer records what the filter asked for.
type timer struct{ after int64 }

func (*timer) Resume()                                        {}
func (t *timer) ResumeAfter(ns int64)                         { t.after = ns }
func (*timer) Buffer(exchange.Stage, int)                     {}
func (*timer) Transform(exchange.Stage, exchange.Transformer) {}
func (*timer) Now() int64                                     { return 0 }

func zero() uint64 { return 0 }
func high() uint64 { return 1<<64 - 1 }

func TestDelayThenAbort(t *testing.T) {
	c := Config{
		Delay: 250 * time.Millisecond, DelayShare: Million, AbortStatus: 503, AbortShare: Million, Rand: zero,
		Active: new(stat.Gauge), Delayed: new(stat.Counter), Aborted: new(stat.Counter),
	}
	f, ctl := New(c), &timer{}
	x := &exchange.Exchange{Ctl: ctl}
	if v := f.Request(x); v != snapshot.Suspend || ctl.after != int64(c.Delay) || c.Active.Value() != 1 {
		t.Fatalf("verdict %v, timer %d, active %d", v, ctl.after, c.Active.Value())
	}
	if v := f.Request(x); v != snapshot.Respond || x.Resp.Status != 503 || x.Flags != exchange.DelayInjected|exchange.FaultInjected {
		t.Fatalf("verdict %v, status %d, flags %v", v, x.Resp.Status, x.Flags)
	}
	f.Response(x)
	f.End(x)
	if c.Active.Value() != 0 || c.Delayed.Value() != 1 || c.Aborted.Value() != 1 {
		t.Fatalf("active %d, delayed %d, aborted %d", c.Active.Value(), c.Delayed.Value(), c.Aborted.Value())
	}
}

func TestCancelWhileDelayed(t *testing.T) {
	c := Config{Delay: time.Second, DelayShare: Million, Active: new(stat.Gauge), Rand: zero}
	f, x := New(c), &exchange.Exchange{Ctl: &timer{}}
	f.Request(x)
	f.End(x)
	if c.Active.Value() != 0 {
		t.Fatal("a cancelled exchange keeps its place")
	}
}

func TestMaxActive(t *testing.T) {
	c := Config{Delay: time.Second, DelayShare: Million, MaxActive: 1, Active: new(stat.Gauge), Rand: zero, Overflowed: new(stat.Counter)}
	f := New(c)
	a, b := &exchange.Exchange{Ctl: &timer{}}, &exchange.Exchange{Ctl: &timer{}}
	if f.Request(a) != snapshot.Suspend || f.Request(b) != snapshot.Continue {
		t.Fatal("the bound does not hold")
	}
	f.End(b)
	f.End(a)
	if c.Active.Value() != 0 || c.Overflowed.Value() != 1 {
		t.Fatalf("active %d, overflowed %d", c.Active.Value(), c.Overflowed.Value())
	}
}

func TestChanceAndConditions(t *testing.T) {
	cond := []snapshot.HeaderMatch{{Name: "x-chaos"}}
	for _, tc := range []struct {
		name   string
		c      Config
		header bool
		grpc   bool
		want   snapshot.Verdict
		status int
		code   string
	}{
		{"by chance not", Config{AbortStatus: 500, AbortShare: Million / 2, Rand: high}, false, false, snapshot.Continue, 0, ""},
		{"by chance", Config{AbortStatus: 500, AbortShare: 1, Rand: zero}, false, false, snapshot.Respond, 500, ""},
		{"condition fails", Config{AbortStatus: 500, AbortShare: Million, Headers: cond}, false, false, snapshot.Continue, 0, ""},
		{"condition holds", Config{AbortStatus: 500, AbortShare: Million, Headers: cond}, true, false, snapshot.Respond, 500, ""},
		{"gRPC code to gRPC", Config{GRPC: true, AbortGRPC: 14, AbortShare: Million}, false, true, snapshot.Respond, 200, "14"},
		{"gRPC code to HTTP", Config{GRPC: true, AbortGRPC: 14, AbortShare: Million}, false, false, snapshot.Respond, 503, ""},
		{"nothing configured", Config{}, false, false, snapshot.Continue, 0, ""},
	} {
		x := &exchange.Exchange{Ctl: &timer{}, GRPC: tc.grpc}
		if tc.header {
			x.Req.Header.Add("x-chaos", "1")
		}
		v := New(tc.c).Request(x)
		code, _ := x.Resp.Header.GetKnown(exchange.GRPCStatus)
		if v != tc.want || x.Resp.Status != tc.status || code != tc.code {
			t.Errorf("%s: verdict %v, status %d, code %q", tc.name, v, x.Resp.Status, code)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	f := New(Config{Delay: time.Second, DelayShare: Million, AbortStatus: 503, AbortShare: Million, Active: new(stat.Gauge), Rand: zero})
	ctl := &timer{}
	x := &exchange.Exchange{Ctl: ctl}
	if a := testing.AllocsPerRun(100, func() {
		x.Reset()
		x.ClearSlots(1)
		f.Request(x)
		f.Request(x)
		f.End(x)
	}); a != 0 {
		t.Fatalf("%v allocations", a)
	}
}
