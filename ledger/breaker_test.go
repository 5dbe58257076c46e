package ledger

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"svc-wallet/config"
)

// handClock is a clock that tests move.
type handClock struct{ t atomic.Int64 }

func newHandClock() *handClock {
	c := new(handClock)
	c.t.Store(1e18)
	return c
}

func (c *handClock) now() int64              { return c.t.Load() }
func (c *handClock) advance(d time.Duration) { c.t.Add(int64(d)) }

func fail(t *testing.T, b *Breaker, n int) {
	t.Helper()
	for i := range n {
		p, ok := b.Allow()
		if !ok {
			t.Fatalf("call %d of %d was not allowed", i, n)
		}
		p.Done(false)
	}
}

// Goal: a breaker that is told to probe does so at once, with a whole round in which a probe of before
// counts for nothing; a closed one stays closed. Method: a clock that stands still.
func TestBreakerProbe(t *testing.T) {
	b := newTestBreaker(liveLimits(func(l *config.Limits) { l.BreakerProbes = 2 }), newHandClock().now)
	b.Probe()
	fail(t, b, 20)
	if _, ok := b.Allow(); ok || b.State() != BreakerOpen {
		t.Fatal("a call was allowed while open")
	}
	b.Probe()
	late, ok := b.Allow()
	if !ok || b.State() != BreakerHalfOpen {
		t.Fatalf("no probe, %v", b.State())
	}
	b.Probe()
	late.Done(false)
	for range 2 {
		p, ok := b.Allow()
		if !ok || b.State() != BreakerHalfOpen {
			t.Fatalf("no probe, %v", b.State())
		}
		p.Done(true)
	}
	if b.State() != BreakerClosed || b.Opened() != 1 {
		t.Fatalf("%v, opened %d times", b.State(), b.Opened())
	}
}

// Goal: the breaker opens on exactly the twentieth failure within the window, rejects until its
// time is up, and closes after exactly ten good probes. Method: a clock moved by hand.
func TestBreakerRound(t *testing.T) {
	clk := newHandClock()
	b := newTestBreaker(liveLimits(nil), clk.now)
	fail(t, b, 19)
	if b.State() != BreakerClosed {
		t.Fatalf("19 failures: %v", b.State())
	}
	p, _ := b.Allow()
	p.Done(true) // a success in between forgives nothing
	late, _ := b.Allow()
	fail(t, b, 1)
	if b.State() != BreakerOpen || b.Opened() != 1 {
		t.Fatalf("20 failures: %v, opened %d times", b.State(), b.Opened())
	}
	clk.advance(5*time.Second - 1)
	if _, ok := b.Allow(); ok || b.State() != BreakerOpen {
		t.Fatal("a call was allowed while open")
	}
	late.Done(false) // of the closed generation
	clk.advance(1)

	var probes []Permit
	for {
		p, ok := b.Allow()
		if !ok {
			break
		}
		probes = append(probes, p)
	}
	if len(probes) != 10 || b.State() != BreakerHalfOpen {
		t.Fatalf("%d probes in state %v", len(probes), b.State())
	}
	for i, p := range probes {
		if b.State() != BreakerHalfOpen {
			t.Fatalf("closed after %d probes", i)
		}
		p.Done(true)
	}
	if b.State() != BreakerClosed {
		t.Fatalf("ten good probes: %v", b.State())
	}
	fail(t, b, 19)
	if b.State() != BreakerClosed {
		t.Fatal("failures from before the opening still count")
	}
}

// Goal: a bad probe opens it again, and what the round's other probes bring later counts for
// nothing, be it good or bad. Method: two rounds, the probes of the first come back in the second.
func TestBreakerLateProbes(t *testing.T) {
	clk := newHandClock()
	b := newTestBreaker(liveLimits(nil), clk.now)
	fail(t, b, 20)
	clk.advance(5 * time.Second)
	var first [10]Permit
	for i := range first {
		first[i], _ = b.Allow()
	}
	first[0].Done(false)
	if b.State() != BreakerOpen || b.Opened() != 2 {
		t.Fatalf("a bad probe: %v, opened %d times", b.State(), b.Opened())
	}
	clk.advance(5 * time.Second)
	p, ok := b.Allow()
	if !ok || b.State() != BreakerHalfOpen {
		t.Fatal("no second round")
	}
	for _, old := range first[1:8] {
		old.Done(true)
	}
	first[9].Done(false)
	if b.State() != BreakerHalfOpen {
		t.Fatalf("late probes moved it to %v", b.State())
	}
	p.Done(true)
	for range 9 {
		if b.State() != BreakerHalfOpen {
			t.Fatal("closed before its ten probes were back")
		}
		p, _ := b.Allow()
		p.Done(true)
	}
	if b.State() != BreakerClosed {
		t.Fatal("the second round did not close it")
	}
	Permit{}.Done(false) // the zero permit counts for nothing
}

