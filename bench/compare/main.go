// Command compare runs two builds of svc-wallet in turn on one machine, each as a sidecar and a node
// with TLS and a durable store, and prints what the second does against the first: requests a
// second and CPU a request, as ratios. Machines are noisy, so each figure is the median of rounds
// that alternate, and only ratios of one run count. With -starve it counts instead what a healthy ledger
// is taken for where CPUs are short.
//
//	git worktree add /tmp/before REVISION && make -C /tmp/before build
//	go run ./bench/compare -before /tmp/before/bin/svc-wallet -after bin/svc-wallet
//	taskset -c 0 go run ./bench/compare -before /tmp/before/bin/svc-wallet -after bin/svc-wallet -starve 2
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"svc-wallet/bench/rig"
)

// unlimited takes the sidecar's own rates out of the measurement.
var unlimited = []string{ //nolint:gochecknoglobals // a table
	"SVC_WALLET_LIMITS_RATE_PER_SECOND=1000000", "SVC_WALLET_LIMITS_RATE_BURST=2000000",
}

func main() {
	before := flag.String("before", "", "the program that is compared with")
	after := flag.String("after", "bin/svc-wallet", "the program that is compared")
	rounds := flag.Int("rounds", 5, "of each program")
	span := flag.Duration("span", 5*time.Second, "of one measurement")
	clients := flag.Int("connections", 64, "each with one request at a time")
	burners := flag.Int("starve", 0, "count refusals by a healthy node beside so many busy processes instead; for taskset -c 0")
	burning := flag.Duration("burn", 0, "only keep a CPU busy for so long")
	flag.Parse()
	if *burning > 0 {
		busy(*burning)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	builds := [2]string{*before, *after}
	err := error(nil)
	if *burners > 0 {
		err = starve(ctx, builds, *rounds, *span, *clients, *burners)
	} else {
		err = compare(ctx, builds, *rounds, *span, *clients)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench compare:", err)
		os.Exit(1)
	}
}

// work is a kind of request. i is the connection's number and n counts its requests from 1.
type work struct {
	name    string
	request func(token string, i, n int) string
}

var works = [...]work{ //nolint:gochecknoglobals // a table
	{"cached balance", func(token string, i, _ int) string {
		return fmt.Sprintf("GET /v1/balance?account=acc_%d&asset=ron HTTP/1.1\r\nHost: rig\r\nAuthorization: Bearer %s\r\n\r\n", i, token)
	}},
	{"durable transfer", func(token string, i, n int) string {
		body := fmt.Sprintf(`{"from":"acc_%d","to":"acc_%d","asset":"ron","amount_minor":"1","nonce":%d}`, i, i+1, n)
		return payment("transfer", token, fmt.Sprintf("t-%d-%d", i, n), body)
	}},
}

func payment(op, token, key, body string) string {
	return fmt.Sprintf("POST /v1/%s HTTP/1.1\r\nHost: rig\r\nAuthorization: Bearer %s\r\nIdempotency-Key: %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", op, token, key, len(body), body)
}

// sample is one measurement.
type sample struct{ rate, sidecar, node float64 } // requests a second; microseconds of CPU a request

func compare(ctx context.Context, builds [2]string, rounds int, span time.Duration, clients int) error {
	fmt.Printf("%d CPUs, %s, %d connections, %d rounds of %s\n", runtime.NumCPU(), runtime.Version(), clients, rounds, span)
	var samples [2][len(works)][]sample
	for round := range rounds {
		for turn := range builds {
			b := (round + turn) % 2 // neither is always the one that comes first
			got, err := measure(ctx, builds[b], span, clients)
			if err != nil {
				return fmt.Errorf("%s: %w", builds[b], err)
			}
			for w := range works {
				samples[b][w] = append(samples[b][w], got[w])
			}
		}
	}
	fmt.Printf("\n%-18s %12s %12s %7s %22s %22s\n", "", "before /s", "after /s", "ratio", "CPU sidecar µs (ratio)", "CPU node µs (ratio)")
	for w := range works {
		was, is := medians(samples[0][w]), medians(samples[1][w])
		fmt.Printf("%-18s %12.0f %12.0f %7.3f %22s %22s\n", works[w].name, was.rate, is.rate, is.rate/was.rate,
			change(was.sidecar, is.sidecar), change(was.node, is.node))
	}
	return nil
}

func change(was, is float64) string { return fmt.Sprintf("%.1f → %.1f (%.2f)", was, is, is/was) }

func medians(s []sample) sample {
	median := func(of func(sample) float64) float64 {
		values := make([]float64, len(s))
		for i := range s {
			values[i] = of(s[i])
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return sample{
		median(func(s sample) float64 { return s.rate }),
		median(func(s sample) float64 { return s.sidecar }),
		median(func(s sample) float64 { return s.node }),
	}
}

// measure starts the program afresh and does every kind of work on it.
func measure(ctx context.Context, binary string, span time.Duration, clients int) (got [len(works)]sample, err error) {
	r, err := rig.Start(ctx, binary, unlimited...)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	conns := make([]*client, clients)
	for i := range conns {
		if conns[i], err = dial(ctx, r, i); err != nil {
			return got, err
		}
		defer conns[i].conn.Close() //nolint:errcheck // nothing is under way
		if err := conns[i].fund(r.Token); err != nil {
			return got, err
		}
	}
	for w := range works {
		if got[w], err = load(r, conns, &works[w], span); err != nil {
			return got, fmt.Errorf("%s: %w", works[w].name, err)
		}
	}
	return got, nil
}

// load has all clients do the work for span, and a fifth of it before, uncounted.
func load(r *rig.Rig, conns []*client, w *work, span time.Duration) (s sample, err error) {
	var done atomic.Uint64
	var stopped atomic.Bool
	errs := make([]error, len(conns))
	var running sync.WaitGroup
	for i, c := range conns {
		running.Go(func() {
			for n := 1; !stopped.Load() && errs[i] == nil; n++ {
				errs[i] = c.do(w.request(r.Token, i, n))
				done.Add(1)
			}
		})
	}
	time.Sleep(span / 5)
	from, err := look(r, &done)
	time.Sleep(span)
	to, err2 := look(r, &done)
	stopped.Store(true)
	running.Wait()
	if err := errors.Join(append(errs, err, err2)...); err != nil {
		return s, err
	}
	count := float64(to.done - from.done)
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / count }
	return sample{count / to.at.Sub(from.at).Seconds(), each(to.sidecar - from.sidecar), each(to.node - from.node)}, nil
}

// point is where the counters stand at a moment.
type point struct {
	at            time.Time
	done          uint64
	sidecar, node time.Duration
}

func look(r *rig.Rig, done *atomic.Uint64) (p point, err error) {
	p = point{at: time.Now(), done: done.Load()}
	var err2 error
	p.sidecar, err = r.Sidecar.CPU()
	p.node, err2 = r.Node.CPU()
	return p, errors.Join(err, err2)
}

// client is one connection.
type client struct {
	number int
	conn   *tls.Conn
	in     *bufio.Reader
}

func dial(ctx context.Context, r *rig.Rig, number int) (*client, error) {
	conn, err := (&tls.Dialer{Config: r.TLS}).DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return nil, err
	}
	return &client{number, conn.(*tls.Conn), bufio.NewReader(conn)}, nil
}

// fund gives the client's account enough for all its transfers.
func (c *client) fund(token string) error {
	body := fmt.Sprintf(`{"to":"acc_%d","asset":"ron","amount_minor":"1000000000","nonce":1}`, c.number)
	return c.do(payment("issue", token, fmt.Sprintf("i-%d", c.number), body))
}

// do sends a request and demands 200.
func (c *client) do(request string) error {
	status, body, err := c.ask(request)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, body)
	}
	return err
}

// ask sends a request and returns what it was answered.
func (c *client) ask(request string) (status int, body []byte, err error) {
	if _, err := io.WriteString(c.conn, request); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(c.in, nil) //nolint:bodyclose // is read to its end, and the connection goes on
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, err
}
