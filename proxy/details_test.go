package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// TestLimitsExceededNamesTheLimit: a refusal for a limit says which limit it was, what would have
// passed and when that changes by itself, also whether another capability would do; what an account
// holds is told only to who may read it. Method: each limit in turn, over TLS with a real node.
func TestLimitsExceededNamesTheLimit(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1_000_000)
	r.issueTo(c, "full", 900)
	nonce := uint64(1)
	if a := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 60, nonce)); a.status != 200 {
		t.Fatal(a.status, string(a.body))
	}
	limits := func(f func(*config.Limits)) func() { return func() { r.limit(f) } }
	most := wallet.MaxAmount().String()
	left, _ := wallet.MaxAmount().Sub(wallet.Minor(1_000_900))
	token := func(caveats ...string) string {
		return r.mint(append([]string{"actions = transfer,issue", "accounts = rich", "assets = *"}, caveats...)...)
	}
	midnight := func(v any) bool {
		at, err := time.Parse(time.RFC3339, fmt.Sprint(v))
		left := at.Sub(time.Unix(0, r.clock.now()))
		return err == nil && at.Equal(at.UTC().Truncate(24*time.Hour)) && left > 0 && left <= 24*time.Hour
	}
	for _, tc := range []struct {
		name, body, token string
		before            func()
		want              map[string]any // of details, besides resets_at
		resets            bool
	}{
		{"operation", r.transfer("rich", "x", 101, 2), r.token, limits(func(c *config.Limits) { c.MaxAmountPerOp = wallet.Minor(100) }), map[string]any{"limit": "max_amount_per_op", "remaining": "100"}, false},
		{"token's operation", r.transfer("rich", "x", 100, 2), token("max_amount = 99"), nil, map[string]any{"limit": "token_max_amount", "remaining": "99"}, false},
		{"day", r.transfer("rich", "x", 41, 2), r.token, limits(func(c *config.Limits) { c.DailyCeiling = wallet.Minor(100) }), map[string]any{"limit": "daily_ceiling", "remaining": "40"}, true},
		{"token's day", r.transfer("rich", "x", 41, 2), token("daily = 100"), nil, map[string]any{"limit": "token_daily", "remaining": "40"}, true},
		{"the smaller day", r.transfer("rich", "x", 41, 2), token("daily = 100"), limits(func(c *config.Limits) { c.DailyCeiling = wallet.Minor(99) }), map[string]any{"limit": "daily_ceiling", "remaining": "39"}, true},
		{"on no day", r.transfer("rich", "x", 101, 2), token("daily = 100"), nil, map[string]any{"limit": "token_daily"}, false},
		{"total", r.transfer("rich", "full", 101, 2), r.token, limits(func(c *config.Limits) { c.MaxAccountTotal = wallet.Minor(1000) }), map[string]any{"limit": "max_account_total", "remaining": "100"}, false},
		{"total of a stranger", r.transfer("rich", "full", 101, 2), token(), limits(func(c *config.Limits) { c.MaxAccountTotal = wallet.Minor(1000) }), map[string]any{"limit": "max_account_total"}, false},
		{"total by itself", r.transfer("rich", "x", 101, 2), r.token, limits(func(c *config.Limits) { c.MaxAccountTotal = wallet.Minor(100) }), map[string]any{"limit": "max_account_total"}, false},
		{"supply", `{"to":"fresh","asset":"ron","amount_minor":"` + most + `","nonce":1}`, r.token, limits(func(c *config.Limits) {
			c.MaxAmountPerOp, c.DailyCeiling, c.MaxAccountTotal = wallet.MaxAmount(), wallet.MaxAmount(), wallet.MaxAmount()
		}), map[string]any{"limit": "asset_supply", "remaining": left.String()}, false},
		{"body", r.transfer("rich", "x", 1, 2), r.token, limits(func(l *config.Limits) { l.MaxBodyBytes = 10 }), map[string]any{"limit": "max_body_bytes"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r.live.Store(r.cfg.Limits())
			if tc.before != nil {
				tc.before()
			}
			path := "/v1/transfer"
			if strings.HasPrefix(tc.body, `{"to"`) {
				path = "/v1/issue"
			}
			a := r.call(c, "POST", path, tc.body, "Authorization", "Bearer "+tc.token)
			p := a.problem(t)
			if p.Code != "LIMITS_EXCEEDED" {
				t.Fatalf("%d %s", a.status, a.body)
			}
			resets, told := p.Details["resets_at"]
			if told != tc.resets || told && !midnight(resets) {
				t.Errorf("resets at %v", resets)
			}
			delete(p.Details, "resets_at")
			if !reflect.DeepEqual(p.Details, tc.want) {
				t.Errorf("details %v, want %v", p.Details, tc.want)
			}
			if strings.Contains(p.Message, "by itself") || p.Message == wallet.LimitsExceeded.When() {
				t.Errorf("the message does not say which limit: %s", p.Message)
			}
		})
	}
}

