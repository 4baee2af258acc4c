package xdsclient

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
)

const (
	heapType  = `"@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig`
	connsType = `"@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig`
)

func TestOverloadManager(t *testing.T) {
	b, err := ParseBootstrap("", []byte(`overload_manager:
  refresh_interval: 0.25s
  resource_monitors:
  - {name: envoy.resource_monitors.fixed_heap, typed_config: {`+heapType+`, max_heap_size_bytes: 1000000}}
  - {name: envoy.resource_monitors.global_downstream_max_connections, typed_config: {`+connsType+`, max_active_downstream_connections: 77}}
  actions:
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: envoy.resource_monitors.fixed_heap, scaled: {scaling_threshold: 0.5, saturation_threshold: 1}}]}
  - {name: envoy.overload_actions.stop_accepting_connections, triggers: [{name: outrigger.resource_monitors.buffers, threshold: {value: 0.75}}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := overload.Default(1<<30, 10_256)
	want := got
	b.Overload.Apply(&got)
	want.Refresh, want.MaxHeap, want.MaxConnections = 250*time.Millisecond, 1_000_000, 77
	want.Actions[overload.StopRequests] = []overload.Trigger{{Resource: overload.Heap, Threshold: 0.5, Saturation: 1}}
	want.Actions[overload.StopConnections] = []overload.Trigger{{Resource: overload.Buffers, Threshold: 0.75}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	var none *Overload
	none.Apply(&got) // a bootstrap without one changes nothing
}

func TestOverloadManagerRefuses(t *testing.T) {
	heap := "  resource_monitors:\n  - {name: envoy.resource_monitors.fixed_heap, typed_config: {" + heapType + ", max_heap_size_bytes: 1}}\n"
	for _, tc := range []struct{ name, text, want string }{
		{"another monitor", "  resource_monitors:\n  - {name: x, typed_config: {\"@type\": type.googleapis.com/google.protobuf.Duration, value: 1s}}\n", "overload_manager.resource_monitors[0].typed_config: a monitor of type"},
		{"a monitor by a wrong name", strings.Replace(heap, "fixed_heap,", "heap,", 1), "overload_manager.resource_monitors[0].name"},
		{"no heap", strings.Replace(heap, "bytes: 1", "bytes: 0", 1), "overload_manager.resource_monitors[0].typed_config.max_heap_size_bytes: must be above 0"},
		{"an unknown action", heap + "  actions: [{name: envoy.overload_actions.shrink_heap, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 1}}]}]\n", "overload_manager.actions[0].name"},
		{"an unknown resource", heap + "  actions: [{name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: cpu, threshold: {value: 1}}]}]\n", "overload_manager.actions[0].triggers[0].name: \"cpu\" is none of the resource monitors"},
		{"no trigger", heap + "  actions: [{name: envoy.overload_actions.stop_accepting_requests}]\n", "overload_manager.actions[0].triggers: is empty"},
		{"a threshold above 1", heap + "  actions: [{name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 1.5}}]}]\n", "overload_manager.actions[0].triggers[0].threshold.value"},
		{"a scale that shrinks", heap + "  actions: [{name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: envoy.resource_monitors.fixed_heap, scaled: {scaling_threshold: 0.9, saturation_threshold: 0.5}}]}]\n", "overload_manager.actions[0].triggers[0].scaled: must grow"},
		{"by degrees where there are none", heap + "  actions: [{name: envoy.overload_actions.disable_http_keepalive, triggers: [{name: envoy.resource_monitors.fixed_heap, scaled: {scaling_threshold: 0.5, saturation_threshold: 0.9}}]}]\n", "takes effect by degrees"},
		{"what is not served", "  loadshed_points: [{name: envoy.load_shed_points.tcp_listener_accept}]\n", "overload_manager.loadshed_points: is not served by this sidecar"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseBootstrap("", []byte("overload_manager:\n"+tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}
