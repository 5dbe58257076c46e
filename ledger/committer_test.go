package ledger

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"svc-wallet/config"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

func newTestCommitter(t testing.TB, l Ledger, b *Breaker, live *config.Live, opts CommitterOptions) *Committer {
	t.Helper()
	opts.Now = clock
	if opts.Workers == 0 {
		opts.Workers = 2
	}
	if opts.MaxQueue == 0 {
		opts.MaxQueue = 4096
	}
	c, err := NewCommitter(l, b, live, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeNow(t testing.TB, c *Committer) {
	t.Helper()
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// inBubble runs f in a synctest bubble with a breaker whose hystrix goroutines live outside.
func inBubble(t *testing.T, change func(*config.Limits), f func(t *testing.T, b *Breaker, live *config.Live)) {
	t.Helper()
	live := liveLimits(change)
	b := newTestBreaker(live, clock)
	synctest.Test(t, func(t *testing.T) { f(t, b, live) })
}

// Goal: with N workers exactly N batches run and exactly Limits.Queue payments wait, the next is
// refused as busy and counted, and a lower bound pushed meanwhile holds at once. Method: a ledger
// that blocks, in a bubble, where "all are blocked" can be waited for.
func TestCommitterQueueIsExact(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *Breaker, live *config.Live) {
		bank, gate := newBank(), make(chan struct{})
		bank.before = func(context.Context, []wallet.Payment) error { <-gate; return nil }
		c := newTestCommitter(t, bank, b, live, CommitterOptions{Workers: 3})
		var wg sync.WaitGroup
		var applied atomic.Int32
		submit := func(n int) {
			wg.Go(func() {
				if c.Submit(payment(n, 1), live.Load(), clock()+int64(time.Hour)).Code == wallet.OK {
					applied.Add(1)
				}
			})
		}
		for n := range 3 {
			submit(n)
			synctest.Wait()
			time.Sleep(batchesApart) // the bubble's
		}
		if c.Running() != 3 || c.Depth() != 0 || c.Workers() != 3 {
			t.Fatalf("%d running, %d waiting", c.Running(), c.Depth())
		}
		for n := range 512 {
			submit(3 + n)
		}
		synctest.Wait()
		if c.Running() != 3 || c.Depth() != 512 {
			t.Fatalf("%d running, %d waiting", c.Running(), c.Depth())
		}
		if r := c.Submit(payment(999, 1), live.Load(), soon()); r.Code != wallet.Busy || c.Dropped() != 1 {
			t.Fatalf("the 513th: %v, %d dropped", r.Code, c.Dropped())
		}
		close(gate)
		wg.Wait()
		if applied.Load() != 515 {
			t.Fatalf("%d applied", applied.Load())
		}
		for _, n := range bank.batches {
			if n > 256 {
				t.Fatalf("a batch of %d", n)
			}
		}
		closeNow(t, c)
	})
}

// Goal: beside a batch another begins once it would be full, or the queue is, or the last one began long
// enough ago; the oldest payment comes first. Method: a ledger that blocks, in a bubble.
func TestBatchesBeginApart(t *testing.T) {
	for name, tt := range map[string]struct {
		change         func(*config.Limits)
		wait           time.Duration // before the last payment
		running, depth int           // after it
		second         []int         // payments of the second batch, in order
		payments       int
	}{
		"waits":      {payments: 3, running: 1, depth: 2, second: []int{1, 2}},
		"in time":    {payments: 3, wait: batchesApart, running: 2, depth: 0, second: []int{1, 2}},
		"full batch": {payments: 4, change: func(l *config.Limits) { l.BatchMax = 3 }, running: 2, depth: 0, second: []int{1, 2, 3}},
		"full queue": {payments: 4, change: func(l *config.Limits) { l.Queue = 2 }, running: 2, depth: 0, second: []int{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tt.change, func(t *testing.T, b *Breaker, live *config.Live) {
				bank, gate := newBank(), make(chan struct{})
				var calls [][]wallet.Payment
				var mu sync.Mutex
				bank.before = func(_ context.Context, batch []wallet.Payment) error {
					mu.Lock()
					calls = append(calls, slices.Clone(batch))
					mu.Unlock()
					<-gate
					return nil
				}
				c := newTestCommitter(t, bank, b, live, CommitterOptions{Workers: 2})
				var wg sync.WaitGroup
				for n := range tt.payments {
					if n == tt.payments-1 {
						time.Sleep(tt.wait) // the bubble's
					}
					wg.Go(func() {
						if r := c.Submit(payment(n, 1), live.Load(), clock()+int64(time.Hour)); r.Code != wallet.OK {
							t.Errorf("payment %d: %v", n, r.Code)
						}
					})
					synctest.Wait()
				}
				if c.Running() != tt.running || c.Depth() != tt.depth {
					t.Errorf("%d run and %d wait, want %d and %d", c.Running(), c.Depth(), tt.running, tt.depth)
				}
				close(gate)
				wg.Wait()
				closeNow(t, c)
				var second []wallet.IdemKey
				for _, p := range calls[1] {
					second = append(second, p.Idem)
				}
				var want []wallet.IdemKey
				for _, n := range tt.second {
					want = append(want, payment(n, 1).Idem)
				}
				if !slices.Equal(second, want) {
					t.Errorf("the second batch is %v, want %v", second, want)
				}
			})
		})
	}
}

