package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"svc-wallet/config"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// beating is a bank whose stream has heartbeats, and which can be made to stall or break.
type beating struct {
	*bank
	mu      sync.Mutex
	stalled bool
	disk    bool
	cut     context.CancelCauseFunc
	froms   []uint64
}

func (k *beating) stall(on bool) {
	k.mu.Lock()
	k.stalled = on
	k.mu.Unlock()
}

func (k *beating) diskStall(on bool) {
	k.mu.Lock()
	k.disk = on
	k.mu.Unlock()
}

func (k *beating) WatchBeat(
	ctx context.Context, from uint64, on func(wallet.Change), beat func(Beat), tick func(time.Duration),
) error {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	k.mu.Lock()
	k.cut = cut
	k.froms = append(k.froms, from)
	k.mu.Unlock()
	k.bank.mu.Lock()
	k.on = on
	on(wallet.Change{Seq: k.seq})
	k.bank.mu.Unlock()
	defer func() {
		k.bank.mu.Lock()
		k.on = nil
		k.bank.mu.Unlock()
	}()
	clk := time.NewTicker(tickEvery)
	defer clk.Stop()
	for unanswered := 0; ; unanswered++ {
		tick(time.Duration(unanswered) * tickEvery)
		k.mu.Lock()
		stalled, disk := k.stalled, k.disk
		k.mu.Unlock()
		if !stalled {
			k.bank.mu.Lock()
			beat(Beat{AsOf: clock(), Seq: k.seq, ConservationOK: 7, ConservationFailed: 1, Stalled: disk})
			k.bank.mu.Unlock()
			unanswered = -1
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-clk.C:
		}
	}
}

// withReader runs f with a running reader in a bubble.
func withReader(
	t *testing.T, change func(*config.Limits), f func(t *testing.T, k *beating, r *Reader, live *config.Live),
) {
	t.Helper()
	inBubble(t, change, func(t *testing.T, b *Breaker, live *config.Live) {
		k := &beating{bank: newBank()}
		r := NewReader(k, b, live, ReaderOptions{Shards: 4, Entries: 100, MaxStale: 30 * time.Second, Now: clock})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		synctest.Wait()
		f(t, k, r, live)
		cancel()
		wg.Wait()
	})
}

func (k *bank) pay(i int, n uint64) wallet.Result {
	var out [1]wallet.Result
	_ = k.Commit(context.Background(), []wallet.Payment{*payment(i, n)}, out[:])
	return out[0]
}

func ronOf(i int) wallet.BalanceKey { return wallet.BalanceKey{Account: account(i), Asset: ron} }

func mustRead(t *testing.T, r *Reader, i int, minSeq uint64) (wallet.Balance, time.Duration) {
	t.Helper()
	b, asOf, code := r.Balance(ronOf(i), r.live.Load(), minSeq, wallet.Origin{}, soon())
	if code != wallet.OK {
		t.Fatalf("balance: %v", code)
	}
	return b, time.Duration(clock() - asOf)
}

// Goal: while heartbeats arrive one lookup serves a balance for ever, changes included, never older
// than a tick; the counters say how. Method: a minute of reads in a bubble.
func TestReaderLease(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		for n := range uint64(600) {
			if n%10 == 0 {
				k.pay(1, n+1)
			}
			b, age := mustRead(t, r, 1, 0)
			if b.Amount != wallet.Minor(n/10+1) || age > tickEvery {
				t.Fatalf("read %d: %v, %v old", n, b.Amount, age)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if k.lookups != 1 || r.CacheCount(cacheMiss) != 1 || r.CacheCount(cacheHit) != 599 {
			t.Fatalf("%d lookups, %d misses, %d hits", k.lookups, r.CacheCount(cacheMiss), r.CacheCount(cacheHit))
		}
		if ok, failed := r.Conservation(); !r.Healthy() || ok != 7 || failed != 1 || r.Seq() != 60 {
			t.Fatalf("healthy %v, conservation %d/%d, version %d", r.Healthy(), ok, failed, r.Seq())
		}
	})
}

