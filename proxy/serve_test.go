package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"svc-wallet/wallet"
)

// TestPayment follows money through every wallet route with a well-behaved client, by the whole
// sidecar over TLS and a real node, and checks each body and header.
func TestPayment(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "acc_1", 1000)

	paid := r.call(c, "POST", "/v1/transfer", r.transfer("acc_1", "acc_2", 400, 1), "Idempotency-Key", `"k-1"`, "X-Corr-ID", "my-corr")
	if paid.status != 200 || paid.header.Get("X-Corr-ID") != "my-corr" || paid.header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("transfer: %d %s %v", paid.status, paid.body, paid.header)
	}
	receipt, err := wallet.VerifyReceipt(paid.body)
	if err != nil || receipt.Idem.String() != "k-1" {
		t.Fatalf("receipt %s: %v", paid.body, err)
	}
	again := r.call(c, "POST", "/v1/transfer", r.transfer("acc_1", "acc_2", 400, 1), "Idempotency-Key", "k-1")
	if again.status != 200 || !bytes.Equal(again.body, paid.body) || again.header.Get("Idempotency-Replayed") != "true" ||
		again.header.Get("X-Ledger-Seq") != paid.header.Get("X-Ledger-Seq") {
		t.Fatalf("replay: %d %s %v", again.status, again.body, again.header)
	}
	found := r.call(c, "GET", "/v1/tx/"+receipt.TxID.String(), "")
	if found.status != 200 || !bytes.Equal(found.body, paid.body) || found.header.Get("X-Ledger-Seq") == "" {
		t.Fatalf("tx: %d %s %v", found.status, found.body, found.header)
	}
	burned := r.call(c, "POST", "/v1/burn", `{"from":"acc_1","asset":"ron","amount_minor":"100","nonce":2}`)
	if burned.status != 200 {
		t.Fatalf("burn: %d %s", burned.status, burned.body)
	}
	for account, want := range map[string]string{"acc_1": "500/2", "acc_2": "400/0", "nobody": "0/0"} {
		a := r.call(c, "GET", "/v1/balance?account="+account+"&asset=ron", "", "X-Min-Ledger-Seq", burned.header.Get("X-Ledger-Seq"))
		var b struct {
			Account, Asset string
			Amount         string `json:"amount_minor"`
			AsOf           string `json:"as_of"`
			Stale          int    `json:"stale_ms"`
			Nonce          uint64
		}
		if err := json.Unmarshal(a.body, &b); err != nil || a.status != 200 || a.header.Get("X-Ledger-Seq") == "" {
			t.Fatalf("balance: %d %s %v", a.status, a.body, a.header)
		}
		if fmt.Sprintf("%s/%d", b.Amount, b.Nonce) != want || b.Account != account || b.Asset != "ron" || b.Stale > 250 || len(b.AsOf) != 24 {
			t.Errorf("%s: %s, want %s", account, a.body, want)
		}
	}
	for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"ready":true,"degraded":false,"missing":[],"retry_after":0,` +
		`"cfg_loaded":true,"listener_bound":true,"ledger_ready":true,"auth_ready":true,"policy_ready":true,"queue_ok":true,` +
		`"breaker":[{"svc":"ledger","state":"closed"}]}`} {
		if a := r.call(c, "GET", path, "", "Authorization", ""); a.status != 200 || string(a.body) != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if ids := r.call(c, "GET", "/healthz", "").header["X-Corr-Id"]; len(ids) != 1 || len(ids[0]) != 26 {
		t.Errorf("a made correlation id is a ULID, got %v", ids)
	}
	for series, want := range map[string]string{
		`wallet_requests_total{op="transfer"}`:                                 "2",
		`wallet_idem_replays_total`:                                            "1",
		`http_requests_total{method="POST",route="/v1/transfer",status="200"}`: "2", // OK and Replayed
		`request_latency_seconds_count{method="GET",route="/v1/balance"}`:      "3",
		`inflight_requests{route="/v1/balance"}`:                               "0",
		`upstream_calls_total{op="commit",outcome="ok",svc="ledger"}`:          "3",
		`circuit_state{svc="ledger"}`:                                          "0",
		`auth_failures_total{stage="missing"}`:                                 "0",
	} {
		if got := r.metric(series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	if _, text := r.adminGet("/metrics"); strings.Contains(text, "acc_1") {
		t.Error("a metric names an account")
	}
}
