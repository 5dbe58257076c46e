package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// row is a figure of the contract: what it must be, what it was, and whether that passes.
type row struct {
	figure   string
	target   string
	measured string
	pass     bool
}

// slo measures every figure of the contract (docs/performance.md, "Targets").
func slo(ctx context.Context, args []string) error {
	var o options
	fs := flag.NewFlagSet("slo", flag.ContinueOnError)
	o.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	var rows []row
	for _, part := range []struct {
		name, scenario, mix string
		rate                float64
		rows                func(*Result) []row
	}{
		{"read-heavy, 5 % payments", "", "balance=90,tx=5,transfer=5", 4000, targetsOfReads},
		{"write mix at 2,500/s", "write_mix", "", 2500, targetsOfWrites(2500, 0)},
		{"write mix with 1,500 payments a second", "write_mix", "", 5000, targetsOfWrites(5000, 1500)},
		{"reads alone", "", "balance=1", 4000, func(r *Result) []row { return []row{atMost("allocations a cached read", "", 2, r.Phases[0].Allocs)} }},
		{"replays", "replay_backpressure", "", 2500, targetsOfReplays},
	} {
		run := o
		run.scenario, run.mix, run.rate = part.scenario, part.mix, part.rate
		result, err := measure(ctx, &run)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		for _, r := range append(part.rows(result), common(result)...) {
			r.figure = part.name + ": " + r.figure
			rows = append(rows, r)
		}
	}
	return tell(os.Stdout, &o, rows)
}

// tell prints the rows. The error says that not all pass.
func tell(to io.Writer, o *options, rows []row) error {
	var w strings.Builder
	m := thisMachine()
	fmt.Fprintf(&w, "\n%d cores, %s, Linux %s, %s; %v each, %d connections, %d accounts; the load shares the machine\n\n", m.Cores, m.CPU, m.Kernel, m.Go, o.duration, o.connections, o.accounts)
	fmt.Fprintf(&w, "%-72s %16s %16s\n", "figure", "target", "measured")
	failed := 0
	for _, r := range rows {
		verdict := "pass"
		if !r.pass {
			verdict = "FAIL"
			failed++
		}
		fmt.Fprintf(&w, "%-72s %16s %16s  %s\n", r.figure, r.target, r.measured, verdict)
	}
	if _, err := io.WriteString(to, w.String()); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d figures are not what they must be", failed, len(rows))
	}
	return nil
}

func atMost(figure, unit string, most, measured float64) row {
	return row{figure, fmt.Sprintf("≤ %g %s", most, unit), fmt.Sprintf("%.3g %s", measured, unit), measured <= most}
}

func atLeast(figure, unit string, least, measured float64) row {
	return row{figure, fmt.Sprintf("≥ %g %s", least, unit), fmt.Sprintf("%.4g %s", measured, unit), measured >= least}
}

func targetsOfReads(r *Result) []row {
	p := &r.Phases[0]
	return []row{
		atLeast("answers a second", "/s", 4000*.99, p.Goodput),
		atMost("GET p95", "ms", 120, p.Reads.P95), atMost("GET p99", "ms", 250, p.Reads.P99),
	}
}

func targetsOfWrites(rate, writes float64) func(*Result) []row {
	return func(r *Result) []row {
		p := &r.Phases[0]
		rows := []row{
			atLeast("answers a second", "/s", rate*.99, p.Goodput),
			atMost("GET p95", "ms", 120, p.Reads.P95), atMost("GET p99", "ms", 250, p.Reads.P99),
			atMost("POST p95", "ms", 180, p.Payments.P95), atMost("POST p99", "ms", 350, p.Payments.P99),
		}
		if writes > 0 {
			rows = append(rows, atLeast("payments a second", "/s", writes*.98, p.Writes))
		}
		return rows
	}
}

func targetsOfReplays(r *Result) []row {
	mix, replays, overload := &r.Phases[0], &r.Phases[1], &r.Phases[2]
	return []row{
		atMost("GET p95 with 1 % replays, of that without", "×", 1.1, replays.Reads.P95/mix.Reads.P95),
		atMost("POST p95 with 1 % replays, of that without", "×", 1.1, replays.Payments.P95/mix.Payments.P95),
		{"overload is shed with 429", "some", fmt.Sprintf("%.1f %%", overload.Shed*100), overload.Shed > 0},
		atMost("overload: 5xx or no answer", "%", .1, overload.Failed*100),
	}
}

// common are the figures of every run. Those of shedding leave out the phase that is an overload.
func common(r *Result) []row {
	p := &r.Phases[0]
	rows := []row{
		atMost("start to ready", "ms", 1500, r.ReadyMillis),
		atMost("5xx or no answer", "%", .1, p.Failed*100), atMost("429 and 503", "%", 1, p.Shed*100),
		atMost("readyz p99", "ms", 30, p.Ready.P99), atMost("bus_lagged_total", "", 0, p.Bus),
		atMost("CPU of sidecar and node, of the cores", "%", 75, p.Cores/float64(r.Machine.Cores)*100),
		atMost("RSS of the sidecar", "MiB", 512, float64(p.SidecarRSS>>20)), atMost("RSS of the node", "MiB", 512, float64(p.NodeRSS>>20)),
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		rows = append(rows, atMost("file descriptors of the sidecar, of its limit", "%", 60, float64(p.SidecarFDs)/float64(limit.Max)*100))
	}
	return rows
}
