package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// dimension is something that grows, and its usual steps.
type dimension struct {
	steps string
	set   func(o *options, step int)
}

func dimensions() map[string]dimension {
	return map[string]dimension{
		"accounts":    {"1000,10000,100000,1000000", func(o *options, n int) { o.accounts = n }},
		"connections": {"16,64,256,1024", func(o *options, n int) { o.connections = n }},
		"batch": {"1,16,64,256,1024", func(o *options, n int) {
			o.env = append(o.env, "SVC_WALLET_LIMITS_BATCH_MAX="+strconv.Itoa(n))
		}},
		history: {"10", nil}, // parts of one run
	}
}

const history = "history"

// grow measures what a payment and a read cost as one thing grows, closed loop; every step is a run on processes of
// its own, and all steps take turns.
func grow(ctx context.Context, args []string) error {
	var o options
	fs := flag.NewFlagSet("grow", flag.ContinueOnError)
	o.flags(fs)
	by := fs.String("by", "accounts", "accounts, connections, batch or history")
	values := fs.String("values", "", "steps, with commas between them; of history, one number of parts")
	rounds := fs.Int("rounds", 3, "of all steps; of history one")
	_ = fs.Set("duration", "10s")
	_ = fs.Set("warmup", "1s")
	if err := fs.Parse(args); err != nil {
		return err
	}
	d, ok := dimensions()[*by]
	if !ok {
		return fmt.Errorf("nothing grows by %q", *by)
	}
	if *values == "" {
		*values = d.steps
	}
	var steps []int
	for text := range strings.SplitSeq(*values, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("values: %q is no number from 1 on", text)
		}
		steps = append(steps, n)
	}
	o.quiet, o.closed = true, true
	if *by == history {
		return growOld(ctx, &o, steps[0], os.Stdout)
	}
	results := make([][]phaseResult, len(steps)) // payments, reads, payments, reads, …
	for round := range *rounds {
		for turn := range steps {
			i := (round + turn) % len(steps)
			run := o
			d.set(&run, steps[i])
			r, err := measurePhases(ctx, &run, growth(1), (*load).phase)
			if err != nil {
				return fmt.Errorf("%s: %d: %w", *by, steps[i], err)
			}
			results[i] = append(results[i], r.Phases...)
		}
	}
	labels := make([]string, len(steps))
	for i, n := range steps {
		labels[i] = strconv.Itoa(n)
	}
	return tellGrowth(os.Stdout, *by, labels, results)
}

// growth is payments and then reads, in so many parts.
func growth(parts int) (phases []phase) {
	for range parts {
		phases = append(phases,
			phase{"payments", mix{transfer: 1}, 1, .6 / float64(parts), 1, true}, phase{"reads", mix{balance: 1}, 1, .4 / float64(parts), 1, true})
	}
	return phases
}

// growOld measures the parts of one long run, in which the ledger's history grows.
func growOld(ctx context.Context, o *options, parts int, to io.Writer) error {
	var labels []string
	result, err := measurePhases(ctx, o, growth(parts), func(l *load, ctx context.Context, p *phase) (phaseResult, error) {
		if p.mix[transfer] > 0 {
			labels = append(labels, strconv.FormatUint(l.pool.payments.Load(), 10))
		}
		return l.phase(ctx, p)
	})
	if err != nil {
		return err
	}
	var results [][]phaseResult
	for pair := range slices.Chunk(result.Phases, 2) {
		results = append(results, pair)
	}
	return tellGrowth(to, "payments before", labels, results)
}

// tellGrowth prints medians over the rounds.
func tellGrowth(to io.Writer, what string, labels []string, results [][]phaseResult) error {
	m := thisMachine()
	var w strings.Builder
	fmt.Fprintf(&w, "\n%d cores, %s, Linux %s, %s; closed loop, TLS 1.3, fsync; the load shares the machine\n\n", m.Cores, m.CPU, m.Kernel, m.Go)
	fmt.Fprintf(&w, "%16s %11s %11s %9s %8s %10s %11s %9s %12s %9s\n",
		what, "payments/s", "sidecar µs", "node µs", "p99 ms", "reads/s", "sidecar µs", "node µs", "sidecar MiB", "node MiB")
	for i, label := range labels {
		middle := func(at int, of func(*phaseResult) float64) float64 {
			var all []float64
			for j := at; j < len(results[i]); j += 2 {
				all = append(all, of(&results[i][j]))
			}
			median, _, _ := interval(all)
			return median
		}
		sidecar := func(p *phaseResult) float64 { return p.SidecarMicros }
		node := func(p *phaseResult) float64 { return p.NodeMicros }
		rate := func(p *phaseResult) float64 { return p.Goodput }
		fmt.Fprintf(&w, "%16s %11.0f %11.1f %9.1f %8.1f %10.0f %11.1f %9.1f %12.0f %9.0f\n", label,
			middle(0, rate), middle(0, sidecar), middle(0, node), middle(0, func(p *phaseResult) float64 { return p.Payments.P99 }),
			middle(1, rate), middle(1, sidecar), middle(1, node),
			middle(1, func(p *phaseResult) float64 { return float64(p.SidecarRSS >> 20) }), middle(1, func(p *phaseResult) float64 { return float64(p.NodeRSS >> 20) }))
	}
	_, err := io.WriteString(to, w.String())
	return err
}
