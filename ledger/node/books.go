package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"

	"svc-wallet/wallet"
)

// store is where rows lie when the books do not hold them. What was never seen is the zero row.
// An error means that the row cannot be read, and so that nothing can be decided that needs it.
type store interface {
	account(wallet.Account) (accountRow, error)
	balance(wallet.BalanceKey) (balanceRow, error)
	supply(wallet.Asset) (supplyRow, error)
	key(keyHash) (*receiptRow, error) // the payment that was made under it; nil: none
}

// books are the rows in memory that payments are decided on, one group of them after the
// other: begin, decide for each, then settle or rollback. They belong to one goroutine.
//
// What a group changed exists only here until the store has it, which may be some groups later.
// settle is told how far the store has come, and lets go only of rows that are in it.
type books struct {
	store   store
	entropy io.Reader

	accounts table[wallet.Account, accountRow]
	balances table[wallet.BalanceKey, balanceRow]
	supplies table[wallet.Asset, supplyRow]
	keys     table[keyHash, *receiptRow]

	head     head                  // after the last decided payment
	was      head                  // at begin
	millis   int64                 // commit time of this group
	wentBack func(last, now int64) // told of a commit whose time is before the last one's, Unix milliseconds
	receipts []*receiptRow         // of this group, in order
	names    []keyHash             // of receipts
	sums     map[wallet.Asset]wallet.Amount
	random   [10]byte // scratch
}

// head is where the ledger stands.
type head struct {
	seq    uint64
	txid   wallet.TxID // of the last commit
	millis int64       // its time, Unix milliseconds
}

// Rows that the books hold: at most twice these numbers, about 40 MB.
const (
	cachedAccounts = 1 << 15
	cachedBalances = 1 << 15
	cachedSupplies = 1 << 10
	cachedKeys     = 1 << 13
)

func newBooks(s store, opts *Options, h head) *books {
	log := opts.Log
	return &books{
		store:    s,
		entropy:  opts.Entropy,
		wentBack: func(last, now int64) { clockLine(log, last, now).Error("ledger_time_went_back") },
		accounts: newTable(s.account, cachedAccounts),
		balances: newTable(s.balance, cachedBalances),
		supplies: newTable(s.supply, cachedSupplies),
		keys:     newTable(s.key, cachedKeys),
		head:     h,
		sums:     make(map[wallet.Asset]wallet.Amount),
	}
}

// begin starts a group at now, Unix nanoseconds.
func (b *books) begin(now int64) {
	b.was = b.head
	b.millis = commitMillis(now/1e6, b.head.millis)
	b.receipts, b.names = nil, nil // the last group's go their own way
	b.accounts.begin()
	b.balances.begin()
	b.supplies.begin()
	b.keys.begin()
}

// decide judges t and applies it if it passes. An error means that a row that t needs cannot be
// read: t is left undecided, which is Uncertain, and the group goes on. errEntropy means that no
// payment can be made: the whole group must be rolled back.
func (b *books) decide(t *wallet.Payment, out *wallet.Result) error {
	*out = wallet.Result{}
	if !t.WellFormed() {
		out.Code = wallet.BadRequest
		return nil
	}
	key, err := b.keys.touch(hashKey(t.Holder(), t.Idem))
	if err != nil {
		return err
	}
	if code := judgeKey(key.is, t); code != wallet.OK {
		if out.Code = code; code == wallet.Replayed {
			out.Seq, out.Receipt = key.is.seq, key.is.Receipt
		}
		return nil
	}
	r, err := b.rowsOf(t)
	if err != nil {
		return err
	}
	if code := judge(&r, t, b.millis, out); code != wallet.OK {
		out.Code = code
		return nil
	}
	next, err := b.next()
	if err != nil {
		return err
	}
	b.head = next
	paid := &receiptRow{t.Receipt(next.txid, b.millis), next.seq, t.Fingerprint}
	out.DayTotal = apply(&r, t, next.seq, b.millis)
	key.is = paid
	b.receipts, b.names = append(b.receipts, paid), append(b.names, key.key)
	out.Code, out.Seq, out.Receipt, out.Balances = wallet.OK, next.seq, paid.Receipt, figures(&r, t, next.seq)
	return nil
}

// redo applies a payment that was made before, as the journal tells it. It must obey every rule
// whose bound the journal knows; the ceilings of the time are gone.
func (b *books) redo(paid *receiptRow) error {
	t := paid.Payment()
	t.Rules = wallet.Rules{DailyCeiling: wallet.MaxAmount(), MaxAccountTotal: wallet.MaxAmount(), NonceMaxGap: math.MaxUint64}
	r, err := b.rowsOf(&t)
	if err != nil {
		return err
	}
	if code := judge(&r, &t, paid.Millis, new(wallet.Result)); code != wallet.OK || !t.WellFormed() {
		return damagef(journalDir, "payment %d does not follow from those before it: %s", paid.seq, code.Name())
	}
	apply(&r, &t, paid.seq, paid.Millis)
	b.head = head{paid.seq, paid.TxID, paid.Millis}
	b.receipts, b.names = append(b.receipts, paid), append(b.names, hashKey(paid.Holder(), paid.Idem))
	return nil
}

