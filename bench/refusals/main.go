// Command refusals ranks every kind of refused request by what it costs the sidecar and its node: CPU
// a request and CPU a byte sent, against an accepted payment under the same load. It starts both
// as processes, and sends one kind after another. What opens a connection anew for each request is charged
// without the handshake, which has a row of its own.
//
// A long body costs what it takes to receive it, accepted or refused, so each kind is also held against a
// payment of its length. Machines are noisy: payments are measured again and again between the kinds, and a kind is held
// against those around it.
//
//	go run ./bench/refusals -bin bin/svc-wallet
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"svc-wallet/bench/rig"
)

// unlimited takes the rates out of the measurement: what they refuse is cheaper than what they let by.
var unlimited = []string{ //nolint:gochecknoglobals // a table
	"SVC_WALLET_LIMITS_RATE_PER_SECOND=1000000", "SVC_WALLET_LIMITS_RATE_BURST=2000000", "SVC_WALLET_AUTH_STRANGERS_PER_SECOND=1000000",
}

func main() {
	var o options
	flag.StringVar(&o.binary, "bin", "bin/svc-wallet", "the program under test")
	flag.DurationVar(&o.span, "span", time.Second, "of each measurement")
	flag.IntVar(&o.clients, "connections", 16, "each with one request at a time")
	flag.Float64Var(&o.most, "most", 3, "how many payments a refused request may cost before the program fails; 0 is any")
	flag.IntVar(&o.body, "body", 1<<20, "bytes of the longest body, as limits.max_body_bytes has it")
	only := flag.String("only", "", "regular expression of the kinds to measure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = bench(ctx, &o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench refusals:", err)
		os.Exit(1)
	}
}

type options struct {
	binary  string
	span    time.Duration
	clients int
	body    int
	most    float64
	only    *regexp.Regexp
}

// cost is what a request of some kind costs on average.
type cost struct {
	kind          *kind
	sidecar, node float64 // microseconds of CPU
	bytes         float64 // sent, TLS included
	times         float64 // against a payment
	alike         float64 // against a payment of the same length
	bytewise      float64 // against a payment, by byte sent
}

func (c *cost) cpu() float64 { return c.sidecar + c.node }

// paymentsEvery is after how many kinds payments are measured again.
const paymentsEvery = 5

func bench(ctx context.Context, o *options) (err error) {
	r, err := rig.Start(ctx, o.binary, unlimited...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	set, err := newKinds(r.Token, o.body)
	if err != nil {
		return err
	}
	if err := set.prepare(ctx, r, o.clients); err != nil {
		return err
	}
	handshake, err := measure(ctx, r, o, &set.handshake, 0)
	if err != nil {
		return err
	}
	costs, yards, err := measureAll(ctx, r, o, set, handshake.cpu())
	if err != nil {
		return err
	}
	show(o, costs, yards, handshake)
	for _, c := range costs {
		if c.kind.refused && o.most > 0 && c.alike > o.most {
			err = errors.Join(err, fmt.Errorf("%q costs %.1f payments of its length", c.kind.name, c.alike))
		}
	}
	return err
}

// yard is what payments cost at some moment: a short one, and one with white space up to the size cap.
type yard struct{ short, long cost }

// of is what a payment of so many bytes costs, between the two.
func (y *yard) of(bytes float64) float64 {
	share := (bytes - y.short.bytes) / (y.long.bytes - y.short.bytes)
	return y.short.cpu() + max(share, 0)*(y.long.cpu()-y.short.cpu())
}

// measureAll measures the kinds, and payments before, between and after them.
func measureAll(ctx context.Context, r *rig.Rig, o *options, set *kinds, handshake float64) (costs []cost, yards []yard, err error) {
	pay := func() error {
		short, err := measure(ctx, r, o, &set.payment, handshake)
		if err != nil {
			return fmt.Errorf("payments: %w", err)
		}
		long, err := measure(ctx, r, o, &set.longPayment, handshake)
		yards = append(yards, yard{short, long})
		return err
	}
	for i := range set.list {
		k := &set.list[i]
		if !o.only.MatchString(k.name) {
			continue
		}
		if len(costs)%paymentsEvery == 0 {
			if err := pay(); err != nil {
				return nil, nil, err
			}
		}
		c, err := measure(ctx, r, o, k, handshake)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", k.name, err)
		}
		costs = append(costs, c)
	}
	if err := pay(); err != nil {
		return nil, nil, err
	}
	for i := range costs {
		c, before, after := &costs[i], &yards[i/paymentsEvery], &yards[i/paymentsEvery+1]
		short := (before.short.cpu() + after.short.cpu()) / 2
		c.times = c.cpu() / short
		c.alike = 2 * c.cpu() / (before.of(c.bytes) + after.of(c.bytes))
		c.bytewise = c.times * before.short.bytes / c.bytes
	}
	return costs, yards, nil
}

