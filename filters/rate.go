package filters

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"

	"svc-wallet/wallet"
)

// The buckets of this file are token buckets in the form of GCRA, the generic cell rate
// algorithm (ITU-T I.371): instead of a token count that somebody must refill, a bucket is the
// time at which it will be full again. Taking a token moves that time on by one period; a token
// is there as long as that time is not more than burst periods ahead of now. One integer is the
// whole state, and a bucket at rest costs nothing.

// Rate is the filter "rate": the sidecar's own token bucket. The zero value is ready, with a
// full bucket.
type Rate struct {
	bucket atomic.Pointer[bucket]

	mu sync.Mutex // held while a push of limits replaces the bucket
}

// bucket is one integer and what it means. A push replaces both at once: it first marks the
// integer as replaced, so that nobody takes a token from a bucket that is no longer there.
type bucket struct {
	shape  *shape
	fullAt atomic.Int64 // Unix nanoseconds, or replaced
}

const replaced = math.MaxInt64

// NewRate makes the filter "rate".
func NewRate() *Rate { return &Rate{} }

// Name implements Filter.
func (*Rate) Name() string { return "rate" }

// Check takes a token, without a lock and without allocating, or answers RateLimited and says in
// x.RateLimit when one will be there.
func (f *Rate) Check(x *Exchange) wallet.Code {
	for {
		b := f.bucket.Load()
		if b == nil || !b.shape.is(x.Limits.RatePerSecond, x.Limits.RateBurst) {
			b = f.reshape(x)
		}
		fullAt := b.fullAt.Load()
		if fullAt == replaced {
			f.reshape(x) // waits for the push that is at it
			continue
		}
		next, ok := b.shape.spend(fullAt, x.Now)
		if !ok {
			x.RateLimit = b.shape.refusal(fullAt, x.Now)
			return wallet.RateLimited
		}
		if b.fullAt.CompareAndSwap(fullAt, next) {
			return wallet.OK
		}
	}
}

// reshape puts the bucket under the limits of x. While exchanges with older and newer limits
// overlap it may go to and fro; no token appears by that.
func (f *Rate) reshape(x *Exchange) *bucket {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.bucket.Load()
	if old != nil && old.shape.is(x.Limits.RatePerSecond, x.Limits.RateBurst) {
		return old
	}
	b := &bucket{shape: makeShape(x.Limits.RatePerSecond, x.Limits.RateBurst, x.Now)}
	if old != nil {
		b.fullAt.Store(b.shape.adopt(old.shape, old.fullAt.Swap(replaced)))
	}
	f.bucket.Store(b)
	return b
}

// SubjectRate is the filter "subject_rate": a token bucket for each Grant.RateKey, the part of a
// capability that its holder cannot change. It is off where the limits SubjectRate and
// SubjectBurst are both zero, and denies where one of them is.
//
// It knows a bounded number of subjects. A full bucket can go at any time, because a new one is
// full too; a bucket that owes tokens is never thrown away, or a flood of subjects would refill
// it. Where no bucket can go, a subject that has none is refused until one can: that is when as
// many subjects as there are entries have all been active within burst/rate seconds.
type SubjectRate struct {
	seed   maphash.Seed
	shards []subjectShard // a power of two of them
	share  int            // subjects that one shard knows
	shape  atomic.Pointer[shape]
}

type subjectShard struct {
	mu       sync.Mutex
	subjects map[string]*subject
	swept    *shape // the limits at the last sweep
	soonest  int64  // under those, no bucket is full before, Unix nanoseconds
}

type subject struct {
	shape  *shape
	fullAt int64 // Unix nanoseconds
}

// subjectsPerShard bounds what a sweep looks at under the lock: some microseconds' worth.
const subjectsPerShard = 256

// NewSubjectRate makes the filter "subject_rate" for about entries subjects at a time.
func NewSubjectRate(entries int) *SubjectRate {
	n := 1 << bits.Len(uint(max(entries, 0)/(2*subjectsPerShard)))
	f := &SubjectRate{seed: maphash.MakeSeed(), shards: make([]subjectShard, n), share: (entries + n - 1) / n}
	for i := range f.shards {
		f.shards[i].subjects = make(map[string]*subject)
	}
	return f
}

// Name implements Filter.
func (*SubjectRate) Name() string { return "subject_rate" }

// Check takes a token of x.Grant's subject, without allocating for a subject that is known, or
// answers RateLimited and says in x.RateLimit when to come back.
func (f *SubjectRate) Check(x *Exchange) wallet.Code {
	rate, burst := x.Limits.SubjectRate, x.Limits.SubjectBurst
	if rate == 0 && burst == 0 {
		return wallet.OK
	}
	s := f.shape.Load()
	if !s.is(rate, burst) {
		s = makeShape(rate, burst, x.Now)
		f.shape.Store(s)
	}
	name := x.Grant.RateKey()
	shard := &f.shards[maphash.String(f.seed, name)&uint64(len(f.shards)-1)] //nolint:gosec // not negative
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if b := shard.subjects[name]; b != nil {
		return b.take(s, x)
	}
	if len(shard.subjects) >= f.share && !shard.sweep(s, x.Now) {
		x.RateLimit = RateState{Limit: rate, ResetMillis: ceilMillis(shard.soonest - x.Now)}
		return wallet.RateLimited
	}
	b := &subject{shape: s}
	shard.subjects[strings.Clone(name)] = b
	code := b.take(s, x)
	shard.soonest = min(shard.soonest, b.fullAt)
	return code
}

