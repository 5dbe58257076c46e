package ledger

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

const (
	lookupWorkers = 3 // batches of lookups at a time

	// brief is how long a read that could be answered from memory waits for a ledger whose stream
	// is down: enough for a lookup where only the stream is broken, little where the node is gone.
	brief = 100 * time.Millisecond

	againFirst = 2 * time.Millisecond // waits for a version that the ledger has not reached
	againMost  = 64 * time.Millisecond

	// A read that asks for a version above the stream's waits for it, because a client that wrote
	// through another sidecar may be ahead of this one by what is on its way. It waits for no longer
	// than that takes, few wait at once, and what cannot be on its way is not waited for.
	outrunWait  = time.Second
	outrunMost  = 64   // at once, and no more than one for each outrunShare
	outrunShare = 4    // of the places in flight
	outrunBatch = 4096 // versions of the largest batch: what is on its way after a rest

	reconnectFirst = 20 * time.Millisecond // less where the connection is back before
	reconnectMost  = time.Second
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

	lease    atomic.Pointer[lease] // written by Run's goroutine only
	healthy  atomic.Bool           // the stream is up and heartbeats arrive
	stalled  atomic.Bool           // the stream is up and heartbeats do not arrive
	hush     hush
	why      atomic.Pointer[string] // not healthy, in words; nil: healthy, or nothing is known yet
	causes   causes
	outcomes [NumCacheOutcomes]atomic.Uint64

	lagged, reconnects, conservationOK, conservationFailed atomic.Uint64
	outrun                                                 atomic.Int64  // reads that wait for a version
	stride                                                 atomic.Uint64 // versions that the stream passed in the last second

	mu          sync.Mutex // guards the queue of lookups
	first, last *pendingLookup
	queued      int
	running     int
	closed      bool
	idle        sync.WaitGroup // lookup workers
}

// ReaderOptions are what a Reader has besides its ledger.
type ReaderOptions struct {
	Shards   int           // rounded up to a power of two
	Entries  int           // cached balances at most
	MaxStale time.Duration // age to which a figure is served while the ledger cannot be asked
	Now      func() int64  // Unix nanoseconds, never backwards
	Observer Observer      // nil: nobody
	Backoff  Backoff

	StallAfter time.Duration      // silence after which the ledger counts as stalled; 0: StallAfter
	Log        logrus.FieldLogger // nil: nothing is logged
	OnTurn     func()             // is told when Healthy turns; nil: nobody
}

// CacheOutcome is how a balance was served, for metrics.
type CacheOutcome uint8

// The outcomes.
const (
	CacheHit       CacheOutcome = iota // from memory, within the staleness window
	CacheMiss                          // by a lookup of its own
	CacheCoalesced                     // by a lookup that was under way
	CacheStale                         // from memory, because the ledger cannot be asked
	CacheFailed                        // not served
	NumCacheOutcomes
)

// String is the value of the label outcome.
func (o CacheOutcome) String() string {
	return [NumCacheOutcomes]string{
		CacheHit: "hit", CacheMiss: "miss", CacheCoalesced: "coalesced", CacheStale: "stale", CacheFailed: "failed",
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
	}
	r.lease.Store(&lease{})
	r.hush.turn(false)
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
			return r.serve(&f, CacheHit)
		}
		if age <= int64(r.opts.MaxStale) && !r.healthy.Load() {
			if r.stalled.Load() { // a lookup would hang like the heartbeats
				return r.serve(&f, CacheStale)
			}
		}
	}
	if r.beyond(minSeq) {
		return r.outran(r.Seq())
	}
	return r.lookup(key, l, minSeq, origin, deadline)
}

// patience is until when a read waits for the ledger: little where it is known to be away.
func (r *Reader) patience(deadline int64) int64 {
	if r.healthy.Load() || r.why.Load() == nil {
		return deadline
	}
	return min(deadline, r.opts.Now()+int64(brief))
}

// beyond says that the ledger cannot reach version seq soon: its stream is current, and further
// below than what can be on its way, which is a second's worth at the pace of late, and a batch.
func (r *Reader) beyond(seq uint64) bool {
	l := r.lease.Load()
	return l.epoch > 0 && seq > l.seq && seq-l.seq > r.stride.Load()+outrunBatch && r.Healthy()
}

// outrunRoom is how many reads may wait for a version under l.
func outrunRoom(l *config.Limits) int64 {
	return int64(min(outrunMost, max(1, l.InFlight/outrunShare)))
}

