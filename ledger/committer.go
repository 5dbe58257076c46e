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
	"svc-wallet/wallet"
)

// Committer sends payments to the ledger in batches, without ever waiting for a batch to fill: a
// worker takes what is there, up to Limits.BatchMax, commits it as one call, takes again, and ends
// when nothing waits. So a lone payment is a batch of one and is not delayed, and under load
// hundreds share a round trip and an fsync.
//
// Workers batches run at a time, and exactly Limits.Queue payments wait meanwhile; the next is
// refused as wallet.Busy.
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
	live   *config.Live // of batches
	opts   CommitterOptions
	pool   *ants.PoolWithFuncGeneric[*pending]

	pendings sync.Pool // of *pending
	batches  sync.Pool // of *batch
	lost     lost
	dropped  atomic.Uint64
	shadowed atomic.Uint64

	mu      sync.Mutex
	queue   queue
	running int // batches; equals Workers while anything waits
	closed  bool
	idle    chan struct{} // closed once closed and running is 0
}

// CommitterOptions are what a Committer has besides its ledger.
type CommitterOptions struct {
	Workers  int          // batches at a time, at least 1
	MaxQueue int          // hard bound of the queue, whatever Limits.Queue says
	Now      func() int64 // Unix nanoseconds, never backwards
	Observer Observer     // nil: nobody
	Backoff  Backoff

	// OnResult is told of the result of every payment that was part of a call, before its client
	// is answered, and also when its client no longer waits. at is when the last attempt began,
	// so an applied payment took effect after it. nil: nobody.
	OnResult func(t *wallet.Transfer, r *wallet.Result, at int64)

	// OnPanic is told of a panic in a batch, which is a bug of ours; the batch's payments are
	// Uncertain and the worker goes on. nil: standard error is.
	OnPanic func(v any, stack []byte)
}

// pending is one payment on its way. It has two sides, the client's goroutine and the worker; the
// last to leave gives it back.
type pending struct {
	transfer wallet.Transfer // a copy: the client may leave while the call is under way
	deadline int64
	timer    *time.Timer   // the client's
	result   wallet.Result // the worker's until done is signalled
	done     chan struct{} // holds one signal
	sides    atomic.Int32

	prev, next *pending // guarded by Committer.mu
	queued     bool     // guarded by Committer.mu
}

// batch is a worker's scratch memory.
type batch struct {
	items     []*pending
	settled   int // items whose client was signalled
	transfers []wallet.Transfer
	results   []wallet.Result
	deadline  int64 // the latest of the items'
	at        int64 // when the last attempt began
	attempt   func(context.Context) error
}

// NewCommitter makes a committer. Close ends it.
func NewCommitter(l Ledger, b *Breaker, live *config.Live, opts CommitterOptions) (*Committer, error) {
	if opts.Workers < 1 || opts.MaxQueue < 0 {
		return nil, fmt.Errorf("ledger: %d workers and a queue of %d cannot commit", opts.Workers, opts.MaxQueue)
	}
	if opts.OnResult == nil {
		opts.OnResult = func(*wallet.Transfer, *wallet.Result, int64) {}
	}
	if opts.OnPanic == nil {
		opts.OnPanic = func(v any, stack []byte) { fmt.Fprintf(os.Stderr, "ledger: panic in a batch: %v\n%s", v, stack) }
	}
	c := &Committer{
		ledger: l, caller: newCaller(b, live, opts.Now, opts.Observer, opts.Backoff), live: live, opts: opts,
		idle: make(chan struct{}),
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
	if c.pool, err = ants.NewPoolWithFuncGeneric(opts.Workers, c.work); err != nil {
		return nil, fmt.Errorf("ledger: worker pool: %w", err)
	}
	return c, nil
}

// Submit commits t under l and waits for its result until deadline (Unix nanoseconds by Now). A payment
// that still waits then is withdrawn and certainly refused; one that a worker has taken is
// Uncertain, and goes on.
func (c *Committer) Submit(t *wallet.Transfer, l *config.Limits, deadline int64) wallet.Result {
	patience := deadline - c.opts.Now()
	if patience <= 0 {
		return wallet.Result{Code: wallet.UpstreamUnavailable}
	}
	p := c.pendings.Get().(*pending)
	p.transfer, p.deadline = *t, deadline
	p.sides.Store(2)
	code, start := c.admit(p, l)
	if code == wallet.OK && start && c.pool.Invoke(p) != nil {
		code = wallet.RetryLater // closed in between
		c.end()
	}
	if code != wallet.OK {
		c.pendings.Put(p)
		return wallet.Result{Code: code}
	}
	return c.await(p, patience)
}

// admit gives p to a new worker, which is then to be started, or queues it.
func (c *Committer) admit(p *pending, l *config.Limits) (code wallet.Code, start bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return wallet.RetryLater, false
	case c.running < c.opts.Workers:
		c.running++
		return wallet.OK, true
	case c.queue.len >= min(l.Queue, c.opts.MaxQueue):
		c.dropped.Add(1)
		return wallet.Busy, false
	default:
		if l.Shadow != nil && c.queue.len >= l.Shadow.Queue {
			c.shadowed.Add(1)
		}
		c.queue.push(p)
		return wallet.OK, false
	}
}

