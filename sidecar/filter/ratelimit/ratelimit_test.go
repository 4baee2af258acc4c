package ratelimit

import (
	"testing"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/limit"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

type clock struct{ now int64 }

func (*clock) Resume()                                        {}
func (*clock) ResumeAfter(int64)                              {}
func (*clock) Buffer(exchange.Stage, int)                     {}
func (*clock) Transform(exchange.Stage, exchange.Transformer) {}
func (c *clock) Now() int64                                   { return c.now }
func bucket(tokens, burst int64) *limit.Bound {
	return &limit.Bound{Bucket: new(limit.Bucket), Rate: limit.NewRate(tokens, second, burst)}
}
func never() uint64                                    { return 1<<64 - 1 }
func get(x *exchange.Exchange, name string) (v string) { v, _ = x.Resp.Header.Get(name); return v }
func exchangeAt(c *clock) *exchange.Exchange           { return &exchange.Exchange{Ctl: c} }

func TestRefusal(t *testing.T) {
	refused := new(stat.Counter)
	f := New(Config{Bucket: bucket(1, 2), Name: "orders", Quota: 1, Window: 1, Enabled: Million, Enforced: Million, Rand: never, Refused: refused})
	c := &clock{now: second}
	for range 2 {
		x := exchangeAt(c)
		if v := f.Request(x); v != snapshot.Continue {
			t.Fatalf("verdict %v", v)
		}
		if f.Response(x); get(x, "ratelimit") != "" {
			t.Fatal("announced without being told to")
		}
	}
	x := exchangeAt(c)
	if v := f.Request(x); v != snapshot.Respond || x.Resp.Status != 429 || x.Flags != exchange.RateLimited {
		t.Fatalf("verdict %v, status %d, flags %v", v, x.Resp.Status, x.Flags)
	}
	if get(x, "retry-after") != "1" || get(x, "ratelimit") != `"orders";r=0;t=2` || get(x, "ratelimit-policy") != `"orders";q=1;w=1` {
		t.Fatalf("fields %+v", x.Resp.Header.Fields)
	}
	if refused.Value() != 1 {
		t.Fatalf("%d refusals counted", refused.Value())
	}
	c.now += second
	if f.Request(exchangeAt(c)) != snapshot.Continue {
		t.Fatal("refused after Retry-After had passed")
	}
}

func TestAnnounce(t *testing.T) {
	f := New(Config{Bucket: bucket(10, 10), Name: "a", Quota: 10, Window: 1, Enabled: Million, Enforced: Million, Announce: true})
	x := exchangeAt(&clock{now: 5})
	f.Request(x)
	if f.Response(x); get(x, "ratelimit") != `"a";r=9;t=1` {
		t.Fatalf("ratelimit: %s", get(x, "ratelimit"))
	}
}

func TestShares(t *testing.T) {
	for _, tc := range []struct {
		name              string
		enabled, enforced uint32
		want              snapshot.Verdict
		unenforced        uint64
	}{
		{"not enabled", 0, Million, snapshot.Continue, 0},
		{"not enforced", Million, 0, snapshot.Continue, 1},
		{"almost always, by chance not", Million - 1, Million, snapshot.Continue, 0},
		{"always", Million, Million, snapshot.Respond, 0},
	} {
		u := new(stat.Counter)
		b := bucket(1, 1)
		b.Take(0)
		f := New(Config{Bucket: b, Enabled: tc.enabled, Enforced: tc.enforced, Rand: never, Unenforced: u})
		if v := f.Request(exchangeAt(&clock{})); v != tc.want || u.Value() != tc.unenforced {
			t.Errorf("%s: verdict %v, unenforced %d", tc.name, v, u.Value())
		}
	}
}

func TestNoAllocation(t *testing.T) {
	for _, burst := range []int64{1, 1 << 40} { // always refused, always let through
		f := New(Config{Bucket: bucket(1, burst), Name: "orders", Quota: 1, Window: 1, Enabled: Million, Enforced: Million, Announce: true})
		x := exchangeAt(&clock{now: second})
		if a := testing.AllocsPerRun(100, func() {
			c := x.Ctl
			x.Reset()
			x.ClearSlots(1)
			x.Ctl = c
			f.Request(x)
			f.Response(x)
			f.End(x)
		}); a != 0 {
			t.Errorf("burst %d: %v allocations", burst, a)
		}
	}
}

func TestPack(t *testing.T) {
	for _, tc := range [][2]int64{{0, 0}, {7, 3}, {1<<31 - 1, 1<<31 - 1}} {
		r, f := unpack(pack(tc[0], tc[1]*second))
		if r != tc[0] || f != tc[1] || pack(tc[0], tc[1]) == 0 {
			t.Errorf("%v became %d, %d", tc, r, f)
		}
	}
}
