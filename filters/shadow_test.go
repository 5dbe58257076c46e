package filters

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// through is what a chain of f alone makes of x.
func through(f Filter, x *Exchange) wallet.Code {
	return Chain{f}.Do(x, func(*Exchange) wallet.Code { return wallet.Pass })
}

// paying is a decoded payment of 100 by a token, as the filters after decoding see it.
func paying(l *config.Limits, op wallet.Op) *Exchange {
	x := holder(l, "t", "", wallet.RouteTransfer, second)
	x.Op = op
	x.Payment = wallet.Payment{
		Op: op, Amount: wallet.Minor(100), Asset: wallet.Must(wallet.ParseAsset("ron")),
		From: wallet.Must(wallet.ParseAccount("payer")), To: wallet.Must(wallet.ParseAccount("payee")),
	}
	if op == wallet.Burn {
		x.Payment.To = wallet.Account{}
	}
	return x
}

// TestShadow: a shadow limit that alone would refuse lets the exchange through and is named,
// and none is named that would let it through too, is no shadow limit, or was preceded by a
// refusal. Method: for each limit, a filter and a table of pushes.
func TestShadow(t *testing.T) {
	caps := func(op wallet.Op) func(*testing.T, *config.Limits) (*Exchange, wallet.Code) {
		return func(_ *testing.T, l *config.Limits) (*Exchange, wallet.Code) {
			x := paying(l, op)
			return x, through(Caps{}, x)
		}
	}
	twice := func(make func() Filter) func(*testing.T, *config.Limits) (*Exchange, wallet.Code) {
		return func(_ *testing.T, l *config.Limits) (*Exchange, wallet.Code) {
			f, first := make(), paying(l, wallet.Transfer)
			f.Check(first)
			first.shadow(f)
			x := paying(l, wallet.Transfer)
			return x, through(f, x)
		}
	}
	rate := twice(func() Filter { return NewRate() })
	subject := twice(func() Filter { return NewSubjectRate(10) })
	inFlight := twice(func() Filter { return NewInFlight() })
	auth := func(_ *testing.T, l *config.Limits) (*Exchange, wallet.Code) {
		keys := &Keys{first: "k1", byID: map[string][32]byte{"k1": {1}}}
		token, err := MintToken(keys, "t", []string{"exp = 4102444800", "actions = read", "accounts = *"})
		if err != nil {
			t.Fatal(err)
		}
		ring := new(KeyRing)
		ring.Store(keys)
		x := &Exchange{Request: Request{Limits: l, Token: []byte(token)}}
		return x, through(NewAuth(ring, 8, 100), x)
	}
	body := func(zip bool) func(*testing.T, *config.Limits) (*Exchange, wallet.Code) {
		return func(t *testing.T, l *config.Limits) (*Exchange, wallet.Code) {
			text := []byte(`{"from":"a","to":"b","asset":"ron","amount_minor":"1","nonce":1}` + strings.Repeat(" ", 936))
			if zip {
				var b bytes.Buffer
				w := gzip.NewWriter(&b)
				_, _ = w.Write(text)
				_ = w.Close()
				text = b.Bytes() // some 90 bytes
			}
			x := &Exchange{Request: Request{Op: wallet.Transfer, Limits: l, Key: []byte("k"), Body: text, Gzip: zip}, Findings: Findings{Grant: &Grant{actions: 1 << wallet.Transfer, accounts: []patterns{"*"}}}}
			return x, through(newPayload(), x)
		}
	}
	for _, c := range []struct {
		name string
		push string
		run  func(*testing.T, *config.Limits) (*Exchange, wallet.Code)
		want string
		code wallet.Code
	}{
		{"no shadow limit", `{}`, caps(wallet.Transfer), "", wallet.Pass},
		{"amount", `{"shadow":{"max_amount_per_op":"99"}}`, caps(wallet.Transfer), "max_amount_per_op", wallet.Pass},
		{"amount, at the cap", `{"shadow":{"max_amount_per_op":"100"}}`, caps(wallet.Transfer), "", wallet.Pass},
		{"amount, refused in earnest", `{"max_amount_per_op":"99","shadow":{"max_amount_per_op":"9"}}`, caps(wallet.Transfer), "", wallet.LimitsExceeded},
		{"amount, wider", `{"max_amount_per_op":"100","shadow":{"max_amount_per_op":"1000"}}`, caps(wallet.Transfer), "", wallet.Pass},
		{"amount of an override is no shadow limit", `{"overrides":[{"token":"t","max_amount_per_op":"100"}],"shadow":{"max_amount_per_op":"9"}}`, caps(wallet.Transfer), "", wallet.Pass},
		{"daily ceiling by one amount", `{"shadow":{"daily_ceiling":"99"}}`, caps(wallet.Burn), "daily_ceiling", wallet.Pass},
		{"account total by one amount", `{"shadow":{"max_account_total":"99"}}`, caps(wallet.Issue), "max_account_total", wallet.Pass},
		{"a burn credits nobody", `{"shadow":{"max_account_total":"99"}}`, caps(wallet.Burn), "", wallet.Pass},
		{"several at once", `{"shadow":{"max_account_total":"99","daily_ceiling":"98","max_amount_per_op":"97"}}`, caps(wallet.Transfer), "max_amount_per_op,daily_ceiling,max_account_total", wallet.Pass},

		{"rate", `{"shadow":{"rate_per_second":1,"rate_burst":1}}`, rate, "rate_per_second", wallet.Pass},
		{"rate, enough", `{"shadow":{"rate_per_second":1,"rate_burst":2}}`, rate, "", wallet.Pass},
		{"rate, refused in earnest", `{"rate_burst":1,"shadow":{"rate_burst":1,"rate_per_second":1}}`, rate, "", wallet.RateLimited},
		{"rate of a route is no shadow limit", `{"overrides":[{"route":"transfer","rate_per_second":1,"rate_burst":2}],"shadow":{"rate_burst":1}}`, rate, "", wallet.Pass},
		{"subject rate", `{"shadow":{"subject_rate_per_second":1,"subject_burst":1}}`, subject, "subject_rate_per_second", wallet.Pass},
		{"subject rate, refused in earnest", `{"subject_rate_per_second":2,"subject_burst":1,"shadow":{"subject_rate_per_second":1,"subject_burst":1}}`, subject, "", wallet.RateLimited},
		{"subject rate of an override is no shadow limit", `{"overrides":[{"token":"t","subject_rate_per_second":1,"subject_burst":2}],"shadow":{"subject_rate_per_second":1,"subject_burst":1}}`, subject, "", wallet.Pass},
		{"in flight", `{"shadow":{"inflight":1}}`, inFlight, "inflight", wallet.Pass},
		{"in flight, room", `{"shadow":{"inflight":2}}`, inFlight, "", wallet.Pass},
		{"in flight, refused in earnest", `{"inflight":1,"shadow":{"inflight":1}}`, inFlight, "", wallet.Busy},

		{"token revoked", `{"shadow":{"revoked_tokens":["t"]}}`, auth, "revoked_tokens", wallet.Pass},
		{"key revoked", `{"shadow":{"revoked_keys":["k1"]}}`, auth, "revoked_keys", wallet.Pass},
		{"another revoked", `{"shadow":{"revoked_keys":["k2"],"revoked_tokens":["u"]}}`, auth, "", wallet.Pass},
		{"revoked in earnest", `{"revoked_tokens":["t"],"shadow":{"revoked_keys":["k1"]}}`, auth, "", wallet.Unauthorized},

		{"body as sent is the edge's", `{"shadow":{"max_body_bytes":256}}`, body(false), "", wallet.Pass},
		{"body, at the cap", `{"decompress_ratio_cap":100,"shadow":{"max_body_bytes":1000}}`, body(true), "", wallet.Pass},
		{"body, decompressed", `{"decompress_ratio_cap":100,"shadow":{"max_body_bytes":999}}`, body(true), "max_body_bytes", wallet.Pass},
		{"ratio", `{"decompress_ratio_cap":100,"shadow":{"decompress_ratio_cap":2}}`, body(true), "decompress_ratio_cap", wallet.Pass},
		{"ratio, refused in earnest", `{"decompress_ratio_cap":2,"shadow":{"decompress_ratio_cap":1}}`, body(true), "", wallet.BadRequest},
		{"no ratio without gzip", `{"shadow":{"decompress_ratio_cap":1}}`, body(false), "", wallet.Pass},
	} {
		x, code := c.run(t, pushed(t, c.push))
		if code != c.code || x.Shadowed.String() != c.want {
			t.Errorf("%s: %v (%s), shadowed by %q; wanted %v, %q", c.name, code, x.Detail, x.Shadowed, c.code, c.want)
		}
	}
}

