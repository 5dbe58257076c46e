package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/pprof/profile"
)

// frame is a function in a flame graph: the callers above it are one way to it.
type frame struct {
	name  string
	nanos int64 // CPU, of itself and what it calls
	calls map[string]*frame
}

func (f *frame) call(name string, nanos int64) *frame {
	next := f.calls[name]
	if next == nil {
		next = &frame{name: name, calls: map[string]*frame{}}
		f.calls[name] = next
	}
	next.nanos += nanos
	return next
}

// fold makes one tree of the stacks of a CPU profile.
func fold(p *profile.Profile) (*frame, error) {
	kind := slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool { return t.Type == "cpu" && t.Unit == "nanoseconds" })
	if kind < 0 {
		return nil, errors.New("no profile of CPU")
	}
	root := &frame{name: "all", calls: map[string]*frame{}}
	for _, s := range p.Sample {
		nanos := s.Value[kind]
		root.nanos += nanos
		at := root
		for _, place := range slices.Backward(s.Location) { // from the caller of all
			if len(place.Line) == 0 {
				at = at.call(fmt.Sprintf("%#x", place.Address), nanos)
			}
			for _, line := range slices.Backward(place.Line) { // what was inlined, from the outside
				at = at.call(line.Function.Name, nanos)
			}
		}
	}
	return root, nil
}

// Pixels of a flame graph.
const (
	flameWidth, flameTop = 1400, 58
	flameRow             = 18
	flameChar            = 6.7 // of the font, which has one width
	flameLeast           = 0.4 // narrower frames cannot be seen
)

// origin is where code comes from, which is a frame's colour.
type origin struct {
	name            string
	hue, saturation int
	is              func(function string) bool
}

func origins() []origin {
	begins := func(with ...string) func(string) bool {
		return func(function string) bool {
			return slices.ContainsFunc(with, func(w string) bool { return strings.HasPrefix(function, w) })
		}
	}
	return []origin{
		{"svc-wallet", 28, 90, begins("svc-wallet/", "main.")},
		{"system calls", 0, 62, begins("syscall.", "internal/runtime/syscall", "golang.org/x/sys/")},
		{"runtime", 220, 14, func(function string) bool { // what has no package is its assembly
			return !strings.Contains(function, ".") || begins("runtime.", "runtime/", "internal/runtime/")(function)
		}},
		{"cryptography", 268, 50, begins("crypto/", "golang.org/x/crypto/", "lukechampine.com/blake3")},
		{"other modules", 150, 42, func(function string) bool {
			host, _, path := strings.Cut(function, "/")
			return path && strings.Contains(host, ".")
		}},
		{"standard library", 205, 62, func(string) bool { return true }},
	}
}

// fill is the colour of a function, each time the same.
func (o *origin) fill(function string) string {
	h := fnv.New32a()
	_, _ = io.WriteString(h, function)
	return fmt.Sprintf("hsl(%d,%d%%,%d%%)", o.hue, o.saturation, 66+h.Sum32()%14)
}

// flame is a flame graph while it is drawn.
type flame struct {
	out     strings.Builder
	origins []origin
	total   int64
	deepest int
}

// svg draws the tree: what is called stands below its caller, as wide as its CPU. It is one file without
// scripts; a frame tells all of itself where a pointer rests on it.
func (f *frame) svg(title string) string {
	g := flame{origins: origins(), total: max(f.nanos, 1)}
	g.draw(f, 0, 0)
	height := flameTop + (g.deepest+1)*flameRow + 10
	var page strings.Builder
	fmt.Fprintf(&page, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>%s</title>
<style>rect{stroke:#fff;stroke-width:.6}text{font:11px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#111827}.h{font:600 15px system-ui,sans-serif}.k{font:12px system-ui,sans-serif}g:hover>rect{stroke:#111827;stroke-width:1}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="10" y="22" class="h">%s</text>
`, flameWidth, height, flameWidth, height, escaped(title), escaped(title))
	for i := range g.origins {
		o := &g.origins[i]
		fmt.Fprintf(&page, `<rect x="%d" y="33" width="12" height="12" fill="hsl(%d,%d%%,72%%)"/><text x="%d" y="43" class="k">%s</text>`+"\n", 10+140*i, o.hue, o.saturation, 27+140*i, o.name)
	}
	return page.String() + g.out.String() + "</svg>\n"
}

// draw draws a frame and all below it, from x on, in nanoseconds.
func (g *flame) draw(f *frame, x int64, depth int) {
	pixels := func(nanos int64) float64 { return float64(nanos) / float64(g.total) * (flameWidth - 20) }
	width := pixels(f.nanos)
	if width < flameLeast {
		return
	}
	g.deepest = max(g.deepest, depth)
	left, top := 10+pixels(x), flameTop+depth*flameRow
	from := slices.IndexFunc(g.origins, func(o origin) bool { return o.is(f.name) })
	fmt.Fprintf(&g.out, `<g><title>%s: %s, %.2f %%</title><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`,
		escaped(f.name), time.Duration(f.nanos).Round(time.Millisecond), 100*float64(f.nanos)/float64(g.total), left, top, width, flameRow, g.origins[from].fill(f.name))
	if label := fitting(f.name, int((width-6)/flameChar)); label != "" {
		fmt.Fprintf(&g.out, `<text x="%.1f" y="%d">%s</text>`, left+3, top+flameRow-5, escaped(label))
	}
	g.out.WriteString("</g>\n")
	for _, name := range slices.Sorted(maps.Keys(f.calls)) {
		g.draw(f.calls[name], x, depth+1)
		x += f.calls[name].nanos
	}
}

// fitting is what of a function's name has room: without the path of its package, and where that is too long
// without package and type.
func fitting(function string, chars int) string {
	before, _, _ := strings.Cut(function, "[") // a type argument has a path of its own
	name := function[strings.LastIndexByte(before, '/')+1:]
	last := name[strings.LastIndexByte(name, '.')+1:]
	closure := strings.HasPrefix(last, "func") || strings.Trim(last, "0123456789") == ""
	if utf8.RuneCountInString(name) > chars && !closure {
		name = last
	}
	switch runes := []rune(name); {
	case len(runes) <= chars:
		return name
	case chars < 3:
		return ""
	default:
		return string(runes[:chars-1]) + "…"
	}
}

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes all
	return b.String()
}
