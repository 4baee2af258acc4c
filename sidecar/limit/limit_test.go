package limit

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = int64(time.Second)

func TestBurstThenRate(t *testing.T) {
	var b Bucket
	r := NewRate(10, second, 5) // 10 a second, 5 at once
	now := 1000 * second
	for i := range 5 {
		if got := b.Take(now, r); !got.OK || got.Remaining != int64(4-i) {
			t.Fatalf("take %d: %+v", i, got)
		}
	}
	got := b.Take(now, r)
	if got.OK || got.RetryAfter != second/10 || got.Full != second/2 {
		t.Fatalf("the sixth: %+v", got)
	}
	if got = b.Take(now+second/10-1, r); got.OK || got.RetryAfter != 1 {
		t.Fatalf("a nanosecond early: %+v", got)
	}
	if got = b.Take(now+second/10, r); !got.OK || got.Remaining != 0 {
		t.Fatalf("in time: %+v", got)
	}
}

// In any window the number taken is at most burst plus what the window refills.
func TestNeverMoreThanTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.Int64Range(1, 1_000_000).Draw(t, "tokens")
		per := rapid.Int64Range(int64(50*time.Millisecond), int64(time.Minute)).Draw(t, "per")
		burst := rapid.Int64Range(1, 1000).Draw(t, "burst")
		r := NewRate(tokens, per, burst)
		var b Bucket
		start := rapid.Int64Range(0, 1<<50).Draw(t, "start")
		now, taken := start, int64(0)
		for range 200 {
			now += rapid.Int64Range(0, 2*per/tokens+1).Draw(t, "step")
			if b.Take(now, r).OK {
				taken++
			}
		}
		most := float64(burst) + float64(now-start)*float64(tokens)/float64(per)*1.002 + 1
		if float64(taken) > most {
			t.Fatalf("%d taken in %d ns, at most %.1f", taken, now-start, most)
		}
	})
}

func TestLoweredRateDoesNotLockOut(t *testing.T) {
	var b Bucket
	wide := NewRate(1, second, 1000)
	for range 1000 {
		b.Take(0, wide)
	}
	if got := b.Take(0, NewRate(1, second, 2)); got.OK || got.RetryAfter > 2*second {
		t.Fatalf("%+v", got)
	}
}

func TestConcurrentTakesAreExact(t *testing.T) {
	var b Bucket
	r := NewRate(1, 3600*second, 500)
	var ok atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				if b.Take(1, r).OK {
					ok.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if ok.Load() != 500 {
		t.Fatalf("%d taken of 500", ok.Load())
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	var b Bucket
	r := NewRate(1, second, 10)
	if a := testing.AllocsPerRun(100, func() { b.Take(0, r) }); a != 0 {
		t.Fatalf("%v allocations", a)
	}
}

func TestTable(t *testing.T) {
	var tab Table
	a := tab.Bucket("a")
	if tab.Bucket("a") != a || tab.Bucket("b") == a {
		t.Fatal("a bucket is not found by its identity")
	}
	runtime.KeepAlive(a)
	deadline := time.Now().Add(10 * time.Second)
	for tab.Len() > 0 { // nobody holds either any more
		if time.Now().After(deadline) {
			t.Fatalf("%d buckets are kept", tab.Len())
		}
		runtime.GC()
		runtime.Gosched()
	}
}
