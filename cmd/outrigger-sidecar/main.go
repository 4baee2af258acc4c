// Command outrigger-sidecar is the proxy beside one instance of a service, or a gateway by itself.
//
// It only wires: flags, the bootstrap, the runner's channel, configuration (sidecar/xdsclient and sidecar/compile),
// the console, and the data path, which datapath.go makes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
	"github.com/outrigger-mesh/outrigger/sidecar/xdsclient"
)

// What a sidecar may use where neither flags nor GOMAXPROCS and GOMEMLIMIT say: it shares its host with the service
// that it serves. Gateways take what the host has.
const (
	defaultProcs  = 2
	defaultMemory = 256 << 20
)

type flags struct {
	config, console, state, token string
	procs                         int
	memory                        int64
	buffers                       int64
	queue                         time.Duration
	level                         slog.Level
}

func main() { os.Exit(start(os.Args[1:], os.Stderr)) }

// start returns the exit status: 0 after a drain, 1 where something failed, 2 for wrong usage.
func start(args []string, stderr io.Writer) int {
	f := flags{}
	fs := flag.NewFlagSet("outrigger-sidecar", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&f.config, "c", "", "bootstrap `file`, JSON or YAML (required)")
	fs.StringVar(&f.console, "console", "", "Unix socket of the console, beside the bootstrap's admin address (default where there is none: console.sock beside the bootstrap)")
	fs.StringVar(&f.state, "state", "", "directory of the last good configuration (default: xds beside the bootstrap)")
	fs.StringVar(&f.token, "admin-token", "", "`file` of the token that the console asks for on a TCP address; made where it is missing (default: admin.token beside the bootstrap)")
	fs.IntVar(&f.procs, "procs", 0, "CPUs to use at a time (default: GOMAXPROCS, else 2; a gateway: all)")
	fs.Int64Var(&f.memory, "memory", 0, "soft limit of memory in `bytes` (default: GOMEMLIMIT, else 256 MiB; a gateway: none)")
	fs.Int64Var(&f.buffers, "buffers", 0, "`bytes` that may wait for peers that do not read (default: a quarter of -memory, else 64 MiB)")
	fs.DurationVar(&f.queue, "queue-delay", 0, "`delay` of requests in an event loop's queue from which a part of them is refused, with flag OM (default 200ms; negative: never)")
	fs.TextVar(&f.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.config == "" || fs.NArg() > 0 {
		fmt.Fprintln(stderr, "usage: outrigger-sidecar -c FILE")
		fs.PrintDefaults()
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: f.level}))
	boot, err := xdsclient.ReadBootstrap(f.config)
	if err != nil {
		fail(stderr, log, "the sidecar cannot start", err)
		return 1
	}
	dir := filepath.Dir(f.config)
	if f.console == "" && boot.AdminAddress == "" {
		f.console = filepath.Join(dir, "console.sock")
	}
	if f.token == "" {
		f.token = filepath.Join(dir, "admin.token")
	}
	if f.state == "" {
		f.state = filepath.Join(dir, "xds")
	}
	share(f, isGateway(boot))
	collectEarly()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, f, boot, log); err != nil {
		fail(stderr, log, "the sidecar ends", err)
		return 1
	}
	return 0
}

// fail says why the process ends: what somebody wrote wrong line by line, all else as a log entry.
func fail(stderr io.Writer, log *slog.Logger, what string, err error) {
	if l := violation.List(nil); errors.As(err, &l) {
		fmt.Fprintln(stderr, l.Error())
		return
	}
	log.Error(what, "error", err)
}

func isGateway(boot *xdsclient.Bootstrap) bool {
	md := boot.Node.GetMetadata().GetFields()[xdsname.MetadataKey].GetStructValue()
	return md.GetFields()["kind"].GetStringValue() == "gateway"
}

// share takes this process's share of the host.
func share(f flags, gateway bool) {
	switch {
	case f.procs > 0:
		runtime.GOMAXPROCS(f.procs)
	case os.Getenv("GOMAXPROCS") == "" && !gateway:
		runtime.GOMAXPROCS(min(defaultProcs, runtime.GOMAXPROCS(0)))
	}
	switch {
	case f.memory > 0:
		debug.SetMemoryLimit(f.memory)
	case os.Getenv("GOMEMLIMIT") == "" && !gateway:
		debug.SetMemoryLimit(defaultMemory)
	}
}

// limits are what the whole sidecar's limits are: the defaults, what the bootstrap says otherwise, and the flags.
func limits(f flags, boot *xdsclient.Bootstrap) overload.Config {
	var memory uint64
	if n := debug.SetMemoryLimit(-1); n < math.MaxInt64 {
		memory = uint64(n)
	}
	c := overload.Default(memory, openFiles())
	boot.Overload.Apply(&c)
	if f.buffers > 0 {
		c.MaxBuffers = f.buffers
	}
	c.QueueTarget = f.queue
	return c
}

// openFiles is the limit of open descriptors.
func openFiles() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return r.Cur
}
