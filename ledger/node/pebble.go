package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

const damageEvery = time.Second // between two lines that tell of damage

// pebbleEngine keeps payments in a journal and their effects in Pebble, which can be made from the
// journal. commitGroup is the way of a payment. Beside it a checker reads the whole store, slowly, and
// a pruner removes old payments where that is asked for.
type pebbleEngine struct {
	opening
	folder
	opts Options
	lock *pebble.Lock
	db   *pebble.DB

	began int64 // time of the last payment at the opening, for an empty store the clock's, less Elapsed then; ms

	calls   chan *call
	closing chan struct{} // closed first
	ended   chan struct{} // closed when all goroutines are gone
	once    sync.Once
	closed  error        // of once
	open    sync.RWMutex // read-held while the database is read; Close takes it for good

	applied         gate                  // the version that the state has
	stored          atomic.Uint64         // the last group that the state has
	failure         atomic.Pointer[error] // after it nothing is acknowledged
	over            chan struct{}         // closed then
	taken           chan struct{}         // closed when takeOver has ended
	compacts        atomic.Bool           // Pebble is open, and may compact
	opened          atomic.Bool           // before it a failure is OpenPebble's to tell, not Fatal's
	sound, unsound  atomic.Uint64         // checks of the whole store
	hits            atomic.Uint64         // reads that met damage
	toldHit         atomic.Int64          // when the log last told of one
	disk, stateDisk stopwatch

	deciding sync.Mutex // the first stage of commitGroup
	store    *stateStore
	books    *books
	out      recorder

	syncing sync.Mutex // the second
	writer  journalWriter
	durable *durableFile

	applying  sync.Mutex // the third, and whoever else writes the state
	window    window
	wanted    bool        // somebody waits until the state has what is durable
	unflushed int         // payments that the state's disk may lack
	idle      *time.Timer // calls rest
}

// OpenPebble opens the store in dir, or makes one in an empty or absent folder. It refuses, and
// says why, a folder that another process uses, a store of another format, one that is damaged
// where a start looks, and one that has lost payments.
func OpenPebble(dir string, opts Options) (Engine, error) {
	return openPebble(dir, opts, vfs.Default)
}

// OpenMemory makes a store in memory, which is forgotten at the end: for tests and demonstrations. It
// is as durable as the process.
func OpenMemory(opts Options) (Engine, error) { return openPebble("memory", opts, vfs.NewMem()) }

func openPebble(dir string, opts Options, fs vfs.FS) (*pebbleEngine, error) {
	p := &pebbleEngine{
		opts:    opts.withDefaults(),
		folder:  folder{fs, dir},
		calls:   make(chan *call, maxCalls),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		over:    make(chan struct{}),
	}
	p.bus = newBus(p.opts.WatchBacklog)
	p.clock = openingClock{p.opts.Elapsed}
	if err := p.openStore(); err != nil {
		return nil, err
	}
	p.opts.checkClock(p.books.head)
	if p.began = p.books.head.millis; p.books.head.seq == 0 {
		p.began = p.opts.Now() / 1e6
	}
	p.began -= p.opts.Elapsed().Milliseconds()
	p.bus.start(p.books.head.seq)
	p.applied.move(p.books.head.seq)
	p.idle = time.AfterFunc(idleAfter, p.rest)
	var running sync.WaitGroup
	for range stages {
		running.Go(func() {
			for p.commitGroup() {
			}
		})
	}
	running.Go(p.check)
	if p.opts.Retention > 0 {
		running.Go(p.prune)
	}
	go func() {
		running.Wait()
		close(p.ended)
	}()
	return p, nil
}

