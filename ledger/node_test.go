package ledger_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/ledger/contract"
	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

func clock() int64 { return time.Now().UnixNano() }

// run serves e on a Unix socket until the returned function is called, and returns the address.
func run(t testing.TB, e node.Engine, addr string) (stop func()) {
	t.Helper()
	ln, err := host.Listen(addr, host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := node.Serve(ctx, ln, e, node.ServeOptions{}); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	return func() { cancel(); <-done }
}

func dial(t testing.TB, addr string) *ledger.Client {
	t.Helper()
	c, err := ledger.Dial(addr, ledger.DialOptions{Now: clock, Timeout: func() time.Duration { return 10 * time.Second }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func memory(t testing.TB) node.Engine {
	t.Helper()
	e, err := node.OpenMemory(node.Options{Now: clock, Entropy: rand.Reader, WatchBacklog: 1 << 14})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// Goal: the client in front of a node is a Ledger as good as the engine. Method: the contract's
// suite over a Unix socket.
func TestClientContract(t *testing.T) {
	contract.Run(t, func(t *testing.T) contract.Fixture {
		addr := "unix:" + filepath.Join(t.TempDir(), "node")
		e := memory(t)
		stop := run(t, e, addr)
		c := dial(t, addr)
		t.Cleanup(func() {
			_ = c.Close()
			stop()
			_ = e.Close()
		})
		return contract.Fixture{Ledger: c, DayTotal: true, TellsLimits: true}
	})
}

// Goal: a client reads its own write through its sidecar, and another's from its version on, while
// the node is restarted under both; no money is made or lost. Method: two sidecars' worth of
// committers and readers over real sockets; every uncertain payment is settled by its key.
func TestSidecarsOverRestart(t *testing.T) {
	addr := "unix:" + filepath.Join(t.TempDir(), "node")
	e := memory(t)
	stop := run(t, e, addr)
	limits := config.Limits{
		Queue: 512, BatchMax: 256, StalenessWindow: 250 * time.Millisecond, LedgerTimeout: time.Second, Retries: 3,
		BreakerErrors: 1 << 20, BreakerOpenFor: 100 * time.Millisecond, BreakerProbes: 10,
	}
	live := new(config.Live)
	live.Store(&limits)

	var readers [2]*ledger.Reader
	var committers [2]*ledger.Committer
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range readers {
		c := dial(t, addr)
		defer func() { _ = c.Close() }()
		b := ledger.NewBreaker(fmt.Sprintf("restart-%d", i), live, clock)
		r := ledger.NewReader(c, b, live, ledger.ReaderOptions{Shards: 8, Entries: 1000, MaxStale: 30 * time.Second, Now: clock})
		k, err := ledger.NewCommitter(c, b, live, ledger.CommitterOptions{Workers: 2, MaxQueue: 1000, Now: clock, OnResult: r.Learn})
		if err != nil {
			t.Fatal(err)
		}
		readers[i], committers[i] = r, k
		running.Go(func() { _ = r.Run(ctx) })
	}

	const accounts, payments = 8, 60
	var clients sync.WaitGroup
	for a := range accounts {
		clients.Go(func() {
			key := wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount(fmt.Sprintf("acc_%d", a))), Asset: wallet.Must(wallet.ParseAsset("ron"))}
			for n := uint64(1); n <= payments; n++ {
				if a == 0 && n == payments/2 {
					stop()
					stop = run(t, e, addr)
				}
				side := int(n) % 2
				res := settle(t, committers[side], &limits, issue(key, n))
				for _, r := range [...]struct {
					reader *ledger.Reader
					least  uint64
				}{{readers[side], 0}, {readers[1-side], res.Seq}} {
					b := readUntil(t, r.reader, &limits, key, r.least)
					if b.Amount != wallet.Minor(n) || b.Seq < r.least {
						t.Errorf("account %d after payment %d: %v at version %d of %d", a, n, b.Amount, b.Seq, res.Seq)
					}
				}
			}
		})
	}
	clients.Wait()
	for i := range committers {
		if err := committers[i].Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	running.Wait()
	if s := e.Stats(); s.ConservationOK == 0 || s.ConservationFailed != 0 || e.Seq() != accounts*payments {
		t.Errorf("%+v, version %d", s, e.Seq())
	}
	stop()
	_ = e.Close()
}

func issue(key wallet.BalanceKey, n uint64) *wallet.Payment {
	t := &wallet.Payment{
		Op: wallet.Issue, To: key.Account, Asset: key.Asset, Amount: wallet.Minor(1), Nonce: n,
		Idem: wallet.Must(wallet.ParseIdemKey(fmt.Sprintf("k%d", n))),
		Rules: wallet.Rules{
			DailyCeiling: wallet.MaxAmount(), MaxAccountTotal: wallet.MaxAmount(), NonceStart: 1, NonceMaxGap: 1,
		},
	}
	t.Fingerprint = t.Hash()
	return t
}

// settle submits p until it is known to be applied, as a client with a key does.
func settle(t *testing.T, c *ledger.Committer, l *config.Limits, p *wallet.Payment) wallet.Result {
	for range 1000 {
		r := c.Submit(p, l, clock()+int64(5*time.Second))
		if r.Code.Outcome() == wallet.Applied {
			return r
		}
		if !r.Code.Retryable() {
			t.Errorf("payment %d: %v", p.Nonce, r.Code)
			return r
		}
	}
	t.Errorf("payment %d was never applied", p.Nonce)
	return wallet.Result{}
}

// readUntil reads while the node is away.
func readUntil(t *testing.T, r *ledger.Reader, l *config.Limits, key wallet.BalanceKey, least uint64) wallet.Balance {
	for range 1000 {
		b, _, code := r.Balance(key, l, least, wallet.Origin{}, clock()+int64(5*time.Second))
		if code == wallet.OK {
			return b
		}
	}
	t.Error("the balance was never served")
	return wallet.Balance{}
}

// BenchmarkCommitOverSocket is a payment through committer, client, socket and the memory engine.
func BenchmarkCommitOverSocket(b *testing.B) {
	addr := "unix:" + filepath.Join(b.TempDir(), "node")
	e := memory(b)
	stop := run(b, e, addr)
	c := dial(b, addr)
	limits := config.Limits{
		Queue: 4096, BatchMax: 256, LedgerTimeout: time.Second, BreakerErrors: 20, BreakerOpenFor: time.Second, BreakerProbes: 10,
	}
	live := new(config.Live)
	live.Store(&limits)
	k, err := ledger.NewCommitter(c, ledger.NewBreaker("bench", live, clock), live, ledger.CommitterOptions{Workers: 2, MaxQueue: 4096, Now: clock})
	if err != nil {
		b.Fatal(err)
	}
	var who sync.Map
	b.ReportAllocs()
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		me := fmt.Sprintf("%p", pb)
		who.Store(me, true)
		key := wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount(me)), Asset: wallet.Must(wallet.ParseAsset("ron"))}
		for n := uint64(1); pb.Next(); n++ {
			if r := k.Submit(issue(key, n), live.Load(), clock()+int64(5*time.Second)); r.Code != wallet.OK {
				b.Error(r.Code)
			}
		}
	})
	b.StopTimer()
	_ = k.Close(context.Background())
	_ = c.Close()
	stop()
	_ = e.Close()
}

