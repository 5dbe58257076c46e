package config

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

func mustLimits(t testing.TB, push string) *Limits {
	t.Helper()
	l, err := parseLimits([]byte(push))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func asker(t testing.TB, r wallet.Route, token, subject, account, asset string) *Asker {
	t.Helper()
	who := &Asker{Route: r, Token: token, Subject: subject}
	var err error
	if account != "" {
		if who.Account, err = wallet.ParseAccount(account); err != nil {
			t.Fatal(err)
		}
	}
	if asset != "" {
		if who.Asset, err = wallet.ParseAsset(asset); err != nil {
			t.Fatal(err)
		}
	}
	return who
}

// TestOverrides asks one list of overrides for the limits of many requests, by a table: amount,
// day and total as A/D/T where they are not the general 100/1000/10000, and the subject's rate.
func TestOverrides(t *testing.T) {
	l := mustLimits(t, `{"max_amount_per_op":"100","daily_ceiling":"1000","max_account_total":"10000","subject_rate_per_second":10,"subject_burst":20,"rate_per_second":5,"rate_burst":6,
		"overrides":[
			{"token":"t1","max_amount_per_op":"200"},
			{"token":"t1","max_amount_per_op":"300","daily_ceiling":"3000"},
			{"subject":"vip","max_amount_per_op":"999999","daily_ceiling":"50","subject_rate_per_second":99,"subject_burst":5},
			{"token":"t2","subject":"vip","max_account_total":"7"},
			{"account":"team_a","max_amount_per_op":"400"},
			{"account":"team_*","asset":"ron","max_amount_per_op":"500"},
			{"account":"team_*","max_amount_per_op":"600","max_account_total":"66"},
			{"asset":"ron","daily_ceiling":"700"},
			{"route":"burn","max_amount_per_op":"1"},
			{"token":"t3","subject_rate_per_second":30,"subject_burst":40},
			{"route":"burn","subject_rate_per_second":3,"subject_burst":4},
			{"route":"issue","rate_per_second":1,"rate_burst":2},
			{"route":"issue","rate_per_second":3,"rate_burst":4}
		]}`)
	for _, v := range []struct {
		name                           string
		route                          wallet.Route
		token, subject, account, asset string
		caps                           string
		perSecond, burst               uint64
	}{
		{"nobody", wallet.RouteTransfer, "", "", "", "", "100/1000/10000", 10, 20},
		{"none of them", wallet.RouteTransfer, "t9", "s9", "x", "eur", "100/1000/10000", 10, 20},
		{"the first that speaks of a limit", wallet.RouteTransfer, "t1", "", "x", "eur", "200/3000/10000", 10, 20},
		{"a subject does not widen, but narrows", wallet.RouteTransfer, "t9", "vip", "x", "eur", "100/50/10000", 10, 5},
		{"nor does it lead away from a token's", wallet.RouteTransfer, "t1", "vip", "x", "eur", "200/50/10000", 10, 5},
		{"a token with a subject", wallet.RouteTransfer, "t2", "vip", "x", "eur", "100/50/7", 10, 5},
		{"the token without the subject", wallet.RouteTransfer, "t2", "", "x", "eur", "100/1000/10000", 10, 20},
		{"whole account", wallet.RouteTransfer, "", "", "team_a", "eur", "400/1000/66", 10, 20},
		{"whole account comes first", wallet.RouteTransfer, "", "", "team_a", "ron", "400/700/66", 10, 20},
		{"prefix and asset", wallet.RouteTransfer, "", "", "team_b", "ron", "500/700/66", 10, 20},
		{"prefix", wallet.RouteTransfer, "", "", "team_b", "eur", "600/1000/66", 10, 20},
		{"the prefix itself", wallet.RouteTransfer, "", "", "team_", "eur", "600/1000/66", 10, 20},
		{"less than the prefix", wallet.RouteTransfer, "", "", "team", "eur", "100/1000/10000", 10, 20},
		{"account not known yet", wallet.RouteTransfer, "", "", "", "ron", "100/700/10000", 10, 20},
		{"a token before an account", wallet.RouteTransfer, "t1", "", "team_a", "eur", "200/3000/66", 10, 20},
		{"route", wallet.RouteBurn, "", "", "x", "eur", "1/1000/10000", 3, 4},
		{"token before route", wallet.RouteBurn, "t3", "", "x", "eur", "1/1000/10000", 30, 40},
		{"subject narrows the token's rate", wallet.RouteBurn, "t3", "vip", "x", "eur", "1/50/10000", 30, 5},
	} {
		who := asker(t, v.route, v.token, v.subject, v.account, v.asset)
		caps := l.CapsFor(who)
		if got := fmt.Sprintf("%v/%v/%v", caps.MaxAmountPerOp, caps.DailyCeiling, caps.MaxAccountTotal); got != v.caps {
			t.Errorf("%s: caps are %s, want %s", v.name, got, v.caps)
		}
		if perSecond, burst := l.SubjectRateFor(who); perSecond != v.perSecond || burst != v.burst {
			t.Errorf("%s: the rate is %d, %d, want %d, %d", v.name, perSecond, burst, v.perSecond, v.burst)
		}
	}
	for r, want := range map[wallet.Route]string{wallet.NoRoute: "5 6 false", wallet.RouteBurn: "5 6 false", wallet.RouteIssue: "1 2 true"} {
		perSecond, burst, own := l.RateFor(r)
		if got := fmt.Sprint(perSecond, burst, own); got != want {
			t.Errorf("the rate of %q is %s, want %s", r, got, want)
		}
	}
}

// TestOverridesWithoutRate checks a subject's rate where there is none in general: an override by
// subject then sets one, for that narrows.
func TestOverridesWithoutRate(t *testing.T) {
	l := mustLimits(t, `{"overrides":[{"subject":"s","subject_rate_per_second":1,"subject_burst":2},{"token":"t","subject_rate_per_second":3,"subject_burst":1}]}`)
	for _, v := range []struct {
		token, subject   string
		perSecond, burst uint64
	}{{"", "", 0, 0}, {"", "s", 1, 2}, {"t", "", 3, 1}, {"t", "s", 1, 1}} {
		if perSecond, burst := l.SubjectRateFor(asker(t, wallet.RouteTx, v.token, v.subject, "", "")); perSecond != v.perSecond || burst != v.burst {
			t.Errorf("%+v: got %d, %d", v, perSecond, burst)
		}
	}
	var none Limits
	if caps := none.CapsFor(new(Asker)); caps != (Caps{}) {
		t.Errorf("the zero limits allow %+v", caps)
	}
	if perSecond, burst, own := none.RateFor(wallet.RouteIssue); perSecond != 0 || burst != 0 || own {
		t.Error("the zero limits have a rate")
	}
}

// modelOverride is one item of TestOverridesProperty's model, in the members of its JSON.
type modelOverride struct {
	token, subject, account, asset, route string
	terms                                 map[string]int
}

func (e *modelOverride) json() string {
	var members []string
	for _, m := range []struct{ name, text string }{{"token", e.token}, {"subject", e.subject}, {"account", e.account}, {"asset", e.asset}, {"route", e.route}} {
		if m.text != "" {
			members = append(members, fmt.Sprintf("%q:%q", m.name, m.text))
		}
	}
	for name, n := range e.terms {
		format := "%q:%d"
		if !strings.Contains(name, "rate") && !strings.Contains(name, "burst") {
			format = `%q:"%d"`
		}
		members = append(members, fmt.Sprintf(format, name, n))
	}
	return "{" + strings.Join(members, ",") + "}"
}

func (e *modelOverride) fits(who *Asker) bool {
	same := func(wanted, is string) bool { return wanted == "" || wanted == is }
	prefix, open := strings.CutSuffix(e.account, "*")
	return same(e.token, who.Token) && same(e.subject, who.Subject) && same(e.asset, who.Asset.String()) && same(e.route, who.Route.String()) &&
		(same(e.account, who.Account.String()) || (open && strings.HasPrefix(who.Account.String(), prefix)))
}

// model is what the list means, read line by line: the first fit one without a subject, narrowed by
// the first fit one with a subject.
func model(list []modelOverride, who *Asker, term string, general int) int {
	first := func(withSubject bool) (n int, there bool) {
		for _, e := range list {
			if n, speaks := e.terms[term]; speaks && (e.subject != "") == withSubject && e.fits(who) {
				return n, true
			}
		}
		return 0, false
	}
	if n, there := first(false); there {
		general = n
	}
	if n, there := first(true); there && (n < general || general == 0) {
		general = n
	}
	return general
}

// TestOverridesProperty asks random lists for random requests (rapid; a failure prints its seed): the
// answer is the model's, and a holder who adds a subject to his token never gets more.
func TestOverridesProperty(t *testing.T) {
	tokens, subjects := []string{"", "t", "u"}, []string{"", "s", "v"}
	accounts, assets := []string{"", "a", "ab", "abc", "b"}, []string{"", "ron", "eur"}
	rapid.Check(t, func(r *rapid.T) {
		pick := func(label string, among ...string) string { return rapid.SampledFrom(among).Draw(r, label) }
		var list []modelOverride
		for range rapid.IntRange(0, 12).Draw(r, "items") {
			e := modelOverride{token: pick("token", tokens...), subject: pick("subject", subjects...), route: pick("route", "", "", "issue", "burn"), terms: map[string]int{}}
			if rapid.Bool().Draw(r, "rate") {
				e.terms["subject_rate_per_second"], e.terms["subject_burst"] = rapid.IntRange(1, 9).Draw(r, "rate"), rapid.IntRange(1, 9).Draw(r, "burst")
			} else {
				e.account, e.asset = pick("account", "", "a", "ab", "b", "a*", "ab*"), pick("asset", assets...)
			}
			for _, term := range []string{"max_amount_per_op", "daily_ceiling", "max_account_total"} {
				if rapid.Bool().Draw(r, term) {
					e.terms[term] = rapid.IntRange(1, 9).Draw(r, term)
				}
			}
			if len(e.terms) > 0 && (e.token+e.subject+e.account+e.asset+e.route) != "" {
				list = append(list, e)
			}
		}
		var items []string
		for i := range list {
			items = append(items, list[i].json())
		}
		general := rapid.IntRange(0, 1).Draw(r, "general rate") * 5
		l := mustLimits(t, fmt.Sprintf(`{"max_amount_per_op":"5","daily_ceiling":"5","max_account_total":"5","subject_rate_per_second":%d,"subject_burst":%d,"overrides":[%s]}`,
			general, general, strings.Join(items, ",")))

		for range 20 {
			who := asker(t, rapid.SampledFrom([]wallet.Route{wallet.RouteIssue, wallet.RouteTransfer, wallet.RouteBurn}).Draw(r, "asker's route"),
				pick("asker's token", tokens...), pick("asker's subject", subjects...), pick("asker's account", accounts...), pick("asker's asset", assets...))
			want := func(term string, general int) uint64 { return uint64(model(list, who, term, general)) }
			caps := l.CapsFor(who)
			perSecond, burst := l.SubjectRateFor(who)
			if caps != (Caps{minor(want("max_amount_per_op", 5)), minor(want("daily_ceiling", 5)), minor(want("max_account_total", 5))}) ||
				perSecond != want("subject_rate_per_second", general) || burst != want("subject_burst", general) {
				r.Fatalf("%+v of %s: got %+v and %d, %d", who, strings.Join(items, "\n"), caps, perSecond, burst)
			}
			without := *who
			without.Subject = ""
			most := l.CapsFor(&without)
			if caps.MaxAmountPerOp.Cmp(most.MaxAmountPerOp) > 0 || caps.DailyCeiling.Cmp(most.DailyCeiling) > 0 || caps.MaxAccountTotal.Cmp(most.MaxAccountTotal) > 0 {
				r.Fatalf("%+v gets %+v, and without a subject %+v", who, caps, most)
			}
			if mostPerSecond, mostBurst := l.SubjectRateFor(&without); mostPerSecond != 0 && (perSecond == 0 || perSecond > mostPerSecond || burst > mostBurst) {
				r.Fatalf("%+v gets a rate of %d, %d, and without a subject %d, %d", who, perSecond, burst, mostPerSecond, mostBurst)
			}
		}
	})
}

// TestOverridesBounds gives as many overrides as there may be, in all and of each kind that is looked
// at together, and one more.
func TestOverridesBounds(t *testing.T) {
	list := func(n int, item string) word {
		items := make([]string, n)
		for i := range items {
			items[i] = strings.ReplaceAll(item, "#", fmt.Sprint(i))
		}
		return word("[" + strings.Join(items, ",") + "]")
	}
	const term = `,"daily_ceiling":"1"}`
	for _, v := range []struct {
		most int
		item string
		want string
	}{
		{maxOverrides, `{"token":"t#"` + term, "is not a list of at most 4096 overrides"},
		{maxOverrides, `{"account":"a#","asset":"ron"` + term, "is not a list of at most 4096 overrides"},
		{maxAlike, `{"token":"t","account":"a#"` + term, "is wrong: item 257: is one of over 256 that name the same token"},
		{maxAlike, `{"token":"t#","subject":"s"` + term, "is wrong: item 257: is one of over 256 that name the same subject"},
		{maxAlike, `{"account":"a"` + term, "is wrong: item 257: is one of over 256 that name the same account"},
		{maxAlike, `{"account":"a#*","asset":"ron"` + term, "is wrong: item 257: is one of over 256 that name the same asset, and neither token, subject nor whole account"},
		{maxAlike, `{"account":"a#*"` + term, "is wrong: item 257: is one of over 256 that name neither token, subject, whole account nor asset"},
	} {
		if _, problem := overrides().read(list(v.most, v.item)); problem != "" {
			t.Errorf("%d of %s: %s", v.most, v.item, problem)
		}
		if _, problem := overrides().read(list(v.most+1, v.item)); problem != v.want {
			t.Errorf("%d of %s: got %q, want %q", v.most+1, v.item, problem, v.want)
		}
	}
}

// TestOverridesForms reads the same overrides from TOML, YAML, a variable and a push, prints them
// alike, and takes as many from a file as there may be.
func TestOverridesForms(t *testing.T) {
	const want = `[{"asset":"ron","max_amount_per_op":"5"},{"rate_burst":2,"rate_per_second":1,"route":"issue"},{"daily_ceiling":9223372036854775807,"token":"t"}]`
	toml := "[[limits.overrides]]\nmax_amount_per_op = '5'\nasset = 'ron'\n[[limits.overrides]]\nroute = 'issue'\nrate_per_second = 1\nrate_burst = 2\n[[limits.overrides]]\ntoken = 't'\ndaily_ceiling = 9223372036854775807\n"
	yaml := "limits:\n  overrides:\n  - asset: ron\n    max_amount_per_op: '5'\n  - {route: issue, rate_per_second: 1, rate_burst: 2}\n  - {token: t, daily_ceiling: 9223372036854775807}\n"
	for name, from := range map[string]Sources{
		"toml": {File: writeFile(t, ".toml", toml), Env: required()},
		"yaml": {File: writeFile(t, ".yaml", yaml), Env: required()},
	} {
		if got := entry(mustLoad(t, from).Effective(), "limits.overrides"); got != want+" from "+from.File {
			t.Errorf("%s gives %s", name, got)
		}
	}
	quoted := strings.ReplaceAll(want, "9223372036854775807", `"9"`)
	c := mustLoad(t, Sources{Env: required("SVC_WALLET_LIMITS_OVERRIDES=" + quoted)})
	if got := c.Limits().Overrides.text; got != quoted || mustLimits(t, `{"overrides":`+quoted+`}`).Overrides.text != quoted {
		t.Errorf("a variable gives %s", got)
	}
	var many strings.Builder
	for i := range maxOverrides {
		fmt.Fprintf(&many, "[[limits.overrides]]\nasset = 'ron'\naccount = 'a%d'\ndaily_ceiling = 1\n", i)
	}
	if c := mustLoad(t, Sources{File: writeFile(t, ".toml", many.String()), Env: required()}); len(c.Limits().Overrides.list) != maxOverrides {
		t.Error("a file cannot hold all overrides")
	}
	for raw, want := range map[word]string{
		"[": "is not a list of at most 4096 overrides: jsontext: unexpected EOF after offset 1",
		"7": "is not a list of at most 4096 overrides",
	} {
		if _, problem := overrides().read(raw); problem != want {
			t.Errorf("%s: %s, want %s", raw, problem, want)
		}
	}
}

// TestOverridesAllocate asks for limits among 4096 overrides: nothing is allocated.
func TestOverridesAllocate(t *testing.T) {
	l := mustLimits(t, manyOverrides())
	who := asker(t, wallet.RouteTransfer, strings.Repeat("t", 50)+"000007", "s", strings.Repeat("a", 41), strings.Repeat("r", 32))
	if caps := l.CapsFor(who); caps.DailyCeiling != minor(6) {
		t.Fatalf("the override is not found: %+v", caps)
	}
	if n := testing.AllocsPerRun(100, func() {
		l.CapsFor(who)
		l.SubjectRateFor(who)
		l.RateFor(wallet.RouteTransfer)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSubjectRateFor looks up the rate of a holder without an override, among as many overrides as
// there may be: those of other holders, and those of caps, which are not his rate's.
func BenchmarkSubjectRateFor(b *testing.B) {
	var items []string
	for i := range maxOverrides - maxAlike {
		items = append(items, fmt.Sprintf(`{"token":"t%d","subject_rate_per_second":1,"subject_burst":1}`, i))
	}
	for i := range maxAlike {
		items = append(items, fmt.Sprintf(`{"account":"a%d*","daily_ceiling":"1"}`, i))
	}
	l := mustLimits(b, `{"overrides":[`+strings.Join(items, ",")+`]}`)
	who := asker(b, wallet.RouteBalance, "t", "s", "", "")
	b.ReportAllocs()
	for b.Loop() {
		l.SubjectRateFor(who)
	}
}

// BenchmarkCapsFor looks up a payment that no override fits, among none and among as many as may have
// to be tried.
func BenchmarkCapsFor(b *testing.B) {
	var items []string
	for range maxAlike {
		for _, who := range []string{`"token":"t"`, `"account":"a"`, `"asset":"ron"`, `"account":"a*"`} {
			items = append(items, `{`+who+`,"route":"tx","daily_ceiling":"1"}`)
		}
	}
	for _, list := range [][]string{nil, items} {
		b.Run(fmt.Sprint(len(list)), func(b *testing.B) {
			l := mustLimits(b, `{"overrides":[`+strings.Join(list, ",")+`]}`)
			who := asker(b, wallet.RouteTransfer, "t", "", "a", "ron")
			b.ReportAllocs()
			for b.Loop() {
				l.CapsFor(who)
			}
		})
	}
}
