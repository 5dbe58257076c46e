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
{"code":"NONCE_CONFLICT","http":409,"message":"…","retryable":false,"corr_id":"01JC3Z5N8W7Y2QG4T6R9S0V1K0","details":{"reason":"too_low","next_nonce":43}}
` + "```" + `

Decide by ` + "`code`" + `, and for 503 by ` + "`details.outcome`" + `; ` + "`message`" + ` is for people and may change. ` + "`corr_id`" + `
equals the header ` + "`X-Corr-ID`" + `, and is in the sidecar's log line of the request. Payments that were refused or are
unknown have such a line, and reads that ended in 5xx; where one second has very many of them, some are left out.
Payments that were made and other reads have one only at the level ` + "`debug`" + ` (but for one read in
` + "`log.sample_reads`" + `). ` + "`details`" + ` is absent where there is nothing more to say.

"Retryable" says that the very same request may succeed later; such an answer carries
` + "`Retry-After`" + ` in seconds. "Outcome" is what became of the money **in this attempt**: *refused* means
that this attempt moved nothing and never will, *unknown* means that it may have moved money or may
still do so.

| code | HTTP | retryable | outcome | when |
|---|---|---|---|---|
`

const errorsGuide = `
## What details say

| code | member | what it says |
|---|---|---|
| ` + "`RETRY_LATER`" + ` | ` + "`outcome`" + ` | ` + "`unknown`" + `: this attempt may have moved money, or may still do so. Absent: it did nothing |
| | ` + "`ledger_seq`" + ` | a read asked for a later version by ` + "`X-Min-Ledger-Seq`" + `; the ledger is at this one. A version that may be on its way is waited for, a second at most, by few reads at once |
| ` + "`NONCE_CONFLICT`" + ` | ` + "`reason`" + ` | ` + "`too_low`" + `: at or below the account's last one. ` + "`beyond_gap`" + `: further above it than is allowed (in contiguous mode: not the next one). ` + "`reserved`" + `: another request was under way with it, and has spent it. ` + "`lane_ended`" + `: the account has spent 2^64-1, and no nonce is left in this lane |
| | ` + "`next_nonce`" + ` | the lowest that will do; absent with ` + "`lane_ended`" + ` |
| ` + "`LIMITS_EXCEEDED`" + ` | ` + "`limit`" + ` | which one, see below |
| | ` + "`remaining`" + ` | the largest amount that the limit would have let through, a string. Absent where it is not known, or where it would tell what an account holds that the capability may not read |
| | ` + "`resets_at`" + ` | when the limit begins anew by itself. Absent where it does not, and where the amount is too large for any day |

| ` + "`limit`" + ` | what it bounds | what helps |
|---|---|---|
| ` + "`max_amount_per_op`" + ` | one operation | a smaller payment, or the operator |
| ` + "`daily_ceiling`" + ` | what the account moves of the asset on one UTC day, transfers and burns together, issues apart | ` + "`resets_at`" + `, a smaller payment, or the operator |
| ` + "`max_account_total`" + ` | what the credited account holds of the asset | a smaller payment, or the operator |
| ` + "`asset_supply`" + ` | what is issued of the asset in all: 2^128-1 | nothing |
| ` + "`token_max_amount`" + ` | one operation under this capability (` + "`max_amount`" + `) | another capability |
| ` + "`token_daily`" + ` | as ` + "`daily_ceiling`" + `: what the account has moved on the whole day, **by whichever capability**, at the moment when this one is used (` + "`daily`" + `) | ` + "`resets_at`" + `, or another capability |
| ` + "`max_body_bytes`" + ` | the body, before and after decompression (413) | a smaller body |

## What a client does

Make a key and a nonce for each payment, store both, and only then send. Then one rule covers every
fault: **until you hold a receipt or a refusal, repeat the same request: same key, same nonce, same
body.** A payment is made at most once, however often it is repeated. If it was made, the repeat gets
the receipt of the first time, byte for byte, with ` + "`Idempotency-Replayed: true`" + `.

