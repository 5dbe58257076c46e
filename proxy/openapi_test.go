package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"svc-wallet/bench/apicheck"
	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

// api holds each answer of this package's tests that comes through rig.call against the document.
var api = sync.OnceValue(func() *apicheck.Checker {
	c, err := apicheck.Load("../docs/openapi.yaml")
	if err != nil {
		panic(err)
	}
	return c
})

// TestOpenAPI brings about every answer of every operation in docs/openapi.yaml, over TLS with the
// real parts: each status with each code and each schema. What the document promises and nothing
// brings about is a failure, as is an answer that it does not allow.
func TestOpenAPI(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LEDGER_RETRIES=0", "SVC_WALLET_BREAKER_ERRORS=10000", "SVC_WALLET_READ_TIMEOUT=1s"}})
	doc, err := apicheck.Load("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := r.client()
	c.Transport = doc.Transport(c.Transport, func(err error) { t.Error(err) })
	reset := func() { r.live.Store(r.cfg.Limits()); r.ledger.commit.Store(nil); r.ledger.read.Store(nil) }
	under := func(f func(*config.Limits), do func()) { reset(); r.limit(f); do(); reset() }
	nobody := r.mint("actions = read,issue,transfer,burn", "accounts = nobody", "assets = *")
	unread := r.mint("actions = burn", "accounts = *", "assets = *")
	r.issueTo(c, "a", 1000)

	nonce := 100
	bodies := map[string]func(amount int) string{
		"issue": func(n int) string {
			return fmt.Sprintf(`{"to":"a","asset":"ron","amount_minor":"%d","nonce":%d}`, n, nonce)
		},
		"transfer": func(n int) string { return r.transfer("a", "b", uint64(n), uint64(nonce)) },
		"burn": func(n int) string {
			return fmt.Sprintf(`{"from":"a","asset":"ron","amount_minor":"%d","nonce":%d}`, n, nonce)
		},
	}
	gets := []string{"/v1/balance?account=a&asset=ron"}
	for op, body := range bodies {
		path := "/v1/" + op
		post := func(amount int, header ...string) answer {
			nonce++
			return r.call(c, "POST", path, body(amount), header...)
		}
		receipt, err := wallet.VerifyReceipt(post(1, "Idempotency-Key", "k-"+op).body)
		if err != nil {
			t.Fatal(err)
		}
		gets = append(gets, "/v1/tx/"+receipt.TxID.String(), "/v1/tx?account=a&idem=k-"+op)
		post(2, "Idempotency-Key", "k-"+op)        // KEY_REUSED
		r.call(c, "POST", path, body(1))           // the nonce may be spent or not
		r.call(c, "POST", path, body(1))           // NONCE_CONFLICT
		post(1, "Idempotency-Key", "")             // BAD_REQUEST
		post(1, "Authorization", "")               // UNAUTHORIZED
		post(1, "Authorization", "Bearer "+nobody) // FORBIDDEN
		post(1, "Content-Type", "text/plain")      // UNSUPPORTED_MEDIA_TYPE
		if op != "issue" {
			post(1_000_000_000) // INSUFFICIENT_FUNDS
		}
		r.call(c, "GET", path, "") // METHOD_NOT_ALLOWED
		under(func(l *config.Limits) { l.MaxAmountPerOp = wallet.Amount{} }, func() { post(1) })
		under(func(l *config.Limits) { l.MaxBodyBytes = 1 }, func() { post(1) })
		r.callSlowly(c, path)
		under(func(l *config.Limits) { l.InFlight = 0 }, func() { post(1) })
		under(func(l *config.Limits) { l.RatePerSecond = 0 }, func() { post(1) })
		for _, err := range []error{context.DeadlineExceeded, ledger.ErrNotSent} {
			r.failCommits(err)
			post(1)
			reset()
		}
		r.server.SetWritable(func() bool { return false })
		post(1)
		r.server.SetWritable(func() bool { return true })
		under(func(l *config.Limits) { l.WritesEnabled = 0 }, func() { post(1) })
	}
	for _, path := range gets {
		r.call(c, "GET", path, "")
		r.call(c, "GET", path, "", "X-Min-Ledger-Seq", "x")
		r.call(c, "GET", path, "", "Authorization", "")
		r.call(c, "GET", path, "", "Authorization", "Bearer "+unread)
		r.call(c, "POST", path, "{}")
		under(func(l *config.Limits) { l.InFlight = 0 }, func() { r.call(c, "GET", path, "") })
		under(func(l *config.Limits) { l.RatePerSecond = 0 }, func() { r.call(c, "GET", path, "") })
		under(func(l *config.Limits) { l.ReadsEnabled = 0 }, func() { r.call(c, "GET", path, "") })
		under(func(l *config.Limits) { l.RequestDeadline = 3e8 }, func() {
			r.call(c, "GET", path, "", "X-Min-Ledger-Seq", "18446744073709551615")
		})
	}
	r.call(c, "GET", "/v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV", "")
	r.call(c, "GET", "/v1/tx?account=a&idem=never", "")
	away := errors.New("away")
	r.ledger.read.Store(&away)
	r.call(c, "GET", "/v1/balance?account=never&asset=ron", "")
	r.call(c, "GET", gets[1], "")
	r.call(c, "GET", gets[2], "")
	reset()
	for _, path := range []string{"/healthz", "/readyz"} {
		r.call(c, "GET", path, "")
		r.call(c, "GET", path, "", "Content_Length", "0")
		r.call(c, "POST", path, "{}")
	}
	r.stall(c)
	for path := range strings.FieldsSeq("/v1/issue /v1/transfer /v1/burn /v1/balance /v1/tx/x /v1/tx /healthz /readyz") {
		r.server.Replace(path, func(*filters.Exchange) wallet.Code { panic("a bug") })
	}
	r.server.SetWritable(func() bool { return true })
	for op, body := range bodies {
		nonce++
		r.call(c, "POST", "/v1/"+op, body(1))
	}
	for _, path := range append(gets, "/healthz", "/readyz") {
		r.call(c, http.MethodGet, path, "")
	}
	for _, missing := range doc.Missing() {
		t.Errorf("nothing brings about %s", missing)
	}
}

// callSlowly sends a head and never its body, which is answered with REQUEST_TIMEOUT.
func (r *rig) callSlowly(c *http.Client, path string) {
	r.t.Helper()
	never, end := io.Pipe()
	defer end.Close()
	req, err := http.NewRequest(http.MethodPost, "https://"+r.server.Addr().String()+path, never)
	if err != nil {
		r.t.Fatal(err)
	}
	req.ContentLength = 10
	req.Header.Set("Authorization", "Bearer "+r.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	if a := r.read(resp); a.status != http.StatusRequestTimeout {
		r.t.Errorf("%s without its body: %d %s", path, a.status, a.body)
	}
}