// Goal: a payment is judged by the limits that its exchange brought, whatever is in force by then,
// and a queue with a shadow limit counts what it would refuse and refuses nothing. Method: one worker that
// blocks, and payments with limits of their own.
func TestCommitterSeesTheExchangesLimits(t *testing.T) {
	inBubble(t, func(l *config.Limits) { l.Queue = 1 }, func(t *testing.T, b *Breaker, live *config.Live) {
		bank, gate := newBank(), make(chan struct{})
		bank.before = func(context.Context, []wallet.Payment) error { <-gate; return nil }
		c := newTestCommitter(t, bank, b, live, CommitterOptions{Workers: 1})
		watched, narrow := *live.Load(), *live.Load()
		narrow.Queue = 2
		watched.Queue, watched.Shadow = 4, &narrow
		var wg sync.WaitGroup
		for n, l := range []*config.Limits{&watched, live.Load(), &watched, &watched, &watched} { // one runs, four wait
			wg.Go(func() {
				if r := c.Submit(payment(n, 1), l, soon()); r.Code != wallet.OK {
					t.Errorf("payment %d: %v", n, r.Code)
				}
			})
			synctest.Wait()
		}
		if c.Depth() != 4 || c.ShadowDropped() != 2 || c.Dropped() != 0 {
			t.Errorf("%d wait, %d would have been refused, %d were", c.Depth(), c.ShadowDropped(), c.Dropped())
		}
		for _, l := range []*config.Limits{&watched, live.Load()} {
			if r := c.Submit(payment(9, 1), l, soon()); r.Code != wallet.Busy {
				t.Errorf("with the queue full: %v", r.Code)
			}
		}
		if c.ShadowDropped() != 2 || c.Dropped() != 2 {
			t.Errorf("%d would have been refused, %d were", c.ShadowDropped(), c.Dropped())
		}
		close(gate)
		wg.Wait()
		closeNow(t, c)
	})
}

