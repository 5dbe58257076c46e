package proxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"svc-wallet/bench/hostile"
	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/ledger"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// limit changes the limits in force for the rest of the test, or until the next call.
func (r *rig) limit(f func(*config.Limits)) {
	l := *r.cfg.Limits()
	f(&l)
	r.live.Store(&l)
}

func (r *rig) failCommits(err error) {
	f := func([]wallet.Payment) error { return err }
	r.ledger.commit.Store(&f)
}

// TestCodes brings about every code that a client can see, each over TLS with the real parts, and
// checks its status, headers and body against the code's own table.
func TestCodes(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LEDGER_RETRIES=0", "SVC_WALLET_BREAKER_OPEN=30s"}})
	c := r.client()
	r.issueTo(c, "rich", 1_000_000)
	paid := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 5), "Idempotency-Key", "used")
	receipt, err := wallet.VerifyReceipt(paid.body)
	if err != nil {
		t.Fatal(err)
	}
	reader := r.mint("actions = read", "accounts = rich", "assets = *")
	stranger := r.mint("actions = read", "accounts = stranger", "assets = *")
	pay := func(body string, header ...string) func() answer {
		return func() answer { return r.call(c, "POST", "/v1/transfer", body, header...) }
	}
	get := func(path string, header ...string) func() answer {
		return func() answer { return r.call(c, "GET", path, "", header...) }
	}
	good := r.transfer("rich", "x", 1, 100)
	slow := newRig(t, rigOptions{env: []string{"SVC_WALLET_READ_TIMEOUT=500ms"}})
	reset := func() { r.live.Store(r.cfg.Limits()); r.ledger.commit.Store(nil); r.ledger.read.Store(nil) }
	seen := map[wallet.Code]bool{}

	for _, tc := range []struct {
		name   string
		code   wallet.Code
		before func()
		do     func() answer
		header map[string]string
	}{
		{"paid", wallet.OK, nil, pay(r.transfer("rich", "x", 1, 6)), nil},
		{"same key and request", wallet.Replayed, nil, pay(r.transfer("rich", "x", 1, 5), "Idempotency-Key", "used"), map[string]string{"Idempotency-Replayed": "true"}},
		{"no key", wallet.BadRequest, nil, pay(good, "Idempotency-Key", ""), nil},
		{"unknown member", wallet.BadRequest, nil, pay(`{"nope":1}`), nil},
		{"unfit min seq", wallet.BadRequest, nil, get("/v1/balance?account=rich&asset=ron", "X-Min-Ledger-Seq", "-1"), nil},
		{"min seq over 64 bits", wallet.BadRequest, nil, get("/v1/balance?account=rich&asset=ron", "X-Min-Ledger-Seq", "18446744073709551616"), nil},
		{"query parameter twice", wallet.BadRequest, nil, get("/v1/balance?account=rich&asset=ron&asset=ron"), nil},
		{"query parameter unknown", wallet.BadRequest, nil, get("/v1/balance?account=rich&asset=ron&x=1"), nil},
		{"query of a transaction", wallet.BadRequest, nil, get("/v1/tx/" + receipt.TxID.String() + "?a=b"), nil},
		{"no token", wallet.Unauthorized, nil, get("/v1/balance?account=rich&asset=ron", "Authorization", ""), map[string]string{"Www-Authenticate": "Bearer"}},
		{"basic", wallet.Unauthorized, nil, get("/v1/balance?account=rich&asset=ron", "Authorization", "Basic eDp5"), nil},
		{"reader pays", wallet.Forbidden, nil, pay(good, "Authorization", "bearer "+reader), nil},
		{"over the cap", wallet.LimitsExceeded, func() { r.limit(func(l *config.Limits) { l.MaxAmountPerOp = wallet.Minor(0) }) }, pay(good), nil},
		{"body over the cap", wallet.BodyTooLarge, func() { r.limit(func(l *config.Limits) { l.MaxBodyBytes = 10 }) }, pay(good), nil},
		{"no route", wallet.NotFound, nil, get("/v2/balance"), nil},
		{"no transaction", wallet.NotFound, nil, get("/v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV"), nil},
		{"not my transaction", wallet.NotFound, nil, get("/v1/tx/"+receipt.TxID.String(), "Authorization", "Bearer "+stranger), nil},
		{"method", wallet.MethodNotAllowed, nil, get("/v1/transfer"), map[string]string{"Allow": "POST"}},
		{"options", wallet.MethodNotAllowed, nil, func() answer { return r.call(c, "OPTIONS", "/v1/balance", "") }, map[string]string{"Allow": "GET"}},
		{"text", wallet.UnsupportedMediaType, nil, pay(good, "Content-Type", "text/plain"), nil},
		{"latin", wallet.UnsupportedMediaType, nil, pay(good, "Content-Type", "application/json; charset=latin1"), nil},
		{"brotli", wallet.UnsupportedMediaType, nil, pay(good, "Content-Encoding", "br"), nil},
		{"too poor", wallet.InsufficientFunds, nil, pay(r.transfer("poor", "x", 1, 1)), nil},
		{"nonce spent", wallet.NonceConflict, nil, pay(r.transfer("rich", "x", 1, 5)), nil},
		{"key of another request", wallet.KeyReused, nil, pay(good, "Idempotency-Key", "used"), nil},
		{"too slow", wallet.RequestTimeout, nil, func() answer {
			return slow.send("POST /v1/burn HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\nAuthorization: Bearer " + slow.token + "\r\n\r\nabc")
		}, nil},
		{"in flight", wallet.Busy, func() { r.limit(func(l *config.Limits) { l.InFlight = 0 }) }, pay(good), nil},
		{"switched off", wallet.RetryLater, func() { r.limit(func(l *config.Limits) { l.ReadsEnabled = 0 }) }, get("/v1/balance?account=rich&asset=ron"), nil},
		{"rate", wallet.RateLimited, func() { r.limit(func(l *config.Limits) { l.RatePerSecond = 0 }) }, pay(good), map[string]string{"X-Ratelimit-Limit": "0", "X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "1"}},
		{"commit times out", wallet.Uncertain, func() { r.failCommits(context.DeadlineExceeded) }, pay(good), nil},
		{"node is away", wallet.UpstreamUnavailable, func() { r.failCommits(ledger.ErrNotSent) }, pay(good), nil},
		{"damaged receipt", wallet.Unreadable, func() { r.ledger.read.Store(&wire.ErrDamaged) }, get("/v1/tx/" + receipt.TxID.String()), nil},
		{"panic", wallet.Internal, func() {
			r.server.Replace("/healthz", func(*filters.Exchange) wallet.Code { panic("a bug with a secret") })
		}, get("/healthz"), nil},
		{"clock moved on: the ledger seems to stall", wallet.RetryLater, func() { r.stall(c) }, pay(good), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reset()
			if tc.before != nil {
				tc.before()
			}
			a := tc.do()
			seen[tc.code] = true
			if a.status != tc.code.HTTP() {
				t.Fatalf("%d %s, want %v", a.status, a.body, tc.code)
			}
			for name, want := range tc.header {
				if a.header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, a.header.Get(name), want)
				}
			}
			if tc.code.Outcome() == wallet.Applied {
				return
			}
			p := a.problem(t)
			if p.Code != tc.code.Name() || p.Retryable != tc.code.Retryable() {
				t.Fatalf("%s, want %v", a.body, tc.code)
			}
			switch tc.code {
			case wallet.NonceConflict:
				if p.Details["next_nonce"] != 7.0 || p.Details["reason"] != "too_low" {
					t.Errorf("details %v, want next_nonce 7", p.Details)
				}
			case wallet.LimitsExceeded, wallet.BodyTooLarge:
				if p.Details["limit"] == nil {
					t.Errorf("details %v, want a limit", p.Details)
				}
			case wallet.Uncertain:
				if p.Details["outcome"] != "unknown" {
					t.Errorf("details %v, want outcome unknown", p.Details)
				}
			default:
				if p.Details != nil {
					t.Errorf("details %v, want none", p.Details)
				}
			}
		})
	}
	reset()
	for _, code := range wallet.Codes() {
		if !seen[code] {
			t.Errorf("no case brings about %d %v", code, code)
		}
	}
	if strings.Contains(r.logged.String(), r.token) || !strings.Contains(r.logged.String(), "handler_panicked") {
		t.Error("the log holds a token, or not the panic")
	}
	if got := r.metric(`service_restarts_total{kind="handler"}`); got != "1" {
		t.Errorf("%s panics counted, want 1", got)
	}
}

