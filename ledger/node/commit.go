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

const (
	stages   = 3    // of commitGroup, and so the groups under way
	maxCalls = 1024 // calls that wait for the next group
	maxGroup = 1024 // payments that a group takes more calls up to

	windowMost = 8192 // payments after which what they did goes into the state

	// stuckAfter is how long a sync may take before the disk counts as stalled: longer than the
	// slow ones of a healthy disk, shorter than a client's patience.
	stuckAfter = 150 * time.Millisecond

	// A state at rest is put on the disk, so that a start after a crash has less to do again: when
	// nothing came for so long, and more payments than so many would have to be.
	idleAfter = 200 * time.Millisecond
	idleTail  = 256
)

// call is one Commit on its way.
type call struct {
	ctx   context.Context //nolint:containedctx // asked when the call is taken up, whether its caller is still there
	batch []wallet.Payment
	out   []wallet.Result
	past  atomic.Bool // taken up, or withdrawn; who turns it decides
	done  chan error  // room for one
}

// group is the calls that are made durable together.
type group struct {
	calls  []*call
	change wallet.Change

	// Of a group in which something was committed.
	opens   *header // of the segment that begins with it, if one does
	record  *[]byte
	offset  int64 // in its segment
	seq     uint64
	effects effects
}

// Commit waits in the queue for the next group, which answers it.
func (p *pebbleEngine) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	if err := checkCommit(batch, out); err != nil || len(batch) == 0 {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &call{ctx: ctx, batch: batch, out: out, done: make(chan error, 1)}
	if ctx.Done() != nil { // the caller may leave, and its slices with it
		c.batch, c.out = append([]wallet.Payment(nil), batch...), make([]wallet.Result, len(out))
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
		if c.past.CompareAndSwap(false, true) {
			return withdrawn(ctx.Err())
		}
		return fmt.Errorf("node: the outcome is unknown: %w", ctx.Err())
	case <-p.ended:
	}
	select {
	case err := <-c.done:
		return err
	default: // put into the queue after the last group was taken
		return p.gone()
	}
}

func withdrawn(err error) error { return fmt.Errorf("node: withdrawn, nothing was done: %w", err) }

// commitGroup is the way of a group, from the queue to the state. As many goroutines as it has stages
// call it again and again. Each takes the lock of a stage before it leaves the one before, so the groups
// stay in order, and one is decided while the one before it is synced and the one before that is applied
// (docs/decisions/033). It returns false when the engine closes and no call waits.
func (p *pebbleEngine) commitGroup() (more bool) {
	// Take the calls that wait, without waiting for others. A crash here, or anywhere before the sync,
	// loses what nobody was told of.
	p.deciding.Lock()
	calls, more := p.take()
	if len(calls) == 0 {
		p.deciding.Unlock()
		return more
	}

	// Decide them on the books, which are ahead of the disk, and make the group's record. Where nothing
	// passed, the group still follows those before it: its verdicts rest on what they did.
	g := p.decide(calls)

	// From here on the next group may be decided, by what this one did. Should this one fail, so will
	// that one, because the engine ends.
	p.syncing.Lock()
	p.deciding.Unlock()

	// Append the record to the journal and sync it: the step that makes the payments. A crash here
	// leaves the record, a part of it or nothing, and callers who do not know. The next start takes up a
	// whole record and cuts off a part; a caller asks again under its key and is told what became of it.
	err := p.persist(&g)

	// Tell the watchers, and answer the calls. A crash here leaves payments that are made and callers
	// who do not know, as above.
	if err == nil && len(g.change.Balances) > 0 {
		p.bus.publish(g.change)
	}
	for _, c := range g.calls {
		c.done <- err
	}

	p.applying.Lock()
	p.syncing.Unlock()

	// Put what the group did into the window, and the window into the state when it is large or somebody wants
	// to read; so the state is never ahead of the journal. A crash here leaves a state that lacks the newest
	// groups; the next start takes them from the journal.
	if err == nil && g.record != nil {
		p.window.take(&g.effects)
		p.idle.Reset(idleAfter)
		if p.window.payments() >= windowMost || p.wanted {
			p.save()
		}
	}
	p.applying.Unlock()
	return true
}

// take waits for a call and gathers what waits behind it; false once the engine closes and none does.
func (p *pebbleEngine) take() (calls []*call, more bool) {
	select {
	case c := <-p.calls:
		return p.gather(c), true
	case <-p.closing:
	}
	select {
	case c := <-p.calls:
		return p.gather(c), true
	default:
		return nil, false
	}
}