// reach waits for the stream to come to version seq; false where that does not happen soon.
func (r *Reader) reach(seq uint64, l *config.Limits, deadline int64) bool {
	lost := r.hush.now()
	if r.Seq() >= seq {
		return true
	}
	defer r.outrun.Add(-1)
	if r.outrun.Add(1) > outrunRoom(l) || r.beyond(seq) {
		return false
	}
	deadline = min(r.patience(deadline), r.opts.Now()+int64(outrunWait))
	for wait := againFirst; r.Seq() < seq; wait = min(2*wait, againMost) {
		if r.opts.Now()+int64(wait) >= deadline || !sleep(lost, wait) {
			return false
		}
	}
	return true
}

// outran answers a read whose client asks for a version that the ledger, at version seq, has not.
func (r *Reader) outran(seq uint64) (wallet.Balance, int64, wallet.Code) {
	r.outcomes[CacheFailed].Add(1)
	return wallet.Balance{Seq: seq}, 0, wallet.RetryLater
}

func (r *Reader) serve(f *figure, o CacheOutcome) (wallet.Balance, int64, wallet.Code) {
	r.outcomes[o].Add(1)
	return f.balance, f.asOf, wallet.OK
}

// lookup asks the ledger, again while its answers are too old and there is time. A silent one is not
// asked: that would take a place in flight, and what is in memory needs those.
func (r *Reader) lookup(
	key wallet.BalanceKey, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Balance, int64, wallet.Code) {
	begun := r.opts.Now()
	for wait := againFirst; ; wait = min(2*wait, againMost) {
		lost := r.hush.now()
		if lost.Err() != nil {
			return r.fallBack(&key, minSeq, wallet.UpstreamUnavailable)
		}
		deadline = r.patience(deadline)
		p, mine := r.cache.join(key, origin, deadline)
		if mine {
			r.enqueue(p, l.Queue)
		}
		code := r.await(lost, p, minSeq, deadline)
		if code != wallet.OK {
			return r.fallBack(&key, minSeq, code)
		}
		if !p.tooOld && p.figure.balance.Seq >= minSeq {
			if mine {
				return r.serve(&p.figure, CacheMiss)
			}
			return r.serve(&p.figure, CacheCoalesced)
		}
		if !p.tooOld { // below minSeq; without a stream only another lookup tells more
			deadline = min(deadline, begun+int64(outrunWait))
			if r.Healthy() && !r.reach(minSeq, l, deadline) {
				return r.outran(max(r.Seq(), p.figure.balance.Seq))
			}
		}
		if r.opts.Now()+int64(wait) >= deadline {
			return r.outran(max(r.Seq(), p.figure.balance.Seq))
		}
		sleep(lost, wait)
	}
}

// await waits for the end of a lookup. A read changes nothing, so one whose time runs out is
// refused, not uncertain. lost was taken before the lookup was begun. Where it ends, nothing more is
// hoped for that could be answered from memory, or of a ledger that is silent; one that is gone may
// still answer a lookup, so the others wait a little.
func (r *Reader) await(lost context.Context, p *pendingLookup, minSeq uint64, deadline int64) wallet.Code { //nolint:contextcheck // lost is none of a call
	for {
		t := time.NewTimer(time.Duration(deadline - r.opts.Now()))
		select {
		case <-p.done:
			t.Stop()
			return p.code
		case <-t.C:
			return wallet.UpstreamUnavailable
		case <-lost.Done():
			t.Stop()
		}
		if lost = r.hush.now(); lost.Err() != nil {
			return wallet.UpstreamUnavailable
		}
		if _, ok := r.held(&p.key, minSeq); ok {
			return wallet.UpstreamUnavailable
		}
		deadline = r.patience(deadline)
	}
}

// held is the figure in memory that may be served while the ledger cannot be asked.
func (r *Reader) held(key *wallet.BalanceKey, minSeq uint64) (figure, bool) {
	f, ok := r.cache.get(key, r.lease.Load())
	return f, ok && f.balance.Seq >= minSeq && r.opts.Now()-f.asOf <= int64(r.opts.MaxStale)
}

