package dns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a resolver's answers, and what it told.
type world struct {
	mu      sync.Mutex
	answers map[string]string
	asked   int
	told    []string
}

func (w *world) set(host, addrs string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[host] = addrs
}

func (w *world) lookup(_ context.Context, host string) (out []netip.Addr, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	a, ok := w.answers[host]
	if !ok {
		return nil, errors.New("no such host")
	}
	for _, s := range strings.Fields(a) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out, nil
}

func (w *world) apply(cluster string, eps []snapshot.EndpointSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []string
	for _, e := range eps {
		s = append(s, strings.Join(append([]string{e.Address}, e.More...), "|"))
	}
	w.told = append(w.told, cluster+": "+strings.Join(s, " "))
	return nil
}

func (w *world) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.told
	w.told = nil
	return t
}

func spec(addrs ...string) (out []snapshot.EndpointSpec) {
	for _, a := range addrs {
		out = append(out, snapshot.EndpointSpec{ID: a, Address: a, Weight: 1})
	}
	return out
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// Answers are told when they differ; what fails or is empty keeps what was known, and is asked again as configured.
func TestResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{answers: map[string]string{"a": "10.0.0.2 10.0.0.1 10.0.0.1"}}
		r := New(Options{Lookup: w.lookup, Apply: w.apply})
		defer r.Close()
		cfg := snapshot.DNS{Refresh: 10 * time.Second, FailureBase: time.Second, FailureMax: 4 * time.Second}
		r.Set("c", cfg, spec("a:80", "127.0.0.1:81", "b:82"))
		synctest.Wait()
		if !r.Ready("c") || !r.Ready("never heard of") {
			t.Error("not ready")
		}
		check(t, "first", w.take(), "c: 10.0.0.1:80 10.0.0.2:80 127.0.0.1:81")

		w.set("b", "2001:db8::1")
		time.Sleep(2 * time.Second) // the failure's pace
		synctest.Wait()
		check(t, "the missing one", w.take(), "c: 10.0.0.1:80 10.0.0.2:80 127.0.0.1:81 [2001:db8::1]:82")

		w.set("a", "10.0.0.1 10.0.0.2")
		time.Sleep(12 * time.Second)
		synctest.Wait()
		check(t, "another order", w.take())

		w.set("a", "")
		time.Sleep(12 * time.Second)
		synctest.Wait()
		check(t, "an empty answer", w.take())
		w.set("a", "10.0.0.3")
		time.Sleep(12 * time.Second)
		synctest.Wait()
		check(t, "another address", w.take(), "c: 10.0.0.3:80 127.0.0.1:81 [2001:db8::1]:82")

		r.Set("c", cfg, spec("a:8080"))
		synctest.Wait()
		check(t, "another port", w.take(), "c: 10.0.0.3:8080")
		r.Remove("c")
		w.set("a", "10.0.0.4")
		asked := w.asked
		time.Sleep(time.Minute)
		synctest.Wait()
		check(t, "removed", w.take())
		if w.asked != asked {
			t.Error("a cluster that is gone is looked up")
		}
	})
}

// A logical cluster has one endpoint a name, and the other addresses to try.
func TestLogicalAndFamilies(t *testing.T) {
	for family, want := range map[snapshot.Family]string{
		snapshot.AllFamilies: "c: [2001:db8::1]:80|10.0.0.1:80|10.0.0.2:80",
		snapshot.V4Only:      "c: 10.0.0.1:80|10.0.0.2:80",
		snapshot.V6Only:      "c: [2001:db8::1]:80",
		snapshot.V4Preferred: "c: 10.0.0.1:80|10.0.0.2:80",
		snapshot.V6Preferred: "c: [2001:db8::1]:80",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{answers: map[string]string{"a": "10.0.0.2 2001:db8::1 ::ffff:10.0.0.1"}}
			r := New(Options{Lookup: w.lookup, Apply: w.apply})
			defer r.Close()
			r.Set("c", snapshot.DNS{Refresh: time.Second, Logical: true, Family: family}, spec("a:80"))
			synctest.Wait()
			check(t, "logical", w.take(), want)
		})
	}
}
