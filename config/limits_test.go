package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"svc-wallet/wallet"
)

// parseLimits puts a push over the defaults.
func parseLimits(raw []byte) (*Limits, error) { return over(defaults(), raw) }

func over(c *Config, raw []byte) (*Limits, error) {
	p, err := ParsePush(raw)
	if err != nil {
		return nil, err
	}
	live := new(Live)
	if err := NewStack(c, live).Set(LayerLimits, p, Origin{}); err != nil {
		return nil, err
	}
	return live.Load(), nil
}

// TestPushLimits sets every member and compares the result with one written out by hand; what is
// left out has its default.
func TestPushLimits(t *testing.T) {
	got, err := parseLimits([]byte(`{
		"max_amount_per_op": "340282366920938463", "daily_ceiling": "9", "max_account_total": "10",
		"rate_per_second": 1, "rate_burst": 2, "subject_rate_per_second": 3, "subject_burst": 4,
		"inflight": 5, "queue": 6, "batch_max": 7, "max_body_bytes": "2MiB", "decompress_ratio_cap": 8,
		"request_deadline": "9s", "revoked_tokens": ["t1", "t2"], "revoked_keys": ["k"],
		"staleness_window": "10ms", "ledger_timeout": "11ms", "ledger_retries": 0,
		"breaker_errors": 12, "breaker_open": "13s", "breaker_probes": 14, "ledger_connect_timeout": "15ms",
		"writes_enabled": false, "reads_enabled": true, "balance_enabled": "0.0001%", "tx_enabled": "1.5%",
		"issue_enabled": "25%", "transfer_enabled": "100%", "burn_enabled": "99.9999%",
		"overrides": [{"max_amount_per_op": "16", "asset": "ron"}],
		"shadow": {"max_amount_per_op": "17", "daily_ceiling": "18", "max_account_total": "19",
			"rate_per_second": 20, "rate_burst": 21, "subject_rate_per_second": 22, "subject_burst": 23,
			"inflight": 24, "queue": 25, "max_body_bytes": "2KiB", "decompress_ratio_cap": 26,
			"revoked_tokens": ["t3"], "revoked_keys": ["k3"]} }`))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.limits = Limits{
		MaxAmountPerOp: minor(340282366920938463), DailyCeiling: minor(9), MaxAccountTotal: minor(10),
		RatePerSecond: 1, RateBurst: 2, SubjectRate: 3, SubjectBurst: 4,
		InFlight: 5, Queue: 6, BatchMax: 7, MaxBodyBytes: 2 << 20, DecompressRatioCap: 8,
		RequestDeadline: 9 * time.Second,
		RevokedTokens:   map[string]struct{}{"t1": {}, "t2": {}}, RevokedKeys: map[string]struct{}{"k": {}},
		StalenessWindow: 10 * time.Millisecond, LedgerTimeout: 11 * time.Millisecond, Retries: 0,
		BreakerErrors: 12, BreakerOpenFor: 13 * time.Second, BreakerProbes: 14, LedgerConnectTimeout: 15 * time.Millisecond,
		WritesEnabled: 0, ReadsEnabled: Always,
		RouteEnabled: [wallet.NumRoutes]Fraction{wallet.RouteBalance: 1, wallet.RouteTx: 15_000, wallet.RouteIssue: 250_000, wallet.RouteTransfer: Always, wallet.RouteBurn: 999_999},
		Overrides:    &Overrides{text: `[{"asset":"ron","max_amount_per_op":"16"}]`},
	}
	shadow := want.limits
	shadow.MaxAmountPerOp, shadow.DailyCeiling, shadow.MaxAccountTotal = minor(17), minor(18), minor(19)
	shadow.RatePerSecond, shadow.RateBurst, shadow.SubjectRate, shadow.SubjectBurst = 20, 21, 22, 23
	shadow.InFlight, shadow.Queue, shadow.MaxBodyBytes, shadow.DecompressRatioCap = 24, 25, 2<<10, 26
	shadow.RevokedTokens, shadow.RevokedKeys = map[string]struct{}{"t3": {}}, map[string]struct{}{"k3": {}}
	want.limits.Shadow = &shadow
	if got, want := describeLimits(got), describeLimits(&want.limits); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got, err = parseLimits([]byte(` {} `))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describeLimits(got), describeLimits(defaults().Limits()); got != want {
		t.Errorf("an empty push gives\n%s\nwant\n%s", got, want)
	}
}

