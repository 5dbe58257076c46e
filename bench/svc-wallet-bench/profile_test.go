package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// stacks is a CPU profile of stacks in the folded form, the caller of all first: "main.run;net.Read 3" is 30 ms
// of samples. What is inlined stands behind a +: "main.run;a.b+a.c 1".
func stacks(folded string) *profile.Profile {
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}}
	for line := range strings.Lines(folded) {
		stack, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		s := &profile.Sample{Value: []int64{int64(len(count)), int64(len(count)) * int64(10*time.Millisecond)}}
		for place := range strings.SplitSeq(stack, ";") {
			at := &profile.Location{Address: 0xabc}
			for function := range strings.SplitSeq(place, "+") {
				if function != "" {
					at.Line = append([]profile.Line{{Function: &profile.Function{Name: function}}}, at.Line...)
				}
			}
			s.Location = append([]*profile.Location{at}, s.Location...)
		}
		p.Sample = append(p.Sample, s)
	}
	return p
}

// rects is each frame of a flame graph with what its title says, in the order of drawing. It fails where the
// graph is not well-formed, or has what a browser would run or fetch.
func rects(t *testing.T, svg string) (titles []string) {
	t.Helper()
	decode := xml.NewDecoder(strings.NewReader(svg))
	inTitle := false
	for {
		token, err := decode.Token()
		if errors.Is(err, io.EOF) {
			return titles
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		switch x := token.(type) {
		case xml.StartElement:
			inTitle = x.Name.Local == "title"
			if !slices.Contains([]string{"svg", "title", "style", "g", "rect", "text"}, x.Name.Local) {
				t.Errorf("<%s> is in the graph", x.Name.Local)
			}
		case xml.EndElement:
			inTitle = false
		case xml.CharData:
			if inTitle {
				titles = append(titles, string(x))
			}
		}
	}
}

// TestFlame: stacks are folded by their callers, drawn as wide as their CPU, and whatever a name holds is text.
// A sample is an x.
func TestFlame(t *testing.T) {
	for _, tc := range []struct{ name, folded, want string }{
		{"nothing", "", "g"},
		{"one", "main.run xx", "g|all: 20ms, 100.00 %|main.run: 20ms, 100.00 %"},
		{
			"callers", "main.run;net.Read x\nmain.run;net.Read xx\nmain.run;net.Dial x\ngo.exit x",
			"g|all: 50ms, 100.00 %|go.exit: 10ms, 20.00 %|main.run: 40ms, 80.00 %|net.Dial: 10ms, 20.00 %|net.Read: 30ms, 60.00 %",
		},
		{"recursion", "f.f;f.f;f.f x", "g|all: 10ms, 100.00 %|f.f: 10ms, 100.00 %|f.f: 10ms, 100.00 %|f.f: 10ms, 100.00 %"},
		{"inlined", "main.run+main.small;a.b x", "g|all: 10ms, 100.00 %|main.run: 10ms, 100.00 %|main.small: 10ms, 100.00 %|a.b: 10ms, 100.00 %"},
		{"no symbol", "main.run; x", "g|all: 10ms, 100.00 %|main.run: 10ms, 100.00 %|0xabc: 10ms, 100.00 %"},
		{"markup", `a.F[go.shape."<script>]]>&\x00` + "\x00\xff x", "g|all: 10ms, 100.00 %|a.F[go.shape.\"<script>]]>&\\x00\ufffd\ufffd: 10ms, 100.00 %"},
		{"too narrow", "a.a " + strings.Repeat("x", 5000) + "\nb.b x", "g|all: 50.01s, 100.00 %|a.a: 50s, 99.98 %"},
	} {
		root, err := fold(stacks(tc.folded))
		if err != nil {
			t.Fatal(err)
		}
		svg := root.svg("g")
		if got := strings.Join(rects(t, svg), "|"); got != tc.want {
			t.Errorf("%s: %s\nwant %s", tc.name, got, tc.want)
		}
		if again := root.svg("g"); again != svg {
			t.Errorf("%s: drawn twice, it differs", tc.name)
		}
	}
	if _, err := fold(&profile.Profile{SampleType: []*profile.ValueType{{Type: "inuse_space", Unit: "bytes"}}}); err == nil {
		t.Error("a profile of memory has a flame graph of CPU")
	}
}

// TestFitting: a label is in its frame.
func TestFitting(t *testing.T) {
	for _, tc := range []struct {
		function string
		chars    int
		want     string
	}{
		{"svc-wallet/proxy.(*Server).serve", 40, "proxy.(*Server).serve"},
		{"svc-wallet/proxy.(*Server).serve", 20, "serve"},
		{"svc-wallet/proxy.(*Server).serve", 4, "ser…"},
		{"svc-wallet/proxy.(*Server).serve", 2, ""},
		{"a/b.(*C).d.func1", 9, "b.(*C).d…"},
		{"a/b.(*C).d.func1.2", 9, "b.(*C).d…"},
		{"a/b.F[go.shape.c/d]", 40, "b.F[go.shape.c/d]"},
		{"memmove", -1, ""},
	} {
		if got := fitting(tc.function, tc.chars); got != tc.want {
			t.Errorf("%s in %d: %s, want %s", tc.function, tc.chars, got, tc.want)
		}
	}
}

// TestProfile takes the profiles of a short run: each of every process can be read, and what must be in it is.
func TestProfile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin := filepath.Join(dir, "svc-wallet")
	if out, err := exec.Command("go", "build", "-o", bin, "svc-wallet/cmd/svc-wallet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o := options{bin: bin, scenario: "write_mix", duration: 6 * time.Second, rate: 200, connections: 8, accounts: 100, quiet: true}
	if err := profileAll(t.Context(), &o, dir); err != nil {
		t.Fatal(err)
	}
	for _, process := range []string{"sidecar", "node", "control"} {
		prefix := filepath.Join(dir, "write_mix", process)
		for kind, samples := range map[string]bool{"cpu": true, "allocs": true, "heap": true, "goroutine": true, "mutex": false, "block": false} {
			text, err := os.ReadFile(prefix + "." + kind + ".pb.gz")
			if err != nil {
				t.Fatal(err)
			}
			p, err := profile.ParseData(text)
			if err != nil || p.CheckValid() != nil || (samples && len(p.Sample) == 0) {
				t.Errorf("%s, %s: %v %v", process, kind, err, p)
			}
		}
		if text, err := os.ReadFile(prefix + ".trace"); err != nil || !bytes.HasPrefix(text, []byte("go 1.")) || len(text) < 1000 {
			t.Errorf("%s: %v, a trace of %d bytes", process, err, len(text))
		}
		svg, err := os.ReadFile(prefix + ".svg")
		if err != nil || len(rects(t, string(svg))) < 5 {
			t.Errorf("%s: %v %s", process, err, svg)
		}
	}
	o.duration = 5 * time.Second
	if err := profileAll(t.Context(), &o, dir); err == nil || !strings.Contains(err.Error(), "--duration") {
		t.Errorf("no time for a profile: %v", err)
	}
}
