package filters

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// receipts is what Idempotency saw applied, by key. It is a fast path, never the truth: the ledger
// checks key and fingerprint again in the commit itself. So it may forget everything at any time.
//
// Bounds: at most `share` payments a shard, the oldest making room for the newest, each of at most 1 KiB
// and about 0.6. What is kept has no pointers, in pages of a few dozen payments, so that a large table
// costs the garbage collector nothing.
type receipts struct {
	shards []receiptShard // a power of two of them
	share  int            // payments that one shard keeps
	ttl    int64          // how long, ns
	epoch  atomic.Int64   // how often everything was forgotten
}

type receiptShard struct {
	mu     sync.Mutex
	byHash map[uint64]receiptPlace // of the key
	pages  []*receiptPage          // oldest first
	first  uint64                  // number of pages[0]
	gone   uint8                   // records of pages[0] that are forgotten
	kept   int                     // records that are not
}

// receiptPlace is a page's number, and a record in it.
type receiptPlace struct {
	page uint64
	at   uint8
}

// receiptPage is filled once and never again, so what points into its text may outlive the page's place in the
// table.
type receiptPage struct {
	records [48]receiptRecord
	text    [17<<10 - 64]byte // of each record: key, reply
	n       uint8             // records
	used    uint16            // of text
}

type receiptRecord struct {
	fingerprint        [32]byte
	hash               uint64 // of the key
	until              int64  // when it is forgotten, Unix nanoseconds
	seq                uint64
	start, middle, end uint16 // of its text: key behind start, reply behind middle
}

// mostReceipt is how long a receipt is that is kept, at most. The longest that the sidecar writes is shorter.
const mostReceipt = 2 << 10

// receipt is a payment that is kept.
type receipt struct {
	fingerprint [32]byte
	reply       []byte // not to be changed
	seq         uint64
}

func newReceipts(shards, entries int, ttl time.Duration) *receipts {
	n := powerOfTwo(shards)
	t := &receipts{shards: make([]receiptShard, n), share: (entries + n - 1) / n, ttl: int64(ttl)}
	for i := range t.shards {
		t.shards[i].byHash = make(map[uint64]receiptPlace)
	}
	return t
}

func (t *receipts) shard(hash uint64) *receiptShard {
	return &t.shards[hash&uint64(len(t.shards)-1)] //nolint:gosec // not negative
}

// find finds what was applied under a key.
func (t *receipts) find(hash uint64, key *idemKey, now int64) (receipt, bool) {
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.byHash[hash]
	if !ok {
		return receipt{}, false
	}
	p := s.pages[at.page-s.first]
	r := &p.records[at.at]
	var memory [maxIdemKey]byte
	if now >= r.until {
		delete(s.byHash, hash)
		return receipt{}, false
	}
	if string(p.text[r.start:r.middle]) != string(key.append(memory[:0])) {
		return receipt{}, false
	}
	return receipt{r.fingerprint, p.text[r.middle:r.end:r.end], r.seq}, true
}

// keep takes in what was applied under a claim, unless everything was forgotten since it was made.
func (t *receipts) keep(c *claim[idemKey, idemOwner], reply []byte, seq uint64, now int64) {
	if len(reply) > mostReceipt {
		return
	}
	s := t.shard(c.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.owner.epoch != t.epoch.Load() {
		return
	}
	number, p := s.page(len(reply))
	r := &p.records[p.n]
	text := c.key.append(p.text[:p.used])
	*r = receiptRecord{fingerprint: c.owner.fingerprint, hash: c.hash, until: now + t.ttl, seq: seq, start: p.used, middle: uint16(len(text))} //nolint:gosec // within text
	text = append(text, reply...)
	r.end = uint16(len(text)) //nolint:gosec // within text
	s.byHash[c.hash] = receiptPlace{number, p.n}
	p.n, p.used = p.n+1, r.end
	s.kept++
	s.evict(t.share, now)
}

// page is what the next record goes into, and its number.
func (s *receiptShard) page(reply int) (uint64, *receiptPage) {
	if n := len(s.pages); n > 0 {
		if p := s.pages[n-1]; int(p.n) < len(p.records) && int(p.used)+maxIdemKey+reply <= len(p.text) {
			return s.first + uint64(n) - 1, p
		}
	}
	p := new(receiptPage)
	s.pages = append(s.pages, p)
	return s.first + uint64(len(s.pages)) - 1, p
}

// evict lets up to two old records go: one for the newest one's place, one so that what has expired runs
// dry faster than it grows. The order is that of settlement, so an expired record may stand behind one that
// arrived up to a deadline later; find judges each by its own time. The newest one stays: it is young, and every
// shard has room for one.
func (s *receiptShard) evict(share int, now int64) {
	for range 2 {
		p, at := s.pages[0], receiptPlace{s.first, s.gone}
		old := &p.records[s.gone]
		if s.kept <= share && now < old.until {
			return
		}
		if is, ok := s.byHash[old.hash]; ok && is == at { // not where it expired and the key was paid under anew
			delete(s.byHash, old.hash)
		}
		s.kept--
		if s.gone++; s.gone == p.n {
			s.pages, s.gone = slices.Delete(s.pages, 0, 1), 0
			s.first++
		}
	}
}

// forget drops everything, and has nothing kept that is under way: it was applied by a ledger that is not
// there any more.
func (t *receipts) forget() {
	t.epoch.Add(1)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		clear(s.byHash)
		s.first += uint64(len(s.pages))
		s.pages, s.gone, s.kept = nil, 0, 0
		s.mu.Unlock()
	}
}

// size counts the keys known.
func (t *receipts) size() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.byHash)
		s.mu.Unlock()
	}
	return n
}
