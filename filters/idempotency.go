package filters

import (
	"time"

	"svc-wallet/wallet"
)

// Idempotency is the filter "idempotency": it lets one request at a time work under a key, gives
// its duplicates the same answer, and replays what it saw applied.
//
// It refuses for good only what is certain. KEY_REUSED follows from a payment that this sidecar
// saw applied under the key, never from one that is merely under way, because that one may yet
// be refused, and then the other is a first payment. What it does not know goes to the ledger.
type Idempotency struct {
	table    *claims[idemKey, idemOwner]
	receipts *receipts
}

// idemKey is the scope and the key of CONTRACT §2.
type idemKey struct {
	holder wallet.Account
	key    wallet.IdemKey
}

const maxIdemKey = 64 + 1 + 64

// append appends the key as text. Neither part has a space in it.
func (k *idemKey) append(dst []byte) []byte {
	return k.key.Append(append(k.holder.Append(dst), ' '))
}

// idemOwner tells the claimants of a key apart: another fingerprint is another request. The rules
// are the capability's and the limits' part in the ledger's judgement, so a refusal made under
// them holds for a duplicate only where its own are the same.
type idemOwner struct {
	fingerprint [32]byte
	rules       wallet.Rules
	epoch       int64 // of the receipts, when the key was claimed
}

// NewIdempotency makes a filter that knows at most entries applied payments, each for at most
// ttl and about 0.6 KiB, and at most entries more under way. shards is rounded up to a power of
// two.
func NewIdempotency(shards, entries int, ttl time.Duration) *Idempotency {
	return &Idempotency{newClaims[idemKey, idemOwner](shards, entries), newReceipts(shards, entries, ttl)}
}

// Len counts the keys known, applied or under way.
func (f *Idempotency) Len() int { return f.table.size() + f.receipts.size() }

// Forget drops every receipt that it remembers, also of payments that are under way: the ledger that
// acknowledged them has gone back, or is another one. Repeats go to the ledger.
func (f *Idempotency) Forget() { f.receipts.forget() }

// Check claims the key. Where another request has it, Check waits for that one's outcome, until
// x.Deadline. It answers
//   - the same request with Replayed and the same bytes where the first is applied, with Uncertain
//     where its outcome is unknown, and with the same refusal where that speaks of the payment
//     (shares says when); a refusal of another kind was the first one's alone, so the duplicate
//     claims the key itself;
//   - another request with KeyReused once the first is applied; if it was not, the other one
//     claims the key itself;
//   - at the deadline, the same request with Uncertain and another one with Busy;
//   - Busy where too many keys are under way.
//
// The loop ends: each turn claims the key, or answers, or has waited for a settlement.
func (f *Idempotency) Check(x *Exchange) wallet.Code {
	key := idemKey{holder: x.Payment.Holder(), key: x.Payment.Idem}
	me := idemOwner{x.Payment.Fingerprint, x.Payment.Rules, f.receipts.epoch.Load()}
	for {
		first, s := f.table.take(x, &key, &me)
		switch same := s != full && first.owner.fingerprint == me.fingerprint; {
		case s == taken:
			x.idem = first
			return f.known(x)
		case s == settled && same && shares(first, &me):
			return f.repeat(x, first)
		case s == settled && first.code.Outcome() == wallet.Applied:
			return wallet.KeyReused
		case s == timeUp && same:
			return wallet.Uncertain
		case s == timeUp || s == full:
			return x.Refuse(wallet.Busy, takenUp)
		}
	}
}

// known answers from what was applied under the key that x has claimed, and then x holds it no longer. The
// claim comes first, because a payment is kept before its own claim ends.
func (f *Idempotency) known(x *Exchange) wallet.Code {
	r, ok := f.receipts.find(x.idem.hash, &x.idem.key, x.Now)
	if !ok {
		return wallet.Pass
	}
	code := wallet.KeyReused
	if r.fingerprint == x.idem.owner.fingerprint {
		code, x.Reply, x.Seq = wallet.Replayed, append(x.Reply[:0], r.reply...), r.seq
	}
	f.release(x, code)
	return code
}

// takenUp is told where a claim could not be had in time.
const takenUp = "requests with this key or nonce are under way already; nothing was done"

// shares says whether a duplicate gets the answer of the first request. What is applied or unknown
// is so for both. A refusal that may pass by itself (a full queue, a deadline, a breaker) speaks of
// the first one's attempt only; one that a day's ceiling or an account's total had a part in speaks
// of the rules that the first one came with.
func shares(first *claim[idemKey, idemOwner], me *idemOwner) bool {
	return first.code.Outcome() != wallet.Refused || !first.code.Retryable() && first.owner.rules == me.rules
}

// repeat gives x the answer of the first request with its key.
func (f *Idempotency) repeat(x *Exchange, first *claim[idemKey, idemOwner]) wallet.Code {
	switch first.code.Outcome() {
	case wallet.Applied:
		x.Reply = append(x.Reply[:0], first.reply...)
		x.Seq = first.seq
		return wallet.Replayed
	case wallet.Refused:
		x.Refusal = first.refusal
		if first.code == wallet.LimitsExceeded {
			x.explainLimit(x.told) // anew: another capability may know more, or less
		}
		return first.code
	default:
		return wallet.Uncertain
	}
}

// Settle implements Settler. x.Reply and x.Seq hold the receipt of an applied payment. Only what is applied
// is kept: a refusal uses nothing up, and an unknown outcome is the ledger's to tell.
func (f *Idempotency) Settle(x *Exchange, code wallet.Code) {
	if x.idem == nil {
		return
	}
	if code.Outcome() == wallet.Applied {
		f.receipts.keep(x.idem, x.Reply, x.Seq, x.Now)
	}
	f.release(x, code)
}

func (f *Idempotency) release(x *Exchange, code wallet.Code) {
	c := x.idem
	x.idem = nil
	f.table.settle(c, x, code)
}
