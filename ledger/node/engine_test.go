package node

import (
	"bytes"
	"context"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

func send(t testing.TB, e Engine, batch ...wallet.Payment) []wallet.Result {
	t.Helper()
	out := make([]wallet.Result, len(batch))
	if err := e.Commit(context.Background(), batch, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// fund makes a store in which each payer has money.
func fund(t *testing.T, fs vfs.FS, dir string) {
	t.Helper()
	e := mustOpen(t, fs, dir)
	defer mustClose(t, e)
	send(t, e, payment(0, 0), payment(1, 0), payment(2, 0), payment(3, 0))
}

// reader makes a function an io.Reader.
type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// TestUnbalancedGroup: a group whose rows do not sum to zero is refused as a whole, counted, and
// leaves no trace; the next one is served. The fault is planted where the engine asks for random
// bits, in the middle of a decision: a balance that grows by itself.
func TestUnbalancedGroup(t *testing.T) {
	for _, kind := range []string{"model", "pebble"} {
		t.Run(kind, func(t *testing.T) {
			var b *books
			var planted bool
			var now atomic.Int64 // several goroutines look
			now.Store(start)
			opts := Options{Now: func() int64 { return now.Add(1e6) }, Entropy: reader(func(p []byte) (int, error) {
				if planted {
					row := b.balances.touched[0]
					row.is.amount, _ = row.is.amount.Add(wallet.Minor(1))
				}
				return len(p), nil
			})}
			var e Engine
			if kind == "model" {
				e = openModel(opts)
				b = e.(*model).books
			} else {
				p, err := openPebble("db", opts, vfs.NewMem())
				if err != nil {
					t.Fatal(err)
				}
				e, b = p, p.books
			}
			defer mustClose(t, e)
			send(t, e, payment(0, 0))
			before := e.Stats().ConservationOK
			planted = true
			for _, r := range send(t, e, payment(0, 1), payment(0, 2)) {
				if r != (wallet.Result{Code: wallet.Internal}) {
					t.Errorf("%+v", r)
				}
			}
			planted = false
			if s := e.Stats(); s.ConservationOK != before || s.ConservationFailed != 1 || e.Seq() != 1 {
				t.Errorf("%+v, version %d", s, e.Seq())
			}
			r := send(t, e, payment(0, 1))[0]
			if want := wallet.Minor(1<<40 - 1); r.Code != wallet.OK || r.Seq != 2 || r.Balances[0].Amount != want {
				t.Errorf("afterwards: %+v", r)
			}
		})
	}
}

// TestUnbalancedSupply: the check sees the supply account too.
func TestUnbalancedSupply(t *testing.T) {
	b := openModel(Options{Now: frozen}).(*model).books
	b.begin(start)
	row, err := b.supplies.touch(payment(0, 0).Asset)
	if err != nil || !b.balanced() {
		t.Fatal(err)
	}
	row.is.burned = wallet.Minor(1)
	if b.balanced() {
		t.Error("money vanished, and nobody saw it")
	}
	row.is.issued = wallet.Minor(1)
	if !b.balanced() {
		t.Error("issued and burned again does not balance")
	}
}

// TestNoEntropy: without random bits nothing is committed.
func TestNoEntropy(t *testing.T) {
	broken := errors.New("no bits")
	opts := Options{Now: frozen, Entropy: iotest.ErrReader(broken)}
	mem := openModel(opts)
	out := []wallet.Result{{Seq: 7}}
	if err := mem.Commit(context.Background(), []wallet.Payment{payment(0, 0)}, out); !errors.Is(err, broken) || out[0].Seq != 7 || mem.Seq() != 0 {
		t.Errorf("model: %v, %+v", err, out[0])
	}
	mustClose(t, mem)
	var fatal error
	opts.Fatal = func(err error) { fatal = err }
	disk, err := openPebble("db", opts, vfs.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Commit(context.Background(), []wallet.Payment{payment(0, 0)}, out); !errors.Is(err, broken) || !errors.Is(fatal, broken) {
		t.Errorf("pebble: %v, fatal %v", err, fatal)
	}
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
}

// TestIDs: ids grow strictly within a millisecond, over its last possible one, and over steps of
// the clock in both directions. Commit times do not fall over small steps back, and follow large ones.
func TestIDs(t *testing.T) {
	now := start
	ones := reader(func(p []byte) (int, error) {
		for i := range p {
			p[i] = 0xff
		}
		return len(p), nil
	})
	e := openModel(Options{Now: func() int64 { return now }, Entropy: ones})
	defer mustClose(t, e)
	var last wallet.Receipt
	for n, step := range []time.Duration{
		0, 0, 0, -time.Minute, -4 * time.Minute, time.Minute, time.Hour, 0, time.Millisecond, -time.Millisecond, -time.Hour, 0, time.Hour, -1 << 62, 0,
	} {
		now += int64(step)
		want := max(0, now/1e6)
		if step >= -clockSlack && step < 0 || n == 5 { // the sixth is behind the third still
			want = last.Millis
		}
		r := send(t, e, payment(0, n))[0].Receipt
		if string(r.TxID[:]) <= string(last.TxID[:]) || r.Millis != want || millisOf(r.TxID) < r.Millis {
			t.Errorf("%d: %s at %d follows %s at %d, want %d", n, r.TxID, r.Millis, last.TxID, last.Millis, want)
		}
		last = r
	}
}

// TestEpoch: a clock at or before 1970 makes no harm.
func TestEpoch(t *testing.T) {
	for _, now := range []int64{0, -1, math.MinInt64} {
		e := openModel(Options{Now: func() int64 { return now }})
		for n := range 3 {
			if r := send(t, e, payment(0, n))[0]; r.Code != wallet.OK || r.Receipt.Millis != 0 {
				t.Errorf("%+v", r)
			}
		}
		mustClose(t, e)
	}
}

// engines opens one of each kind.
func engines(t *testing.T) map[string]Engine {
	t.Helper()
	return map[string]Engine{"model": openModel(Options{Now: frozen}), "pebble": mustOpen(t, vfs.NewMem(), "db")}
}

// TestBounds: calls that are too large, or whose slices do not fit, are refused whole; the largest
// is served.
func TestBounds(t *testing.T) {
	ctx := context.Background()
	for name, e := range engines(t) {
		t.Run(name, func(t *testing.T) {
			defer mustClose(t, e)
			if err := e.Commit(ctx, make([]wallet.Payment, MaxCommit+1), make([]wallet.Result, MaxCommit+1)); err == nil {
				t.Error("a commit over the bound was served")
			}
			if err := e.Commit(ctx, make([]wallet.Payment, 2), make([]wallet.Result, 1)); err == nil {
				t.Error("a commit without room for its results was served")
			}
			if err := e.Lookup(ctx, make([]wallet.BalanceKey, MaxLookup+1), make([]wallet.Balance, MaxLookup+1)); err == nil {
				t.Error("a lookup over the bound was served")
			}
			if err := e.Lookup(ctx, make([]wallet.BalanceKey, 2), make([]wallet.Balance, 1)); err == nil {
				t.Error("a lookup without room for its balances was served")
			}
			batch := make([]wallet.Payment, MaxCommit)
			for n := range batch {
				batch[n] = payment(0, n)
			}
			if r := send(t, e, batch...)[MaxCommit-1]; r.Code != wallet.OK || r.Seq != MaxCommit {
				t.Errorf("the last of the largest commit: %+v", r)
			}
			if err := e.Lookup(ctx, make([]wallet.BalanceKey, MaxLookup), make([]wallet.Balance, MaxLookup)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestClosed: a closed engine answers every call with ErrClosed, also those that were waiting.
func TestClosed(t *testing.T) {
	ctx := context.Background()
	for name, e := range engines(t) {
		t.Run(name, func(t *testing.T) {
			watched := make(chan error)
			entered := make(chan struct{})
			go func() { watched <- e.Watch(ctx, 0, func(wallet.Change) { close(entered) }) }()
			<-entered
			mustClose(t, e)
			if err := <-watched; !errors.Is(err, ErrClosed) {
				t.Errorf("watch that was on: %v", err)
			}
			if err := e.Commit(ctx, []wallet.Payment{payment(0, 0)}, make([]wallet.Result, 1)); !errors.Is(err, ErrClosed) {
				t.Errorf("commit: %v", err)
			}
			if err := e.Lookup(ctx, make([]wallet.BalanceKey, 1), make([]wallet.Balance, 1)); !errors.Is(err, ErrClosed) {
				t.Errorf("lookup: %v", err)
			}
			if _, _, err := e.Transaction(ctx, wallet.TxID{1}); !errors.Is(err, ErrClosed) {
				t.Errorf("transaction: %v", err)
			}
			if err := e.Watch(ctx, 0, func(wallet.Change) {}); !errors.Is(err, ErrClosed) {
				t.Errorf("watch: %v", err)
			}
		})
	}
}

// TestCloseWhileBusy: closing answers everything that was taken up, and what it answered is there
// afterwards.
func TestCloseWhileBusy(t *testing.T) {
	fs := vfs.NewMem()
	fund(t, fs, "db")
	for life := range 5 {
		e := mustOpen(t, fs, "db")
		var running sync.WaitGroup
		var book ledgerBook
		for payer := range 4 {
			running.Go(func() {
				for n := life*1_000_000 + 1; ; n++ {
					out := make([]wallet.Result, 1)
					err := e.Commit(context.Background(), []wallet.Payment{payment(payer, n)}, out)
					if errors.Is(err, ErrClosed) {
						return
					}
					if err != nil || out[0].Code != wallet.OK {
						t.Errorf("%v, %s", err, out[0].Code)
						return
					}
					book.add([]wallet.Payment{payment(payer, n)}, out)
				}
			})
		}
		for seen, _ := book.copy(); seen < uint64(50*life+1); seen, _ = book.copy() {
			runtime.Gosched()
		}
		mustClose(t, e)
		running.Wait()
		e = mustOpen(t, fs, "db")
		seen, answers := book.copy()
		if err := verify(e, seen, answers); err != nil {
			t.Error(err)
		}
		mustClose(t, e)
	}
}

// TestStalled: a sync that takes too long shows as a stalled disk, and no longer once it ended.
// Method: a sync that is held up, and a clock that goes on.
func TestStalled(t *testing.T) {
	var gate sync.RWMutex
	var clock atomic.Int64
	clock.Store(frozen())
	e, err := openPebble("db", Options{Now: clock.Load}, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			gate.RLock()
			defer gate.RUnlock()
		}
		return nil
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, e)
	gate.Lock()
	done := make(chan error, 1)
	go func() {
		done <- e.Commit(context.Background(), []wallet.Payment{ownIssue(0)}, make([]wallet.Result, 1))
	}()
	for e.disk.began.Load() == 0 {
		runtime.Gosched()
	}
	if e.Stats().Stalled {
		t.Error("a sync that just began is a stall")
	}
	clock.Add(int64(stuckAfter) + 1)
	if !e.Stats().Stalled {
		t.Errorf("no stall after %v", stuckAfter)
	}
	gate.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if e.Stats().Stalled {
		t.Error("still stalled after the sync")
	}
}

// TestWithdraw: a call whose context ends while it waits is withdrawn and never done; one that was
// taken up goes on, its caller learns that the outcome is unknown, and its slices are its own
// again. Nothing is answered, seen or looked up before the sync, which is held up.
func TestWithdraw(t *testing.T) {
	var gate sync.RWMutex
	e := mustOpen(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			gate.RLock()
			defer gate.RUnlock()
		}
		return nil
	})), "db")
	defer mustClose(t, e)
	send(t, e, payment(0, 0))
	gate.Lock()
	ctx, cancel := context.WithCancel(context.Background())
	type outcome struct {
		n   int
		err error
		r   wallet.Result
	}
	outcomes := make(chan outcome)
	calls := 0
	call := func(until func() bool) {
		go func(n int) {
			batch, out := []wallet.Payment{ownIssue(n)}, []wallet.Result{{Seq: 99}}
			err := e.Commit(ctx, batch, out)
			batch[0] = wallet.Payment{} // the caller's again
			outcomes <- outcome{n, err, out[0]}
		}(calls)
		calls++
		for !until() {
			runtime.Gosched()
		}
	}
	arrived := func() bool {
		return e.Stats().ConservationOK == uint64(calls)+1
	}
	const under = stages - 1 // ways: one is being synced, one is decided
	for range under {
		call(arrived)
	}
	for waiting := 1; waiting < 4; waiting++ {
		call(func() bool { return len(e.calls) == waiting })
	}
	if e.Seq() != 1 {
		t.Errorf("version %d is shown before its sync", e.Seq())
	}
	key, seen := wallet.BalanceKey{Account: ownIssue(0).To, Asset: ownIssue(0).Asset}, make([]wallet.Balance, 1)
	if err := e.Lookup(context.Background(), []wallet.BalanceKey{key}, seen); err != nil || seen[0].Seq != 1 || !seen[0].Amount.IsZero() {
		t.Errorf("what is not synced was looked up: %v, %+v", err, seen[0])
	}
	cancel()
	withdrawn := make([]bool, calls)
	for range calls {
		o := <-outcomes
		if !errors.Is(o.err, context.Canceled) || o.r.Seq != 99 {
			t.Errorf("call %d: %v, %+v", o.n, o.err, o.r)
		}
		withdrawn[o.n] = !strings.Contains(o.err.Error(), "unknown")
	}
	gate.Unlock()
	taken := 0
	for n := range calls {
		want := wallet.Replayed
		if withdrawn[n] {
			want = wallet.OK
		} else {
			taken++
		}
		if r := send(t, e, ownIssue(n))[0]; r.Code != want {
			t.Errorf("call %d, withdrawn %v: %d", n, withdrawn[n], r.Code)
		}
	}
	if taken != under {
		t.Errorf("%d of %d calls were taken up", taken, calls)
	}
}

// TestGatherLeavesOutTheGone: the writer does not take up a call whose context has ended, although
// its goroutine has not withdrawn it, and takes the one behind it. By calls that no goroutine waits
// for.
func TestGatherLeavesOutTheGone(t *testing.T) {
	e := mustOpen(t, vfs.NewMem(), "db")
	defer mustClose(t, e)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	gone := &call{ctx: ended, batch: []wallet.Payment{ownIssue(1)}, out: make([]wallet.Result, 1), done: make(chan error, 1)}
	if calls := e.gather(gone); len(calls) != 0 {
		t.Errorf("took up %d calls", len(calls))
	}
	if err := <-gone.done; !errors.Is(err, context.Canceled) || gone.past.Load() {
		t.Errorf("the call was answered %v, taken up %v", err, gone.past.Load())
	}
	there := &call{ctx: context.Background(), batch: []wallet.Payment{ownIssue(2)}, out: make([]wallet.Result, 1), done: make(chan error, 1)}
	if calls := e.gather(there); len(calls) != 1 || !there.past.Load() {
		t.Errorf("did not take up the call of one who waits: %d", len(calls))
	}
}

// TestWatchers: their number is bounded, and a place that was left is free again.
func TestWatchers(t *testing.T) {
	e := openModel(Options{Now: frozen})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var entered sync.WaitGroup
	entered.Add(MaxWatchers)
	for range MaxWatchers {
		running.Go(func() { _ = e.Watch(ctx, 0, func(wallet.Change) { entered.Done() }) })
	}
	entered.Wait()
	if err := e.Watch(ctx, 0, func(wallet.Change) {}); !errors.Is(err, ErrWatchers) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	running.Wait()
	mustClose(t, e)
	if err := e.Watch(context.Background(), 0, func(wallet.Change) {}); !errors.Is(err, ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestBus: a model of the ring, a plain list, has the same changes after every version, for every
// size of change and of ring.
func TestBus(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 20).Draw(rt, "ring")
		first := rapid.Uint64Range(0, 5).Draw(rt, "first")
		b := newBus(size)
		b.start(first)
		var all []wallet.Change
		seq := first
		for range rapid.IntRange(0, 30).Draw(rt, "changes") {
			c := wallet.Change{}
			for range rapid.IntRange(1, 25).Draw(rt, "balances") {
				seq++
				c.Balances = append(c.Balances, wallet.Balance{Seq: seq})
			}
			c.Seq = seq
			all = append(all, c)
			b.publish(c)
		}
		for from := uint64(1); from <= seq+1; from++ {
			var want []wallet.Change
			held := 0
			for i := len(all) - 1; i >= 0 && all[i].Seq > from; i-- {
				want = append([]wallet.Change{all[i]}, want...)
				held += len(all[i].Balances)
			}
			at, present, err := b.enter(from)
			if from > seq || from < first || held > size {
				if !errors.Is(err, wire.ErrBacklog) {
					rt.Fatalf("after version %d of %d, which takes %d: %v", from, seq, held, err)
				}
				continue
			}
			if err != nil || present != seq {
				rt.Fatalf("after version %d of %d, which takes %d: %v", from, seq, held, err)
			}
			var got []wallet.Change
			for {
				c, wake, err := b.take(at)
				if err != nil {
					rt.Fatal(err)
				}
				if wake != nil {
					break
				}
				got, at = append(got, c), at+1
			}
			if !reflect.DeepEqual(got, want) {
				rt.Fatalf("after version %d: %+v, want %+v", from, got, want)
			}
		}
		if _, _, err := b.take(0); len(all) > 0 && b.first > 0 && !errors.Is(err, wire.ErrLagged) {
			rt.Fatalf("a place that is gone: %v", err)
		}
	})
}

// FuzzRows: no bytes make a decoder panic, and what it takes is what would be written.
func FuzzRows(f *testing.F) {
	id := wallet.TxID{1, 2, 3}
	tr := payment(0, 1)
	f.Add(append([]byte{0}, (&accountRow{1, 2}).append(nil)...))
	f.Add(append([]byte{1}, (&balanceRow{amount: wallet.MaxAmount(), seq: 7}).append(nil)...))
	f.Add(append([]byte{2}, (&supplyRow{wallet.Minor(1), wallet.Minor(2)}).append(nil)...))
	f.Add(append([]byte{3}, id[:]...))
	f.Add(append([]byte{4}, (&receiptRow{tr.Receipt(id, 5), 9, tr.Fingerprint}).append(nil)...))
	f.Add(append([]byte{5}, (&headRow{head{4, id, 6}, 5, place{1, 2}, 3}).append(nil)...))
	f.Add(append([]byte{6}, (&indexRow{place{1, 2}, 3}).append(nil)...))
	f.Add(append([]byte{7}, (&prunedRow{1, 2}).append(nil)...))
	f.Add(append([]byte{8}, (&header{id, 1, place{2, 3}, 4}).append(nil)...))
	f.Add(append([]byte{4}, bytes.Repeat([]byte{255}, receiptMaxSize)...)) // a text of 255 bytes, the most that a length says
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		rows := []interface {
			decode([]byte) error
			append([]byte) []byte
		}{&accountRow{}, &balanceRow{}, &supplyRow{}, &txidRow{}, &receiptRow{}, &headRow{}, &indexRow{}, &prunedRow{}, &header{}}
		row := rows[int(data[0])%len(rows)]
		if err := row.decode(data[1:]); err == nil && !bytes.Equal(row.append(nil), data[1:]) {
			t.Errorf("%x is written as %x", data[1:], row.append(nil))
		}
	})
}

// FuzzJournal: no bytes make the reader of a segment panic or take what was not written, and behind
// what it takes there is nothing that it should have taken.
func FuzzJournal(f *testing.F) {
	tr := payment(0, 1)
	one := &receiptRow{tr.Receipt(wallet.TxID{1}, 5), 1, tr.Fingerprint}
	two := &receiptRow{tr.Receipt(wallet.TxID{2}, 5), 2, tr.Fingerprint}
	data, chain, _ := appendRecord(nil, []*receiptRow{one}, 0, 0)
	data, _, _ = appendRecord(data, []*receiptRow{two}, chain, 0)
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add(append(data[:40:40], data[39:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &journalReader{name: "f", from: bytes.NewReader(data)}
		for {
			rec, err := r.next()
			if err != nil {
				break
			}
			_ = rec.each("f", func(int, int64, *receiptRow) error { return nil })
		}
		if r.at > int64(len(data)) {
			t.Errorf("read to %d of %d", r.at, len(data))
		}
		goodRecord(data)
		_, _, _ = entryAt(data)
	})
}

// TestReadsWantTheState: a read that another one's look has served leaves the wish of a third alone, or that would wait
// until the window is full. Method: a read that is held up where both were served, many times.
func TestReadsWantTheState(t *testing.T) {
	e := mustOpen(t, vfs.NewMem(), "db")
	defer mustClose(t, e)
	for n := range 300 {
		send(t, e, payment(n, 0))
		e.applying.Lock()
		e.save() // nothing of this payment may be left to the read
		begun, ended := make(chan struct{}), make(chan error)
		e.applied.at.Store(e.Seq() - 1)
		go func() {
			close(begun)
			ended <- e.current(t.Context())
		}()
		<-begun
		for range 20 {
			runtime.Gosched()
		}
		e.applied.move(e.Seq())
		e.wanted = true // somebody else's
		e.applying.Unlock()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		e.applying.Lock()
		wanted := e.wanted
		e.wanted = false
		e.applying.Unlock()
		if !wanted {
			t.Fatalf("round %d: the wish is gone", n)
		}
	}
}