// TestShadowTotals: what the ledger tells of an applied payment is held against the ceilings under
// watch, at the caps that hold for the payer, and a replay, a refusal or a ledger that tells
// nothing is not. Method: a table of results.
func TestShadowTotals(t *testing.T) {
	l := pushed(t, `{"overrides":[{"token":"free","daily_ceiling":"1000000","max_account_total":"1000000"}],
		"shadow":{"daily_ceiling":"500","max_account_total":"700"}}`)
	result := func(code wallet.Code, day, payer, payee uint64) wallet.Result {
		x := paying(l, wallet.Transfer)
		return wallet.Result{Code: code, DayTotal: wallet.Minor(day), Balances: [2]wallet.Balance{
			{Key: wallet.BalanceKey{Account: x.Payment.From, Asset: x.Payment.Asset}, Amount: wallet.Minor(payer)},
			{Key: wallet.BalanceKey{Account: x.Payment.To, Asset: x.Payment.Asset}, Amount: wallet.Minor(payee)},
		}}
	}
	for _, c := range []struct {
		name, token string
		op          wallet.Op
		limits      *config.Limits
		result      wallet.Result
		daily       uint64 // of the capability; 0: none
		want        string
	}{
		{"at both", "t", wallet.Transfer, l, result(wallet.OK, 500, 900, 700), 0, ""},
		{"over the day's", "t", wallet.Transfer, l, result(wallet.OK, 501, 0, 0), 0, "daily_ceiling"},
		{"over the account's", "t", wallet.Transfer, l, result(wallet.OK, 0, 0, 701), 0, "max_account_total"},
		{"over both", "t", wallet.Issue, l, result(wallet.OK, 501, 0, 701), 0, "daily_ceiling,max_account_total"},
		{"a rich payer", "t", wallet.Transfer, l, result(wallet.OK, 0, 9000, 0), 0, ""},
		{"a burn", "t", wallet.Burn, l, result(wallet.OK, 501, 9000, 0), 0, "daily_ceiling"},
		{"an override's own", "free", wallet.Transfer, l, result(wallet.OK, 501, 0, 701), 0, ""},
		{"within the capability's", "t", wallet.Transfer, l, result(wallet.OK, 400, 0, 0), 400, ""},
		{"the ledger does not tell", "t", wallet.Transfer, l, result(wallet.OK, 0, 0, 0), 0, ""},
		{"a replay", "t", wallet.Transfer, l, result(wallet.Replayed, 501, 0, 701), 0, ""},
		{"a refusal", "t", wallet.Transfer, l, result(wallet.LimitsExceeded, 501, 0, 701), 0, ""},
		{"unknown", "t", wallet.Transfer, l, result(wallet.Uncertain, 501, 0, 701), 0, ""},
		{"no shadow limit", "t", wallet.Transfer, pushed(t, `{}`), result(wallet.OK, 501, 0, 701), 0, ""},
	} {
		x := paying(c.limits, c.op)
		x.Grant.TokenID = c.token
		if c.daily > 0 {
			x.Grant.Daily = wallet.Minor(c.daily)
		}
		ShadowTotals(x, &c.result)
		if x.Shadowed.String() != c.want {
			t.Errorf("%s: shadowed by %q, wanted %q", c.name, x.Shadowed, c.want)
		}
	}
}