// fallBack serves what is in memory, with its true age, where the ledger could not be asked.
func (r *Reader) fallBack(key *wallet.BalanceKey, minSeq uint64, code wallet.Code) (wallet.Balance, int64, wallet.Code) {
	if r.doubted() {
		return r.outran(minSeq)
	}
	if f, ok := r.held(key, minSeq); ok && (code == wallet.UpstreamUnavailable || code == wallet.Unreadable) {
		return r.serve(&f, CacheStale)
	}
	r.outcomes[CacheFailed].Add(1)
	return wallet.Balance{}, 0, code
}

// enqueue hands a registered lookup to the workers, or ends it where most wait already.
func (r *Reader) enqueue(p *pendingLookup, most int) {
	code := wallet.OK
	r.mu.Lock()
	switch {
	case r.closed:
		code = wallet.RetryLater
	case r.queued >= most:
		code = wallet.Busy
	default:
		if r.last == nil {
			r.first = p
		} else {
			r.last.next = p
		}
		r.last = p
		r.queued++
		if r.running < lookupWorkers {
			r.running++
			r.idle.Add(1)
			go r.work()
		}
	}
	r.mu.Unlock()
	if code != wallet.OK {
		r.cache.fail(p, code)
	}
}

// work runs batches of lookups until none waits.
func (r *Reader) work() {
	defer r.idle.Done()
	var b lookups
	for r.fill(&b) {
		r.run(&b)
	}
}

// lookups is a batch and its scratch memory.
type lookups struct {
	items    []*pendingLookup
	keys     []wallet.BalanceKey
	origins  []wallet.Origin
	figures  []wallet.Balance
	deadline int64 // the latest of the items'
}

// fill takes what is there; false if there is nothing, and then the worker no longer counts.
func (r *Reader) fill(b *lookups) bool {
	most := r.live.Load().BatchMax
	*b = lookups{items: b.items[:0], keys: b.keys[:0], origins: b.origins[:0], figures: b.figures[:0]}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.first != nil && (len(b.items) < most || len(b.items) == 0) {
		p := r.first
		if r.first = p.next; r.first == nil {
			r.last = nil
		}
		r.queued--
		b.items = append(b.items, p)
		b.keys = append(b.keys, p.key)
		b.origins = append(b.origins, p.origin)
		b.figures = append(b.figures, wallet.Balance{})
		b.deadline = max(b.deadline, p.deadline)
	}
	if len(b.items) == 0 {
		r.running--
		return false
	}
	return true
}

func (r *Reader) run(b *lookups) {
	at, err := r.look(b, 0, len(b.items))
	if errors.Is(err, wire.ErrDamaged) && len(b.items) > 1 {
		// One row that cannot be read fails the whole call, so each balance is asked for by itself.
		for i := range b.items {
			at, err := r.look(b, i, i+1)
			r.end(b, i, at, err)
		}
		return
	}
	for i := range b.items {
		r.end(b, i, at, err)
	}
}

// look asks for some of the figures. at is when the last attempt began.
func (r *Reader) look(b *lookups, from, to int) (at int64, err error) {
	ctx := withOrigins(context.Background(), b.origins[from:to])
	err = r.caller.do(ctx, OpLookup, b.deadline, func(ctx context.Context) error {
		at = r.opts.Now()
		return r.ledger.Lookup(ctx, b.keys[from:to], b.figures[from:to])
	})
	return at, err
}

// end gives an item its answer.
func (r *Reader) end(b *lookups, i int, at int64, err error) {
	if err != nil {
		r.cache.fail(b.items[i], unanswered(err))
		return
	}
	r.cache.answer(b.items[i], &b.figures[i], at, r.lease.Load())
}

// unanswered is the answer to a read whose call failed.
func unanswered(err error) wallet.Code {
	switch {
	case isDoubt(err):
		return wallet.RetryLater
	case errors.Is(err, wire.ErrDamaged):
		return wallet.Unreadable
	default:
		return wallet.UpstreamUnavailable
	}
}

// Transaction returns a receipt and a version that it holds, which is minSeq at least; or
// wallet.NotFound, RetryLater (the ledger has not reached minSeq, and the version is where it is; or it
// is in doubt), UpstreamUnavailable, Unreadable.
func (r *Reader) Transaction(
	txid wallet.TxID, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Receipt, uint64, wallet.Code) {
	return r.find(l, minSeq, origin, deadline, func(ctx context.Context) (wallet.Receipt, uint64, error) {
		return r.ledger.Transaction(ctx, txid)
	})
}

