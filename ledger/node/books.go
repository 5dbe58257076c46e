package node

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sort"

	"svc-wallet/wallet"
)

// store is where rows lie when the books do not hold them. What was never seen is the zero row.
// An error means that the store cannot be read, and so that nothing can be decided.
type store interface {
	account(wallet.Account) (accountRow, error)
	balance(wallet.BalanceKey) (balanceRow, error)
	supply(wallet.Asset) (supplyRow, error)
	key(keyName) (keyRow, error)
	receipt(wallet.TxID) (receiptRow, error)
}

// books are the rows in memory that transfers are decided on, one group of transfers after the
// other: begin, decide for each, then settle or rollback. They belong to one goroutine.
//
// Between decide and settle the new rows exist only here, so nothing is evicted then; once the
// store has them, settle lets old ones go.
type books struct {
	store   store
	entropy io.Reader

	accounts table[wallet.Account, accountRow]
	balances table[wallet.BalanceKey, balanceRow]
	supplies table[wallet.Asset, supplyRow]
	keys     table[keyName, keyRow]

	head     head                  // after the last decided transfer
	was      head                  // at begin
	millis   int64                 // commit time of this group
	wentBack func(last, now int64) // told of a commit whose time is before the last one's, Unix milliseconds
	receipts []receiptRow          // of this group, in order
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
	b.receipts = b.receipts[:0]
	b.accounts.begin()
	b.balances.begin()
	b.supplies.begin()
	b.keys.begin()
}

// decide judges t and applies it if it passes. An error means that the books could not be read:
// the whole group must be rolled back.
func (b *books) decide(t *wallet.Transfer, out *wallet.Result) error {
	*out = wallet.Result{Code: wallet.BadRequest}
	if !wellFormed(t) {
		return nil
	}
	key, err := b.keys.touch(keyName{t.Holder(), t.Idem})
	if err != nil {
		return err
	}
	if out.Code = judgeKey(&key.is, t); out.Code == wallet.Replayed {
		return b.replay(key.is.txid, out)
	}
	if out.Code != wallet.OK {
		return nil
	}
	r, err := b.rowsOf(t)
	if err != nil {
		return err
	}
	if out.Code = judge(&r, t, b.millis, out); out.Code != wallet.OK {
		return nil
	}
	next, err := b.next()
	if err != nil {
		return err
	}
	b.head = next
	out.DayTotal = apply(&r, t, next.seq, b.millis)
	key.is = keyRow{t.Fingerprint, next.txid}
	b.receipts = append(b.receipts, receiptRow{receiptOf(t, next.txid, b.millis), next.seq})
	out.Seq, out.Receipt, out.Balances = next.seq, b.receipts[len(b.receipts)-1].Receipt, figures(&r, t, next.seq)
	return nil
}

// replay answers with the first receipt, which may be of this very group.
func (b *books) replay(id wallet.TxID, out *wallet.Result) error {
	i := sort.Search(len(b.receipts), func(i int) bool { return string(b.receipts[i].TxID[:]) >= string(id[:]) })
	if i < len(b.receipts) && b.receipts[i].TxID == id {
		out.Seq, out.Receipt = b.receipts[i].seq, b.receipts[i].Receipt
		return nil
	}
	first, err := b.store.receipt(id)
	if err == nil && first.seq == 0 {
		err = fmt.Errorf("node: receipt %s of a known idempotency key is missing", wallet.TxID(id))
	}
	out.Seq, out.Receipt = first.seq, first.Receipt
	return err
}

func (b *books) rowsOf(t *wallet.Transfer) (r rows, err error) {
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
		return head{}, fmt.Errorf("node: random bits for a transaction id: %w", err)
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

func receiptOf(t *wallet.Transfer, id wallet.TxID, millis int64) wallet.Receipt {
	return wallet.Receipt{
		TxID: id, Op: t.Op, From: t.From, To: t.To, Asset: t.Asset,
		Amount: t.Amount, Nonce: t.Nonce, Idem: t.Idem, Millis: millis,
	}
}

// figures are the touched balances right after t.
func figures(r *rows, t *wallet.Transfer, seq uint64) (out [2]wallet.Balance) {
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
// included. It looks at what the rows became, not at what the transfers asked for, so that it
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
	for _, row := range b.balances.touched {
		if row.is == row.was {
			continue // only read
		}
		account, _ := b.accounts.rows.get(row.key.Account) // side touched it with the balance
		c.Balances = append(c.Balances, wallet.Balance{
			Key: row.key, Amount: row.is.amount, Nonce: account.is.debit, Seq: c.Seq,
		})
	}
	return c
}

// settle ends a group whose rows the store now has.
func (b *books) settle() {
	b.accounts.rows.trim()
	b.balances.rows.trim()
	b.supplies.rows.trim()
	b.keys.rows.trim()
}

// rollback ends a group as if it had not been.
func (b *books) rollback() {
	b.head = b.was
	b.receipts = b.receipts[:0]
	b.accounts.rollback()
	b.balances.rollback()
	b.supplies.rollback()
	b.keys.rollback()
}

// table is a write-through cache of one kind of row that remembers what the present group touched.
type table[K, R comparable] struct {
	rows    cache[K, *row[K, R]]
	load    func(K) (R, error)
	group   uint64
	touched []*row[K, R] // by this group, in order
}

type row[K, R comparable] struct {
	key     K
	was, is R      // before the group, and now
	group   uint64 // that touched it last
}

func newTable[K, R comparable](load func(K) (R, error), limit int) table[K, R] {
	return table[K, R]{rows: newCache[K, *row[K, R]](limit), load: load}
}

func (t *table[K, R]) begin() {
	t.group++
	t.touched = t.touched[:0]
}

// touch finds or loads a row for reading and writing in this group.
func (t *table[K, R]) touch(key K) (*row[K, R], error) {
	r, ok := t.rows.get(key)
	if !ok {
		value, err := t.load(key)
		if err != nil {
			return nil, err
		}
		r = &row[K, R]{key: key, is: value}
		t.rows.put(key, r)
	}
	if r.group != t.group {
		r.group, r.was = t.group, r.is
		t.touched = append(t.touched, r)
	}
	return r, nil
}

func (t *table[K, R]) rollback() {
	for _, r := range t.touched {
		r.is = r.was
	}
	t.touched = t.touched[:0]
}

// cache holds what was used lately: when the young half is full it becomes the old half, and
// what nobody asked for since goes. That is nearly LRU, without a list or a lock.
type cache[K comparable, V any] struct {
	young, old map[K]V
	limit      int // of each half
}

func newCache[K comparable, V any](limit int) cache[K, V] {
	return cache[K, V]{young: make(map[K]V), limit: limit}
}

func (c *cache[K, V]) get(key K) (V, bool) {
	v, ok := c.young[key]
	if !ok {
		if v, ok = c.old[key]; ok {
			c.young[key] = v
		}
	}
	return v, ok
}

func (c *cache[K, V]) put(key K, v V) { c.young[key] = v }

// trim is the only thing that evicts.
func (c *cache[K, V]) trim() {
	if len(c.young) >= c.limit {
		c.young, c.old = make(map[K]V, c.limit), c.young
	}
}