// sweep drops every full bucket and reports whether there was one. It looks only when there may
// be one, so that a flood of newcomers does not pay for a look each.
func (s *subjectShard) sweep(to *shape, now int64) bool {
	if s.swept == to && now < s.soonest {
		return false
	}
	before := len(s.subjects)
	s.swept, s.soonest = to, math.MaxInt64
	for name, b := range s.subjects {
		b.reshape(to)
		if b.fullAt <= now {
			delete(s.subjects, name)
		} else {
			s.soonest = min(s.soonest, b.fullAt)
		}
	}
	return len(s.subjects) < before
}

func (b *subject) reshape(to *shape) {
	if b.shape != to {
		b.fullAt = to.adopt(b.shape, b.fullAt)
		b.shape = to
	}
}

func (b *subject) take(s *shape, x *Exchange) wallet.Code {
	b.reshape(s)
	next, ok := s.spend(b.fullAt, x.Now)
	if !ok {
		x.RateLimit = s.refusal(b.fullAt, x.Now)
		return wallet.RateLimited
	}
	b.fullAt = next
	return wallet.OK
}

// shape is what a bucket's integer means under one setting of the limits. It is immutable.
type shape struct {
	rate, burst uint64 // tokens a second; tokens that a full bucket holds
	shut        bool   // one of them is zero: there is no token and no time passes
	period      int64  // a token's worth, ns, rounded up so that the rate is never exceeded
	span        int64  // burst periods: how far ahead of now an empty bucket's time is, ns
	since       int64  // when this setting was first seen, Unix nanoseconds
}

// maxSpan bounds spans to 73 years, so that now + span cannot overflow.
const maxSpan = math.MaxInt64 / 4

func makeShape(rate, burst uint64, now int64) *shape {
	period := (1e9-1)/max(rate, 1) + 1 // 1 to 1e9
	return &shape{
		rate:   rate,
		burst:  burst,
		shut:   rate == 0 || burst == 0,
		period: int64(period), //nolint:gosec // at most 1e9
		span:   int64(min(mulDiv(burst, period, 1), maxSpan)),
		since:  now,
	}
}

func (s *shape) is(rate, burst uint64) bool {
	return s != nil && s.rate == rate && s.burst == burst
}

// spend takes a token from a bucket that is full at the time fullAt: it returns the bucket's new
// time, or false where there is no token.
func (s *shape) spend(fullAt, now int64) (int64, bool) {
	next := max(fullAt, now) + s.period
	return next, next-now <= s.span && !s.shut
}

// refusal describes a bucket without a token.
func (s *shape) refusal(fullAt, now int64) RateState {
	if s.shut {
		return RateState{Limit: s.rate, ResetMillis: 1000} // not before the limits change
	}
	return RateState{Limit: s.rate, ResetMillis: ceilMillis(max(fullAt, now) + s.period - s.span - now)}
}

// adopt says what fullAt, a time under the shape old, is under s. The tokens that were there
// when the later of the two began are there still, as far as the new burst has room for them: a
// push of limits neither fills a bucket nor empties it (CONTRACT §2: limits and counters are
// separate). The later, because a request that still carries older limits may come last.
func (s *shape) adopt(old *shape, fullAt int64) int64 {
	since := max(s.since, old.since)
	at := since
	if old.shut {
		at = old.since
	}
	worth := uint64(max(old.span-max(fullAt-at, 0), 0))         // of its tokens, ns
	worth = mulDiv(worth, uint64(s.period), uint64(old.period)) //nolint:gosec // positive
	return since + s.span - int64(min(worth, uint64(s.span)))   //nolint:gosec // not negative
}

// mulDiv is a*b/c rounded down, or 2^64-1 where it is more.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return math.MaxUint64
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}

func ceilMillis(nanos int64) int64 { return (nanos + 1e6 - 1) / 1e6 }

// InFlight is the filter "in_flight": it bounds the exchanges that are under way at once.
type InFlight struct {
	n atomic.Int64
}

// NewInFlight makes the filter "in_flight".
func NewInFlight() *InFlight { return &InFlight{} }

// Name implements Filter.
func (*InFlight) Name() string { return "in_flight" }

// Load counts the exchanges under way.
func (f *InFlight) Load() int { return int(f.n.Load()) }

// Check counts x in, or answers Busy.
func (f *InFlight) Check(x *Exchange) wallet.Code {
	for {
		n := f.n.Load()
		if n >= int64(x.Limits.InFlight) {
			return wallet.Busy
		}
		if f.n.CompareAndSwap(n, n+1) {
			x.inPlay = true
			return wallet.OK
		}
	}
}

// Settle implements Settler: whatever came of x, it is no longer under way.
func (f *InFlight) Settle(x *Exchange, _ wallet.Code) {
	if x.inPlay {
		x.inPlay = false
		f.n.Add(-1)
	}
}