// Payment is Transaction by the nonce-bearing account and the key that it paid under.
func (r *Reader) Payment(
	account wallet.Account, key wallet.IdemKey, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Receipt, uint64, wallet.Code) {
	return r.find(l, minSeq, origin, deadline, func(ctx context.Context) (wallet.Receipt, uint64, error) {
		return r.ledger.Payment(ctx, account, key)
	})
}

// find asks the ledger for a receipt once it has reached minSeq.
func (r *Reader) find(
	l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
	ask func(context.Context) (wallet.Receipt, uint64, error),
) (receipt wallet.Receipt, seq uint64, code wallet.Code) {
	lost := r.hush.now()
	switch deadline = r.patience(deadline); {
	case r.doubted():
		return wallet.Receipt{}, minSeq, wallet.RetryLater
	case lost.Err() != nil:
		return wallet.Receipt{}, minSeq, wallet.UpstreamUnavailable
	case !r.reach(minSeq, l, deadline):
		return wallet.Receipt{}, r.Seq(), wallet.RetryLater
	}
	code = wallet.OK
	ctx, cancel := context.WithCancel(withOrigins(context.Background(), []wallet.Origin{origin}))
	defer cancel()
	defer context.AfterFunc(lost, func() { r.linger(ctx); cancel() })()
	err := r.caller.do(ctx, OpTransaction, deadline, func(ctx context.Context) (err error) {
		receipt, seq, err = ask(ctx)
		if errors.Is(err, wallet.NotFound) {
			code = wallet.NotFound // which is an answer, not a failure
			return nil
		}
		return err
	})
	if err != nil {
		code = unanswered(err)
	}
	return receipt, max(seq, minSeq), code
}

// linger waits, once the ledger is lost, for as long as one that is not silent may still answer.
func (r *Reader) linger(ctx context.Context) {
	if r.hush.now().Err() == nil {
		sleep(ctx, brief)
	}
}

// Learn takes in the result of a payment before its client is answered, so that the client reads
// its own write. at is when the call began that brought it. It is a CommitterOptions.OnResult.
func (r *Reader) Learn(t *wallet.Transfer, res *wallet.Result, at int64) {
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

// Run keeps the cache current by the ledger's watch stream until ctx ends, and then waits for the
// lookups under way. Afterwards only cached balances are served.
//
// A move of the client to another endpoint ends the stream on purpose, and the next one is up at
// once, so Healthy goes on. A copy that is of another history than the node's starts afresh at once,
// too. After any other end the next stream waits, but no longer than for the connection.
func (r *Reader) Run(ctx context.Context) error {
	defer r.close()
	s := stream{reader: r}
	moved, refused := false, false // how the last stream ended: by a move, because of the copy
	for wait := reconnectFirst; ; wait = min(2*wait, reconnectMost) {
		s.current = false
		err := s.follow(ctx)
		stale := errors.Is(err, wire.ErrBacklog)
		startOver := stale && (moved || (!s.current && !refused))
		moved, refused = errors.Is(err, errMoved), stale
		failed := !moved && !startOver
		if failed || ctx.Err() != nil {
			r.stalled.Store(false)
			r.hush.turn(false)                   //nolint:contextcheck // reads wait on it, which are not Run's
			r.away(cause(err), ctx.Err() == nil) //nolint:contextcheck // the same
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, wire.ErrLagged) {
			r.lagged.Add(1)
		}
		if errors.Is(err, wire.ErrLagged) || stale {
			s.restart()
		}
		if s.current { // it worked for a while
			wait = reconnectFirst
		}
		if !failed {
			continue
		}
		r.reconnects.Add(1)
		if !r.rest(ctx, rand.N(wait)) { //nolint:gosec // jitter is no secret
			return nil
		}
	}
}

// rest waits before the stream is opened anew.
func (r *Reader) rest(ctx context.Context, d time.Duration) bool {
	if c, ok := r.ledger.(connector); ok {
		return c.Await(ctx, d)
	}
	return sleep(ctx, d)
}

// up notes that the ledger answers.
func (r *Reader) up() {
	if r.healthy.Swap(true) {
		return
	}
	r.turned()
}

// away notes that it does not, and why. Both the stream's goroutine and the one that sends its ticks
// call it.
func (r *Reader) away(why string, tell bool) {
	if old := r.why.Load(); old == nil || *old != why {
		r.why.Store(&why)
	}
	if tell {
		r.causes.tell(r.opts.Log, why, r.opts.Now())
	}
	if !r.healthy.Swap(false) {
		return
	}
	if r.hush.now().Err() == nil { // reads that wait are told, later ones may ask
		r.hush.turn(true)
		r.hush.turn(false)
	}
	r.turned()
}

func (r *Reader) turned() {
	if r.opts.OnTurn != nil {
		r.opts.OnTurn()
	}
}

func (r *Reader) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.idle.Wait()
}

