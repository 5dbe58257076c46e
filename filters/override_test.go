package filters

import (
	"fmt"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// holder is an exchange of a token's holder on a route.
func holder(l *config.Limits, token, sub string, route wallet.Route, now int64) *Exchange {
	return &Exchange{
		Request: Request{
			Now:    now,
			Limits: l,
			Route:  route,
		},
		Findings: Findings{
			Grant: &Grant{
				TokenID: token, subject: sub, rateKey: "k1:" + token, MaxAmount: wallet.MaxAmount(), Daily: wallet.MaxAmount(),
			},
		},
	}
}

// TestRouteRates: a route with a rate of its own has a bucket of its own, which neither empties nor
// fills the shared one; pushes that give it, change it and take it away refill nothing; and
// X-RateLimit-* tell the rate that refused. Method: a script.
func TestRouteRates(t *testing.T) {
	const t0 = 1_700_000_000 * second
	shared := pushed(t, `{"rate_per_second":10,"rate_burst":5}`)
	own := pushed(t, `{"rate_per_second":10,"rate_burst":5,"overrides":[{"route":"issue","rate_per_second":1,"rate_burst":3}]}`)
	other := pushed(t, `{"rate_per_second":10,"rate_burst":5,"overrides":[{"route":"issue","rate_per_second":2,"rate_burst":9}]}`)
	f := NewRate()
	now := t0
	for _, s := range []struct {
		name   string
		after  int64
		limits *config.Limits
		route  wallet.Route
		tokens int
		limit  uint64
	}{
		{"the shared bucket is full", 0, shared, wallet.RouteIssue, 5, 10},
		{"and empty for all", 0, shared, wallet.RouteBalance, 0, 10},
		{"splitting a route off does not refill", 0, own, wallet.RouteIssue, 0, 1},
		{"it fills at its own rate", 2 * second, own, wallet.RouteIssue, 2, 1},
		{"and no other route's tokens were taken", 0, own, wallet.RouteBurn, 5, 10},
		{"to its own burst", 3600 * second, own, wallet.RouteIssue, 3, 1},
		{"a change does not refill", 0, other, wallet.RouteIssue, 0, 2},
		{"and counts from then on", second, other, wallet.RouteIssue, 2, 2},
		{"taken away, it draws on the shared one", 0, shared, wallet.RouteIssue, 5, 10},
		{"and given back its own is as it was", 0, other, wallet.RouteIssue, 0, 2},
	} {
		now += s.after
		x := &Exchange{Request: Request{Now: now, Limits: s.limits, Route: s.route}}
		if got := drain(f, x); got != s.tokens || x.RateLimit.Limit != s.limit {
			t.Errorf("%s: %d tokens, limit %d; wanted %d, %d", s.name, got, x.RateLimit.Limit, s.tokens, s.limit)
		}
	}
	fresh := NewRate()
	if got := drain(fresh, &Exchange{Request: Request{Now: t0, Limits: own, Route: wallet.RouteIssue}}); got != 3 {
		t.Errorf("at start a route's own bucket has %d tokens, not 3", got)
	}
}

// TestSubjectOverrides: the rate of an override holds for whom it names, in the one bucket that
// the subject has, or in one of the route's own where it names a route; nobody else's changes, and
// pushes refill nothing. Method: a script.
func TestSubjectOverrides(t *testing.T) {
	const general = `"subject_rate_per_second":10,"subject_burst":20`
	plain := pushed(t, `{`+general+`}`)
	none := pushed(t, `{"overrides":[{"token":"only","subject_rate_per_second":1,"subject_burst":2}]}`)
	some := pushed(t, `{`+general+`,"overrides":[
		{"token":"wide","subject_rate_per_second":100,"subject_burst":50},
		{"subject":"slow","subject_rate_per_second":1,"subject_burst":2},
		{"subject":"fast","subject_rate_per_second":1000,"subject_burst":2000},
		{"route":"issue","subject_rate_per_second":5,"subject_burst":7}]}`)
	const pay, issue = wallet.RouteTransfer, wallet.RouteIssue
	for name, steps := range map[string][]struct {
		after      int64
		limits     *config.Limits
		token, sub string
		route      wallet.Route
		tokens     int
		limit      uint64
	}{
		"a wider one by token": {
			{0, plain, "wide", "", pay, 20, 10},
			{0, some, "wide", "", pay, 0, 100},
			{second / 10, some, "wide", "", pay, 10, 100},
			{3600 * second, some, "wide", "", pay, 50, 100},
			{0, plain, "wide", "", pay, 0, 10},
			{3600 * second, plain, "wide", "", pay, 20, 10},
		},
		"a narrower one by subject": {{0, some, "a", "slow", pay, 2, 1}, {0, some, "b", "slow", pay, 2, 1}},
		"no wider one by subject":   {{0, some, "a", "fast", pay, 20, 10}},
		"no bucket more by subject": {
			{0, some, "a", "", pay, 20, 10},
			{0, some, "a", "slow", pay, 0, 1},
			{0, some, "a", "", pay, 0, 10},
			{3600 * second, some, "a", "", pay, 20, 10},
			{0, some, "a", "slow", pay, 0, 1},
			{0, some, "a", "", pay, 0, 10},
			{second, some, "a", "slow", pay, 1, 1},
			{0, some, "a", "", pay, 0, 10},
		},
		"a route's own": {
			{0, some, "a", "", issue, 7, 5},
			{0, some, "a", "", pay, 20, 10},
			{0, some, "a", "", issue, 0, 5},
			{0, some, "b", "", issue, 7, 5},
		},
		"a route's own, split off": {
			{0, plain, "a", "", pay, 20, 10},
			{0, some, "a", "", issue, 0, 5},
			{second, some, "a", "", issue, 5, 5},
			{0, plain, "a", "", issue, 10, 10},
			{0, some, "a", "", issue, 0, 5},
		},
		"where there is no general one": {{0, none, "only", "", pay, 2, 1}, {0, none, "a", "", pay, 99, 0}},
	} {
		f, now := NewSubjectRate(1000), 1_700_000_000*second
		for i, s := range steps {
			now += s.after
			x, got := holder(s.limits, s.token, s.sub, s.route, now), 0
			for got < 99 && f.Check(x) == wallet.Pass {
				got++
			}
			if got != s.tokens || x.RateLimit.Limit != s.limit {
				t.Errorf("%s, step %d: %d tokens, limit %d; wanted %d, %d", name, i+1, got, x.RateLimit.Limit, s.tokens, s.limit)
			}
		}
	}
}

// TestNarrowingGivesNothing: a holder who goes to and fro between his token and ones that he
// narrowed by a sub caveat never gets more than the general limit allows, also where the table is
// full and swept. Method: random steps against the exact count of a textbook bucket.
func TestNarrowingGivesNothing(t *testing.T) {
	limits := pushed(t, `{"subject_rate_per_second":10,"subject_burst":20,"overrides":[
		{"subject":"a","subject_rate_per_second":1,"subject_burst":1},
		{"subject":"b","subject_rate_per_second":9,"subject_burst":3},
		{"subject":"c","subject_rate_per_second":1,"subject_burst":20}]}`)
	rapid.Check(t, func(t *rapid.T) {
		f, now := NewSubjectRate(2), 1_700_000_000*second
		most, full := big.NewRat(20, 1), big.NewRat(20, 1)
		for i := range rapid.IntRange(1, 200).Draw(t, "steps") {
			step := 1e6 * rapid.SampledFrom([]int64{0, 0, 1, 50, 100, 1000, 2000, 30_000}).Draw(t, "ms")
			now += step
			grown := big.NewRat(step, second)
			if most.Add(most, grown.Mul(grown, big.NewRat(10, 1))); most.Cmp(full) > 0 {
				most.Set(full)
			}
			if rapid.IntRange(0, 5).Draw(t, "who") == 0 { // fills the table, which is then swept
				f.Check(holder(limits, fmt.Sprintf("stranger%d", i), "", wallet.RouteBalance, now))
				continue
			}
			sub := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "sub")
			if f.Check(holder(limits, "t", sub, wallet.RouteBalance, now)) != wallet.Pass {
				continue
			}
			if most.Sub(most, big.NewRat(1, 1)); most.Sign() < 0 {
				t.Fatalf("step %d: a token more than the general limit allows", i+1)
			}
		}
	})
}

