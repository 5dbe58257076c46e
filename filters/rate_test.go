package filters

import (
	"fmt"
	"math"
	"math/big"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

const second = int64(1e9)

// atRate is an exchange that arrives at now under a global rate.
func atRate(rate, burst uint64, now int64) *Exchange {
	return &Exchange{Request: Request{Now: now, Limits: &config.Limits{RatePerSecond: rate, RateBurst: burst}}}
}

// bySubject is an exchange of a subject that arrives at now under a subject rate.
func bySubject(name string, rate, burst uint64, now int64) *Exchange {
	return &Exchange{
		Request: Request{
			Now:    now,
			Limits: &config.Limits{SubjectRate: rate, SubjectBurst: burst},
		},
		Findings: Findings{
			Grant: &Grant{rateKey: name},
		},
	}
}

// drain takes tokens from a filter until it refuses, and counts them.
func drain(f Filter, x *Exchange) (n int) {
	for f.Check(x) == wallet.Pass {
		n++
	}
	return n
}

// TestRate: a full bucket gives its burst, then tokens at the rate, never more than the burst
// after a rest, and says when the next one is there. Method: a script of times and limits.
func TestRate(t *testing.T) {
	const t0 = 1_700_000_000 * second
	steps := []struct {
		name        string
		after       int64 // ns since the last step
		rate, burst uint64
		tokens      int
		reset       int64 // ms, once refused
	}{
		{"a new bucket is full", 0, 10, 5, 5, 100},
		{"no token yet", 99_999_999, 10, 5, 0, 1},
		{"one token a period", 1, 10, 5, 1, 100},
		{"three periods and a half", 350_000_000, 10, 5, 3, 50},
		{"a rest fills it to the burst", 3600 * second, 10, 5, 5, 100},
		{"a faster rate does not refill", 0, 1000, 5, 0, 1},
		{"a larger burst does not refill", 0, 1000, 5000, 0, 1},
		{"it fills at the new rate", second, 1000, 5000, 1000, 1},
		{"a slower rate does not refill", 0, 10, 5, 0, 100},
		{"half a token is kept across a push", 50_000_000, 10, 5, 0, 50},
		{"in other units", 0, 1, 5, 0, 500},
		{"and completed there", 500_000_000, 1, 5, 1, 1000},
		{"fill to three", 3 * second, 1, 5, 3, 1000},
		{"fill to four", 4 * second, 1, 100, 4, 1000},
		{"rate zero denies", 0, 0, 5, 0, 1000},
		{"and time does not fill it", 3600 * second, 10, 5, 0, 100},
		{"burst zero denies", 0, 10, 0, 0, 1000},
		{"both", 3600 * second, 0, 0, 0, 1000},
		{"and then it starts empty", 0, 10, 5, 0, 100},
		{"the largest settings", 1, math.MaxUint64, math.MaxUint64, 0, 1},
		{"give a token a nanosecond", 3, math.MaxUint64, math.MaxUint64, 3, 1},
	}
	f := NewRate()
	now := t0
	for _, s := range steps {
		now += s.after
		x := atRate(s.rate, s.burst, now)
		if got := drain(f, x); got != s.tokens {
			t.Fatalf("%s: %d tokens, wanted %d", s.name, got, s.tokens)
		}
		if want := (RateState{Limit: s.rate, ResetMillis: s.reset}); x.RateLimit != want {
			t.Errorf("%s: %+v, wanted %+v", s.name, x.RateLimit, want)
		}
	}
}

// TestRateKeepsTokensAcrossPush: what was in a half-full bucket is there after any push, as far
// as the burst has room. Method: leave 7 of 10 tokens, push, drain.
func TestRateKeepsTokensAcrossPush(t *testing.T) {
	for _, c := range []struct {
		rate, burst uint64
		want        int
	}{
		{100, 10, 7}, {1, 10, 7}, {100_000, 10, 7}, {100, 1000, 7}, {3, 20, 7}, {100, 5, 5}, {7, 1, 1}, {1e9, math.MaxUint64, 7}, {1, math.MaxUint64, 7},
	} {
		f := NewRate()
		for range 3 {
			f.Check(atRate(100, 10, second))
		}
		if got := drain(f, atRate(c.rate, c.burst, second)); got != c.want {
			t.Errorf("push of %d/s, burst %d: %d tokens, wanted %d", c.rate, c.burst, got, c.want)
		}
	}
}

// TestPushOutOfOrder: a bucket that goes back to limits of long ago, because a request still
// carries them, is not refilled by the time between. Method: adopt both ways.
func TestPushOutOfOrder(t *testing.T) {
	old, fresh := makeShape(10, 5, 0), makeShape(20, 5, 3600*second)
	empty := fresh.since + fresh.span
	back := old.adopt(&fresh, empty)
	if _, ok := old.spend(back, fresh.since); ok {
		t.Error("a token appeared on the way back")
	}
	if again := fresh.adopt(&old, back); again != empty {
		t.Errorf("there and back moved the bucket by %d ns", again-empty)
	}
}

// bucketModel is a token bucket as the books have it: a count of tokens, exact, that grows with
// time.
type bucketModel struct {
	tokens *big.Rat
	rate   int64
	at     int64
}

func (m *bucketModel) take(rate, burst, now int64) bool {
	if m.tokens == nil {
		m.tokens = big.NewRat(burst, 1)
	} else {
		grown := big.NewRat(now-m.at, second)
		m.tokens.Add(m.tokens, grown.Mul(grown, big.NewRat(m.rate, 1)))
	}
	if limit := big.NewRat(burst, 1); m.tokens.Cmp(limit) > 0 {
		m.tokens = limit
	}
	m.rate, m.at = rate, now
	one := big.NewRat(1, 1)
	if rate == 0 || m.tokens.Cmp(one) < 0 {
		return false
	}
	m.tokens.Sub(m.tokens, one)
	return true
}

// TestBucketsFollowModel: both rate filters give out exactly the tokens of a textbook bucket,
// whatever is pushed meanwhile. Method: random steps of time and limits against bucketModel, in
// units in which no division leaves a remainder.
func TestBucketsFollowModel(t *testing.T) {
	rates := rapid.SampledFrom([]uint64{0, 1, 10, 100, 1000})
	bursts := rapid.SampledFrom([]uint64{1, 2, 10, 1000})
	rapid.Check(t, func(t *rapid.T) {
		var (
			global  = NewRate()
			subject = NewSubjectRate(4)
			model   bucketModel
			now     = 1_700_000_000 * second
			rate    = rates.Draw(t, "rate")
			burst   = bursts.Draw(t, "burst")
		)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				rate, burst = rates.Draw(t, "rate"), bursts.Draw(t, "burst")
			case 1:
				now += 1e6 * rapid.Int64Range(0, 3000).Draw(t, "ms")
			case 2:
				now += 1e6 * rapid.Int64Range(0, 20).Draw(t, "ms")
			}
			g, s := global.Check(atRate(rate, burst, now)), subject.Check(bySubject("s", rate, burst, now))
			want := wallet.RateLimited
			if model.take(int64(rate), int64(burst), now) {
				want = wallet.Pass
			}
			if g != want || s != want {
				t.Fatalf("at %d, %d/s, burst %d: global %v, subject %v, model %v", now, rate, burst, g, s, want)
			}
		}
	})
}

