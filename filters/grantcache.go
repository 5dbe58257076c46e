package filters

import (
	"encoding/binary"
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// grantTTL is how long a verified token is taken at its word (CONTRACT §3), in nanoseconds.
const grantTTL = int64(30 * time.Second)

// grantWays is how many tokens share a set.
const grantWays = 8

// grantCache holds verified tokens. It is built as a processor's cache is: a token's hash picks a
// set of eight slots, and a slot is one atomic pointer to an immutable entry. So readers take no
// lock and write nothing that another reads, the memory is bounded by construction, and there is
// nothing to sweep. Two writers may overwrite each other's slot, which costs one verification.
//
// Nobody can aim at a set to push a certain token out, because the hash is of a secret.
type grantCache struct{ sets []grantSet }

type grantSet [grantWays]atomic.Pointer[cachedGrant]

// cachedGrant is a verdict: under these keys this token means that. Root keys that were replaced
// void it at once, because another *Keys is in force then.
type cachedGrant struct {
	sum   [32]byte // BLAKE3-256 of the token's text
	keys  *Keys
	until int64 // Unix nanoseconds
	Grant
}

func newGrantCache(entries int) grantCache {
	return grantCache{sets: make([]grantSet, max(1, (entries+grantWays-1)/grantWays))}
}

func (c *grantCache) set(sum *[32]byte) *grantSet {
	at, _ := bits.Mul64(binary.LittleEndian.Uint64(sum[:]), uint64(len(c.sets))) // sum scaled to the sets
	return &c.sets[at]
}

// get returns the grant, or nil. Comparing in variable time tells only of the hash.
func (c *grantCache) get(sum *[32]byte, keys *Keys, now int64) *Grant {
	set := c.set(sum)
	for i := range set {
		e := set[i].Load()
		if e == nil {
			return nil // slots fill in order and are never emptied
		}
		if e.sum == *sum && e.keys == keys && now < e.until {
			return &e.Grant
		}
	}
	return nil
}

// put keeps e in the slot of its own token (many requests may verify a new token at once, and
// shall fill one slot), else in a free one, else in place of the oldest, which is also the first
// to count no more.
func (c *grantCache) put(e *cachedGrant) {
	set := c.set(&e.sum)
	victim, oldest := 0, int64(math.MaxInt64)
	for i := range set {
		old := set[i].Load()
		if old == nil || old.sum == e.sum {
			victim = i
			break
		}
		if old.until < oldest {
			victim, oldest = i, old.until
		}
	}
	set[victim].Store(e)
}
