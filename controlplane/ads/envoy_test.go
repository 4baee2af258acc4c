package ads

import (
	"fmt"
	"testing"

	"github.com/outrigger-mesh/outrigger/discovery"
	"github.com/outrigger-mesh/outrigger/internal/testkit"
)

func envoyBootstrap(m *mesh, listen, api string) string {
	return fmt.Sprintf(`
node:
  id: %q
  cluster: front
  metadata: {"outrigger.dev": {kind: envoy, tenant: default, service: front, listen: %q}}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: ads
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %q}}}}]}]}
`, SignForeign(secret, Foreign{KindEnvoy, "default", "front"}), listen, api, m.path)
}

// An unmodified Envoy takes its configuration without complaint, splits by weight, and follows a change under load with
// no call failed, over both variants of the protocol.
func TestEnvoy(t *testing.T) {
	for _, api := range []string{"DELTA_GRPC", "GRPC"} {
		t.Run(api, func(t *testing.T) {
			testkit.FindEnvoy(t)
			m := start(t)
			one, two := backend(t, "one"), backend(t, "two")
			m.in.Discovered = []discovery.Endpoint{
				endpoint(t, "orders-1.0.0-0", "orders", "1.0.0", "http", discovery.HTTP, one),
				endpoint(t, "orders-2.0.0-0", "orders", "2.0.0", "http", discovery.HTTP, two),
			}
			m.apply(services, split(90, 10), policies)
			listen := freeAddr(t)
			e := testkit.Envoy(t, envoyBootstrap(m, listen, api))
			url := "http://" + listen + "/x"
			eventually(t, "Envoy serves", func() bool {
				code, _, err := testkit.Get(url, "orders")
				return err == nil && code == 200
			})
			count := func(n int) map[string]int {
				by := map[string]int{}
				for range n {
					code, body, err := testkit.Get(url, "orders.localhost:8080")
					if err != nil || code != 200 {
						t.Fatalf("%d %q %v", code, body, err)
					}
					by[body]++
				}
				return by
			}
			by := count(1000)
			if by["two"] < 60 || by["two"] > 145 {
				t.Errorf("90/10: %v", by)
			}
			m.apply(services, split(0, 100), policies)
			eventually(t, "the new split", func() bool { return count(20)["two"] == 20 })
			// A version goes away with its clusters: what refers to them goes first.
			m.in.Discovered = m.in.Discovered[1:]
			m.apply(without(services, "version: 1.0.0, ports: [{name: http, protocol: http}], run: {command: [a]}}"), policies)
			eventually(t, "the version is gone", func() bool { return count(20)["two"] == 20 && !m.has("default/orders/http/1.0.0") })
			if c := e.Complaints(); len(c) > 0 {
				t.Errorf("Envoy complains: %q", c)
			}
			for _, n := range m.Status() {
				for _, r := range n.Resources {
					if r.Rejected != nil {
						t.Errorf("%s %s: %s", r.TypeURL, r.Name, r.Rejected.Reason)
					}
				}
			}
		})
	}
}
