package ledger

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"svc-wallet/wallet"
)

// batcher gathers what comes at the same time into batches, without ever waiting for a batch to fill: a
// worker takes what is there, up to most, runs it as one batch, takes again, and ends when nothing waits.
// So at low load a batch is one item and is not delayed, and under load hundreds share a call. Beside a
// batch another begins only once it would be full, or the last one began apart ago
// (docs/decisions/038): half as many calls of twice the size cost less.
//
// Invariant: while anything waits, a batch runs.
type batcher[T comparable] struct {
	workers int           // batches at a time
	limit   int           // items that wait at most, whatever put is told
	most    func() int    // items of a batch begun now; at least one is taken
	run     func([]T)     // runs a batch; the slice is not its own
	start   func(T) error // gives a new worker its first item, which is to call work
	now     func() int64  // nanoseconds, never backwards
	apart   time.Duration // between batches that are not full; 0: none
	memory  sync.Pool     // of *[]T: batches

	mu      sync.Mutex
	waiting []T // oldest first
	running int
	begun   int64 // when the last batch began
	closed  bool
	idle    chan struct{} // closed once closed and running is 0
}

// put begins a batch with item (at 0), or has it wait as number at of those that do, fewer than room
// until now. It refuses with Busy, or RetryLater once closed.
func (b *batcher[T]) put(item T, room int) (at int, code wallet.Code) {
	b.mu.Lock()
	if !b.closed && b.running < b.workers && b.due(room) {
		b.running++
		b.begun = b.now()
		if len(b.waiting) > 0 { // the oldest comes first
			oldest := b.waiting[0]
			b.waiting = append(slices.Delete(b.waiting, 0, 1), item)
			item = oldest
		}
		b.mu.Unlock()
		return 0, b.begin(item)
	}
	defer b.mu.Unlock()
	if b.closed {
		return 0, wallet.RetryLater
	}
	if len(b.waiting) >= min(room, b.limit) {
		return 0, wallet.Busy
	}
	b.waiting = append(b.waiting, item)
	return len(b.waiting), wallet.OK
}

// due says whether another batch may begin, under mu: also where the queue is full before a batch is.
func (b *batcher[T]) due(room int) bool {
	return b.running == 0 || len(b.waiting) >= min(b.most()-1, room, b.limit) || b.now()-b.begun >= int64(b.apart)
}

func (b *batcher[T]) begin(item T) wallet.Code {
	if b.start(item) == nil {
		return wallet.OK
	}
	b.mu.Lock() // closed in between
	defer b.mu.Unlock()
	b.end()
	return wallet.RetryLater
}

// withdraw takes item out of the queue, where it makes room at once; false if a worker has taken it.
func (b *batcher[T]) withdraw(item T) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, item)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	return i >= 0
}

// work is a worker: it runs batches, the first of which begins with item, until nothing waits.
func (b *batcher[T]) work(item T) {
	memory, ok := b.memory.Get().(*[]T)
	if !ok {
		memory = new([]T)
	}
	defer b.memory.Put(memory)
	for *memory = b.fill(append(*memory, item)); len(*memory) > 0; *memory = b.fill((*memory)[:0]) {
		b.run(*memory)
		clear(*memory)
	}
}

// fill takes what is there; nothing where nothing is, and then the worker no longer counts.
func (b *batcher[T]) fill(items []T) []T {
	most := max(b.most(), 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(items)+len(b.waiting) > 0 { // there will be a batch: let whoever is about to put an item do so first
		b.mu.Unlock()
		runtime.Gosched()
		b.mu.Lock()
	}
	n := min(len(b.waiting), max(most-len(items), 0))
	items = append(items, b.waiting[:n]...)
	b.waiting = slices.Delete(b.waiting, 0, n)
	if len(items) == 0 {
		b.end()
		return nil
	}
	b.begun = b.now()
	return items
}

// end ends a worker's count, under mu.
func (b *batcher[T]) end() {
	if b.running--; b.closed && b.running == 0 {
		close(b.idle)
	}
}

// close takes no more, and waits for what waits and runs until ctx ends; what waits then is given to
// refuse, under mu. It returns how many batches still run; they end by their own deadlines.
func (b *batcher[T]) close(ctx context.Context, refuse func(T)) (running int) {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		if b.running == 0 {
			close(b.idle)
		}
	}
	b.mu.Unlock()
	select {
	case <-b.idle:
		return 0
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, item := range b.waiting {
		refuse(item)
	}
	b.waiting = nil
	return b.running
}

// load is how many items wait and how many batches run.
func (b *batcher[T]) load() (waiting, running int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting), b.running
}
