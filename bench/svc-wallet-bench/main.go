// Command svc-wallet-bench loads a ledger node and a sidecar, each a process of its own with TLS and
// fsync, with the workloads of the performance contract (docs/performance.md), and measures what clients
// see and what it costs.
//
//	svc-wallet-bench run --scenario write_mix --rate 2500 --duration 1m --html report.html
//	svc-wallet-bench profile --scenario write_mix --duration 1m
//	svc-wallet-bench slo --duration 1m
//
// Requests arrive at a constant rate, whatever the answers do, and a latency is counted from the time at
// which the request should have been sent; so an answer that is late delays no request, and hides none.
// After each run the money must add up: Σ balances = Σ issued − Σ burned, by what clients were told, by
// what they read, and by `svc-wallet ledger verify`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `usage: svc-wallet-bench run|profile|slo|gate|prove|peers|grow|chaos [flags]

  run      one scenario: read_heavy, write_mix, replay_backpressure, adversarial_transport
  profile  where a scenario's CPU, memory and waiting go, in sidecar, node and control plane
  slo      every figure of the contract, measured against its target
  gate     a build against another, in turn: fails where it is worse than the contract allows
  prove    that the gate holds: regressions are planted and must trip it, and a build against itself must not
  peers    what the same requests cost elsewhere, in turn: a bare handler, nginx, HAProxy, PostgreSQL
  grow     what payments and reads cost as accounts, connections, batches or the history grow
  chaos    the write mix over a slow and lossy network to the node, and over one that is cut; takes root

svc-wallet-bench COMMAND -h lists the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	commands := map[string]func(context.Context, []string) error{"run": run, "profile": profiles, "slo": slo, "gate": gate, "prove": prove, "peers": peers, "grow": grow, "chaos": chaos, "answer": answer}
	do := commands[command]
	if do == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := do(ctx, os.Args[2:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "svc-wallet-bench:", err)
		os.Exit(1)
	}
}

// options say what is run.
type options struct {
	bin         string
	scenario    string
	mix         string
	duration    time.Duration
	warmup      time.Duration
	rate        float64
	connections int
	accounts    int
	closed      bool
	quiet       bool
	env         []string // of the sidecar
}

func (o *options) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.bin, "bin", "bin/svc-wallet", "program under test")
	fs.DurationVar(&o.duration, "duration", time.Minute, "of the measurement")
	fs.DurationVar(&o.warmup, "warmup", 3*time.Second, "before it, not counted")
	fs.IntVar(&o.connections, "connections", 256, "most requests under way at once")
	fs.IntVar(&o.accounts, "accounts", 10_000, "accounts, chosen at random")
	fs.BoolVar(&o.quiet, "quiet", false, "no progress line")
}

// workload are the flags that say what is sent.
func (o *options) workload(fs *flag.FlagSet) {
	fs.StringVar(&o.scenario, "scenario", "write_mix", strings.Join(scenarioNames(), ", "))
	fs.StringVar(&o.mix, "mix", "", "shares instead of the scenario's, such as balance=90,tx=5,transfer=5")
	fs.Float64Var(&o.rate, "rate", 2500, "requests a second")
	fs.BoolVar(&o.closed, "closed", false, "closed loop: each connection sends when it was answered, as fast as it can")
}

func run(ctx context.Context, args []string) error {
	var o options
	var baseline, jsonFile, htmlFile string
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	o.flags(fs)
	o.workload(fs)
	fs.StringVar(&baseline, "baseline", "", "result to compare with; what is worse than the gates allow fails where it was measured on a machine like this one")
	fs.StringVar(&jsonFile, "json", "", "file for the result")
	fs.StringVar(&htmlFile, "html", "", "file for the report")
	if err := fs.Parse(args); err != nil {
		return err
	}
	result, err := measure(ctx, &o)
	if result != nil {
		result.print(os.Stdout)
		err = errors.Join(err, result.write(jsonFile, htmlFile))
	}
	if err != nil || baseline == "" {
		return err
	}
	return result.against(baseline)
}
