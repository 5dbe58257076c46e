package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"svc-wallet/bench/link"
	"svc-wallet/bench/rig"
)

// The network of the contract's chaos (docs/performance.md): 80 ms there and back, 1 % of the round trips lose a
// packet.
const (
	roundTrip = 80 * time.Millisecond
	jitter    = 10 * time.Millisecond // of a packet; correlated by a quarter
)

func slow() link.Settings {
	return link.Settings{Delay: roundTrip / 2, Jitter: jitter, Correlation: .25, Loss: .005}
}

// weather is what a phase has between sidecar and node.
type weather struct {
	link.Settings
	share float64
	after time.Duration // into the phase, so that requests are under way; 0: before it
}

// The phases of a run.
const (
	calm = iota
	slowed
	calmAgain
	cut
	mended
	numWeathers
)

func weathers() [numWeathers]weather {
	return [numWeathers]weather{
		calm:      {share: .15},
		slowed:    {Settings: slow(), share: .45},
		calmAgain: {share: .1},
		cut:       {Settings: link.Settings{Loss: 1}, share: .1, after: 500 * time.Millisecond},
		mended:    {share: .2},
	}
}

func weatherNames() [numWeathers]string {
	return [numWeathers]string{"clean", "80 ms, 1 % loss", "clean again", "cut", "mended"}
}

// stormy is what a phase found, besides what every phase does.
type stormy struct {
	phaseResult
	batch   float64   // payments in a commit, mean
	opened  float64   // times that the breaker did
	turns   []turn    // of readiness
	set     time.Time // when the weather changed
	packets link.Stats
}

// turn is one of readiness.
type turn struct {
	at    time.Time
	ready bool
}

// chaos measures the write mix with a network between sidecar and node that changes, and holds it against what
// must not happen.
func chaos(ctx context.Context, args []string) error {
	var o options
	fs := flag.NewFlagSet("chaos", flag.ContinueOnError)
	o.flags(fs)
	fs.Float64Var(&o.rate, "rate", 2500, "requests a second")
	if err := fs.Parse(args); err != nil {
		return err
	}
	rows, err := storm(ctx, &o, os.Stdout)
	if err != nil {
		return err
	}
	return tell(os.Stdout, &o, rows)
}

// storm runs the phases, prints what each found, and returns what is judged.
func storm(ctx context.Context, o *options, to io.Writer) (rows []row, err error) {
	o.scenario = "write_mix"
	phases, err := o.phases()
	if err != nil {
		return nil, err
	}
	write := phases[0]
	phases = nil
	for i, w := range weathers() {
		p := write
		p.name, p.share = weatherNames()[i], w.share
		phases = append(phases, p)
	}
	way, err := link.New()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, way.Close()) }()
	r, err := rig.StartFar(ctx, o.bin, &rig.Far{IP: way.There.AsSlice(), Run: way.Run}, unlimited()...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	var found []stormy
	result, err := measureOn(ctx, o, r, phases, func(ctx context.Context, l *load, p *phase) (phaseResult, error) {
		s, err := l.weather(ctx, p, way, weathers()[len(found)])
		found = append(found, s)
		return s.phaseResult, err
	})
	if result != nil {
		result.print(to)
	}
	if err != nil {
		return nil, err
	}
	return verdicts(found), printStorm(to, found)
}

// weather runs a phase with w on the way.
func (l *load) weather(ctx context.Context, p *phase, way *link.Link, w weather) (s stormy, err error) {
	if w.after == 0 {
		s.set = time.Now()
		way.Set(w.Settings)
	}
	before, err := scrape(ctx, l.rig.AdminAddr)
	if err != nil {
		return s, err
	}
	packets := way.Stats()
	watching, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { s.turns = turns(watching, l.rig.AdminAddr) })
	if w.after > 0 {
		all.Go(func() {
			_ = pause(watching, w.after)
			s.set = time.Now()
			way.Set(w.Settings)
		})
	}
	s.phaseResult, err = l.phase(ctx, p)
	stop()
	all.Wait()
	after, err2 := scrape(ctx, l.rig.AdminAddr)
	s.batch = (after["commit_batch_size_sum"] - before["commit_batch_size_sum"]) / max(1, after["commit_batch_size_count"]-before["commit_batch_size_count"])
	s.opened = after["circuit_open_total"] - before["circuit_open_total"]
	s.packets = way.Stats()
	s.packets.Lost, s.packets.Passed = s.packets.Lost-packets.Lost, s.packets.Passed-packets.Passed
	return s, errors.Join(err, err2)
}

// readyEvery is how often readiness is asked for.
const readyEvery = 20 * time.Millisecond

