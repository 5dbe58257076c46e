package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/ants/v2"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// batchesApart is how long a payment may wait for the batch under way before one of its own begins: longer
// than a ledger beside this process takes for a batch on a busy machine, and little of the way to a far one.
const batchesApart = 10 * time.Millisecond

// Committer sends payments to the ledger in batches (see batcher). At most Workers batches run at a time, and
// exactly Limits.Queue payments wait meanwhile; the next is refused as wallet.Busy.
//
// A payment sees the one version of the limits that its exchange sees, which Submit is given. A
// batch belongs to no exchange: its size, and the time-out, retries and breaker of its calls, are
// those of the limits in force when it runs.
//
// Invariant: each Submit has one result. It is a refusal only if the ledger refused the payment
// or the payment never left this process, and no attempt is on its way any more that may yet be
// applied; it is OK only if the ledger said so.
type Committer struct {
	ledger Ledger
	caller caller
	opts   CommitterOptions
	queue  batcher[*pending]
	pool   *ants.PoolWithFuncGeneric[*pending] // of workers

	pendings sync.Pool // of *pending
	batches  sync.Pool // of *batch
	lost     lost
	dropped  atomic.Uint64
	shadowed atomic.Uint64
}

// CommitterOptions are what a Committer has besides its ledger.
type CommitterOptions struct {
	Workers  int          // batches at a time, at least 1
	MaxQueue int          // hard bound of the queue, whatever Limits.Queue says
	Now      func() int64 // Unix nanoseconds, never backwards
	Observer Observer     // nil: nobody
	Backoff  host.Backoff

	// OnResult is told of the result of every payment that was part of a call, before its client
	// is answered, and also when its client no longer waits. at is when the last attempt began,
	// so an applied payment took effect after it. nil: nobody.
	OnResult func(t *wallet.Payment, r *wallet.Result, at int64)

	// OnPanic is told of a panic in a batch, which is a bug of ours; the batch's payments are
	// Uncertain and the worker goes on. nil: standard error is.
	OnPanic func(v any, stack []byte)
}

// pending is one payment on its way. It has two sides, the client's goroutine and the worker; the
// last to leave gives it back.
type pending struct {
	payment  wallet.Payment // a copy: the client may leave while the call is under way
	deadline int64
	timer    *time.Timer   // the client's
	result   wallet.Result // the worker's until done is signalled
	done     chan struct{} // holds one signal
	sides    atomic.Int32
}

// batch is the memory of one batch, used again.
type batch struct {
	items    []*pending
	payments []wallet.Payment
	results  []wallet.Result
	deadline int64 // the latest of the items'
	at       int64 // when the last attempt began
	attempt  func(context.Context) error
}