// stall makes the ledger seem to stall: the node ends, so ticks stay unanswered.
func (r *rig) stall(c *http.Client) {
	r.node()
	r.eventually("/readyz is 503", func() bool { return r.call(c, "GET", "/readyz", "").status == 503 })
}

// TestPrecedence sends one request that is wrong in every way and then mends it, fault by fault,
// from the first to the last in CONTRACT §1's order: each time the first fault left must answer.
// A payment that is held in the ledger keeps the only worker, so that the queue can be full.
func TestPrecedence(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{
		"SVC_WALLET_LEDGER_RETRIES=0", "SVC_WALLET_WORKERS=1", "SVC_WALLET_LEDGER_TIMEOUT=30s", "SVC_WALLET_LIMITS_REQUEST_DEADLINE=30s",
		"SVC_WALLET_AUTH_STRANGERS_PER_SECOND=1",
	}})
	c := r.client()
	r.issueTo(c, "rich", 50)
	if a := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 9), "Idempotency-Key", "used"); a.status != 200 {
		t.Fatal(a)
	}
	r.issueTo(c, "other", 1)
	begun, proceed := make(chan struct{}), make(chan struct{})
	hold := func([]wallet.Payment) error { close(begun); <-proceed; return nil }
	r.ledger.commit.Store(&hold)
	held := make(chan answer, 1)
	go func() { held <- r.call(c, "POST", "/v1/transfer", r.transfer("other", "x", 1, 1)) }()
	<-begun
	release := func() {
		r.ledger.commit.Store(nil)
		close(proceed)
		if a := <-held; a.status != 200 {
			t.Errorf("the payment that was held: %d %s", a.status, a.body)
		}
	}
	ready := true
	r.server.SetWritable(func() bool { return ready })

	// The request's parts and the state around it; each starts wrong.
	method, path := "PUT", "/v1/nope"
	twin, media, body := "Content_Length: 5\r\n", "text/plain", `{"nope":1}`
	token, key := "", "used"
	limits := func(l *config.Limits) {
		l.MaxBodyBytes, l.InFlight, l.RatePerSecond = 1, 0, 0
		l.RouteEnabled[wallet.RouteTransfer] = 0
		l.SubjectRate, l.SubjectBurst = 0, 1
		l.MaxAmountPerOp, l.Queue, l.DailyCeiling = wallet.Minor(1), 0, wallet.Minor(1000)
	}
	lim := *r.cfg.Limits()
	limits(&lim)
	ready = false

	good := *r.cfg.Limits()
	send := func() answer {
		l := lim
		r.live.Store(&l)
		return r.send(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n" + twin + "Authorization: Bearer " + token +
			"\r\nContent-Type: " + media + "\r\nIdempotency-Key: " + key + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	}
	var later []string // what the answers say that have one code in common
	for _, step := range []struct {
		code wallet.Code
		mend func()
	}{
		{wallet.NotFound, func() { path = "/v1/transfer" }},
		{wallet.MethodNotAllowed, func() { method = "POST" }},
		{wallet.BadRequest, func() { twin = "" }}, // framing
		{wallet.BodyTooLarge, func() { lim.MaxBodyBytes = good.MaxBodyBytes }},
		{wallet.UnsupportedMediaType, func() { media = "application/json" }},
		{wallet.RetryLater, func() { ready = true }},
		{wallet.RetryLater, func() { lim.RouteEnabled = good.RouteEnabled }}, // switched off
		{wallet.Busy, func() { lim.InFlight = good.InFlight }},
		{wallet.Unauthorized, func() {
			for tries := 0; send().status != wallet.RateLimited.HTTP(); tries++ { // a slow machine may need several
				if tries == 1000 {
					t.Fatal("the strangers' bucket never ran empty")
				}
			}
			token = r.mint("actions = transfer", "accounts = other", "assets = *")
		}},
		{wallet.RateLimited, func() { lim.RatePerSecond = good.RatePerSecond }},   // of all clients
		{wallet.RateLimited, func() { lim.SubjectRate, lim.SubjectBurst = 0, 0 }}, // of the subject
		{wallet.BadRequest, func() { body = r.transfer("rich", "x", 1000, 9) }},   // decoding
		{wallet.Forbidden, func() { token = r.token }},
		{wallet.LimitsExceeded, func() { lim.MaxAmountPerOp = good.MaxAmountPerOp }},
		{wallet.KeyReused, func() { key = "fresh" }},
		{wallet.Busy, func() { lim.Queue = good.Queue; release() }},                 // the queue
		{wallet.NonceConflict, func() { body = r.transfer("rich", "x", 1000, 10) }}, // the ledger's, from here on
		{wallet.LimitsExceeded, func() { lim.DailyCeiling = good.DailyCeiling }},    // 1,001 in a day
		{wallet.InsufficientFunds, func() { body = r.transfer("rich", "x", 10, 11); key = "fresh2" }},
		{wallet.OK, func() {}},
	} {
		a := send()
		want := step.code
		if a.status != want.HTTP() || (want != wallet.OK && a.problem(t).Code != want.Name()) {
			t.Fatalf("%d %s, want %v", a.status, a.body, want)
		}
		if want == wallet.RetryLater || want == wallet.Busy {
			later = append(later, a.problem(t).Message)
		}
		step.mend()
	}
	for i, part := range []string{"the ledger", "is switched off", "are under way", "the work queue is full"} {
		if len(later) != 4 || !strings.Contains(later[i], part) {
			t.Errorf("%q does not say %q", later, part)
		}
	}
}

