package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// criterion is what a build is judged by, and how much worse than the other one's it may be.
type criterion struct {
	name string
	unit string
	most float64 // ratio of head to base, in the direction that is worse
	of   func(*Result) float64
	less bool // less is worse
}

// criteria are the gates of the contract (docs/performance.md): p95 at most 10 % up, answers a second at most 10 %
// down, CPU and RSS at most 15 % up. Allocations and bytes hardly vary, so there a little is enough.
func criteria() []criterion {
	atRate := func(r *Result) *phaseResult { return &r.Phases[0] }
	last := func(r *Result) *phaseResult { return &r.Phases[len(r.Phases)-1] }
	return []criterion{
		{"GET p95", "ms", 1.10, func(r *Result) float64 { return atRate(r).Reads.P95 }, false},
		{"POST p95", "ms", 1.10, func(r *Result) float64 { return atRate(r).Payments.P95 }, false},
		{"answers a second", "/s", 1 / .90, func(r *Result) float64 { return last(r).Goodput }, true},
		{"CPU a request", "µs", 1.15, func(r *Result) float64 { return last(r).SidecarMicros + last(r).NodeMicros }, false},
		{"RSS", "MiB", 1.15, func(r *Result) float64 { return float64(last(r).SidecarRSS+last(r).NodeRSS) / (1 << 20) }, false},
		{"allocations a request", "", 1.05, func(r *Result) float64 { return atRate(r).Allocs }, false},
		{"written a payment", "B", 1.05, func(r *Result) float64 { return atRate(r).Written }, false},
		{"state a payment", "B", 1.10, func(r *Result) float64 { return float64(r.Money.State) / float64(max(r.Money.Payments, 1)) }, false},
	}
}

// mostShed is how much more of the requests may be shed at the rate, as a share.
const mostShed = .005

// worse is how many times worse the figure of head is.
func (f *criterion) worse(base, head *Result) float64 {
	was, is := f.of(base), f.of(head)
	switch {
	case was == 0 || is == 0:
		return 1 // nothing was measured
	case f.less:
		return was / is
	default:
		return is / was
	}
}

// verdict is what the rounds so far say of a figure.
type verdict uint8

const (
	unclear verdict = iota
	within
	beyond
)

// judged is a figure after some rounds: the median of the rounds' ratios and its confidence interval.
type judged struct {
	criterion
	base, head            float64 // medians
	ratio, lower, upper   float64 // how many times worse
	verdict               verdict
	beyondWhereNoneFollow bool // by the last round's rule
}

// judge looks at pairs of runs, each of base and head one after the other.
func judge(base, head []*Result) (all []judged) {
	for _, f := range criteria() {
		j := judged{criterion: f}
		ratios, was, is := make([]float64, len(base)), make([]float64, len(base)), make([]float64, len(base))
		for i := range base {
			ratios[i], was[i], is[i] = f.worse(base[i], head[i]), f.of(base[i]), f.of(head[i])
		}
		j.ratio, j.lower, j.upper = interval(ratios)
		j.base, _, _ = interval(was)
		j.head, _, _ = interval(is)
		switch {
		case j.upper <= f.most:
			j.verdict = within
		case j.lower > f.most:
			j.verdict = beyond
		}
		j.beyondWhereNoneFollow = j.verdict == beyond || (j.ratio > f.most && j.lower > 1)
		all = append(all, j)
	}
	return all
}

