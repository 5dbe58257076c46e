package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// Bounds and times of the Pebble engine.
const (
	maxGroup   = 1024 // transfers that a group takes more calls up to
	maxCalls   = 1024 // calls that wait for the writer
	maxFlights = 1    // groups that wait for the one being synced
	idleMark   = 20 * time.Millisecond
	memTable   = 16 << 20
	blockCache = 128 << 20
	openFiles  = 512

	// stuckAfter is how long a sync may take before the disk counts as stalled: longer than the
	// slow ones of a healthy disk, shorter than a client's patience.
	stuckAfter = 250 * time.Millisecond
)

// pebbleEngine keeps the books in Pebble. Two goroutines share the work:
//
// The writer takes the calls that wait as one group, decides it on the books, which are ahead of
// the disk, applies it to Pebble without waiting for the sync and goes on to the next group.
// The syncer waits for the sync of one group after the other, and only then moves the durable
// version, tells the watchers and answers the calls. So one group's fsync is under way while the
// next is decided, and a crash at any point loses only what nobody was told.
type pebbleEngine struct {
	opts Options
	dir  string
	fs   vfs.FS
	db   *pebble.DB
	bus  *bus
	id   Identity

	clock openingClock

	calls   chan *call
	flights chan flight
	closing chan struct{} // closed first
	ended   chan struct{} // closed when all goroutines are gone
	once    sync.Once
	closed  error        // of once
	open    sync.RWMutex // read-held while the database is read; Close takes it for good

	syncing          atomic.Int64          // when the sync under way began, Unix nanoseconds; 0: none is
	failure          atomic.Pointer[error] // after it nothing is acknowledged
	opened           atomic.Bool           // before it a failure is OpenPebble's to tell, not Fatal's
	conserved, fails atomic.Uint64

	// The writer's.
	store    *pebbleStore
	books    *books
	digest   uint64
	key, row []byte // scratch
	marked   uint64 // durable version in the last mark
}

// call is one Commit on its way.
type call struct {
	ctx   context.Context //nolint:containedctx // the writer asks, when it comes to the call, whether its caller is still there
	batch []wallet.Transfer
	out   []wallet.Result
	state atomic.Uint32
	done  chan error // room for one
}

const (
	callWaits = iota
	callTaken
	callWithdrawn
)

// flight is a group between its application and its sync.
type flight struct {
	calls  []*call
	change wallet.Change
	batch  *pebble.Batch // nil where nothing was committed
}

// OpenPebble opens the store in dir, or makes one in an empty or absent folder. It refuses, and
// says why, a folder that another process uses, a store of a newer version, one that is damaged
// or has lost commits, and one whose books do not balance.
func OpenPebble(dir string, opts Options) (Engine, error) {
	return openPebble(dir, opts, vfs.Default)
}