// Goal: failures that are spread over more than the window never open it. Method: a hundred of
// them, so far apart that at most 19 share a window.
func TestBreakerWindow(t *testing.T) {
	clk := newHandClock()
	b := newTestBreaker(liveLimits(nil), clk.now)
	for range 100 {
		fail(t, b, 1)
		clk.advance(breakerWindow/19 + 1)
		p, _ := b.Allow()
		p.Done(true)
	}
	if b.State() != BreakerClosed {
		t.Fatal("spread failures opened it")
	}
	clk.advance(breakerWindow)
	p, _ := b.Allow()
	p.Done(true)
	if b.suspect.Load() {
		t.Fatal("a success after the window leaves it suspect, which costs a lock a call")
	}
}

// Goal: of 200 callers at once in the half-open state exactly ten are admitted. Method: goroutines
// released together; the race detector watches.
func TestBreakerProbesConcurrently(t *testing.T) {
	clk := newHandClock()
	b := newTestBreaker(liveLimits(nil), clk.now)
	fail(t, b, 20)
	clk.advance(5 * time.Second)
	var admitted atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 200 {
		wg.Go(func() {
			<-start
			if _, ok := b.Allow(); ok {
				admitted.Add(1)
			}
		})
	}
	close(start)
	wg.Wait()
	if admitted.Load() != 10 {
		t.Fatalf("%d admitted", admitted.Load())
	}
}

// Goal: new thresholds hold from the next call on, for counts that began under the old ones, and
// limits that deny everything allow no call. Method: store other limits between failures.
func TestBreakerLiveLimits(t *testing.T) {
	clk := newHandClock()
	live := liveLimits(nil)
	b := newTestBreaker(live, clk.now)
	fail(t, b, 4)
	l := testLimits()
	l.BreakerErrors, l.BreakerOpenFor, l.BreakerProbes = 5, time.Second, 2
	live.Store(&l)
	fail(t, b, 1)
	if b.State() != BreakerOpen {
		t.Fatalf("five failures at a threshold of five: %v", b.State())
	}
	clk.advance(time.Second)
	for range 2 {
		p, ok := b.Allow()
		if !ok {
			t.Fatal("no probe")
		}
		p.Done(true)
	}
	if b.State() != BreakerClosed {
		t.Fatalf("two good probes of two: %v", b.State())
	}
	live.Store(new(config.Limits))
	if _, ok := b.Allow(); ok {
		t.Fatal("the zero limits allow a call")
	}
}

// Goal: a closed breaker costs a call no allocation. Method: AllocsPerRun.
func TestBreakerAllocations(t *testing.T) {
	b := newTestBreaker(liveLimits(nil), newHandClock().now)
	if n := testing.AllocsPerRun(1000, func() {
		p, _ := b.Allow()
		p.Done(true)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// Goal: hystrix' stream shows the circuit open once ours is, starts with its first client and
// stops with its last. Method: a real HTTP server; goleak in TestMain sees what is left running.
func TestBreakerStream(t *testing.T) {
	b := newTestBreaker(liveLimits(nil), clock)
	fail(t, b, 20)
	h := BreakerStream()
	srv := httptest.NewServer(h)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, http.NoBody)
	client := srv.Client()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.Contains(line, `"name":"`+b.name+`"`) && strings.Contains(line, `"isCircuitBreakerOpen":true`) {
			cancel()
			break
		}
	}
	if ctx.Err() != context.Canceled {
		t.Fatalf("the stream never showed it open: %v", lines.Err())
	}

	rec := httptest.NewRecorder()
	h.ServeHTTP(struct{ http.ResponseWriter }{rec}, req)
	if rec.Code != http.StatusInternalServerError {
		t.Fatalf("a writer that cannot flush: %d", rec.Code)
	}
	full := &breakerStream{clients: maxStreams}
	rec = httptest.NewRecorder()
	full.ServeHTTP(rec, req)
	if rec.Code != http.StatusServiceUnavailable {
		t.Fatalf("one client too many: %d", rec.Code)
	}
}

// Goal: where hystrix opens by its longer window and we do not, a success tells it so. Method:
// failures fed to hystrix behind our back; its goroutine is given time to count them.
func TestBreakerReassuresHystrix(t *testing.T) {
	b := newTestBreaker(liveLimits(nil), clock)
	fail(t, b, 1)
	for range 20 {
		b.report("failure")
	}
	for deadline := soon(); !b.circuit.IsOpen(); runtime.Gosched() {
		if clock() > deadline {
			t.Fatal("hystrix did not open")
		}
	}
	p, _ := b.Allow()
	p.Done(true)
	if b.circuit.IsOpen() {
		t.Fatal("hystrix is still open")
	}
}
