package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"svc-wallet/wallet"
)

// start is the time of every clock in these tests.
var start = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC).UnixNano()

func frozen() int64 { return start }

// small makes the segments so small that every test has several.
func small(o Options) Options {
	if o.Now == nil {
		o.Now = frozen
	}
	o.segment, o.fill = 4<<10, 1<<10
	return o
}

func mustOpen(t testing.TB, fs vfs.FS, dir string) *pebbleEngine {
	t.Helper()
	p, err := openPebble(dir, small(Options{WatchBacklog: 256, Fatal: func(err error) { t.Errorf("fatal: %v", err) }}), fs)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustClose(t testing.TB, e Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// payment is number n of a payer's own: the first fills its account, the rest pay the next payer.
func payment(payer, n int) wallet.Payment {
	account := func(i int) wallet.Account { return wallet.Must(wallet.ParseAccount(fmt.Sprintf("payer-%d", i%4))) }
	t := wallet.Payment{
		Op: wallet.Transfer, From: account(payer), To: account(payer + 1), Asset: wallet.Must(wallet.ParseAsset("ron")), Amount: wallet.Minor(1),
		Nonce: uint64(n + 1), Idem: wallet.Must(wallet.ParseIdemKey(fmt.Sprintf("key-%d-%d", payer, n))),
		Rules: wallet.Rules{
			DailyCeiling: wallet.MaxAmount(), MaxAccountTotal: wallet.MaxAmount(), NonceMaxGap: math.MaxUint64,
		},
	}
	if n == 0 {
		t.Op, t.From, t.To, t.Amount = wallet.Issue, wallet.Account{}, account(payer), wallet.Minor(1<<40)
	}
	t.Fingerprint = t.Hash()
	return t
}

// ownIssue fills an account that nothing else touches.
func ownIssue(n int) wallet.Payment {
	t := payment(0, 0)
	t.To = wallet.Must(wallet.ParseAccount(fmt.Sprint("own-", n)))
	t.Fingerprint = t.Hash()
	return t
}

// ledgerBook is what a client may rely on: what was answered, and the newest version seen anywhere.
type ledgerBook struct {
	mu     sync.Mutex
	seen   uint64
	answer []answer
}

type answer struct {
	transfer wallet.Payment
	result   wallet.Result
}

func (b *ledgerBook) add(ts []wallet.Payment, rs []wallet.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range rs {
		b.answer = append(b.answer, answer{ts[i], rs[i]})
		b.seen = max(b.seen, rs[i].Seq)
	}
}

func (b *ledgerBook) see(seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = max(b.seen, seq)
}

// so far, before a crash.
func (b *ledgerBook) copy() (seen uint64, answers []answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen, append([]answer(nil), b.answer...)
}

// verify checks that e has every answer, and is at least at the version that was seen.
func verify(e Engine, seen uint64, answers []answer) error {
	if e.Seq() < seen {
		return fmt.Errorf("the ledger is at version %d, but %d had been shown", e.Seq(), seen)
	}
	var again []wallet.Payment
	for _, a := range answers {
		r, seq, err := e.Transaction(context.Background(), a.result.Receipt.TxID)
		if err != nil || r != a.result.Receipt || seq != a.result.Seq {
			return fmt.Errorf("receipt %+v of version %d reads as %+v of version %d: %w", a.result.Receipt, a.result.Seq, r, seq, err)
		}
		again = append(again, a.transfer)
	}
	for at := 0; at < len(again); at += MaxCommit {
		batch := again[at:min(at+MaxCommit, len(again))]
		out := make([]wallet.Result, len(batch))
		if err := e.Commit(context.Background(), batch, out); err != nil {
			return err
		}
		for i, r := range out {
			if first := answers[at+i].result; r.Code != wallet.Replayed || r.Receipt != first.Receipt {
				return fmt.Errorf("%+v is answered %s, %+v; it was %+v", batch[i], r.Code.Name(), r.Receipt, first.Receipt)
			}
		}
	}
	return nil
}

// pay commits payments of four payers at once, from number n on, until stop says so; a watcher and
// a reader see versions meanwhile.
func pay(e Engine, book *ledgerBook, n int, stop *atomic.Bool) (wait func()) {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for payer := range 4 {
		running.Go(func() {
			for n := n; !stop.Load(); n += 3 {
				batch := []wallet.Payment{payment(payer, n), payment(payer, n+1), payment(payer, n+2)}
				out := make([]wallet.Result, len(batch))
				if e.Commit(ctx, batch, out) != nil {
					return
				}
				book.add(batch, out)
			}
		})
	}
	running.Go(func() {
		_ = e.Watch(ctx, 0, func(c wallet.Change) { book.see(c.Seq) })
	})
	running.Go(func() {
		key := wallet.BalanceKey{Account: payment(0, 1).From, Asset: payment(0, 1).Asset}
		for !stop.Load() {
			out := make([]wallet.Balance, 1)
			if e.Lookup(ctx, []wallet.BalanceKey{key}, out) != nil {
				return
			}
			book.see(out[0].Seq)
		}
	})
	return func() {
		stop.Store(true)
		cancel()
		running.Wait()
	}
}

// TestPowerCut: whatever was answered, looked up or watched before the power went is there
// afterwards, on a file system that loses all, half or none of what was not synced; and the next
// ledger goes on from there. This is the proof that acknowledged means synced.
func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range trials(12) {
		fs := vfs.NewCrashableMem()
		e := mustOpen(t, fs, "db")
		var book ledgerBook
		var stop atomic.Bool
		wait := pay(e, &book, 0, &stop)
		var cuts []cut
		for range 3 {
			for seen, target := uint64(0), rng.Uint64N(200)+e.Seq(); seen < target; { // a random moment
				runtime.Gosched()
				seen, _ = book.copy()
			}
			c := cut{}
			c.seen, c.answers = book.copy()
			c.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(3) * 50, RNG: rng})
			cuts = append(cuts, c)
		}
		wait()
		mustClose(t, e)
		for _, c := range cuts {
			c.check(t)
		}
	}
}