func openPebble(dir string, opts Options, fs vfs.FS) (*pebbleEngine, error) {
	p := &pebbleEngine{
		opts:    opts.withDefaults(),
		dir:     dir,
		fs:      fs,
		calls:   make(chan *call, maxCalls),
		flights: make(chan flight, maxFlights),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
	}
	p.bus = newBus(p.opts.WatchBacklog)
	p.clock = openingClock{p.opts.Elapsed}
	db, at, ledger, err := openStore(p)
	if err != nil {
		return nil, err
	}
	p.db, p.id = db, Identity{ledger, newName()}
	p.store = &pebbleStore{db: db}
	p.books = newBooks(p.store, &p.opts, at.head)
	p.opts.checkClock(at.head)
	p.digest = at.digest
	p.bus.start(at.seq)
	p.conserved.Add(1) // openStore summed up the whole store
	var running sync.WaitGroup
	running.Go(p.write)
	running.Go(p.sync)
	go func() {
		running.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Commit is answered by the syncer.
func (p *pebbleEngine) Commit(ctx context.Context, batch []wallet.Transfer, out []wallet.Result) error {
	if err := checkCommit(batch, out); err != nil || len(batch) == 0 {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &call{ctx: ctx, batch: batch, out: out, done: make(chan error, 1)}
	if ctx.Done() != nil { // the caller may leave, and its slices with it
		c.batch, c.out = append([]wallet.Transfer(nil), batch...), make([]wallet.Result, len(out))
	}
	select {
	case p.calls <- c:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closing:
		return p.gone()
	}
	err := p.answer(ctx, c)
	if err == nil && ctx.Done() != nil {
		copy(out, c.out)
	}
	return err
}

func (p *pebbleEngine) answer(ctx context.Context, c *call) error {
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		if c.state.CompareAndSwap(callWaits, callWithdrawn) {
			return withdrawn(ctx.Err())
		}
		return fmt.Errorf("node: the outcome is unknown: %w", ctx.Err())
	case <-p.ended:
	}
	select {
	case err := <-c.done:
		return err
	default: // put into the queue after the writer had left
		return p.gone()
	}
}

func withdrawn(err error) error { return fmt.Errorf("node: withdrawn, nothing was done: %w", err) }

// write is the writer. It ends when closing is closed and no call waits.
func (p *pebbleEngine) write() {
	defer close(p.flights)
	idle := time.NewTimer(idleMark)
	defer idle.Stop()
	for {
		select {
		case c := <-p.calls:
			p.flights <- p.group(p.gather(c))
			idle.Reset(idleMark)
		case <-idle.C:
			p.flights <- p.mark()
			if p.marked < p.books.head.seq && p.failure.Load() == nil { // a slow sync is still under way
				idle.Reset(idleMark)
			}
		case <-p.closing:
			select {
			case c := <-p.calls:
				p.flights <- p.group(p.gather(c))
			default:
				return
			}
		}
	}
}

// gather takes the calls that wait, without waiting for more. One whose caller has gone is left
// out, also where the caller's goroutine did not come to withdraw it yet: a later call of the same
// payment may have been judged meanwhile.
func (p *pebbleEngine) gather(c *call) []*call {
	var calls []*call
	for n := 0; ; {
		if err := p.clock.barred(c.ctx); err != nil {
			c.done <- withdrawn(err)
		} else if c.state.CompareAndSwap(callWaits, callTaken) {
			calls = append(calls, c)
			n += len(c.batch)
		}
		if n >= maxGroup {
			return calls
		}
		select {
		case c = <-p.calls:
		default:
			return calls
		}
	}
}

// group decides the calls on the books and applies what passed to Pebble, in one batch. Where
// nothing passed, the flight still follows those before it: its verdicts rest on what they did.
func (p *pebbleEngine) group(calls []*call) flight {
	f := flight{calls: calls}
	if p.failure.Load() != nil {
		return f
	}
	p.books.begin(p.opts.Now())
	change, err := p.decide(calls)
	if err != nil {
		p.books.rollback()
		p.fail(fmt.Errorf("node: %s: cannot read the books: %w", p.dir, err))
		return f
	}
	if !p.books.balanced() {
		p.books.rollback()
		p.fails.Add(1)
		p.opts.Log.WithField("event", "conservation_failed").Error("a group would have made or lost money and was refused")
		for _, c := range calls {
			refuseAll(c.out)
		}
		return f
	}
	p.conserved.Add(1)
	f.change = change
	if len(p.books.receipts) > 0 {
		f.batch = p.apply()
	}
	p.books.settle()
	return f
}

// decide decides the calls, and says what they did to balances.
func (p *pebbleEngine) decide(calls []*call) (change wallet.Change, err error) {
	defer func() { err = errors.Join(err, p.store.rest()) }()
	for _, c := range calls {
		for i := range c.batch {
			if err := p.books.decide(&c.batch[i], &c.out[i]); err != nil {
				return change, err
			}
		}
	}
	return p.books.change(), nil
}

// apply makes the group visible to reads and starts its sync.
func (p *pebbleEngine) apply() *pebble.Batch {
	b := p.db.NewBatch()
	p.save(b)
	return p.send(b)
}

func (p *pebbleEngine) send(b *pebble.Batch) *pebble.Batch {
	if err := p.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		p.fail(fmt.Errorf("node: %s: cannot write: %w", p.dir, err))
		return nil // not closed: Pebble may still hold it
	}
	return b
}

// save puts the group's rows into the batch. Batch.Set and LogData fail only on a batch that is
// committed already.
func (p *pebbleEngine) save(b *pebble.Batch) {
	for _, r := range p.books.accounts.touched {
		if r.is != r.was {
			p.key = appendAccountKey(p.key[:0], r.key)
			saveState(p, b, &r.was, &r.is)
		}
	}
	for _, r := range p.books.balances.touched {
		if r.is != r.was {
			p.key = appendBalanceKey(p.key[:0], r.key)
			saveState(p, b, &r.was, &r.is)
		}
	}
	for _, r := range p.books.supplies.touched {
		if r.is != r.was {
			p.key = appendSupplyKey(p.key[:0], r.key)
			saveState(p, b, &r.was, &r.is)
		}
	}
	for i := range p.books.receipts {
		r := &p.books.receipts[i]
		p.key, p.row = appendReceiptKey(p.key[:0], r.TxID), r.append(p.row[:0])
		_ = b.Set(p.key, p.row, nil)
	}
	for _, r := range p.books.keys.touched {
		if r.is != r.was {
			p.key, p.row = appendKeyKey(p.key[:0], r.key), r.is.append(p.row[:0])
			_ = b.Set(p.key, p.row, nil)
		}
	}
	h := headRow{p.books.head, p.digest}
	p.row = h.append(p.row[:0])
	_ = b.Set([]byte(headKey), p.row, nil)
	p.marked = p.bus.durable.Load()
	p.row = appendMark(p.row[:0], p.marked)
	_ = b.LogData(p.row, nil)
}

// saveState saves a row of the state under p.key and keeps the digest of the state current: the
// old row leaves it, the new one enters. A row that was never stored is the zero row.
func saveState[R comparable, P interface {
	*R
	append([]byte) []byte
}](p *pebbleEngine, b *pebble.Batch, was, is P) {
	var none R
	if *was != none {
		p.row = was.append(p.row[:0])
		p.digest -= rowHash(p.key, p.row)
	}
	p.row = is.append(p.row[:0])
	p.digest += rowHash(p.key, p.row)
	_ = b.Set(p.key, p.row, nil)
}

// rowHash is one row's part in the digest of the state. It finds lost and stale rows, not forged
// ones. Keys of one kind and length are never each other's continuation, so key and row hash as
// one text.
func rowHash(key, row []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(key)
	_, _ = d.Write(row)
	return d.Sum64()
}

// mark writes the durable version into the log when nothing else does, so that the last commits
// before a rest are vouched for too.
func (p *pebbleEngine) mark() flight {
	durable := p.bus.durable.Load()
	if durable == p.marked || p.failure.Load() != nil {
		return flight{}
	}
	p.marked = durable
	b := p.db.NewBatch()
	p.row = appendMark(p.row[:0], durable)
	_ = b.LogData(p.row, nil)
	return flight{batch: p.send(b)}
}

// sync is the syncer. It ends when the writer has and every flight has landed.
func (p *pebbleEngine) sync() {
	for f := range p.flights {
		err := p.land(f)
		for _, c := range f.calls {
			c.done <- err
		}
	}
}

// land waits until the group is durable. Only then is it told to anybody.
func (p *pebbleEngine) land(f flight) error {
	if f.batch != nil {
		p.syncing.Store(p.opts.Now())
		err := f.batch.SyncWait()
		p.syncing.Store(0)
		if err != nil {
			p.fail(fmt.Errorf("node: %s: cannot sync: %w", p.dir, err))
		} else {
			_ = f.batch.Close() // gives it back to Pebble's pool; fails never
		}
	}
	// Pebble tells some failures to its logger only, in whatever goroutine, before SyncWait ends.
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	if len(f.change.Balances) > 0 {
		p.bus.publish(f.change)
	}
	return nil
}

// Stalled implements Engine.
func (p *pebbleEngine) Stalled() bool {
	began := p.syncing.Load()
	return began != 0 && p.opts.Now()-began > int64(stuckAfter)
}

// fail ends the engine: what is not answered yet never will be, since nobody knows what of it is
// on the disk.
func (p *pebbleEngine) fail(err error) {
	if !p.failure.CompareAndSwap(nil, &err) {
		return
	}
	p.bus.close(err)
	if p.opened.Load() {
		p.opts.Fatal(err)
	}
}

// gone says why there is no answer.
func (p *pebbleEngine) gone() error {
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	return ErrClosed
}

// Lookup reads one version of the store, which may be ahead of the disk, and then waits for the
// disk.
func (p *pebbleEngine) Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error {
	if err := checkLookup(keys, out); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	found := make([]wallet.Balance, len(keys))
	seq, err := p.figures(keys, found)
	if err != nil {
		return err
	}
	if err := p.bus.await(ctx, seq); err != nil {
		return err
	}
	copy(out, found)
	return nil
}

func (p *pebbleEngine) figures(keys []wallet.BalanceKey, out []wallet.Balance) (seq uint64, err error) {
	done, err := p.enter()
	if err != nil {
		return 0, err
	}
	defer done()
	snap := p.db.NewSnapshot()
	defer func() { _ = snap.Close() }()
	at, err := load[headRow](snap, []byte(headKey))
	if err != nil {
		return 0, p.unread(err)
	}
	var key []byte
	for i, k := range keys {
		key = appendBalanceKey(key[:0], k)
		balance, err := load[balanceRow](snap, key)
		if err != nil {
			return 0, p.unread(err)
		}
		key = appendAccountKey(key[:0], k.Account)
		account, err := load[accountRow](snap, key)
		if err != nil {
			return 0, p.unread(err)
		}
		out[i] = wallet.Balance{Key: k, Amount: balance.amount, Nonce: account.debit, Seq: at.seq}
	}
	return at.seq, nil
}

// Transaction waits for the disk as Lookup does.
func (p *pebbleEngine) Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error) {
	return p.transaction(ctx, func() (receiptRow, error) { return loadReceipt(p.db, txid) })
}

