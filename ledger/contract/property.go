package contract

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// testEmptyBatch: a batch of nothing is decided, by doing nothing.
func testEmptyBatch(t *testing.T, f Fixture) {
	commit(t, f.Ledger)
	lookup(t, f.Ledger)
}

// testEndedContext: a call whose context has ended fails, leaves its results alone, and may be
// repeated.
func testEndedContext(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	n := newNames()
	batch := []wallet.Payment{issue(n, "alice", "ron", 5, 1)}
	mark := wallet.Result{Seq: 77}
	out := []wallet.Result{mark}
	if err := f.Ledger.Commit(ctx, batch, out); err == nil || out[0] != mark {
		t.Fatalf("commit in an ended context: %v, %+v", err, out[0])
	}
	if err := f.Ledger.Lookup(ctx, []wallet.BalanceKey{n.balance("alice", "ron")}, make([]wallet.Balance, 1)); err == nil {
		t.Error("lookup in an ended context has an answer")
	}
	if _, _, err := f.Ledger.Transaction(ctx, wallet.TxID{1}); err == nil || errors.Is(err, wallet.NotFound) {
		t.Errorf("transaction in an ended context: %v", err)
	}
	if _, _, err := f.Ledger.Payment(ctx, n.account("alice"), n.key("k")); err == nil || errors.Is(err, wallet.NotFound) {
		t.Errorf("payment in an ended context: %v", err)
	}
	if err := f.Ledger.Watch(ctx, 0, func(wallet.Change) {}); err == nil {
		t.Error("watch in an ended context ended well")
	}
	if code := commit(t, f.Ledger, batch...)[0].Code; code.Outcome() != wallet.Applied {
		t.Errorf("the repeated call: %s", code)
	}
	if got := lookup(t, f.Ledger, n.balance("alice", "ron"))[0].Amount; got != wallet.Minor(5) {
		t.Errorf("balance is %s, want 5", got)
	}
}

// testNoSuchTransaction: an id that names nothing is NotFound.
func testNoSuchTransaction(t *testing.T, f Fixture) {
	for _, id := range []wallet.TxID{{}, {1}, {0: 0xff, 15: 0xff}} {
		if _, _, err := f.Ledger.Transaction(within(t), id); !errors.Is(err, wallet.NotFound) {
			t.Errorf("%s: %v, want NotFound", id, err)
		}
	}
}

// testTransaction: each receipt is found under its id as soon as it was answered, byte for byte,
// for every operation and for keys with every odd character.
func testTransaction(t *testing.T, f Fixture) {
	n := newNames()
	odd := issue(n, "alice", "ron", 100, 1)
	odd.Idem = wallet.Must(wallet.ParseIdemKey(`"\"` + n.prefix + `\\!~"`))
	pay := wallet.Payment{Op: wallet.Transfer, From: n.account("alice"), To: n.account("bob"), Asset: n.asset("ron"), Amount: wallet.Minor(1), Nonce: 1, Idem: n.key("p"), Rules: generous()}
	burn := pay
	burn.Op, burn.To, burn.Nonce, burn.Idem = wallet.Burn, wallet.Account{}, 2, n.key("b")
	for _, r := range commit(t, f.Ledger, sign(odd), sign(pay), sign(burn)) {
		if r.Code != wallet.OK {
			t.Fatalf("commit: %s", r.Code)
		}
		got, seq, err := f.Ledger.Transaction(within(t), r.Receipt.TxID)
		if err != nil || seq != r.Seq || got != r.Receipt {
			t.Errorf("%+v of version %d reads as %+v of version %d, %v", r.Receipt, r.Seq, got, seq, err)
		}
		if _, err := wallet.VerifyReceipt(got.AppendJSON(nil)); err != nil {
			t.Error(err)
		}
	}
}

