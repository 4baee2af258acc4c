package consul

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/controlplane/store"
	"github.com/outrigger-mesh/outrigger/controlplane/store/internal/ledger"
	"github.com/outrigger-mesh/outrigger/controlplane/store/storetest"
	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type place struct{ addr, prefix string }

func (p place) Open(t testing.TB, s storetest.Settings) store.Store {
	return openAt(t, p.addr, Options{Prefix: p.prefix, Keep: s.Keep, CollectEvery: s.CollectEvery})
}

func openAt(t testing.TB, addr string, o Options) *Store {
	t.Helper()
	o.Address = addr
	st, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func (p place) Shared() bool { return true }

func (p place) Blobs(t testing.TB, st store.Store) (out []store.Hash) {
	s := st.(*Store)
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys, _, err := s.client.KV().Keys(p.prefix+"blob/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if h, _, _, ok := s.parseBlobKey(k); ok {
			out = append(out, h)
		}
	}
	return out
}

func TestConformance(t *testing.T) {
	agent := testkit.Consul(t)
	var n atomic.Int32
	storetest.Run(t, func(testing.TB) storetest.Place {
		return place{agent.Addr, fmt.Sprintf("mesh%d/", n.Add(1))}
	})
}

// TestKillAgent kills the agent at random moments beneath writers and a watcher, and starts it again. Nothing that was
// acknowledged may be lost, no number given twice, and all go on by themselves.
func TestKillAgent(t *testing.T) {
	agent := testkit.Consul(t, testkit.ConsulDurable())
	st := openAt(t, agent.Addr, Options{Patience: time.Minute})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	var printed bytes.Buffer
	acks := make(chan struct{}, 1024)
	out := writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		select {
		case acks <- struct{}{}:
		default:
		}
		return printed.Write(p)
	})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			if err := storetest.Write(ctx, st, fmt.Sprint("w", w), out); !errors.Is(err, context.Canceled) {
				t.Errorf("writer %d: %v", w, err)
			}
		})
	}
	var seen atomic.Uint64
	wg.Go(func() {
		for {
			rev, err := st.Watch(ctx, seen.Load())
			if errors.Is(err, context.Canceled) {
				return
			}
			if err != nil {
				t.Errorf("watch: %v", err)
				return
			}
			seen.Store(rev.Number)
		}
	})
	for round := range 4 {
		// Some acknowledgements, and then a moment that is different in each round.
		for range 10 + 7*round {
			select {
			case <-acks:
			case <-time.After(time.Minute):
				t.Fatal("writers do not get on")
			}
		}
		agent.Kill()
		for len(acks) > 0 {
			<-acks
		}
		agent.Restart()
	}
	for range 10 {
		<-acks
	}
	stop()
	wg.Wait()
	acked := storetest.Acked{}
	if err := acked.Read(&printed); err != nil {
		t.Fatal(err)
	}
	agent.Kill()
	agent.Restart()
	fresh := openAt(t, agent.Addr, Options{})
	if err := acked.Check(t.Context(), fresh); err != nil {
		t.Error(err)
	}
	if seen.Load() == 0 {
		t.Error("the watcher saw nothing")
	}
	t.Logf("%d revisions acknowledged", len(acked))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var _ io.Writer = writerFunc(nil)

