package ledger

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/wallet"
)

const (
	lookupWorkers = 3 // batches of lookups at a time

	// brief is how long a read that could be answered from memory waits for a ledger whose stream
	// is down: enough for a lookup where only the stream is broken, little where the node is gone.
	brief = 100 * time.Millisecond

	// A read that asks for a version above the stream's waits for it, because a client that wrote
	// through another sidecar may be ahead of this one by what is on its way. It waits for no longer
	// than that takes, few wait at once, and what cannot be on its way is not waited for.
	outrunWait  = time.Second
	outrunMost  = 64   // at once, and no more than one for each outrunShare
	outrunShare = 4    // of the places in flight
	outrunBatch = 4096 // versions of the largest batch: what is on its way after a rest
)

var (
	again     = host.Backoff{First: 2 * time.Millisecond, Most: 64 * time.Millisecond} //nolint:gochecknoglobals // a table; waits for a version that the ledger has not reached
	reconnect = host.Backoff{First: 20 * time.Millisecond, Most: time.Second}          //nolint:gochecknoglobals // a table; waits that are less where the connection is back before
)

// Reader serves balances from memory while the ledger's watch stream vouches for them, and looks
// up what it does not hold: one lookup a balance, however many wait for it, and as batches,
// without waiting for a batch to fill.
//
// A read sees the one version of the limits that its exchange sees, which Balance is given. A batch
// of lookups belongs to no exchange: its size, and the time-out, retries and breaker of its calls,
// are those of the limits in force when it runs.
//
// Invariant: an as_of is honest (see cache). A figure older than Limits.StalenessWindow is served
// only if the ledger cannot be asked, and none older than MaxStale.
type Reader struct {
	ledger Ledger
	caller caller
	live   *config.Live // of batches
	opts   ReaderOptions
	cache  *cache

	queue     batcher[*pendingLookup]
	lease     atomic.Pointer[lease] // written by Run's goroutine only
	freshness freshness
	told      host.Repeats // why the ledger is away
	outcomes  [NumCacheOutcomes]atomic.Uint64

	lagged, reconnects, conservationOK, conservationFailed atomic.Uint64
	outrun                                                 atomic.Int64  // reads that wait for a version
	stride                                                 atomic.Uint64 // versions that the stream passed in the last second
}

// ReaderOptions are what a Reader has besides its ledger.
type ReaderOptions struct {
	Shards   int           // rounded up to a power of two
	Entries  int           // cached balances at most
	MaxStale time.Duration // age to which a figure is served while the ledger cannot be asked
	Now      func() int64  // Unix nanoseconds, never backwards
	Observer Observer      // nil: nobody
	Backoff  host.Backoff

	StallAfter time.Duration      // silence after which the ledger counts as stalled; 0: StallAfter
	Log        logrus.FieldLogger // nil: nothing is logged
	OnTurn     func()             // is told when Healthy turns; nil: nobody
}

// CacheOutcome is how a balance was served, for metrics.
type CacheOutcome uint8

// The outcomes.
const (
	cacheHit       CacheOutcome = iota // from memory, within the staleness window
	cacheMiss                          // by a lookup of its own
	cacheCoalesced                     // by a lookup that was under way
	cacheStale                         // from memory, because the ledger cannot be asked
	cacheFailed                        // not served
	NumCacheOutcomes
)

// String is the value of the label outcome.
func (o CacheOutcome) String() string {
	return [NumCacheOutcomes]string{
		cacheHit: "hit", cacheMiss: "miss", cacheCoalesced: "coalesced", cacheStale: "stale", cacheFailed: "failed",
	}[o]
}

// beater is a Ledger whose stream also says how current it is. Over any other, entries have only
// their age, and the stream's being up is all that is known of its health.
type beater interface {
	WatchBeat(ctx context.Context, from uint64, on func(wallet.Change), beat func(Beat), tick func(silent time.Duration)) error
}

// connector is a Ledger that knows when its connection is back, so that nothing waits longer.
type connector interface {
	Await(ctx context.Context, d time.Duration) bool
}

// doubter is a Ledger that knows whether it is the one that this process has paid into. While it is in
// doubt no read is served, from memory neither.
type doubter interface{ Doubt() *Doubt }

func (r *Reader) doubted() bool {
	d, ok := r.ledger.(doubter)
	return ok && d.Doubt() != nil
}