// TestShadowRatesFollow: shadow rates change nothing about the ones in force, and refuse what
// they would refuse by themselves of what those let through. Method: random times against two
// filters without a watch, one in force and one as it might become.
func TestShadowRatesFollow(t *testing.T) {
	const force = `"rate_per_second":20,"rate_burst":10,"subject_rate_per_second":20,"subject_burst":10`
	const become = `"rate_per_second":10,"rate_burst":4,"subject_rate_per_second":10,"subject_burst":4`
	both := pushed(t, `{`+force+`,"shadow":{`+become+`}}`)
	live, next := pushed(t, `{`+force+`}`), pushed(t, `{`+become+`}`)
	rapid.Check(t, func(t *rapid.T) {
		for _, f := range []struct {
			w                Shadow
			both, live, next Filter
		}{
			{ShadowRate, NewRate(), NewRate(), NewRate()},
			{ShadowSubjectRate, NewSubjectRate(4), NewSubjectRate(4), NewSubjectRate(4)},
		} {
			now := 1_700_000_000 * second
			for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
				now += 1e6 * rapid.SampledFrom([]int64{0, 1, 30, 60, 100, 1000}).Draw(t, "ms")
				x := holder(both, "t", "", wallet.RouteTransfer, now)
				got, want := through(f.both, x), f.live.Check(holder(live, "t", "", wallet.RouteTransfer, now))
				if got != want {
					t.Fatalf("%v, step %d: %v, and %v without the watch", f.w, i, got, want)
				}
				shadowed := want == wallet.Pass && f.next.Check(holder(next, "t", "", wallet.RouteTransfer, now)) != wallet.Pass
				if x.Shadowed.Has(f.w) != shadowed {
					t.Fatalf("%v, step %d: shadowed by %q, wanted %v", f.w, i, x.Shadowed, shadowed)
				}
			}
		}
	})
}

