package filters

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// SubjectRate is the filter "subject_rate": a token bucket for each Grant.RateKey, the part of a
// capability that its holder cannot change. An override that names a route gives the subject a
// bucket of its own there. The filter is off where the rate and the burst that hold for the
// subject are both zero, and denies where one of them is.
//
// It knows a bounded number of subjects. A full bucket can go at any time, because a new one is
// full too; a bucket that owes tokens is never thrown away, or a flood of subjects would refill
// it. Where no bucket can go, a subject that has none is refused until one can: that is when as
// many subjects as there are entries have all been active within burst/rate seconds.
type SubjectRate struct {
	subjects *subjectTable
	shadows  *subjectTable // under config.Limits.Shadow
}

// NewSubjectRate makes the filter "subject_rate" for about entries subjects at a time.
func NewSubjectRate(entries int) *SubjectRate {
	return &SubjectRate{newSubjectTable(entries), newSubjectTable(entries)}
}

// Check takes a token of x.Grant's subject, without allocating for a subject that is known, or
// answers RateLimited and says in x.RateLimit when to come back.
func (f *SubjectRate) Check(x *Exchange) wallet.Code {
	var ok bool
	r := rateOf(x, x.Limits)
	if x.RateLimit, ok = f.subjects.take(&r, x.Limits, x.Now); !ok {
		return wallet.RateLimited
	}
	return wallet.Pass
}

// Shadow implements Shadower: it takes a token of the subject's shadow bucket where its rate is
// another one in l.
func (f *SubjectRate) Shadow(x *Exchange, l *config.Limits) (over ShadowSet) {
	is, would := rateOf(x, x.Limits), rateOf(x, l)
	if would.rate != is.rate || would.burst != is.burst {
		_, ok := f.shadows.take(&would, l, x.Now)
		over.set(ShadowSubjectRate, !ok)
	}
	return over
}

// subjectTable is the buckets of subjects.
type subjectTable struct {
	seed    maphash.Seed
	shards  []subjectShard // a power of two of them
	share   int            // subjects that one shard knows
	setting atomic.Pointer[setting]
}

// setting is what buckets are shaped by, and since when. It is immutable.
type setting struct {
	rate, burst uint64
	overrides   *config.Overrides
	since       int64 // when it was first seen, Unix nanoseconds
}

type subjectShard struct {
	mu       sync.Mutex
	subjects map[subjectKey]*subject
	swept    *setting // in force at the last sweep
	soonest  int64    // under that, no bucket is full before, Unix nanoseconds
}

// subjectKey names a bucket.
type subjectKey struct {
	name  string       // Grant.RateKey
	route wallet.Route // RouteNone: of all routes without an override
}

// subject is a bucket. Its shape is its own, because overrides give subjects different ones.
type subject struct {
	shape  shape
	fullAt int64 // Unix nanoseconds
	seen   int64 // when a token was last asked for, Unix nanoseconds
}

// subjectsPerShard bounds what a sweep looks at under the lock: some microseconds' worth, or some
// hundred where overrides are many.
const subjectsPerShard = 256

func newSubjectTable(entries int) *subjectTable {
	n := 1 << bits.Len(uint(max(entries, 0)/(2*subjectsPerShard)))
	t := &subjectTable{seed: maphash.MakeSeed(), shards: make([]subjectShard, n), share: (entries + n - 1) / n}
	for i := range t.shards {
		t.shards[i].subjects = make(map[subjectKey]*subject)
	}
	return t
}

// subjectRate is what an exchange's subject may do, and the bucket that counts it.
type subjectRate struct {
	key         subjectKey
	rate, burst uint64
}

// rateOf finds the rate that holds for x under the limits l. Its bucket is one of the route's own
// where an override makes the rate there another one than elsewhere.
func rateOf(x *Exchange, l *config.Limits) subjectRate {
	who := x.asker()
	r := subjectRate{key: subjectKey{name: x.Grant.RateKey()}}
	r.rate, r.burst = l.SubjectRateFor(&who)
	if l.Overrides != nil {
		who.Route = wallet.NoRoute
		if rate, burst := l.SubjectRateFor(&who); rate != r.rate || burst != r.burst {
			r.key.route = x.Route
		}
	}
	return r
}