// testPayment: each receipt is found by the account that paid and its key, as soon as it was
// answered and however old it is; a key is its account's own, of whatever operation.
func testPayment(t *testing.T, f Fixture) {
	n := newNames()
	pay := wallet.Payment{Op: wallet.Transfer, From: n.account("alice"), To: n.account("bob"), Asset: n.asset("ron"), Amount: wallet.Minor(1), Nonce: 1, Idem: n.key(`"\p`), Rules: generous()}
	burn := pay
	burn.Op, burn.From, burn.To, burn.Nonce = wallet.Burn, n.account("bob"), wallet.Account{}, 1
	made := []wallet.Payment{issue(n, "alice", "ron", 100, 1), sign(pay), sign(burn)}
	results := commit(t, f.Ledger, made...)
	if f.Clock != nil {
		f.Clock.Advance(100 * time.Hour) // longer than any sidecar remembers
		commit(t, f.Ledger, issue(n, "carol", "ron", 1, 1))
	}
	for i, r := range results {
		got, seq, err := f.Ledger.Payment(within(t), made[i].Holder(), made[i].Idem)
		if err != nil || r.Code != wallet.OK || seq != r.Seq || got != r.Receipt {
			t.Errorf("%+v of version %d reads as %+v of version %d, %v", r.Receipt, r.Seq, got, seq, err)
		}
		if again := commit(t, f.Ledger, made[i])[0]; again.Code != wallet.Replayed || again.Receipt != r.Receipt {
			t.Errorf("%+v repeated is %s", made[i], codeName(again.Code))
		}
	}
	if _, _, err := f.Ledger.Payment(within(t), n.account("carol"), made[1].Idem); !errors.Is(err, wallet.NotFound) {
		t.Errorf("another account's key: %v, want NotFound", err)
	}
	if _, _, err := f.Ledger.Payment(within(t), n.account("alice"), n.key("never")); !errors.Is(err, wallet.NotFound) {
		t.Errorf("a key that was never used: %v, want NotFound", err)
	}
}

// testDayTotal: the total of the day is what the payer's lane has moved of the asset, by every
// operation of the lane; of lanes, accounts and assets each has its own, and a replay tells none.
func testDayTotal(t *testing.T, f Fixture) {
	n := newNames()
	pay := sign(wallet.Payment{Op: wallet.Transfer, From: n.account("alice"), To: n.account("bob"), Asset: n.asset("ron"), Amount: wallet.Minor(7), Nonce: 1, Idem: n.key("p"), Rules: generous()})
	burn := pay
	burn.Op, burn.To, burn.Nonce, burn.Idem = wallet.Burn, wallet.Account{}, 2, n.key("b")
	batch := []wallet.Payment{issue(n, "alice", "ron", 100, 1), issue(n, "alice", "eur", 5, 2), issue(n, "alice", "ron", 10, 3), pay, sign(burn), pay}
	out := commit(t, f.Ledger, batch...)
	for i, want := range []uint64{100, 5, 110, 7, 14, 0} {
		switch got := out[i].DayTotal; {
		case out[i].Code.Outcome() != wallet.Applied:
			t.Errorf("%+v: %s", batch[i], out[i].Code)
		case got.IsZero() && (want == 0 || !f.DayTotal):
		case date(out[0].Receipt.Millis) != date(out[i].Receipt.Millis): // midnight passed
		case got != wallet.Minor(want):
			t.Errorf("after %+v the day's total is %s, want %d", batch[i], got, want)
		}
	}
}