// gather takes the calls that wait. One whose caller has gone is left out, also where the caller's
// goroutine did not come to withdraw it yet: a later call of the same payment may have been judged
// meanwhile.
func (p *pebbleEngine) gather(c *call) []*call {
	var calls []*call
	for n := 0; ; {
		if err := p.clock.barred(c.ctx); err != nil {
			c.done <- withdrawn(err)
		} else if c.past.CompareAndSwap(false, true) {
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

// decide decides the calls, and makes the record and the rows of what passed. A payment whose rows
// cannot be read stays undecided, alone.
func (p *pebbleEngine) decide(calls []*call) group {
	g := group{calls: calls}
	if p.failure.Load() != nil {
		return g
	}
	p.books.begin(p.opts.Now())
	defer p.store.rest()
	for _, c := range calls {
		for i := range c.batch {
			err := p.books.decide(&c.batch[i], &c.out[i])
			if errors.Is(err, errEntropy) {
				p.books.rollback()
				p.fail(fmt.Errorf("node: %s: %w", p.dir, err))
				return g
			}
			if err != nil {
				p.damaged(err)
			}
		}
	}
	change := p.books.change()
	if !p.books.balanced() {
		p.books.rollback()
		p.failed.Add(1)
		p.opts.Log.WithField("reason", "a group would have made or lost money and was refused").Error("conservation_failed")
		for _, c := range calls {
			refuseAll(c.out)
		}
		return g
	}
	p.conserved.Add(1)
	if g.change = change; len(p.books.receipts) > 0 {
		var entries []int64
		g.opens, g.record, g.offset, entries = p.out.record(p.books.receipts)
		g.seq, g.effects = p.books.head.seq, p.books.effects(&p.out, entries)
	}
	p.books.settle(p.stored.Load())
	return g
}

// refuseAll answers for a group that did not balance, which is a bug of ours.
func refuseAll(results []wallet.Result) {
	for i := range results {
		results[i] = wallet.Result{Code: wallet.Internal}
	}
}

// persist returns once the group is durable. What failed is not tried again, since nobody knows how much
// of it is on the disk: the engine ends.
func (p *pebbleEngine) persist(g *group) error {
	if g.record != nil && p.failure.Load() == nil {
		p.disk.begin(p.opts.Now())
		err := p.appendRecord(g)
		p.disk.end()
		if err != nil {
			p.fail(fmt.Errorf("node: %s: cannot write the journal: %w", p.dir, err))
		}
	}
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	return nil
}

func (p *pebbleEngine) appendRecord(g *group) error {
	if err := p.writer.inPlace(g.opens != nil); err != nil {
		return err
	}
	if g.opens != nil {
		if err := p.writer.begin(g.opens); err != nil {
			return err
		}
	}
	if err := p.writer.append(*g.record, g.offset); err != nil {
		return err
	}
	p.out.spare.Put(g.record)
	if err := p.durable.write(g.seq); err != nil || g.opens == nil {
		return err
	}
	return p.durable.file.Sync()
}

// save puts the window into the state. applying is held.
func (p *pebbleEngine) save() {
	made := p.window.payments()
	if made == 0 || p.failure.Load() != nil {
		return
	}
	rows := p.db.NewBatch()
	p.window.write(rows)
	p.stateDisk.begin(p.opts.Now())
	err := p.db.Apply(rows, pebble.NoSync)
	p.stateDisk.end()
	if err != nil {
		p.fail(fmt.Errorf("node: %s: cannot write the state: %w", p.dir, err))
		return // the batch is not closed: Pebble may still hold it
	}
	_ = rows.Close() // gives it back to Pebble's pool; fails never
	p.wanted = false
	p.stored.Store(p.window.group)
	p.applied.move(p.window.head.seq)
	p.unflushed += made
}

// rest is called when nothing was paid for a while.
func (p *pebbleEngine) rest() {
	p.open.RLock()
	defer p.open.RUnlock()
	select {
	case <-p.closing:
		return
	default:
	}
	p.applying.Lock()
	defer p.applying.Unlock()
	p.save()
	if p.unflushed > idleTail {
		_, _ = p.db.AsyncFlush() // what fails is told to background
		p.unflushed = 0
	}
}

// stopwatch runs while the disk is asked for something.
type stopwatch struct{ began atomic.Int64 } // Unix nanoseconds; 0: it does not run

func (s *stopwatch) begin(now int64) { s.began.Store(now) }
func (s *stopwatch) end()            { s.began.Store(0) }

func (s *stopwatch) stuck(now int64) bool {
	began := s.began.Load()
	return began != 0 && now-began > int64(stuckAfter)
}