// Goal: a balance that cannot be read in the node's store fails alone. Method: in a bubble, lookups are
// held until ten balances wait, which then go as one call; the call of any that holds the damaged one
// fails.
func TestDamagedBalanceFailsAlone(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		held := make(chan struct{})
		k.lookup = func(_ context.Context, keys []wallet.BalanceKey) error {
			<-held
			if slices.Contains(keys, ronOf(3)) {
				return fmt.Errorf("a row: %w", wire.ErrDamaged)
			}
			return nil
		}
		var reads sync.WaitGroup
		for i := range lookupWorkers + 10 {
			reads.Go(func() {
				want := wallet.OK
				if i == 3 {
					want = wallet.Unreadable
				}
				if _, _, code := r.Balance(ronOf(i), r.live.Load(), 0, wallet.Origin{}, soon()); code != want {
					t.Errorf("balance %d: %v, want %v", i, code, want)
				}
			})
		}
		synctest.Wait()
		close(held)
		reads.Wait()
	})
}

// Goal: a read is judged by the limits that its exchange brought, whatever is in force by then.
// Method: in a bubble, a figure that is fresh enough for the limits in force and not for others; and
// a queue that has no room by others.
func TestReaderSeesTheExchangesLimits(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, live *config.Live) {
		mustRead(t, r, 1, 0)
		time.Sleep(tickEvery / 2)
		strict := *live.Load()
		strict.StalenessWindow = tickEvery / 4
		if _, asOf, code := r.Balance(ronOf(1), &strict, 0, wallet.Origin{}, soon()); code != wallet.OK || asOf != clock() || k.lookups != 2 {
			t.Errorf("%v, as of %v ago, %d lookups", code, time.Duration(clock()-asOf), k.lookups)
		}
		strict.Queue = 0
		held := make(chan struct{})
		k.bank.mu.Lock()
		k.lookup = func(context.Context, []wallet.BalanceKey) error { <-held; return nil }
		k.bank.mu.Unlock()
		var reads sync.WaitGroup
		for i := range lookupWorkers { // who finds a worker waits in no queue
			reads.Go(func() {
				if _, _, code := r.Balance(ronOf(10+i), &strict, 0, wallet.Origin{}, soon()); code != wallet.OK {
					t.Errorf("with a worker: %v", code)
				}
			})
		}
		synctest.Wait()
		if _, _, code := r.Balance(ronOf(2), &strict, 0, wallet.Origin{}, soon()); code != wallet.Busy {
			t.Errorf("without a queue: %v", code)
		}
		close(held)
		reads.Wait()
		mustRead(t, r, 2, 0)
	})
}

// Goal: a stall is noticed within 200 ms; reads then go on at once from the cache with their true
// age up to MaxStale, what is not cached is refused, and recovery is noticed. Method: heartbeats
// and lookups stop in a bubble.
func TestReaderStall(t *testing.T) {
	withReader(t, func(l *config.Limits) { l.BreakerErrors = 1000 }, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		mustRead(t, r, 1, 0)
		k.bank.mu.Lock()
		k.lookup = func(ctx context.Context, _ []wallet.BalanceKey) error { <-ctx.Done(); return ctx.Err() }
		k.bank.mu.Unlock()
		k.stall(true)
		start := clock()
		for r.Healthy() {
			time.Sleep(time.Millisecond)
			if clock()-start > int64(200*time.Millisecond) {
				t.Fatal("the stall was not noticed in 200 ms")
			}
		}
		for range 28 {
			before := clock()
			if _, age := mustRead(t, r, 1, 0); age < time.Duration(before-start) || clock() != before {
				t.Fatalf("%v old after a stall of %v, in %v", age, time.Duration(before-start), time.Duration(clock()-before))
			}
			time.Sleep(time.Second)
		}
		if r.CacheCount(cacheStale) != 27 { // the first was still within the window
			t.Fatalf("%d stale reads", r.CacheCount(cacheStale))
		}
		if _, _, code := r.Balance(ronOf(2), r.live.Load(), 0, wallet.Origin{}, soon()); code != wallet.UpstreamUnavailable {
			t.Fatalf("not cached: %v", code)
		}
		time.Sleep(10 * time.Second)
		if _, _, code := r.Balance(ronOf(1), r.live.Load(), 0, wallet.Origin{}, soon()); code != wallet.UpstreamUnavailable {
			t.Fatalf("older than MaxStale: %v", code)
		}
		k.stall(false)
		time.Sleep(2 * tickEvery)
		if _, age := mustRead(t, r, 1, 0); !r.Healthy() || age > tickEvery {
			t.Fatalf("after the stall: healthy %v, %v old", r.Healthy(), age)
		}
	})
}

