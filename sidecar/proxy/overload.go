package proxy

import (
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrigger-mesh/outrigger/internal/stat"
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/pipeline"
)

// watch measures what can run short, and shows it. What follows from it happens on the loops.
type watch struct {
	m     *overload.Manager
	log   *slog.Logger
	reg   *stat.Registry // or nil
	open  loop.Tally     // downstream connections
	loops []*loop.Loop
	delay *stat.Histogram
	stop  chan struct{}
	done  sync.WaitGroup
	once  sync.Once

	told [overload.NumActions]bool // actions of which the log speaks
}

func newWatch(c overload.Config, o Options) *watch {
	w := &watch{m: overload.New(c), log: o.Log, reg: o.Stats, stop: make(chan struct{})}
	if o.Stats != nil {
		w.delay = o.Stats.Histogram("outrigger_loop_queue_delay_seconds", "How long what is ready waits for an event loop that does not come to rest.", 1e-9)
	}
	return w
}

// loop prepares one of n loops, before it is started.
func (w *watch) loop(l *loop.Loop, n int) (*pipeline.Overload, error) {
	o := &pipeline.Overload{Queue: w.m.Codel(), Manager: w.m}
	if len(w.m.Config().Actions[overload.ResetStalled]) > 0 {
		l.LimitHeld(w.m.Config().MaxBuffers / int64(n))
	}
	return o, l.MeasureDelay(func(now, delay int64) {
		if w.delay != nil && delay > 0 {
			w.delay.Observe(delay)
		}
		o.Measured(now, delay)
	})
}

func (w *watch) start(loops []*loop.Loop) {
	w.loops = loops
	w.done.Go(func() {
		t := time.NewTicker(w.m.Config().Refresh)
		defer t.Stop()
		for {
			w.measure()
			select {
			case <-t.C:
			case <-w.stop:
				return
			}
		}
	})
}

func (w *watch) close() {
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
}

func (w *watch) measure() {
	var held int64
	var evicted uint64
	for _, l := range w.loops {
		held += l.Held()
		evicted += l.Evicted()
	}
	w.m.Update(w.m.LiveHeap(), w.open.Value(), held)
	for a := range overload.NumActions {
		share := w.m.Share(a)
		if on := share > 0; on != w.told[a] {
			w.told[a] = on
			if on {
				w.log.Warn("overload: an action is in force", "action", a.Name(), "heap_percent", percent(w.m.Pressure(overload.Heap)),
					"connections_percent", percent(w.m.Pressure(overload.Connections)), "buffers_percent", percent(w.m.Pressure(overload.Buffers)))
			} else {
				w.log.Info("overload: an action has ended", "action", a.Name())
			}
		}
		if w.reg != nil {
			w.reg.Gauge("outrigger_overload_action_percent", "How far an action of the overload manager is in force.", stat.Label{Name: "action", Value: a.Name()}).Set(percent(share))
		}
	}
	if w.reg == nil {
		return
	}
	for r := range overload.NumResources {
		w.reg.Gauge("outrigger_overload_pressure_percent", "How much of a resource is used.", stat.Label{Name: "resource", Value: r.Name()}).Set(percent(w.m.Pressure(r)))
	}
	w.reg.Gauge("outrigger_buffered_bytes", "Bytes that wait for others: output that a peer does not take, bodies that an upstream is not ready for.").Set(held)
	w.reg.Gauge("outrigger_downstream_connections", "Open downstream connections.").Set(w.open.Value())
	w.reg.Gauge("outrigger_evicted_receivers", "Callers that did not read and were given up because memory was short, since the start.").Set(int64(evicted))
}

func percent(share uint32) int64 { return int64(share) * 100 / overload.Whole }

// full counts a new connection; where that is one too many it counts it off again, and says so.
func (a *acceptor) full() bool {
	w := a.srv.watch
	var reason string
	n := a.l.Open.Add(1)
	switch limit := a.l.Config.Load().MaxConnections; {
	case limit > 0 && n > limit:
		reason = "as many connections as the listener takes"
	case w.m.Full(w.open.Value()):
		reason = "as many connections as the sidecar takes"
	case w.m.Share(overload.RejectConnections) >= overload.Whole && w.m.Pressure(overload.Connections) < overload.Whole:
		reason = "memory is short"
	default:
		return false
	}
	a.l.Open.Add(-1)
	a.w.Refuse(&a.l.Listener, pipeline.Refusal{Protocol: "tcp", Flag: exchange.OverloadManager, Reason: reason})
	return true
}

// Hold has new connections wait in the kernel's queue.
func (a *acceptor) Hold() bool {
	return a.srv.watch.m.Share(overload.StopConnections) >= overload.Whole
}

// openFiles is the limit of open descriptors.
func openFiles() uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return r.Cur
}