// interval is the median of values and the narrowest interval between two of them that holds the median of what
// they are drawn from in at least 99 of 100 cases, whatever the distribution: by how often a fair coin falls so
// that fewer lie on one side. Fewer than eight values give less than that.
func interval(values []float64) (median, lower, upper float64) {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	tail, chance := 0.0, 1.0
	for range n {
		chance /= 2
	}
	cut := 0 // values that lie outside, on each side
	for k := 0; 2*k < n; k++ {
		if tail += chance; 2*tail > .01 {
			break
		}
		cut = k
		chance *= float64(n-k) / float64(k+1)
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[cut], sorted[n-1-cut]
}

// contest is a gate at work.
type contest struct {
	options
	base, head  string
	least, most int // rounds
	waivers     []waiver
	measure     func(context.Context, *options) (*Result, error)
}

func (c *contest) flags(fs *flag.FlagSet) {
	c.options.flags(fs)
	c.scenario, c.quiet, c.measure = gateScenario, true, measure
	fs.StringVar(&c.base, "base", "", "program that is compared with")
	fs.IntVar(&c.least, "rounds", 6, "rounds before a verdict, 6 or more: each runs both programs")
	fs.IntVar(&c.most, "most", 12, "rounds at which the verdict is given in any case")
	fs.Float64Var(&c.rate, "rate", 2500, "requests a second of the part at a rate; the other part is as fast as it goes")
	_ = fs.Set("duration", "6s")
	_ = fs.Set("warmup", "1s")
	_ = fs.Set("accounts", "2000")
}

func gate(ctx context.Context, args []string) error {
	c := contest{}
	fs := flag.NewFlagSet("gate", flag.ContinueOnError)
	c.flags(fs)
	file := fs.String("waivers", "bench/waivers.json", "what may be worse for a while, and why")
	if err := fs.Parse(args); err != nil {
		return err
	}
	c.head = c.bin
	var err error
	if c.waivers, err = readWaivers(*file, time.Now()); err != nil {
		return err
	}
	failed, err := c.decide(ctx, os.Stdout)
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("worse than the gate allows: %s", strings.Join(failed, ", "))
	}
	return err
}

// decide runs both programs in turn until each figure is clear, or the last round is over, and returns the names
// of those that are beyond their gates and not waived.
func (c *contest) decide(ctx context.Context, to io.Writer) (failed []string, err error) {
	if c.least < 6 || c.most < c.least {
		return nil, errors.New("a verdict needs 6 rounds at least")
	}
	var base, head []*Result
	var all []judged
	for round := range c.most {
		pair := [2]*Result{}
		for turn := range pair {
			at := (round + turn) % 2 // neither is always the one that comes first
			o := c.options
			o.bin = [2]string{c.base, c.head}[at]
			if pair[at], err = c.measure(ctx, &o); err != nil {
				return nil, fmt.Errorf("%s: %w", o.bin, err)
			}
		}
		base, head = append(base, pair[0]), append(head, pair[1])
		all = judge(base, head)
		found := slices.ContainsFunc(all, func(j judged) bool { return j.verdict == beyond })
		open := slices.ContainsFunc(all, func(j judged) bool { return j.verdict == unclear })
		if round+1 >= c.least && (found || !open) {
			break
		}
	}
	rows := append(all, shedding(base, head))
	for i := range rows {
		j := &rows[i]
		if j.verdict == unclear {
			j.verdict = within
			if j.beyondWhereNoneFollow {
				j.verdict = beyond
			}
		}
		if j.verdict == beyond && !waived(c.waivers, j.name, j.ratio) {
			failed = append(failed, j.name)
		}
	}
	return failed, c.tell(to, rows, base[0], head[0], len(base))
}

// shedding judges what is shed at the rate: by the difference, since there should be none.
func shedding(base, head []*Result) judged {
	more := make([]float64, len(base))
	for i := range base {
		more[i] = head[i].Phases[0].Shed - base[i].Phases[0].Shed
	}
	j := judged{criterion: criterion{name: "shed", unit: "points", most: mostShed}, verdict: within}
	j.ratio, j.lower, j.upper = interval(more)
	if j.ratio > mostShed && j.lower > 0 {
		j.verdict = beyond
	}
	return j
}

func (c *contest) tell(to io.Writer, rows []judged, base, head *Result, rounds int) error {
	var w strings.Builder
	m := head.Machine
	fmt.Fprintf(&w, "\n%s against %s on %d cores (%s), %d rounds of %v, %d connections\n\n%-22s %10s %10s   %-24s %6s\n",
		short(head.Revision), short(base.Revision), m.Cores, m.CPU, rounds, c.duration, c.connections, "figure", "base", "head", "worse by × [99 %]", "gate")
	for _, j := range rows {
		is := map[verdict]string{within: "within", beyond: "BEYOND"}[j.verdict]
		if j.verdict == beyond && waived(c.waivers, j.name, j.ratio) {
			is = "waived"
		}
		fmt.Fprintf(&w, "%-22s %10.4g %10.4g   %.3f [%.3f, %.3f] %12.3f  %s\n", strings.TrimSpace(j.name+" "+j.unit), j.base, j.head, j.ratio, j.lower, j.upper, j.most, is)
	}
	_, err := io.WriteString(to, w.String())
	return err
}

func short(revision string) string { return revision[:min(len(revision), 10)] }
