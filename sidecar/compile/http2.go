package compile

import (
	"math"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Bounds of HTTP/2's numbers.
const (
	minWindow    = 65535
	maxWindow    = 1<<31 - 1
	maxTableSize = 1 << 20
	maxFrames    = 1 << 20
	leastPing    = time.Millisecond
)

// http2Options reads what is said of HTTP/2; nil where nothing differs from the usual. MaxStreams is read for an upstream
// alone.
func http2Options(r *report, path string, m *corev3.Http2ProtocolOptions, up bool) *snapshot.HTTP2Options {
	if m == nil {
		return nil
	}
	o := snapshot.HTTP2Options{
		StreamWindow:       number(r, join(path, "initial_stream_window_size"), m.GetInitialStreamWindowSize(), 1, maxWindow),
		ConnWindow:         number(r, join(path, "initial_connection_window_size"), m.GetInitialConnectionWindowSize(), minWindow, maxWindow),
		TableSize:          number(r, join(path, "hpack_table_size"), m.GetHpackTableSize(), 0, maxTableSize),
		HasTableSize:       m.GetHpackTableSize() != nil,
		MaxOutbound:        number(r, join(path, "max_outbound_frames"), m.GetMaxOutboundFrames(), 1, maxFrames),
		MaxOutboundControl: number(r, join(path, "max_outbound_control_frames"), m.GetMaxOutboundControlFrames(), 1, maxFrames),
	}
	streams := number(r, join(path, "max_concurrent_streams"), m.GetMaxConcurrentStreams(), 1, maxWindow)
	if up {
		o.MaxStreams = streams
	}
	if m.GetAllowMetadata() {
		r.add(join(path, "allow_metadata"), "is not served by this sidecar")
	}
	if m.GetOverrideStreamErrorOnInvalidHttpMessage().GetValue() {
		r.add(join(path, "override_stream_error_on_invalid_http_message"), "only false is served by this sidecar")
	}
	if k := m.GetConnectionKeepalive(); k != nil {
		p := join(path, "connection_keepalive")
		o.PingInterval = duration(r, join(p, "interval"), k.GetInterval(), 0)
		o.PingIdle = duration(r, join(p, "connection_idle_interval"), k.GetConnectionIdleInterval(), 0)
		o.PingTimeout = duration(r, join(p, "timeout"), k.GetTimeout(), 0)
		o.PingJitter = 15
		if j := k.GetIntervalJitter(); j != nil {
			o.PingJitter = j.GetValue()
		}
		if math.IsNaN(o.PingJitter) || o.PingJitter < 0 || o.PingJitter > 100 {
			r.add(join(p, "interval_jitter"), "must be from 0 to 100 percent")
		}
		if o.PingTimeout < leastPing {
			r.add(join(p, "timeout"), "must be at least 1 ms")
		}
		if o.PingInterval == 0 && o.PingIdle == 0 {
			r.add(p, "needs interval or connection_idle_interval")
		}
	}
	if o == (snapshot.HTTP2Options{}) {
		return nil
	}
	return &o
}

// number reads a number that is to be from least to most; 0 where it is not set.
func number(r *report, path string, v *wrapperspb.UInt32Value, least, most uint32) uint32 {
	if v == nil {
		return 0
	}
	if n := v.GetValue(); n < least || n > most {
		r.add(path, "must be from %d to %d", least, most)
	}
	return v.GetValue()
}
