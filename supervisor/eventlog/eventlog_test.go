package eventlog

import (
	"context"
	"testing"
)

func TestResumeByNumber(t *testing.T) {
	l := New[int](3)
	if e, lost := l.Since(0); len(e) != 0 || lost != 0 {
		t.Fatalf("empty log: %v, %d lost", e, lost)
	}
	for i := 1; i <= 5; i++ {
		if n := l.Append(i * 10); n != uint64(i) {
			t.Fatalf("event %d has number %d", i, n)
		}
	}
	for _, tc := range []struct {
		since uint64
		want  []int
		lost  uint64
	}{{0, []int{30, 40, 50}, 2}, {2, []int{30, 40, 50}, 0}, {4, []int{50}, 0}, {5, nil, 0}, {9, nil, 0}} {
		e, lost := l.Since(tc.since)
		if len(e) != len(tc.want) || lost != tc.lost {
			t.Fatalf("since %d: %v, %d lost", tc.since, e, lost)
		}
		for i := range e {
			if e[i].Event != tc.want[i] || e[i].Seq != uint64(tc.want[i]/10) {
				t.Errorf("since %d: %v", tc.since, e)
			}
		}
	}
}

func TestWait(t *testing.T) {
	l := New[string](0)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string)
	go func() {
		e, _, err := l.Wait(ctx, 0)
		if err != nil {
			t.Error(err)
		}
		got <- e[0].Event
	}()
	l.Append("one")
	if s := <-got; s != "one" {
		t.Errorf("got %q", s)
	}
	cancel()
	if _, _, err := l.Wait(ctx, 1); err == nil {
		t.Error("waiting with an ended context gave no error")
	}
}
