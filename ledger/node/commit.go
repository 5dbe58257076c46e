package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"svc-wallet/wallet"
)

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

// flight is a group on its way to the disk.
type flight struct {
	calls  []*call
	change wallet.Change

	// Of a group in which something was committed.
	opens  *header // of the segment that begins with it, if one does
	record *[]byte
	offset int64 // in its segment
	batch  *pebble.Batch
	seq    uint64
	group  uint64 // its number in the books
	paid   uint64 // payments
}

// write is the writer. It ends when closing is closed and no call waits.
func (p *pebbleEngine) write() {
	defer close(p.flights)
	for {
		select {
		case c := <-p.calls:
			p.flights <- p.group(p.gather(c))
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

// group decides the calls on the books and makes the record and the rows of what passed. Where
// nothing passed, the flight still follows those before it: its verdicts rest on what they did.
func (p *pebbleEngine) group(calls []*call) flight {
	f := flight{calls: calls}
	if p.failure.Load() != nil {
		return f
	}
	p.books.begin(p.opts.Now())
	if err := p.decide(calls); err != nil {
		p.books.rollback()
		p.fail(fmt.Errorf("node: %s: %w", p.dir, err))
		return f
	}
	f.change = p.books.change()
	if !p.books.balanced() {
		p.books.rollback()
		p.fails.Add(1)
		p.opts.Log.WithField("reason", "a group would have made or lost money and was refused").Error("conservation_failed")
		for _, c := range calls {
			refuseAll(c.out)
		}
		return flight{calls: calls}
	}
	p.conserved.Add(1)
	if len(p.books.receipts) > 0 {
		p.save(&f)
	}
	p.books.settle(p.stored.Load())
	return f
}

// decide decides the calls. A payment whose rows cannot be read stays undecided, alone.
func (p *pebbleEngine) decide(calls []*call) error {
	defer p.store.rest()
	for _, c := range calls {
		for i := range c.batch {
			err := p.books.decide(&c.batch[i], &c.out[i])
			if errors.Is(err, errEntropy) {
				return err
			}
			if err != nil {
				p.damaged(err)
			}
		}
	}
	return nil
}

func (p *pebbleEngine) save(f *flight) {
	opens, record, begin, entries := p.out.record(p.books.receipts)
	f.opens, f.record, f.offset = opens, record, begin.offset
	f.batch, f.seq, f.group = p.db.NewBatch(), p.books.head.seq, p.books.group()
	f.paid = uint64(len(p.books.receipts))
	p.out.rows(f.batch, p.books, entries)
}

// sync is the syncer. It ends when the writer has and every flight has landed.
func (p *pebbleEngine) sync() {
	defer close(p.landings)
	for f := range p.flights {
		err := p.land(&f)
		for _, c := range f.calls {
			c.done <- err
		}
		if err == nil && f.batch != nil {
			p.landings <- flight{batch: f.batch, seq: f.seq, group: f.group, paid: f.paid}
		}
	}
}

// land waits until the group is durable. Only then is it told to anybody. What failed is not tried
// again, since nobody knows how much of it is on the disk.
func (p *pebbleEngine) land(f *flight) error {
	if f.record != nil && p.failure.Load() == nil {
		p.syncing.began.Store(p.opts.Now())
		err := p.persist(f)
		p.syncing.began.Store(0)
		if err != nil {
			p.fail(fmt.Errorf("node: %s: cannot write the journal: %w", p.dir, err))
		}
	}
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	if len(f.change.Balances) > 0 {
		p.bus.publish(f.change)
	}
	return nil
}

func (p *pebbleEngine) persist(f *flight) error {
	if f.opens != nil {
		if err := p.disk.begin(f.opens); err != nil {
			return err
		}
	}
	if err := p.disk.append(*f.record, f.offset); err != nil {
		return err
	}
	p.out.spare.Put(f.record)
	if err := p.durable.write(f.seq); err != nil || f.opens == nil {
		return err
	}
	return p.durable.file.Sync()
}

// apply is the applier. It ends when the syncer has and every batch is in the state.
func (p *pebbleEngine) apply() {
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	unflushed := uint64(0) // payments, at most
	for {
		select {
		case f, ok := <-p.landings:
			if !ok {
				return
			}
			unflushed += f.paid
			p.applyFlight(&f)
			idle.Reset(idleAfter)
		case e := <-p.erasures:
			e.done <- p.erase(e)
		case <-idle.C:
			if unflushed > idleTail {
				_, _ = p.db.AsyncFlush() // what fails is told to background
				unflushed = 0
			}
		}
	}
}

func (p *pebbleEngine) applyFlight(f *flight) {
	p.applying.began.Store(p.opts.Now())
	err := p.db.Apply(f.batch, pebble.NoSync)
	p.applying.began.Store(0)
	if err != nil {
		p.fail(fmt.Errorf("node: %s: cannot write the state: %w", p.dir, err))
		return // the batch is not closed: Pebble may still hold it
	}
	_ = f.batch.Close() // gives it back to Pebble's pool; fails never
	p.stored.Store(f.group)
	p.applied.move(f.seq)
}

// stopwatch runs while the disk is asked for something.
type stopwatch struct{ began atomic.Int64 } // Unix nanoseconds; 0: it does not run

func (s *stopwatch) stuck(now int64) bool {
	began := s.began.Load()
	return began != 0 && now-began > int64(stuckAfter)
}

// Stalled implements Engine.
func (p *pebbleEngine) Stalled() bool {
	now := p.opts.Now()
	return p.syncing.stuck(now) || p.applying.stuck(now)
}
