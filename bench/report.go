package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// results are what a run found; they are kept as JSON beside the page.
type results struct {
	Began   string `json:"began"`
	Machine string `json:"machine"`
	Peers   string `json:"peers"`
	Reps    int    `json:"reps"`
	Time    string `json:"time"`
	// Load averages of 1, 5 and 15 minutes; during the run the highest of one minute.
	LoadBefore [3]float64 `json:"load_before"`
	LoadDuring float64    `json:"load_during"`
	LoadAfter  [3]float64 `json:"load_after"`
	// Foreign is the share of the machine that was used by neither proxy, client nor backend: median of all runs.
	Foreign float64       `json:"foreign"`
	Cases   []*caseResult `json:"cases"`
}

type caseResult struct {
	ID     string   `json:"id"`
	Rows   []*row   `json:"rows"`
	Checks []check  `json:"checks"`
	Notes  []string `json:"notes,omitempty"`
	Rate   float64  `json:"rate,omitempty"`
	// Began is set where the case was measured in another run than the rest.
	Began string `json:"began,omitempty"`
}

// row is an entrant's figures: each metric's value in each run.
type row struct {
	Name       string               `json:"name"`
	Samples    map[string][]float64 `json:"samples"`
	Errors     int                  `json:"errors"`
	FirstError string               `json:"first_error,omitempty"`
	NotServed  string               `json:"not_served,omitempty"`
}

// Verdicts.
const (
	pass, short = "pass", "short"
	invalid     = "invalid"
	notServed   = "not served"
	notMeasured = "not measured"
)

// check is one limit and what became of it.
type check struct {
	Text    string  `json:"text"`    // the limit, in words
	Found   string  `json:"found"`   // in the limit's terms
	Share   float64 `json:"share"`   // of the limit that was used: at most 1 where it was kept
	Verdict string  `json:"verdict"` //
}

func (c *caseResult) row(name string) *row {
	if r := c.find(name); r != nil {
		return r
	}
	r := &row{Name: name, Samples: map[string][]float64{}}
	c.Rows = append(c.Rows, r)
	return r
}

func (c *caseResult) find(name string) *row {
	if i := slices.IndexFunc(c.Rows, func(r *row) bool { return r.Name == name }); i >= 0 {
		return c.Rows[i]
	}
	return nil
}

func (c *caseResult) note(text string) {
	if !slices.Contains(c.Notes, text) {
		c.Notes = append(c.Notes, text)
	}
}

func (r *row) add(figures map[string]float64, m *measure) {
	for k, v := range figures {
		r.Samples[k] = append(r.Samples[k], v)
	}
	r.fail(m)
}

func (r *row) fail(m *measure) {
	r.Errors += m.Errors
	if r.FirstError == "" {
		r.FirstError = m.FirstError
	}
}

func (r *row) median(key string) float64 { return median(r.Samples[key]) }

// median is NaN of nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// judge fills in what is computed from several rows, and holds the medians against the limits.
func (c *caseResult) judge(k *benchCase) {
	if direct := c.find("direct"); direct != nil {
		for _, r := range c.Rows {
			if r != direct {
				r.Samples[added50.key] = []float64{r.median(p50.key) - direct.median(p50.key)}
				r.Samples[added99.key] = []float64{r.median(p99.key) - direct.median(p99.key)}
			}
		}
	}
	if one, two := c.find("one loop"), c.find("two loops"); one != nil && two != nil {
		two.Samples[scale.key] = []float64{2 * one.median(cpu.key) / two.median(cpu.key)}
	}
	c.Checks = nil
	for _, l := range k.limits {
		c.Checks = append(c.Checks, c.check(k, l))
	}
}