// Goal: a payment that waits at its deadline is withdrawn as certainly refused and never reaches
// the ledger; its place is free at once; one that was taken is uncertain, yet its result reaches
// OnResult. Method: a blocked ledger and the bubble's clock.
func TestCommitterDeadlines(t *testing.T) {
	inBubble(t, func(l *config.Limits) { l.Queue = 1; l.LedgerTimeout = time.Minute }, func(t *testing.T, b *Breaker, live *config.Live) {
		bank, gate := newBank(), make(chan struct{})
		bank.before = func(context.Context, []wallet.Payment) error { <-gate; return nil }
		var learned []wallet.Code
		c := newTestCommitter(t, bank, b, live, CommitterOptions{
			Workers: 1, OnResult: func(_ *wallet.Payment, r *wallet.Result, _ int64) { learned = append(learned, r.Code) },
		})
		at := clock() + int64(time.Second)
		var wg sync.WaitGroup
		wg.Go(func() {
			if r := c.Submit(payment(1, 1), live.Load(), at); r.Code != wallet.Uncertain {
				t.Errorf("the taken one: %v", r.Code)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if r := c.Submit(payment(2, 1), live.Load(), at); r.Code != wallet.UpstreamUnavailable {
				t.Errorf("the waiting one: %v", r.Code)
			}
		})
		synctest.Wait()
		wg.Wait()
		if c.Depth() != 0 {
			t.Fatal("the withdrawn one keeps its place")
		}
		if r := c.Submit(payment(3, 1), live.Load(), at); r.Code != wallet.UpstreamUnavailable {
			t.Fatalf("one that comes too late: %v", r.Code)
		}
		close(gate)
		synctest.Wait()
		if len(bank.applied) != 1 || len(learned) != 1 || learned[0] != wallet.OK {
			t.Fatalf("%d applied, learned %v", len(bank.applied), learned)
		}
		closeNow(t, c)
	})
}

// Goal: a worker refuses for certain what came to its deadline before it was laid out. Method: the
// clock jumps between the queue and the worker.
func TestCommitterSkipsExpired(t *testing.T) {
	bank, live := newBank(), liveLimits(nil)
	c := newTestCommitter(t, bank, newTestBreaker(live, clock), live, CommitterOptions{})
	var items []*pending
	for i, deadline := range []int64{0, soon(), 1, soon()} {
		p := c.pendings.New().(*pending)
		p.payment, p.deadline = *payment(i, 1), deadline
		p.sides.Store(2)
		items = append(items, p)
	}
	c.commit(slices.Clone(items))
	for i, want := range []wallet.Code{wallet.UpstreamUnavailable, wallet.OK, wallet.UpstreamUnavailable, wallet.OK} {
		<-items[i].done
		if got := items[i].result.Code; got != want {
			t.Errorf("item %d: %v, want %v", i, got, want)
		}
	}
	if len(bank.batches) != 1 || bank.batches[0] != 2 {
		t.Fatalf("batches %v", bank.batches)
	}
	closeNow(t, c)
}

// calls counts what the observer is told.
type calls struct {
	mu       sync.Mutex
	outcomes [NumCallOutcomes]int
	retries  int
	batches  int
}

func (c *calls) Call(_ Method, o CallOutcome, _ int64) { c.mu.Lock(); c.outcomes[o]++; c.mu.Unlock() }
func (c *calls) Retry(Method)                          { c.mu.Lock(); c.retries++; c.mu.Unlock() }
func (c *calls) Batch(int)                             { c.mu.Lock(); c.batches++; c.mu.Unlock() }

// Goal: failed calls are repeated inside the deadline with the stated pauses, and what the client
// hears is a refusal only if no attempt can have taken effect. Method: a table of scripted
// failures in a bubble; the elapsed fake time is checked.
func TestCommitterRetries(t *testing.T) {
	lost, unsent := errors.New("connection lost"), fmt.Errorf("no connection: %w", ErrNotSent)
	doubted := fmt.Errorf("%w: %w", ErrNotSent, &Doubt{Reason: "the ledger went back"})
	for _, tc := range []struct {
		name     string
		before   []error // of each attempt; nil: it commits
		after    []error
		deadline time.Duration
		want     wallet.Code
		calls    int
		min, max time.Duration
	}{
		{"first try", nil, nil, time.Minute, wallet.OK, 1, 0, 0},
		{"third try", []error{unsent, lost}, nil, time.Minute, wallet.OK, 3, 150 * time.Millisecond, 190 * time.Millisecond},
		{"answer lost", nil, []error{lost}, time.Minute, wallet.Replayed, 2, 50 * time.Millisecond, 70 * time.Millisecond},
		{"never sent", []error{unsent, unsent, unsent, unsent}, nil, time.Minute, wallet.UpstreamUnavailable, 4, 350 * time.Millisecond, 410 * time.Millisecond},
		{"sent once", []error{unsent, lost, unsent, unsent}, nil, time.Minute, wallet.Uncertain, 4, 350 * time.Millisecond, 410 * time.Millisecond},
		{"a doubted ledger", []error{doubted}, nil, time.Minute, wallet.UpstreamUnavailable, 1, 0, 0},
		{"sent, and then a doubted ledger", []error{lost, doubted}, nil, time.Minute, wallet.Uncertain, 2, 50 * time.Millisecond, 70 * time.Millisecond},
		{"applied, and then a doubted ledger", []error{nil, doubted}, []error{lost}, time.Minute, wallet.Uncertain, 2, 50 * time.Millisecond, 70 * time.Millisecond},
		{"deadline", []error{unsent, unsent, unsent}, nil, 100 * time.Millisecond, wallet.UpstreamUnavailable, 2, 50 * time.Millisecond, 70 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, b *Breaker, live *config.Live) {
				bank, seen := newBank(), new(calls)
				bank.before = func(context.Context, []wallet.Payment) error { return scripted(tc.before, bank.calls) }
				bank.after = func([]wallet.Payment) error { return scripted(tc.after, bank.calls) }
				c := newTestCommitter(t, bank, b, live, CommitterOptions{Observer: seen})
				start := clock()
				r := c.Submit(payment(1, 1), live.Load(), start+int64(tc.deadline))
				took := time.Duration(clock() - start)
				if r.Code != tc.want || bank.calls != tc.calls || took < tc.min || took > tc.max {
					t.Errorf("%v after %d calls and %v", r.Code, bank.calls, took)
				}
				if seen.retries != tc.calls-1 || seen.batches != 1 {
					t.Errorf("observed %d retries, %d batches", seen.retries, seen.batches)
				}
				closeNow(t, c)
			})
		})
	}
}

