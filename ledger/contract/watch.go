package contract

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// replica is a copy of the ledger that a watch keeps.
type replica struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	moved  *sync.Cond
	steps  []wallet.Change
	held   map[wallet.BalanceKey]wallet.Balance
	nonces map[wallet.Account]uint64 // the highest told with any of the account's balances
	seq    uint64
	wrong  string // what broke the order of versions
	err    error  // of Watch
	closed bool
}

// follow watches after version from until stop or the test's end.
func follow(t *testing.T, f Fixture, from uint64) *replica {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	r := &replica{
		cancel: cancel, ended: make(chan struct{}), seq: from,
		held: map[wallet.BalanceKey]wallet.Balance{}, nonces: map[wallet.Account]uint64{},
	}
	r.moved = sync.NewCond(&r.mu)
	go func() {
		defer close(r.ended)
		err := f.Ledger.Watch(ctx, from, r.on)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err, r.closed = err, true
		r.moved.Broadcast()
	}()
	t.Cleanup(func() { _ = r.stop() })
	if from == 0 {
		r.await(t, 0, 1)
	}
	return r
}

func (r *replica) on(c wallet.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Seq < r.seq || (c.Seq == r.seq && len(r.steps) > 0 && len(c.Balances) == 0) {
		r.wrong = fmt.Sprintf("version %d came after %d", c.Seq, r.seq)
	}
	r.seq = c.Seq
	r.steps = append(r.steps, c)
	for _, b := range c.Balances {
		if old := r.held[b.Key]; b.Seq < old.Seq {
			r.wrong = fmt.Sprintf("balance %+v came after %+v", b, old)
		}
		r.held[b.Key] = b
		r.nonces[b.Key.Account] = max(r.nonces[b.Key.Account], b.Nonce)
	}
	r.moved.Broadcast()
}

func (r *replica) stop() error {
	r.cancel()
	<-r.ended
	return r.err
}

// await waits until the copy is at version seq and has seen that many steps.
func (r *replica) await(t *testing.T, seq uint64, steps int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for (r.seq < seq || len(r.steps) < steps) && !r.closed {
		r.moved.Wait()
	}
	if r.closed {
		t.Fatalf("the watch ended at version %d, waiting for %d: %v", r.seq, seq, r.err)
	}
	if r.wrong != "" {
		t.Fatal(r.wrong)
	}
}

// same compares the copy's figures with the ledger's.
func (r *replica) same(t *testing.T, f Fixture, keys ...wallet.BalanceKey) {
	t.Helper()
	for _, want := range lookup(t, f.Ledger, keys...) {
		r.mu.Lock()
		got := r.held[want.Key]
		got.Nonce = r.nonces[want.Key.Account]
		r.mu.Unlock()
		if got.Seq > want.Seq {
			t.Errorf("the copy of %s is of version %d, the ledger at %d", want.Key.Account, got.Seq, want.Seq)
		}
		if got.Seq = want.Seq; got != want {
			t.Errorf("the copy has %+v, the ledger %+v", got, want)
		}
	}
}

// testWatchFromNow: version 0 starts at the present one, which comes first and alone; ending the
// context ends the watch with its error.
func testWatchFromNow(t *testing.T, f Fixture) {
	n := newNames()
	before := commit(t, f.Ledger, issue(n, "alice", "ron", 1, 1))[0]
	r := follow(t, f, 0)
	if first := r.steps[0]; first.Seq < before.Seq || len(first.Balances) > 0 {
		t.Errorf("the first step is %+v, the ledger was at %d", first, before.Seq)
	}
	after := commit(t, f.Ledger, issue(n, "bob", "ron", 2, 1))[0]
	r.await(t, after.Seq, 2)
	if got := r.steps[1]; got.Seq != after.Seq || len(got.Balances) != 1 || got.Balances[0] != after.Balances[0] {
		t.Errorf("the step is %+v, want version %d with %+v", got, after.Seq, after.Balances[0])
	}
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled watch ended with %v", err)
	}
}

// testWatchKeepsCopy: copies kept by several watches over many parallel commits have every figure
// that a lookup has.
func testWatchKeepsCopy(t *testing.T, f Fixture) {
	copies := []*replica{follow(t, f, 0), follow(t, f, 0), follow(t, f, 0)}
	n := newNames()
	keys, last := churn(t, f, n, 4, 10, 6)
	for _, r := range copies {
		r.await(t, last, 1)
		r.same(t, f, keys...)
	}
}

// churn commits from several goroutines and returns the balances touched and the last version.
// Its changes are small against any backlog.
func churn(t *testing.T, f Fixture, n names, payers, calls, size int) (keys []wallet.BalanceKey, last uint64) {
	t.Helper()
	var mu sync.Mutex
	var running sync.WaitGroup
	for p := range payers {
		name := fmt.Sprint("p", p)
		keys = append(keys, n.balance(name, "ron"))
		running.Go(func() {
			for c := range calls {
				batch := make([]wallet.Payment, size)
				for i := range batch {
					nonce := uint64(c*size + i + 1) //nolint:gosec // small
					batch[i] = issue(n, name, "ron", 10, nonce)
					if i%2 == 1 {
						batch[i] = sign(wallet.Payment{
							Op: wallet.Transfer, From: n.account(name), To: n.account(fmt.Sprint("p", (p+1)%payers)), Asset: n.asset("ron"),
							Amount: wallet.Minor(3), Nonce: nonce, Idem: n.key(fmt.Sprint(name, "-", nonce)), Rules: generous(),
						})
					}
				}
				for _, r := range commit(panicker{}, f.Ledger, batch...) {
					mu.Lock()
					last = max(last, r.Seq)
					mu.Unlock()
				}
			}
		})
	}
	running.Wait()
	return keys, last
}