// Payment implements Engine.
func (p *pebbleEngine) Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error) {
	return p.transaction(ctx, func() (receiptRow, error) {
		k, err := load[keyRow](p.db, appendKeyKey(nil, keyName{account, key}))
		if err != nil || k.txid.IsZero() {
			return receiptRow{}, err
		}
		return loadReceipt(p.db, k.txid)
	})
}

func (p *pebbleEngine) transaction(ctx context.Context, find func() (receiptRow, error)) (wallet.Receipt, uint64, error) {
	if err := ctx.Err(); err != nil {
		return wallet.Receipt{}, 0, err
	}
	r, err := p.receipt(find)
	if err != nil {
		return wallet.Receipt{}, 0, err
	}
	if r.seq == 0 {
		return wallet.Receipt{}, 0, wallet.NotFound
	}
	if err := p.bus.await(ctx, r.seq); err != nil {
		return wallet.Receipt{}, 0, err
	}
	return r.Receipt, r.seq, nil
}

func (p *pebbleEngine) receipt(find func() (receiptRow, error)) (receiptRow, error) {
	done, err := p.enter()
	if err != nil {
		return receiptRow{}, err
	}
	defer done()
	r, err := find()
	if err != nil {
		return r, p.unread(err)
	}
	return r, nil
}

// enter keeps the database open until done is called.
func (p *pebbleEngine) enter() (done func(), err error) {
	p.open.RLock()
	select {
	case <-p.closing:
		p.open.RUnlock()
		return nil, p.gone()
	default:
		return p.open.RUnlock, nil
	}
}