// NewReader makes a reader with an empty cache. Run keeps it current.
func NewReader(l Ledger, b *Breaker, live *config.Live, opts ReaderOptions) *Reader {
	if opts.StallAfter <= 0 {
		opts.StallAfter = StallAfter
	}
	opts.Log = orSilent(opts.Log)
	r := &Reader{
		ledger: l, caller: newCaller(b, live, opts.Now, opts.Observer, opts.Backoff), live: live, opts: opts,
		cache: newCache(opts.Shards, opts.Entries),
		queue: batcher[*pendingLookup]{
			workers: lookupWorkers, limit: math.MaxInt, most: func() int { return live.Load().BatchMax },
			now: opts.Now, idle: make(chan struct{}),
		},
	}
	r.queue.run = r.lookUp
	r.queue.start = func(p *pendingLookup) error {
		go r.queue.work(p)
		return nil
	}
	r.lease.Store(&lease{})
	r.freshness.now.Store(newCondition(ledgerUnseen, ""))
	return r
}

// Balance returns under l the figure of key at version minSeq or later, and as of when it is. Its
// Seq is a version that it is known to hold. wallet.OK, or: Busy (too many lookups wait), RetryLater
// (the ledger has not reached minSeq, and b.Seq is where it is; or draining; or the ledger is in doubt),
// UpstreamUnavailable, Unreadable.
func (r *Reader) Balance(
	key wallet.BalanceKey, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (b wallet.Balance, asOf int64, code wallet.Code) {
	if r.doubted() {
		return r.outran(minSeq)
	}
	f, ok := r.cache.get(&key, r.lease.Load())
	if ok && f.balance.Seq >= minSeq {
		age := r.opts.Now() - f.asOf
		if age <= int64(l.StalenessWindow) {
			return r.serve(&f, cacheHit)
		}
		if age <= int64(r.opts.MaxStale) && r.Stalled() { // a lookup would hang like the heartbeats
			return r.serve(&f, cacheStale)
		}
	}
	if r.beyond(minSeq) {
		return r.outran(r.Seq())
	}
	return r.lookup(key, l, minSeq, origin, deadline)
}

// outran answers a read whose client asks for a version that the ledger, at version seq, has not.
func (r *Reader) outran(seq uint64) (wallet.Balance, int64, wallet.Code) {
	r.outcomes[cacheFailed].Add(1)
	return wallet.Balance{Seq: seq}, 0, wallet.RetryLater
}

func (r *Reader) serve(f *figure, o CacheOutcome) (wallet.Balance, int64, wallet.Code) {
	r.outcomes[o].Add(1)
	return f.balance, f.asOf, wallet.OK
}

// Learn takes in the result of a payment before its client is answered, so that the client reads
// its own write. at is when the call began that brought it. It is a CommitterOptions.OnResult.
func (r *Reader) Learn(t *wallet.Payment, res *wallet.Result, at int64) {
	if res.Code == wallet.OK {
		for i := range res.Balances {
			if b := &res.Balances[i]; !b.Key.Account.IsZero() {
				r.cache.learn(b, at)
			}
		}
	}
	if res.Code != wallet.Replayed {
		return
	}
	// The figures of a replay are not known, only that it has taken effect.
	l := r.lease.Load()
	if !t.From.IsZero() {
		r.cache.demand(wallet.BalanceKey{Account: t.From, Asset: t.Asset}, t.Nonce, res.Seq, l)
	}
	if !t.To.IsZero() {
		r.cache.demand(wallet.BalanceKey{Account: t.To, Asset: t.Asset}, 0, res.Seq, l)
	}
}

// Seq is the version that the stream has reached.
func (r *Reader) Seq() uint64 { return r.lease.Load().seq }

// Lagged is how often the node cut off the stream because it was read too slowly.
func (r *Reader) Lagged() uint64 { return r.lagged.Load() }

// Reconnects is how often the stream broke.
func (r *Reader) Reconnects() uint64 { return r.reconnects.Load() }

// Conservation is the node's count of its checks that found no money made or lost, and of those that
// did find some.
func (r *Reader) Conservation() (ok, failed uint64) {
	return r.conservationOK.Load(), r.conservationFailed.Load()
}

// CacheCount is how many balances were served so.
func (r *Reader) CacheCount(o CacheOutcome) uint64 { return r.outcomes[o].Load() }