// cut is a file system after a power cut, and what had been shown before.
type cut struct {
	fs      *vfs.MemFS
	seen    uint64
	answers []answer
}

func (c *cut) check(t *testing.T) {
	t.Helper()
	e := mustOpen(t, c.fs, "db")
	defer mustClose(t, e)
	if err := verify(e, c.seen, c.answers); err != nil {
		t.Fatal(err)
	}
	// The next life's ids and versions follow.
	r := send(t, e, ownIssue(1))[0]
	if r.Code != wallet.OK {
		t.Fatal(r.Code)
	}
	for _, a := range c.answers {
		if string(r.Receipt.TxID[:]) <= string(a.result.Receipt.TxID[:]) || r.Seq <= a.result.Seq {
			t.Fatalf("%s, version %d does not follow %s, version %d", r.Receipt.TxID, r.Seq, a.result.Receipt.TxID, a.result.Seq)
		}
	}
}

// TestReopen: a closed store opens as it was, with the same answers to the same requests.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	var book ledgerBook
	for life := range 3 {
		e := mustOpen(t, vfs.Default, dir)
		seen, answers := book.copy()
		if err := verify(e, seen, answers); err != nil {
			t.Fatal(err)
		}
		if e.Seq() != seen {
			t.Errorf("life %d starts at version %d, the last ended at %d", life, e.Seq(), seen)
		}
		for n := range 5 {
			batch := []wallet.Payment{payment(0, 5*life+n)}
			out := make([]wallet.Result, 1)
			if err := e.Commit(context.Background(), batch, out); err != nil || out[0].Code != wallet.OK {
				t.Fatalf("%v, %s", err, out[0].Code)
			}
			book.add(batch, out)
		}
		mustClose(t, e)
		mustClose(t, e) // once more is nothing
	}
}

