package xdsclient

import (
	"maps"
	"slices"
	"strings"

	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	"go.yaml.in/yaml/v3"

	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
)

// The overload manager's resources and actions, by Envoy's names; buffersMonitor is ours, and always there.
const (
	heapMonitor        = "envoy.resource_monitors.fixed_heap"
	connectionsMonitor = "envoy.resource_monitors.global_downstream_max_connections"
	buffersMonitor     = "outrigger.resource_monitors.buffers"
	actionPrefix       = "envoy.overload_actions."
)

// Overload is what a bootstrap's overload_manager changes of the defaults: nil where there is none.
type Overload struct {
	parts []func(c *overload.Config)
}

// Apply changes c.
func (o *Overload) Apply(c *overload.Config) {
	if o == nil {
		return
	}
	for _, f := range o.parts {
		f(c)
	}
}

func (o *Overload) add(f func(c *overload.Config)) { o.parts = append(o.parts, f) }

// overloadManager reads what limits the whole sidecar. Actions that it does not name keep their defaults.
func (p *bootParser) overloadManager(path string, n *yaml.Node) {
	m := &overloadv3.OverloadManager{}
	if !p.checked(path, n, m) {
		return
	}
	out := &Overload{}
	p.out.Overload = out
	if d := m.GetRefreshInterval(); d != nil {
		v := d.AsDuration()
		if d.CheckValid() != nil || v <= 0 {
			p.bad(path+".refresh_interval", "1s", "must be above 0")
		}
		out.add(func(c *overload.Config) { c.Refresh = v })
	}
	resources := map[string]overload.Resource{buffersMonitor: overload.Buffers}
	for i, r := range m.GetResourceMonitors() {
		p.monitor(violation.Index(path+".resource_monitors", i), r, resources, out)
	}
	seen := map[overload.Action]bool{}
	for i, a := range m.GetActions() {
		p.overloadAction(violation.Index(path+".actions", i), a, resources, seen, out)
	}
}

func (p *bootParser) monitor(path string, r *overloadv3.ResourceMonitor, resources map[string]overload.Resource, out *Overload) {
	var heap heapv3.FixedHeapConfig
	var conns connectionsv3.DownstreamConnectionsConfig
	any := r.GetTypedConfig()
	at := path + ".typed_config"
	switch {
	case any.MessageIs(&heap):
		if err := any.UnmarshalTo(&heap); err != nil {
			p.bad(at, "", "%v", err)
			return
		}
		if heap.GetMaxHeapSizeBytes() == 0 {
			p.bad(at+".max_heap_size_bytes", "268435456", "must be above 0")
		}
		size := heap.GetMaxHeapSizeBytes()
		out.add(func(c *overload.Config) { c.MaxHeap = size })
		p.named(path, r.GetName(), heapMonitor, overload.Heap, resources)
	case any.MessageIs(&conns):
		if err := any.UnmarshalTo(&conns); err != nil {
			p.bad(at, "", "%v", err)
			return
		}
		for _, e := range compile.Unserved(&conns) {
			p.bad(violation.Field(at, e.Field), "", "%s", e.Reason)
		}
		max := conns.GetMaxActiveDownstreamConnections()
		if max <= 0 {
			p.bad(at+".max_active_downstream_connections", "10000", "must be above 0")
		}
		out.add(func(c *overload.Config) { c.MaxConnections = max })
		p.named(path, r.GetName(), connectionsMonitor, overload.Connections, resources)
	default:
		p.bad(at, heapMonitor+" or "+connectionsMonitor, "a monitor of type %q is not served by this sidecar", any.GetTypeUrl())
	}
}

func (p *bootParser) named(path, name, want string, r overload.Resource, resources map[string]overload.Resource) {
	if name != want {
		p.bad(path+".name", want, "%q is not the name of this monitor", name)
	}
	if _, twice := resources[want]; twice {
		p.bad(path, "", "there is another one of this name")
	}
	resources[want] = r
}

func (p *bootParser) overloadAction(path string, a *overloadv3.OverloadAction, resources map[string]overload.Resource, seen map[overload.Action]bool, out *Overload) {
	action, ok := overload.NumActions, false
	var names []string
	for k := range overload.NumActions {
		names = append(names, actionPrefix+k.Name())
		if a.GetName() == actionPrefix+k.Name() {
			action, ok = k, true
		}
	}
	if !ok {
		p.bad(path+".name", strings.Join(names, ", "), "%q is not served by this sidecar", a.GetName())
		return
	}
	if seen[action] {
		p.bad(path+".name", "", "%q is there twice", a.GetName())
	}
	seen[action] = true
	if len(a.GetTriggers()) == 0 {
		p.bad(path+".triggers", "", "is empty: the action would never be in force")
	}
	var ts []overload.Trigger
	for i, t := range a.GetTriggers() {
		at := violation.Index(path+".triggers", i)
		r, known := resources[t.GetName()]
		if !known {
			p.bad(at+".name", strings.Join(slices.Sorted(maps.Keys(resources)), ", "), "%q is none of the resource monitors", t.GetName())
		}
		tr := overload.Trigger{Resource: r}
		switch {
		case t.GetThreshold() != nil:
			tr.Threshold = t.GetThreshold().GetValue()
			if tr.Threshold <= 0 || tr.Threshold > 1 {
				p.bad(at+".threshold.value", "0.95", "must be above 0 and at most 1")
			}
		case t.GetScaled() != nil:
			tr.Threshold, tr.Saturation = t.GetScaled().GetScalingThreshold(), t.GetScaled().GetSaturationThreshold()
			if tr.Threshold <= 0 || tr.Saturation > 1 || tr.Threshold >= tr.Saturation {
				p.bad(at+".scaled", "{scaling_threshold: 0.8, saturation_threshold: 0.95}", "must grow, above 0 and to at most 1")
			}
			if action != overload.StopRequests {
				p.bad(at+".scaled", "threshold", "only %s takes effect by degrees", actionPrefix+overload.StopRequests.Name())
			}
		default:
			p.bad(at, "threshold: {value: 0.95}", "has neither threshold nor scaled")
		}
		ts = append(ts, tr)
	}
	out.add(func(c *overload.Config) { c.Actions[action] = ts })
}