// Goal: a copy of one history is not continued with another one that reaches the same versions, as
// a store does that was restored from an older copy. Method: a reader, and under it an engine that
// is exchanged for one in which the same versions mean other figures.
func TestAnotherHistory(t *testing.T) {
	addr := "unix:" + filepath.Join(t.TempDir(), "node")
	key := wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount("alice")), Asset: wallet.Must(wallet.ParseAsset("ron"))}
	other := key
	other.Account = wallet.Must(wallet.ParseAccount("bob"))
	live := new(config.Live)
	live.Store(&config.Limits{
		Queue: 10, BatchMax: 10, StalenessWindow: 250 * time.Millisecond, LedgerTimeout: time.Second, Retries: 3,
		BreakerErrors: 1 << 20, BreakerOpenFor: 100 * time.Millisecond, BreakerProbes: 10,
	})
	c := dial(t, addr)
	defer func() { _ = c.Close() }()
	r := ledger.NewReader(c, ledger.NewBreaker("history", live, clock), live,
		ledger.ReaderOptions{Shards: 1, Entries: 10, MaxStale: 30 * time.Second, Now: clock})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })

	for _, holder := range []wallet.BalanceKey{key, other} { // three issues to one, then to the other
		e := memory(t)
		for n := range uint64(3) {
			var out [1]wallet.Result
			if err := e.Commit(t.Context(), []wallet.Payment{*issue(holder, n+1)}, out[:]); err != nil || out[0].Code != wallet.OK {
				t.Fatal(err, out[0].Code)
			}
		}
		stop := run(t, e, addr)
		for !r.Healthy() {
			runtime.Gosched()
		}
		c.Accept() // the second one is another ledger, and meant to be
		for _, k := range []wallet.BalanceKey{key, other} {
			want := wallet.Amount{}
			if k == holder {
				want = wallet.Minor(3)
			}
			if b := readUntil(t, r, live.Load(), k, 3); b.Amount != want {
				t.Errorf("%v has %v at version %d, want %v", k.Account, b.Amount, b.Seq, want)
			}
		}
		stop()
		_ = e.Close()
		for r.Healthy() {
			runtime.Gosched()
		}
	}
	cancel()
	running.Wait()
}

// checked is an engine that has found the books balanced five times, and twice not.
type checked struct{ node.Engine }

func (checked) Stats() node.Stats { return node.Stats{ConservationOK: 5, ConservationFailed: 2} }

// Goal: good checks of conservation are told from failed ones, from the engine to the sidecar.
// Method: an engine that has found both.
func TestFailedChecksAreNotGoodOnes(t *testing.T) {
	addr := "unix:" + filepath.Join(t.TempDir(), "node")
	e := memory(t)
	stop := run(t, checked{e}, addr)
	c := dial(t, addr)
	live := new(config.Live)
	live.Store(&config.Limits{BreakerErrors: 1})
	r := ledger.NewReader(c, ledger.NewBreaker("checks", live, clock), live, ledger.ReaderOptions{Now: clock})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	for !r.Healthy() {
		runtime.Gosched()
	}
	if ok, failed := r.Conservation(); ok != 5 || failed != 2 {
		t.Errorf("%d good and %d failed", ok, failed)
	}
	cancel()
	running.Wait()
	_ = c.Close()
	stop()
	_ = e.Close()
}