// testLimitsTell: a payment that runs into a limit is told which one, how much would have passed and
// when that changes by itself; a smaller payment of just so much then passes.
func testLimitsTell(t *testing.T, f Fixture) {
	n := newNames()
	under := func(daily, total wallet.Amount, tr wallet.Payment) wallet.Payment {
		tr.Rules.DailyCeiling, tr.Rules.MaxAccountTotal = daily, total
		return tr
	}
	wide := wallet.MaxAmount()
	commit(t, f.Ledger, issue(n, "alice", "ron", 100, 1))
	commit(t, f.Ledger, sign(wallet.Payment{
		Op: wallet.Issue, To: n.account("whale"), Asset: n.asset("usd"), Amount: wallet.MaxAmount(), Nonce: 1, Idem: n.key("w"), Rules: generous(),
	}))
	for _, c := range []struct {
		transfer  wallet.Payment
		limit     wallet.Limit
		remaining uint64
		resets    bool
	}{
		{under(wallet.Minor(130), wide, issue(n, "alice", "ron", 31, 2)), wallet.DailyCeiling, 30, true},
		{under(wallet.Minor(99), wide, issue(n, "alice", "ron", 1, 2)), wallet.DailyCeiling, 0, true},
		{under(wide, wallet.Minor(110), issue(n, "alice", "ron", 11, 2)), wallet.AccountTotal, 10, false},
		{under(wide, wallet.Minor(50), issue(n, "alice", "ron", 1, 2)), wallet.AccountTotal, 0, false},
		{under(wide, wide, issue(n, "alice", "usd", 1, 2)), wallet.SupplyTotal, 0, false},
	} {
		r := commit(t, f.Ledger, c.transfer)[0]
		if r.Code != wallet.LimitsExceeded {
			t.Fatalf("%+v: %s", c.transfer, codeName(r.Code))
		}
		if r.Limit == wallet.NoLimit && !f.TellsLimits {
			continue
		}
		if r.Limit != c.limit || r.Remaining != wallet.Minor(c.remaining) || (r.ResetsAt > 0) != c.resets {
			t.Errorf("%+v ran into limit %d, %s remaining, resets at %d; want limit %d, %d remaining", c.transfer, r.Limit, r.Remaining, r.ResetsAt, c.limit, c.remaining)
		}
		if f.Clock != nil && c.resets {
			if now := f.Clock.Now() / 1e6; r.ResetsAt <= now || r.ResetsAt > now+(24*time.Hour).Milliseconds() || r.ResetsAt%(24*time.Hour).Milliseconds() != 0 {
				t.Errorf("the day of %d begins anew at %d", now, r.ResetsAt)
			}
		}
	}
	if r := commit(t, f.Ledger, under(wallet.Minor(130), wallet.Minor(130), issue(n, "alice", "ron", 30, 2)))[0]; r.Code != wallet.OK {
		t.Errorf("what remained does not pass: %s", codeName(r.Code))
	}
}

// testRandomBatches: whatever is sent in whatever order, each result and each balance is what the
// model says, and money is conserved. rapid prints the seed.
func testRandomBatches(t *testing.T, f Fixture) {
	rapid.Check(t, func(rt *rapid.T) {
		g := generator{names: newNames(), clock: f.Clock}
		m := newModel()
		for range rapid.IntRange(1, 8).Draw(rt, "calls") {
			if f.Clock != nil {
				f.Clock.Advance(rapid.SampledFrom([]time.Duration{0, time.Microsecond, time.Second, 9 * time.Hour, 24 * time.Hour}).Draw(rt, "advance"))
			}
			batch := rapid.SliceOfN(rapid.Custom(g.draw), 1, 12).Draw(rt, "batch")
			out := commit(rt, f.Ledger, batch...)
			for i := range out {
				millis := m.millis
				if f.Clock != nil {
					millis = f.Clock.Now() / 1e6
				} else if out[i].Code == wallet.OK {
					millis = out[i].Receipt.Millis
				}
				m.step(rt, &batch[i], &out[i], millis)
			}
			m.check(rt, f.Ledger)
		}
	})
}

// generator draws transfers from a space so small that every rule is hit often.
type generator struct {
	names names
	clock Clock
}

