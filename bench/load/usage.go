package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ticks is the kernel's unit of CPU time in /proc, a second's part: 100 on every Linux that Go knows.
const ticks = 100

// usage is CPU time in seconds, since each began.
type usage struct {
	watched       map[string][2]float64 // user, system
	self, machine float64
}

func readUsage(watch string) (usage, error) {
	u := usage{watched: map[string][2]float64{}}
	for _, w := range strings.Split(watch, ",") {
		if w == "" {
			continue
		}
		name, pid, ok := strings.Cut(w, "=")
		if !ok {
			return u, fmt.Errorf("-watch %q: must be name=pid", w)
		}
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			return u, fmt.Errorf("%s is gone: %w", name, err)
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 13 {
			return u, fmt.Errorf("/proc/%s/stat is not as expected", pid)
		}
		u.watched[name] = [2]float64{number(f[11]) / ticks, number(f[12]) / ticks}
	}
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	u.self = float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal
	for i, v := range f[1:min(9, len(f))] {
		if i != 3 && i != 4 {
			u.machine += number(v) / ticks
		}
	}
	return u, nil
}

func number(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return v
}
