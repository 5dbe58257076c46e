package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"svc-wallet/bench/rig"
)

// unlimited takes rates and the cap on connections out of the measurement; that on what is under way and the
// queue stay.
func unlimited() []string {
	return []string{"SVC_WALLET_LIMITS_RATE_PER_SECOND=1000000", "SVC_WALLET_LIMITS_RATE_BURST=2000000", "SVC_WALLET_MAX_CONNS=4096"}
}

// measure runs a scenario on processes of its own. The result may be there beside an error: that the money
// does not add up, say.
func measure(ctx context.Context, o *options) (result *Result, err error) {
	phases, err := o.phases()
	if err != nil {
		return nil, err
	}
	return measurePhases(ctx, o, phases, (*load).phase)
}

// measurePhases runs phases on processes of their own, each by what do does.
func measurePhases(
	ctx context.Context, o *options, phases []phase, do func(*load, context.Context, *phase) (phaseResult, error),
) (result *Result, err error) {
	r, err := rig.Start(ctx, o.bin, append(unlimited(), o.env...)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	return measureOn(ctx, o, r, phases, func(ctx context.Context, l *load, p *phase) (phaseResult, error) { return do(l, ctx, p) })
}

// measureOn runs phases on a rig, each by what do does, and counts the money.
func measureOn(
	ctx context.Context, o *options, r *rig.Rig, phases []phase, do func(context.Context, *load, *phase) (phaseResult, error),
) (result *Result, err error) {
	l := &load{o: o, rig: r, pool: newPool(o.accounts)}
	defer l.crowd(0)
	l.crowd(o.connections)
	if err := l.fund(ctx); err != nil {
		return nil, err
	}
	result = newResult(o, r)
	for i := range phases {
		if i == 0 && o.warmup > 0 {
			if err := l.run(ctx, &phases[0], o.warmup, nil); err != nil {
				return nil, err
			}
		}
		p, err := do(ctx, l, &phases[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", phases[i].name, err)
		}
		result.Phases = append(result.Phases, p)
	}
	result.Money, err = l.count(ctx)
	return result, err
}

// phase runs one phase and measures it.
func (l *load) phase(ctx context.Context, p *phase) (out phaseResult, err error) {
	span := time.Duration(float64(l.o.duration) * p.share)
	l.crowd(l.o.connections * p.crowd)
	defer l.crowd(l.o.connections)
	rec := newRecorder(time.Now())
	before, err := l.counters(ctx)
	if err != nil {
		return out, err
	}
	watching, stop := context.WithCancel(ctx)
	w := watcher{load: l, rec: rec, name: p.name, ready: newHistogram()}
	var all sync.WaitGroup
	all.Go(func() { w.seconds(watching) })
	all.Go(func() { w.readiness(watching) })
	err = l.run(ctx, p, span, rec)
	after, err2 := l.counters(ctx)
	stop()
	all.Wait()
	if err := errors.Join(err, err2); err != nil {
		return out, err
	}
	return w.result(p, before, after), nil
}

// counters are what is counted from the beginning of the processes.
type counters struct {
	at                  time.Time
	sidecar, node, self time.Duration // CPU
	mallocs, gc, bus    float64
	written             int64 // bytes, by the node
}

func (l *load) counters(ctx context.Context) (c counters, err error) {
	c.at = time.Now()
	var errs [4]error
	c.sidecar, errs[0] = l.rig.Sidecar.CPU()
	c.node, errs[1] = l.rig.Node.CPU()
	c.self, errs[2] = selfCPU()
	c.written, errs[3] = l.rig.Node.Written()
	metrics, err := scrape(ctx, l.rig.AdminAddr)
	c.mallocs, c.gc = metrics["go_memstats_mallocs_total"], metrics["go_gc_duration_seconds_sum"]
	c.bus = metrics["bus_lagged_total"]
	return c, errors.Join(err, errors.Join(errs[:]...))
}

func selfCPU() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// scrape sums each metric of the sidecar over its labels.
func scrape(ctx context.Context, addr string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // was read to its end
	sums := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if at := strings.LastIndexByte(lines.Text(), '}'); at > 0 {
			name, value = lines.Text()[:strings.IndexByte(lines.Text(), '{')], strings.TrimSpace(lines.Text()[at+1:])
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			sums[name] += n
		}
	}
	return sums, lines.Err()
}

// watcher looks at the processes while a phase runs.
type watcher struct {
	load *load
	rec  *recorder
	name string

	rss   [2]int64 // most, of sidecar and node
	fds   [2]int
	ready *hdrhistogram.Histogram // of /readyz, while it says so
	flips int                     // from ready to not
}

// seconds samples once a second, and shows how it goes.
func (w *watcher) seconds(ctx context.Context) {
	clock := time.NewTicker(time.Second)
	defer clock.Stop()
	last, _ := w.load.counters(ctx)
	before, behind, onTerminal := "", "\n", false
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		before, behind, onTerminal = "\r", "", true
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		}
		now, err := w.load.counters(ctx)
		if err != nil {
			continue
		}
		cores := func(d time.Duration) float64 { return d.Seconds() / now.at.Sub(last.at).Seconds() }
		s := w.rec.tick(now.at, []float64{cores(now.sidecar - last.sidecar), cores(now.node - last.node), cores(now.self - last.self)})
		last = now
		for i, p := range []*rig.Process{w.load.rig.Sidecar, w.load.rig.Node} {
			if rss, err := p.RSS(); err == nil {
				w.rss[i] = max(w.rss[i], rss)
			}
			if fds, err := p.FDs(); err == nil {
				w.fds[i] = max(w.fds[i], fds)
			}
		}
		if !w.load.o.quiet && (onTerminal || len(w.rec.seconds)%10 == 0) {
			fmt.Fprintf(os.Stderr, "%s%-22s %4.0fs  %6d/s  shed %-5d bad %-4d read p99 %7.2f ms  write p99 %7.2f ms  cores %.2f+%.2f (load %.2f) %s",
				before, w.name, s.At, s.Good, s.Shed, s.Bad, s.Read99, s.Write99, s.CPU[0], s.CPU[1], s.CPU[2], behind)
		}
	}
}

// readiness asks /readyz ten times a second.
func (w *watcher) readiness(ctx context.Context) {
	was := true
	for pause(ctx, 100*time.Millisecond) == nil {
		begun := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.load.rig.AdminAddr+"/readyz", nil)
		if err != nil {
			return
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		_ = res.Body.Close()
		is := res.StatusCode == http.StatusOK
		if is {
			_ = w.ready.RecordValue(max(1, time.Since(begun).Microseconds()))
		} else if was {
			w.flips++
		}
		was = is
	}
}

// machine is what the figures depend on.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	return m
}