// Goal: a lookup that fails while heartbeats arrive falls back to the cache, with its true age.
// Method: a stream that does not vouch for the entry, and a ledger that refuses lookups.
func TestReaderFallsBack(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *Breaker, live *config.Live) {
		k := newBank()
		r := NewReader(k, b, live, ReaderOptions{Shards: 1, Entries: 10, MaxStale: 30 * time.Second, Now: clock})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		synctest.Wait()
		if !r.Healthy() {
			t.Fatal("a ledger without heartbeats is healthy while its stream is up")
		}
		mustRead(t, r, 1, 0)
		time.Sleep(time.Second)
		k.lookup = func(context.Context, []wallet.BalanceKey) error { return ErrNotSent }
		if _, age := mustRead(t, r, 1, 0); age < time.Second || r.CacheCount(cacheStale) != 1 {
			t.Fatalf("%v old, %d stale", age, r.CacheCount(cacheStale))
		}
		if _, _, code := r.Balance(ronOf(1), r.live.Load(), 5, wallet.Origin{}, soon()); code != wallet.UpstreamUnavailable {
			t.Fatalf("a version that is not held: %v", code)
		}
		cancel()
		wg.Wait()
		if _, _, code := r.Balance(ronOf(7), r.live.Load(), 0, wallet.Origin{}, soon()); code != wallet.RetryLater {
			t.Fatalf("after Run: %v", code)
		}
	})
}

// Goal: where only the stream is broken, reads are as fresh as ever; where the node is gone, they
// come from the cache soon, with their true age. Method: a stream that breaks for good, over a ledger
// that first answers lookups and then does not.
func TestReaderWithoutStream(t *testing.T) {
	inBubble(t, func(l *config.Limits) { l.BreakerErrors = 1000 }, func(t *testing.T, b *Breaker, live *config.Live) {
		k := &streamless{bank: newBank(), broken: make(chan struct{})}
		k.pay(1, 1)
		r := NewReader(k, b, live, ReaderOptions{Shards: 1, Entries: 10, MaxStale: 30 * time.Second, Now: clock})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		synctest.Wait()
		mustRead(t, r, 1, 0)
		close(k.broken)
		for n := range uint64(5) {
			k.pay(1, n+2)
			time.Sleep(time.Second)
			if b, age := mustRead(t, r, 1, 0); b.Amount != wallet.Minor(n+2) || age > 250*time.Millisecond {
				t.Fatalf("%v, %v old", b.Amount, age)
			}
		}
		k.lookup = func(ctx context.Context, _ []wallet.BalanceKey) error { <-ctx.Done(); return ctx.Err() }
		time.Sleep(time.Second)
		before := clock()
		if _, age := mustRead(t, r, 1, 0); age < time.Second || clock()-before > int64(brief) {
			t.Fatalf("%v old, after %v", age, time.Duration(clock()-before))
		}
		cancel()
		wg.Wait()
	})
}

// streamless is a bank whose stream tells its position and nothing more, until it is broken.
type streamless struct {
	*bank
	broken chan struct{}
}

func (k *streamless) Watch(ctx context.Context, _ uint64, on func(wallet.Change)) error {
	select {
	case <-k.broken:
	default:
		on(wallet.Change{Seq: 1})
	}
	select {
	case <-k.broken:
	case <-ctx.Done():
	}
	return errors.New("no stream")
}

// Goal: readers of one balance share one lookup, lookups of many share a call, their origins go
// along, and the queue's bound holds. Method: a gated ledger in a bubble.
func TestReaderCoalesces(t *testing.T) {
	withReader(t, func(l *config.Limits) { l.Queue = 10 }, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		gate := make(chan struct{})
		var calls []int
		k.bank.mu.Lock()
		k.lookup = func(_ context.Context, keys []wallet.BalanceKey) error {
			k.bank.mu.Lock()
			calls = append(calls, len(keys))
			k.bank.mu.Unlock()
			<-gate
			return nil
		}
		k.bank.mu.Unlock()
		var wg sync.WaitGroup
		origin := wallet.Origin{Corr: wallet.Must(wallet.ParseCorrID("corr-1"))}
		read := func(i int) {
			wg.Go(func() {
				if _, _, code := r.Balance(ronOf(i), r.live.Load(), 0, origin, soon()); code != wallet.OK {
					t.Errorf("balance %d: %v", i, code)
				}
			})
			synctest.Wait()
		}
		for i := range lookupWorkers {
			read(i)
		}
		for range 5 {
			read(0)
		}
		for i := range 10 {
			read(10 + i)
		}
		if _, _, code := r.Balance(ronOf(99), r.live.Load(), 0, origin, soon()); code != wallet.Busy {
			t.Fatalf("an eleventh: %v", code)
		}
		close(gate)
		wg.Wait()
		if len(calls) != lookupWorkers+1 || calls[lookupWorkers] != 10 {
			t.Fatalf("calls of %v keys", calls)
		}
		if r.CacheCount(cacheMiss) != lookupWorkers+10 || r.CacheCount(cacheCoalesced) != 5 || r.CacheCount(cacheFailed) != 1 {
			t.Fatalf("%d misses, %d coalesced", r.CacheCount(cacheMiss), r.CacheCount(cacheCoalesced))
		}
		if len(k.looked) != lookupWorkers+10 || k.looked[0] != origin {
			t.Fatalf("origins %v", k.looked)
		}
	})
}

