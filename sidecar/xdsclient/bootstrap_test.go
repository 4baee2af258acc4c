package xdsclient

import (
	"strings"
	"testing"
)

const goodBootstrap = `
node: {id: orders-1.0.0-0, cluster: orders, metadata: {outrigger.dev: {kind: sidecar}}}
admin: {address: {pipe: {path: /run/console.sock}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
  lds_config: {ads: {}, resource_api_version: V3}
  cdsConfig: {ads: {}, resourceApiVersion: V3}
static_resources:
  clusters:
  - {name: ads, type: STATIC, load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/ads.sock}}}}]}]}}
  - {name: other, type: STATIC, connect_timeout: 1.5s, altStatName: x}
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: tcp, typed_config: &tcp {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: other}}]}]
  - name: again
    address: {socket_address: {address: "::1", port_value: 0}}
    filter_chains: [{filters: [{name: tcp, typed_config: *tcp}]}]
`

func TestBootstrap(t *testing.T) {
	b, err := ParseBootstrap("boot.yaml", []byte(goodBootstrap))
	if err != nil {
		t.Fatal(err)
	}
	if b.Node.GetId() != node || b.ADS != "unix:/run/ads.sock" || b.AdminNetwork != "unix" || b.AdminAddress != "/run/console.sock" ||
		len(b.Static[0].Set) != 1 || b.Static[0].Set[0].Name != "other" {
		t.Fatalf("%+v", b)
	}
	if l := b.Static[1].Set; len(l) != 2 || l[0].Name != "static_resources.listeners[0]" || l[1].Name != "again" {
		t.Fatalf("%+v", l)
	}
}

// TestStaticBootstrapNeedsNoNode: nobody is told who a sidecar is whose whole configuration is in the file.
func TestStaticBootstrapNeedsNoNode(t *testing.T) {
	b, err := ParseBootstrap("", []byte(`{"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}},
		"static_resources": {"clusters": [{"name": "a", "type": "STATIC"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if b.Node == nil || b.AdminNetwork != "tcp" || b.AdminAddress != "127.0.0.1:9901" || b.ADS != "" {
		t.Errorf("%+v", b)
	}
}

func TestBootstrapRefuses(t *testing.T) {
	const (
		sources = "node: {id: a}\ndynamic_resources:\n  lds_config: {ads: {}}\n  cds_config: {ads: {}}\n  ads_config: "
		toADS   = sources + "{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}\n" +
			"static_resources:\n  clusters:\n"
		hcm = "static_resources:\n  listeners:\n  - name: l\n    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n" +
			"          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n"
	)
	for name, c := range map[string]struct{ in, want string }{
		"nothing":        {"", "is empty"},
		"no YAML":        {"a: [", "line 1"},
		"a list":         {"[]", "must be an object"},
		"no id":          {strings.Replace(sources, "{id: a}", "{}", 1) + "{}", "node.id: is missing"},
		"unknown":        {"node: {id: a}\nlayered_runtime: {}", "boot.yaml:2: layered_runtime: is not served"},
		"wrong type":     {"node: {id: [a]}", "boot.yaml:1: node.id: must be a single value"},
		"no field":       {"node: {id: a, ip: 1}", "node.ip: is not a field of envoy.config.core.v3.Node"},
		"twice":          {"node: {id: a}\nnode: {id: b}", "boot.yaml:2: node: is written twice"},
		"unserved node":  {"node: {id: a, dynamic_parameters: {}}", ""}, // an empty map says nothing
		"no ADS":         {"node: {id: a}\ndynamic_resources: {lds_config: {ads: {}}}", "dynamic_resources.ads_config: is missing"},
		"half ADS":       {strings.Replace(sources, "  lds_config: {ads: {}}\n", "", 1) + "{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: 'x:1'}}]}", "both lds_config and cds_config"},
		"path source":    {"node: {id: a}\ndynamic_resources: {lds_config: {path: /x}}", "dynamic_resources.lds_config: only ads is served by this sidecar"},
		"no cluster":     {toADS + "  - {name: x, type: STATIC}", `ads_config.grpc_services[0].envoy_grpc.cluster_name: "ads" is not among`},
		"REST":           {sources + "{api_type: REST, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: 'x:1'}}]}", "ads_config.api_type: REST is not served by this sidecar (DELTA_GRPC)"},
		"credentials":    {sources + "{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: 'x:1', call_credentials: [{access_token: x}]}}]}", "google_grpc.call_credentials: is not served"},
		"checked ADS":    {toADS + "  - {name: ads, type: STATIC, health_checks: [{}], load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /x}}}}]}]}}", "boot.yaml:8: static_resources.clusters[0].health_checks: is not served by this sidecar on the cluster"},
		"two ADS":        {toADS + "  - {name: ads, type: STATIC, load_assignment: {endpoints: [{lb_endpoints: [{},{}]}]}}", "must hold one endpoint"},
		"same name":      {"static_resources: {clusters: [{name: a, type: STATIC}, {name: a, type: STATIC}]}", `clusters[1].name: "a" is already that of static_resources.clusters[0]`},
		"not a list":     {"static_resources: {clusters: 1}", "static_resources.clusters: must be a list"},
		"open admin":     {"admin: {address: {socket_address: {address: 0.0.0.0, port_value: 1}}}", `admin.address.socket_address.address: "0.0.0.0" is not a loopback address`},
		"admin log":      {"admin: {access_log_path: /dev/null}", "admin.access_log_path: is not served"},
		"misspelt":       {hcm + "          stat_prefx: x", "boot.yaml:9: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefx: is not a field of"},
		"hint":           {hcm + "          stat_prefx: x", "(did you mean stat_prefix?)"},
		"wrong value":    {hcm + "          stat_prefix: x\n          max_request_headers_kb: many", "boot.yaml:10: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.max_request_headers_kb: invalid value"},
		"wrong enum":     {hcm + "          codec_type: HTTP4", `typed_config.codec_type: "HTTP4" is not a CodecType`},
		"both of one":    {hcm + "          rds: {}\n          route_config: {}", "typed_config.route_config: cannot stand beside rds"},
		"both spellings": {hcm + "          stat_prefix: x\n          statPrefix: y", "is written twice, as stat_prefix and in camelCase"},
		"unknown type":   {strings.Replace(hcm, "HttpConnectionManager\n", "Manager\n", 1), "boot.yaml:8: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.@type: type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.Manager is not served"},
		"no type":        {"static_resources: {listeners: [{filter_chains: [{filters: [{typed_config: {}}]}]}]}", "filters[0].typed_config: names no type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseBootstrap("boot.yaml", []byte(c.in))
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestAliasBomb: ten lines that come to ten thousand million values are refused, not followed.
func TestAliasBomb(t *testing.T) {
	in := "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
	last := "a"
	for _, n := range []string{"b", "c", "d", "e", "f", "g", "h", "i"} {
		in += n + ": &" + n + " [" + strings.Repeat("*"+last+",", 9) + "*" + last + "]\n"
		last = n
	}
	in = "node: {id: a, metadata: {" + strings.ReplaceAll(strings.TrimSuffix(in, "\n"), "\n", ", ") + "}}"
	if _, err := ParseBootstrap("", []byte(in)); err == nil || !strings.Contains(err.Error(), "aliases followed") {
		t.Error(err)
	}
}
