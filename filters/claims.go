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

// claims is the meeting place behind Idempotency and Nonce: who is at work under a key now. A key K
// is claimed by one exchange at a time; O tells two claimants of a key apart. Nothing of a claim is
// left in the table once it is settled, so also where its outcome is unknown: only a retry that
// reaches the ledger can learn that. Had the table kept such a claim, every retry would wait for an
// answer that nobody brings any more.
//
// Bounds: at most `most` claims under way; more are refused as Busy (the in-flight cap is meant to
// come first).
type claims[K, O comparable] struct {
	seed   maphash.Seed
	shards []claimShard[K, O] // a power of two of them
	most   int64              // claims under way
	held   atomic.Int64       // claims under way
	spare  sync.Pool          // of *claim[K, O] that nobody waited for, zero
}

type claimShard[K, O comparable] struct {
	mu     sync.Mutex
	byHash map[uint64]*claim[K, O] // of the key, under the table's seed
}

// claim is one key in use.
type claim[K, O comparable] struct {
	hash  uint64 // immutable, as are key and owner
	key   K
	owner O

	// Guarded by its shard's mu until the claim is settled, immutable afterwards. Uncertain stands for
	// "not known yet" in the table.
	code    wallet.Code
	reply   []byte // for those who wait, as are seq and refusal
	seq     uint64
	refusal Refusal
	done    chan struct{} // made for the first who waits, closed on settlement
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

func newClaims[K, O comparable](shards, entries int) *claims[K, O] {
	t := &claims[K, O]{
		seed:   maphash.MakeSeed(),
		shards: make([]claimShard[K, O], powerOfTwo(shards)),
		most:   int64(entries),
	}
	t.spare.New = func() any { return new(claim[K, O]) }
	for i := range t.shards {
		t.shards[i].byHash = make(map[uint64]*claim[K, O])
	}
	return t
}

// powerOfTwo is n, or the next one above it.
func powerOfTwo(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

func (t *claims[K, O]) shard(hash uint64) *claimShard[K, O] {
	return &t.shards[hash&uint64(len(t.shards)-1)] //nolint:gosec // not negative
}

// take claims key for x, or says who stands in the way. It waits while another exchange holds
// the key, without any lock and no longer than x.Deadline, and then reports that other claim as
// settled: whether to try again is the caller's rule.
func (t *claims[K, O]) take(x *Exchange, key *K, owner *O) (*claim[K, O], standing) {
	c, s, done := t.find(key, owner)
	switch {
	case s == underWay && x.wait(done):
		return c, settled
	case s == underWay:
		return c, timeUp
	}
	return c, s
}

// find claims key where it is free.
func (t *claims[K, O]) find(key *K, owner *O) (*claim[K, O], standing, <-chan struct{}) {
	hash := maphash.Comparable(t.seed, *key)
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byHash[hash]
	if c != nil && c.key == *key {
		if c.done == nil {
			c.done = make(chan struct{})
		}
		return c, underWay, c.done
	}
	if c != nil || t.held.Add(1) > t.most { // two keys of one hash, under a secret seed, are not to be found
		if c == nil {
			t.held.Add(-1)
		}
		return nil, full, nil
	}
	c = t.spare.Get().(*claim[K, O])
	c.hash, c.key, c.owner = hash, *key, *owner
	s.byHash[hash] = c
	return c, taken, nil
}

// settle ends a claim with what became of its exchange, and wakes whoever waits for it.
func (t *claims[K, O]) settle(c *claim[K, O], x *Exchange, code wallet.Code) {
	s := t.shard(c.hash)
	s.mu.Lock()
	delete(s.byHash, c.hash)
	done := c.done
	if done != nil {
		c.code, c.seq, c.refusal = code, x.Seq, x.Refusal
		if code.Outcome() == wallet.Applied {
			c.reply = bytes.Clone(x.Reply)
		}
	}
	s.mu.Unlock()
	t.held.Add(-1)
	if done != nil {
		close(done)
		return
	}
	*c = claim[K, O]{}
	t.spare.Put(c)
}

// size counts the claims.
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
