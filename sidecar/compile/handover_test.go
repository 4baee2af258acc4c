package compile

import (
	"fmt"
	"testing"
	"time"
)

// TestHandOverWaits: a listener that hands over does not begin to accept before those are active that it hands over to.
func TestHandOverWaits(t *testing.T) {
	sink := newTable()
	c := newCompiler(sink)
	now := time.Unix(0, 0)
	listener := func(name, address string, port int, more, cluster string) string {
		return fmt.Sprintf(`{"@type":"type.googleapis.com/envoy.config.listener.v3.Listener","name":%q,"address":{"socket_address":{"address":%q,"port_value":%d}},%s
			"filter_chains":[{"filters":[{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"x","cluster":%q}}]}]}`, name, address, port, more, cluster)
	}
	cluster := func(name string) string {
		return fmt.Sprintf(`{"@type":"type.googleapis.com/envoy.config.cluster.v3.Cluster","name":%q,"type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED"}`, name)
	}
	feed := func(list ...string) map[string]bool {
		t.Helper()
		text := "["
		for i, s := range list {
			if i > 0 {
				text += ","
			}
			text += s
		}
		active := map[string]bool{}
		for _, u := range resources(t, []byte(text+"]")) {
			res := c.Update(now, u)
			if len(res.Errors) > 0 {
				t.Fatal(res.Errors)
			}
			if res.Snapshot != nil {
				active = map[string]bool{}
				for name := range res.Snapshot.Listeners {
					active[name] = true
				}
			}
		}
		return active
	}
	feed(cluster("through"))
	// The unbound listener waits for its cluster, so the other waits for it. Its name comes first, so that order shows.
	got := feed(listener("z-meant", "198.51.100.1", 80, `"bind_to_port":false,`, "late"), listener("a-outbound", "127.0.0.1", 15001, `"use_original_dst":true,`, "through"))
	if len(got) != 0 {
		t.Errorf("active are %v, before what it hands over to", got)
	}
	if got = feed(cluster("late")); !got["a-outbound"] || !got["z-meant"] {
		t.Errorf("active are %v, want both at once", got)
	}
	// One that comes later keeps nobody from going on.
	if got = feed(listener("z-more", "198.51.100.2", 80, `"bind_to_port":false,`, "later"), listener("a-outbound", "127.0.0.1", 15001, `"use_original_dst":true,"stat_prefix":"y",`, "through")); !got["a-outbound"] || got["z-more"] {
		t.Errorf("active are %v", got)
	}
	// And nobody waits for ever.
	feed(listener("b-outbound", "127.0.0.1", 15002, `"use_original_dst":true,`, "through"))
	if res := c.Tick(now.Add(time.Minute)); res.Snapshot == nil || res.Snapshot.Listeners["b-outbound"] == nil {
		t.Error("it waits for ever")
	}
}