// Goal: a read with a least version is answered from it or later: from the cache if that is known
// to hold it, else by looking until it does, else retryable at the deadline. A reader whose time
// runs out is refused. Method: versions that the ledger reaches later, in a bubble.
func TestReaderMinSeq(t *testing.T) {
	withReader(t, func(l *config.Limits) { l.LedgerTimeout = time.Minute }, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		mustRead(t, r, 1, 0)
		k.pay(2, 1) // another balance, but the stream says that ours holds it too
		if b, _ := mustRead(t, r, 1, 1); b.Seq != 1 || r.CacheCount(cacheHit) != 1 {
			t.Fatalf("version %d, %d hits", b.Seq, r.CacheCount(cacheHit))
		}
		go func() {
			time.Sleep(100 * time.Millisecond)
			k.pay(1, 2)
		}()
		start := clock()
		if b, _ := mustRead(t, r, 1, 2); b.Seq != 2 || b.Amount != wallet.Minor(1) {
			t.Fatalf("version %d, amount %v", b.Seq, b.Amount)
		}
		if waited := clock() - start; waited > int64(200*time.Millisecond) {
			t.Fatalf("waited %v", time.Duration(waited))
		}
		start = clock()
		if _, _, code := r.Balance(ronOf(1), r.live.Load(), 3, wallet.Origin{}, start+int64(time.Second)); code != wallet.RetryLater {
			t.Fatalf("a version that does not come: %v", code)
		}
		k.bank.mu.Lock()
		k.lookup = func(ctx context.Context, _ []wallet.BalanceKey) error { <-ctx.Done(); return ctx.Err() }
		k.bank.mu.Unlock()
		if _, _, code := r.Balance(ronOf(3), r.live.Load(), 0, wallet.Origin{}, clock()+int64(time.Second)); code != wallet.UpstreamUnavailable {
			t.Fatalf("a lookup that hangs: %v", code)
		}
	})
}

// Goal: a read that asks for a version which the ledger has not reached holds its place only where
// that may come, for a second at most, and few do; it is told where the ledger is. Method: versions
// that cannot come, that come late and that do not come, asked for by all three reads, in a bubble.
func TestReadThatOutranTheLedger(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		k.pay(1, 1)
		synctest.Wait()
		const patience = int64(5 * time.Second)
		const version = 1
		looked := func() int {
			k.bank.mu.Lock()
			defer k.bank.mu.Unlock()
			return k.lookups
		}
		reads := map[string]func(minSeq uint64) (uint64, wallet.Code){
			"cached": func(minSeq uint64) (uint64, wallet.Code) {
				b, _, code := r.Balance(ronOf(1), r.live.Load(), minSeq, wallet.Origin{}, clock()+patience)
				return b.Seq, code
			},
			"looked up": func(minSeq uint64) (uint64, wallet.Code) {
				b, _, code := r.Balance(ronOf(9), r.live.Load(), minSeq, wallet.Origin{}, clock()+patience)
				return b.Seq, code
			},
			"by id": func(minSeq uint64) (uint64, wallet.Code) {
				_, seq, code := r.Transaction(wallet.TxID{1}, r.live.Load(), minSeq, wallet.Origin{}, clock()+patience)
				return seq, code
			},
			"by key": func(minSeq uint64) (uint64, wallet.Code) {
				_, seq, code := r.Payment(account(1), payment(1, 1).Idem, r.live.Load(), minSeq, wallet.Origin{}, clock()+patience)
				return seq, code
			},
		}
		if _, code := reads["cached"](0); code != wallet.OK {
			t.Fatal(code)
		}
		for name, read := range reads {
			for _, c := range []struct {
				ahead uint64
				waits time.Duration
			}{{2 * outrunBatch, 0}, {1 << 63, 0}, {5, outrunWait}} {
				start, calls := clock(), looked()
				seq, code := read(version + c.ahead)
				waited := time.Duration(clock() - start)
				if code != wallet.RetryLater || seq != version || waited > c.waits || waited < c.waits-again.Most {
					t.Errorf("%s, %d ahead: %v at version %d after %v, want %d after %v", name, c.ahead, code, seq, waited, version, c.waits)
				}
				if c.waits == 0 && looked() != calls {
					t.Errorf("%s, %d ahead: %d calls of the ledger for what cannot be", name, c.ahead, looked()-calls)
				}
			}
		}

		var waiting sync.WaitGroup
		var early atomic.Int64
		start := clock()
		for range 3 * outrunMost {
			waiting.Go(func() {
				if _, code := reads["by id"](version + 5); code == wallet.RetryLater && clock() == start {
					early.Add(1)
				}
			})
		}
		waiting.Wait()
		if early.Load() != 2*outrunMost {
			t.Errorf("%d reads did not wait, want %d", early.Load(), 2*outrunMost)
		}
		if n := r.outrun.Load(); n != 0 {
			t.Errorf("%d reads are counted as waiting", n)
		}
	})
}

