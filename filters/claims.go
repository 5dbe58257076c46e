package filters

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"svc-wallet/wallet"
)

// Which table a claim of an Exchange is in.
const (
	idemClaim = iota
	nonceClaim
	numClaims
)

// claimRef is one claim that an exchange holds, nil for none. Settling it ends the claim and
// wakes whoever waits for it.
type claimRef interface {
	settle(x *Exchange, code wallet.Code)
}

// claims is the table behind Idempotency and Nonce: who is at work under a key now, and, where
// ttl is not zero, what was applied under it. A key K is claimed by one exchange at a time; O
// tells two claimants of a key apart.
//
// The table is a fast path and a meeting place for duplicates, never the truth: the ledger
// checks key, fingerprint and nonce again in the commit itself. So it may forget everything at
// any time, and must do so wherever it does not know: a claim whose outcome is unknown is
// dropped, because only a retry that reaches the ledger can learn the outcome. Had the table
// kept such a claim, every retry would wait for an answer that nobody brings any more.
//
// Bounds: at most `most` claims under way (more are refused as Busy; the in-flight cap is meant
// to come first), and about as many applied ones, the oldest of a shard making room for the
// newest. Claims under way are never evicted, and refused requests evict nothing.
type claims[K, O comparable] struct {
	seed   maphash.Seed
	shards []claimShard[K, O] // a power of two of them
	most   int64              // claims under way
	share  int                // applied claims that one shard keeps
	ttl    int64              // how long an applied claim is kept, ns; 0 keeps none
	held   atomic.Int64       // claims under way
	epoch  atomic.Int64       // how often everything was forgotten
}

type claimShard[K, O comparable] struct {
	table *claims[K, O]

	mu             sync.Mutex
	byHash         map[uint64]*claim[K, O] // of the key, under the table's seed
	oldest, newest *claim[K, O]            // the applied claims, in order of settlement
	kept           int                     // length of that list
}

// claim is one key in use, or used and kept.
type claim[K, O comparable] struct {
	home  *claimShard[K, O] // immutable, as are hash, key, owner and epoch
	hash  uint64
	key   K
	owner O
	epoch int64 // of the table when it was claimed

	// Guarded by home.mu until the claim is settled, immutable afterwards. Uncertain stands for
	// "not known yet" in the table; there, every settled claim is applied.
	code    wallet.Code
	reply   []byte
	seq     uint64
	refusal *Refusal      // for those who wait
	until   int64         // when an applied claim is forgotten, Unix nanoseconds
	done    chan struct{} // made for the first who waits, closed on settlement

	newer *claim[K, O] // in the list of applied claims; guarded by home.mu
}

// standing is how a key was found.
type standing uint8

const (
	full     standing = iota // too many claims under way
	taken                    // claimed for the caller
	underWay                 // somebody else's, not settled
	settled                  // somebody else's, with its answer
	timeUp                   // somebody else's, and the caller's patience is over
)

func newClaims[K, O comparable](shards, entries int, ttl time.Duration) *claims[K, O] {
	n := 1 << bits.Len(uint(max(shards, 1)-1)) // the next power of two
	t := &claims[K, O]{
		seed:   maphash.MakeSeed(),
		shards: make([]claimShard[K, O], n),
		most:   int64(entries),
		share:  (entries + n - 1) / n,
		ttl:    int64(ttl),
	}
	for i := range t.shards {
		t.shards[i].table = t
		t.shards[i].byHash = make(map[uint64]*claim[K, O])
	}
	return t
}

// take claims key for x, or says who stands in the way. It waits while another exchange holds
// the key, without any lock and no longer than x.Deadline, and then reports that other claim as
// settled: whether to try again is the caller's rule.
func (t *claims[K, O]) take(x *Exchange, slot int, key K, owner O) (*claim[K, O], standing) {
	c, s, done := t.find(key, owner, x.Now)
	switch {
	case s == taken:
		x.claims[slot] = c
	case s == underWay && x.wait(done):
		return c, settled
	case s == underWay:
		return c, timeUp
	}
	return c, s
}