// TestOverridesFlood: overrides leave the table bounded, with a route's own buckets counted in.
// Method: ten times as many holders as there is room for, on two routes, twice.
func TestOverridesFlood(t *testing.T) {
	const entries = 1000
	l := pushed(t, `{"subject_rate_per_second":1,"subject_burst":10,"overrides":[
		{"route":"issue","subject_rate_per_second":1,"subject_burst":5},
		{"token":"h1","subject_rate_per_second":1,"subject_burst":2}]}`)
	f := NewSubjectRate(entries)
	for _, now := range []int64{second, 100 * second} {
		admitted := 0
		for i := range 10 * entries {
			for _, route := range []wallet.Route{wallet.RouteIssue, wallet.RouteTx} {
				if f.Check(holder(l, fmt.Sprintf("h%d", i), "", route, now)) == wallet.Pass {
					admitted++
				}
			}
		}
		room, known := f.subjects.share*len(f.subjects.shards), 0
		for i := range f.subjects.shards {
			known += len(f.subjects.shards[i].subjects)
		}
		if admitted != room || known != room {
			t.Errorf("%d admitted and %d known, there is room for %d", admitted, known, room)
		}
	}
}

// TestCapsOverrides: the caps of an override hold for the payment that it fits, also those that
// the ledger checks, and the capability's own caps still bound them. Method: a table of payments
// under one push.
func TestCapsOverrides(t *testing.T) {
	l := pushed(t, `{"max_amount_per_op":"100","daily_ceiling":"1000","max_account_total":"5000","overrides":[
		{"token":"big","max_amount_per_op":"900"},
		{"subject":"small","max_amount_per_op":"10"},
		{"subject":"large","max_amount_per_op":"900"},
		{"account":"team_*","asset":"gold","daily_ceiling":"50"},
		{"account":"acc_1","max_account_total":"80"},
		{"route":"burn","max_amount_per_op":"20"}]}`)
	m := wallet.Minor
	for _, c := range []struct {
		name           string
		token, sub     string
		op             wallet.Op
		account, asset string
		amount         uint64
		want           wallet.Code
		daily, total   wallet.Amount // in the rules, if it passes
	}{
		{"no override", "t", "", wallet.Transfer, "acc_2", "ron", 100, wallet.Pass, m(1000), m(5000)},
		{"no override, over", "t", "", wallet.Transfer, "acc_2", "ron", 101, wallet.LimitsExceeded, m(0), m(0)},
		{"wider by token", "big", "", wallet.Transfer, "acc_2", "ron", 900, wallet.Pass, m(1000), m(5000)},
		{"wider by token, over", "big", "", wallet.Transfer, "acc_2", "ron", 901, wallet.LimitsExceeded, m(0), m(0)},
		{"narrower by subject", "t", "small", wallet.Transfer, "acc_2", "ron", 11, wallet.LimitsExceeded, m(0), m(0)},
		{"not wider by subject", "t", "large", wallet.Transfer, "acc_2", "ron", 101, wallet.LimitsExceeded, m(0), m(0)},
		{"prefix and asset", "t", "", wallet.Transfer, "team_x", "gold", 50, wallet.Pass, m(50), m(5000)},
		{"prefix and asset, over", "t", "", wallet.Transfer, "team_x", "gold", 51, wallet.LimitsExceeded, m(0), m(0)},
		{"prefix, another asset", "t", "", wallet.Transfer, "team_x", "ron", 51, wallet.Pass, m(1000), m(5000)},
		{"whole name", "t", "", wallet.Issue, "acc_1", "ron", 80, wallet.Pass, m(1000), m(80)},
		{"whole name, over", "t", "", wallet.Issue, "acc_1", "ron", 81, wallet.LimitsExceeded, m(0), m(0)},
		{"a name that begins alike", "t", "", wallet.Issue, "acc_11", "ron", 81, wallet.Pass, m(1000), m(5000)},
		{"route", "t", "", wallet.Burn, "acc_2", "ron", 21, wallet.LimitsExceeded, m(0), m(0)},
		{"the capability's cap bounds the override", "big", "", wallet.Transfer, "acc_2", "ron", 601, wallet.LimitsExceeded, m(0), m(0)},
	} {
		route := map[wallet.Op]wallet.Route{wallet.Issue: wallet.RouteIssue, wallet.Transfer: wallet.RouteTransfer, wallet.Burn: wallet.RouteBurn}[c.op]
		x := holder(l, c.token, c.sub, route, second)
		if strings.HasPrefix(c.name, "the capability") {
			x.Grant.MaxAmount = m(600)
		}
		account, asset := wallet.Must(wallet.ParseAccount(c.account)), wallet.Must(wallet.ParseAsset(c.asset))
		x.Op, x.Payment = c.op, wallet.Payment{Op: c.op, From: account, To: account, Asset: asset, Amount: m(c.amount)}
		if got := (Caps{}).Check(x); got != c.want {
			t.Errorf("%s: %v (%s), wanted %v", c.name, got, x.Detail, c.want)
		}
		if r := x.Payment.Rules; r.DailyCeiling != c.daily || r.MaxAccountTotal != c.total {
			t.Errorf("%s: the ledger is told %v a day and %v in all, wanted %v and %v", c.name, r.DailyCeiling, r.MaxAccountTotal, c.daily, c.total)
		}
	}
}

