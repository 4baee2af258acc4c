package backoff

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDelay(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name string
		p    Policy
		want []time.Duration
	}{
		{"zero", Policy{}, []time.Duration{0, 0, 0}},
		{"linear", Policy{Kind: Linear, Base: 10 * ms, Max: 35 * ms}, []time.Duration{10 * ms, 20 * ms, 30 * ms, 35 * ms, 35 * ms}},
		{"exponential", Policy{Kind: Exponential, Base: 10 * ms, Max: 50 * ms}, []time.Duration{10 * ms, 20 * ms, 40 * ms, 50 * ms, 50 * ms}},
		{"default kind", Policy{Base: 10 * ms}, []time.Duration{10 * ms, 20 * ms, 40 * ms, 80 * ms}},
		{"fibonacci", Policy{Kind: Fibonacci, Base: 10 * ms, Max: 70 * ms}, []time.Duration{10 * ms, 10 * ms, 20 * ms, 30 * ms, 50 * ms, 70 * ms}},
		{"no jitter without randomness", Policy{Base: 10 * ms, Jitter: Full}, []time.Duration{10 * ms}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, want := range tc.want {
				if got := tc.p.Delay(i+1, nil); got != want {
					t.Errorf("try %d: %v, want %v", i+1, got, want)
				}
			}
			if got := tc.p.Delay(0, nil); got != tc.want[0] {
				t.Errorf("try 0: %v, want as try 1: %v", got, tc.want[0])
			}
		})
	}
}

func TestDelayStaysInBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{
			Kind:   rapid.SampledFrom([]Kind{Linear, Exponential, Fibonacci}).Draw(t, "kind"),
			Base:   time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "base")),
			Max:    time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "max")),
			Jitter: rapid.SampledFrom([]Jitter{None, Full}).Draw(t, "jitter"),
		}
		r := rand.New(rand.NewPCG(1, 2))
		n := rapid.IntRange(-3, 10000).Draw(t, "n")
		whole := Policy{Kind: p.Kind, Base: p.Base, Max: p.Max}
		a, b := whole.Delay(n, nil), whole.Delay(n+1, nil)
		if a > b {
			t.Fatalf("try %d waits %v, the next less: %v", n, a, b)
		}
		d := p.Delay(n, r)
		if d < 0 || p.Max > 0 && d > p.Max || d > a {
			t.Fatalf("%+v try %d: %v", p, n, d)
		}
	})
}

func TestJitterIsSeeded(t *testing.T) {
	p := Policy{Base: time.Second, Jitter: Full}
	a, b := rand.New(rand.NewPCG(7, 7)), rand.New(rand.NewPCG(7, 7))
	different := false
	for n := 1; n < 10; n++ {
		x, y := p.Delay(n, a), p.Delay(n, b)
		if x != y {
			t.Fatalf("one seed gave %v and %v", x, y)
		}
		different = different || x != p.Delay(n, nil)
	}
	if !different {
		t.Error("full jitter spreads nothing")
	}
}

func TestValidate(t *testing.T) {
	for _, p := range []Policy{{Kind: "cubic"}, {Jitter: "some"}, {Base: -1}, {Base: 2, Max: 1}} {
		if p.Validate() == nil {
			t.Errorf("%+v passed", p)
		}
	}
	if err := (Policy{Kind: Fibonacci, Base: 1, Max: 2, Jitter: Full}).Validate(); err != nil {
		t.Error(err)
	}
}