func scripted(errs []error, call int) error {
	if call > len(errs) {
		return nil
	}
	return errs[call-1]
}

// Goal: a ledger that hangs costs an attempt its time-out and is told apart in metrics; an open
// breaker refuses for certain without a call. Method: a hanging ledger in a bubble.
func TestCommitterTimeoutAndBreaker(t *testing.T) {
	inBubble(t, func(l *config.Limits) { l.BreakerErrors = 4 }, func(t *testing.T, b *Breaker, live *config.Live) {
		bank, seen := newBank(), new(calls)
		bank.before = func(ctx context.Context, _ []wallet.Payment) error { <-ctx.Done(); return ctx.Err() }
		c := newTestCommitter(t, bank, b, live, CommitterOptions{Observer: seen})
		if r := c.Submit(payment(1, 1), live.Load(), soon()); r.Code != wallet.Uncertain {
			t.Fatalf("hanging ledger: %v", r.Code)
		}
		if b.State() != BreakerOpen || seen.outcomes[CallTimeout] != 4 {
			t.Fatalf("breaker %v, observed %v", b.State(), seen.outcomes)
		}
		if r := c.Submit(payment(1, 2), live.Load(), soon()); r.Code != wallet.UpstreamUnavailable || bank.calls != 4 {
			t.Fatalf("open breaker: %v, %d calls", r.Code, bank.calls)
		}
		if seen.outcomes[CallRejected] != 1 {
			t.Fatalf("observed %v", seen.outcomes)
		}
		closeNow(t, c)
	})
}

// Goal: refusals do not count against the ledger, but answers that cannot be understood do, and
// are not asked again. Method: thirty of each.
func TestCommitterFeedsBreaker(t *testing.T) {
	live := liveLimits(nil)
	b := newTestBreaker(live, clock)
	bank := newBank()
	c := newTestCommitter(t, bank, b, live, CommitterOptions{})
	poor := payment(1, 1)
	poor.Amount = wallet.Minor(13)
	for range 30 {
		if r := c.Submit(poor, live.Load(), soon()); r.Code != wallet.InsufficientFunds {
			t.Fatalf("refused: %v", r.Code)
		}
	}
	if b.State() != BreakerClosed {
		t.Fatal("refusals opened the breaker")
	}
	closeNow(t, c)

	c = newTestCommitter(t, garbling{bank}, b, live, CommitterOptions{})
	for range 20 {
		if r := c.Submit(poor, live.Load(), soon()); r.Code != wallet.Uncertain {
			t.Fatalf("garbled: %v", r.Code)
		}
	}
	if b.State() != BreakerOpen {
		t.Fatal("garbled answers did not open the breaker")
	}
	closeNow(t, c)
}

