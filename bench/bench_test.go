package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestSmoke runs every case for a moment: every row comes out, without an error. It judges no time.
func TestSmoke(t *testing.T) {
	envoy := harness.Need(t, "envoy")
	for _, p := range []string{"nginx", "haproxy", "nghttpx"} {
		harness.Need(t, p)
	}
	t.Setenv("PATH", filepath.Dir(envoy)+":"+os.Getenv("PATH"))
	load := filepath.Join(t.TempDir(), "load")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", load, "./load").CombinedOutput(); err != nil {
		t.Fatalf("go build ./load: %v\n%s", err, out)
	}
	r, err := run(options{
		reps: 1, warm: 50 * time.Millisecond, time: 200 * time.Millisecond, bin: harness.Binaries(t).Dir, peers: "peers", loadProgram: load,
		quick: true, smoke: true, held: 20, sidecars: 2, slow: 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cases {
		if len(c.Rows) == 0 {
			t.Errorf("%s: no rows", c.ID)
		}
		for _, n := range c.Notes {
			if strings.HasPrefix(n, "failed") {
				t.Errorf("%s: %s", c.ID, n)
			}
		}
		for _, p := range c.Rows {
			if p.Errors > 0 {
				t.Errorf("%s, %s: %d errors: %s", c.ID, p.Name, p.Errors, p.FirstError)
			}
			if p.NotServed != "" {
				t.Logf("%s, %s: %s", c.ID, p.Name, p.NotServed)
			} else if len(p.Samples) == 0 {
				t.Errorf("%s, %s: no figures", c.ID, p.Name)
			}
		}
		for _, ch := range c.Checks {
			if ch.Verdict != pass && ch.Verdict != short && ch.Verdict != notServed {
				t.Errorf("%s: %s: %s", c.ID, ch.Text, ch.Verdict)
			}
		}
	}
	if text := r.text(); !strings.Contains(text, "limits kept") {
		t.Errorf("the report lacks its sum:\n%s", text)
	}
}

// sample is a result with one kept, one exceeded and one invalid limit.
func sample() *results {
	entry := func(name string, cpuTime float64, errors int) *row {
		return &row{Name: name, Errors: errors, Samples: map[string][]float64{cpu.key: {cpuTime, cpuTime + 1, cpuTime - 1}, p50.key: {10}, p99.key: {20}}}
	}
	r := &results{Began: "2000-01-01 00:00 UTC", Machine: "1 core", Reps: 3, Time: "1s"}
	r.Cases = []*caseResult{
		{ID: "s1", Rows: []*row{entry("outrigger", 8, 0), entry("nginx", 10, 0)}},
		{ID: "s7", Rows: []*row{entry("outrigger", 10, 0), entry("haproxy", 10, 0)}},
		{ID: "s3v", Rows: []*row{entry("outrigger", 1, 0), entry("haproxy", 10, 2)}},
		{ID: "s6", Rows: []*row{{Name: "outrigger", NotServed: "not served: x"}, entry("haproxy", 10, 0)}},
	}
	for _, c := range r.Cases {
		c.judge(caseOf(c.ID))
	}
	return r
}

func TestJudge(t *testing.T) {
	want := map[string]string{"s1": pass, "s7": short, "s3v": invalid, "s6": notServed}
	for _, c := range sample().Cases {
		if c.Checks[0].Verdict != want[c.ID] {
			t.Errorf("%s: %+v, want %s", c.ID, c.Checks[0], want[c.ID])
		}
	}
	if v := median([]float64{3, 1, 2}); v != 2 {
		t.Errorf("median %v", v)
	}
	if v := median([]float64{3, 1, 2, 4}); v != 2.5 {
		t.Errorf("median of four %v", v)
	}
	if !math.IsNaN(median(nil)) {
		t.Error("a median of nothing")
	}
}

// TestDocs writes the page twice: what an earlier run found stays where the later one did not measure.
func TestDocs(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "benchmarks.md")
	if err := os.WriteFile(page, []byte("# Top\n\n"+beginMark+"\nold\n"+endMark+"\n\nbottom\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := sample().writeDocs(dir); err != nil {
		t.Fatal(err)
	}
	later := sample()
	later.Began, later.Cases = "2001-01-01 00:00 UTC", later.Cases[:1]
	if err := later.writeDocs(dir); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, s := range []string{"# Top\n", "bottom\n", "1 of 6 limits kept", "| s1: ", "measured 2000-01-01 00:00 UTC", "measured 2001-01-01 00:00 UTC on 1 core", "bench/limits.svg"} {
		if !strings.Contains(text, s) {
			t.Errorf("the page lacks %q:\n%s", s, text)
		}
	}
	if strings.Contains(text, "old") {
		t.Error("the page keeps what stood between the marks")
	}
	for _, name := range []string{"limits.svg", "figures.svg"} {
		f, err := os.Open(filepath.Join(dir, "bench", name))
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(f)
		for err == nil {
			_, err = d.Token()
		}
		_ = f.Close()
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s is not well-formed: %v", name, err)
		}
	}
}