// turns asks for readiness until ctx ends, and returns its turns, the first one from ready.
func turns(ctx context.Context, admin string) (all []turn) {
	was := true
	for pause(ctx, readyEvery) == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
		if err != nil {
			return all
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		_ = res.Body.Close()
		if is := res.StatusCode == http.StatusOK; is != was {
			all = append(all, turn{time.Now(), is})
			was = is
		}
	}
	return all
}

func printStorm(to io.Writer, found []stormy) error {
	var w strings.Builder
	fmt.Fprintf(&w, "\nTCP's congestion control is %s\n\n| network | reads p50, p95, p99 | payments p50, p95, p99 | payments a second | shed | a batch | breaker opened | readiness turned | packets lost |\n|---|---|---|---|---|---|---|---|---|\n", congestionControl())
	for i := range found {
		s := &found[i]
		fmt.Fprintf(&w, "| %s | %.1f, %.1f, %.1f ms | %.1f, %.1f, %.1f ms | %.0f | %.2f %% | %.1f | %.0f | %d | %d of %d |\n", s.Name, s.Reads.P50, s.Reads.P95, s.Reads.P99,
			s.Payments.P50, s.Payments.P95, s.Payments.P99, s.Writes, s.Shed*100, s.batch, s.opened, len(s.turns), s.packets.Lost, s.packets.Lost+s.packets.Passed)
	}
	for i := range found {
		for _, turn := range found[i].turns {
			fmt.Fprintf(&w, "%s: ready=%v %.0f ms after the network changed\n", found[i].Name, turn.ready, millisOf(turn.at.Sub(found[i].set)))
		}
	}
	_, err := io.WriteString(to, w.String())
	return err
}

// What payments and reads may take on the slow network. A call takes a round trip, and one more with a quarter of
// it (RACK's window for packets that overtake each other, RFC 8985) where a packet is lost and sent again. A payment
// waits for a worker, whose call may be one of those, and for its own, which may be one too; and 1 % may meet a
// packet that is lost twice, which TCP sends again after 200 ms and a round trip. A read waits likewise, but most
// need no call at all, so the last is beyond its 99th percentile.
const (
	slowCall     = roundTrip + 2*jitter + roundTrip*5/4
	mostReads    = 2 * slowCall
	mostPayments = 2*slowCall + 200*time.Millisecond + roundTrip
)

// When readiness must have turned. A ledger that falls silent is noticed within 200 ms; the rest is for the time
// between two looks, and for processes that wait for a CPU. After the cut a connection is made anew: one attempt of
// a second may be under way, and then a pause of up to 1.2 s follows.
const (
	unreadyIn = 300 * time.Millisecond
	readyIn   = 3 * time.Second
)

// congestionControl is TCP's, on which it depends what a network carries that loses packets.
func congestionControl() string {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control") // there is none elsewhere than on Linux
	return strings.TrimSpace(string(text))
}

// verdicts hold what was found against what must be. The bounds of latencies are for a network that carries the
// load, as with BBR; one that takes loss for a full queue leaves a connection some 17 packets a round trip here
// (Mathis and others, 1997), so there they say nothing of the sidecar.
func verdicts(found []stormy) []row {
	clean, storm := &found[calm], &found[slowed]
	const of = "80 ms, 1 % loss: "
	rows := []row{
		atMost(of+"breaker opened", "times", 0, storm.opened),
		atMost(of+"readiness turned", "times", 0, float64(len(storm.turns))),
		atLeast(of+"payments a batch, of those without", "×", 2, storm.batch/clean.batch),
		atMost(of+"429 and 503", "%", 1, storm.Shed*100),
		atMost("cut: not ready after", "ms", millisOf(unreadyIn), found[cut].until(false)),
		atMost("mended: ready after", "ms", millisOf(readyIn), found[mended].until(true)),
		{"cut: reads go on from memory", "some", strconv.FormatInt(found[cut].Reads.Count, 10), found[cut].Reads.Count > 0},
	}
	if congestionControl() == "bbr" {
		rows = append(rows,
			atMost(of+"payments p99", "ms", millisOf(mostPayments), storm.Payments.P99),
			atMost(of+"reads p99", "ms", millisOf(mostReads), storm.Reads.P99))
	}
	return rows
}

// until is how many milliseconds after the network had changed readiness was what it is to be; infinite where it
// never was.
func (s *stormy) until(ready bool) float64 {
	for _, t := range s.turns {
		if t.ready == ready {
			return millisOf(t.at.Sub(s.set))
		}
	}
	return math.Inf(1)
}

func millisOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