func (g generator) draw(rt *rapid.T) wallet.Payment {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(rt, label) }
	account := func(label string) (a wallet.Account) {
		if s := pick(label, "a", "b", "c", "d", "a", "b", "c", "d", "a", "b", "c", "d", ""); s != "" {
			a = g.names.account(s)
		}
		return a
	}
	t := wallet.Payment{
		Op:     rapid.SampledFrom([]wallet.Op{wallet.Issue, wallet.Transfer, wallet.Transfer, wallet.Burn, wallet.NoOp}).Draw(rt, "op"),
		Asset:  g.names.asset(pick("asset", "x", "y")),
		Amount: rapid.Custom(drawAmount).Draw(rt, "amount"),
		Nonce:  rapid.OneOf(rapid.Uint64Range(0, 12), rapid.Uint64()).Draw(rt, "nonce"),
		Idem:   g.names.key(pick("key", "1", "2", "3", "4", "5", "6", "7", "8", "9")),
		Rules:  generous(),
	}
	if t.Op != wallet.Issue {
		t.From = account("from")
	}
	if t.Op != wallet.Burn {
		t.To = account("to")
	}
	if rapid.Bool().Draw(rt, "strict") {
		t.Rules.MaxAccountTotal = rapid.Custom(drawAmount).Draw(rt, "total")
		t.Rules.NonceStart = rapid.Uint64Range(0, 4).Draw(rt, "start")
		t.Rules.NonceMaxGap = rapid.Uint64Range(0, 4).Draw(rt, "gap")
		if g.clock != nil { // else the time between two calls is not known
			t.Rules.DailyCeiling = rapid.Custom(drawAmount).Draw(rt, "daily")
		}
	}
	return sign(t)
}

func drawAmount(rt *rapid.T) wallet.Amount {
	return rapid.OneOf(
		rapid.Custom(func(rt *rapid.T) wallet.Amount { return wallet.Minor(rapid.Uint64Range(0, 100).Draw(rt, "minor")) }),
		rapid.Custom(func(rt *rapid.T) wallet.Amount {
			return wallet.AmountFromBits(rapid.Uint64().Draw(rt, "hi"), rapid.Uint64().Draw(rt, "lo"))
		}),
		rapid.Just(wallet.MaxAmount()),
	).Draw(rt, "amount")
}

func issue(n names, to, asset string, minor, nonce uint64) wallet.Payment {
	return sign(wallet.Payment{
		Op: wallet.Issue, To: n.account(to), Asset: n.asset(asset), Amount: wallet.Minor(minor), Nonce: nonce,
		Idem: n.key(fmt.Sprint("i", nonce)), Rules: generous(),
	})
}

// answered is one transfer with its result, and when its call began and ended on one clock.
type answered struct {
	transfer   wallet.Payment
	result     wallet.Result
	begin, end uint64
}

// testManyAtOnce: payers in parallel, one of them a cheat that repeats itself, on few accounts.
// Every version that was answered is a step of one history, which the model can follow; calls
// that did not overlap are in it in their order; every reader sees its own writes and, in any one
// version, all the money.
func testManyAtOnce(t *testing.T, f Fixture) {
	const payers, calls, funds = 8, 20, 1000
	seed := rand.Uint64() //nolint:gosec // a choice of the test
	t.Logf("seed %d", seed)
	n := newNames()
	m := newModel()
	keys := make([]wallet.BalanceKey, payers)
	for i := range payers {
		keys[i] = n.balance(fmt.Sprint("p", i), "ron")
		tr := issue(n, fmt.Sprint("p", i), "ron", funds, 1)
		r := commit(t, f.Ledger, tr)[0]
		m.step(t, &tr, &r, r.Receipt.Millis)
	}

	history := payAtOnce(n, f, keys, seed, calls, funds)
	applied := inOrder(t, history)
	m.follow(t, applied, history)
	m.check(t, f.Ledger)
	t.Logf("%d payments applied", len(applied))
}

// payAtOnce has a payer for each key call many times, all at the same time, and returns what each was
// answered.
func payAtOnce(n names, f Fixture, keys []wallet.BalanceKey, seed uint64, calls int, funds uint64) [][]answered {
	var clock atomic.Uint64
	history := make([][]answered, len(keys))
	var running sync.WaitGroup
	for p := range keys {
		running.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(p))) //nolint:gosec // a test's choice
			nonce := uint64(0)
			for range calls {
				batch := make([]wallet.Payment, 1+rng.IntN(16))
				for i := range batch {
					if len(history[p]) > 0 && rng.IntN(5) == 0 {
						batch[i] = history[p][rng.IntN(len(history[p]))].transfer
						continue
					}
					nonce++
					batch[i] = sign(wallet.Payment{
						Op: wallet.Transfer, From: keys[p].Account, To: keys[(p+1+rng.IntN(len(keys)-1))%len(keys)].Account, Asset: keys[p].Asset,
						Amount: wallet.Minor(1 + rng.Uint64N(funds)), Nonce: nonce, Idem: n.key(fmt.Sprint(p, "-", nonce)), Rules: generous(),
					})
				}
				begin := clock.Add(1)
				out := commit(panicker{}, f.Ledger, batch...)
				end := clock.Add(1)
				newest := uint64(0)
				for i := range out {
					history[p] = append(history[p], answered{batch[i], out[i], begin, end})
					newest = max(newest, out[i].Seq)
				}
				checkSnapshot(panicker{}, lookup(panicker{}, f.Ledger, keys...), newest, uint64(len(keys))*funds)
			}
		})
	}
	running.Wait()
	return history
}

