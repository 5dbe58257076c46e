package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// score is what one contender did with one kind of work.
type score struct {
	rate float64 // answers a second
	cpu  float64 // µs an answer, of all its processes
	p99  float64 // ms
}

// task is a kind of work that contenders are held to.
type task struct {
	name        string
	mix         mix
	connections int
}

func tasks() []task {
	return []task{
		{"cached balance", mix{balance: 1}, 64},
		{"durable transfer", mix{transfer: 1}, 1},
		{"durable transfer", mix{transfer: 1}, 64},
		{"durable transfer", mix{transfer: 1}, 256},
	}
}

// peers runs svc-wallet and what a team might use in its place, in turn on one machine, and prints what each
// does against the bare handler: the least that a request over TLS costs in Go.
func peers(ctx context.Context, args []string) error {
	var o options
	fs := flag.NewFlagSet("peers", flag.ContinueOnError)
	o.flags(fs)
	rounds := fs.Int("rounds", 5, "of all contenders")
	only := fs.String("only", "", "names of contenders, with commas between them; bare is always there")
	_ = fs.Set("duration", "5s")
	_ = fs.Set("warmup", "1s")
	_ = fs.Set("accounts", "2000")
	if err := fs.Parse(args); err != nil {
		return err
	}
	o.quiet, o.closed = true, true
	var in []contender
	for _, c := range contenders() {
		switch missing := c.missing(); {
		case *only != "" && c.name != bareName && !slices.Contains(strings.Split(*only, ","), c.name):
		case missing != "":
			fmt.Fprintf(os.Stderr, "%s is left out: there is no %s here\n", c.name, missing)
		default:
			in = append(in, c)
		}
	}
	scores := map[string][]score{} // by contender and task
	for round := range *rounds {
		for turn := range in {
			c := in[(round+turn)%len(in)] // none is always the one that comes first
			if err := c.compete(ctx, &o, scores); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return tellScores(os.Stdout, in, scores, *rounds, &o)
}

func scoreKey(c *contender, t *task) string {
	return fmt.Sprintf("%s/%s/%d", c.name, t.name, t.connections)
}

// compete starts the contender afresh and has it do every task that it can.
func (c *contender) compete(ctx context.Context, o *options, scores map[string][]score) (err error) {
	s, err := c.start(ctx, o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	l := &load{o: o, rig: s.rig, pool: newPool(o.accounts)}
	defer l.crowd(0)
	l.crowd(64)
	if c.pays {
		if err := l.fund(ctx); err != nil {
			return err
		}
	}
	for _, t := range tasks() {
		if t.pays() && !c.pays || !t.pays() && !c.reads {
			continue
		}
		got, err := s.score(ctx, l, &t)
		if err != nil {
			return fmt.Errorf("%s, %d connections: %w", t.name, t.connections, err)
		}
		scores[scoreKey(c, &t)] = append(scores[scoreKey(c, &t)], got)
	}
	return nil
}

func (t *task) pays() bool { return t.mix[transfer] > 0 }

// score has the stand do a task.
func (s *stand) score(ctx context.Context, l *load, t *task) (got score, err error) {
	l.crowd(t.connections)
	p := phase{t.name, t.mix, 1, 1, 1, true}
	if err := l.run(ctx, &p, l.o.warmup, nil); err != nil {
		return got, err
	}
	before, err := s.cpu()
	if err != nil {
		return got, err
	}
	begun := time.Now()
	rec := newRecorder(begun)
	if err := l.run(ctx, &p, l.o.duration, rec); err != nil {
		return got, err
	}
	span := time.Since(begun).Seconds()
	after, err := s.cpu()
	for _, row := range rec.rows() {
		if row.Status != http.StatusOK {
			err = errors.Join(err, fmt.Errorf("%d answers with status %d", row.Count, row.Status))
		}
	}
	h := rec.reads
	if t.pays() {
		h = rec.writes
	}
	n := float64(h.TotalCount())
	return score{n / span, float64((after - before).Microseconds()) / n, millis(h, 99)}, err
}

// tellScores prints medians over the rounds, and medians of the rounds' ratios to the bare handler.
func tellScores(to io.Writer, in []contender, scores map[string][]score, rounds int, o *options) error {
	var w strings.Builder
	m := thisMachine()
	fmt.Fprintf(&w, "\n%d cores, %s, Linux %s, %s; %d rounds of %v, closed loop, TLS 1.3; the load shares the machine\n", m.Cores, m.CPU, m.Kernel, m.Go, rounds, o.duration)
	bare := &in[slices.IndexFunc(in, func(c contender) bool { return c.name == bareName })]
	for _, t := range tasks() {
		fmt.Fprintf(&w, "\n%-40s %10s %8s %10s %8s %10s\n", fmt.Sprintf("%s, %d connections", t.name, t.connections), "/s", "× bare", "CPU µs", "× bare", "p99 ms")
		ground := scores[scoreKey(bare, &t)]
		for i := range in {
			all := scores[scoreKey(&in[i], &t)]
			if len(all) == 0 {
				continue
			}
			middle := func(of func(i int) float64) float64 {
				values := make([]float64, len(all))
				for i := range all {
					values[i] = of(i)
				}
				median, _, _ := interval(values)
				return median
			}
			fmt.Fprintf(&w, "  %-38s %10.0f %8.3f %10.1f %8.2f %10.2f\n", in[i].name,
				middle(func(i int) float64 { return all[i].rate }), middle(func(i int) float64 { return all[i].rate / ground[i].rate }),
				middle(func(i int) float64 { return all[i].cpu }), middle(func(i int) float64 { return all[i].cpu / ground[i].cpu }),
				middle(func(i int) float64 { return all[i].p99 }))
		}
	}
	_, err := io.WriteString(to, w.String())
	return err
}