// measure sends requests of a kind for a while, and a fifth of it before, uncounted. A connection
// costs handshake microseconds.
func measure(ctx context.Context, r *rig.Rig, o *options, k *kind, handshake float64) (c cost, err error) {
	var total tally
	var stopped atomic.Bool
	errs := make([]error, o.clients)
	var running sync.WaitGroup
	for i := range o.clients {
		running.Go(func() {
			w := &client{rig: r, tally: &total, number: i}
			defer w.close()
			for errs[i] == nil && !stopped.Load() {
				errs[i] = w.do(ctx, k)
			}
		})
	}
	pause(ctx, o.span/5)
	from, err := look(r, &total)
	pause(ctx, o.span)
	to, err2 := look(r, &total)
	stopped.Store(true)
	running.Wait()
	if err := errors.Join(append(errs, err, err2, ctx.Err())...); err != nil {
		return c, err
	}
	count := float64(to.requests - from.requests)
	if count == 0 {
		return c, errors.New("no request was answered")
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / count }
	return cost{
		kind:    k,
		sidecar: max(0, each(to.sidecar-from.sidecar)-handshake*float64(to.dials-from.dials)/count),
		node:    each(to.node - from.node),
		bytes:   float64(to.bytes-from.bytes) / count,
	}, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// point is where the counters stand at a moment.
type point struct {
	requests, bytes, dials uint64
	sidecar, node          time.Duration
}

func look(r *rig.Rig, t *tally) (p point, err error) {
	p = point{requests: t.requests.Load(), bytes: t.bytes.Load(), dials: t.dials.Load()}
	var err2 error
	p.sidecar, err = r.Sidecar.CPU()
	p.node, err2 = r.Node.CPU()
	return p, errors.Join(err, err2)
}

// show writes the table in Markdown, the dearest first.
func show(o *options, costs []cost, yards []yard, handshake cost) {
	short, long := make([]float64, len(yards)), make([]float64, len(yards))
	for i := range yards {
		short[i], long[i] = yards[i].short.cpu(), yards[i].long.cpu()
	}
	slices.Sort(short)
	slices.Sort(long)
	fmt.Printf("%d CPUs, %s, %d connections, %s each. A payment of %.0f bytes: %.0f µs (%.0f to %.0f). One of %.0f bytes: %.0f µs (%.0f to %.0f). A handshake: %.0f µs.\n\n",
		runtime.NumCPU(), runtime.Version(), o.clients, o.span, yards[0].short.bytes, short[len(short)/2], short[0], short[len(short)-1],
		yards[0].long.bytes, long[len(long)/2], long[0], long[len(long)-1], handshake.cpu())
	fmt.Println("| request | bytes | sidecar, µs | node, µs | × a payment of its length | × a payment | the same, a byte |\n|---|---|---|---|---|---|---|")
	slices.SortFunc(costs, func(a, b cost) int { return cmp.Compare(b.alike, a.alike) })
	for _, c := range costs {
		fmt.Printf("| %s | %.0f | %.0f | %.0f | %.2f | %.2f | %.3f |\n", c.kind.name, c.bytes, c.sidecar, c.node, c.alike, c.times, c.bytewise)
	}
}