// manyOverrides is a push of as many overrides as there may be.
func manyOverrides(members string) string {
	var b strings.Builder
	b.WriteString(`{"overrides":[{"route":"issue","rate_per_second":1,"rate_burst":1}`)
	for i := range 255 { // fit every payment of some other account, so they are all looked at
		fmt.Fprintf(&b, `,{"account":"other%d","max_amount_per_op":"1"}`, i)
	}
	for i := range 4096 - 256 {
		fmt.Fprintf(&b, `,{"token":"token%d","subject_rate_per_second":1000000,"subject_burst":1000000}`, i)
	}
	return b.String() + `]` + members + `}`
}

// TestOverrideAllocations: as many overrides as there may be cost a known holder no allocation.
// Method: testing.AllocsPerRun.
func TestOverrideAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	x := holder(pushed(t, manyOverrides("")), "token7", "", wallet.RouteTransfer, second)
	x.Op = wallet.Transfer
	x.Payment = wallet.Payment{
		Op: wallet.Transfer, Amount: wallet.Minor(1), Asset: wallet.Must(wallet.ParseAsset("ron")),
		From: wallet.Must(wallet.ParseAccount("other-of-none")),
	}
	rate, subject := NewRate(), NewSubjectRate(10)
	for name, run := range map[string]func() wallet.Code{
		"rate":         func() wallet.Code { return rate.Check(x) },
		"subject rate": func() wallet.Code { return subject.Check(x) },
		"caps":         func() wallet.Code { return Caps{}.Check(x) },
		"switch":       func() wallet.Code { return Switch{}.Check(x) },
	} {
		x.Now += 3600 * second
		if n := testing.AllocsPerRun(1000, func() {
			if code := run(); code != wallet.Pass {
				t.Fatal(name, code)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