func (b *books) rowsOf(t *wallet.Payment) (r rows, err error) {
	if !t.From.IsZero() {
		if r.from, r.debit, err = b.side(t.From, t.Asset); err != nil {
			return r, err
		}
	}
	if !t.To.IsZero() {
		if r.to, r.credit, err = b.side(t.To, t.Asset); err != nil {
			return r, err
		}
	}
	supply, err := b.supplies.touch(t.Asset)
	if err == nil {
		r.supply = &supply.is
	}
	return r, err
}

func (b *books) side(account wallet.Account, asset wallet.Asset) (*accountRow, *balanceRow, error) {
	a, err := b.accounts.touch(account)
	if err != nil {
		return nil, nil, err
	}
	balance, err := b.balances.touch(wallet.BalanceKey{Account: account, Asset: asset})
	if err != nil {
		return nil, nil, err
	}
	return &a.is, &balance.is, nil
}

// errEntropy is the end: without random bits no payment can be named.
var errEntropy = errors.New("random bits for a transaction id")

// next names the next commit. Ids grow with every commit, whatever its time: those of a later
// millisecond are larger anyway, and within one they count up from a random start whose top bit is
// clear, so that they do not run over. Where the last id is ahead of the time, because the clock was,
// ids go up by random steps: two copies of a store that go on apart must not name two payments alike.
func (b *books) next() (head, error) {
	h := head{seq: b.head.seq + 1, txid: b.head.txid, millis: b.millis}
	at := millisOf(h.txid)
	if at == b.millis && !h.txid.IsZero() {
		raise(&h.txid, 1)
		return h, nil
	}
	if _, err := io.ReadFull(b.entropy, b.random[:]); err != nil {
		return head{}, fmt.Errorf("%w: %w", errEntropy, err)
	}
	if at > b.millis {
		raise(&h.txid, 1+uint64(binary.BigEndian.Uint32(b.random[:4])))
	} else {
		binary.BigEndian.PutUint64(h.txid[:8], uint64(b.millis)<<16) //nolint:gosec // not negative
		copy(h.txid[6:], b.random[:])
		h.txid[6] &= 0x7f
	}
	if b.millis < b.head.millis {
		b.wentBack(b.head.millis, b.millis)
	}
	return h, nil
}

// raise adds step to an id.
func raise(id *wallet.TxID, step uint64) {
	lo, carry := bits.Add64(binary.BigEndian.Uint64(id[8:]), step, 0)
	binary.BigEndian.PutUint64(id[8:], lo)
	binary.BigEndian.PutUint64(id[:8], binary.BigEndian.Uint64(id[:8])+carry)
}

// figures are the touched balances right after t.
func figures(r *rows, t *wallet.Payment, seq uint64) (out [2]wallet.Balance) {
	n := 0
	if r.debit != nil {
		out[n] = wallet.Balance{
			Key: wallet.BalanceKey{Account: t.From, Asset: t.Asset}, Amount: r.debit.amount, Nonce: r.from.debit, Seq: seq,
		}
		n++
	}
	if r.credit != nil {
		out[n] = wallet.Balance{
			Key: wallet.BalanceKey{Account: t.To, Asset: t.Asset}, Amount: r.credit.amount, Nonce: r.to.debit, Seq: seq,
		}
	}
	return out
}

// balanced says whether the group's entries sum to zero for each asset, the supply account's
// included. It looks at what the rows became, not at what the payments asked for, so that it
// finds a fault of the rules too. The sums are modulo 2^128, where they are zero all the same.
func (b *books) balanced() bool {
	clear(b.sums)
	for _, row := range b.balances.touched {
		sum, _ := b.sums[row.key.Asset].Add(row.is.amount)
		b.sums[row.key.Asset], _ = sum.Sub(row.was.amount)
	}
	for _, row := range b.supplies.touched {
		sum, _ := b.sums[row.key].Add(row.was.issued)
		sum, _ = sum.Sub(row.is.issued)
		sum, _ = sum.Sub(row.was.burned)
		b.sums[row.key], _ = sum.Add(row.is.burned)
	}
	for _, sum := range b.sums {
		if !sum.IsZero() {
			return false
		}
	}
	return true
}

// change is what the group did to balances: the final figure of each one that it moved. The nonce
// in a figure is that of the account, so the account's other balances need no figure of their own:
// a payment costs what it touches, however many assets its account has.
func (b *books) change() wallet.Change {
	c := wallet.Change{Seq: b.head.seq}
	if b.head.seq == b.was.seq {
		return c
	}
	c.Balances = make([]wallet.Balance, 0, len(b.balances.touched))
	for row := range b.balances.changed() {
		account, _ := b.accounts.rows.get(row.key.Account) // side touched it with the balance
		c.Balances = append(c.Balances, wallet.Balance{
			Key: row.key, Amount: row.is.amount, Nonce: account.is.debit, Seq: c.Seq,
		})
	}
	return c
}

// settle ends a group. stored is the last group that the store has.
func (b *books) settle(stored uint64) {
	b.accounts.trim(stored)
	b.balances.trim(stored)
	b.supplies.trim(stored)
	b.keys.trim(stored)
}

// group is the number of the present group, which settle and the store count by.
func (b *books) group() uint64 { return b.keys.group }

// rollback ends a group as if it had not been.
func (b *books) rollback() {
	b.head = b.was
	b.receipts, b.names = nil, nil
	b.accounts.rollback()
	b.balances.rollback()
	b.supplies.rollback()
	b.keys.rollback()
}