func (c *caseResult) check(k *benchCase, l limit) check {
	subject := l.subject
	if subject == "" {
		subject = k.peers[0].name()
	}
	out := check{Share: math.NaN()}
	sign := "≤"
	if l.least {
		sign = "≥"
	}
	if l.of != "" {
		out.Text = fmt.Sprintf("%s %s %.2f × %s", l.metric.title, sign, l.factor, l.of)
	} else {
		out.Text = strings.TrimPrefix(fmt.Sprintf("%s: %s %s %s", l.subject, l.metric.title, sign, trim(l.factor)), ": ")
	}
	us, them := c.find(subject), (*row)(nil)
	if l.of != "" {
		them = c.find(l.of)
	}
	value, bound := math.NaN(), l.factor
	if us != nil {
		value = us.median(l.metric.key)
	}
	if l.of != "" {
		bound = math.NaN()
		if them != nil {
			bound = l.factor * them.median(l.metric.key)
		}
	}
	switch {
	case us != nil && us.NotServed != "":
		out.Verdict, out.Found = notServed, "–"
		return out
	case math.IsNaN(value) || math.IsNaN(bound):
		out.Verdict, out.Found = notMeasured, "–"
		out.Share = 0
		return out
	}
	out.Found = fmt.Sprintf(l.metric.format, value)
	if l.of != "" {
		out.Found = fmt.Sprintf("%.2f × (%s of %s)", value/bound*l.factor, out.Found, fmt.Sprintf(l.metric.format, bound/l.factor))
	}
	out.Share = value / bound
	if l.least {
		out.Share = bound / value
	}
	switch {
	case us.Errors > 0 || them != nil && them.Errors > 0:
		out.Verdict = invalid
	case out.Share <= 1:
		out.Verdict = pass
	default:
		out.Verdict = short
	}
	return out
}

func trim(v float64) string {
	if v >= 1e4 {
		return fmt.Sprintf("%.0f", v)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// text is the report in Markdown, for the terminal and the page alike.
func (r *results) text() string {
	var b strings.Builder
	kept, all := 0, 0
	b.WriteString("| Case | Limit | Found | |\n|---|---|---|---|\n")
	for _, c := range r.Cases {
		k := caseOf(c.ID)
		for _, ch := range c.Checks {
			all++
			if ch.Verdict == pass {
				kept++
			}
			fmt.Fprintf(&b, "| %s: %s | %s | %s | %s |\n", c.ID, k.title, ch.Text, ch.Found, ch.Verdict)
		}
	}
	fmt.Fprintf(&b, "\n%d of %d limits kept. Medians of %d runs of %s, measured %s on %s. Peers: %s.\n", kept, all, r.Reps, r.Time, r.Began, r.Machine, r.Peers)
	fmt.Fprintf(&b, "Load average %.2f before, at most %.2f during, %.2f after; other processes used %.1f %% of the machine (median of the runs).\n",
		r.LoadBefore[0], r.LoadDuring, r.LoadAfter[0], 100*r.Foreign)
	for _, c := range r.Cases {
		c.table(&b)
	}
	return b.String()
}

func (c *caseResult) table(b *strings.Builder) {
	k := caseOf(c.ID)
	fmt.Fprintf(b, "\n### %s: %s\n\n", c.ID, k.title)
	var notes []string
	if k.about != "" {
		notes = append(notes, k.about)
	}
	notes = append(notes, c.Notes...)
	if c.Began != "" {
		notes = append(notes, "measured "+c.Began)
	}
	if len(notes) > 0 {
		fmt.Fprintf(b, "%s.\n\n", strings.Join(notes, "; "))
	}
	b.WriteString("| |")
	for _, m := range k.metrics {
		fmt.Fprintf(b, " %s |", m.title)
		if m == cpu {
			b.WriteString(" least to most |")
		}
	}
	b.WriteString(" errors |\n|---|")
	for _, m := range k.metrics {
		b.WriteString("---|")
		if m == cpu {
			b.WriteString("---|")
		}
	}
	b.WriteString("---|\n")
	for _, r := range c.Rows {
		fmt.Fprintf(b, "| %s |", r.Name)
		for _, m := range k.metrics {
			v := r.Samples[m.key]
			if r.NotServed != "" || len(v) == 0 {
				b.WriteString(" – |")
				if m == cpu {
					b.WriteString(" – |")
				}
				continue
			}
			fmt.Fprintf(b, " "+m.format+" |", median(v))
			if m == cpu {
				fmt.Fprintf(b, " "+m.format+" to "+m.format+" |", slices.Min(v), slices.Max(v))
			}
		}
		switch {
		case r.NotServed != "":
			b.WriteString(" not served |\n")
		case r.Errors > 0:
			fmt.Fprintf(b, " %d (%s) |\n", r.Errors, strings.ReplaceAll(r.FirstError, "|", "/"))
		default:
			b.WriteString(" 0 |\n")
		}
	}
}

func caseOf(id string) *benchCase {
	for _, c := range allCases() {
		if c.id == id {
			return c
		}
	}
	return &benchCase{id: id}
}