// take takes a token; where there is none it says when one will be. r is of the limits l.
func (t *subjectTable) take(r *subjectRate, l *config.Limits, now int64) (RateState, bool) {
	if r.rate == 0 && r.burst == 0 {
		return RateState{}, true
	}
	set := t.settingOf(l, now)
	shard := &t.shards[maphash.String(t.seed, r.key.name)&uint64(len(t.shards)-1)] //nolint:gosec // not negative
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b := shard.subjects[r.key]
	if b == nil {
		if len(shard.subjects) >= t.share && !shard.sweep(set, l, now) {
			return RateState{Limit: r.rate, ResetMillis: ceilMillis(shard.soonest - now)}, false
		}
		b = shard.add(r, set.since)
	}
	state, ok := b.take(r.rate, r.burst, set.since, now)
	shard.soonest = min(shard.soonest, b.fullAt)
	return state, ok
}

// settingOf is what l says of subjects. It allocates only after a push.
func (t *subjectTable) settingOf(l *config.Limits, now int64) *setting {
	s := t.setting.Load()
	if s == nil || s.rate != l.SubjectRate || s.burst != l.SubjectBurst || s.overrides != l.Overrides {
		s = &setting{l.SubjectRate, l.SubjectBurst, l.Overrides, now}
		t.setting.Store(s)
	}
	return s
}

// add makes a bucket: full, but for one that is split off from the subject's own and has the
// tokens of that one.
func (s *subjectShard) add(r *subjectRate, since int64) *subject {
	b := &subject{shape: makeShape(r.rate, r.burst, since)}
	if whole := s.subjects[subjectKey{name: r.key.name}]; whole != nil {
		*b = *whole
	}
	s.subjects[subjectKey{strings.Clone(r.key.name), r.key.route}] = b
	return b
}

// sweep drops every full bucket and reports whether there was one. It looks only when there may
// be one, so that a flood of newcomers does not pay for a look each.
//
// Full is judged by the limits now in force on the token as it was minted. Its holder may have
// narrowed them by a sub caveat; were that bucket thrown away when it is full, he would get the
// wider one full each time.
func (s *subjectShard) sweep(to *setting, l *config.Limits, now int64) bool {
	if s.swept == to && now < s.soonest {
		return false
	}
	before := len(s.subjects)
	s.swept, s.soonest = to, math.MaxInt64
	for key, b := range s.subjects {
		_, token, _ := strings.Cut(key.name, ":")
		rate, burst := l.SubjectRateFor(&config.Asker{Route: key.route, Token: token})
		if rate > 0 || burst > 0 {
			b.reshape(rate, burst, to.since)
		}
		if b.fullAt <= now {
			delete(s.subjects, key)
		} else {
			s.soonest = min(s.soonest, b.fullAt)
		}
	}
	return len(s.subjects) < before
}

// reshape puts the bucket under other limits, which have been in force since then. Where the
// bucket was used after that, its holder goes to and fro between limits (by a sub caveat), and
// what counts is the last use: no token appears by going to and fro.
func (b *subject) reshape(rate, burst uint64, since int64) {
	if b.shape.is(rate, burst) {
		return
	}
	next := makeShape(rate, burst, max(since, b.seen))
	b.fullAt = next.adopt(&b.shape, b.fullAt)
	b.shape = next
}

func (b *subject) take(rate, burst uint64, since, now int64) (RateState, bool) {
	b.reshape(rate, burst, since)
	b.seen = max(b.seen, now)
	next, ok := b.shape.spend(b.fullAt, now)
	if !ok {
		return b.shape.refusal(b.fullAt, now), false
	}
	b.fullAt = next
	return RateState{}, true
}