func (p *pebbleEngine) unread(err error) error {
	return fmt.Errorf("node: %s: cannot read: %w", p.dir, err)
}

// Watch is Engine.Watch.
func (p *pebbleEngine) Watch(ctx context.Context, from uint64, on func(wallet.Change)) error {
	return p.bus.watch(ctx, from, on)
}

// Identity is Engine.Identity.
func (p *pebbleEngine) Identity() Identity { return p.id }

// Clock is Engine.Clock.
func (p *pebbleEngine) Clock() uint64 { return p.clock.millis() }

// Seq is Engine.Seq.
func (p *pebbleEngine) Seq() uint64 { return p.bus.durable.Load() }

// Conservation is Engine.Conservation; the check of the whole store at start is the first.
func (p *pebbleEngine) Conservation() (ok, failed uint64) { return p.conserved.Load(), p.fails.Load() }

// Lagged is Engine.Lagged.
func (p *pebbleEngine) Lagged() uint64 { return p.bus.lagged.Load() }

// Close flushes, so that the next start has no log to replay.
func (p *pebbleEngine) Close() error {
	p.once.Do(func() {
		close(p.closing)
		<-p.ended
		p.bus.close(ErrClosed)
		p.open.Lock() // calls that are reading finish first
		defer p.open.Unlock()
		p.closed = closeStore(p.db, p.bus.durable.Load(), p.failure.Load() == nil)
	})
	return p.closed
}
