package ledger

import (
	"hash/maphash"
	"math/bits"
	"sync"

	"svc-wallet/wallet"
)

// cache keeps the balances that the reader serves, and knows of each how current it is.
//
// A figure comes from one of three sources: a lookup, the result of a commit, the watch stream.
// It holds every commit up to its version, and of two figures the higher version wins, so the
// sources may overtake each other. An entry is current as of the time when the call that brought
// it began, or as of the stream's lease if the stream maintains it: that is so if no change of its
// balance between its version and the stream's position can have been missed.
//
// The rule that makes this true is floor: the stream's changes up to that version have passed
// this shard, so a figure below it may lack some and does not enter. A lookup closes the gap by
// registering before it is sent: what passes from then on is kept for it, and its answer must not
// be below the floor that it started from.
//
// Invariant (TestCacheModel): a figure that is served holds every commit that was durable at its
// as_of and every commit up to its version, and no reader sees a balance go back.
type cache struct {
	seed   maphash.Seed
	shards []shard
	most   int // entries a shard
}

// shard holds whole accounts, because a debit of one asset moves the nonce that is shown with all
// of the account's balances. Its big maps hold no pointers, so the garbage collector passes them.
type shard struct {
	mu      sync.RWMutex
	entries map[wallet.BalanceKey]entry
	holders map[wallet.Account]holder // of the entries and the pending lookups
	pending map[wallet.BalanceKey]*pendingLookup
	floor   uint64 // no figure below this version enters
	epoch   uint32 // of the stream that passes; 0 while its position is not known
	_       [64]byte
}

// entry is a cached balance.
type entry struct {
	amount wallet.Amount
	seq    uint64 // holds every commit up to it
	at     int64  // when the call began that brought it
	epoch  uint32 // of the stream that maintains it; 0 for none
}

// holder is an account's nonce. Nonces only grow, so the highest one seen is the newest.
type holder struct {
	nonce uint64
	refs  int32 // entries and pending lookups; at 0 the holder goes
}

// lease is how far the stream has come. It is immutable: the three belong together.
type lease struct {
	epoch uint32
	asOf  int64  // every change durable at this local time has been applied
	seq   uint64 // every change up to this version has been applied
}

// figure is a balance as it is served.
type figure struct {
	balance wallet.Balance
	asOf    int64 // Unix nanoseconds
}

// pendingLookup is a lookup under way. Guarded by its shard's mutex until done is closed; then the
// answer is immutable.
type pendingLookup struct {
	key      wallet.BalanceKey
	origin   wallet.Origin
	deadline int64

	floor uint64 // an answer below it is older than what was known
	epoch uint32 // of the stream when the lookup was registered
	void  bool   // the cache was cleared meanwhile
	known entry  // the newest figure that passed meanwhile

	done   chan struct{}
	code   wallet.Code // OK, or why there is no figure
	tooOld bool        // with OK: ask again
	figure figure
}

func newCache(shards, entries int) *cache {
	n := 1 << bits.Len(uint(max(shards, 1)-1))
	c := &cache{seed: maphash.MakeSeed(), shards: make([]shard, n), most: max(entries/n, 1)}
	for i := range c.shards {
		s := &c.shards[i]
		s.entries = make(map[wallet.BalanceKey]entry)
		s.holders = make(map[wallet.Account]holder)
		s.pending = make(map[wallet.BalanceKey]*pendingLookup)
	}
	return c
}

func (c *cache) shard(a wallet.Account) *shard {
	return &c.shards[maphash.Comparable(c.seed, a)&uint64(len(c.shards)-1)] //nolint:gosec // at least one
}

// get returns the cached figure of key under l, which the caller loaded before, so that what l
// says has been applied is what get sees.
func (c *cache) get(key *wallet.BalanceKey, l *lease) (f figure, ok bool) {
	s := c.shard(key.Account)
	s.mu.RLock()
	e, ok := s.entries[*key]
	nonce := s.holders[key.Account].nonce
	s.mu.RUnlock()
	if !ok {
		return figure{}, false
	}
	return e.figure(key, nonce, l), true
}

func (e *entry) figure(key *wallet.BalanceKey, nonce uint64, l *lease) figure {
	f := figure{wallet.Balance{Key: *key, Amount: e.amount, Nonce: nonce, Seq: e.seq}, e.at}
	if e.maintained(l) {
		f.balance.Seq = max(e.seq, l.seq)
		f.asOf = max(e.at, l.asOf)
	}
	return f
}

func (e *entry) maintained(l *lease) bool { return e.epoch != 0 && e.epoch == l.epoch }

// join returns the lookup of key that is under way, or registers one, which is then the caller's
// to send and to end with answer or fail.
func (c *cache) join(key wallet.BalanceKey, origin wallet.Origin, deadline int64) (p *pendingLookup, mine bool) {
	s := c.shard(key.Account)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p = s.pending[key]; p != nil {
		return p, false
	}
	p = &pendingLookup{
		key: key, origin: origin, deadline: deadline, floor: s.floor, epoch: s.epoch, done: make(chan struct{}),
	}
	s.pending[key] = p
	s.hold(key.Account, 0)
	return p, true
}

// fail ends a lookup without an answer.
func (c *cache) fail(p *pendingLookup, code wallet.Code) {
	s := c.shard(p.key.Account)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, p.key)
	s.release(p.key.Account)
	p.code = code
	close(p.done)
}

