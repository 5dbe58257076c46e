package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"svc-wallet/bench/rig"
)

// Result is what a run found, as JSON.
type Result struct {
	Scenario    string        `json:"scenario"`
	At          string        `json:"at"` // RFC 3339
	Program     string        `json:"program"`
	Machine     machine       `json:"machine"`
	Rate        float64       `json:"rate"` // 0: closed loop
	Connections int           `json:"connections"`
	Accounts    int           `json:"accounts"`
	Revision    string        `json:"revision"` // of the program
	ReadyMillis float64       `json:"ready_ms"` // from the sidecar's start
	Phases      []phaseResult `json:"phases"`
	Money       money         `json:"money"`
}

// phaseResult is what a phase found. Latencies of reads and writes are those of answers that were wanted.
type phaseResult struct {
	Name     string  `json:"name"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"rate"`    // due a second; 0: closed loop
	Goodput  float64 `json:"goodput"` // wanted answers a second
	Writes   float64 `json:"writes"`  // payments made a second
	Requests int64   `json:"requests"`
	Shed     float64 `json:"shed"`   // share that got 429 or 503
	Failed   float64 `json:"failed"` // share that got 5xx or no answer
	Reads    latency `json:"reads"`
	Payments latency `json:"payments"`
	Ready    latency `json:"readyz"`
	Flips    int     `json:"readyz_flips"`
	Bus      float64 `json:"bus_lagged"`

	SidecarMicros float64 `json:"sidecar_cpu_us"` // a request
	NodeMicros    float64 `json:"node_cpu_us"`
	LoadMicros    float64 `json:"load_cpu_us"` // of this program
	Cores         float64 `json:"cores"`       // that sidecar and node used
	Allocs        float64 `json:"allocs"`      // of the sidecar, a request
	Written       float64 `json:"written"`     // bytes by the node, a payment: to files, and to the sidecar
	GCMillis      float64 `json:"gc_pause_ms"`
	SidecarRSS    int64   `json:"sidecar_rss"` // bytes, most
	NodeRSS       int64   `json:"node_rss"`
	SidecarFDs    int     `json:"sidecar_fds"`
	NodeFDs       int     `json:"node_fds"`

	Routes     []routeResult `json:"routes"`
	Series     []second      `json:"series"`
	ReadCurve  []point       `json:"read_curve"`
	WriteCurve []point       `json:"write_curve"`
}

func newResult(o *options, r *rig.Rig) *Result {
	result := &Result{
		Scenario: o.scenario, At: time.Now().UTC().Format(time.RFC3339), Program: o.bin, Revision: r.Revision, Machine: thisMachine(),
		Rate: o.rate, Connections: o.connections, Accounts: o.accounts, ReadyMillis: float64(r.Ready.Microseconds()) / 1000,
	}
	if o.mix != "" {
		result.Scenario = o.mix
	}
	if o.closed {
		result.Rate = 0
	}
	return result
}

func (w *watcher) result(p *phase, before, after counters) phaseResult {
	rec, span := w.rec, after.at.Sub(before.at).Seconds()
	out := phaseResult{
		Name: p.name, Seconds: span, Reads: latencyOf(rec.reads), Payments: latencyOf(rec.writes), Ready: latencyOf(w.ready), Flips: w.flips,
		Bus: after.bus - before.bus, GCMillis: (after.gc - before.gc) * 1000, Routes: rec.rows(), Series: rec.seconds,
		SidecarRSS: w.rss[0], NodeRSS: w.rss[1], SidecarFDs: w.fds[0], NodeFDs: w.fds[1],
		ReadCurve: curve(rec.reads), WriteCurve: curve(rec.writes),
	}
	if !p.closed {
		out.Rate = w.load.o.rate * p.factor
	}
	var shed, failed, made int64
	for _, row := range out.Routes {
		out.Requests += row.Count
		switch {
		case row.Status == 429 || row.Status == 503:
			shed += row.Count
		case row.Status == 200 && row.Kind != balance.String() && row.Kind != tx.String():
			made += row.Count
		}
		if row.Status == 0 || row.Status >= 500 {
			failed += row.Count
		}
	}
	n := float64(max(out.Requests, 1))
	out.Goodput, out.Writes = float64(rec.goods)/span, float64(made)/span
	out.Shed, out.Failed = float64(shed)/n, float64(failed)/n
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / n }
	out.SidecarMicros, out.NodeMicros, out.LoadMicros = micros(after.sidecar-before.sidecar), micros(after.node-before.node), micros(after.self-before.self)
	out.Cores = (after.sidecar + after.node - before.sidecar - before.node).Seconds() / span
	out.Allocs = (after.mallocs - before.mallocs) / n
	out.Written = float64(after.written-before.written) / float64(max(made, 1))
	return out
}