| you got | do |
|---|---|
| no answer, a broken connection, 503 with ` + "`details.outcome`" + ` ` + "`unknown`" + `, or 500 | repeat **with the same key**. The payment may have been made. Never take a new key or nonce for it. If 500 stays, report ` + "`corr_id`" + ` and ask for the payment by its key (below) |
| 408, 429, or 503 without ` + "`details.outcome`" + ` | wait for ` + "`Retry-After`" + `, and longer each time, with some jitter; then repeat with the same key |
| 429 whose message says that the request has no valid token | get a new capability, then repeat with the same key: it is let through at once, and waiting alone never helps. It stands in place of 401 where strangers send too many requests |
| 400, 404, 405, 413 or 415 | change the request. The same one will never do |
| 401 | get a new capability, then repeat with the same key |
| 403 ` + "`FORBIDDEN`" + ` | get a capability that covers this action, account, asset and peer, then repeat with the same key |
| 403 ` + "`LIMITS_EXCEEDED`" + ` | ` + "`details.limit`" + ` says what helps; the same request will do later where there is ` + "`resets_at`" + `. A smaller payment is a new one, with a new key, and only once no attempt of this one is unknown |
| 409 ` + "`INSUFFICIENT_FUNDS`" + ` | credit the account, then repeat with the same key and nonce: a refusal uses up neither |
| 409 ` + "`NONCE_CONFLICT`" + ` | see below |
| 422 | the key belongs to another request of this account. You changed a payment under its key, which is a bug in the client; or you renewed the nonce of a payment that was made after all: repeat it with its first nonce and you get its receipt |

## Which nonce

Nonces run in two lanes for each account, and in each lane only upwards. Transfers and burns share the debit
lane of ` + "`from`" + `, issues have a lane of their own on ` + "`to`" + `.

- **One client that pays from an account** counts on from the last nonce that it stored. It finds the debit lane's
  last one as ` + "`nonce`" + ` in ` + "`GET /v1/balance`" + `.
- **Several clients of one account** either take turns, with one payment of the account under way at a time, or
  each takes the larger of the ` + "`next_nonce`" + ` that it heard last and its clock (in microseconds, all of them; not with
  ` + "`wallet.nonce_mode: contiguous`" + `). Payments that are under way together still overtake one another at times: the
  one that comes late gets ` + "`NONCE_CONFLICT`" + ` and goes on as below, under the same key. Who shall never meet this
  needs an account of its own.
- **An issuer** keeps the last nonce of each lane that it issues on, or takes its clock. No route tells the issue
  lane's last nonce, but its refusal does: send the issue with the nonce 1. In a new lane it is done; else
  ` + "`NONCE_CONFLICT`" + ` with ` + "`too_low`" + ` says the ` + "`next_nonce`" + `, with which you repeat it under the same key.

## What a refusal does not say

A refusal speaks of the attempt that it answers. While an earlier attempt with the same key is
unknown:

- **401, 403 and 429 on the retry say nothing about the first attempt.** Capability, limits and rate
  are judged before the sidecar looks for the key, so a payment that was made may be answered with
  403 later because its token expired or a cap was lowered. It is not "failed": ask again once the
  obstacle is gone.
- 400, 404, 405, 408, 413 and 415, and 503 without ` + "`details.outcome`" + ` say nothing about it either.
- A 200 settles it: paid. ` + "`INSUFFICIENT_FUNDS`" + ` settles it too: the ledger looked for the key first and
  did not find it, so the payment was not made. A late duplicate of the first attempt could still
  arrive, so go on with the same key, or with a higher nonce: once a higher nonce is committed, no
  duplicate of the lower one can ever be.