// answer ends a lookup with the ledger's figure b. The lookup was sent at the local time at; l was
// loaded before this call.
func (c *cache) answer(p *pendingLookup, b *wallet.Balance, at int64, l *lease) {
	s := c.shard(p.key.Account)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, p.key)
	defer s.release(p.key.Account)
	defer close(p.done)

	p.code = wallet.OK
	e := entry{amount: b.Amount, seq: b.Seq, at: at}
	e.advance(&p.known)
	if p.tooOld = p.void || e.seq < p.floor; p.tooOld {
		return
	}
	// Nothing was missed since the lookup was registered, or nothing since the figure.
	if s.epoch != 0 && (p.epoch == s.epoch || e.seq >= s.floor) {
		e.epoch = s.epoch
	}
	if old, ok := s.entries[p.key]; ok {
		e.advance(&old)
		e.epoch = max(e.epoch, old.epoch)
	}
	c.put(s, p.key, e, b.Nonce)
	p.figure = e.figure(&p.key, s.holders[p.key.Account].nonce, l)
}

// advance takes over the amount of a newer figure of the same balance.
func (e *entry) advance(newer *entry) {
	if newer.seq > e.seq {
		e.amount, e.seq = newer.amount, newer.seq
	}
	e.at = max(e.at, newer.at)
}

// apply takes a step of the stream.
func (c *cache) apply(change *wallet.Change) {
	for i := range change.Balances {
		b := &change.Balances[i]
		s := c.shard(b.Key.Account)
		s.mu.Lock()
		s.apply(b, change.Seq)
		s.mu.Unlock()
	}
}

// apply takes one figure of a step to version seq. The parts of a large step bear the version
// before it, and their figures the later one.
func (s *shard) apply(b *wallet.Balance, seq uint64) {
	seq = max(seq, b.Seq)
	s.floor = max(s.floor, seq)
	if !s.see(b.Key.Account, b.Nonce) {
		return
	}
	news := entry{amount: b.Amount, seq: seq}
	if e, ok := s.entries[b.Key]; ok {
		e.advance(&news)
		e.epoch = s.epoch // it holds all that has passed
		s.entries[b.Key] = e
	}
	if p := s.pending[b.Key]; p != nil {
		p.known.advance(&news)
	}
}

// see notes an account's nonce; false if nothing of the account is cached or under way.
func (s *shard) see(a wallet.Account, nonce uint64) bool {
	h, ok := s.holders[a]
	if ok && nonce > h.nonce {
		s.holders[a] = holder{nonce, h.refs}
	}
	return ok
}

// learn takes a balance from a commit's result. at is when the commit was sent, which was before
// it took effect.
func (c *cache) learn(b *wallet.Balance, at int64) {
	s := c.shard(b.Key.Account)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.see(b.Key.Account, b.Nonce)
	news := entry{amount: b.Amount, seq: b.Seq, at: at}
	if p := s.pending[b.Key]; p != nil {
		p.known.advance(&news)
	}
	e, ok := s.entries[b.Key]
	switch {
	case ok && b.Seq > e.seq:
		e.advance(&news)
		if b.Seq >= s.floor {
			e.epoch = s.epoch
		}
		s.entries[b.Key] = e
	case !ok && s.epoch != 0 && b.Seq >= s.floor:
		news.epoch = s.epoch
		c.put(s, b.Key, news, b.Nonce)
	case !ok:
		s.floor = max(s.floor, b.Seq) // its client knows of it, so nothing older may enter
	}
}

// demand drops what is older than version seq of key, and any nonce of its account older than
// nonce, because its client knows of them.
func (c *cache) demand(key wallet.BalanceKey, nonce, seq uint64, l *lease) {
	s := c.shard(key.Account)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.see(key.Account, nonce)
	if p := s.pending[key]; p != nil {
		p.floor = max(p.floor, seq)
	}
	e, ok := s.entries[key]
	if ok && e.figure(&key, 0, l).balance.Seq >= seq {
		return
	}
	if ok {
		s.drop(key, e)
	}
	s.floor = max(s.floor, seq)
}

// begin says that the stream of this epoch passes every change after version seq.
func (c *cache) begin(epoch uint32, seq uint64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.epoch, s.floor = epoch, max(s.floor, seq)
		s.mu.Unlock()
	}
}

// clear forgets everything: changes were missed, or the history is another one. What lookups
// under way bring is too old, because what passed meanwhile is forgotten too.
func (c *cache) clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		clear(s.entries)
		clear(s.holders)
		for _, p := range s.pending {
			p.void = true
			s.hold(p.key.Account, 0)
		}
		s.epoch, s.floor = 0, 0
		s.mu.Unlock()
	}
}

// put inserts or replaces an entry; a full shard loses another one.
func (c *cache) put(s *shard, key wallet.BalanceKey, e entry, nonce uint64) {
	if _, ok := s.entries[key]; !ok {
		s.hold(key.Account, nonce) // first, so that evicting the account's last entry loses no nonce
		if len(s.entries) >= c.most {
			s.evict()
		}
	} else {
		s.see(key.Account, nonce)
	}
	s.entries[key] = e
}

// evict drops the entry that comes first; Go's maps begin anywhere. A balance in demand is back
// after one lookup.
func (s *shard) evict() {
	for key, e := range s.entries {
		s.drop(key, e)
		return
	}
}

// drop removes an entry, and bars older figures of it from entering later.
func (s *shard) drop(key wallet.BalanceKey, e entry) {
	delete(s.entries, key)
	s.release(key.Account)
	s.floor = max(s.floor, e.seq)
}

func (s *shard) hold(a wallet.Account, nonce uint64) {
	h := s.holders[a]
	s.holders[a] = holder{max(h.nonce, nonce), h.refs + 1}
}

func (s *shard) release(a wallet.Account) {
	h := s.holders[a]
	if h.refs--; h.refs > 0 {
		s.holders[a] = h
		return
	}
	delete(s.holders, a)
}
