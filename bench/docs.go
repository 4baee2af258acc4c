package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Between these lines of benchmarks.md stands what the bench wrote.
const (
	beginMark = "<!-- bench: written by `make bench`; do not edit -->"
	endMark   = "<!-- bench: end -->"
)

// writeDocs puts the results into dir/benchmarks.md, dir/bench/*.svg and dir/bench/results.json. Cases that this run did not
// measure keep what an earlier run found, and say when.
func (r *results) writeDocs(dir string) error {
	sub := filepath.Join(dir, "bench")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		return err
	}
	file := filepath.Join(sub, "results.json")
	if err := r.keep(file); err != nil {
		return err
	}
	for name, text := range map[string]string{"limits.svg": r.plotLimits(), "figures.svg": r.plotFigures()} {
		if err := os.WriteFile(filepath.Join(sub, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	page := filepath.Join(dir, "benchmarks.md")
	raw, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(raw), beginMark)
	_, after, closed := strings.Cut(rest, endMark)
	if !ok || !closed {
		return fmt.Errorf("%s lacks the lines %q and %q", page, beginMark, endMark)
	}
	text := before + beginMark + "\n\n![Share of each limit that is used](bench/limits.svg)\n\n![Figures of all peers](bench/figures.svg)\n\n" + r.text() + "\n" + endMark + after
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		return err
	}
	out, err := json.MarshalIndent(r.rounded(), "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(out, '\n'), 0o644)
}

// keep takes the cases of an earlier run that this one lacks, in the order of all cases.
func (r *results) keep(file string) error {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old results
	if err := json.Unmarshal(raw, &old); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	has := func(id string) bool {
		return slices.ContainsFunc(r.Cases, func(c *caseResult) bool { return c.ID == id })
	}
	for _, c := range old.Cases {
		if !slices.Contains(caseIDs(), c.ID) || has(c.ID) {
			continue
		}
		if c.Began == "" {
			c.Began = old.Began
		}
		r.Cases = append(r.Cases, c)
	}
	ids := caseIDs()
	slices.SortStableFunc(r.Cases, func(a, b *caseResult) int { return slices.Index(ids, a.ID) - slices.Index(ids, b.ID) })
	return nil
}

// rounded is a copy fit for JSON, which knows no NaN: figures with five digits.
func (r *results) rounded() *results {
	out := *r
	out.Cases = nil
	for _, c := range r.Cases {
		k := *c
		k.Checks, k.Rows = nil, nil
		for _, ch := range c.Checks {
			ch.Share = round(ch.Share)
			k.Checks = append(k.Checks, ch)
		}
		for _, p := range c.Rows {
			q := *p
			q.Samples = map[string][]float64{}
			for key, vs := range p.Samples {
				for _, v := range vs {
					q.Samples[key] = append(q.Samples[key], round(v))
				}
			}
			k.Rows = append(k.Rows, &q)
		}
		out.Cases = append(out.Cases, &k)
	}
	out.Foreign = round(r.Foreign)
	return &out
}

func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 5-math.Ceil(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