// NewCommitter makes a committer. Close ends it.
func NewCommitter(l Ledger, b *Breaker, live *config.Live, opts CommitterOptions) (*Committer, error) {
	if opts.Workers < 1 || opts.MaxQueue < 0 {
		return nil, fmt.Errorf("ledger: %d workers and a queue of %d cannot commit", opts.Workers, opts.MaxQueue)
	}
	if opts.OnResult == nil {
		opts.OnResult = func(*wallet.Payment, *wallet.Result, int64) {}
	}
	if opts.OnPanic == nil {
		opts.OnPanic = func(v any, stack []byte) { fmt.Fprintf(os.Stderr, "ledger: panic in a batch: %v\n%s", v, stack) }
	}
	c := &Committer{
		ledger: l, caller: newCaller(b, live, opts.Now, opts.Observer, opts.Backoff), opts: opts,
		queue: batcher[*pending]{
			workers: opts.Workers, limit: opts.MaxQueue, most: func() int { return live.Load().BatchMax },
			now: opts.Now, apart: batchesApart, idle: make(chan struct{}),
		},
	}
	c.pendings.New = func() any {
		p := &pending{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
		p.timer.Stop()
		return p
	}
	c.batches.New = func() any {
		b := new(batch)
		b.attempt = func(ctx context.Context) error { return c.attempt(ctx, b) }
		return b
	}
	var err error
	// The pool never holds up a Submit for longer than a worker needs to come back: there are as
	// many workers as batches that may run.
	if c.pool, err = ants.NewPoolWithFuncGeneric(opts.Workers, c.queue.work); err != nil {
		return nil, fmt.Errorf("ledger: worker pool: %w", err)
	}
	c.queue.run, c.queue.start = c.commit, c.pool.Invoke
	return c, nil
}

// Submit commits t under l and waits for its result until deadline (Unix nanoseconds by Now). A payment
// that still waits then is withdrawn and certainly refused; one that a worker has taken is
// Uncertain, and goes on.
func (c *Committer) Submit(t *wallet.Payment, l *config.Limits, deadline int64) wallet.Result {
	patience := deadline - c.opts.Now()
	if patience <= 0 {
		return wallet.Result{Code: wallet.UpstreamUnavailable}
	}
	p := c.pendings.Get().(*pending)
	p.payment, p.deadline = *t, deadline
	p.sides.Store(2)
	at, code := c.queue.put(p, l.Queue)
	if code != wallet.OK {
		if code == wallet.Busy {
			c.dropped.Add(1)
		}
		c.pendings.Put(p)
		return wallet.Result{Code: code}
	}
	if l.Shadow != nil && at > l.Shadow.Queue {
		c.shadowed.Add(1)
	}
	return c.await(p, patience)
}

func (c *Committer) await(p *pending, patience int64) wallet.Result {
	p.timer.Reset(time.Duration(patience))
	select {
	case <-p.done:
		p.timer.Stop() // before p is given back, because then the timer may be another's
		return c.receive(p)
	case <-p.timer.C:
	}
	if c.queue.withdraw(p) {
		c.pendings.Put(p) // no worker has seen it
		return wallet.Result{Code: wallet.UpstreamUnavailable}
	}
	select {
	case <-p.done:
		return c.receive(p)
	default:
		c.leave(p)
		return wallet.Result{} // Uncertain
	}
}

func (c *Committer) receive(p *pending) wallet.Result {
	r := p.result
	c.leave(p)
	return r
}

// leave ends one side's use of p.
func (c *Committer) leave(p *pending) {
	if p.sides.Add(-1) > 0 {
		return
	}
	select {
	case <-p.done: // the client left without it
	default:
	}
	c.pendings.Put(p)
}

// commit is the way of a batch: to the ledger, and each item's result to its client, whatever happens.
func (c *Committer) commit(items []*pending) {
	b := c.batches.Get().(*batch)
	defer c.finish(b)

	// Lay out what has not come to its deadline in the queue. What has is refused, for certain because
	// nothing of it was sent. A crash here, or anywhere before the call, has done nothing, and the client
	// who asks again is a new one to the ledger.
	b.items, b.at = items, c.opts.Now()
	if c.layOut(b); len(b.items) == 0 {
		return
	}
	c.caller.observer.Batch(len(b.items))

	// Call the ledger, again while that may help. What was taken is carried through although a client may
	// go away, so there is no context of a client's: the batch may take as long as the most patient of
	// them. A crash here leaves payments that may have been made; their clients ask again under the same
	// keys, and the ledger answers with the first receipt or makes the payment now.
	err := c.caller.do(context.Background(), methodCommit, b.deadline, b.attempt)

	// Without an answer the results are one: refused where no attempt left this process, else unknown.
	if err != nil && !errors.Is(err, errUndecided) {
		code := wallet.Uncertain
		if errors.Is(err, ErrNotSent) {
			code = wallet.UpstreamUnavailable
		}
		for i := range b.results {
			b.results[i] = wallet.Result{Code: code, Undecided: errors.Is(err, wire.ErrDamaged)}
		}
	}

	// Tell the reader, and then the client, so that it reads its own write. A crash here is as above.
	for len(b.items) > 0 {
		p, i := b.items[0], len(b.results)-len(b.items)
		p.result = b.results[i]
		c.opts.OnResult(&p.payment, &p.result, b.at)
		b.items = b.items[1:]
		c.signal(p)
	}
}

// finish leaves what a panic left behind Uncertain.
func (c *Committer) finish(b *batch) {
	if v := recover(); v != nil {
		c.opts.OnPanic(v, debug.Stack())
	}
	for _, p := range b.items {
		p.result = wallet.Result{}
		c.signal(p)
	}
	b.items, b.payments, b.results, b.deadline = nil, b.payments[:0], b.results[:0], 0
	c.batches.Put(b)
}

// layOut keeps the items that are to be sent, in the memory that they came in.
func (c *Committer) layOut(b *batch) {
	kept := b.items[:0]
	for _, p := range b.items {
		if p.deadline <= b.at {
			p.result = wallet.Result{Code: wallet.UpstreamUnavailable}
			c.signal(p)
			continue
		}
		kept = append(kept, p)
		b.payments = append(b.payments, p.payment)
		b.deadline = max(b.deadline, p.deadline)
	}
	b.items = kept
	b.results = slices.Grow(b.results, len(kept))[:len(kept)]
}

// attempt is one call of the ledger.
func (c *Committer) attempt(ctx context.Context, b *batch) (err error) {
	b.at = c.opts.Now()
	clear(b.results)
	a := new(attempt)
	unknown := true // until it ended, and where it panics
	defer func() {
		if unknown {
			c.lost.add(b.payments, a, c.opts.Now())
		}
	}()
	if err := c.ledger.Commit(context.WithValue(ctx, attemptKey{}, a), b.payments, b.results); err != nil {
		unknown = !errors.Is(err, ErrNotSent)
		return err
	}
	unknown = false
	for i := range b.results {
		b.results[i].Undecided = b.results[i].Code == wallet.Uncertain
	}
	if !slices.ContainsFunc(b.results, func(r wallet.Result) bool { return r.Code != wallet.Uncertain }) {
		err = errUndecided // a node that answers some of a batch is well: it may not be able to read one row
	}
	c.lost.doubt(b.payments, b.results, a, b.at)
	return err
}

func (c *Committer) signal(p *pending) {
	p.done <- struct{}{}
	c.leave(p)
}

// Depth is how many payments wait.
func (c *Committer) Depth() int {
	waiting, _ := c.queue.load()
	return waiting
}

// Running is how many batches run.
func (c *Committer) Running() int {
	_, running := c.queue.load()
	return running
}

// Workers is how many batches may run.
func (c *Committer) Workers() int { return c.opts.Workers }

// Dropped is how many payments were refused because the queue was full.
func (c *Committer) Dropped() uint64 { return c.dropped.Load() }

// ShadowDropped is how many payments went on that the shadow queue (Limits.Shadow) would have
// refused. As payments that go on fill the queue, it is an upper bound.
func (c *Committer) ShadowDropped() uint64 { return c.shadowed.Load() }

// Close refuses new payments and runs the ones that wait, until ctx ends; what waits then is
// refused. An error says that batches still run; they end by their own deadlines.
func (c *Committer) Close(ctx context.Context) error {
	defer c.pool.Release()
	running := c.queue.close(ctx, func(p *pending) { // nothing of it was sent, so that is certain
		p.result = wallet.Result{Code: wallet.RetryLater}
		c.signal(p) // never blocks: done has room for its only signal
	})
	if running == 0 {
		return nil
	}
	return fmt.Errorf("ledger: %d batches still run: %w", running, ctx.Err())
}
