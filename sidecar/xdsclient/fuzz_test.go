package xdsclient

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/balancer/builtin"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Whatever is in a bootstrap, it is read and compiled, or refused: it never does more than that.
func FuzzParseBootstrap(f *testing.F) {
	f.Add([]byte("node: {id: a}"))
	f.Add([]byte(`{"node":{"id":"a"},"static_resources":{"listeners":[{"name":"x"}]}}`))
	f.Add([]byte(`
node: {id: a}
admin: {address: {pipe: {path: /run/x}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 80}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: a
          route_config: {name: r, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: c, timeout: 3s}}]}]}
          http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - {name: ads, type: STATIC, load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/y}}}}]}]}}
  - {name: c, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "::1", port_value: 8080}}}}]}]}}
`))
	examples, err := filepath.Glob("../../examples/static/*.yaml")
	if err != nil || len(examples) == 0 {
		f.Fatal("no examples: ", err)
	}
	for _, name := range examples {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		boot, err := ParseBootstrap("", b)
		if (boot == nil) == (err == nil) {
			t.Fatalf("%v and %v", boot, err)
		}
		if err != nil {
			return
		}
		sink := &table{refs: map[string]*snapshot.ClusterRef{}, eps: map[string][]snapshot.EndpointSpec{}}
		c := compile.New(compile.Options{Sink: sink, Strategies: builtin.All(), InitTimeout: time.Minute})
		now := time.Unix(0, 0)
		for _, u := range boot.Static {
			c.Update(now, u)
		}
		c.Tick(now.Add(time.Hour))
		c.Dump()
	})
}