// TestGzip sends compressed bodies: a payment, a bomb, and one that claims to be gzip. The bomb
// must be refused by its ratio.
func TestGzip(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 50)
	zip := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(s))
		_ = w.Close()
		return b.String()
	}
	for _, tc := range []struct {
		name, body string
		status     int
	}{
		{"payment", zip(r.transfer("rich", "x", 1, 1)), 200},
		{"bomb", zip(strings.Repeat(" ", 4<<20)), 400},
		{"not gzip", r.transfer("rich", "x", 1, 2), 400},
		{"cut", zip(r.transfer("rich", "x", 1, 2))[:40], 400},
	} {
		if a := r.call(c, "POST", "/v1/transfer", tc.body, "Content-Encoding", "gzip"); a.status != tc.status {
			t.Errorf("%s: %d %s, want %d", tc.name, a.status, a.body, tc.status)
		}
	}
}

// TestGzipThatPutsOutNothing: 1 MiB of empty blocks is refused for what it is before it is decompressed,
// and for the token where that could not pay anyhow. Method: both, over HTTP.
func TestGzipThatPutsOutNothing(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	for _, b := range hostile.Gzip(1 << 20)[:3] {
		a := r.call(c, "POST", "/v1/transfer", string(b.Data), "Content-Encoding", "gzip")
		if a.status != 400 || !strings.Contains(a.problem(t).Message, "longer than its content") {
			t.Errorf("%s: %d %s", b.Name, a.status, a.body)
		}
		a = r.call(c, "POST", "/v1/transfer", string(b.Data), "Content-Encoding", "gzip",
			"Authorization", "Bearer "+r.mint("actions = read", "accounts = *"))
		if a.status != 403 {
			t.Errorf("%s, to read: %d %s", b.Name, a.status, a.body)
		}
	}
}