// TestShadowAllocations: a watch on every limit that a read or a payment passes costs no
// allocation, whether it would refuse or not. Method: testing.AllocsPerRun.
func TestShadowAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	for _, burst := range []string{"1", "1000000"} {
		l := pushed(t, manyOverrides(`,"shadow":{"rate_per_second":1,"rate_burst":`+burst+`,"subject_rate_per_second":1,"subject_burst":`+burst+`,
			"inflight":1,"max_amount_per_op":"1","daily_ceiling":"1","max_account_total":"1","revoked_tokens":["t"],"max_body_bytes":256}`))
		x := paying(l, wallet.Transfer)
		rate, subject, inFlight, caps, auth := NewRate(), NewSubjectRate(10), NewInFlight(), Filter(Caps{}), (*Auth)(nil)
		r := wallet.Result{Code: wallet.OK, DayTotal: wallet.MaxAmount()}
		for name, run := range map[string]func(){
			"rate":      func() { rate.Check(x); x.shadow(rate) },
			"subject":   func() { subject.Check(x); x.shadow(subject) },
			"in flight": func() { inFlight.Check(x); x.shadow(inFlight); inFlight.Settle(x, wallet.OK) },
			"caps":      func() { Caps{}.Check(x); x.shadow(caps) },
			"revoked":   func() { x.shadow(auth) },
			"totals":    func() { ShadowTotals(x, &r) },
		} {
			if n := testing.AllocsPerRun(1000, run); n != 0 {
				t.Errorf("%s, burst of %s: %v allocations", name, burst, n)
			}
		}
		if !x.Shadowed.Has(ShadowAmount) || x.Shadowed.Has(ShadowRate) != (burst == "1") {
			t.Errorf("shadowed by %q", x.Shadowed)
		}
	}
}