// TestIdentity: a ledger keeps its name over restarts and in copies, each opening has another one,
// and a memory engine is a ledger of its own.
func TestIdentity(t *testing.T) {
	fs, seen := vfs.NewMem(), map[[16]byte]bool{{}: true}
	open := func(dir string) Identity {
		e := mustOpen(t, fs, dir)
		defer mustClose(t, e)
		if id := e.Identity(); seen[id.Opening] || id.Ledger == [16]byte{} {
			t.Errorf("%s opens as %x", dir, id)
		}
		seen[e.Identity().Opening] = true
		return e.Identity()
	}
	first := open("db")
	if _, err := vfs.Clone(fs, fs, "db", "copy"); err != nil {
		t.Fatal(err)
	}
	if open("db").Ledger != first.Ledger || open("copy").Ledger != first.Ledger {
		t.Error("the ledger lost its name")
	}
	a, b := mustOpen(t, vfs.NewMem(), "memory"), mustOpen(t, vfs.NewMem(), "memory")
	if x, y := a.Identity(), b.Identity(); x.Ledger == y.Ledger || x.Opening == y.Opening {
		t.Error("two memory engines are one ledger")
	}
	mustClose(t, a)
	mustClose(t, b)
}

// TestFailStop: when the log can no longer be synced or written, nothing more is acknowledged,
// shown or decided, Fatal hears of it once, and what was acknowledged is there after a restart.
func TestFailStop(t *testing.T) {
	for name, broken := range map[string]struct {
		kinds []errorfs.OpKind
		err   error
	}{
		"fsync fails":  {[]errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}, syscall.EIO},
		"disk is full": {[]errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileWriteAt}, syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var on atomic.Bool
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if on.Load() && strings.HasSuffix(op.Path, ".log") {
					for _, k := range broken.kinds {
						if op.Kind == k {
							return broken.err
						}
					}
				}
				return nil
			}))
			var fatal []error
			var mu sync.Mutex
			p, err := openPebble("db", Options{Now: frozen, segment: 4 << 10, fill: 1 << 10, Fatal: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				fatal = append(fatal, err)
			}}, fs)
			if err != nil {
				t.Fatal(err)
			}
			var book ledgerBook
			out := make([]wallet.Result, 1)
			if err := p.Commit(context.Background(), []wallet.Payment{payment(0, 0)}, out); err != nil {
				t.Fatal(err)
			}
			book.add([]wallet.Payment{payment(0, 0)}, out)
			watched := make(chan error, 1)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			go func() { watched <- p.Watch(ctx, 0, func(c wallet.Change) { book.see(c.Seq) }) }()

			on.Store(true)
			for n := range 3 {
				if err := p.Commit(context.Background(), []wallet.Payment{payment(0, n+1)}, out); !errors.Is(err, broken.err) {
					t.Errorf("commit %d: %v", n, err)
				}
			}
			if err := p.Lookup(context.Background(), []wallet.BalanceKey{{Account: payment(0, 0).To, Asset: payment(0, 0).Asset}}, make([]wallet.Balance, 1)); err == nil && p.Seq() > 1 {
				t.Error("what was not synced was looked up")
			}
			if err := <-watched; !errors.Is(err, broken.err) {
				t.Errorf("watch: %v", err)
			}
			if len(fatal) != 1 || !strings.Contains(fatal[0].Error(), "db") {
				t.Errorf("fatal: %v", fatal)
			}
			again := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}), "db")
			if seen, answers := book.copy(); seen != 1 {
				t.Errorf("version %d was shown", seen)
			} else if err := verify(again, seen, answers); err != nil {
				t.Error(err)
			}
			mustClose(t, again)
			_ = p.Close() // says that the log is broken, or not
		})
	}
}