// find looks key up and claims it where it is free.
func (t *claims[K, O]) find(key K, owner O, now int64) (*claim[K, O], standing, <-chan struct{}) {
	hash := maphash.Comparable(t.seed, key)
	s := &t.shards[hash&uint64(len(t.shards)-1)] //nolint:gosec // not negative
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c := s.byHash[hash]; {
	case c != nil && c.key != key: // two keys of one hash, under a secret seed: not to be found
		return nil, full, nil
	case c != nil && c.code == wallet.Uncertain:
		if c.done == nil {
			c.done = make(chan struct{})
		}
		return c, underWay, c.done
	case c != nil && now < c.until:
		return c, settled, nil
	}
	if t.held.Add(1) > t.most {
		t.held.Add(-1)
		return nil, full, nil
	}
	c := &claim[K, O]{home: s, hash: hash, key: key, owner: owner, epoch: t.epoch.Load()}
	s.byHash[hash] = c
	return c, taken, nil
}

// settle ends a claim with what became of its exchange. Only what is applied is kept, now or before
// as the ledger told: a refusal uses nothing up, and an unknown outcome is the ledger's to tell.
func (c *claim[K, O]) settle(x *Exchange, code wallet.Code) {
	s := c.home
	var reply []byte
	applied := s.table.ttl > 0 && code.Outcome() == wallet.Applied
	if applied {
		reply = bytes.Clone(x.Reply) // for those who wait, too, so also where the table was told to forget
	}
	s.mu.Lock()
	c.code, c.reply, c.seq = code, reply, x.Seq
	if c.done != nil {
		refusal := x.Refusal
		c.refusal = &refusal
	}
	if applied && c.epoch == s.table.epoch.Load() {
		c.until = x.Now + s.table.ttl
		s.keep(c, x.Now)
	} else {
		delete(s.byHash, c.hash)
	}
	done := c.done
	s.mu.Unlock()
	s.table.held.Add(-1)
	if done != nil {
		close(done)
	}
}

// keep appends c to the applied claims and lets up to two old ones go: one for c's place, one
// so that what has expired runs dry faster than it grows. The order is that of settlement, so an
// expired claim may stand behind one that arrived up to a deadline later; find judges each by
// its own time.
func (s *claimShard[K, O]) keep(c *claim[K, O], now int64) {
	if s.newest == nil {
		s.oldest = c
	} else {
		s.newest.newer = c
	}
	s.newest = c
	s.kept++
	for range 2 { // c itself stays: it is young, and every shard has room for one
		old := s.oldest
		if s.kept <= s.table.share && now < old.until {
			return
		}
		s.oldest = old.newer
		s.kept--
		if s.byHash[old.hash] == old { // not where it expired and the key was claimed anew
			delete(s.byHash, old.hash)
		}
	}
}

// forget drops what is kept, and keeps nothing of what is under way: it was applied by a ledger that
// is not there any more.
func (t *claims[K, O]) forget() {
	t.epoch.Add(1)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for c := s.oldest; c != nil; c = c.newer {
			if s.byHash[c.hash] == c {
				delete(s.byHash, c.hash)
			}
		}
		s.oldest, s.newest, s.kept = nil, nil, 0
		s.mu.Unlock()
	}
}

// size counts the claims under way and kept.
func (t *claims[K, O]) size() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.byHash)
		s.mu.Unlock()
	}
	return n
}

// wait returns true once done is closed, and false when the client's patience ends first. All
// waits of an exchange share one timer, so together they end at its deadline.
func (x *Exchange) wait(done <-chan struct{}) bool {
	if x.patience == nil {
		x.patience = time.After(time.Duration(x.Deadline - x.Now))
	}
	select {
	case <-done:
		return true
	case <-x.patience:
		return false
	}
}

// release settles what x holds in a table.
func (x *Exchange) release(slot int, code wallet.Code) {
	if c := x.claims[slot]; c != nil {
		x.claims[slot] = nil
		c.settle(x, code)
	}
}
