package static

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/outrigger-mesh/outrigger/discovery"
)

func TestNewRefuses(t *testing.T) {
	good := discovery.Endpoint{ID: "a", Service: "orders", Address: "::1", Port: 80}
	for _, tc := range []struct {
		name   string
		spoil  func(e *discovery.Endpoint)
		reason string
	}{
		{"id", func(e *discovery.Endpoint) { e.ID = "" }, "no id"},
		{"service", func(e *discovery.Endpoint) { e.Service = "" }, "no service"},
		{"address", func(e *discovery.Endpoint) { e.Address = "" }, "no address"},
		{"port", func(e *discovery.Endpoint) { e.Port = 0 }, "no port"},
		{"protocol", func(e *discovery.Endpoint) { e.Protocol = "smtp" }, "smtp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := good
			tc.spoil(&e)
			if _, err := New(e); err == nil || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("got %v, want it to say %q", err, tc.reason)
			}
		})
	}
	if _, err := New(good, good); err == nil {
		t.Error("the same endpoint twice was taken")
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orders := discovery.Endpoint{ID: "b", Service: "orders", Address: "::1", Port: 80}
		blue := discovery.Endpoint{ID: "a", Tenant: "blue", Service: "orders", Address: "127.0.0.1", Port: 81, Protocol: discovery.GRPC}
		s, err := New(orders, blue)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []discovery.Update
		done := make(chan error, 1)
		go func() {
			done <- s.Watch(ctx, discovery.Query{Tenant: "blue"}, func(u discovery.Update) { got = append(got, u) })
		}()
		ids := func() (out []string) {
			synctest.Wait()
			for _, u := range got {
				line := ""
				for _, e := range u.Endpoints {
					line += e.String() + ";"
				}
				out = append(out, line)
			}
			return out
		}
		want := []string{"a:grpc(127.0.0.1:81);"}
		if !slices.Equal(ids(), want) {
			t.Fatalf("got %q, want %q", ids(), want)
		}
		if err := s.Replace(blue); err != nil { // of no concern to the query
			t.Fatal(err)
		}
		if !slices.Equal(ids(), want) {
			t.Errorf("a change of another tenant was told: %q", ids())
		}
		if err := s.Replace(orders); err != nil {
			t.Fatal(err)
		}
		if want = append(want, ""); !slices.Equal(ids(), want) {
			t.Errorf("got %q, want %q", ids(), want)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}