// TestOverlay pushes over a configuration: what the push leaves out keeps its static value, the
// static ceilings bound the push, and the configuration itself does not change.
func TestOverlay(t *testing.T) {
	c := mustLoad(t, Sources{Env: required("SVC_WALLET_LIMITS_MAX_AMOUNT_PER_OP=5", "SVC_WALLET_CEILINGS_MAX_AMOUNT_PER_OP=6", "SVC_WALLET_LIMITS_REVOKED_KEYS=k")})
	before := describe(c)
	l, err := over(c, []byte(`{"queue":7,"revoked_tokens":["t"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if l.Queue != 7 || l.MaxAmountPerOp != minor(5) || len(l.RevokedKeys) != 1 || len(l.RevokedTokens) != 1 {
		t.Errorf("got %+v", l)
	}
	_, err = over(c, []byte(`{"max_amount_per_op":"7"}`))
	wantFaults(t, err, `limits.max_amount_per_op: 7 (from push) is over ceilings.max_amount_per_op, 6 (from SVC_WALLET_CEILINGS_MAX_AMOUNT_PER_OP)`, "-")
	if describe(c) != before {
		t.Errorf("the push changed the configuration to\n%s", describe(c))
	}
}

// describeLimits lists every setting as l has it, and then as its Shadow does.
func describeLimits(l *Limits) string {
	c := defaults()
	c.limits = *l
	if l.Shadow == nil {
		return describe(c)
	}
	return describe(c) + "shadow\n" + describeLimits(l.Shadow)
}

// TestPushFaults holds the exact text of every kind of fault in a push.
func TestPushFaults(t *testing.T) {
	const amounts = `is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455`
	for _, v := range []struct{ raw, want string }{
		{``, `push: is not a JSON object`},
		{`[]`, `push: is not a JSON object`},
		{`null`, `push: is not a JSON object`},
		{`{} {}`, `push: there is something after the JSON value`},
		{`{"queue":1,}`, `push: jsontext: invalid character ',' at start of value after offset 10`},
		{`{"queue"`, `push: jsontext: unexpected EOF within "/queue" after offset 8`},
		{`{"queue":1`, `push: jsontext: unexpected EOF after offset 10`},
		{`{"queue":[`, `push: jsontext: unexpected EOF within "/queue" after offset 10`},
		{"{\"queue\":\"\xff\"}", `push: jsontext: invalid UTF-8 within "/queue" after offset 10`},
		{`{"queue":1,"queue":2}`, `push: jsontext: duplicate object member name "queue"`},
		{`{"quue":1}`, `quue: unknown key (from push)`},
		{`{"Queue":1}`, `Queue: unknown key (from push)`},
		{`{"limits.queue":1}`, `limits.queue: unknown key (from push)`},
		{`{"bind_addr":":1"}`, `bind_addr: unknown key (from push)`},
		{`{"":1}`, `"": unknown key (from push)`},
		{`{"queue":0}`, `limits.queue: 0 (from push) is not in 1…65536`},
		{`{"queue":null}`, `limits.queue: null (from push) is not an integer in 1…65536`},
		{`{"queue":1.0}`, `limits.queue: 1.0 (from push) is not an integer in 1…65536`},
		{`{"queue":1e2}`, `limits.queue: 1e2 (from push) is not an integer in 1…65536`},
		{`{"queue":-1}`, `limits.queue: -1 (from push) is not an integer in 1…65536`},
		{`{"queue":"1"}`, `limits.queue: "1" (from push) is not an integer in 1…65536`},
		{`{"queue":{}}`, `limits.queue: a section (from push) is not an integer in 1…65536`},
		{`{"queue":true}`, `limits.queue: true (from push) is not an integer in 1…65536`},
		{`{"queue":18446744073709551617}`, `limits.queue: 18446744073709551617 (from push) is not an integer in 1…65536`},
		{`{"max_amount_per_op":9007199254740993}`, `limits.max_amount_per_op: 9007199254740993 (from push) ` + amounts},
		{`{"max_amount_per_op":5}`, `limits.max_amount_per_op: 5 (from push) ` + amounts},
		{`{"max_amount_per_op":"05"}`, `limits.max_amount_per_op: "05" (from push) ` + amounts},
		{`{"max_amount_per_op":"1.0"}`, `limits.max_amount_per_op: "1.0" (from push) ` + amounts},
		{`{"max_amount_per_op":"340282366920938463463374607431768211456"}`, `limits.max_amount_per_op: "340282366920938463463374607431768211456" (from push) ` + amounts},
		{`{"max_amount_per_op":"1000000000000000000000001"}`, `limits.max_amount_per_op: 1000000000000000000000001 (from push) is over ceilings.max_amount_per_op, 1000000000000000000000000 (from default)`},
		{`{"staleness_window":0.25}`, `wallet.staleness_window: 0.25 (from push) is not a duration with its unit, such as 250ms, in 10ms…5s`},
		{`{"revoked_keys":"k"}`, `limits.revoked_keys: "k" (from push) is not a list of at most 65536 names, each of 1 to 64 visible ASCII characters but no comma`},
		{`{"revoked_keys":["k",7]}`, `limits.revoked_keys: a list (from push) is not a list of at most 65536 names, each of 1 to 64 visible ASCII characters but no comma`},
		{`{"subject_burst":5}`, `limits.subject_burst: 5 (from push) needs limits.subject_rate_per_second beside it`},
		{`{"subject_burst":5,"subject_rate_per_second":0}`, `limits.subject_burst: 5 (from push) must be 0 exactly where limits.subject_rate_per_second is`},
		{`{"inflight":20000,"queue":8193}`, `limits.inflight: 20000 (from push) is over ceilings.inflight, 16384 (from default)
limits.queue: 8193 (from push) is over ceilings.queue, 8192 (from default)`},
		// A push is judged by itself before it is held against a configuration.
		{`{"x":1,"queue":0,"rate_burst":"a","breaker_probes":0,"inflight":20000}`, `x: unknown key (from push)
breaker.probes: 0 (from push) is not in 1…1000
limits.queue: 0 (from push) is not in 1…65536
limits.rate_burst: "a" (from push) is not an integer in 1…1000000000`},
		{`{"queue":"` + strings.Repeat("x", maxDocument) + `"}`, `push: is larger than 1MiB`},
	} {
		_, err := parseLimits([]byte(v.raw))
		if err == nil {
			t.Errorf("%.80s: no fault, want\n%s", v.raw, v.want)
		} else if err.Error() != v.want {
			t.Errorf("%.80s: got\n%v\nwant\n%s", v.raw, err, v.want)
		}
	}
}

// TestNamesBound pushes as many names as a list may hold, and one more.
func TestNamesBound(t *testing.T) {
	list := slices.Repeat([]any{"a"}, maxNames)
	n := names()
	if _, problem := n.read(list); problem != "" {
		t.Error(problem)
	}
	if _, problem := n.read(append(list, "a")); problem == "" {
		t.Errorf("%d names are taken", len(list)+1)
	}
}
