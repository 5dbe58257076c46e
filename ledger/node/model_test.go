package node

import (
	"context"
	"fmt"
	"sync"

	"svc-wallet/wallet"
)

// openModel makes an engine without a journal, a state or goroutines: the rules over rows in maps,
// which the product's engine is held against.
func openModel(opts Options) Engine {
	opts = opts.withDefaults()
	s := &modelStore{
		accounts: make(map[wallet.Account]accountRow),
		balances: make(map[wallet.BalanceKey]balanceRow),
		supplies: make(map[wallet.Asset]supplyRow),
		keys:     make(map[keyHash]*receiptRow),
		receipts: make(map[wallet.TxID]*receiptRow),
	}
	m := &model{opts: opts, store: s, books: newBooks(s, &opts, head{})}
	m.bus, m.id, m.clock = newBus(opts.WatchBacklog), Identity{newName(), newName()}, openingClock{opts.Elapsed}
	return m
}

type model struct {
	opening
	opts Options

	mu     sync.Mutex
	closed bool
	store  *modelStore
	books  *books
}

func (m *model) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	if err := checkCommit(batch, out); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if err := m.clock.barred(ctx); err != nil {
		return err
	}
	results := make([]wallet.Result, len(batch))
	m.books.begin(m.opts.Now())
	for i := range batch {
		if err := m.books.decide(&batch[i], &results[i]); err != nil { // memory is always read
			m.books.rollback()
			return fmt.Errorf("node: %w", err)
		}
	}
	m.settle(results)
	copy(out, results)
	return nil
}

// settle makes the group count, or refuses it as a whole where it would make or lose money.
func (m *model) settle(results []wallet.Result) {
	change := m.books.change()
	if !m.books.balanced() {
		m.books.rollback()
		m.failed.Add(1)
		refuseAll(results)
		return
	}
	m.conserved.Add(1)
	m.store.save(m.books)
	m.books.settle(m.books.group())
	if len(change.Balances) > 0 {
		m.bus.publish(change)
	}
}

func (m *model) Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error {
	if err := checkLookup(keys, out); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, key := range keys {
		out[i] = wallet.Balance{
			Key: key, Amount: m.store.balances[key].amount, Nonce: m.store.accounts[key.Account].debit, Seq: m.books.head.seq,
		}
	}
	return nil
}

func (m *model) Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error) {
	return m.find(ctx, func() *receiptRow { return m.store.receipts[txid] })
}

func (m *model) Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error) {
	return m.find(ctx, func() *receiptRow { return m.store.keys[hashKey(account, key)] })
}

func (m *model) find(ctx context.Context, row func() *receiptRow) (wallet.Receipt, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return wallet.Receipt{}, 0, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return wallet.Receipt{}, 0, err
	}
	r := row()
	if r == nil {
		return wallet.Receipt{}, 0, wallet.NotFound
	}
	return r.Receipt, r.seq, nil
}

func (m *model) Stats() Stats { return m.stats() }

func (m *model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.bus.close(ErrClosed)
	return nil
}

// modelStore is the rows in maps.
type modelStore struct {
	accounts map[wallet.Account]accountRow
	balances map[wallet.BalanceKey]balanceRow
	supplies map[wallet.Asset]supplyRow
	keys     map[keyHash]*receiptRow
	receipts map[wallet.TxID]*receiptRow
}

func (s *modelStore) account(k wallet.Account) (accountRow, error)    { return s.accounts[k], nil }
func (s *modelStore) balance(k wallet.BalanceKey) (balanceRow, error) { return s.balances[k], nil }
func (s *modelStore) supply(k wallet.Asset) (supplyRow, error)        { return s.supplies[k], nil }
func (s *modelStore) key(k keyHash) (*receiptRow, error)              { return s.keys[k], nil }

func (s *modelStore) save(b *books) {
	for r := range b.accounts.changed() { // a refused payment must leave nothing, not even an empty row
		s.accounts[r.key] = r.is
	}
	for r := range b.balances.changed() {
		s.balances[r.key] = r.is
	}
	for r := range b.supplies.changed() {
		s.supplies[r.key] = r.is
	}
	for _, r := range b.receipts {
		s.keys[hashKey(r.Holder(), r.Idem)] = r
		s.receipts[r.TxID] = r
	}
}