// TestNonceConflictSaysWhy: a refused nonce is told apart: spent, beyond the gap, or none left.
// (The one that another request holds is in package filters.)
func TestNonceConflictSaysWhy(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_WALLET_NONCE_MAX_GAP=1000"}})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	pay := func(nonce uint64) answer { return r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, nonce)) }
	if a := pay(5); a.status != 200 {
		t.Fatal(a.status, string(a.body))
	}
	messages := map[string]bool{}
	for _, tc := range []struct {
		nonce uint64
		want  map[string]any
	}{
		{5, map[string]any{"reason": "too_low", "next_nonce": 6.0}},
		{1, map[string]any{"reason": "too_low", "next_nonce": 6.0}},
		{1006, map[string]any{"reason": "beyond_gap", "next_nonce": 6.0}},
		{math.MaxUint64, map[string]any{"reason": "beyond_gap", "next_nonce": 6.0}},
	} {
		p := pay(tc.nonce).problem(t)
		if p.Code != "NONCE_CONFLICT" || !reflect.DeepEqual(p.Details, tc.want) {
			t.Errorf("%d: %s %v, want %v", tc.nonce, p.Code, p.Details, tc.want)
		}
		messages[p.Message] = true
	}
	if len(messages) != 2 {
		t.Errorf("the messages are %v", messages)
	}

	r = newRig(t, rigOptions{env: []string{"SVC_WALLET_WALLET_NONCE_MAX_GAP=9223372036854775807"}})
	c = r.client()
	r.issueTo(c, "rich", 1000)
	for _, nonce := range []uint64{math.MaxInt64, math.MaxUint64 - 1, math.MaxUint64} {
		if a := pay(nonce); a.status != 200 {
			t.Fatal(a.status, string(a.body))
		}
	}
	if p := pay(7).problem(t); p.Code != "NONCE_CONFLICT" || !reflect.DeepEqual(p.Details, map[string]any{"reason": "lane_ended"}) {
		t.Errorf("after the last nonce: %s %v", p.Code, p.Details)
	}
}

// TestReadSaysThatItOutranTheLedger: a read that asks for a version which the ledger has not reached
// says so and where the ledger is, and where that version is far away it does not wait.
func TestReadSaysThatItOutranTheLedger(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LIMITS_REQUEST_DEADLINE=30s"}})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	paid := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 1), "Idempotency-Key", "k")
	receipt, err := wallet.VerifyReceipt(paid.body)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/balance?account=rich&asset=ron", "/v1/balance?account=never&asset=ron", "/v1/tx/" + receipt.TxID.String(), "/v1/tx?account=rich&idem=k"} {
		for _, seq := range []string{"3", "18446744073709551615"} {
			p := r.call(c, "GET", path, "", "X-Min-Ledger-Seq", seq).problem(t)
			if p.Code != "RETRY_LATER" || !p.Retryable || !reflect.DeepEqual(p.Details, map[string]any{"ledger_seq": 2.0}) || !strings.Contains(p.Message, "X-Min-Ledger-Seq") {
				t.Errorf("%s, version %s: %+v", path, seq, p)
			}
		}
		if a := r.call(c, "GET", path, "", "X-Min-Ledger-Seq", paid.header.Get("X-Ledger-Seq")); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// TestPaymentByKey: who knows the account and the key finds the payment, by either form of the key,
// with the very bytes of the receipt, also where the sidecar has forgotten it; nobody else does.
func TestPaymentByKey(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	pay := func(key string, nonce uint64) []byte {
		a := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "poor", 1, nonce), "Idempotency-Key", key)
		if a.status != 200 {
			t.Fatal(a.status, string(a.body))
		}
		return a.body
	}
	find := func(c *http.Client, account, key string, header ...string) answer {
		return r.call(c, "GET", "/v1/tx?account="+account+"&idem="+url.QueryEscape(key), "", header...)
	}
	bare, odd := pay("k-1", 1), pay(`"a\"b+c&d=%41"`, 2)
	for key, want := range map[string][]byte{"k-1": bare, `"k-1"`: bare, `"a\"b+c&d=%41"`: odd} {
		a := find(c, "rich", key)
		if a.status != 200 || !bytes.Equal(a.body, want) || a.header.Get("X-Ledger-Seq") == "" || a.header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%s: %d %s, want %s", key, a.status, a.body, want)
		}
	}
	bearer := func(caveats ...string) string { return "Bearer " + r.mint(caveats...) }
	for name, tc := range map[string]struct {
		a      answer
		status int
	}{
		"no such key":        {find(c, "rich", "k-2"), 404},
		"the payee's scope":  {find(c, "poor", "k-1"), 404},
		"another asset":      {find(c, "rich", "k-1", "Authorization", bearer("actions = read", "accounts = rich", "assets = eur")), 404},
		"another account":    {find(c, "rich", "k-1", "Authorization", bearer("actions = read", "accounts = poor", "assets = *")), 403},
		"no reader":          {find(c, "rich", "k-1", "Authorization", bearer("actions = transfer", "accounts = rich", "assets = *")), 403},
		"its reader":         {find(c, "rich", "k-1", "Authorization", bearer("actions = read", "accounts = rich", "assets = ron")), 200},
		"no key":             {r.call(c, "GET", "/v1/tx?account=rich&idem=", ""), 400},
		"key without value":  {r.call(c, "GET", "/v1/tx?account=rich&idem", ""), 400},
		"unfit key":          {find(c, "rich", "a b"), 400},
		"key only":           {r.call(c, "GET", "/v1/tx?idem=k-1", ""), 400},
		"two keys":           {r.call(c, "GET", "/v1/tx?account=rich&idem=k-1&idem=k-1", ""), 400},
		"an asset":           {r.call(c, "GET", "/v1/tx?account=rich&asset=ron", ""), 400},
		"nothing":            {r.call(c, "GET", "/v1/tx", ""), 400},
		"a slash":            {r.call(c, "GET", "/v1/tx/?account=rich&idem=k-1", ""), 404},
		"a payment's method": {r.call(c, "POST", "/v1/tx?account=rich&idem=k-1", "{}"), 405},
	} {
		if tc.a.status != tc.status {
			t.Errorf("%s: %d %s, want %d", name, tc.a.status, tc.a.body, tc.status)
		}
	}
	if n := r.metric(`http_requests_total{method="GET",route="/v1/tx",status="404"}`); n != "3" {
		t.Errorf("%s answers 404 are counted, want 3", n)
	}
}