// stream is Run's side of the watch stream, and its goroutine's own.
type stream struct {
	reader  *Reader
	epoch   uint32 // grows when the copy starts afresh
	based   bool   // the stream has told its position in this epoch
	seq     uint64 // and this is it
	asOf    int64
	current bool // this connection has brought something
	stride  stride
}

// follow watches until the stream breaks. The next one goes on where it ended, so the cache stays
// as it is; but version 0 means the present one to the ledger, so from there it starts afresh.
func (s *stream) follow(ctx context.Context) error {
	if s.seq == 0 {
		s.restart()
	}
	if w, ok := s.reader.ledger.(beater); ok {
		return w.WatchBeat(ctx, s.seq, s.change, s.beat, s.tick)
	}
	s.reader.up()
	return s.reader.ledger.Watch(ctx, s.seq, s.change)
}

// restart forgets the copy. The lease goes first: nothing is served by it that is not maintained.
func (s *stream) restart() {
	s.reader.lease.Store(&lease{})
	s.reader.cache.clear()
	s.epoch, s.based, s.seq, s.asOf, s.stride = s.epoch+1, false, 0, 0, stride{}
}

func (s *stream) change(c wallet.Change) {
	s.reach(c.Seq)
	s.reader.cache.apply(&c)
	s.publish()
}

func (s *stream) beat(b Beat) {
	s.reach(b.Seq)
	s.asOf = max(s.asOf, b.AsOf)
	s.publish()
	s.reader.conservationOK.Store(b.ConservationOK)
	s.reader.conservationFailed.Store(b.ConservationFailed)
	s.reader.stalled.Store(b.Stalled)
	s.reader.hush.turn(false)
	if b.Stalled {
		s.reader.away(causeDisk, true)
		return
	}
	s.reader.up()
}

// reach notes the position. The first one of an epoch is where the stream's care begins: whatever
// has changed after it will pass.
func (s *stream) reach(seq uint64) {
	s.current = true
	s.seq = max(s.seq, seq)
	if !s.based {
		s.based = true
		s.reader.cache.begin(s.epoch, seq)
	}
}

// publish lets reads see the position, after the cache holds what it says.
func (s *stream) publish() {
	s.reader.stride.Store(s.stride.pass(s.seq, s.reader.opts.Now()))
	s.reader.lease.Store(&lease{epoch: s.epoch, asOf: s.asOf, seq: s.seq})
}

// stride measures how many versions the stream passes in a second.
type stride struct {
	since  int64  // when the present second began
	from   uint64 // and at which version
	before uint64 // versions that the last one brought
}

// pass notes the position, and returns how many versions a second has brought of late.
func (s *stride) pass(seq uint64, now int64) uint64 {
	switch passed := now - s.since; {
	case s.since == 0:
		*s = stride{since: now, from: seq}
	case passed >= int64(outrunWait):
		*s = stride{since: now, from: seq, before: seq - s.from}
	}
	return max(s.before, seq-s.from)
}

// tick is called by the goroutine that sends the ticks. The last half of a tick is forgiven, so
// that a stall shows at the tick that comes nearest to the setting.
func (s *stream) tick(silent time.Duration) {
	if silent+tickEvery/2 >= s.reader.opts.StallAfter {
		s.reader.stalled.Store(true)
		s.reader.hush.turn(true)
		s.reader.away(causeStall, true)
	}
}

// Healthy says whether the ledger answers: its stream is up and so are its heartbeats. A stall
// shows within ReaderOptions.StallAfter and two ticks.
func (r *Reader) Healthy() bool { return r.healthy.Load() }

// Stalled says that the ledger is there and does not go on.
func (r *Reader) Stalled() bool { return r.stalled.Load() }

// Seen says that something is known of the ledger, be it that it is away.
func (r *Reader) Seen() bool { return r.healthy.Load() || r.why.Load() != nil }

// Why is why the ledger does not answer, in one line; empty where it does.
func (r *Reader) Why() string {
	switch why := r.why.Load(); {
	case r.healthy.Load():
		return ""
	case why == nil:
		return causeUnseen
	default:
		return *why
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