// TestRefusalSaysWhen: a refused client that comes back after ResetMillis gets a token, and one
// that comes a millisecond earlier does not. Method: random limits and times.
func TestRefusalSaysWhen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Uint64Range(1, 900).Draw(t, "rate")
		burst := rapid.Uint64Range(1, 50).Draw(t, "burst")
		now := rapid.Int64Range(1, 1<<60).Draw(t, "now")
		f := NewRate()
		x := atRate(rate, burst, now)
		drain(f, x)
		reset := x.RateLimit.ResetMillis
		if got := f.Check(atRate(rate, burst, now+(reset-1)*1e6)); got != wallet.RateLimited {
			t.Fatalf("%v, but ResetMillis is %d", got, reset)
		}
		if got := f.Check(atRate(rate, burst, now+reset*1e6)); got != wallet.Pass {
			t.Fatalf("%v after ResetMillis of %d", got, reset)
		}
	})
}

// TestRateUnderContention: many goroutines get exactly the burst, also while limits are pushed
// to and fro, and x.Limits of both versions are under way. Method: everybody takes at one time,
// so no token grows.
func TestRateUnderContention(t *testing.T) {
	for name, rates := range map[string][]uint64{"one setting": {10}, "pushes": {10, 1, 5, 100}} {
		f := NewRate()
		var (
			taken atomic.Int64
			wg    sync.WaitGroup
		)
		for g := range 8 {
			wg.Go(func() {
				for i := range 5000 {
					if f.Check(atRate(rates[(i/100+g)%len(rates)], 20_000, second)) == wallet.Pass {
						taken.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if taken.Load() != 20_000 {
			t.Errorf("%s: %d tokens of 20000", name, taken.Load())
		}
	}
}

// TestSubjectRate: each subject has its own bucket, both limits zero turn the filter off, and
// one of them denies. Method: a script.
func TestSubjectRate(t *testing.T) {
	f := NewSubjectRate(1000)
	for _, c := range []struct {
		name        string
		subject     string
		rate, burst uint64
		want        int // tokens; 9 stands for no limit
	}{
		{"off", "a", 0, 0, 9},
		{"no rate", "a", 0, 3, 0},
		{"no burst", "a", 3, 0, 0},
		{"a starts empty, it was seen under a burst of zero", "a", 1, 3, 0},
		{"b starts full", "b", 1, 3, 3},
		{"c too", "c", 1, 3, 3},
		{"and b is empty", "b", 1, 3, 0},
	} {
		got := 0
		x := bySubject(c.subject, c.rate, c.burst, second)
		for got < 9 && f.Check(x) == wallet.Pass {
			got++
		}
		if got != c.want {
			t.Errorf("%s: %d tokens, wanted %d", c.name, got, c.want)
		}
		if refused := (RateState{}) != x.RateLimit; refused != (got < 9) {
			t.Errorf("%s: %+v", c.name, x.RateLimit)
		}
	}
}

// TestSubjectAwayDuringPush: a subject that a push did not meet has, when it returns, what it
// had at the push and what has grown at the new rate since. Method: drain, rest, push by
// another subject, rest, count.
func TestSubjectAwayDuringPush(t *testing.T) {
	f := NewSubjectRate(1000)
	drain(f, bySubject("away", 1, 10, 0))
	f.Check(bySubject("other", 5, 100, 4*second)) // away has 4 tokens here
	if got := drain(f, bySubject("away", 5, 100, 6*second)); got != 4+2*5 {
		t.Errorf("%d tokens, wanted 14", got)
	}
}

// TestSubjectFlood: a flood of subjects neither grows the table over its bound nor refills a
// bucket that owes tokens; once buckets are full again they make room. Method: a victim that is
// empty, ten times as many newcomers as there is room for, and time.
func TestSubjectFlood(t *testing.T) {
	const entries = 3000
	f := NewSubjectRate(entries)
	drain(f, bySubject("victim", 1, 10, 0))
	flood := func(rate, burst uint64, now int64) (admitted int) {
		for i := range 10 * entries {
			x := bySubject(fmt.Sprintf("sub%d at %d", i, now), rate, burst, now)
			switch f.Check(x) {
			case wallet.Pass:
				admitted++
			case wallet.RateLimited:
				if x.RateLimit.Limit != rate || x.RateLimit.ResetMillis < 1 {
					t.Fatalf("a newcomer is refused with %+v", x.RateLimit)
				}
			default:
				t.Fatal("neither admitted nor limited")
			}
		}
		known := 0
		for i := range f.subjects.shards {
			known += len(f.subjects.shards[i].subjects)
		}
		if known > entries+len(f.subjects.shards) {
			t.Fatalf("%d subjects known, the bound is %d", known, entries)
		}
		return admitted
	}
	room := f.subjects.share * len(f.subjects.shards)
	if got := flood(1, 10, 0); got != room-1 {
		t.Errorf("%d newcomers, there was room for %d", got, room-1)
	}
	if got := drain(f, bySubject("victim", 1, 10, 0)); got != 0 {
		t.Errorf("the flood gave the victim %d tokens", got)
	}
	if got := flood(1, 10, 999_999_999); got != 0 {
		t.Errorf("%d newcomers although every bucket owes a token", got)
	}
	if got := drain(f, bySubject("victim", 1, 10, 5*second)); got != 5 {
		t.Errorf("the victim has %d tokens after 5 s", got)
	}
	if got := flood(1, 10, 5*second); got != room-1 {
		t.Errorf("%d newcomers once all but the victim are full, wanted %d", got, room-1)
	}
	// The last newcomers, too, make room again.
	if got := flood(1, 10, 6*second); got != room-1 {
		t.Errorf("%d newcomers a second later, wanted %d", got, room-1)
	}
	// A faster rate fills buckets sooner than the last sweep thought.
	f.Check(bySubject("victim", 1000, 10, 6*second))
	if got := flood(1000, 10, 6*second+1e6); got != room-1 {
		t.Errorf("%d newcomers at the faster rate, wanted %d", got, room-1)
	}
	// A larger burst makes full buckets owe: were they thrown away, it would refill them.
	if got := drain(f, bySubject("victim", 1000, 10_000, 100*second)); got != 10 {
		t.Errorf("the push left the victim %d tokens of 10", got)
	}
	if got := flood(1000, 10_000, 100*second); got != 0 {
		t.Errorf("%d newcomers although every bucket owes", got)
	}
}

// TestRateDuringPush: nobody takes a token from a bucket that a push has replaced. Method: stand
// in the middle of a push, with the old bucket marked and the new one not yet there.
func TestRateDuringPush(t *testing.T) {
	f := NewRate()
	drain(f, atRate(1, 10, second))
	old := f.shared.bucket.Load()
	f.Check(atRate(2, 10, second))
	if old.fullAt.Load() != replaced {
		t.Error("the old bucket is open")
	}

	f = NewRate()
	f.Check(atRate(1, 10, second))
	f.shared.mu.Lock()
	f.shared.bucket.Load().fullAt.Store(replaced)
	answer := make(chan wallet.Code)
	go func() { answer <- f.Check(atRate(1, 10, second)) }()
	runtime.Gosched()
	full := &bucket{shape: makeShape(1, 10, second)}
	f.shared.bucket.Store(full)
	f.shared.mu.Unlock()
	if got := <-answer; got != wallet.Pass || full.fullAt.Load() != 2*second {
		t.Errorf("%v, the new bucket is full at %d", got, full.fullAt.Load())
	}
}

// TestSubjectsUnderContention: many goroutines and subjects, each subject gets exactly its
// burst. Method: as TestRateUnderContention.
func TestSubjectsUnderContention(t *testing.T) {
	f := NewSubjectRate(1000)
	var (
		taken [10]atomic.Int64
		wg    sync.WaitGroup
	)
	for range 8 {
		wg.Go(func() {
			for i := range 5000 {
				if f.Check(bySubject(fmt.Sprint(i%10), 1, 100, second)) == wallet.Pass {
					taken[i%10].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range taken {
		if taken[i].Load() != 100 {
			t.Errorf("subject %d has %d tokens", i, taken[i].Load())
		}
	}
}

// TestSubjectRateWithoutRoom: a filter for no subjects admits none. Method: one call.
func TestSubjectRateWithoutRoom(t *testing.T) {
	if got := NewSubjectRate(0).Check(bySubject("a", 1, 1, second)); got != wallet.RateLimited {
		t.Error(got)
	}
}

// TestInFlight: never more under way than the limit, every place comes back however the
// exchange ends, and a lower limit holds at once. Method: the filter in a chain, then many
// goroutines with a count of their own.
func TestInFlight(t *testing.T) {
	f := NewInFlight()
	limits := &config.Limits{InFlight: 2}
	step := func(want wallet.Code) func(*Exchange) wallet.Code {
		return func(*Exchange) wallet.Code {
			first, second, third := &Exchange{Request: Request{Limits: limits}}, &Exchange{Request: Request{Limits: &config.Limits{InFlight: 1}}}, &Exchange{Request: Request{Limits: limits}}
			if f.Check(second) != wallet.Busy || f.Check(first) != wallet.Pass || f.Check(third) != wallet.Busy || f.Load() != 2 {
				t.Errorf("the limits of 1 and 2 do not hold, %d under way", f.Load())
			}
			f.Settle(first, wallet.OK)
			f.Settle(first, wallet.OK) // twice is once
			return want
		}
	}
	for _, code := range wallet.Codes() {
		if got := (Chain{f}).Do(&Exchange{Request: Request{Limits: limits}}, step(code)); got != code || f.Load() != 0 {
			t.Errorf("%v became %v, %d under way", code, got, f.Load())
		}
	}
	if NewInFlight().Check(&Exchange{Request: Request{Limits: &config.Limits{}}}) != wallet.Busy {
		t.Error("zero limits admit")
	}

	var (
		under atomic.Int64
		wg    sync.WaitGroup
	)
	limits = &config.Limits{InFlight: 3}
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				(Chain{f}).Do(&Exchange{Request: Request{Limits: limits}}, func(*Exchange) wallet.Code {
					if under.Add(1) > 3 {
						t.Error("more than 3 under way")
					}
					under.Add(-1)
					return wallet.Pass
				})
			}
		})
	}
	wg.Wait()
	if f.Load() != 0 {
		t.Errorf("%d left under way", f.Load())
	}
}

// TestRateAllocations: the filters that every read passes do not allocate. Method:
// testing.AllocsPerRun.
func TestRateAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	x := atRate(1e6, 1e6, second)
	x.Limits.SubjectRate, x.Limits.SubjectBurst, x.Limits.InFlight = 1000, 100, 1
	x.Grant = &Grant{rateKey: "k:t"}
	rate, subject, inFlight := NewRate(), NewSubjectRate(10), NewInFlight()
	for name, run := range map[string]func(){
		"rate":            func() { rate.Check(x) },
		"subject, passed": func() { x.Now += second; subject.Check(x) },
		"subject, denied": func() { subject.Check(x) },
		"in flight":       func() { inFlight.Check(x); inFlight.Settle(x, wallet.OK) },
		"ready":           func() { Ready{}.Check(x) },
	} {
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkRate(b *testing.B) {
	b.Run("global", func(b *testing.B) {
		f, x := NewRate(), atRate(1e9, 1e9, second)
		b.ReportAllocs()
		for b.Loop() {
			f.Check(x)
		}
	})
	b.Run("global parallel", func(b *testing.B) {
		f := NewRate()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for x := atRate(1e9, 1e9, second); pb.Next(); {
				f.Check(x)
			}
		})
	})
	b.Run("subject", func(b *testing.B) {
		f, x := NewSubjectRate(1000), bySubject("k:t", 1e9, 1e9, second)
		b.ReportAllocs()
		for b.Loop() {
			f.Check(x)
		}
	})
}