// testWatchShowsNonces: a copy knows the account's last debit nonce for every balance of the
// account, whichever asset was debited.
func testWatchShowsNonces(t *testing.T, f Fixture) {
	n := newNames()
	commit(t, f.Ledger, issue(n, "alice", "ron", 10, 1))
	r := follow(t, f, 0)
	pay := func(nonce uint64) wallet.Payment {
		return sign(wallet.Payment{
			Op: wallet.Burn, From: n.account("alice"), Asset: n.asset("ron"), Amount: wallet.Minor(1), Nonce: nonce,
			Idem: n.key(fmt.Sprint("b", nonce)), Rules: generous(),
		})
	}
	keys := []wallet.BalanceKey{n.balance("alice", "ron"), n.balance("alice", "eur"), n.balance("alice", "usd"), n.balance("alice", "chf")}
	commit(t, f.Ledger, issue(n, "alice", "eur", 10, 2), pay(1))
	commit(t, f.Ledger, pay(2), issue(n, "alice", "usd", 10, 3))
	commit(t, f.Ledger, issue(n, "alice", "chf", 10, 4))
	last := commit(t, f.Ledger, pay(3))[0]
	r.await(t, last.Seq, 1)
	r.same(t, f, keys...)
}

// testWatchResumes: a watch that starts after a version learns everything since, once.
func testWatchResumes(t *testing.T, f Fixture) {
	n := newNames()
	from := commit(t, f.Ledger, issue(n, "alice", "ron", 1, 1))[0].Seq
	keys, last := churn(t, f, n, 2, 5, 4)
	r := follow(t, f, from)
	r.await(t, last, 1)
	r.same(t, f, keys...)
	if r.steps[0].Seq <= from {
		t.Errorf("the first step is version %d, which the watcher had", r.steps[0].Seq)
	}
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled watch ended with %v", err)
	}

	r = follow(t, f, last) // nothing to catch up on
	next := commit(t, f.Ledger, issue(n, "alice", "ron", 1, 2))[0]
	r.await(t, next.Seq, 1)
	if len(r.steps) != 1 || r.steps[0].Seq != next.Seq {
		t.Errorf("steps after version %d: %+v", last, r.steps)
	}
}

// testWatchBacklog: who has too little, or more than there is, must start afresh.
func testWatchBacklog(t *testing.T, f Fixture) {
	n := newNames()
	first := commit(t, f.Ledger, issue(n, "alice", "ron", 1, 1))[0].Seq
	ctx := within(t)
	if err := f.Ledger.Watch(ctx, first+1, func(wallet.Change) {}); !errors.Is(err, wire.ErrBacklog) {
		t.Errorf("from a version that is not yet: %v", err)
	}
	if f.Backlog == 0 || f.Backlog > 4096 {
		t.Skip("needs a short backlog")
	}
	last := first
	for i := 0; i <= f.Backlog; i++ {
		last = commit(t, f.Ledger, issue(n, "alice", "ron", 1, uint64(i+2)))[0].Seq
	}
	if err := f.Ledger.Watch(ctx, first, func(wallet.Change) {}); !errors.Is(err, wire.ErrBacklog) {
		t.Errorf("from a version long gone: %v", err)
	}
	r := follow(t, f, last)
	r.await(t, commit(t, f.Ledger, issue(n, "bob", "ron", 1, 1))[0].Seq, 1)
}

// testWatchLagged: a watcher that stands still is cut off, and does not hold up anybody.
func testWatchLagged(t *testing.T, f Fixture) {
	if f.Backlog == 0 || f.Backlog > 4096 {
		t.Skip("needs a short backlog")
	}
	n := newNames()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	watching, leave := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		first := true
		ended <- f.Ledger.Watch(ctx, 0, func(wallet.Change) {
			if first {
				close(watching)
			} else {
				<-leave
			}
			first = false
		})
	}()
	<-watching
	other := follow(t, f, 0)
	// Buffers on the way, such as a connection's, hold some of it beside the backlog: this is 1.6 MB.
	const rounds, wide, asset = 110, 128, "a-name-of-20-letters"
	name := func(i int) string { return fmt.Sprintf("%050d", i) }
	last := uint64(0)
	for round := range uint64(rounds) {
		batch := make([]wallet.Payment, wide)
		for i := range batch {
			batch[i] = issue(n, name(i), asset, 1, round+1)
		}
		for _, r := range commit(t, f.Ledger, batch...) {
			last = max(last, r.Seq)
		}
		other.await(t, last, 1)
	}
	close(leave)
	if err := <-ended; !errors.Is(err, wire.ErrLagged) {
		t.Errorf("the slow watch ended with %v", err)
	}
	other.same(t, f, n.balance(name(0), asset), n.balance(name(wide-1), asset))
}