// fail ends the engine: what is not answered yet never will be, since nobody knows what of it is
// on the disk.
func (p *pebbleEngine) fail(err error) {
	if !p.failure.CompareAndSwap(nil, &err) {
		return
	}
	close(p.over)
	p.bus.close(err)
	p.applied.close(err)
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

// damaged counts a read that met damage, and tells of it, though not of each.
func (p *pebbleEngine) damaged(err error) {
	p.hits.Add(1)
	now, told := p.opts.Now(), p.toldHit.Load()
	if (told == 0 || now-told >= int64(damageEvery)) && p.toldHit.CompareAndSwap(told, now) {
		p.opts.Log.WithFields(logrus.Fields{"reason": firstLine(err.Error()), "reads": p.hits.Load()}).Error("store_damaged")
	}
}

// Lookup reads one version of the state, once that has everything that was told.
func (p *pebbleEngine) Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error {
	if err := checkLookup(keys, out); err != nil {
		return err
	}
	found := make([]wallet.Balance, len(keys))
	err := p.read(ctx, func() error {
		snap := p.db.NewSnapshot()
		defer func() { _ = snap.Close() }()
		return figuresOf(snap, keys, found)
	})
	if err == nil {
		copy(out, found)
	}
	return err
}

func figuresOf(from pebble.Reader, keys []wallet.BalanceKey, out []wallet.Balance) error {
	at, err := load[headRow](from, []byte(headKey))
	if err != nil {
		return err
	}
	var key []byte
	for i, k := range keys {
		key = appendBalanceKey(key[:0], k)
		balance, err := load[balanceRow](from, key)
		if err != nil {
			return err
		}
		key = appendAccountKey(key[:0], k.Account)
		account, err := load[accountRow](from, key)
		if err != nil {
			return err
		}
		out[i] = wallet.Balance{Key: k, Amount: balance.amount, Nonce: account.debit, Seq: at.seq}
	}
	return nil
}

func (p *pebbleEngine) Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error) {
	return p.receipt(ctx, func() (*receiptRow, error) { return p.find(p.db, txid) })
}

func (p *pebbleEngine) Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error) {
	return p.receipt(ctx, func() (*receiptRow, error) {
		name := hashKey(account, key)
		id, err := load[txidRow](p.db, appendKeyKey(nil, name))
		if err != nil || id.IsZero() {
			return nil, err
		}
		return p.payment(p.db, id.TxID, name)
	})
}

func (p *pebbleEngine) receipt(ctx context.Context, find func() (*receiptRow, error)) (wallet.Receipt, uint64, error) {
	var r *receiptRow
	err := p.read(ctx, func() (err error) {
		r, err = find()
		return err
	})
	switch {
	case err != nil:
		return wallet.Receipt{}, 0, err
	case r == nil:
		return wallet.Receipt{}, 0, wallet.NotFound
	}
	return r.Receipt, r.seq, nil
}

// read waits until the state has what was durable at the call, and keeps it open for do.
func (p *pebbleEngine) read(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.open.RLock()
	defer p.open.RUnlock()
	select {
	case <-p.closing:
		return p.gone()
	default:
	}
	if err := p.current(ctx); err != nil {
		return err
	}
	if err := do(); err != nil {
		p.damaged(err)
		return fmt.Errorf("node: %s: %w: %w", p.dir, wire.ErrDamaged, err)
	}
	return nil
}

// current waits until the state has what was durable at the call. A group that is durable and not in the window
// yet is on its way there, and then finds that the state is wanted.
func (p *pebbleEngine) current(ctx context.Context) error {
	at := p.bus.at.Load()
	if p.applied.at.Load() < at {
		p.applying.Lock()
		p.save()
		if p.applied.at.Load() < at { // and where it is not, another read may still want more
			p.wanted = true
		}
		p.applying.Unlock()
	}
	return p.applied.await(ctx, at)
}

func (p *pebbleEngine) Stats() Stats {
	s, now := p.stats(), p.opts.Now()
	s.Stalled = p.disk.stuck(now) || p.stateDisk.stuck(now)
	s.Damaged, s.StoreOK, s.StoreFailed = p.hits.Load(), p.sound.Load(), p.unsound.Load()
	return s
}

// Close puts the state on the disk, so that the next start has nothing to do again.
func (p *pebbleEngine) Close() error {
	p.once.Do(func() {
		close(p.closing)
		<-p.ended
		p.bus.close(ErrClosed)
		p.open.Lock() // calls that are reading finish first
		defer p.open.Unlock()
		p.closed = p.closeStore()
	})
	return p.closed
}

// closeStore gives up on the flush where Pebble fails: it would try for ever. A state that was not
// flushed is one that a crash left.
func (p *pebbleEngine) closeStore() error {
	var err error
	if p.failure.Load() == nil {
		p.applying.Lock()
		p.save()
		p.applying.Unlock()
		err = p.flush()
	}
	return errors.Join(err, p.closeAll())
}
