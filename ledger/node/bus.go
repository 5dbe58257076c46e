package node

import (
	"context"
	"sync"
	"sync/atomic"

	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// bus tells watchers what became durable. It keeps the last changes in a ring that all watchers
// share, each with a place of its own in it, so a slow one costs nothing and is cut off when the
// ring has gone past it. It also is where the durable version moves: version and changes move
// together, so whoever has seen version S can be sent every change up to S.
type bus struct {
	durable  atomic.Uint64 // moves under mu
	lagged   atomic.Uint64
	watchers atomic.Int64

	mu       sync.Mutex
	closed   error            // why nothing comes any more
	wake     chan struct{}    // closed and replaced when something moves; nil while nobody waits
	balances []wallet.Balance // ring; place i is at i % len
	steps    []step           // ring, as long: a step has at least one balance
	first    uint64           // number of the oldest step held
	next     uint64           // number of the next step
	end      uint64           // place after the newest balance
	before   uint64           // version before the oldest step held
}

// step is one change: its balances end at place end, and start where the step before ends.
type step struct {
	seq        uint64
	begin, end uint64
}

func newBus(backlog int) *bus {
	return &bus{balances: make([]wallet.Balance, backlog), steps: make([]step, backlog)}
}

// start sets the version that the store was opened at, before anybody watches.
func (b *bus) start(seq uint64) {
	b.before = seq
	b.durable.Store(seq)
}

// publish moves the durable version to c.Seq and wakes everybody. c is copied.
func (b *bus) publish(c wallet.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(c.Balances); n > 0 {
		size := uint64(len(b.balances))
		begin := b.end
		b.end += uint64(n)
		for b.first < b.next && b.steps[b.first%size].begin+size < b.end {
			b.before = b.steps[b.first%size].seq
			b.first++
		}
		if uint64(n) <= size {
			for i, balance := range c.Balances {
				b.balances[(begin+uint64(i))%size] = balance
			}
			b.steps[b.next%size] = step{c.Seq, begin, b.end}
			b.next++
		} else { // more than the ring holds: every watcher must start afresh
			b.next++
			b.first, b.before = b.next, c.Seq
		}
	}
	b.durable.Store(c.Seq)
	b.wakeAll()
}

// close ends every wait with err.
func (b *bus) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		b.closed = err
	}
	b.wakeAll()
}

func (b *bus) wakeAll() {
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
}

// waiting returns what is closed at the next move. mu is held.
func (b *bus) waiting() <-chan struct{} {
	if b.wake == nil {
		b.wake = make(chan struct{})
	}
	return b.wake
}

// watch is Engine.Watch.
func (b *bus) watch(ctx context.Context, from uint64, on func(wallet.Change)) error {
	if b.watchers.Add(1) > MaxWatchers {
		b.watchers.Add(-1)
		return ErrWatchers
	}
	defer b.watchers.Add(-1)

	at, present, err := b.enter(from)
	if err != nil {
		return err
	}
	if from == 0 {
		on(wallet.Change{Seq: present})
	}
	for ctx.Err() == nil {
		c, wake, err := b.take(at)
		if err != nil {
			return err
		}
		if wake == nil {
			at++
			on(c)
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// enter returns the number of the first step after version from, and the present version.
func (b *bus) enter(from uint64) (at, present uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	present = b.durable.Load()
	if from == 0 {
		return b.next, present, nil
	}
	if from < b.before || from > present {
		return 0, 0, wire.ErrBacklog
	}
	lo, hi := b.first, b.next
	for lo < hi { // the first step with a version above from
		if mid := lo + (hi-lo)/2; b.steps[mid%uint64(len(b.steps))].seq > from {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo, present, nil
}

// take copies step at, or returns what to wait for where there is none yet.
func (b *bus) take(at uint64) (wallet.Change, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return wallet.Change{}, nil, b.closed
	}
	if at < b.first {
		b.lagged.Add(1)
		return wallet.Change{}, nil, wire.ErrLagged
	}
	if at == b.next {
		return wallet.Change{}, b.waiting(), nil
	}
	size := uint64(len(b.balances))
	s := b.steps[at%size]
	c := wallet.Change{Seq: s.seq, Balances: make([]wallet.Balance, 0, s.end-s.begin)}
	for i := s.begin; i < s.end; i++ {
		c.Balances = append(c.Balances, b.balances[i%size])
	}
	return c, nil, nil
}

// gate is a version that moves forward and can be waited for.
type gate struct {
	mu     sync.Mutex
	at     uint64
	closed error         // why it moves no more
	wake   chan struct{} // closed and replaced at each move; nil while nobody waits
}

func (g *gate) move(at uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = at
	g.wakeAll()
}

func (g *gate) close(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = err
	g.wakeAll()
}

func (g *gate) wakeAll() {
	if g.wake != nil {
		close(g.wake)
		g.wake = nil
	}
}

// await blocks until the version is at least that.
func (g *gate) await(ctx context.Context, version uint64) error {
	for {
		g.mu.Lock()
		at, closed := g.at, g.closed
		if g.wake == nil {
			g.wake = make(chan struct{})
		}
		wake := g.wake
		g.mu.Unlock()
		if at >= version {
			return nil
		}
		if closed != nil {
			return closed
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
