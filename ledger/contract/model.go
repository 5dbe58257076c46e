package contract

import (
	"bytes"
	"math/big"
	"time"

	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

// model is the ledger as CONTRACT §2 tells it, in the plainest form: maps of big integers, looked
// up anew for every rule. It is slow, and as unlike an engine as can be.
type model struct {
	held   map[wallet.BalanceKey]*big.Int
	nonces map[lane]*big.Int
	moved  map[day]*big.Int
	issued map[wallet.Asset]*big.Int
	burned map[wallet.Asset]*big.Int
	paid   map[idem]wallet.Result
	prints map[idem][32]byte
	seq    uint64
	txid   wallet.TxID
	millis int64 // of the last commit
}

type (
	lane struct {
		account wallet.Account
		lane    wallet.Lane
	}
	day struct {
		lane
		asset wallet.Asset
		date  string
	}
	idem struct {
		account wallet.Account
		key     wallet.IdemKey
	}
)

func newModel() *model {
	return &model{
		held: map[wallet.BalanceKey]*big.Int{}, nonces: map[lane]*big.Int{}, moved: map[day]*big.Int{},
		issued: map[wallet.Asset]*big.Int{}, burned: map[wallet.Asset]*big.Int{},
		paid: map[idem]wallet.Result{}, prints: map[idem][32]byte{},
	}
}

func at[K comparable](m map[K]*big.Int, k K) *big.Int {
	if m[k] == nil {
		m[k] = new(big.Int)
	}
	return m[k]
}

func bigOf(a wallet.Amount) *big.Int {
	n, _ := new(big.Int).SetString(a.String(), 10)
	return n
}

func plus(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }

// most is 2^128-1.
func most() *big.Int { return bigOf(wallet.MaxAmount()) }

// judge says what must become of t at the time millis.
func (m *model) judge(t *wallet.Payment, millis int64) (code wallet.Code, next uint64) {
	millis = m.timeAt(millis)
	shape := [3]bool{!t.From.IsZero(), !t.To.IsZero(), t.From != t.To}
	want, known := map[wallet.Op][3]bool{
		wallet.Issue: {false, true, true}, wallet.Transfer: {true, true, true}, wallet.Burn: {true, false, true},
	}[t.Op]
	if !known || shape != want || t.Asset.IsZero() || t.Amount.IsZero() || t.Nonce == 0 || t.Idem.IsZero() {
		return wallet.BadRequest, 0
	}
	k := idem{t.Holder(), t.Idem}
	if _, ok := m.paid[k]; ok {
		if m.prints[k] == t.Fingerprint {
			return wallet.Replayed, 0
		}
		return wallet.KeyReused, 0
	}

	l := lane{t.Holder(), t.Lane()}
	lo := plus(at(m.nonces, l), big.NewInt(1))
	if start := new(big.Int).SetUint64(t.Rules.NonceStart); start.Cmp(lo) > 0 {
		lo = start
	}
	hi := plus(lo, new(big.Int).SetUint64(t.Rules.NonceMaxGap))
	if n := new(big.Int).SetUint64(t.Nonce); n.Cmp(lo) < 0 || n.Cmp(hi) >= 0 {
		if !lo.IsUint64() {
			return wallet.NonceConflict, 0
		}
		return wallet.NonceConflict, lo.Uint64()
	}

	amount := bigOf(t.Amount)
	today := day{l, t.Asset, date(millis)}
	if plus(at(m.moved, today), amount).Cmp(bigOf(t.Rules.DailyCeiling)) > 0 {
		return wallet.LimitsExceeded, 0
	}
	if !t.To.IsZero() && plus(at(m.held, wallet.BalanceKey{Account: t.To, Asset: t.Asset}), amount).Cmp(bigOf(t.Rules.MaxAccountTotal)) > 0 {
		return wallet.LimitsExceeded, 0
	}
	if t.Op == wallet.Issue && plus(at(m.issued, t.Asset), amount).Cmp(most()) > 0 {
		return wallet.LimitsExceeded, 0
	}
	if !t.From.IsZero() && at(m.held, wallet.BalanceKey{Account: t.From, Asset: t.Asset}).Cmp(amount) < 0 {
		return wallet.InsufficientFunds, 0
	}
	return wallet.OK, 0
}

// apply does what the ledger says it did.
func (m *model) apply(t *wallet.Payment, r *wallet.Result) {
	amount := bigOf(t.Amount)
	m.millis, m.seq, m.txid = r.Receipt.Millis, r.Seq, r.Receipt.TxID
	l := lane{t.Holder(), t.Lane()}
	m.nonces[l] = new(big.Int).SetUint64(t.Nonce)
	today := day{l, t.Asset, date(r.Receipt.Millis)}
	for d := range m.moved {
		if d.lane == l && d.asset == t.Asset && d != today {
			delete(m.moved, d) // a ledger knows the day of the last move only
		}
	}
	m.moved[today] = plus(at(m.moved, today), amount)
	if t.From.IsZero() {
		m.issued[t.Asset] = plus(at(m.issued, t.Asset), amount)
	} else {
		k := wallet.BalanceKey{Account: t.From, Asset: t.Asset}
		m.held[k] = new(big.Int).Sub(at(m.held, k), amount)
	}
	if t.To.IsZero() {
		m.burned[t.Asset] = plus(at(m.burned, t.Asset), amount)
	} else {
		k := wallet.BalanceKey{Account: t.To, Asset: t.Asset}
		m.held[k] = plus(at(m.held, k), amount)
	}
	m.paid[idem{t.Holder(), t.Idem}] = *r
	m.prints[idem{t.Holder(), t.Idem}] = t.Fingerprint
}

// slack is how far a commit may lie ahead of the clock and still be right (docs/decisions/030).
const slack = 5 * time.Minute

// timeAt is when the next commit takes place by the model, where the clock says millis.
func (m *model) timeAt(millis int64) int64 {
	if m.millis-millis > slack.Milliseconds() {
		return millis
	}
	return max(millis, m.millis)
}

func date(millis int64) string { return time.UnixMilli(millis).UTC().Format(time.DateOnly) }

// step takes one result of the ledger: it must be what the model says, and then the model does it.
func (m *model) step(t fataler, tr *wallet.Payment, r *wallet.Result, millis int64) {
	code, next := m.judge(tr, millis)
	if r.Code != code || r.NextNonce != next {
		t.Fatalf("%+v:\nthe ledger says %s, next nonce %d;\nthe model says %s, next nonce %d", tr, codeName(r.Code), r.NextNonce, codeName(code), next)
	}
	switch code {
	case wallet.OK:
		m.checkReceipt(t, tr, r, millis)
		m.apply(tr, r)
		m.checkFigures(t, tr, r)
	case wallet.Replayed:
		first := m.paid[idem{tr.Holder(), tr.Idem}]
		if !bytes.Equal(r.Receipt.AppendJSON(nil), first.Receipt.AppendJSON(nil)) || r.Seq != first.Seq {
			t.Fatalf("replay of %+v, version %d, is %+v, version %d", first.Receipt, first.Seq, r.Receipt, r.Seq)
		}
	case wallet.LimitsExceeded:
		m.checkLimit(t, tr, r, millis)
	default:
		if r.Limit != wallet.NoLimit || !r.Remaining.IsZero() || r.ResetsAt != 0 {
			t.Fatalf("refusal %s tells of a limit: %+v", codeName(code), r)
		}
	}
	if code != wallet.OK && code != wallet.Replayed {
		if r.Seq != 0 || r.Receipt != (wallet.Receipt{}) || r.Balances != [2]wallet.Balance{} || !r.DayTotal.IsZero() {
			t.Fatalf("refusal %s says more than it may: %+v", codeName(code), r)
		}
	}
}

// checkLimit: what a ledger tells of the limit that tr ran into is so. It need not tell it.
func (m *model) checkLimit(t fataler, tr *wallet.Payment, r *wallet.Result, millis int64) {
	if r.Limit == wallet.NoLimit {
		return
	}
	millis = m.timeAt(millis)
	limit, used := bigOf(tr.Rules.DailyCeiling), at(m.moved, day{lane{tr.Holder(), tr.Lane()}, tr.Asset, date(millis)})
	resets := r.ResetsAt == 0
	switch r.Limit {
	case wallet.DailyCeiling: // at a midnight; millis may be that of the last commit
		resets = r.ResetsAt > millis && r.ResetsAt%(24*time.Hour).Milliseconds() == 0
	case wallet.AccountTotal:
		limit, used = bigOf(tr.Rules.MaxAccountTotal), at(m.held, wallet.BalanceKey{Account: tr.To, Asset: tr.Asset})
	case wallet.SupplyTotal:
		limit, used = most(), at(m.issued, tr.Asset)
	default:
		t.Fatalf("no such limit: %d", r.Limit)
	}
	left := new(big.Int).Sub(limit, used)
	if left.Sign() < 0 {
		left.SetInt64(0)
	}
	if bigOf(tr.Amount).Cmp(left) <= 0 || bigOf(r.Remaining).Cmp(left) != 0 || !resets {
		t.Fatalf("%+v is refused by limit %d with %s remaining until %d; the model says %s", tr, r.Limit, r.Remaining, r.ResetsAt, left)
	}
}

func (m *model) checkReceipt(t fataler, tr *wallet.Payment, r *wallet.Result, millis int64) {
	got := r.Receipt
	want := wallet.Receipt{
		TxID: got.TxID, Op: tr.Op, From: tr.From, To: tr.To, Asset: tr.Asset, Amount: tr.Amount,
		Nonce: tr.Nonce, Idem: tr.Idem, Millis: got.Millis,
	}
	if got != want {
		t.Fatalf("receipt is %+v, want %+v", got, want)
	}
	if r.Seq <= m.seq || bytes.Compare(got.TxID[:], m.txid[:]) <= 0 || got.Millis < m.timeAt(millis) {
		t.Fatalf("version %d, %s at %d ms does not follow version %d, %s at %d ms", r.Seq, got.TxID, got.Millis, m.seq, m.txid, m.timeAt(millis))
	}
}

func (m *model) checkFigures(t fataler, tr *wallet.Payment, r *wallet.Result) {
	var want [2]wallet.Balance
	n := 0
	for _, account := range []wallet.Account{tr.From, tr.To} {
		if !account.IsZero() {
			want[n] = m.figure(wallet.BalanceKey{Account: account, Asset: tr.Asset}, r.Seq)
			n++
		}
	}
	if r.Balances != want {
		t.Fatalf("balances after %+v are %+v, want %+v", tr, r.Balances, want)
	}
	total := at(m.moved, day{lane{tr.Holder(), tr.Lane()}, tr.Asset, date(r.Receipt.Millis)})
	if !r.DayTotal.IsZero() && bigOf(r.DayTotal).Cmp(total) != 0 { // a ledger need not tell it
		t.Fatalf("the day's total after %+v is %s, want %s", tr, r.DayTotal, total)
	}
}

// figure is what a balance must read as.
func (m *model) figure(k wallet.BalanceKey, seq uint64) wallet.Balance {
	return wallet.Balance{
		Key: k, Amount: wallet.Must(wallet.ParseAmount(at(m.held, k).String())),
		Nonce: at(m.nonces, lane{k.Account, wallet.DebitLane}).Uint64(), Seq: seq,
	}
}

// check compares every balance with the ledger's, and the sums with each other.
func (m *model) check(t fataler, l ledger.Ledger) {
	keys := make([]wallet.BalanceKey, 0, len(m.held))
	for k := range m.held {
		keys = append(keys, k)
	}
	sums := map[wallet.Asset]*big.Int{}
	for _, got := range lookup(t, l, keys...) {
		if got.Seq < m.seq {
			t.Fatalf("balance of version %d was read after version %d was answered", got.Seq, m.seq)
		}
		if want := m.figure(got.Key, got.Seq); got != want {
			t.Fatalf("balance is %+v, want %+v", got, want)
		}
		sums[got.Key.Asset] = plus(at(sums, got.Key.Asset), bigOf(got.Amount))
	}
	for asset, sum := range sums {
		if want := new(big.Int).Sub(at(m.issued, asset), at(m.burned, asset)); sum.Cmp(want) != 0 {
			t.Fatalf("money of %s is not conserved: balances sum to %s, issued less burned is %s", asset, sum, want)
		}
	}
}

// codeName tells the codes apart that have one name on the wire.
func codeName(c wallet.Code) string {
	switch c {
	case wallet.OK:
		return "ok"
	case wallet.Replayed:
		return "replayed"
	case wallet.Uncertain:
		return "uncertain"
	default:
		return c.Name()
	}
}
