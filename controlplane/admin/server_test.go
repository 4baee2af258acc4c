package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Backend that answers what a test says.
type fake struct {
	Backend
	apply  func(ApplyRequest) (ApplyResult, error)
	events []Event
}

func (f *fake) Apply(_ context.Context, r ApplyRequest) (ApplyResult, error) { return f.apply(r) }

func (f *fake) Resources(_ context.Context, k Key) ([]Resource, error) {
	if k.Name == "panic" {
		panic("on purpose")
	}
	return nil, nil
}

func (f *fake) Operate(_ context.Context, _, name string, op Op) ([]string, error) {
	return []string{name + "-" + string(op)}, nil
}

func (f *fake) Upgrade(_ context.Context, r UpgradeRequest, tell func(Upgraded)) error {
	if len(r.Names) == 0 {
		return Conflict("another upgrade is under way")
	}
	tell(Upgraded{Instance: r.Names[0], Old: 1, New: 2})
	if len(r.Names) > 1 {
		return errors.New("upgrade the sidecar of " + r.Names[1] + ": the old one stays")
	}
	return nil
}

func (f *fake) Logs(_ context.Context, q LogQuery, w io.Writer) error {
	if q.Name == "nobody" {
		return NotFound("nobody", "")
	}
	_, err := io.WriteString(w, "a line\n")
	return err
}

func (f *fake) Events(ctx context.Context, _ string, since uint64, follow bool, yield func(Event) bool) error {
	for _, e := range f.events {
		if e.Number > since && !yield(e) {
			return nil
		}
	}
	if follow {
		<-ctx.Done()
	}
	return nil
}

func (f *fake) WaitReady(ctx context.Context) (Status, error) {
	<-ctx.Done()
	return Status{Reasons: []string{"orders is starting"}}, nil
}

func (f *fake) Down(_ context.Context, hurry bool, tell func(string)) error {
	tell("stopped orders")
	if hurry {
		return errors.New("inventory does not end")
	}
	return nil
}

func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	// Longer than a socket's path may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	l, err := Listen(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, Socket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket: %v, %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(b, log).Serve(ctx, l) }()
	c := NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	return c
}

func TestServer(t *testing.T) {
	ctx := context.Background()
	f := &fake{events: []Event{{Number: 1, Epoch: "e"}, {Number: 2, Epoch: "e"}, {Number: 3, Epoch: "e"}}}
	c := serve(t, f)
	if err := c.Healthy(ctx); err != nil {
		t.Fatal(err)
	}

	var got ApplyRequest
	f.apply = func(r ApplyRequest) (ApplyResult, error) { got = r; return ApplyResult{Revision: 7}, nil }
	seven := uint64(7)
	res, err := c.Diff(ctx, ApplyRequest{Source: "s", Documents: []Document{{File: "a", Text: "b"}}, ExpectedRevision: &seven})
	if err != nil || res.Revision != 7 || !got.DryRun || *got.ExpectedRevision != 7 || got.Documents[0].Text != "b" {
		t.Errorf("diff: %+v, %v; the backend got %+v", res, err, got)
	}
	f.apply = func(ApplyRequest) (ApplyResult, error) {
		return ApplyResult{}, Invalid([]Violation{{File: "a", Line: 3, Path: "spec.x", Message: "bad", Hint: "good"}, {Message: "worse"}})
	}
	_, err = c.Apply(ctx, ApplyRequest{Documents: []Document{{}}})
	var p *Problem
	if !errors.As(err, &p) || p.Status != 422 || len(p.Violations) != 2 || p.Violations[0].Line != 3 {
		t.Errorf("apply: %v", err)
	}

	for _, x := range []struct {
		name string
		err  error
		want int
	}{
		{"no documents", second(c.Apply(ctx, ApplyRequest{})), 400},
		{"long source", second(c.Apply(ctx, ApplyRequest{Source: strings.Repeat("s", 300), Documents: []Document{{}}})), 400},
		{"too large", second(c.Apply(ctx, ApplyRequest{Documents: []Document{{Text: strings.Repeat("x", maxBodyBytes)}}})), 413},
		{"not found", second(c.Resources(ctx, Key{Kind: "Service", Name: "nobody"})), 404},
		{"panic", second(c.Resources(ctx, Key{Kind: "Service", Name: "panic"})), 500},
		{"operation", second(c.Operate(ctx, "", "a", "explode")), 404},
		{"logs", c.Logs(ctx, LogQuery{Name: "nobody", Tail: -1}, io.Discard), 404},
		{"path", c.call(ctx, http.MethodGet, "/v2", nil, nil, nil), 404},
		{"unknown field", c.call(ctx, http.MethodPost, "/v1/resources", nil, map[string]int{"nonsense": 1}, nil), 400},
	} {
		if !errors.As(x.err, &p) || p.Status != x.want {
			t.Errorf("%s: %v, want status %d", x.name, x.err, x.want)
		}
	}

	var upgraded []Upgraded
	tell := func(u Upgraded) { upgraded = append(upgraded, u) }
	if err := c.Upgrade(ctx, UpgradeRequest{Names: []string{"a"}, Sidecar: "/x"}, tell); err != nil || len(upgraded) != 1 || upgraded[0] != (Upgraded{"a", 1, 2}) {
		t.Errorf("upgrade: %v, %v", upgraded, err)
	}
	if err := c.Upgrade(ctx, UpgradeRequest{Names: []string{"a", "b"}}, tell); err == nil || err.Error() != "upgrade the sidecar of b: the old one stays" || len(upgraded) != 2 {
		t.Errorf("an upgrade that fails half way: %v, %v", upgraded, err)
	}
	if err := c.Upgrade(ctx, UpgradeRequest{}, tell); !errors.As(err, &p) || p.Status != 409 {
		t.Errorf("an upgrade beside another: %v", err)
	}

	var seen []uint64
	if err := c.Events(ctx, "e", 1, false, func(e Event) bool { seen = append(seen, e.Number); return true }); err != nil || len(seen) != 2 {
		t.Errorf("events after 1: %v, %v", seen, err)
	}
	seen = nil
	if err := c.Events(ctx, "", 0, true, func(e Event) bool { seen = append(seen, e.Number); return len(seen) < 3 }); err != nil || len(seen) != 3 {
		t.Errorf("events, followed: %v, %v", seen, err)
	}
	st, err := c.WaitReady(ctx, 10*time.Millisecond)
	if err != nil || st.Ready || len(st.Reasons) != 1 {
		t.Errorf("wait: %+v, %v", st, err)
	}
	var told []string
	if err := c.Down(ctx, false, func(s string) { told = append(told, s) }); err != nil || len(told) != 1 {
		t.Errorf("down: %v, %v", told, err)
	}
	if err := c.Down(ctx, true, func(string) {}); err == nil || err.Error() != "inventory does not end" {
		t.Errorf("down that fails: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNoControlPlane(t *testing.T) {
	c := NewClient(t.TempDir())
	defer c.Close()
	if err := c.Healthy(context.Background()); !errors.Is(err, ErrNoControlPlane) {
		t.Error(err)
	}
}

func TestAdmitted(t *testing.T) {
	for _, c := range []struct {
		peer, own uint32
		want      bool
	}{{1000, 1000, true}, {0, 1000, true}, {1001, 1000, false}, {1000, 0, false}} {
		if got := admitted(c.peer, c.own); got != c.want {
			t.Errorf("admitted(%d, %d) = %t", c.peer, c.own, got)
		}
	}
}