// print is the summary for a terminal.
func (r *Result) print(to io.Writer) {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s on %d cores (%s), %d connections, %d accounts; ready in %.0f ms\n", r.Scenario, r.Machine.Cores, r.Machine.CPU, r.Connections, r.Accounts, r.ReadyMillis)
	for i := range r.Phases {
		p := &r.Phases[i]
		due := "closed loop"
		if p.Rate > 0 {
			due = fmt.Sprintf("%.0f/s due", p.Rate)
		}
		fmt.Fprintf(&w, "\n%s, %.0f s, %s: %.0f/s answered as wanted, %.0f/s payments; shed %.3f %%, 5xx or no answer %.3f %%\n", p.Name, p.Seconds, due, p.Goodput, p.Writes, p.Shed*100, p.Failed*100)
		fmt.Fprintf(&w, "  %-10s %9s %9s %9s %9s %9s\n", "ms", "p50", "p95", "p99", "p99.9", "max")
		for _, row := range []struct {
			name string
			l    *latency
		}{{"reads", &p.Reads}, {"payments", &p.Payments}, {"readyz", &p.Ready}} {
			if row.l.Count > 0 {
				fmt.Fprintf(&w, "  %-10s %9.2f %9.2f %9.2f %9.2f %9.2f\n", row.name, row.l.P50, row.l.P95, row.l.P99, row.l.P999, row.l.Max)
			}
		}
		fmt.Fprintf(&w, "  CPU a request: sidecar %.1f µs, node %.1f µs (load %.1f µs); %.2f cores; %.1f allocations; RSS %d + %d MiB; FDs %d + %d; readyz turned %d times\n",
			p.SidecarMicros, p.NodeMicros, p.LoadMicros, p.Cores, p.Allocs, p.SidecarRSS>>20, p.NodeRSS>>20, p.SidecarFDs, p.NodeFDs, p.Flips)
		for _, row := range p.Routes {
			fmt.Fprintf(&w, "    %-10s %3d  %9d\n", row.Kind, row.Status, row.Count)
		}
	}
	m := &r.Money
	fmt.Fprintf(&w, "\nmoney: issued %d − burned %d = %d, balances %d; %d payments of unknown outcome were settled; %d payments in the store, %d faults\n",
		m.Issued, m.Burned, m.Issued-m.Burned, m.Balances, m.Unknown, m.Payments, m.Faults)
	_, _ = io.WriteString(to, w.String()) // a terminal that is gone
}

// write writes the result and the report, where a file is named.
func (r *Result) write(jsonFile, htmlFile string) error {
	var errs []error
	if jsonFile != "" {
		text, err := json.MarshalIndent(r, "", " ")
		errs = append(errs, err, save(jsonFile, append(text, '\n')))
	}
	if htmlFile != "" {
		text, err := r.html()
		errs = append(errs, err, save(htmlFile, text))
	}
	return errors.Join(errs...)
}

func save(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600) //nolint:gosec // the person who runs it names it
}
