package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/outrigger-mesh/outrigger/supervisor/logfile"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// A runner's memory is paid for by every instance: it collects early, on one thread, and never has much to do.
const (
	collectPercent = 25
	memoryTarget   = 3 << 20
	logMaxBytes    = 1 << 20
	logFiles       = 2
)

func main() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(collectPercent)
	debug.SetMemoryLimit(memoryTarget)
	os.Exit(run())
}

func run() int {
	path := flag.String("spec", "", "the instance's specification (spec.json)")
	flag.Parse()
	report := reporter()
	if *path == "" || flag.NArg() > 0 {
		flag.Usage()
		return 2
	}
	// SIGHUP, SIGINT and SIGQUIT belong to the terminal of whoever started us. They are caught, not ignored: what is ignored
	// is inherited by the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE)
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM)

	spec, err := runner.LoadSpec(*path)
	if err != nil {
		return fail(report, err)
	}
	out := logfile.New(filepath.Join(spec.Dir, runner.LogDir, runner.RunnerLog), logfile.Options{MaxBytes: logMaxBytes, Files: logFiles})
	defer func() { _ = out.Close() }()
	log := slog.New(slog.NewTextHandler(out, nil)).With("instance", spec.Instance)
	err = runner.Run(spec, runner.Options{Log: log, Stop: stop, Ready: func() {
		report(nil)
		debug.FreeOSMemory() // what the start needed
	}})
	if err != nil {
		return fail(report, err)
	}
	return 0
}

func fail(report func(error), err error) int {
	fmt.Fprintln(os.Stderr, "outrigger-runner:", err)
	report(err)
	return 1
}

// reporter returns a function that tells who launched us, once, how it went.
func reporter() func(error) {
	fd, err := strconv.Atoi(os.Getenv(runner.ReadyEnv))
	if err != nil || fd < 3 {
		return func(error) {}
	}
	_ = os.Unsetenv(runner.ReadyEnv)
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "ready")
	return func(err error) {
		if f == nil {
			return
		}
		var rep runner.Report
		if err != nil {
			rep.Error = err.Error()
		}
		_ = json.NewEncoder(f).Encode(rep)
		_ = f.Close()
		f = nil
	}
}