// TestKeyOutlivesTheTable: a repeat after the sidecar's own table has forgotten the key gets the first
// receipt from the ledger, and is paid once; so does a client that renews the nonce as errors.md says.
// Method: an answer that is lost, and a clock that goes past idempotency_ttl.
func TestKeyOutlivesTheTable(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_WALLET_IDEMPOTENCY_TTL=1m"}})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	pay := func(nonce uint64) answer {
		return r.call(c, "POST", "/v1/transfer", r.transfer("rich", "poor", 10, nonce), "Idempotency-Key", "k")
	}
	first := pay(1)
	if first.status != 200 {
		t.Fatal(first.status, string(first.body))
	}
	for range 3 {
		r.clock.ahead.Add(int64(100 * time.Second))
		r.eventually("the ledger answers again", func() bool { return r.call(c, "GET", "/readyz", "").status == 200 })
		if a := pay(1); a.status != 200 || !bytes.Equal(a.body, first.body) || a.header.Get("Idempotency-Replayed") != "true" {
			t.Fatalf("%d %s, the receipt was %s", a.status, a.body, first.body)
		}
		if a := pay(2); a.status != 422 {
			t.Fatalf("the nonce was renewed under the same key: %d %s", a.status, a.body)
		}
	}
	if a := r.call(c, "GET", "/v1/balance?account=poor&asset=ron", ""); !bytes.Contains(a.body, []byte(`"amount_minor":"10"`)) {
		t.Errorf("paid once, and the balance is %s", a.body)
	}
}

// TestRecoveredClock: after a clock that was 400 days ahead is right again, tokens are judged and figures
// are dated by the right time, at once and without a restart.
func TestRecoveredClock(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	r.clock.ahead.Add(int64(400 * 24 * time.Hour))
	read := func() answer { return r.call(c, "GET", "/v1/balance?account=rich&asset=ron", "") }
	if a := read(); a.status != 401 {
		t.Fatalf("a token that has expired by the wrong clock: %d %s", a.status, a.body)
	}
	r.clock.skew.Add(-int64(400 * 24 * time.Hour))
	a := read()
	var figure struct {
		AsOf  time.Time `json:"as_of"`
		Stale int64     `json:"stale_ms"`
	}
	if err := json.Unmarshal(a.body, &figure); err != nil || a.status != 200 {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	if off := time.Since(figure.AsOf).Abs(); off > time.Hour || figure.Stale > 3_600_000 {
		t.Errorf("dated %v, which is %v off, and %d ms old", figure.AsOf, off, figure.Stale)
	}
	if doubted, adopted := r.metric(`clock_steps_total{outcome="doubted"}`), r.metric(`clock_steps_total{outcome="adopted"}`); doubted != "5" || adopted != "3" {
		t.Errorf("%s steps doubted, %s adopted", doubted, adopted)
	}
}
