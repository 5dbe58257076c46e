package ledger

import (
	"context"
	"sync"

	"svc-wallet/wallet"
)

// batcher gathers what comes at the same time into batches, without ever waiting for a batch to fill: a
// worker takes what is there, up to most, runs it as one batch, takes again, and ends when nothing waits.
// So at low load a batch is one item and is not delayed, and under load hundreds share a call.
//
// Invariant: while anything waits, workers batches run.
type batcher[T linked[T]] struct {
	workers int           // batches at a time
	limit   int           // items that wait at most, whatever put is told
	most    func() int    // items of a batch begun now; at least one is taken
	run     func([]T)     // runs a batch; the slice is not its own
	start   func(T) error // gives a new worker its first item, which is to call work
	memory  sync.Pool     // of *[]T: batches

	mu          sync.Mutex
	first, last T // of those that wait, linked through themselves: one that is withdrawn makes room at once
	waiting     int
	running     int
	closed      bool
	idle        chan struct{} // closed once closed and running is 0
}

// linked is an item that has room for its place in the queue.
type linked[T any] interface {
	comparable
	link() *links[T]
}

// links is guarded by the batcher's mutex.
type links[T any] struct {
	prev, next T
	queued     bool
}

func (l *links[T]) link() *links[T] { return l }

// put gives item to a new worker (at 0), or has it wait as number at of those that do, fewer than room
// until now. It refuses with Busy, or RetryLater once closed.
func (b *batcher[T]) put(item T, room int) (at int, code wallet.Code) {
	b.mu.Lock()
	if !b.closed && b.running < b.workers {
		b.running++
		b.mu.Unlock()
		return 0, b.begin(item)
	}
	defer b.mu.Unlock()
	if b.closed {
		return 0, wallet.RetryLater
	}
	if b.waiting >= min(room, b.limit) {
		return 0, wallet.Busy
	}
	var none T
	*item.link() = links[T]{prev: b.last, queued: true}
	if b.last == none {
		b.first = item
	} else {
		b.last.link().next = item
	}
	b.last = item
	b.waiting++
	return b.waiting, wallet.OK
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

// withdraw takes item out of the queue; false if a worker has taken it.
func (b *batcher[T]) withdraw(item T) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !item.link().queued {
		return false
	}
	b.remove(item)
	return true
}

func (b *batcher[T]) remove(item T) {
	var none T
	p := item.link()
	if p.prev == none {
		b.first = p.next
	} else {
		p.prev.link().next = p.next
	}
	if p.next == none {
		b.last = p.prev
	} else {
		p.next.link().prev = p.prev
	}
	*p = links[T]{}
	b.waiting--
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
	most := b.most()
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.waiting > 0 && (len(items) < most || len(items) == 0) {
		items = append(items, b.first)
		b.remove(b.first)
	}
	if len(items) == 0 {
		b.end()
	}
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
	for b.waiting > 0 {
		item := b.first
		b.remove(item)
		refuse(item)
	}
	return b.running
}

// load is how many items wait and how many batches run.
func (b *batcher[T]) load() (waiting, running int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting, b.running
}
