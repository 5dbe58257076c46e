package wallet_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"svc-wallet/wallet"
)

var update = flag.Bool("update", false, "write docs/errors.md")

const errorsDoc = "../docs/errors.md"

// TestErrorsDoc: docs/errors.md says what the code table says; with -update it is written, without it
// is compared.
func TestErrorsDoc(t *testing.T) {
	want := renderErrors()
	if *update {
		if err := os.WriteFile(errorsDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(errorsDoc)
	if err != nil || string(got) != want {
		t.Errorf("%s is stale (%v): go test ./wallet -run TestErrorsDoc -update", errorsDoc, err)
	}
}

func renderErrors() string {
	var b strings.Builder
	b.WriteString(errorsHead)
	codes := slices.DeleteFunc(wallet.Codes(), func(c wallet.Code) bool { return c.Outcome() == wallet.Applied })
	slices.SortStableFunc(codes, func(a, b wallet.Code) int { return a.HTTP() - b.HTTP() })
	for _, c := range codes {
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s | %s |\n", c.Name(), c.HTTP(), map[bool]string{true: "yes", false: "no"}[c.Retryable()], c.Outcome(), c.When())
	}
	b.WriteString(errorsGuide)
	return b.String()
}

const errorsHead = `<!-- Generated from wallet/code.go by "go test ./wallet -run TestErrorsDoc -update"; do not edit. -->
# Errors

Every answer that is not 200 has this body, whatever went wrong and wherever:

` + "```json" + `
{"code":"NONCE_CONFLICT","http":409,"message":"…","retryable":false,"corr_id":"01JC3Z5N8W7Y2QG4T6R9S0V1K0","details":{"next_nonce":43}}
` + "```" + `

Decide by ` + "`code`" + `, and for 503 by ` + "`details.outcome`" + `; ` + "`message`" + ` is for people and may change. ` + "`corr_id`" + `
equals the header ` + "`X-Corr-ID`" + ` and finds the request in every log. ` + "`details`" + ` is absent where there is
nothing more to say.

"Retryable" says that the very same request may succeed later; such an answer carries
` + "`Retry-After`" + ` in seconds. "Outcome" is what became of the money **in this attempt**: *refused* means
that this attempt moved nothing and never will, *unknown* means that it may have moved money or may
still do so.

| code | HTTP | retryable | outcome | when |
|---|---|---|---|---|
`

const errorsGuide = `
## What a client does

Make a key and a nonce for each payment, store both, and only then send. Then one rule covers every
fault: **until you hold a receipt or a refusal, repeat the same request: same key, same nonce, same
body.** A payment is made at most once, however often it is repeated. If it was made, the repeat gets
the receipt of the first time, byte for byte, with ` + "`Idempotency-Replayed: true`" + `.

| you got | do |
|---|---|
| no answer, a broken connection, 503 with ` + "`details.outcome`" + ` ` + "`unknown`" + `, or 500 | repeat **with the same key**. The payment may have been made. Never take a new key or nonce for it. If 500 stays, report ` + "`corr_id`" + ` and look at the balance and its ` + "`nonce`" + ` |
| 429, or 503 without ` + "`details.outcome`" + ` | wait for ` + "`Retry-After`" + `, and longer each time, with some jitter; then repeat with the same key |
| 400, 404, 405, 413 or 415 | change the request. The same one will never do |
| 401 | get a new capability, then repeat with the same key |
| 403 ` + "`FORBIDDEN`" + ` | get a capability that covers this action, account, asset and peer, then repeat with the same key |
| 403 ` + "`LIMITS_EXCEEDED`" + ` | pay less, or later (daily ceilings start anew at 00:00 UTC), or ask the operator; a smaller payment is a new one, with a new key, and only once no attempt of this one is unknown |
| 409 ` + "`INSUFFICIENT_FUNDS`" + ` | credit the account, then repeat with the same key and nonce: a refusal uses up neither |
| 409 ` + "`NONCE_CONFLICT`" + ` | see below |
| 422 | the key belongs to another request of this account. You changed a payment under its key, which is a bug in the client; or you renewed the nonce of a payment that was made after all: repeat it with its first nonce and you get its receipt |

## What a refusal does not say

A refusal speaks of the attempt that it answers. While an earlier attempt with the same key is
unknown:

- **401, 403 and 429 on the retry say nothing about the first attempt.** Capability, limits and rate
  are judged before the sidecar looks for the key, so a payment that was made may be answered with
  403 later because its token expired or a cap was lowered. It is not "failed": ask again once the
  obstacle is gone.
- 404, 405, 413 and 415, 400, and 503 without ` + "`details.outcome`" + ` say nothing about it either.
- A 200 settles it: paid. ` + "`INSUFFICIENT_FUNDS`" + ` settles it too: the ledger looked for the key first and
  did not find it, so the payment was not made. A late duplicate of the first attempt could still
  arrive, so go on with the same key, or with a higher nonce: once a higher nonce is committed, no
  duplicate of the lower one can ever be.
- ` + "`NONCE_CONFLICT`" + ` with ` + "`details.next_nonce`" + ` above your nonce: another payment of the account has spent
  your nonce or a higher one. The key is looked for first, so within its time to live (24 hours
  unless configured) your payment was not made and never will be with this nonce. Send it again
  with ` + "`next_nonce`" + ` **under the same key**: a refusal does not use up the key, and should you be wrong about
  the first attempt, the answer is 422 and not a second payment. After the time to live it may be
  your own payment that has spent the nonce: look into your receipts before you pay anew.
- ` + "`NONCE_CONFLICT`" + ` with ` + "`details.next_nonce`" + ` at or below your nonce: the nonce is further ahead than the ledger
  allows. Nothing was spent; go on in the same way.
- ` + "`NONCE_CONFLICT`" + ` without ` + "`details`" + `: the account has spent 2^64-1 and no nonce is left in this lane.

To look without sending, ask ` + "`GET /v1/tx/{txid}`" + ` if you know the id, or ` + "`GET /v1/balance`" + `: its ` + "`nonce`" + `
is the last one that the account spent by transfer or burn up to ` + "`as_of`" + `. If it is below yours, your
payment had not been made by then.
`
