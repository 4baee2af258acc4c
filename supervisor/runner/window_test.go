package runner

import (
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tc := range []struct {
		name string
		r    Restart
		at   []time.Duration
		want []int // 0: refused
	}{
		{"three in a minute", Restart{Max: 3, Within: time.Minute}, []time.Duration{0, 1e9, 2e9, 3e9}, []int{1, 2, 3, 0}},
		{"old ones are forgotten", Restart{Max: 2, Within: time.Minute}, []time.Duration{0, 30e9, 60e9, 61e9, 95e9}, []int{1, 2, 2, 0, 2}},
		{"a refused one does not count", Restart{Max: 1, Within: time.Minute}, []time.Duration{0, 1e9, 59e9, 60e9}, []int{1, 0, 0, 1}},
		{"none allowed", Restart{Max: 0, Within: time.Minute}, []time.Duration{0}, []int{0}},
		{"no limit", Restart{Max: -1, Within: time.Minute}, []time.Duration{0, 0, 0, 70e9}, []int{1, 2, 3, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var w window
			for i, d := range tc.at {
				n, ok := w.take(start.Add(d), tc.r)
				if ok != (tc.want[i] > 0) || n != tc.want[i] {
					t.Errorf("failure %d at %v: %d, %v; want %d", i, d, n, ok, tc.want[i])
				}
			}
		})
	}
}

func TestWindowIsBounded(t *testing.T) {
	var w window
	for i := range 10000 {
		if _, ok := w.take(time.Unix(1000, int64(i)), Restart{Max: -1, Within: time.Minute}); !ok {
			t.Fatal("refused without a limit")
		}
	}
	if len(w.times) > 64 {
		t.Errorf("%d times kept", len(w.times))
	}
}
