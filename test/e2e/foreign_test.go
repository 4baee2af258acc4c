package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/xds"

	shoppb "github.com/outrigger-mesh/outrigger/examples/shop/proto"
	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestEnvoy: an unmodified Envoy takes its configuration from the control plane and reaches the same instances, by the
// same split.
func TestEnvoy(t *testing.T) {
	envoy := harness.Need(t, "envoy")
	m := harness.Up(t, write(t, []service{orders(2), ordersV2(1), front(1, "orders")}, split(50, 50)))
	listen := harness.FreeAddr(t)
	bootstrap := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(bootstrap, []byte(listenAt(t, m.Must("bootstrap", "envoy", "front"), listen)), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "envoy.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(envoy, "-c", bootstrap, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("Envoy said:\n%s", b)
		}
	})

	harness.Eventually(t, 30*time.Second, func() error { return wantStatus(listen, "orders", "/count", http.StatusOK) })
	load := harness.Load{Addr: listen, Host: "orders", Path: "/orders/1", Workers: 4, Calls: 2000}
	r := harness.DoLoad(t, load)
	t.Logf("through Envoy: %v; by instance %v", r, r.Instances)
	if r.Failed != 0 || len(r.Instances) != 3 {
		t.Errorf("through Envoy: %v; by instance %v, want 3", r, r.Instances)
	}
	if v2 := r.Versions["2.0.0"]; v2 < 850 || v2 > 1150 {
		t.Errorf("50/50: %d of 2000 calls to 2.0.0", v2)
	}

	// It follows changes, and calls go on meanwhile.
	load.Calls = 0
	running := harness.StartLoad(t, load)
	running.More(200)
	m.Apply(split(0, 100))
	harness.Eventually(t, 15*time.Second, func() error {
		for range 20 {
			_, _, h, err := harness.TryGet(listen, "orders", "/count")
			if err != nil {
				return err
			}
			if v := h.Get("X-Version"); v != "2.0.0" {
				return fmt.Errorf("version %q still answers", v)
			}
		}
		return nil
	})
	if r := running.Stop(); r.Failed != 0 {
		t.Errorf("the change failed calls: %v", r)
	}
}

// listenMetadata is where a bootstrap says where its Envoy listens, in YAML or JSON.
var listenMetadata = regexp.MustCompile(`("?listen"?:\s*)("?)[0-9.\[\]:a-z]+("?)`)

// listenAt changes where an Envoy listens, as the user of a bootstrap may.
func listenAt(t *testing.T, bootstrap, address string) string {
	t.Helper()
	if !listenMetadata.MatchString(bootstrap) {
		t.Fatalf("the bootstrap does not say where Envoy listens:\n%s", bootstrap)
	}
	return listenMetadata.ReplaceAllString(bootstrap, "${1}${2}"+address+"${3}")
}

// TestProxylessGRPC: a grpc-go client takes its configuration from the control plane, with no sidecar between, and
// reaches the same instances.
func TestProxylessGRPC(t *testing.T) {
	m := harness.Up(t, write(t, []service{inventory(2), front(1, "inventory")}))
	resolver, err := xds.NewXDSResolverWithConfigForTesting([]byte(m.Must("bootstrap", "grpc", "front")))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///inventory", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := shoppb.NewInventoryClient(conn)
	harness.Eventually(t, 20*time.Second, func() error {
		_, err := c.Get(t.Context(), &shoppb.GetRequest{Sku: "a"})
		return err
	})
	by := map[string]int{}
	for range 200 {
		s, err := c.Get(t.Context(), &shoppb.GetRequest{Sku: "a"})
		if err != nil {
			t.Fatal(err)
		}
		by[s.GetInstance()]++
	}
	if len(by) != 2 {
		t.Errorf("calls by instance: %v, want two", by)
	}

	// One instance is withdrawn; the client follows, and no call fails.
	m.Must("stop", "inventory-1.0.0-1")
	only := ""
	for range 200 {
		s, err := c.Get(t.Context(), &shoppb.GetRequest{Sku: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if only != "" && s.GetInstance() != only {
			t.Fatalf("%s answers after stop, and so does %s", s.GetInstance(), only)
		}
		only = s.GetInstance()
	}
	fourKinds(t.Context(), t, c)
}
