package main

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// series is a line of a chart. A point without a figure is NaN.
type series struct {
	name, colour string
	x, y         []float64
}

// chart is a diagram of lines, as SVG.
type chart struct {
	title, unit string
	xs          func(x float64) float64 // of x on its axis
	xName       func(x float64) string
	xTicks      []float64
	logarithmic bool
	lines       []series
}

const (
	width, height            = 860, 260
	left, right, top, bottom = 60, 150, 30, 30
)

// svg draws the chart.
func (c *chart) svg() template.HTML {
	x0, x1, y0, y1 := c.bounds()
	if math.IsInf(x0, 1) {
		return ""
	}
	px := func(x float64) float64 { return left + (c.xs(x)-c.xs(x0))/(c.xs(x1)-c.xs(x0))*(width-left-right) }
	py := func(y float64) float64 {
		at := (y - y0) / (y1 - y0)
		if c.logarithmic {
			at = (math.Log(y) - math.Log(y0)) / (math.Log(y1) - math.Log(y0))
		}
		return height - bottom - at*(height-top-bottom)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s"><text x="%d" y="18" class="title">%s (%s)</text>`, width, height, c.title, left, c.title, c.unit)
	for _, y := range ticks(y0, y1, c.logarithmic) {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="grid"/><text x="%d" y="%.1f" class="y">%s</text>`, left, width-right, py(y), py(y), left-6, py(y)+4, figure(y))
	}
	for _, x := range c.xTicks {
		if x >= x0 && x <= x1 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" class="x">%s</text>`, px(x), height-8, c.xName(x))
		}
	}
	for i, l := range c.lines {
		var path []string
		for n, y := range l.y {
			if !math.IsNaN(y) && (!c.logarithmic || y > 0) {
				path = append(path, fmt.Sprintf("%.1f,%.1f", px(l.x[n]), py(y)))
			}
		}
		fmt.Fprintf(&b, `<polyline points="%s" stroke="%s"/><rect x="%d" y="%d" width="12" height="3" fill="%s"/><text x="%d" y="%d">%s</text>`,
			strings.Join(path, " "), l.colour, width-right+14, top+20*i+6, l.colour, width-right+32, top+20*i+12, l.name)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // figures and constant texts
}

// bounds are those of the axes. A linear one begins at 0.
func (c *chart) bounds() (x0, x1, y0, y1 float64) {
	x0, x1, y0, y1 = math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range c.lines {
		for n, y := range l.y {
			if math.IsNaN(y) || (c.logarithmic && y <= 0) {
				continue
			}
			x0, x1, y0, y1 = min(x0, l.x[n]), max(x1, l.x[n]), min(y0, y), max(y1, y)
		}
	}
	if !c.logarithmic {
		y0 = 0
	}
	if y1 <= y0 {
		y1 = y0 + 1
	}
	if x1 <= x0 {
		x1 = x0 + 1
	}
	return x0, x1, y0, y1 * 1.05
}

// ticks are some five round figures between two others, or powers of ten and their halves.
func ticks(from, to float64, logarithmic bool) (all []float64) {
	if logarithmic {
		for power := math.Pow(10, math.Floor(math.Log10(from))); power <= to; power *= 10 {
			for _, y := range []float64{power, 2 * power, 5 * power} {
				if y >= from && y <= to {
					all = append(all, y)
				}
			}
		}
		return all
	}
	step := math.Pow(10, math.Floor(math.Log10(to-from)))
	for _, part := range []float64{.2, .5, 1} {
		if (to-from)/(step*part) <= 6 {
			step *= part
			break
		}
	}
	for n := math.Ceil(from / step); n*step <= to; n++ {
		all = append(all, n*step)
	}
	return all
}

func figure(y float64) string {
	if y >= 1000 {
		return fmt.Sprintf("%.0f", y)
	}
	return fmt.Sprintf("%.3g", y)
}

// column is one figure of each second.
func column(all []second, of func(*second) float64) (y []float64) {
	for i := range all {
		y = append(y, of(&all[i]))
	}
	return y
}

// charts are the diagrams of a phase.
func (p *phaseResult) charts() (all []template.HTML) {
	times := column(p.Series, func(s *second) float64 { return s.At })
	overTime := chart{xs: func(x float64) float64 { return x }, xName: func(x float64) string { return fmt.Sprintf("%.0f s", x) }}
	if len(times) > 0 {
		overTime.xTicks = ticks(0, slices.Max(times)+1, false)
	}
	some := func(ms float64) float64 { // no answer of the kind in that second
		if ms == 0 {
			return math.NaN()
		}
		return ms
	}
	line := func(name, colour string, of func(*second) float64) series {
		return series{name, colour, times, column(p.Series, of)}
	}
	cpu := func(i int) func(*second) float64 {
		return func(s *second) float64 { return s.CPU[i] }
	}
	draw := func(c chart, title, unit string, lines ...series) {
		c.title, c.unit, c.lines = title, unit, lines
		all = append(all, c.svg())
	}
	draw(overTime, "Answers over time", "a second",
		line("as wanted", "#2563eb", func(s *second) float64 { return float64(s.Good) }),
		line("shed", "#d97706", func(s *second) float64 { return float64(s.Shed) }),
		line("bad", "#dc2626", func(s *second) float64 { return float64(s.Bad) }))
	draw(overTime, "Latency over time, p99", "ms",
		line("reads", "#2563eb", func(s *second) float64 { return some(s.Read99) }),
		line("payments", "#059669", func(s *second) float64 { return some(s.Write99) }))
	nines := chart{
		logarithmic: true,
		xs:          func(x float64) float64 { return -math.Log10(1 - min(x, 99.9995)/100) },
		xName:       func(x float64) string { return fmt.Sprintf("%v %%", x) },
		xTicks:      []float64{1, 50, 90, 99, 99.9, 99.99, 99.999},
	}
	of := func(name, colour string, points []point) series {
		s := series{name: name, colour: colour}
		for _, at := range points {
			s.x, s.y = append(s.x, at.Percentile), append(s.y, at.Millis)
		}
		return s
	}
	draw(nines, "Latency by percentile", "ms", of("reads", "#2563eb", p.ReadCurve), of("payments", "#059669", p.WriteCurve))
	draw(overTime, "CPU", "cores", line("sidecar", "#2563eb", cpu(0)), line("node", "#059669", cpu(1)), line("load", "#6b7280", cpu(2)))
	return all
}
