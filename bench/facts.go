package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// loadAverage is the kernel's, of 1, 5 and 15 minutes.
func loadAverage() (l [3]float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return l
	}
	for i, f := range strings.Fields(string(b))[:3] {
		l[i], _ = strconv.ParseFloat(f, 64)
	}
	return l
}

// machineFacts is one line about the machine.
func machineFacts() string {
	model, mem, kernel := "unknown processor", "", ""
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			kib, _ := strconv.Atoi(f[1])
			mem = fmt.Sprintf(", %d GiB", (kib+1<<19)>>20)
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = ", Linux " + strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("%d cores of %s%s%s, %s", runtime.NumCPU(), model, mem, kernel, runtime.Version())
}

var number = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// peerVersions says which peers there are.
func peerVersions() string {
	var out []string
	for _, p := range [][]string{{"nginx", "-v"}, {"haproxy", "-v"}, {"nghttpx", "--version"}, {"envoy", "--version"}} {
		text, err := exec.Command(p[0], p[1]).CombinedOutput()
		version := string(text)
		if p[0] == "envoy" {
			_, version, _ = strings.Cut(version, "/") // before it stands a commit
		}
		if v := number.FindString(version); err == nil && v != "" {
			out = append(out, p[0]+" "+v)
		}
	}
	return strings.Join(out, ", ")
}