// Goal: reads that wait for a version leave three quarters of the places in flight to others, by the
// limits that their exchange brought. Method: in a bubble, many wait under limits of few places; those
// that are answered at the same instant did not wait.
func TestReadsThatOutranLeaveRoom(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, live *config.Live) {
		k.pay(1, 1)
		mustRead(t, r, 1, 1)
		for _, c := range []struct{ places, room int }{{32, 8}, {4, 1}, {1, 1}, {100_000, outrunMost}} {
			few := *live.Load()
			few.InFlight = c.places
			var waiting sync.WaitGroup
			var waited atomic.Int64
			start := clock()
			for i := range 2 * outrunMost {
				waiting.Go(func() {
					var code wallet.Code
					if i%2 == 0 {
						_, _, code = r.Transaction(wallet.TxID{1}, &few, 3, wallet.Origin{}, soon())
					} else {
						_, _, code = r.Balance(ronOf(1), &few, 3, wallet.Origin{}, soon())
					}
					if code != wallet.RetryLater {
						t.Errorf("%d places: %v", c.places, code)
					}
					if clock() > start {
						waited.Add(1)
					}
				})
			}
			waiting.Wait()
			if waited.Load() != int64(c.room) {
				t.Errorf("%d places: %d reads waited, want %d", c.places, waited.Load(), c.room)
			}
		}
	})
}

// Goal: a version is waited for if it can be on its way: a batch above the stream after a rest, and as
// much more as the stream passed in the last second; nothing of it is left after a rest. An empty ledger
// is no exception. Method: in a bubble, reads above a ledger that is empty, moves by steps and rests.
func TestReadWaitsForWhatIsOnItsWay(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, live *config.Live) {
		check := func(when string, ahead uint64, waits bool) {
			start, seq := clock(), r.Seq()
			if _, at, code := r.Transaction(wallet.TxID{1}, live.Load(), seq+ahead, wallet.Origin{}, soon()); code != wallet.RetryLater || at != seq {
				t.Errorf("%s, %d ahead: %v at version %d", when, ahead, code, at)
			}
			if (clock() > start) != waits {
				t.Errorf("%s, %d ahead: waited %v", when, ahead, time.Duration(clock()-start))
			}
		}
		time.Sleep(tickEvery)
		check("empty", 1<<63, false)
		check("empty", outrunBatch+1, false)
		check("empty", outrunBatch, true)
		const step, steps = 1000, 20
		for range steps {
			k.bank.mu.Lock()
			k.seq += step
			k.bank.mu.Unlock()
			time.Sleep(2 * tickEvery)
		}
		const most = outrunBatch + 2*step*steps // the pace of a second begun, and of the one before
		check("moving", most+1, false)
		check("moving", outrunBatch+step*steps/2, true)
		time.Sleep(2 * outrunWait)
		check("at rest", outrunBatch+1, false)
	})
}