// TestWatchOverRestart lets a watch wait while the agent is gone, and a revision come when it is back.
func TestWatchOverRestart(t *testing.T) {
	agent := testkit.Consul(t, testkit.ConsulDurable())
	st := openAt(t, agent.Addr, Options{Patience: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		rev, err := st.Watch(ctx, 0)
		if err == nil && rev.Number != 1 {
			err = fmt.Errorf("got revision %d", rev.Number)
		}
		got <- err
	}()
	agent.Kill()
	agent.Restart()
	if _, err := st.Commit(ctx, 0, store.Change{Put: map[store.Key]store.Item{"a/b/c": {Data: []byte("x")}}}); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestCollectBetween holds a commit between its blobs and its swap, and collects meanwhile: the swap must notice, or else
// the revision refers to blobs that are gone.
func TestCollectBetween(t *testing.T) {
	agent := testkit.Consul(t)
	a := openAt(t, agent.Addr, Options{})
	ctx := t.Context()
	put := func(v string) store.Change {
		return store.Change{Put: map[store.Key]store.Item{"a/b/c": {Data: []byte(v)}}}
	}
	if _, err := a.Commit(ctx, 0, put("one")); err != nil {
		t.Fatal(err)
	}
	// What Commit does up to the swap.
	gc, err := a.get(ctx, "gc")
	if err != nil {
		t.Fatal(err)
	}
	rec, index, err := a.headRecord(ctx)
	if err != nil {
		t.Fatal(err)
	}
	head, err := a.decode(ctx, rec)
	if err != nil {
		t.Fatal(err)
	}
	next, err := applyForTest(head, put("two"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.writeBlobs(ctx, next.Blobs); err != nil {
		t.Fatal(err)
	}
	if err := openAt(t, agent.Addr, Options{}).Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.readBlobs(ctx, []store.Hash{store.HashOf([]byte("two"))}); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the collection left the blob: %v: the test shows nothing", err)
	}
	if what, _, err := a.swap(ctx, next, gc.ModifyIndex, index); err != nil || what != collected {
		t.Fatalf("the swap said %v, %v; want that a collection came between", what, err)
	}
	// And with the other order: head moves while a collection is about to remove.
	if _, err := a.Commit(ctx, 1, put("three")); err != nil {
		t.Fatal(err)
	}
	gc, err = a.get(ctx, "gc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.remove(ctx, []string{a.blobKey(store.HashOf([]byte("three")))}, index, gc.ModifyIndex); !errors.Is(err, errOvertaken) {
		t.Fatalf("a removal on an old head: %v, want that it is overtaken", err)
	}
	fresh := openAt(t, agent.Addr, Options{})
	rev, err := fresh.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if blobs, err := fresh.Load(ctx, rev); err != nil || string(blobs["a/b/c"]) != "three" {
		t.Errorf("the head holds %q, %v", blobs, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	agent := testkit.Consul(t)
	cfg := api.DefaultConfig()
	cfg.Address = agent.Addr
	client, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer cfg.Transport.CloseIdleConnections()
	if _, err := client.KV().Put(&api.KVPair{Key: "newer/format", Value: []byte("9")}, nil); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Options{Address: agent.Addr, Prefix: "newer/"})
	var format *store.FormatError
	if !errors.As(err, &format) || format.Got != "9" {
		t.Errorf("got %v, want a FormatError", err)
	}
	if _, err := Open(t.Context(), Options{Address: agent.Addr, Prefix: "no-slash"}); err == nil {
		t.Error("a prefix without a slash was taken")
	}
	agent.Kill()
	if _, err := Open(t.Context(), Options{Address: agent.Addr, Patience: 200 * time.Millisecond}); !errors.Is(err, errUnreachable) {
		t.Errorf("got %v, want that Consul cannot be reached", err)
	}
}

// TestToken shows that the token of the environment is used, and that a refusal is told at once and not tried again.
func TestToken(t *testing.T) {
	agent := testkit.Consul(t, testkit.ConsulConfig(`
		acl {
			enabled = true
			default_policy = "deny"
			tokens { initial_management = "6f2a4c1e-0f57-4d0b-9d5a-0d8c8f4a1b2c" }
		}`))
	_, err := Open(t.Context(), Options{Address: agent.Addr, Patience: time.Hour})
	if err == nil || !permanent(err) {
		t.Fatalf("without a token: %v, want a refusal", err)
	}
	t.Setenv(api.HTTPTokenEnvName, "6f2a4c1e-0f57-4d0b-9d5a-0d8c8f4a1b2c")
	st := openAt(t, agent.Addr, Options{})
	if _, err := st.Commit(t.Context(), 0, store.Change{Put: map[store.Key]store.Item{"a/b/c": {}}}); err != nil {
		t.Fatal(err)
	}
}

// TestTLS reaches the agent through a proxy that speaks TLS, found and trusted by the environment alone.
func TestTLS(t *testing.T) {
	agent := testkit.Consul(t)
	proxy := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent.Addr}))
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		proxy.Close()
	})
	t.Setenv(api.HTTPAddrEnvName, proxy.Listener.Addr().String())
	t.Setenv(api.HTTPSSLEnvName, "true")
	if _, err := Open(t.Context(), Options{Patience: 100 * time.Millisecond}); err == nil {
		t.Fatal("a certificate that nobody vouches for was trusted")
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(api.HTTPCAFile, ca)
	st, err := Open(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Commit(t.Context(), 0, store.Change{Put: map[store.Key]store.Item{"a/b/c": {}}}); err != nil {
		t.Error(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

func applyForTest(head store.Revision, c store.Change) (*ledger.Next, error) {
	return ledger.Apply(head, c, time.Now(), [16]byte{1})
}
