// Package overload decides what a sidecar that has too much to do leaves undone: Envoy's overload manager in the subset
// that is served, and shedding by the delay of the loops' queues.
//
// Resources are measured every refresh interval and give a pressure, from 0 (nothing) to 1 (all of it is used). Triggers turn
// pressures into actions' shares, from 0 (off) to 1 (in force). The data path looks at shares only. See
// docs/reference/limits.md for the defaults.
package overload

import (
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// Resource is what can run short.
type Resource uint8

// The resources.
const (
	Heap        Resource = iota // live heap, of MaxHeap
	Connections                 // open downstream connections, of MaxConnections
	Buffers                     // bytes that wait for others, of MaxBuffers
	NumResources
)

// Name is the resource's label.
func (r Resource) Name() string {
	return [NumResources]string{"heap", "downstream_connections", "buffers"}[r]
}

// Action is what is left undone.
type Action uint8

// The actions, by Envoy's names.
const (
	StopRequests      Action = iota // new requests get 503, flag OM
	NoKeepalive                     // connections end with their next answer
	StopConnections                 // new connections wait in the kernel's queue
	RejectConnections               // new connections are closed at once
	ResetStalled                    // callers that do not read are given up
	NumActions
)

// Name is Envoy's name of the action, without its prefix.
func (a Action) Name() string {
	return [NumActions]string{"stop_accepting_requests", "disable_http_keepalive", "stop_accepting_connections", "reject_incoming_connections", "reset_high_memory_stream"}[a]
}

// Trigger puts an action in force from Threshold on; where Saturation is above it, only in part, growing linearly to all at
// Saturation. Both are pressures.
type Trigger struct {
	Resource              Resource
	Threshold, Saturation float64
}

// share is the action's share at a pressure.
func (t Trigger) share(p float64) float64 {
	switch {
	case p < t.Threshold:
		return 0
	case t.Saturation <= t.Threshold || p >= t.Saturation:
		return 1
	}
	return (p - t.Threshold) / (t.Saturation - t.Threshold)
}

// Config is what is watched and what follows. Zero fields mean the defaults, but Actions, of which there are none.
type Config struct {
	// Refresh is how often is measured; default 1 s.
	Refresh time.Duration
	// MaxHeap, in bytes, and MaxConnections are the resources' sizes; 0: the resource has no pressure.
	MaxHeap        uint64
	MaxConnections int64
	// MaxBuffers is the size of what may wait for others, in bytes; default 64 MiB.
	MaxBuffers int64
	// QueueTarget is the delay of a loop's queue that may stand; default 200 ms, negative: nothing is shed for it.
	QueueTarget time.Duration
	Actions     [NumActions][]Trigger
}

// DefaultMaxBuffers is how much may wait for others.
const DefaultMaxBuffers = 64 << 20

// Default is what is done where no configuration says otherwise. limit is the soft limit of memory, in bytes, 0 for none;
// files is the limit of open files.
func Default(limit, files uint64) Config {
	c := Config{MaxHeap: limit, MaxConnections: maxConnections(files)}
	if limit > 0 {
		c.MaxBuffers = max(int64(limit/4), 16<<20)
	}
	c.Actions[ResetStalled] = []Trigger{{Resource: Buffers, Threshold: 1}}
	c.Actions[StopRequests] = []Trigger{{Heap, 0.8, 0.95}, {Buffers, 0.9, 1}}
	c.Actions[NoKeepalive] = []Trigger{{Resource: Heap, Threshold: 0.8}}
	c.Actions[RejectConnections] = []Trigger{{Resource: Heap, Threshold: 0.95}, {Resource: Connections, Threshold: 1}}
	return c
}

// maxConnections leaves a descriptor for an upstream connection of each, and some for the process.
func maxConnections(files uint64) int64 {
	if files <= 512 {
		return 128
	}
	return int64(min(files, 1<<40)-256) / 2
}

// Manager measures, and tells the shares. Update belongs to one goroutine; the rest is safe for concurrent use.
type Manager struct {
	cfg       Config
	heap      [1]metrics.Sample
	pressures [NumResources]atomic.Uint32
	shares    [NumActions]atomic.Uint32
}

// New makes a manager.
func New(c Config) *Manager {
	if c.Refresh <= 0 {
		c.Refresh = time.Second
	}
	if c.MaxBuffers <= 0 {
		c.MaxBuffers = DefaultMaxBuffers
	}
	if c.QueueTarget == 0 {
		c.QueueTarget = DefaultQueueTarget
	}
	m := &Manager{cfg: c}
	m.heap[0].Name = "/gc/heap/live:bytes"
	return m
}

// Config is what the manager was made of, with the defaults filled in.
func (m *Manager) Config() Config { return m.cfg }

// Codel is the controller of one loop's queue.
func (m *Manager) Codel() Codel {
	if m.cfg.QueueTarget < 0 {
		return Codel{}
	}
	return Codel{Target: int64(m.cfg.QueueTarget), Interval: max(queueIntervals*int64(m.cfg.QueueTarget), minQueueInterval)}
}

// LiveHeap is the heap that the last collection found in use, in bytes.
func (m *Manager) LiveHeap() uint64 {
	metrics.Read(m.heap[:])
	return m.heap[0].Value.Uint64()
}

// Update puts the actions in force that follow from what is used now.
func (m *Manager) Update(heap uint64, connections, buffers int64) {
	used := [NumResources]float64{}
	if m.cfg.MaxHeap > 0 {
		used[Heap] = float64(heap) / float64(m.cfg.MaxHeap)
	}
	if m.cfg.MaxConnections > 0 {
		used[Connections] = float64(connections) / float64(m.cfg.MaxConnections)
	}
	used[Buffers] = float64(buffers) / float64(m.cfg.MaxBuffers)
	for r, p := range used {
		m.pressures[r].Store(uint32(min(max(p, 0), 4) * Whole))
	}
	for a := range m.cfg.Actions {
		var share float64
		for _, t := range m.cfg.Actions[a] {
			share = max(share, t.share(used[t.Resource]))
		}
		m.shares[a].Store(uint32(share * Whole))
	}
}

// Pressure is the resource's use when it was last measured, of Whole; it may exceed it.
func (m *Manager) Pressure(r Resource) uint32 { return m.pressures[r].Load() }

// Share is how far an action is in force, of Whole.
func (m *Manager) Share(a Action) uint32 { return m.shares[a].Load() }

// Full says whether connections is as much as there may be: it is asked at each connection, between the measurements.
func (m *Manager) Full(connections int64) bool {
	return m.cfg.MaxConnections > 0 && connections > m.cfg.MaxConnections
}