func (c *Committer) await(p *pending, patience int64) wallet.Result {
	p.timer.Reset(time.Duration(patience))
	select {
	case <-p.done:
		p.timer.Stop() // before p is given back, because then the timer may be another's
		return c.receive(p)
	case <-p.timer.C:
	}
	if c.withdraw(p) {
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

// withdraw takes p out of the queue; false if a worker has taken it.
func (c *Committer) withdraw(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.queued {
		return false
	}
	c.queue.remove(p)
	return true
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

// work is a worker: it runs batches, the first of which begins with first, until nothing waits.
func (c *Committer) work(first *pending) {
	b := c.batches.Get().(*batch)
	for c.fill(b, first) {
		first = nil
		c.run(b)
	}
	c.batches.Put(b)
}

// fill takes what is there; false if there is nothing, and then the worker no longer counts.
func (c *Committer) fill(b *batch, first *pending) bool {
	most := c.live.Load().BatchMax
	c.mu.Lock()
	defer c.mu.Unlock()
	if first != nil {
		b.items = append(b.items, first)
	}
	for c.queue.len > 0 && (len(b.items) < most || len(b.items) == 0) {
		b.items = append(b.items, c.queue.pop())
	}
	if len(b.items) == 0 {
		c.endLocked()
		return false
	}
	return true
}

// run settles every item of b, whatever happens.
func (c *Committer) run(b *batch) {
	defer func() {
		if v := recover(); v != nil {
			c.opts.OnPanic(v, debug.Stack())
		}
		for _, p := range b.items[b.settled:] {
			p.result = wallet.Result{} // Uncertain, because a panic left it behind
			c.signal(p)
		}
		clear(b.items)
		b.items, b.settled, b.transfers = b.items[:0], 0, b.transfers[:0]
	}()
	c.skipExpired(b)
	if len(b.transfers) == 0 {
		return
	}
	c.caller.observer.Batch(len(b.transfers))
	// What was taken is carried through although a client may go away, so there is no context of
	// a client's: the batch may take as long as the most patient of them.
	err := c.caller.do(context.Background(), OpCommit, b.deadline, b.attempt)
	if err != nil && !errors.Is(err, errUndecided) {
		code := wallet.Uncertain
		if errors.Is(err, ErrNotSent) {
			code = wallet.UpstreamUnavailable
		}
		for i := range b.results {
			b.results[i] = wallet.Result{Code: code}
		}
	}
	for i := range b.results {
		c.settle(b, b.results[i])
	}
}

// skipExpired refuses the items that came to their deadline in the queue, for certain because
// nothing of them was sent, and lays out the others.
func (c *Committer) skipExpired(b *batch) {
	now, kept := c.opts.Now(), b.items[:0]
	b.deadline, b.at = 0, now
	for _, p := range b.items {
		if p.deadline <= now {
			p.result = wallet.Result{Code: wallet.UpstreamUnavailable}
			c.signal(p)
			continue
		}
		kept = append(kept, p)
		b.transfers = append(b.transfers, p.transfer)
		b.deadline = max(b.deadline, p.deadline)
	}
	clear(b.items[len(kept):])
	b.items = kept
	b.results = slices.Grow(b.results[:0], len(kept))[:len(kept)]
}

// attempt is one call of the ledger.
func (c *Committer) attempt(ctx context.Context, b *batch) (err error) {
	b.at = c.opts.Now()
	clear(b.results)
	a := new(attempt)
	unknown := true // until it ended, and where it panics
	defer func() {
		if unknown {
			c.lost.add(b.transfers, a, c.opts.Now())
		}
	}()
	if err := c.ledger.Commit(context.WithValue(ctx, attemptKey{}, a), b.transfers, b.results); err != nil {
		unknown = !errors.Is(err, ErrNotSent)
		return err
	}
	unknown = false
	if !slices.ContainsFunc(b.results, func(r wallet.Result) bool { return r.Code != wallet.Uncertain }) {
		err = errUndecided // a node that answers some of a batch is well: it may not be able to read one row
	}
	c.lost.doubt(b.transfers, b.results, a, b.at)
	return err
}

// settle gives the next item of b its result.
func (c *Committer) settle(b *batch, r wallet.Result) {
	p := b.items[b.settled]
	p.result = r
	c.opts.OnResult(&p.transfer, &p.result, b.at)
	b.settled++
	c.signal(p)
}

func (c *Committer) signal(p *pending) {
	p.done <- struct{}{}
	c.leave(p)
}

func (c *Committer) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
}

// endLocked ends a worker's count.
func (c *Committer) endLocked() {
	if c.running--; c.closed && c.running == 0 {
		close(c.idle)
	}
}

// Depth is how many payments wait.
func (c *Committer) Depth() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len
}

// Running is how many batches run.
func (c *Committer) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

// Workers is how many batches may run.
func (c *Committer) Workers() int { return c.opts.Workers }

// Dropped is how many payments were refused because the queue was full.
func (c *Committer) Dropped() uint64 { return c.dropped.Load() }

// ShadowDropped is how many payments went on that the queue under watch (Limits.Shadow) would have
// refused. As payments that go on fill the queue, it is an upper bound.
func (c *Committer) ShadowDropped() uint64 { return c.shadowed.Load() }

// Close refuses new payments and runs the ones that wait, until ctx ends; what waits then is
// refused. An error says that batches still run; they end by their own deadlines.
func (c *Committer) Close(ctx context.Context) error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		if c.running == 0 {
			close(c.idle)
		}
	}
	c.mu.Unlock()
	defer c.pool.Release()
	select {
	case <-c.idle:
		return nil
	case <-ctx.Done():
	}
	running := c.refuseQueued()
	if running == 0 {
		return nil
	}
	return fmt.Errorf("ledger: %d batches still run: %w", running, ctx.Err())
}

// refuseQueued answers what waits. Nothing of it was sent, so that is certain.
func (c *Committer) refuseQueued() (running int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.queue.len > 0 {
		p := c.queue.pop()
		p.result = wallet.Result{Code: wallet.RetryLater}
		c.signal(p) // never blocks: done has room for its only signal
	}
	return c.running
}