// Goal: a node that cannot read one row is well: a batch of which it answers some, and a read that it
// says is damaged, do not open the breaker, and are not tried again. Method: more of each than the
// breaker takes of failures.
func TestDamageIsNoFailure(t *testing.T) {
	live, bank := liveLimits(nil), newBank()
	b := newTestBreaker(live, clock)
	c := newTestCommitter(t, halfBlind{bank}, b, live, CommitterOptions{})
	for n := range uint64(30) {
		batch := &batch{payments: []wallet.Payment{*payment(1, 2*n+1), *payment(1, 2*n+2)}, results: make([]wallet.Result, 2)}
		err := c.caller.do(context.Background(), methodCommit, soon(), func(ctx context.Context) error { return c.attempt(ctx, batch) })
		if err != nil || batch.results[0].Code != wallet.OK || batch.results[1].Code != wallet.Uncertain {
			t.Fatalf("%v, %+v", err, batch.results)
		}
	}
	reads := 0
	for range 30 {
		err := c.caller.do(context.Background(), methodTransaction, soon(), func(context.Context) error {
			reads++
			return fmt.Errorf("a receipt: %w", wire.ErrDamaged)
		})
		if !errors.Is(err, wire.ErrDamaged) {
			t.Fatal(err)
		}
	}
	if b.State() != BreakerClosed || reads != 30 {
		t.Errorf("the breaker is %v after %d reads", b.State(), reads)
	}
	closeNow(t, c)
}

// halfBlind is a bank that cannot read what the last payment of a batch needs.
type halfBlind struct{ *bank }

func (h halfBlind) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	last := len(batch) - 1
	return h.bank.Commit(ctx, batch[:last], out[:last])
}

// garbling is a bank whose results nobody can read.
type garbling struct{ *bank }

func (garbling) Commit(context.Context, []wallet.Payment, []wallet.Result) error { return nil }

// Goal: a panic in a batch is reported, its payments are uncertain, nobody hangs, and the worker
// goes on, be it in the ledger or in OnResult. Method: panics on key.
func TestCommitterPanic(t *testing.T) {
	live := liveLimits(nil)
	bank := newBank()
	bank.before = func(_ context.Context, batch []wallet.Payment) error {
		if batch[0].Nonce == 2 {
			panic("in the ledger")
		}
		return nil
	}
	var seen []any
	c := newTestCommitter(t, bank, newTestBreaker(live, clock), live, CommitterOptions{
		Workers: 1,
		OnPanic: func(v any, _ []byte) { seen = append(seen, v) },
		OnResult: func(t *wallet.Payment, _ *wallet.Result, _ int64) {
			if t.Nonce == 3 {
				panic("in OnResult")
			}
		},
	})
	for n, want := range []wallet.Code{1: wallet.OK, 2: wallet.Uncertain, 3: wallet.Uncertain, 4: wallet.OK} {
		if n == 0 {
			continue
		}
		if r := c.Submit(payment(1, uint64(n)), live.Load(), soon()); r.Code != want {
			t.Errorf("payment %d: %v, want %v", n, r.Code, want)
		}
	}
	closeNow(t, c)
	if len(seen) != 2 || seen[0] != "in the ledger" || seen[1] != "in OnResult" {
		t.Fatalf("reported %v", seen)
	}
}

// Goal: Close runs what waits, refuses for certain what it has no time for and what comes later,
// and says what still runs. Method: a blocked ledger in a bubble.
func TestCommitterClose(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *Breaker, live *config.Live) {
		bank, gate := newBank(), make(chan struct{})
		bank.before = func(context.Context, []wallet.Payment) error { <-gate; return nil }
		c := newTestCommitter(t, bank, b, live, CommitterOptions{Workers: 1})
		var wg sync.WaitGroup
		results := make([]wallet.Code, 3)
		for i := range results {
			wg.Go(func() { results[i] = c.Submit(payment(i, 1), live.Load(), clock()+int64(time.Hour)).Code })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Close with a batch that hangs: %v", err)
		}
		synctest.Wait()
		if results[1] != wallet.RetryLater || results[2] != wallet.RetryLater {
			t.Fatalf("results %v", results)
		}
		if r := c.Submit(payment(9, 1), live.Load(), soon()); r.Code != wallet.RetryLater {
			t.Fatalf("after Close: %v", r.Code)
		}
		close(gate)
		wg.Wait()
		closeNow(t, c)
		if results[0] != wallet.OK || len(bank.applied) != 1 {
			t.Fatalf("results %v, %d applied", results, len(bank.applied))
		}
	})
}

// Goal: bad options are refused, and a pool that was closed under a Submit refuses for certain.
func TestCommitterOptions(t *testing.T) {
	live := liveLimits(nil)
	if _, err := NewCommitter(newBank(), nil, live, CommitterOptions{}); err == nil {
		t.Fatal("no workers")
	}
	c := newTestCommitter(t, newBank(), newTestBreaker(live, clock), live, CommitterOptions{})
	c.pool.Release()
	if r := c.Submit(payment(1, 1), live.Load(), soon()); r.Code != wallet.RetryLater || c.Running() != 0 {
		t.Fatalf("%v, %d running", r.Code, c.Running())
	}
	closeNow(t, c)
}