- ` + "`NONCE_CONFLICT`" + ` with ` + "`reason`" + ` ` + "`too_low`" + ` or ` + "`reserved`" + `: a payment of the account has spent your nonce or a
  higher one. The ledger looks for the key first, and keeps it as long as the receipt, so that payment was
  not yours: yours was not made, and never will be with this nonce. Send it again with ` + "`next_nonce`" + `
  **under the same key**: a refusal does not use up the key, and should you be wrong about the first
  attempt, the answer is 422 and not a second payment. **Never send it under a new key** while an
  attempt is unknown: a new key is a new payment.
- ` + "`NONCE_CONFLICT`" + ` with ` + "`beyond_gap`" + `: nothing was spent; go on in the same way.
- ` + "`NONCE_CONFLICT`" + ` with ` + "`lane_ended`" + `: no nonce is left, for ever. Nonces in steps of ` + "`wallet.nonce_max_gap`" + ` use
  a lane up after 2^64/` + "`nonce_max_gap`" + ` payments, 2,048 by default: who may pay from an account may end its
  lane. Where that matters, set ` + "`wallet.nonce_mode: contiguous`" + `, or a smaller ` + "`wallet.nonce_max_gap`" + `
  (2^32 is enough for seconds, and leaves 2^32 steps).

## To look without sending

` + "`GET /v1/tx?account=A&idem=K`" + ` finds the payment that ` + "`A`" + ` made under the key ` + "`K`" + ` (` + "`A`" + ` is ` + "`from`" + `, or ` + "`to`" + ` of
an issue), however long ago: the ledger keeps a key for as long as the receipt, by default for ever. It
answers with the receipt, byte for byte, or with 404.

A 404 says that the payment had not been made when the ledger was asked. It may still be under way, held
up somewhere between you and the ledger, so by itself a 404 is no leave to pay under another key. What
settles it, in this order:

1. Repeat the request under its own key, until you hold a receipt or a refusal. That is always right.
2. If you must give the payment up: spend its nonce, or a higher one of its lane, by another payment of the
   account. After that no late duplicate of it can be applied, and ` + "`GET /v1/tx?account&idem`" + ` says for
   good whether it was made.

` + "`GET /v1/balance`" + ` has the account's last debit ` + "`nonce`" + ` up to ` + "`as_of`" + `: if it is below yours, your payment had
not been made by then.

## After pruning

A ledger forgets nothing unless its operator asks for it (` + "`svc-wallet ledger --retention`" + `, 30 days at
least). Pruning removes whole payments, receipt and key together; balances and nonces stay. Of a payment
that is older than the retention

- a 404 does not say whether it was made;
- a repeat is never paid twice with its own nonce: the nonce is spent for ever, so the answer is
  ` + "`NONCE_CONFLICT`" + `;
- a repeat with a **new** nonce may be a second payment, even under the same key.

So settle what is unknown well before the retention is over, and do not renew the nonce of a payment that
is older: look into your own records, or ask the operator.

## After a restore

An operator whose ledger was damaged may have to go on from an older copy, which lacks the last payments.
Sidecars that were running then answer everything with 503 until the operator accepts the copy; afterwards,
and at once at a sidecar that was restarted meanwhile, a payment that you hold a **valid receipt** for may not be
there:

- ` + "`GET /v1/tx`" + `, by id and by key, may say 404;
- ` + "`GET /v1/balance`" + ` may show an older figure, and an older ` + "`nonce`" + `;
- a repeat may be **paid anew**: 200 without ` + "`Idempotency-Replayed`" + `, with another ` + "`txid`" + `; or it may get
  ` + "`NONCE_CONFLICT`" + ` with ` + "`too_low`" + `, where another payment has spent its nonce since.

So for what was acknowledged before a restore, what this page calls "for good" ends with it. Hold a receipt? Then do
not repeat the payment, and do not renew its nonce: keep the receipt, whose hash is the proof that it was issued
(` + "`svc-wallet verify-receipt`" + `), and go to the operator, who decides what becomes of it. Two receipts with
different ` + "`txid`" + `s under one key are a sign of a restore: report both. What is still unknown to you follows the rules
above: repeat it under its own key.
`
