// Command bench measures one proxy hop of outrigger-sidecar beside nginx, HAProxy, nghttpx and Envoy, and compares what it
// finds with the limits that the project set itself. bench/README.md says what is measured and how to read it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

type options struct {
	cases       string
	reps        int
	warm, time  time.Duration
	bin, peers  string
	loadProgram string // bench/load; "" is in bin
	docs, raw   string
	only        string
	profiles    string
	quick       bool
	smoke       bool // without pauses: shows that all runs, measures nothing
	held        int  // idle connections
	sidecars    int  // of the slope
	slow        int  // slow-loris clients
}

func main() {
	var o options
	flag.StringVar(&o.cases, "cases", "", "measure only these, by commas (default: all): "+strings.Join(caseIDs(), ", "))
	flag.IntVar(&o.reps, "reps", 5, "runs of each peer in each case; medians are shown")
	flag.DurationVar(&o.warm, "warm", time.Second, "load before each measurement")
	flag.DurationVar(&o.time, "time", 3*time.Second, "length of each measurement")
	flag.StringVar(&o.bin, "bin", "bin", "directory of the binaries")
	flag.StringVar(&o.peers, "peers", "bench/peers", "directory of the peers' configurations")
	flag.StringVar(&o.docs, "docs", "", "directory of benchmarks.md, to write tables and plot into")
	flag.StringVar(&o.raw, "raw", "", "also write every run to this file, as JSON lines")
	flag.StringVar(&o.only, "only", "", "measure only these rows, by commas: outrigger, haproxy, …; limits that need another are not judged")
	flag.StringVar(&o.profiles, "profile", "", "write Outrigger's CPU profile of each case into this directory; figures of such a run are none")
	flag.BoolVar(&o.quick, "quick", false, "at most 5 minutes: 3 runs of 1 s, only the peers of a limit")
	flag.Parse()
	o.held, o.sidecars, o.slow = 2000, 50, 2000
	if o.quick {
		o.reps, o.warm, o.time = min(o.reps, 3), 300*time.Millisecond, time.Second
	}
	r, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	fmt.Print(r.text())
	if o.docs != "" {
		if err := r.writeDocs(o.docs); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
}

// run measures the chosen cases: each round goes through all of them, and in each the peers take turns.
func run(o options) (*results, error) {
	chosen, err := chooseCases(o.cases)
	if err != nil {
		return nil, err
	}
	b, err := newBench(o, chosen)
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := &results{Machine: machineFacts(), Peers: peerVersions(), Reps: o.reps, Time: o.time.String(), Began: time.Now().UTC().Format("2006-01-02 15:04 UTC"), LoadBefore: loadAverage()}
	for _, c := range chosen {
		r.Cases = append(r.Cases, &caseResult{ID: c.id})
	}
	var failures []error
	for rep := range o.reps {
		for i, c := range chosen {
			if c.once && rep > 0 {
				continue
			}
			if err := c.measure(b, c, r.Cases[i], rep); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", c.id, err))
				r.Cases[i].note("failed: " + err.Error())
				progress("%-6s failed: %v", c.id, err)
			}
		}
	}
	r.LoadDuring, r.LoadAfter = b.loadPeak, loadAverage()
	r.Foreign = median(b.foreign)
	for i, c := range chosen {
		r.Cases[i].judge(c)
	}
	if len(failures) > 0 {
		fmt.Fprintln(os.Stderr, "bench: not all was measured:", errors.Join(failures...))
	}
	return r, nil
}

func chooseCases(only string) ([]*benchCase, error) {
	all := allCases()
	if only == "" {
		return all, nil
	}
	var out []*benchCase
	for _, id := range strings.Split(only, ",") {
		i := slices.IndexFunc(all, func(c *benchCase) bool { return c.id == strings.TrimSpace(id) })
		if i < 0 {
			return nil, fmt.Errorf("no case %q; there are %s", id, strings.Join(caseIDs(), ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
