package ledger

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// TestMain sees to it that no test leaves a goroutine behind, but for those that hystrix keeps for
// each circuit, and those of ants' default pool, which are there before the first test.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreCurrent(),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*metricExchange).Monitor"),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*poolMetrics).Monitor"),
	)
}

func clock() int64 { return time.Now().UnixNano() }

// soon is a deadline that tests do not reach.
func soon() int64 { return clock() + int64(10*time.Second) }

func testLimits() config.Limits {
	return config.Limits{
		InFlight: 256, Queue: 512, BatchMax: 256, StalenessWindow: 250 * time.Millisecond,
		LedgerTimeout: time.Second, Retries: 3,
		BreakerErrors: 20, BreakerOpenFor: 5 * time.Second, BreakerProbes: 10,
	}
}

// liveLimits puts the test limits, changed by change, in force.
func liveLimits(change func(*config.Limits)) *config.Live {
	l := testLimits()
	if change != nil {
		change(&l)
	}
	live := new(config.Live)
	live.Store(&l)
	return live
}

var circuits atomic.Int32

// newTestBreaker has a circuit of its own. Outside of synctest bubbles only: hystrix' goroutines
// never end.
func newTestBreaker(live *config.Live, now func() int64) *Breaker {
	return NewBreaker(fmt.Sprintf("test-%d", circuits.Add(1)), live, now)
}

func account(i int) wallet.Account {
	return wallet.Must(wallet.ParseAccount(fmt.Sprintf("acc_%d", i)))
}

var (
	ron  = wallet.Must(wallet.ParseAsset("ron"))
	alba = wallet.Must(wallet.ParseAsset("alba"))
)

// payment is an issue to account i with key and nonce n.
func payment(i int, n uint64) *wallet.Payment {
	t := &wallet.Payment{
		Op: wallet.Issue, To: account(i), Asset: ron, Amount: wallet.Minor(1), Nonce: n,
		Idem: wallet.Must(wallet.ParseIdemKey(fmt.Sprintf("key-%d-%d", i, n))),
	}
	t.Fingerprint = t.Hash()
	return t
}

// bank is a ledger for tests: it applies every transfer once, by holder and key, and refuses a
// transfer of amount 13. Its hooks see every batch.
type bank struct {
	before func(ctx context.Context, batch []wallet.Payment) error // nothing has happened yet
	after  func(batch []wallet.Payment) error                      // it has happened

	mu      sync.Mutex
	seq     uint64
	amounts map[wallet.BalanceKey]wallet.Amount
	nonces  map[wallet.Account]uint64
	applied map[string]wallet.Result
	calls   int
	batches []int
	on      func(wallet.Change)
	lookup  func(ctx context.Context, keys []wallet.BalanceKey) error
	find    func(ctx context.Context) error
	lookups int
	looked  []wallet.Origin
}

func newBank() *bank {
	return &bank{
		amounts: map[wallet.BalanceKey]wallet.Amount{}, nonces: map[wallet.Account]uint64{},
		applied: map[string]wallet.Result{},
	}
}

func (k *bank) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	k.mu.Lock()
	k.calls++
	k.batches = append(k.batches, len(batch))
	k.mu.Unlock()
	if k.before != nil {
		if err := k.before(ctx, batch); err != nil {
			return err
		}
	}
	k.mu.Lock()
	results := make([]wallet.Result, len(batch))
	for i := range batch {
		results[i] = k.apply(&batch[i])
	}
	k.mu.Unlock()
	if k.after != nil {
		if err := k.after(batch); err != nil {
			return err
		}
	}
	copy(out, results)
	return nil
}

func (k *bank) apply(t *wallet.Payment) wallet.Result {
	name := t.Holder().String() + "/" + t.Idem.String()
	if r, ok := k.applied[name]; ok {
		r.Code, r.Balances = wallet.Replayed, [2]wallet.Balance{}
		return r
	}
	if t.Amount == wallet.Minor(13) {
		return wallet.Result{Code: wallet.InsufficientFunds}
	}
	k.seq++
	r := wallet.Result{Code: wallet.OK, Seq: k.seq, Receipt: wallet.Receipt{Op: t.Op, Idem: t.Idem, Nonce: t.Nonce}}
	for i, a := range [...]wallet.Account{t.From, t.To} {
		if a.IsZero() {
			continue
		}
		key := wallet.BalanceKey{Account: a, Asset: t.Asset}
		if a == t.From {
			k.amounts[key], _ = k.amounts[key].Sub(t.Amount)
			k.nonces[a] = t.Nonce
		} else {
			k.amounts[key], _ = k.amounts[key].Add(t.Amount)
		}
		r.Balances[i] = k.balance(key)
	}
	k.applied[name] = r
	if k.on != nil {
		c := wallet.Change{Seq: k.seq}
		for _, b := range r.Balances {
			if !b.Key.Account.IsZero() {
				c.Balances = append(c.Balances, b)
			}
		}
		k.on(c)
	}
	return r
}

func (k *bank) balance(key wallet.BalanceKey) wallet.Balance {
	return wallet.Balance{Key: key, Amount: k.amounts[key], Nonce: k.nonces[key.Account], Seq: k.seq}
}

func (k *bank) Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error {
	k.mu.Lock()
	k.lookups++
	origins, _ := ctx.Value(originsKey{}).([]wallet.Origin)
	k.looked = append(k.looked, origins...)
	hook := k.lookup
	k.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, keys); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, key := range keys {
		out[i] = k.balance(key)
	}
	return nil
}

func (k *bank) Transaction(ctx context.Context, _ wallet.TxID) (wallet.Receipt, uint64, error) {
	if k.find != nil {
		return wallet.Receipt{}, 0, k.find(ctx)
	}
	return wallet.Receipt{}, 0, wallet.NotFound
}

func (k *bank) Payment(ctx context.Context, _ wallet.Account, _ wallet.IdemKey) (wallet.Receipt, uint64, error) {
	return k.Transaction(ctx, wallet.TxID{})
}

func (k *bank) Watch(ctx context.Context, _ uint64, on func(wallet.Change)) error {
	k.mu.Lock()
	k.on = on
	on(wallet.Change{Seq: k.seq})
	k.mu.Unlock()
	<-ctx.Done()
	k.mu.Lock()
	k.on = nil
	k.mu.Unlock()
	return ctx.Err()
}