// Goal: under random failures, deadlines, concurrency, duplicates and queue bounds, each Submit
// has one result, it is OK only if the ledger applied the payment and a refusal only if it did
// not, and every payment that reached the ledger was learned of before its client was answered.
// Method: rapid draws a scenario, a bubble runs it, the bank's books are compared afterwards.
func TestCommitterModel(t *testing.T) {
	live := liveLimits(nil)
	b := newTestBreaker(live, clock)
	rapid.Check(t, func(rt *rapid.T) {
		l := testLimits()
		l.Queue = rapid.IntRange(0, 8).Draw(rt, "queue")
		l.BatchMax = rapid.IntRange(1, 5).Draw(rt, "batch")
		l.BreakerErrors = 1 << 20
		live.Store(&l)
		workers := rapid.IntRange(1, 3).Draw(rt, "workers")
		fate := rapid.SliceOfN(rapid.IntRange(0, 5), 40, 40).Draw(rt, "fate")
		type plan struct{ who, start, patience int }
		plans := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) plan {
			return plan{
				rapid.IntRange(0, 20).Draw(rt, "who"), rapid.IntRange(0, 200).Draw(rt, "start"),
				rapid.IntRange(1, 600).Draw(rt, "patience"),
			}
		}), 1, 40).Draw(rt, "plans")

		synctest.Test(t, func(t *testing.T) {
			bank := newBank()
			bank.before = func(ctx context.Context, _ []wallet.Payment) error {
				bank.mu.Lock()
				f := fate[bank.calls%len(fate)]
				bank.mu.Unlock()
				switch f {
				case 0:
					return ErrNotSent
				case 1:
					<-ctx.Done()
					return ctx.Err()
				case 2:
					time.Sleep(100 * time.Millisecond)
				}
				return nil
			}
			bank.after = func([]wallet.Payment) error {
				bank.mu.Lock()
				defer bank.mu.Unlock()
				if fate[(bank.calls+7)%len(fate)] == 3 {
					return errors.New("answer lost")
				}
				return nil
			}
			var mu sync.Mutex
			learned := map[wallet.IdemKey]bool{}
			c := newTestCommitter(t, bank, b, live, CommitterOptions{
				Workers: workers,
				OnResult: func(t *wallet.Payment, r *wallet.Result, _ int64) {
					mu.Lock()
					learned[t.Idem] = learned[t.Idem] || r.Code.Outcome() == wallet.Applied
					mu.Unlock()
				},
			})
			results := make([]wallet.Result, len(plans))
			var wg sync.WaitGroup
			for i, p := range plans {
				wg.Go(func() {
					time.Sleep(time.Duration(p.start) * time.Millisecond)
					pay := payment(p.who, 1)
					results[i] = c.Submit(pay, live.Load(), clock()+int64(p.patience)*int64(time.Millisecond))
					mu.Lock()
					if code := results[i].Code; code.Outcome() == wallet.Applied && !learned[pay.Idem] {
						rt.Errorf("answered %v before it was learned", code)
					}
					mu.Unlock()
				})
			}
			wg.Wait()
			closeNow(t, c)
			firsts := map[int]int{}
			said := map[int]bool{}
			for i, p := range plans {
				switch r := results[i]; r.Code {
				case wallet.OK:
					firsts[p.who]++
					said[p.who] = true
				case wallet.Replayed:
					said[p.who] = true
				case wallet.Uncertain:
					said[p.who] = true // may have been applied
				case wallet.Busy, wallet.UpstreamUnavailable:
				default:
					rt.Fatalf("result %v", r.Code)
				}
			}
			for i, p := range plans {
				pay := payment(p.who, 1)
				r, applied := bank.applied[pay.Holder().String()+"/"+pay.Idem.String()]
				if results[i].Code.Outcome() == wallet.Applied && (!applied || r.Seq != results[i].Seq) {
					rt.Fatalf("payment %d: %v, but not in the books", p.who, results[i].Code)
				}
				if applied && !said[p.who] {
					rt.Fatalf("payment %d is in the books, and all of its clients were refused", p.who)
				}
				if firsts[p.who] > 1 {
					rt.Fatalf("payment %d was newly applied %d times", p.who, firsts[p.who])
				}
			}
		})
	})
}