// hanging makes every call for a read hang until it is given up.
func (k *beating) hanging() {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	k.bank.mu.Lock()
	k.lookup = func(ctx context.Context, _ []wallet.BalanceKey) error { return hang(ctx) }
	k.find = hang
	k.bank.mu.Unlock()
}

// Goal: once a stall or a loss of the ledger is known, no read waits out its own time: what is in memory
// is served at once with its true age, all else is refused, at once in a stall, and soon where the ledger
// may still answer. Method: in a bubble, calls hang; reads begin before anything is known, all answers
// are timed by when it is.
func TestReadsAreGivenUpWhenTheLedgerIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		lose  func(k *beating)
		grace time.Duration
	}{
		"stalled":      {func(k *beating) { k.stall(true) }, 0},
		"disk stalled": {func(k *beating) { k.diskStall(true) }, brief},
		"gone":         {func(k *beating) { k.cut(errors.New("connection lost")) }, brief},
	} {
		t.Run(name, func(t *testing.T) {
			few := func(l *config.Limits) { l.BreakerErrors, l.StalenessWindow = 1000, time.Nanosecond }
			withReader(t, few, func(t *testing.T, k *beating, r *Reader, live *config.Live) {
				mustRead(t, r, 1, 0)
				time.Sleep(tickEvery / 2)
				k.hanging()
				var known atomic.Int64
				r.opts.OnTurn = func() {
					if !r.Healthy() {
						known.CompareAndSwap(0, clock())
					}
				}
				var reads sync.WaitGroup
				read := func(what string, want wallet.Code, grace time.Duration, ask func() wallet.Code) {
					reads.Go(func() {
						code, end := ask(), clock()
						time.Sleep(time.Nanosecond) // the one who told it notes when
						if late := time.Duration(end - known.Load()); code != want || late < 0 || late > grace {
							t.Errorf("%s: %v %v after it was known", what, code, late)
						}
					})
				}
				balance := func(i int) func() wallet.Code {
					return func() wallet.Code {
						_, _, code := r.Balance(ronOf(i), live.Load(), 0, wallet.Origin{}, soon())
						return code
					}
				}
				read("held", wallet.OK, 0, balance(1))
				read("not held", wallet.UpstreamUnavailable, c.grace, balance(2))
				read("by id", wallet.UpstreamUnavailable, c.grace, func() wallet.Code {
					_, _, code := r.Transaction(wallet.TxID{1}, live.Load(), 0, wallet.Origin{}, soon())
					return code
				})
				read("ahead", wallet.RetryLater, 0, func() wallet.Code {
					_, _, code := r.Payment(account(1), payment(1, 1).Idem, live.Load(), 1, wallet.Origin{}, soon())
					return code
				})
				synctest.Wait()
				c.lose(k)
				reads.Wait()
				if n := r.CacheCount(cacheStale); n != 1 {
					t.Errorf("%d reads came from memory as stale", n)
				}
			})
		})
	}
}

// Goal: while the ledger is known to be stalled, reads of what is not in memory take no time, and so no
// places in flight, and no call; afterwards they are answered. Method: in a bubble, many reads of all
// kinds during a stall.
func TestReadsOfAStalledLedgerTakeNoTime(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, live *config.Live) {
		k.pay(1, 1)
		mustRead(t, r, 1, 0)
		k.hanging()
		k.stall(true)
		for r.Healthy() {
			time.Sleep(tickEvery)
		}
		start, calls := clock(), k.lookups
		for i := range 300 {
			_, _, unseen := r.Balance(ronOf(10+i), live.Load(), 0, wallet.Origin{}, soon())
			_, _, ahead := r.Balance(ronOf(1), live.Load(), 5, wallet.Origin{}, soon())
			_, _, byID := r.Transaction(wallet.TxID{1}, live.Load(), 0, wallet.Origin{}, soon())
			_, _, byKey := r.Payment(account(1), payment(1, 1).Idem, live.Load(), 5, wallet.Origin{}, soon())
			for _, code := range []wallet.Code{unseen, ahead, byID, byKey} {
				if code != wallet.UpstreamUnavailable {
					t.Fatalf("read %d: %v, %v, %v, %v", i, unseen, ahead, byID, byKey)
				}
			}
		}
		if clock() != start || k.lookups != calls {
			t.Errorf("the reads took %v and %d calls", time.Duration(clock()-start), k.lookups-calls)
		}
		k.bank.mu.Lock()
		k.lookup = nil
		k.bank.mu.Unlock()
		k.stall(false)
		time.Sleep(2 * tickEvery)
		mustRead(t, r, 2, 0)
	})
}

