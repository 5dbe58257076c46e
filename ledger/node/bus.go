package node

import (
	"context"
	"sort"
	"sync"
	"sync/atomic"

	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// bus tells watchers what became durable. It keeps the last changes, as many as backlog balances fit
// in, for all watchers, each with a place of its own among them, so a slow one costs nothing and is cut
// off when its place has gone. It also is where the durable version moves: version and changes move
// together, so whoever has seen version S can be sent every change up to S.
type bus struct {
	gate     // at the durable version
	lagged   atomic.Uint64
	watchers atomic.Int64

	// Guarded by the gate's mutex.
	backlog int
	changes []wallet.Change // oldest first; immutable, each with at least one balance
	held    int             // balances in them
	first   uint64          // number of the oldest
	before  uint64          // version before it
}

func newBus(backlog int) *bus { return &bus{backlog: backlog} }

// start sets the version that the store was opened at, before anybody watches.
func (b *bus) start(seq uint64) {
	b.before = seq
	b.at.Store(seq)
}

// publish moves the durable version to c.Seq and wakes everybody. c is kept. A change that alone is
// more than the backlog goes with those before it: every watcher must start afresh.
func (b *bus) publish(c wallet.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = append(b.changes, c)
	for b.held += len(c.Balances); b.held > b.backlog; b.first++ {
		b.held -= len(b.changes[0].Balances)
		b.before = b.changes[0].Seq
		b.changes[0] = wallet.Change{} // or the array would hold it
		b.changes = b.changes[1:]
	}
	b.at.Store(c.Seq)
	b.ring()
}

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

// enter returns the number of the first change after version from, and the present version.
func (b *bus) enter(from uint64) (at, present uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	present = b.at.Load()
	if from == 0 {
		return b.first + uint64(len(b.changes)), present, nil
	}
	if from < b.before || from > present {
		return 0, 0, wire.ErrBacklog
	}
	i := sort.Search(len(b.changes), func(i int) bool { return b.changes[i].Seq > from })
	return b.first + uint64(i), present, nil //nolint:gosec // not negative
}

// take returns change at, or what to wait for where there is none yet.
func (b *bus) take(at uint64) (wallet.Change, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed != nil:
		return wallet.Change{}, nil, b.closed
	case at < b.first:
		b.lagged.Add(1)
		return wallet.Change{}, nil, wire.ErrLagged
	case at == b.first+uint64(len(b.changes)):
		return wallet.Change{}, b.wait(), nil
	}
	return b.changes[at-b.first], nil, nil
}

// gate is a version that moves forward and can be waited for.
type gate struct {
	mu     sync.Mutex
	at     atomic.Uint64 // moves under mu
	closed error         // why it moves no more
	rings  chan struct{} // closed by the next move; nil while nobody waits
}

// wait returns what the next move closes. Under mu.
func (g *gate) wait() <-chan struct{} {
	if g.rings == nil {
		g.rings = make(chan struct{})
	}
	return g.rings
}

// ring wakes everybody who waits. Under mu.
func (g *gate) ring() {
	if g.rings != nil {
		close(g.rings)
		g.rings = nil
	}
}

func (g *gate) move(at uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at.Store(at)
	g.ring()
}

// close ends every wait with err, unless it has been closed before.
func (g *gate) close(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = err
	}
	g.ring()
}

// await blocks until the version is at least that.
func (g *gate) await(ctx context.Context, version uint64) error {
	for {
		g.mu.Lock()
		at, closed, moves := g.at.Load(), g.closed, g.wait()
		g.mu.Unlock()
		if at >= version {
			return nil
		}
		if closed != nil {
			return closed
		}
		select {
		case <-moves:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
