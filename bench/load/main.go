// Command load is the load side of the benchmarks: lean clients and the gRPC backend, so that one core of load can keep
// one core of proxy busy. bench/README.md says how it is used.
//
//	load http  -addr HOST:PORT -c 50 [-path /1m] [-rate 40000] [-ca FILE -cert FILE -key FILE]
//	load grpc  -addr HOST:PORT -c 4 -m 50 [-vary]
//	load hold  -addr HOST:PORT -n 2000 -kind plain|tls|http2
//	load loris -addr HOST:PORT -n 2000
//	load serve -addr HOST:PORT
//
// The clients warm up, then measure for a while, and print one JSON object. What they are told to watch (-watch
// proxy=PID,backend=PID) has its CPU time read at the two ends of that while, no sooner and no later. hold opens
// connections, makes one exchange on each, says "ready" and keeps them until its input ends; loris opens slow ones. serve is
// the backend.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(2, "usage: load http|grpc|hold|loris|serve [flags]")
	}
	name, args := os.Args[1], os.Args[2:]
	commands := map[string]func([]string) error{"http": httpLoad, "grpc": grpcLoad, "hold": hold, "loris": loris, "serve": serve}
	run := commands[name]
	if run == nil {
		fail(2, "load: no command "+name)
	}
	if err := run(args); err != nil {
		fail(1, fmt.Sprintf("load %s: %v", name, err))
	}
}

func fail(code int, text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(code)
}

// common are the flags of both clients.
type common struct {
	addr       string
	conns      int
	warm, time time.Duration
	watch      string
}

func (o *common) register(fs *flag.FlagSet) {
	fs.StringVar(&o.addr, "addr", "", "`host:port` to call")
	fs.IntVar(&o.conns, "c", 50, "connections")
	fs.DurationVar(&o.warm, "warm", time.Second, "load before the measurement")
	fs.DurationVar(&o.time, "time", 3*time.Second, "length of the measurement")
	fs.StringVar(&o.watch, "watch", "", "processes whose CPU time is read: `name=pid,…`")
}

// Result is what a client prints. CPU times are seconds within the measurement.
type Result struct {
	Requests   int     `json:"requests"`
	Errors     int     `json:"errors"`
	FirstError string  `json:"first_error,omitempty"`
	Seconds    float64 `json:"seconds"`
	Bytes      int64   `json:"bytes"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
	Max        float64 `json:"max_us"`
	// CPU is what each watched process used, all threads: user and system.
	CPU map[string][2]float64 `json:"cpu"`
	// Load is what this client used itself, Machine all that anything used on all cores.
	Load    float64 `json:"load_cpu"`
	Machine float64 `json:"machine_cpu"`
}

func (e *engine) report() error {
	r := Result{
		Requests: e.hist.n, Errors: e.errors, FirstError: e.firstError, Seconds: float64(e.end-e.start) / 1e9, Bytes: e.bytes,
		P50: e.hist.quantile(0.5) / 1e3, P99: e.hist.quantile(0.99) / 1e3, Max: float64(e.hist.max) / 1e3,
		CPU: map[string][2]float64{}, Load: e.after.self - e.before.self, Machine: e.after.machine - e.before.machine,
	}
	for name, a := range e.after.watched {
		b := e.before.watched[name]
		r.CPU[name] = [2]float64{a[0] - b[0], a[1] - b[1]}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