// TestUnknownOutcome loses the answer of a commit that the ledger did make: the client must read
// "unknown", and the same key must then bring the receipt, once.
func TestUnknownOutcome(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LEDGER_RETRIES=0"}})
	c := r.client()
	r.issueTo(c, "rich", 50)
	lost := errors.New("connection lost")
	f := func(batch []wallet.Payment) error {
		_ = r.ledger.Client.Commit(context.Background(), batch, make([]wallet.Result, len(batch)))
		return lost
	}
	r.ledger.commit.Store(&f)
	body := r.transfer("rich", "x", 20, 1)
	a := r.call(c, "POST", "/v1/transfer", body, "Idempotency-Key", "k")
	if p := a.problem(t); a.status != 503 || p.Details["outcome"] != "unknown" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.ledger.commit.Store(nil)
	again := r.call(c, "POST", "/v1/transfer", body, "Idempotency-Key", "k")
	if again.status != 200 || again.header.Get("Idempotency-Replayed") != "true" {
		t.Fatalf("%d %s %v", again.status, again.body, again.header)
	}
	b := r.call(c, "GET", "/v1/balance?account=rich&asset=ron", "", "X-Min-Ledger-Seq", again.header.Get("X-Ledger-Seq"))
	if !strings.Contains(string(b.body), `"amount_minor":"30"`) {
		t.Fatalf("paid twice or never: %s", b.body)
	}
}

// TestStaleMillis reads through a stall and checks that the figure's age is admitted: the node
// ends, the clock moves on, and the cached balance is served with its true age.
func TestStaleMillis(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 50)
	get := func() answer { return r.call(c, "GET", "/v1/balance?account=rich&asset=ron", "") }
	if a := get(); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.stall(c)
	r.clock.ahead.Add(int64(7 * time.Second))
	a := get()
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	var figure struct {
		Age int `json:"stale_ms"`
	}
	if err := json.Unmarshal(a.body, &figure); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	age := figure.Age
	if age < 7000 || age > 17000 {
		t.Errorf("stale_ms is %d after a stall of 7 s", age)
	}
	if a := r.call(c, "GET", "/readyz", ""); a.status != 503 || !bytes.Contains(a.body, []byte(`"degraded":true,"missing":["ledger_ready"]`)) {
		t.Errorf("readyz: %d %s", a.status, a.body)
	}
	if a := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 1)); a.status != 503 {
		t.Errorf("a payment during the stall: %d %s", a.status, a.body)
	}
}