// inOrder are the payments that were applied, by version.
func inOrder(t *testing.T, history [][]answered) (applied []answered) {
	t.Helper()
	for _, h := range history {
		for _, a := range h {
			switch a.result.Code {
			case wallet.OK:
				applied = append(applied, a)
			case wallet.Replayed, wallet.InsufficientFunds, wallet.NonceConflict:
			default:
				t.Errorf("%s of %+v", codeName(a.result.Code), a.transfer)
			}
		}
	}
	slices.SortFunc(applied, func(a, b answered) int { return int(a.result.Seq) - int(b.result.Seq) }) //nolint:gosec // small
	return applied
}

// follow takes the payments one after the other, as versions say that they were applied, and then the
// repeats: calls that did not overlap must be in their order.
func (m *model) follow(t *testing.T, applied []answered, history [][]answered) {
	t.Helper()
	latest := uint64(0) // when the latest call so far began
	for i := range applied {
		a := &applied[i]
		if a.end < latest {
			t.Fatalf("version %d was answered before a call with an older version began", a.result.Seq)
		}
		latest = max(latest, a.begin)
		m.step(t, &a.transfer, &a.result, a.result.Receipt.Millis)
	}
	for _, h := range history {
		for i := range h {
			if h[i].result.Code == wallet.Replayed {
				m.step(t, &h[i].transfer, &h[i].result, m.millis)
			}
		}
	}
}

// checkSnapshot checks that a reader sees its own writes, and all the money where its figures are
// of one version.
func checkSnapshot(t fataler, got []wallet.Balance, newest, total uint64) {
	var sum wallet.Amount
	for _, b := range got {
		if b.Seq < newest {
			t.Fatalf("a balance of version %d was read after version %d was answered", b.Seq, newest)
		}
		if b.Seq != got[0].Seq {
			return
		}
		sum, _ = sum.Add(b.Amount)
	}
	if sum != wallet.Minor(total) {
		t.Fatalf("version %d holds %s, want %d", got[0].Seq, sum, total)
	}
}

// panicker fails a test from goroutines that are not the test's.
type panicker struct{}

func (panicker) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// testSameKeyAtOnce: one payment sent many times at once is made once, and all learn the same.
func testSameKeyAtOnce(t *testing.T, f Fixture) {
	n := newNames()
	tr := issue(n, "alice", "ron", 5, 1)
	results := make([]wallet.Result, 32)
	var running sync.WaitGroup
	for i := range results {
		running.Go(func() { results[i] = commit(panicker{}, f.Ledger, tr)[0] })
	}
	running.Wait()
	first := slices.IndexFunc(results, func(r wallet.Result) bool { return r.Code == wallet.OK })
	if first < 0 {
		t.Fatal("nobody was first")
	}
	for i, r := range results {
		if i != first && (r.Code != wallet.Replayed || r.Receipt != results[first].Receipt || r.Seq != results[first].Seq) {
			t.Errorf("call %d: %s, %+v; the first was %+v", i, codeName(r.Code), r.Receipt, results[first].Receipt)
		}
	}
	if got := lookup(t, f.Ledger, n.balance("alice", "ron"))[0].Amount; got != wallet.Minor(5) {
		t.Errorf("balance is %s, want 5", got)
	}
}