// Goal: a client reads its own write, replayed or not, cached before or not, though the stream lags
// behind. Method: results are learned of without the stream.
func TestReaderLearns(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *Breaker, live *config.Live) {
		k := newBank()
		r := NewReader(k, b, live, ReaderOptions{Shards: 1, Entries: 10, MaxStale: time.Minute, Now: clock})
		mustRead(t, r, 1, 0)
		pay := payment(1, 1)
		res := k.pay(1, 1)
		r.Learn(pay, &res, clock())
		if b, _ := mustRead(t, r, 1, 0); b.Amount != wallet.Minor(1) || b.Seq != 1 {
			t.Fatalf("own write: %v at %d", b.Amount, b.Seq)
		}
		k.pay(1, 2)
		replay := k.pay(1, 2)
		r.Learn(payment(1, 2), &replay, clock())
		if b, _ := mustRead(t, r, 1, 0); replay.Code != wallet.Replayed || b.Amount != wallet.Minor(2) {
			t.Fatalf("own replayed write: %v", b.Amount)
		}
		burn := payment(1, 3)
		burn.Op, burn.From, burn.To = wallet.Burn, account(1), wallet.Account{}
		r.Learn(burn, &wallet.Result{Code: wallet.Replayed, Seq: 1}, clock())
		if b, _ := mustRead(t, r, 1, 0); b.Nonce != 3 {
			t.Fatalf("nonce %d", b.Nonce)
		}
		r.Learn(burn, &wallet.Result{Code: wallet.InsufficientFunds}, clock())
	})
}

// Goal: a broken stream is taken up where it ended and the cache stays; one that lagged, or whose
// history is gone, starts afresh with an empty cache; all are counted. Method: streams cut off with
// each cause in a bubble.
func TestReaderReconnects(t *testing.T) {
	withReader(t, nil, func(t *testing.T, k *beating, r *Reader, _ *config.Live) {
		k.pay(1, 1)
		mustRead(t, r, 1, 0)
		for i, tc := range []struct {
			cause          error
			from           uint64
			lookups        int
			lagged, breaks uint64
		}{
			{errors.New("connection lost"), 1, 1, 0, 1},
			{wire.ErrLagged, 0, 2, 1, 2},
			{wire.ErrBacklog, 0, 3, 1, 3},
		} {
			k.cut(tc.cause)
			synctest.Wait()
			if r.Healthy() {
				t.Fatalf("%v: healthy without a stream", tc.cause)
			}
			time.Sleep(time.Second)
			mustRead(t, r, 1, 0)
			if k.froms[len(k.froms)-1] != tc.from || k.lookups != tc.lookups || r.Lagged() != tc.lagged || r.Reconnects() != tc.breaks || !r.Healthy() {
				t.Fatalf("case %d: from %v, %d lookups, %d lagged, %d reconnects, healthy %v", i, k.froms, k.lookups, r.Lagged(), r.Reconnects(), r.Healthy())
			}
		}
	})
}

// Goal: a transaction that is not there is an answer, and one that cannot be asked for is not.
// Method: the bank, and a breaker without limits.
func TestReaderTransaction(t *testing.T) {
	live := liveLimits(nil)
	r := NewReader(newBank(), newTestBreaker(live, clock), live, ReaderOptions{Now: clock})
	if _, _, code := r.Transaction(wallet.TxID{1}, live.Load(), 0, wallet.Origin{}, soon()); code != wallet.NotFound {
		t.Fatalf("none: %v", code)
	}
	live.Store(new(config.Limits))
	if _, _, code := r.Transaction(wallet.TxID{1}, live.Load(), 0, wallet.Origin{}, soon()); code != wallet.UpstreamUnavailable {
		t.Fatalf("denied: %v", code)
	}
}

// Goal: every name in metrics is there and no two are alike.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	add := func(s string) {
		if s == "" || seen[s] {
			t.Errorf("name %q", s)
		}
		seen[s] = true
	}
	for o := range NumCacheOutcomes {
		add("cache " + o.String())
	}
	for o := range NumMethods {
		add("op " + o.String())
	}
	for o := range NumCallOutcomes {
		add("call " + o.String())
	}
	for s := range numBreakerStates {
		add("breaker " + s.String())
	}
}
