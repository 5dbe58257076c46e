package proxy_test

import (
	"errors"
	"strings"
	"testing"

	"svc-wallet/config"
	"svc-wallet/ledger"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// Goal: a 503 names the one thing that is in the way, in words that are true for a payment or for a
// read. Method: each obstacle in turn, from those that pass to those that stay.
func TestRefusalsNameTheirCause(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LEDGER_RETRIES=0", "SVC_WALLET_BREAKER_OPEN=30s"}})
	c := r.client()
	receipt, err := wallet.VerifyReceipt(r.issueTo(c, "rich", 1000).body)
	if err != nil {
		t.Fatal(err)
	}
	const payment, read = "; nothing was sent and nothing was done", "; nothing was found out, ask again"
	nonce := uint64(0)
	expect := func(name, code, cause string, reads bool) {
		t.Helper()
		nonce++
		paths := map[string]string{"/v1/transfer": payment}
		if reads {
			paths = map[string]string{
				"/v1/balance?account=poor&asset=ron": read, "/v1/tx/" + receipt.TxID.String(): read, "/v1/tx?account=rich&idem=k": read,
			}
		}
		for path, then := range paths {
			method, body := "GET", ""
			if !reads {
				method, body = "POST", r.transfer("rich", "x", 1, nonce)
			}
			p := r.call(c, method, path, body).problem(t)
			if p.Code != code || p.Message != cause+then {
				t.Errorf("%s: %s is told %s %q", name, path, p.Code, p.Message)
			}
		}
	}
	const down = "UPSTREAM_UNAVAILABLE"
	lost := errors.New("lost")
	r.ledger.read.Store(&lost)
	expect("no answer", down, "the ledger has not answered", true)
	r.ledger.read.Store(&wire.ErrDamaged)
	p := r.call(c, "GET", "/v1/tx/"+receipt.TxID.String(), "").problem(t)
	if p.Code != down || !strings.Contains(p.Message, "cannot be read from the ledger's store at present") {
		t.Errorf("damaged: %s %q", p.Code, p.Message)
	}
	r.failCommits(wire.ErrDamaged)
	p = r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 1)).problem(t)
	if p.Code != "RETRY_LATER" || !strings.Contains(p.Message, "cannot read at present whether this payment was made") {
		t.Errorf("a damaged payment: %s %q", p.Code, p.Message)
	}
	r.ledger.read.Store(nil)
	r.failCommits(ledger.ErrNotSent)
	expect("not sent", down, "the ledger has not taken this up", false)
	r.limit(func(l *config.Limits) { l.BreakerErrors = 1 })
	expect("the last failure", down, "calls of the ledger have failed, so it is given a pause (the breaker is open)", false)
	expect("breaker", down, "calls of the ledger have failed, so it is given a pause (the breaker is open)", true)
	r.stall(c)
	expect("node gone", "RETRY_LATER", "the ledger is away", false)
	expect("node gone", down, "the ledger is away", true)
}
