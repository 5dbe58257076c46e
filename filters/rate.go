package filters

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// The buckets of this file are token buckets in the form of GCRA, the generic cell rate
// algorithm (ITU-T I.371): instead of a token count that somebody must refill, a bucket is the
// time at which it will be full again. Taking a token moves that time on by one period; a token
// is there as long as that time is not more than burst periods ahead of now. One integer is the
// whole state, and a bucket at rest costs nothing.

// Rate is the filter "rate": the sidecar's own token buckets. A route with a rate of its own has a
// bucket of its own, and the other routes share one. The zero value is ready, with full buckets.
type Rate struct {
	shared slot
	routes [wallet.NumRoutes]slot

	shadow slot // the shared one under config.Limits.Shadow
}

// NewRate makes the filter "rate".
func NewRate() *Rate { return &Rate{} }

// Check takes a token, without a lock and without allocating, or answers RateLimited and says in
// x.RateLimit when one will be there.
func (f *Rate) Check(x *Exchange) wallet.Code {
	rate, burst, own := x.Limits.RateFor(x.Route)
	var ok bool
	if own {
		x.RateLimit, ok = f.routes[x.Route].take(rate, burst, x.Now, &f.shared)
	} else {
		x.RateLimit, ok = f.shared.take(rate, burst, x.Now, nil)
	}
	if !ok {
		return wallet.RateLimited
	}
	return wallet.Pass
}

// Shadow implements Shadower: it takes a token of the shadow bucket, which is full at first, where
// the shared rate is another one in l. A route's own rate is never a shadow limit.
func (f *Rate) Shadow(x *Exchange, l *config.Limits) (over ShadowSet) {
	_, _, own := x.Limits.RateFor(x.Route)
	rate, burst := l.RatePerSecond, l.RateBurst
	if !own && (rate != x.Limits.RatePerSecond || burst != x.Limits.RateBurst) {
		_, ok := f.shadow.take(rate, burst, x.Now, nil)
		over.set(ShadowRate, !ok)
	}
	return over
}

// slot holds a bucket, which a push of limits may replace. The zero value holds a full one.
type slot struct {
	bucket atomic.Pointer[bucket]

	mu sync.Mutex // held while a push of limits replaces the bucket
}

// bucket is one integer and what it means. A push replaces both at once: it first marks the
// integer as replaced, so that nobody takes a token from a bucket that is no longer there.
type bucket struct {
	shape  shape
	fullAt atomic.Int64 // Unix nanoseconds, or replaced
}

const replaced = math.MaxInt64

// take takes a token; where there is none it says when one will be. from is the slot that
// served the same requests before there was this one, nil for none.
func (s *slot) take(rate, burst uint64, now int64, from *slot) (RateState, bool) {
	for {
		b := s.bucket.Load()
		if b == nil || !b.shape.is(rate, burst) {
			b = s.reshape(rate, burst, now, from)
		}
		fullAt := b.fullAt.Load()
		if fullAt == replaced {
			s.reshape(rate, burst, now, from) // waits for the push that is at it
			continue
		}
		next, ok := b.shape.spend(fullAt, now)
		if !ok {
			return b.shape.refusal(fullAt, now), false
		}
		if b.fullAt.CompareAndSwap(fullAt, next) {
			return RateState{}, true
		}
	}
}

// reshape puts the bucket under other limits. While exchanges with older and newer limits overlap
// it may go to and fro; no token appears by that. A route's first bucket of its own has the
// tokens that the shared one has left, because the push that splits it off must not refill either.
func (s *slot) reshape(rate, burst uint64, now int64, from *slot) *bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.bucket.Load()
	if old != nil && old.shape.is(rate, burst) {
		return old
	}
	b := &bucket{shape: makeShape(rate, burst, now)}
	if old != nil {
		b.fullAt.Store(b.shape.adopt(&old.shape, old.fullAt.Swap(replaced)))
	} else if from != nil {
		b.fullAt.Store(from.fullAtUnder(&b.shape))
	}
	s.bucket.Store(b)
	return b
}

// fullAtUnder is what the slot's time is under another shape.
func (s *slot) fullAtUnder(to *shape) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket.Load()
	if b == nil {
		return 0
	}
	return to.adopt(&b.shape, b.fullAt.Load()) // never replaced: that is done under mu
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

func makeShape(rate, burst uint64, now int64) shape {
	period := (1e9-1)/max(rate, 1) + 1 // 1 to 1e9
	return shape{
		rate:   rate,
		burst:  burst,
		shut:   rate == 0 || burst == 0,
		period: int64(period), //nolint:gosec // at most 1e9
		span:   int64(min(mulDiv(burst, period, 1), maxSpan)),
		since:  now,
	}
}

func (s *shape) is(rate, burst uint64) bool {
	return s.rate == rate && s.burst == burst
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

// Load counts the exchanges under way.
func (f *InFlight) Load() int { return int(f.n.Load()) }

// Check counts x in, or answers Busy.
func (f *InFlight) Check(x *Exchange) wallet.Code {
	for {
		n := f.n.Load()
		if n >= int64(x.Limits.InFlight) {
			return x.Refuse(wallet.Busy, "as many requests are under way as may be; nothing was done")
		}
		if f.n.CompareAndSwap(n, n+1) {
			x.inPlay = n + 1
			return wallet.Pass
		}
	}
}

// Shadow implements Shadower.
func (*InFlight) Shadow(x *Exchange, l *config.Limits) (over ShadowSet) {
	over.set(ShadowInFlight, x.inPlay > int64(l.InFlight))
	return over
}

// Settle implements Settler: whatever came of x, it is no longer under way.
func (f *InFlight) Settle(x *Exchange, _ wallet.Code) {
	if x.inPlay > 0 {
		x.inPlay = 0
		f.n.Add(-1)
	}
}