// Goal: withdrawing and taking race without a lost or doubled answer. Method: deadlines that fall
// on the ledger's pace, in real time under the race detector; every refusal is checked against the
// books.
func TestCommitterWithdrawalRace(t *testing.T) {
	live := liveLimits(nil)
	bank := newBank()
	bank.before = func(context.Context, []wallet.Payment) error {
		for end := clock() + 20_000; clock() < end; {
		}
		return nil
	}
	c := newTestCommitter(t, bank, newTestBreaker(live, clock), live, CommitterOptions{})
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for n := uint64(1); n <= 200; n++ {
				p := payment(g, n)
				r := c.Submit(p, live.Load(), clock()+int64(n%50)*2_000)
				bank.mu.Lock()
				_, applied := bank.applied[p.Holder().String()+"/"+p.Idem.String()]
				bank.mu.Unlock()
				if (r.Code == wallet.OK && !applied) || (r.Code.Outcome() == wallet.Refused && applied) {
					t.Errorf("%v, in the books: %v", r.Code, applied)
				}
			}
		})
	}
	wg.Wait()
	closeNow(t, c)
}

// Goal: a payment costs less than one allocation on its way through, where batches are shared; the
// call's context is all that is allocated. Method: rounds of 64 clients against a ledger that
// answers the first once the others wait, so that a round is two calls.
func TestCommitterAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const clients = 64
	live := liveLimits(nil)
	gate := gated{make(chan struct{}), new(atomic.Int64)}
	c := newTestCommitter(t, gate, newTestBreaker(live, clock), live, CommitterOptions{Workers: 1})
	var start [clients]chan struct{}
	var round, stopped sync.WaitGroup
	for i := range start {
		start[i] = make(chan struct{})
		pay := payment(i, 1)
		stopped.Go(func() {
			for range start[i] {
				c.Submit(pay, live.Load(), soon())
				round.Done()
			}
		})
	}
	n := testing.AllocsPerRun(200, func() {
		round.Add(clients)
		for i := range start {
			start[i] <- struct{}{}
		}
		for c.Depth()+int(gate.held.Load()) < clients {
			runtime.Gosched()
		}
		rest := c.Depth() > 0 // the first batch is some of them, the next all others
		gate.open <- struct{}{}
		if rest {
			gate.open <- struct{}{}
		}
		round.Wait()
	})
	for i := range start {
		close(start[i])
	}
	stopped.Wait()
	closeNow(t, c)
	t.Logf("%.2f allocations a payment", n/clients)
	if n > clients {
		t.Fatalf("%v allocations for %d payments", n, clients)
	}
}

// instant is a ledger that applies everything at once.
type instant struct{ *bank }

func (instant) Commit(_ context.Context, _ []wallet.Payment, out []wallet.Result) error {
	for i := range out {
		out[i] = wallet.Result{Code: wallet.OK, Seq: 1}
	}
	return nil
}

// gated is an instant ledger that answers each call on a signal.
type gated struct {
	open chan struct{}
	held *atomic.Int64 // payments that wait for it
}

func (g gated) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	g.held.Add(int64(len(batch)))
	<-g.open
	g.held.Add(-int64(len(batch)))
	return instant{}.Commit(ctx, batch, out)
}

func (gated) Lookup(context.Context, []wallet.BalanceKey, []wallet.Balance) error { return nil }

func (gated) Transaction(context.Context, wallet.TxID) (wallet.Receipt, uint64, error) {
	return wallet.Receipt{}, 0, wallet.NotFound
}

func (gated) Payment(context.Context, wallet.Account, wallet.IdemKey) (wallet.Receipt, uint64, error) {
	return wallet.Receipt{}, 0, wallet.NotFound
}

func (gated) Watch(context.Context, uint64, func(wallet.Change)) error { return nil }

// BenchmarkSubmit is the committer's own cost of a payment, against a ledger that answers at once.
func BenchmarkSubmit(b *testing.B) {
	live := liveLimits(nil)
	c := newTestCommitter(b, instant{}, newTestBreaker(live, clock), live, CommitterOptions{})
	pay := payment(1, 1)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r := c.Submit(pay, live.Load(), soon()); r.Code != wallet.OK {
				b.Error(r.Code)
			}
		}
	})
	closeNow(b, c)
}
