package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Colours that stay apart for colour-blind readers, on white.
const (
	colourOurs  = "#0b6e99"
	colourPeer  = "#b8c4cc"
	colourShort = "#d1600a"
	colourText  = "#1c2b33"
	colourFaint = "#66757f"
)

// svg draws bars.
type svg struct {
	body          strings.Builder
	width, height float64
}

func (s *svg) rect(x, y, w, h float64, fill string) {
	fmt.Fprintf(&s.body, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, max(0, w), h, fill)
}

func (s *svg) line(x1, y1, x2, y2 float64, colour string, dash bool) {
	style := ""
	if dash {
		style = ` stroke-dasharray="4 3"`
	}
	fmt.Fprintf(&s.body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"%s/>`+"\n", x1, y1, x2, y2, colour, style)
}

// text is written from x on; anchor "end" ends there.
func (s *svg) text(x, y float64, size int, colour, anchor, weight, text string) {
	fmt.Fprintf(&s.body, `<text x="%.1f" y="%.1f" font-size="%d" fill="%s" text-anchor="%s" font-weight="%s">%s</text>`+"\n",
		x, y, size, colour, anchor, weight, html.EscapeString(text))
}

func (s *svg) String() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" font-family="system-ui, Helvetica, Arial, sans-serif">`+
		"\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n%s</svg>\n", s.width, s.height, s.width, s.height, s.body.String())
}

// plotLimits shows how much of each limit is used: at most 1 where it is kept.
func (r *results) plotLimits() string {
	const left, width, row, top, most = 590.0, 300.0, 24.0, 56.0, 1.5
	s := &svg{width: left + width + 130, height: top + 30}
	s.text(16, 26, 16, colourText, "start", "600", "Share of each limit that is used: kept up to 1")
	y := top
	for _, c := range r.Cases {
		k := caseOf(c.ID)
		for i, ch := range c.Checks {
			if i == 0 {
				s.text(16, y+15, 12, colourText, "start", "600", c.ID)
				s.text(76, y+15, 12, colourText, "start", "400", clip(k.title, 44))
			}
			s.text(left-10, y+15, 11, colourFaint, "end", "400", ch.Text)
			switch {
			case ch.Verdict == notServed || ch.Verdict == notMeasured || math.IsNaN(ch.Share):
				s.text(left+6, y+15, 11, colourFaint, "start", "400", ch.Verdict)
			default:
				colour := colourOurs
				if ch.Verdict != pass {
					colour = colourShort
				}
				w := min(max(ch.Share, 0), most) / most * width
				s.rect(left, y+3, w, row-8, colour)
				s.text(left+width+10, y+15, 11, colour, "start", "600", fmt.Sprintf("%.2f %s", ch.Share, ch.Verdict))
			}
			y += row
		}
	}
	one := left + width/most
	s.line(left, top, left, y, colourFaint, false)
	s.line(one, top-8, one, y, colourText, true)
	s.text(one, top-12, 11, colourText, "middle", "600", "limit")
	s.height = y + 20
	return s.String()
}

// plotFigures shows each case's main figure of all peers.
func (r *results) plotFigures() string {
	const panel, label, bar, row, columns, head = 470.0, 150.0, 210.0, 20.0, 2, 40.0
	s := &svg{width: panel*columns + 24}
	s.text(16, 26, 16, colourText, "start", "600", "Outrigger and its peers: less is better")
	bottoms := [columns]float64{head, head}
	for _, c := range r.Cases {
		k := caseOf(c.ID)
		if k.plot.key == scale.key || k.plot.key == slowness.key {
			continue // more is better, or no peer's figure
		}
		most, rows := 0.0, []*figure{}
		for _, p := range c.Rows {
			if v := p.median(k.plot.key); !math.IsNaN(v) {
				rows = append(rows, &figure{p.Name, v})
				most = max(most, v)
			}
		}
		if len(rows) == 0 || most <= 0 {
			continue
		}
		col := 0
		if bottoms[1] < bottoms[0] {
			col = 1
		}
		x, y := 16+float64(col)*panel, bottoms[col]+12
		s.text(x, y+12, 12, colourText, "start", "600", clip(c.ID+": "+k.title, 60))
		s.text(x, y+27, 11, colourFaint, "start", "400", k.plot.title+unitOf(k))
		y += 34
		for _, p := range rows {
			colour := colourPeer
			if p.name == k.peers[0].name() || k.id == "slope" {
				colour = colourOurs
			}
			s.text(x+label-8, y+13, 12, colourText, "end", "400", p.name)
			w := max(0, p.value) / most * bar
			s.rect(x+label, y+3, w, row-6, colour)
			s.text(x+label+w+6, y+13, 11, colourText, "start", "400", fmt.Sprintf(k.plot.format, p.value))
			y += row
		}
		bottoms[col] = y + 8
	}
	s.height = max(bottoms[0], bottoms[1]) + 16
	return s.String()
}

type figure struct {
	name  string
	value float64
}

func unitOf(k *benchCase) string {
	switch {
	case k.plot != cpu:
		return ""
	case k.grpc:
		return " a call"
	default:
		return " a request"
	}
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
